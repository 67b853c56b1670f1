"""The scan: what it finds, skips and rejects, and the filters that it applies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import unprivileged
from support.models import PLAIN_NAMES, STRANGE_NAMES, described, trees
from support.trees import Directory, File, Link, Tree, plant

from kontext_plugin.errors import KontextError
from kontext_plugin.manifest import Lineage, Manifest, decode, encode, read_root
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import scan as scans
from kontext_plugin.source.entries import MAX_PATH, SpecialFile
from kontext_plugin.source.filters import Decision, Filters, NotIgnored
from kontext_plugin.source.ignore_rules import ROOT, Verdict, parse_rules
from kontext_plugin.source.scan import Scan
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.steps import Steps

DIR, X = Directory(), File(b"x")
RUN = File(b"x", executable=True)

Scanner = Callable[..., Scan]


@given(tree=trees(st.one_of(PLAIN_NAMES, STRANGE_NAMES)))
def test_a_scan_finds_the_whole_tree(tree: Tree, workers: Workers) -> None:
    with tempfile.TemporaryDirectory() as root:
        plant(Path(root), tree)
        found = scans.scan(root, Filters(), Snapshot(), workers, Steps())
    assert found.tree == described(tree)
    assert (found.special_files, found.git_entries) == ((), ())
    assert found.hashed == len(found.tree.sizes)


def test_a_scanned_tree_is_valid_in_a_manifest(scan: Scanner, root: Path) -> None:
    plant(root, {"d": DIR, "d/\\": X, "é": DIR, "é/run": RUN, "link": Link("../../lib/x")})
    tree = scan().tree
    document = encode(Manifest(tree, Lineage()))
    assert decode(read_root(document), {}).tree == tree


# --- The filters ---

NESTED: Tree = {
    "a": DIR, "a/b": DIR, "a/b/c": X, "a/b/d": X, "a/e": X, "f": X, "empty": DIR, "l": Link("f"),
}  # fmt: skip

RULES: dict[str, tuple[list[str], set[str]]] = {
    "nothing": ([], set(NESTED)),
    "one file": (["f"], NESTED.keys() - {"f"}),
    "one tree": (["a"], {"f", "empty", "l"}),
    "a link": (["l"], NESTED.keys() - {"l"}),
    "all": (["*"], set()),
    "all but a file keeps its parents": (["*", "!a/b/c"], {"a", "a/b", "a/b/c"}),
    "all but a tree": (["*", "!a/b"], {"a", "a/b", "a/b/c", "a/b/d"}),
    "all but an empty directory": (["*", "!empty"], {"empty"}),
    "all but what is not there keeps no parents": (["*", "!a/b/gone"], set()),
    "a tree but one file": (["a", "!a/e"], {"a", "a/e", "f", "empty", "l"}),
    "a pattern below": (["**/c"], NESTED.keys() - {"a/b/c"}),
}


@pytest.mark.parametrize(("rules", "expected"), RULES.values(), ids=RULES)
def test_the_tree_has_what_the_ignore_rules_keep(
    rules: list[str], expected: set[str], scan: Scanner, root: Path
) -> None:
    plant(root, NESTED)
    assert scan(*rules).tree == described({path: NESTED[path] for path in expected})


def test_ignored_paths_are_neither_opened_nor_checked(scan: Scanner, root: Path) -> None:
    plant(root, {"a": DIR, "a/.wh.x": X, "a/out": Link("../../../../../.."), ".wh.y": X, "z": X})
    os.mkfifo(root / "a/fifo")
    found = scan("a", ".wh.*")
    assert found.tree == described({"z": X})
    assert found.special_files == ()


GIT: Tree = {
    ".git": DIR, ".git/HEAD": X, ".gitignore": X, "m": DIR, "m/.git": File(b"gitdir: ../.git"),
    "n": DIR, "n/.git": Link("x"), "n/.github": DIR,
}  # fmt: skip


def test_git_entries_are_skipped_and_listed(scan: Scanner, root: Path) -> None:
    plant(root, GIT)
    found = scan()
    assert {*found.git_entries} == {".git", "m/.git", "n/.git"}
    assert found.tree.paths() == {".gitignore", "m", "n", "n/.github"}


def test_git_entries_are_kept_on_request(scan: Scanner, root: Path) -> None:
    plant(root, GIT)
    found = scan(keep_git=True)
    assert found.git_entries == ()
    assert found.tree == described(GIT)


def test_git_entries_that_the_ignore_rules_exclude_are_skipped(scan: Scanner, root: Path) -> None:
    plant(root, GIT)
    found = scan("**/.git", "!n/.git", keep_git=True)
    assert found.git_entries == ()
    assert found.tree == described(
        {path: GIT[path] for path in GIT if ".git" not in path.split("/")} | {"n/.git": Link("x")}
    )


def test_the_excluded_directory_is_skipped_and_no_file_of_its_name(
    root: Path, workers: Workers
) -> None:
    plant(root, {"a/cache/f": X, "cache": X, "b/cache/f": X})
    found = scans.scan(str(root), Filters(excluded="a/cache"), Snapshot(), workers, Steps())
    assert found.tree.paths() == {"a", "b", "b/cache", "b/cache/f", "cache"}
    found = scans.scan(str(root), Filters(excluded="cache"), Snapshot(), workers, Steps())
    assert "cache" in found.tree


TRACKED = NotIgnored(frozenset({"a/f", "link", "new"}), frozenset({"a"}))
KEEP, ENTER, SKIP, SKIP_GIT = Decision

DECISIONS: dict[str, tuple[Filters, str, bool, Decision]] = {
    "no filters, a file": (Filters(), "a/f", False, KEEP),
    "no filters, a directory": (Filters(), "a", True, KEEP),
    "an excluded file": (Filters(parse_rules("a/f", "r")), "a/f", False, SKIP),
    "an excluded directory": (Filters(parse_rules("a", "r")), "a", True, SKIP),
    "an excluded directory that may have kept files": (
        Filters(parse_rules("a\n!a/f", "r")), "a", True, ENTER),
    "a file in the place of that directory": (
        Filters(parse_rules("a\n!a/f", "r")), "a", False, SKIP),
    "a .git": (Filters(), ".git", True, SKIP_GIT),
    "a .git that is a file": (Filters(), "m/.git", False, SKIP_GIT),
    "a .git that the rules exclude, too": (
        Filters(parse_rules(".git", "r")), ".git", True, SKIP_GIT),
    "a kept .git": (Filters(keep_git=True), ".git", True, KEEP),
    "a kept .git that the rules exclude": (
        Filters(parse_rules(".git", "r"), keep_git=True), ".git", True, SKIP),
    "a file with a name like .git": (Filters(), ".github", False, KEEP),
    "the excluded directory": (Filters(excluded="a/cache"), "a/cache", True, SKIP),
    "a file in its place": (Filters(excluded="a/cache"), "a/cache", False, KEEP),
    "a directory of the same name elsewhere": (Filters(excluded="a/cache"), "cache", True, KEEP),
    "what git lists": (Filters(not_ignored=TRACKED), "a/f", False, KEEP),
    "what git does not list": (Filters(not_ignored=TRACKED), "a/g", False, SKIP),
    "a directory with what git lists": (Filters(not_ignored=TRACKED), "a", True, ENTER),
    "a directory without": (Filters(not_ignored=TRACKED), "b", True, SKIP),
    "a directory where git lists a file": (Filters(not_ignored=TRACKED), "new", True, SKIP),
    "git lists what the rules exclude": (
        Filters(parse_rules("a/f", "r"), TRACKED), "a/f", False, SKIP),
    "git lists nothing of a kept .git": (
        Filters(not_ignored=TRACKED, keep_git=True), ".git", True, KEEP),
}  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "path", "is_directory", "expected"), DECISIONS.values(), ids=DECISIONS
)
def test_what_the_filters_decide(
    filters: Filters, path: str, is_directory: bool, expected: Decision
) -> None:
    name = path.rpartition("/")[2]
    decision, _ = filters.decide(path, name, is_directory, ROOT)
    assert decision is expected


def test_within_a_kept_git_the_list_of_git_does_not_count() -> None:
    filters = Filters(not_ignored=TRACKED, keep_git=True)
    assert filters.decide(".git/HEAD", "HEAD", False, ROOT, in_git=True)[0] is KEEP
    assert filters.decide(".git/refs", "refs", True, ROOT, in_git=True)[0] is KEEP


GIT_RULES: dict[str, tuple[list[str], set[str]]] = {
    "all": ([], {".git", ".git/HEAD", ".git/refs", ".git/refs/x"}),
    "without a directory": ([".git/refs"], {".git", ".git/HEAD"}),
    "a file of an excluded directory": (
        [".git/refs", "!.git/refs/x"], {".git", ".git/HEAD", ".git/refs", ".git/refs/x"}),
    "one file": ([".git", "!.git/HEAD"], {".git", ".git/HEAD"}),
}  # fmt: skip


@pytest.mark.parametrize(("rules", "expected"), GIT_RULES.values(), ids=GIT_RULES)
def test_the_ignore_rules_alone_decide_within_a_kept_git(
    rules: list[str], expected: set[str], root: Path, workers: Workers
) -> None:
    plant(root, {".git/HEAD": X, ".git/refs/x": X, "other": X})
    filters = Filters(parse_rules("\n".join(rules), "rules"), TRACKED, keep_git=True)
    assert scans.scan(str(root), filters, Snapshot(), workers, Steps()).tree.paths() == expected


def test_the_verdict_on_a_directory_is_for_its_entries() -> None:
    filters = Filters(parse_rules("a\n!a/f", "r"))
    decision, verdict = filters.decide("a", "a", True, ROOT)
    assert (decision, verdict) == (ENTER, Verdict(excluded=True, matched=1))
    assert filters.decide("a/f", "f", False, verdict)[0] is KEEP
    assert filters.decide("a/g", "g", False, verdict)[0] is SKIP


# --- Names and links ---

LINKS = {
    "beside": "x",
    "dangling": "gone",
    "itself": "name",
    "up and back": "../d/x",
    "absolute": "/etc/passwd",
    "absolute and up": "/../../../../..",
    "absolute by a backslash": "\\..\\..\\..\\..\\..\\..\\x",
    "out of the sources": "../../../lib/x",
    "to the image's root": "../../../..",
    "dots in a name": "..x/...",
    "long": "x" * 1000,
    "backslash": "a\\b",
    "drive later": "x/C:",
    "new line": "a\nb",
    "colon": "ab:c",
}


@pytest.mark.parametrize("target", LINKS.values(), ids=LINKS)
def test_the_target_of_a_link_is_unchanged(target: str, scan: Scanner, root: Path) -> None:
    tree: Tree = {"d": DIR, "d/name": Link(target)}
    plant(root, tree)
    assert scan().tree == described(tree)


BAD_LINKS: dict[str, str | bytes] = {
    "out of the root": "../../../../..",
    "out of the root, to a file": "../../../../../etc/passwd",
    "out, in a detour": "x/../../../../../../etc",
    "out, by backslashes": "..\\..\\..\\..\\..\\etc",
    "drive": "C:\\windows",
    "small drive": "c:x",
    "drive alone": "z:",
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("target", BAD_LINKS.values(), ids=BAD_LINKS)
def test_a_link_that_consumers_disagree_about_is_rejected(
    target: str | bytes, scan: Scanner, root: Path
) -> None:
    (root / "d").mkdir()
    os.symlink(os.fsencode(target), os.fsencode(root / "d/name"))
    with pytest.raises(KontextError, match="'d/name': its target"):
        scan()


# A "/" separates names.
BAD_NAMES: dict[str, bytes] = {
    "whiteout": b".wh.x",
    "opaque": b".wh..wh..opq",
    "whiteout alone": b".wh.",
    "whiteout below": b"d/.wh.x",
    "not UTF-8": b"caf\xe9",
    "half a surrogate": b"\xed\xa0\x80",
    "not UTF-8 below": b"d/\xff",
    "backslashes out": b"a\\..\\..\\..\\..\\..\\x",
    "backslashes out below": b"d/..\\..\\..\\..\\..\\x",
    "too long": b"/".join([b"n" * 250] * 16),
    "too long in bytes": b"/".join([b"\xc3\xb6" * 120] * 16),
}


def make_file(root: Path, path: bytes) -> None:
    """Make a file step by step: its path may be longer than a system call accepts."""
    *directories, name = path.split(b"/")
    above = os.open(root, os.O_RDONLY)
    for directory in directories:
        os.mkdir(directory, dir_fd=above)
        below = os.open(directory, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=above))
    os.close(above)


@pytest.mark.parametrize("path", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_name_that_no_image_can_hold_is_rejected(path: bytes, scan: Scanner, root: Path) -> None:
    make_file(root, path)
    with pytest.raises(KontextError) as raised:
        scan()
    first = os.fsdecode(path[:40])
    assert repr(first)[:-1] in raised.value.message
    assert ".kontextignore" in raised.value.hint


def test_a_path_may_be_as_long_as_the_limit(scan: Scanner, tmp_path: Path) -> None:
    length = min(MAX_PATH, 4000 - len(os.fsencode(tmp_path)))
    path = b"/".join([b"n" * 99] * 60)[:length].rstrip(b"/")
    make_file(tmp_path / "root", path)
    assert path.decode() in scan().tree


def test_of_many_rejected_paths_the_first_are_named_and_the_rest_counted(
    scan: Scanner, root: Path
) -> None:
    for number in range(25):
        (root / f".wh.{number}").touch()
    with pytest.raises(KontextError, match="and 15 more") as raised:
        scan()
    assert len(raised.value.message.splitlines()) == 12


def test_a_tree_may_be_deeper_than_pythons_stack(scan: Scanner, root: Path) -> None:
    """rmtree cannot remove such a tree, so the test does."""
    depth = 1500
    make_file(root, b"/".join([b"d"] * depth + [b"f"]))
    try:
        tree = scan().tree
    finally:
        (root / ("d/" * depth + "f")).unlink()
        for level in range(depth, 0, -1):
            os.rmdir(f"{root}/" + "d/" * level)
    assert len(tree.files) == depth + 1
    assert tree.files["d/" * depth + "f"] == hashlib.sha256().hexdigest()


def test_a_directory_that_becomes_a_link_during_the_scan_is_not_followed(
    scan: Scanner, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of the directory must not make us publish what only we may read."""
    plant(tmp_path / "outside", {"secret": File(b"secret"), "deep/secret": File(b"secret")})
    plant(root, {"d/secret": File(b"x"), "d/deep/secret": File(b"x")})
    scandir = os.scandir

    def list_and_swap(directory: Any) -> Any:
        with scandir(directory) as entries:
            listed = list(entries)
        if not (root / "d").is_symlink():
            (root / "d").rename(tmp_path / "was d")
            (root / "d").symlink_to(tmp_path / "outside")
        return contextlib.nullcontext(listed)

    monkeypatch.setattr(os, "scandir", list_and_swap)
    assert scan().tree == described({"d": Link(str(tmp_path / "outside"))})


