"""The ignore file of a source directory, and its rules as BuildKit applies them.

`read_ignore_file` chooses the file. `parse_rules` reads its text into `IgnoreRules`, which tell of
each path whether it is excluded. The rest translates patterns into regular expressions.

Three places define the rules of a `.dockerignore`. This module follows all three, quirks included:

- github.com/moby/patternmatcher/ignorefile, `ReadAll`: what a line means;
- github.com/moby/patternmatcher, `MatchesUsingParentResults`: which paths a pattern matches;
- github.com/tonistiigi/fsutil, `filter.go`: which excluded directories are still walked.

Docker replaces text in a pattern to make a regular expression of Go. That expression decides, even
where it surprises: `[*]` is no literal star, `\\d` is a digit, and `[0-9]{4}` are four digits. The
`**/` of `a/**/b` does not cross a directory with a newline in its name. A pattern without `*?[]\\`,
or with `**` at one end only, is compared as plain text.

Known differences, each an error here or without effect in practice:

- A pattern whose regular expression does not compile is an error, even if there is no path.
- Rejected although Go knows them: `\\p`, `\\P`, `\\Q`, octal escapes, `\\x{...}`, and `[:^name:]`.
- Lines of more than 64 KiB are read. Docker rejects them.
- A file in UTF-16 with a byte order mark is read as that, and NULs are an error. Docker finds no
  rule in either.
- A pattern with many stars takes polynomial time. In Go it is linear.
- `**` after a byte order mark that does not start the file works. Docker matches nothing.
- A byte that is not UTF-8 (a lone surrogate in Python) matches only itself. In Go's regular
  expressions all such bytes are the same character.
"""

from __future__ import annotations

import codecs
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import dropwhile, groupby
from typing import NamedTuple

from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.runtime.files import read_file

IGNORE_FILES = (".kontextignore", ".dockerignore")
"""The names of ignore files. A directory's first one is used, and no other."""

IGNORE_FILE_BYTES = 1024 * 1024


def read_ignore_file(root: str, chosen: str = "") -> tuple[str, IgnoreRules]:
    """Return the ignore file in use, and its rules. Raises KontextError.

    It is the `chosen` file, else the first of IGNORE_FILES in the directory `root`. If there is
    none, the name is that of the file to create, and the rules are empty.
    """
    if chosen:
        rules = _read_rules(chosen)
        if rules is None:
            raise KontextError(f"the ignore file {chosen!r} does not exist")
        return chosen, rules
    for name in IGNORE_FILES:
        rules = _read_rules(os.path.join(root, name))
        if rules is not None:
            return name, rules
    return IGNORE_FILES[0], IgnoreRules()


