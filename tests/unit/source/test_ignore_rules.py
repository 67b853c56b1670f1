"""Which ignore file is used, and what its rules mean: in tables, and compared with BuildKit."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext_plugin.errors import KontextError
from kontext_plugin.source.ignore_rules import (
    IGNORE_FILE_BYTES,
    IGNORE_FILES,
    ROOT,
    IgnoreRules,
    Verdict,
    excludes,
    parse_rules,
    pattern_for,
    read_ignore_file,
)

ORACLE = Path(__file__).parents[2] / "oracle"

Tree = dict[str, Optional["Tree"]]  # what is below each name; None: a file
Oracle = Callable[[str, Tree], dict[str, Any]]


def verdict(rules: IgnoreRules, path: str) -> Verdict:
    """The verdict on `path`, with its parents asked first."""
    result, parts = ROOT, path.split("/")
    for depth in range(1, len(parts) + 1):
        result = rules.verdict("/".join(parts[:depth]), result)
    return result


def kept(rules: IgnoreRules, tree: Tree, prefix: str = "", parent: Verdict = ROOT) -> list[str]:
    """Walk like the scan: enter an excluded directory only if something below may be kept."""
    result: list[str] = []
    for name, children in tree.items():
        path = prefix + name
        current = rules.verdict(path, parent)
        below: list[str] = []
        if children is not None and (not current.excluded or rules.may_keep_below(path)):
            below = kept(rules, children, f"{path}/", current)
        if below or not current.excluded:
            result += [path, *below]
    return result


def entries(tree: Tree, prefix: str = "") -> Iterator[dict[str, Any]]:
    for name, children in tree.items():
        yield {"path": prefix + name, "dir": children is not None}
        yield from entries(children or {}, f"{prefix}{name}/")


def plant(paths: list[list[str]]) -> Tree:
    """The tree of these paths; a path ending in "" is a directory."""
    tree: Tree = {}
    for *parents, name in paths:
        directory = tree
        for parent in parents:
            below = directory.get(parent)
            directory[parent] = directory = {} if below is None else below
        if name:
            directory.setdefault(name)
    return tree


# --- The file ---


@pytest.mark.parametrize(
    ("names", "used"),
    [
        ((), ".kontextignore"),
        ((".dockerignore",), ".dockerignore"),
        ((".kontextignore",), ".kontextignore"),
        ((".kontextignore", ".dockerignore"), ".kontextignore"),
    ],
    ids=["none", "docker's", "ours", "both"],
)
def test_the_first_ignore_file_is_used_and_no_other(
    names: tuple[str, ...], used: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text(f"of{name}")
    file, rules = read_ignore_file(str(tmp_path))
    assert file == used
    for name in IGNORE_FILES:
        assert verdict(rules, f"of{name}").excluded is (name == used and name in names)


def test_an_empty_ignore_file_is_used(tmp_path: Path) -> None:
    (tmp_path / ".kontextignore").touch()
    (tmp_path / ".dockerignore").write_text("a")
    assert read_ignore_file(str(tmp_path)) == (".kontextignore", IgnoreRules())


def test_the_chosen_ignore_file_is_used_and_no_other(tmp_path: Path) -> None:
    (tmp_path / ".kontextignore").write_text("a")
    chosen = tmp_path / "chosen"
    chosen.write_text("b")
    file, rules = read_ignore_file(str(tmp_path), str(chosen))
    assert file == str(chosen)
    assert [verdict(rules, path).excluded for path in "ab"] == [False, True]


def test_a_chosen_ignore_file_must_exist(tmp_path: Path) -> None:
    (tmp_path / ".kontextignore").write_text("a")
    with pytest.raises(KontextError, match="'gone' does not exist"):
        read_ignore_file(str(tmp_path), "gone")


ENCODINGS = {
    "UTF-8": ("utf-8", b""),
    "UTF-8 with a mark": ("utf-8", codecs.BOM_UTF8),
    "UTF-16 LE": ("utf-16-le", codecs.BOM_UTF16_LE),
    "UTF-16 BE": ("utf-16-be", codecs.BOM_UTF16_BE),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", [*IGNORE_FILES, "chosen"])
@pytest.mark.parametrize(("encoding", "mark"), ENCODINGS.values(), ids=ENCODINGS)
def test_an_ignore_file_is_read_in_the_encoding_that_it_has(
    encoding: str, mark: bytes, name: str, end: str, tmp_path: Path
) -> None:
    """moby/moby#23221: PowerShell wrote it in UTF-16, and no rule was in force."""
    text = end.join(["*.log", "größe", "日本", "!kept.log", ""])
    (tmp_path / name).write_bytes(mark + text.encode(encoding))
    _, rules = read_ignore_file(str(tmp_path), str(tmp_path / name) if name == "chosen" else "")
    excluded = [
        path for path in ("a.log", "kept.log", "größe", "日本", "a") if excludes(rules, path)
    ]
    assert excluded == ["a.log", "größe", "日本"]