def test_a_directory_that_becomes_a_link_before_hashing_is_not_followed(
    scan: Scanner, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "outside", {"deep/secret": File(b"secret")})
    plant(root, {"d/deep/secret": File(b"x")})
    walk = scans._walk

    def walk_and_swap(*arguments: Any) -> Any:
        found = walk(*arguments)
        if not (root / "d").is_symlink():
            (root / "d").rename(tmp_path / "was d")
            (root / "d").symlink_to(tmp_path / "outside")
        return found

    monkeypatch.setattr(scans, "_walk", walk_and_swap)
    assert scan().tree == described({"d": Link(str(tmp_path / "outside"))})


# --- Special files, and files that cannot be read ---


def test_special_files_are_skipped_and_listed(scan: Scanner, root: Path) -> None:
    plant(root, {"d": DIR, "d/f": X})
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        directory = os.open(root / "d", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{directory}/socket")  # the path of a socket must be short
        os.close(directory)
        found = scan()
    assert {*found.special_files} == {
        SpecialFile("fifo", "FIFO"),
        SpecialFile("d/socket", "socket"),
    }
    assert found.tree == described({"d": DIR, "d/f": X})


SCAN = """
try:
    scan.scan(sys.argv[1], filters.Filters(), snapshot.Snapshot(), workers.Workers(), steps.Steps())
except KontextError as error:
    print(error.message)
"""


@pytest.mark.parametrize("path", ["secret", "d/secret", "closed", "d/closed"])
def test_a_path_without_permission_is_named(path: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        plant(root, {"d": DIR, "d/closed": DIR, "closed": DIR, "secret": X, "d/secret": X})
        for other in ("secret", "d/secret", "closed", "d/closed"):
            (root / other).chmod(0o000 if other == path else 0o755)
        root.chmod(0o755)
        printed = unprivileged.run(SCAN, directory)
        (root / path).chmod(0o755)
    assert f"{path!r}: cannot be read: Permission denied" in printed


@pytest.mark.parametrize("rules", ["", "d/secret", "d", "d\n!d/secret"])
def test_a_directory_that_can_be_listed_and_not_entered_is_no_empty_one(rules: str) -> None:
    """Its entries have no status. Only what is ignored needs none."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        plant(root, {"d/secret": X, "f": X})
        root.chmod(0o755)
        (root / "d").chmod(0o644)
        printed = unprivileged.run(LOOK_WITH_RULES, directory, rules)
        (root / "d").chmod(0o755)
    if rules in ("d/secret", "d"):
        assert printed == ("['d', 'f']\n" if rules == "d/secret" else "['f']\n")
    else:
        assert "'d/secret': cannot be read: Permission denied" in printed


LOOK_WITH_RULES = """
chosen = filters.Filters(ignore_rules.parse_rules(sys.argv[2], "rules"))
try:
    found = scan.scan(sys.argv[1], chosen, snapshot.Snapshot(), workers.Workers(), steps.Steps())
    print(sorted(found.tree.paths()))
except KontextError as error:
    print(error.message)
"""

LOOK_PAST = """
rules = ignore_rules.parse_rules(sys.argv[2], "rules")
chosen = filters.Filters(rules)
found = scan.scan(sys.argv[1], chosen, snapshot.Snapshot(), workers.Workers(), steps.Steps())
print(sorted(found.tree.paths()), found.unreadable)
"""


@pytest.mark.parametrize(
    ("rules", "unreadable"),
    [
        ("d/closed\nd/secret", ()),
        ("**/closed\n**/secret\n!**/keep", ("d/closed",)),
        ("**\n!d/f\n!d/closed/keep", ("d/closed",)),
    ],
)
def test_what_is_ignored_needs_no_permission(rules: str, unreadable: tuple[str, ...]) -> None:
    """docker/cli#3043: a build failed for a directory that its ignore file excluded."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        plant(root, {"d": DIR, "d/closed": DIR, "d/f": X, "d/secret": X})
        (root / "d/closed").chmod(0o000)
        (root / "d/secret").chmod(0o000)
        root.chmod(0o755)
        printed = unprivileged.run(LOOK_PAST, directory, rules)
        (root / "d/closed").chmod(0o755)
    assert printed == f"{['d', 'd/f']} {unreadable}\n"


def test_a_root_that_is_gone_is_an_error(scan: Scanner, root: Path) -> None:
    root.rmdir()
    with pytest.raises(KontextError, match="root': cannot be read"):
        scan()