def _read_rules(path: str) -> IgnoreRules | None:
    """Return the rules of an ignore file, None if there is no such file. Raises KontextError."""
    try:
        content = read_file(path, IGNORE_FILE_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise KontextError(f"cannot use the ignore file {path!r}: {reason_of(error)}") from error
    return parse_rules(_decode(content, path), path)


def _decode(content: bytes, path: str) -> str:
    """Return the text of an ignore file: UTF-16 if it has the byte order mark, else UTF-8.

    PowerShell writes UTF-16. Without a mark, NULs tell it, since no path has any. Raises
    KontextError.
    """
    encoding, errors = "utf-8", "surrogateescape"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, errors = "utf-16", "strict"
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise KontextError(
            f"the ignore file {path!r} is damaged: it is UTF-16 at its start only",
            hint="Save it as UTF-8.",
        ) from error
    if "\0" in text:
        raise KontextError(
            f"the ignore file {path!r} has NUL characters, as UTF-16 or UTF-32 has in another "
            "encoding",
            hint="Save it as UTF-8. In PowerShell: Set-Content -Encoding utf8",
        )
    return text


# --- The rules: what they say about a path ---


class Verdict(NamedTuple):
    """What the rules say about one path, and what its children need to know.

    A tuple, since each file has one, and a frozen dataclass takes twice as long to make.
    """

    excluded: bool
    matched: int  # bit n: group n of the rules matches the path or a parent of it


ROOT = Verdict(excluded=False, matched=0)
"""The verdict on the directory itself, the parent of all top-level entries."""


class _Kind(Enum):
    EXACT = auto()
    PREFIX = auto()
    SUFFIX = auto()
    REGEX = auto()


@dataclass(frozen=True)
class _Pattern:
    """One line of an ignore file."""

    keeps: bool  # it begins with `!`
    text: str
    kind: _Kind  # how a path is compared with `value`
    value: str


@dataclass(frozen=True)
class _Group:
    """Consecutive patterns that all exclude, or all keep, so their order has no effect."""

    keeps: bool
    bit: int
    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    regex: re.Pattern[str] | None

    def matches(self, path: str) -> bool:
        return (
            path in self.exact
            or path.startswith(self.prefixes)
            or f"/{path}".endswith(self.suffixes)  # with a slash: "**/a" matches "a"
            or (self.regex is not None and self.regex.match(path) is not None)
        )


@dataclass(frozen=True)
class IgnoreRules:
    """The parsed rules. Paths are relative, with slashes, without a leading `./`.

    A walk asks for a verdict on each entry, and passes the verdict on its directory (`ROOT` at the
    top). It enters an excluded directory only if `may_keep_below` says so. It keeps such a
    directory only as a parent of a kept entry.
    """

    groups: tuple[_Group, ...] = ()
    kept: tuple[str, ...] = ()  # the patterns with `!`, without their last stars
    keeps_anywhere: bool = False  # one of these has a wildcard
    lines: tuple[str, ...] = ()  # all patterns, in order: what the rules are

    @property
    def empty(self) -> bool:
        """Whether no path can be excluded."""
        return not self.groups

    def verdict(self, path: str, parent: Verdict) -> Verdict:
        """Return whether `path` is excluded: the last matching pattern wins.

        A pattern that matches a parent matches everything below, in its own place in the order:
        after `a`, `!a/b`, `a/b/c` the path `a/b/x` is kept (moby: MatchesUsingParentResults).
        """
        excluded, matched = False, parent.matched
        for group in self.groups:
            if matched & group.bit:
                excluded = not group.keeps
            elif excluded is group.keeps and group.matches(path):
                excluded = not group.keeps
                matched |= group.bit
        return Verdict(excluded, matched)

    def may_keep_below(self, path: str) -> bool:
        """Whether to look for kept entries below the excluded directory `path`.

        This is fsutil's rule, and it changes the result. With `**` and `!a/*/**`, the directory
        `a/b` is not entered, so `a/b/c` is excluded although the second pattern matches it.
        """
        return self.keeps_anywhere or any(f"{kept}/".startswith(f"{path}/") for kept in self.kept)


def excludes(rules: IgnoreRules, path: str) -> bool:
    """Whether the rules exclude a single path or a parent of it."""
    verdict = ROOT
    for end in [*(slash.start() for slash in re.finditer("/", path)), len(path)]:
        verdict = rules.verdict(path[:end], verdict)
    return verdict.excluded


def pattern_for(path: str) -> str:
    """Return a pattern that matches this path alone.

    A path has none if it contains a line end, or begins or ends with a space.
    """
    return re.sub(r"[*?\[\]\\!#^|{}]", r"\\\g<0>", path)


# --- From the text of an ignore file to its rules ---

# Go's unicode.IsSpace. str.strip() alone would strip the separators \x1c to \x1f as well.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def parse_rules(text: str, source: str) -> IgnoreRules:
    """Parse the text of an ignore file. Its line ends must be those of the file.

    Raises KontextError for a malformed pattern, with the file's name `source` and the line number.
    """
    patterns: list[_Pattern] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        try:
            pattern = _parse_line(line)
        except ValueError as error:
            raise KontextError(
                f"{source}:{number}: malformed pattern {line.strip(_SPACE)!r}: {error}",
                hint=r"To match *, ?, [, ] or \ itself, put a \ before it.",
            ) from None
        if pattern is not None:
            patterns.append(pattern)
    kept = tuple(_without_trailing_glob(p.text) for p in patterns if p.keeps)
    # A `!` before the first excluding pattern has no effect.
    runs = groupby(dropwhile(lambda p: p.keeps, patterns), key=lambda p: p.keeps)
    return IgnoreRules(
        groups=tuple(_group(keeps, 1 << n, run) for n, (keeps, run) in enumerate(runs)),
        kept=kept,
        keeps_anywhere=any(set(name) & set("*[]?^\\") for name in kept),
        lines=tuple("!" * pattern.keeps + pattern.text for pattern in patterns),
    )


def _parse_line(line: str) -> _Pattern | None:
    """Return the pattern of a line, None if it has none. Raises ValueError if it is malformed."""
    if line.startswith("#"):
        return None
    # Like ignorefile.ReadAll ...
    text = line.strip(_SPACE)
    bang = "!" if text.startswith("!") else ""
    text = text.removeprefix("!").strip(_SPACE)
    text = _clean(text).removeprefix("/") if text else ""
    # ... and again, like patternmatcher.New on the result: `/!a` is `!a`, and `a /` is `a`.
    text = f"{bang}{text}".strip(_SPACE)
    if not text:
        return None
    text = _clean(text)
    if text == "!":
        raise ValueError("nothing follows the !")
    return _compile(text.startswith("!"), text.removeprefix("!"))


def _clean(path: str) -> str:
    """Return the path as Go's filepath.Clean does. (normpath keeps two leading slashes.)"""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _without_trailing_glob(pattern: str) -> str:
    """Return `a` for `a/*/**`, `a/**` and `a/*` (fsutil: patternWithoutTrailingGlob)."""
    return pattern.removesuffix("/**").removesuffix("/*")


def _compile(keeps: bool, text: str) -> _Pattern:
    """Choose how a pattern is compared (moby: Pattern.compile). Raises ValueError."""
    check_syntax(text)
    if not _has_wildcard(text):
        return _Pattern(keeps, text, _Kind.EXACT, text)
    if text.startswith("**") and not _has_wildcard(text[2:]):
        return _Pattern(keeps, text, _Kind.SUFFIX, text[2:])
    if text.endswith("**") and not _has_wildcard(text[:-2]):
        return _Pattern(keeps, text, _Kind.PREFIX, text[:-2])
    return _Pattern(keeps, text, _Kind.REGEX, python_regex(go_regex(text)))


def _has_wildcard(text: str) -> bool:
    return re.search(r"[*?\[\]\\]", text) is not None


def _group(keeps: bool, bit: int, patterns: Iterable[_Pattern]) -> _Group:
    values: dict[_Kind, list[str]] = {kind: [] for kind in _Kind}
    for pattern in patterns:
        values[pattern.kind].append(pattern.value)
    regexes = values[_Kind.REGEX]
    return _Group(
        keeps,
        bit,
        exact=frozenset(values[_Kind.EXACT]),
        prefixes=tuple(values[_Kind.PREFIX]),
        suffixes=tuple(values[_Kind.SUFFIX]),
        regex=re.compile("|".join(regexes), re.ASCII) if regexes else None,
    )


# --- The syntax check: moby calls Go's filepath.Match(pattern, ".") for its error alone ---

_MATCH_CHAR = r"(?:\\.|[^\\\]-])"

_MATCH_CLASS = rf"\[(?:\^|(?!\^))(?:{_MATCH_CHAR}(?:-{_MATCH_CHAR})?)+\]"

_MATCH_PART = rf"(?s:{_MATCH_CLASS}|\\.|[^*\\\[])*"


def check_syntax(pattern: str) -> None:
    """Raise ValueError where filepath.Match(pattern, ".") returns an error.

    Match splits the pattern at its stars, and stops at the first part that does not match ".". Only
    the compiler of regular expressions checks the parts after it, and it allows more. So `[-_]` is
    malformed, but `old*[-_]` is not.
    """
    part, rest = _match_part(pattern)
    if _matches_dot(part):
        _match_part(rest)


def _match_part(pattern: str) -> tuple[str, str]:
    """Split a pattern before its next star. Raises ValueError if the first part is malformed."""
    pattern = pattern.lstrip("*")
    part = _prefix(_MATCH_PART, pattern)
    rest = pattern[len(part) :]
    if rest and not rest.startswith("*"):
        raise ValueError(f"{rest!r} is not complete" if rest == "\\" else f"a bad class {rest!r}")
    return part, rest


def _matches_dot(part: str) -> bool:
    """Whether a well-formed part without stars matches "." completely."""
    if not part.startswith("["):
        return part in (".", r"\.", "?")
    if _prefix(_MATCH_CLASS, part) != part:
        return False
    ranges = re.findall(rf"({_MATCH_CHAR})(?:-({_MATCH_CHAR}))?", part[1:-1].removeprefix("^"))
    return any(low[-1] <= "." <= (high or low)[-1] for low, high in ranges) != (part[1] == "^")


def _prefix(regex: str, text: str) -> str:
    """Return the start of `text` that `regex` matches, "" if there is none."""
    match = re.match(regex, text)
    return match.group() if match else ""


# --- From Docker's pattern to Go's regular expression, and from that to Python's ---

_GO_ESCAPED = r"\\(?:[\x00-/:-@\[-`{-\x7f]|[afnrtv]|x[0-9A-Fa-f]{2})"

_GO_CHAR = rf"(?:[^\\]|{_GO_ESCAPED})"

_GO_SETS = {  # in Python, between brackets; \d, \D, \w and \W are the same with re.ASCII
    r"\d": r"\d",
    r"\D": r"\D",
    r"\w": r"\w",
    r"\W": r"\W",
    r"\s": r"\t\n\f\r ",  # without \v
    r"\S": r"\S\v",
    "[:alnum:]": "0-9A-Za-z",
    "[:alpha:]": "A-Za-z",
    "[:ascii:]": r"\x00-\x7f",
    "[:blank:]": r"\t ",
    "[:cntrl:]": r"\x00-\x1f\x7f",
    "[:digit:]": "0-9",
    "[:graph:]": "!-~",
    "[:lower:]": "a-z",
    "[:print:]": " -~",
    "[:punct:]": r"!-/:-@\[-`{-~",
    "[:space:]": r"\t-\r ",
    "[:upper:]": "A-Z",
    "[:word:]": r"\w",
    "[:xdigit:]": "0-9A-Fa-f",
}

_GO_SET = "|".join(map(re.escape, _GO_SETS))

_GO_RANGE = rf"({_GO_CHAR})(?:-(?!\])({_GO_CHAR})|(?!-[^\]]))"  # "-" is literal only before "]"

_GO_ITEM = rf"(?:({_GO_SET})|(?!\[:.*:\]){_GO_RANGE})"

_GO_CLASS = rf"\[(?:\^|(?!\^)){_GO_ITEM}(?:(?!\]){_GO_ITEM})*\]"  # a first "]" is literal

_GO_REPEAT = r"\{(0|[1-9][0-9]*)(?:,(0|[1-9][0-9]*)?)?\}"

_GO_TOKEN = rf"(?s:{_GO_CLASS}|{_GO_REPEAT}|{_GO_ESCAPED}|\\[dDsSwWAbBz]|[^\\\[])"


def go_regex(pattern: str) -> str:
    """Replace Docker's wildcards, inside brackets too (moby: Pattern.compile).

    moby escapes the characters that are special in regular expressions, but misses `|{}`. So
    `[0-9]{4}` are four digits, and `a|b*` matches a path that starts with `a`, or whose last name
    has a `b`.
    """

    def replace(match: re.Match[str]) -> str:
        token = match.group()
        if token.startswith("**"):
            return ".*" if match.end() == len(pattern) else "(.*/)?"
        if token in ("*", "?"):
            return "[^/]*" if token == "*" else "[^/]"
        return token if token.startswith("\\") else f"\\{token}"

    pattern = pattern.removeprefix("\ufeff")  # like Go's text/scanner
    return "^" + re.sub(r"(?s:\\.|\*\*/?|[*?.+()$])", replace, pattern) + "$"


def python_regex(go: str) -> str:
    """Translate a result of `go_regex` for re.match with re.ASCII. Raises ValueError."""
    tokens = [""]
    position = 0
    while position < len(go):
        token = _prefix(_GO_TOKEN, go[position:])
        if not token:
            raise ValueError(f"not a regular expression: {go[position:].removesuffix('$')!r}")
        tokens.append(_python_token(token, previous=tokens[-1]))
        position += len(token)
    return "".join(tokens)


_ALTERNATIVE = "|(?s:.*)"  # each anchor belongs to one branch, and Go searches: re.match does not

_PYTHON_TOKENS = {
    r"\s": r"[\t\n\f\r ]",
    r"\S": r"[\S\v]",
    r"\A": r"(?:^)",  # in a group, so that it can be repeated, as Go allows
    r"^": r"(?:^)",
    r"\b": r"(?:\b)",
    r"\B": r"(?:\B)",
    r"\z": r"(?:\Z)",
    "$": r"\Z",
    "{": r"\{",
    "|": _ALTERNATIVE,
}


def _python_token(token: str, previous: str) -> str:
    if token.startswith("["):
        caret = "^" if token[1] == "^" else ""
        items = re.finditer(f"(?s:{_GO_ITEM})", token[1 + len(caret) : -1])
        return f"[{caret}{''.join(map(_python_item, items))}]"
    if repeat := re.fullmatch(_GO_REPEAT, token):
        if not int(repeat[1]) <= int(repeat[2] or repeat[1]) <= 1000:  # Go's limit
            raise ValueError(f"bad repetition {token!r}")
        if previous in ("*", "?", _ALTERNATIVE) or previous.startswith("{"):
            raise ValueError(f"nothing to repeat before {token!r}")
    return _PYTHON_TOKENS.get(token, token)


def _python_item(item: re.Match[str]) -> str:
    """Translate one item between brackets: a set, a range, or a character."""
    named, low, high = item.groups()
    if named:
        return _GO_SETS[named]
    if not high:
        return _literal(low)
    try:
        re.compile(f"[{_literal(low)}-{_literal(high)}]")
    except re.error:
        raise ValueError(f"{low}-{high} runs backwards") from None
    return f"{_literal(low)}-{_literal(high)}"


def _literal(char: str) -> str:
    """Return one character of Go for a place between brackets in Python."""
    return char if char.startswith("\\") else re.escape(char)