@pytest.mark.parametrize(
    "content",
    [
        "*.log\n".encode("utf-16-le"),
        "*.log\n".encode("utf-16-be"),
        "*.log\n".encode("utf-32"),
        b"a\n\0\n",
        codecs.BOM_UTF16_LE + b"a",
        codecs.BOM_UTF16_LE + b"\x00\xd8",
    ],
    ids=["UTF-16 LE", "UTF-16 BE", "UTF-32", "a NUL", "half a character", "half a pair"],
)
def test_another_encoding_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_bytes(content)
    with pytest.raises(KontextError, match=r"ignore file .*\.dockerignore") as raised:
        read_ignore_file(str(tmp_path))
    assert "Save it as UTF-8" in raised.value.hint


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (Path.mkdir, "not a regular file|Is a directory"),
    "a FIFO": (os.mkfifo, "not a regular file"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "too large": (lambda path: path.write_bytes(b"#" * (IGNORE_FILE_BYTES + 1)), "larger than"),
    "malformed": (lambda path: path.write_text("a\n[\n"), r":2: malformed pattern"),
}


@pytest.mark.parametrize("name", IGNORE_FILES)
@pytest.mark.parametrize(("make", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_ignore_file_that_cannot_be_used_is_an_error(
    make: Callable[[Path], object], message: str, name: str, tmp_path: Path
) -> None:
    """The next one must not be used in its place."""
    make(tmp_path / name)
    with pytest.raises(KontextError, match=message) as raised:
        read_ignore_file(str(tmp_path))
    assert name in raised.value.message


def test_a_dangling_link_is_no_ignore_file(tmp_path: Path) -> None:
    (tmp_path / ".kontextignore").symlink_to("gone")
    (tmp_path / ".dockerignore").write_text("a")
    assert read_ignore_file(str(tmp_path))[0] == ".dockerignore"


# --- The meaning of its rules ---

MATCHES = {  # id: (ignore file, excluded paths, paths that are not)
    "a name": ("a", ["a", "a/b"], ["b", "ab", "b/a", "A"]),
    "a path": ("a/b", ["a/b", "a/b/c"], ["a", "b", "b/a/b"]),
    "star": ("*.o", ["x.o", ".o", "x\ny.o"], ["x.oo", "xo", "a/x.o"]),
    "star stays in its directory": ("a/*/c", ["a/b/c"], ["a/c", "a/b/b/c"]),
    "star alone": ("*", ["a", ".a", "a/b"], []),
    "question mark": ("a?", ["ab", "aé", "a\n", "a\udcff"], ["a", "abc"]),
    "no question mark for a slash": ("a?b", ["axb"], ["a/b"]),
    "leading two stars": ("**/a", ["a", "b/a", "b/b/a", "a/c", "b\nb/a"], ["ba", "b/ba"]),
    "two stars and a name": ("**a", ["a", "ba", "b/ba"], ["ab"]),
    "two stars alone": ("**", ["a", "a/b", "a\nb"], []),
    "trailing two stars": ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
    "a name and two stars": ("a**", ["a", "ab", "ab/c"], ["b", "b/a"]),
    "two stars inside": ("a/**/c", ["a/c", "a/b/c", "a/b/b/c"], ["ac", "a/bc", "a/x\ny/c"]),
    "two stars twice": ("**/a/**", ["a/b", "b/a/b"], ["a", "b/a"]),
    "three stars": ("***", ["a", "a/b"], []),
    "star after two": ("**/*.o", ["x.o", "a/x.o", "a/b/x.o"], ["x.oo"]),
    "class": ("[ab]", ["a", "b"], ["c", "ab", "^"]),
    "class with a range": ("[a-c]x", ["ax", "cx"], ["dx", "-x", "x"]),
    "class negated": ("[^a-c]", ["d", "\n", "^"], ["a", "b"]),
    "class with an exclamation mark": ("[!a]", ["!", "a"], ["b"]),
    "class with escapes": (r"[\]\-\\a]", ["]", "-", "\\", "a"], ["b"]),
    "class with special characters": ("a[.$&~|(]", ["a.", "a$", "a&", "a~", "a|", "a("], ["a\\"]),
    "class with a slash": ("a[/]b", ["a/b"], ["ab"]),
    "class with a star, as Go's regexp": ("[*]", ["]", "[]", "/^[]"], ["*", "a"]),
    "class by name": ("[[:digit:]]x", ["1x"], ["ax", "٣x"]),
    "bracket that closes nothing": ("a]*", ["a]", "a]b"], ["a"]),
    "escape": (r"\*", ["*"], ["a"]),
    "escaped exclamation mark": (r"\!a", ["!a"], ["a"]),
    "escaped number sign": (r"\#a", ["#a"], ["a"]),
    "escaped backslash": (r"a\\b", ["a\\b"], ["ab"]),
    "escaped letter, as Go's regexp": (r"bin\Debug", ["binDebug", "bin!ebug"], ["bin/Debug"]),
    "Go's space is narrower": (r"a\sb", ["a b", "a\tb"], ["a\vb", "a\xa0b"]),
    "and its complement wider": (r"[\S]", ["\v", "a"], [" ", "\t"]),
    "literal characters of regexps": ("a.b+(c)${d}*", ["a.b+(c)${d}"], ["aXb+(c)${d}", "a.b"]),
    "bar and braces without a wildcard": ("a|b{2}", ["a|b{2}"], ["a", "bb"]),
    "bar, as Go's regexp": ("a|b*", ["a", "ax", "xb", "x/b", "a\n"], ["x", "x/a"]),
    "braces, as Go's regexp": ("[0-9]{2,}.log", ["12.log", "123.log"], ["1.log", "1{2,}.log"]),
    "braces that are no repetition": ("{,2}a{b,c}*", ["{,2}a{b,c}"], ["ab", "aa"]),
    "caret, as Go's regexp": ("^*", ["a", "^a"], []),
    "nothing after the end": ("*a", ["a"], ["a\n"]),
    "last match wins": ("a\n!a\na", ["a"], []),
    "kept again": ("*\n!a", ["b"], ["a", "a/b"]),
    "kept as a whole": ("**\n!a", ["b", "b/a"], ["a", "a/b", "a/b/b"]),
    "kept below": ("a\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
    "kept below a wildcard": ("a\n!**/*.md", ["a", "a/b", "a/b/c"], ["a/x.md", "a/b/x.md"]),
    "excluded below what is kept": ("a\n!a/b\na/b/c", ["a/x", "a/b/c"], ["a/b", "a/b/x"]),
    "a parent's match keeps its turn": ("a\n!a/b\na/b/c", ["a", "a/b/c"], ["a/b", "a/b/x"]),
    "nothing to keep yet": ("!a\na", ["a"], []),
    "spaces around": (" \t a b \u3000", ["a b"], ["a"]),
    "no space for Go": ("a\x1f", ["a\x1f"], ["a"]),
    "spaces after the exclamation mark": ("a\n! a ", [], ["a"]),
    "spaces around what is left of slashes": ("/ a\nb /\n/ /", ["a", "b"], [" a", "b ", " "]),
    "comment": ("#a\n # b", ["# b"], ["#a", "a"]),
    "empty lines": ("\n \n\na", ["a"], [" "]),
    "CRLF": ("a\r\n!b\r\nc\r\n", ["a", "c"], ["b", "a\r"]),
    "a carriage return ends no line": ("a\rb", ["a\rb"], ["a", "b"]),
    "byte order mark": ("\ufeffa", ["a"], ["\ufeffa"]),
    "byte order mark before a comment": ("\ufeff#a", [], ["a", "#a"]),
    "leading slash": ("/a\n!/a/b", ["a"], ["b/a", "a/b"]),
    "leading slashes": ("//a", ["a"], []),
    "leading dot": ("./a", ["a"], ["b/a"]),
    "dots": ("a/./b/../c", ["a/c"], ["a/b"]),
    "outside": ("../a", [], ["a"]),
    "outside of the root": ("/../a", ["a"], []),
    "trailing slash": ("a/", ["a", "a/b"], ["b/a"]),
    "the root": (".\n/\n./\n..\n!.", [], ["a"]),
    "exclamation mark behind a slash": ("a\n/!a", [], ["a"]),
    "two exclamation marks": ("*\n!!a", ["a"], ["!a"]),
    "a bad class after a class": ("[^.]*[-_]x", ["a-x", "a1_x"], [".-x", "ax"]),
    "a bad class that Go does not see": ("old*[-_]x", ["old-x", "old1_x"], ["oldx"]),
    "lone surrogate": ("a\udcff", ["a\udcff"], ["a\udcfe"]),
}

MALFORMED = {
    "exclamation mark": "!",
    "exclamation mark and space": "! ",
    "exclamation mark and slash": "!/",
    "open class": "[",
    "open class after a name": "a[",
    "open class after a star": "a*[",
    "open negated class after a star": "a*[^]",
    "bad class after what matches a dot": "?*[-a]",
    "bad class after a class with a dot": "[+-/]*[-a]",
    "bad class after a class without it": "[^a]*[-a]",
    "negated class of a dash": "[^-a]",
    "empty class": "[]",
    "empty negated class": "[^]",
    "class of a dash": "[-a]",
    "class ending in a dash": "[a-]",
    "backwards": "[b-a]*",
    "trailing backslash": "a\\",
    "trailing backslash before a slash": "a\\/",
    "unknown escape": r"a\yb",
    "escaped letter outside of ASCII": r"\é",
    "unknown class": "[[:letter:]]",
    "escape as the end of a range": r"[a-\d]",
    "kept": "!a[",
    "repetition of a star": "*{2}",
    "repetition of a repetition": "?{2}{3}",
    "repetition of nothing": "a*|{2}",
    "repetition backwards": "?{2,1}",
    "repetition too long": "?{1001}",
}

REJECTED = {  # though Go knows them
    "Unicode class": r"\pL",
    "quotation": r"\Qa\E",
    "octal": r"\101",
    "hexadecimal in braces": r"\x{61}",
    "class by name negated": "[[:^digit:]]",
}


@pytest.mark.parametrize(("text", "excluded", "included"), MATCHES.values(), ids=MATCHES)
def test_a_rule_excludes_these_paths_and_no_others(
    text: str, excluded: list[str], included: list[str]
) -> None:
    rules = parse_rules(text, "f")

    assert [p for p in excluded if not verdict(rules, p).excluded] == []
    assert [p for p in included if verdict(rules, p).excluded] == []


@pytest.mark.parametrize("pattern", [*MALFORMED.values(), *REJECTED.values()])
def test_a_malformed_pattern_is_an_error_with_file_and_line(pattern: str) -> None:
    with pytest.raises(KontextError, match=r"^src/\.dockerignore:3: malformed pattern '") as caught:
        parse_rules(f"a\n# [\n{pattern}\nb", "src/.dockerignore")

    assert repr(pattern.strip()) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "empty"),
    [("", True), ("#a\n\n \r\n", True), ("!a\n!b", True), ("a", False), ("!a\nb", False)],
    ids=repr,
)
def test_rules_that_exclude_nothing_are_empty(text: str, empty: bool) -> None:
    assert parse_rules(text, "f").empty is empty


@pytest.mark.parametrize(
    ("text", "directory", "expected"),
    [
        ("a", "a", False),
        ("*\n!a/b/c", "a", True),
        ("*\n!a/b/c", "a/b", True),
        ("*\n!a/b/c", "a/b/c", True),
        ("*\n!a/b/c", "a/b/c/d", False),
        ("*\n!ab", "a", False),
        ("*\n!a/**", "a", True),
        ("*\n!a/**", "b", False),
        ("*\n!a/*/**", "a/b", False),  # fsutil goes by the name before the globs
        ("*\n!a/*/b", "b", True),  # any other wildcard: fsutil looks everywhere
        ("*\n!a\\b", "b", True),
        ("!*.md\nb", "b", True),
    ],
)
def test_an_excluded_directory_is_entered_where_something_may_be_kept(
    text: str, directory: str, expected: bool
) -> None:
    assert parse_rules(text, "f").may_keep_below(directory) is expected


def test_the_excluded_parent_of_a_kept_path_is_kept() -> None:
    tree = plant([["a", "b", "c"], ["a", "b", "d"], ["a", "x", "y"], ["e", "f"]])

    assert kept(parse_rules("*\n!a/b/c", "f"), tree) == ["a", "a/b", "a/b/c"]


@pytest.mark.parametrize(
    ("text", "path", "excluded"),
    [
        ("a", "a", True),
        ("a", "a/b/c", True),
        ("a", "b", False),
        ("a\n!a/b", "a/b/c", False),
        ("a\n!a/b", "a/c", True),
        ("*.pem", "x.pem", True),
        ("*.pem", "a/x.pem", False),
    ],
)
def test_a_single_path_is_excluded_with_its_parents(text: str, path: str, excluded: bool) -> None:
    assert excludes(parse_rules(text, "f"), path) is excluded


@given(
    path=st.lists(st.text("ab*?[]\\!#^|{2}$.- é", min_size=1), min_size=1, max_size=3).map("/".join)
)
def test_the_pattern_for_a_path_matches_it_alone(path: str) -> None:
    parts = path.split("/")
    if path != path.strip() or not {".", ".."}.isdisjoint(parts):  # no pattern can say these
        return
    rules = parse_rules(pattern_for(path), "f")
    assert excludes(rules, path)
    for other in ("a" if path != "a" else "b", f"{path}x", f"x{path}"):
        assert not excludes(rules, other)


# --- Compared with BuildKit ---


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """Ask the Go program in tests/oracle, which is BuildKit's own libraries."""
    program = tmp_path_factory.mktemp("oracle") / "oracle"
    go = shutil.which("go")
    if go is None:
        _unavailable("Go is not installed")
    built = subprocess.run(
        [go, "build", "-o", program, "."], cwd=ORACLE, capture_output=True, text=True
    )
    if built.returncode != 0:
        _unavailable(f"the oracle does not build: {built.stderr}")

    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        questions, answers = process.stdin, process.stdout

        def ask(text: str, tree: Tree) -> dict[str, Any]:
            question = {"ignore": text, "tree": list(entries(tree))}
            print(json.dumps(question), file=questions, flush=True)
            answer: dict[str, Any] = json.loads(answers.readline())
            return answer

        yield ask


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def assert_same(text: str, tree: Tree, oracle: Oracle) -> None:
    """Errors, single verdicts and the result of a walk must be the same as in BuildKit."""
    answer = oracle(text, tree)
    try:
        rules = parse_rules(text, "f")
    except KontextError as error:
        assert answer["error"], f"BuildKit accepts it: {error}"
        return
    assert not answer["error"], f"accepted, but BuildKit says: {answer['error']}"
    paths = [entry["path"] for entry in entries(tree)]
    assert [verdict(rules, path).excluded for path in paths] == answer["excluded"]
    assert kept(rules, tree) == answer["kept"]


def _surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


@pytest.mark.parametrize(("text", "excluded", "included"), MATCHES.values(), ids=MATCHES)
def test_buildkit_agrees_with_the_table(
    text: str, excluded: list[str], included: list[str], oracle: Oracle
) -> None:
    paths = [p.split("/") for p in excluded + included if not _surrogates(text + p)]
    assert_same(text, plant([p for p in paths if all(p)]), oracle)


@pytest.mark.parametrize("pattern", MALFORMED.values(), ids=MALFORMED)
def test_buildkit_rejects_malformed_patterns(pattern: str, oracle: Oracle) -> None:
    assert oracle(pattern, {})["error"]


@pytest.mark.parametrize("pattern", REJECTED.values(), ids=REJECTED)
def test_buildkit_accepts_what_only_kontext_rejects(pattern: str, oracle: Oracle) -> None:
    assert not oracle(pattern, {})["error"]


NAMES = st.sampled_from(["a", "b", "ab", "a b", ".a", "!a", "#", "a\nb", "\\", "*", "[a]"])
TREES = st.lists(
    st.lists(NAMES, min_size=1, max_size=3).flatmap(
        lambda path: st.sampled_from([[*path, "a"], [*path, "b"], [*path, ""]])
    ),
    max_size=12,
).map(plant)

COMMON = ["*", "**", "a", "b", "a/b", "a/*", "a/**", "**/a", "**/b", "*/ab", "[^a]", "?", ".a", "#"]
PARTS = ["a", "b", "ab", "*", "**", "?", "[a-b]", "[^a]", "/", "/", "/", ".", "..", "\\", "#", " "]
LINES = st.tuples(
    st.sampled_from(["", "", "", "", "!", "!", "!", "/", "!/", "**/", "#", " ", "\ufeff#"]),
    st.sampled_from(COMMON) | st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join),
    st.sampled_from(["", "", "", "", "/", "/**", "/*", "\r", " "]),
).map("".join)
FILES = st.lists(LINES, min_size=1, max_size=5).map("\n".join)


@pytest.mark.slow
@settings(deadline=None, max_examples=800)
@given(text=FILES, tree=TREES)
def test_any_rules_mean_the_same_in_buildkit(text: str, tree: Tree, oracle: Oracle) -> None:
    assert_same(text, tree, oracle)


SYNTAX = [
    *"ab*?[]^-!.$|(){}+/é&~",
    *(
        "[",
        "[^",
        "]",
        "**",
        "[a-b]",
        "[:alpha:]",
        "[:space:]",
        "[:no:]",
        ":]",
        "[*]",
        "[^b]*",
        "a*",
    ),
    *(rf"\{c}" for c in "abcdDefnrsStvwWzAB*?[]^-!.$é \\"),
    *(r"\x61", "\\", "{2}", "{1,2}", "{1,}", "{,1}", "{2,1}", "{01}"),
]
STRANGE: Tree = dict.fromkeys(
    [
        *"!#$&*+-1?A[\\]^_{~abcdé٣\t\v\n\f\r\a \u3000\ufffd",
        *("[]", "[^]]", "^a", "{2}", "a$", "a-b", "a.", "a]", "a^", "aa", "aab", "ab", "abc"),
        *("a{,1}", "a|b", "b]", "ba", "bb", "bé", "é]", "a\n", "a "),
    ]
)
STRANGE |= {"a": dict(STRANGE), "é": dict(STRANGE)}


@pytest.mark.slow
@settings(deadline=None, max_examples=800)
@given(pattern=st.lists(st.sampled_from(SYNTAX), min_size=1, max_size=7).map("".join))
def test_any_pattern_means_the_same_in_buildkit(pattern: str, oracle: Oracle) -> None:
    assert_same(pattern, STRANGE, oracle)
