"""The scan: what is there, what is left out and told, what is refused, and when a file is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import unprivileged
from support.models import PLAIN_NAMES, STRANGE_NAMES, described, trees
from support.trees import Directory, File, Link, Tree, plant

from kontext_plugin.errors import KontextError
from kontext_plugin.manifest import check_tree
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import hashing, ignore_rules
from kontext_plugin.source import scan as scans
from kontext_plugin.source.hashing import SIGNATURE_BYTES, pack, unpack
from kontext_plugin.source.scan import MAX_PATH, Scan, Skipped
from kontext_plugin.terminal.steps import Steps

MIB = 1024 * 1024
DIR, X = Directory(), File(b"x")
RUN = File(b"x", executable=True)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


Scanner = Callable[..., Scan]


@pytest.fixture
def scan(tmp_path: Path, workers: Workers) -> Scanner:
    """Scans tmp_path/root with these lines as its ignore file."""
    (tmp_path / "root").mkdir()

    def scan(*rules: str, known: Mapping[str, Any] | None = None, keep_git: bool = False) -> Scan:
        root, parsed = str(tmp_path / "root"), ignore_rules.parse_rules("\n".join(rules), "rules")
        return scans.scan(root, parsed, known or {}, workers, Steps(), keep_git=keep_git)

    return scan


@pytest.fixture
def root(tmp_path: Path, scan: Scanner) -> Path:
    return tmp_path / "root"


@given(tree=trees(st.one_of(PLAIN_NAMES, STRANGE_NAMES)))
def test_the_scan_is_the_tree(tree: Tree, workers: Workers) -> None:
    with tempfile.TemporaryDirectory() as root:
        plant(Path(root), tree)
        found = scans.scan(root, ignore_rules.IgnoreRules(), {}, workers, Steps())
    assert found.tree == described(tree)
    assert (found.special, found.git) == ((), ())
    assert found.hashed == len(found.tree.sizes)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 40 * MIB])
def test_a_file_of_any_size_is_hashed_in_full(size: int, scan: Scanner, root: Path) -> None:
    content = (b"line\n" * (size // 5 + 1))[:size]
    plant(root, {"f": File(content), "g": X})
    assert scan().tree == described({"f": File(content), "g": X})


def test_the_scan_of_a_tree_can_be_a_manifest(scan: Scanner, root: Path) -> None:
    plant(root, {"d": DIR, "d/\\": X, "é": DIR, "é/run": RUN, "link": Link("../../lib/x")})
    tree = scan().tree
    check_tree(tree)


# Ignore rules

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
def test_ignore_rules(rules: list[str], expected: set[str], scan: Scanner, root: Path) -> None:
    plant(root, NESTED)
    assert scan(*rules).tree == described({path: NESTED[path] for path in expected})


def test_what_is_ignored_is_not_opened_nor_judged(scan: Scanner, root: Path) -> None:
    plant(root, {"a": DIR, "a/.wh.x": X, "a/out": Link("../../../../../.."), ".wh.y": X, "z": X})
    os.mkfifo(root / "a/fifo")
    found = scan("a", ".wh.*")
    assert found.tree == described({"z": X})
    assert found.special == ()


# Names and links

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
def test_a_link_is_kept_as_it_is(target: str, scan: Scanner, root: Path) -> None:
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
def test_a_link_that_consumers_disagree_about_is_refused(
    target: str | bytes, scan: Scanner, root: Path
) -> None:
    (root / "d").mkdir()
    os.symlink(os.fsencode(target), os.fsencode(root / "d/name"))
    with pytest.raises(KontextError, match="'d/name': it"):
        scan()


# "/" stands between components; each of the others is one name.
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


def make(root: Path, path: bytes) -> None:
    """A file; relative to descriptors, since the path may be longer than any call takes."""
    *folders, name = path.split(b"/")
    folder = os.open(root, os.O_RDONLY)
    for part in folders:
        os.mkdir(part, dir_fd=folder)
        below = os.open(part, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)


@pytest.mark.parametrize("path", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_name_that_no_image_holds_is_refused(path: bytes, scan: Scanner, root: Path) -> None:
    make(root, path)
    with pytest.raises(KontextError) as raised:
        scan()
    first = os.fsdecode(path[:40])
    assert repr(first)[:-1] in raised.value.message
    assert ".kontextignore" in raised.value.hint


def test_a_path_may_be_as_long_as_the_limit(scan: Scanner, tmp_path: Path) -> None:
    length = min(MAX_PATH, 4000 - len(os.fsencode(tmp_path)))
    path = b"/".join([b"n" * 99] * 60)[:length].rstrip(b"/")
    make(tmp_path / "root", path)
    assert path.decode() in scan().tree


def test_all_that_is_refused_is_counted_and_the_first_are_named(scan: Scanner, root: Path) -> None:
    for number in range(25):
        (root / f".wh.{number}").touch()
    with pytest.raises(KontextError, match="and 15 more") as raised:
        scan()
    assert len(raised.value.message.splitlines()) == 12


def test_a_deep_tree(scan: Scanner, root: Path) -> None:
    """Deeper than Python recurses; so it is taken down here, which rmtree cannot do either."""
    depth = 1500
    make(root, b"/".join([b"d"] * depth + [b"f"]))
    try:
        tree = scan().tree
    finally:
        (root / ("d/" * depth + "f")).unlink()
        for level in range(depth, 0, -1):
            os.rmdir(f"{root}/" + "d/" * level)
    assert len(tree.files) == depth + 1
    assert tree.files["d/" * depth + "f"] == hashlib.sha256().hexdigest()


def test_a_directory_that_turns_into_a_link_leads_nowhere(
    scan: Scanner, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who may write in the directory must not make us publish what only we may read."""
    plant(tmp_path / "outside", {"secret": File(b"secret"), "deep/secret": File(b"secret")})
    plant(root, {"d/secret": File(b"x"), "d/deep/secret": File(b"x")})
    list_directory = os.scandir

    def list_and_swap(folder: Any) -> Any:
        with list_directory(folder) as entries:
            listed = list(entries)
        if not (root / "d").is_symlink():
            (root / "d").rename(tmp_path / "was d")
            (root / "d").symlink_to(tmp_path / "outside")
        return contextlib.nullcontext(listed)

    monkeypatch.setattr(os, "scandir", list_and_swap)
    with pytest.raises(KontextError, match="cannot be read"):
        scan()


def test_nor_does_one_that_turns_before_its_files_are_hashed(
    scan: Scanner, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "outside", {"deep/secret": File(b"secret")})
    plant(root, {"d/deep/secret": File(b"x")})
    walk = scans._walk

    def walk_and_swap(*arguments: Any) -> Any:
        found = walk(*arguments)
        (root / "d").rename(tmp_path / "was d")
        (root / "d").symlink_to(tmp_path / "outside")
        return found

    monkeypatch.setattr(scans, "_walk", walk_and_swap)
    with pytest.raises(KontextError, match="'d/deep/secret': cannot be read"):
        scan()


# Left out


def test_special_files_are_left_out_and_told(scan: Scanner, root: Path) -> None:
    plant(root, {"d": DIR, "d/f": X})
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(root / "d", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/socket")  # the whole path may be too long for one
        os.close(folder)
        found = scan()
    assert {*found.special} == {Skipped("fifo", "a FIFO"), Skipped("d/socket", "a socket")}
    assert found.tree == described({"d": DIR, "d/f": X})


GIT: Tree = {
    ".git": DIR, ".git/HEAD": X, ".gitignore": X, "m": DIR, "m/.git": File(b"gitdir: ../.git"),
    "n": DIR, "n/.git": Link("x"), "n/.github": DIR,
}  # fmt: skip


def test_git_is_left_out_and_told(scan: Scanner, root: Path) -> None:
    plant(root, GIT)
    found = scan()
    assert {*found.git} == {".git", "m/.git", "n/.git"}
    assert found.tree.paths() == {".gitignore", "m", "n", "n/.github"}


def test_git_is_kept_on_request(scan: Scanner, root: Path) -> None:
    plant(root, GIT)
    found = scan(keep_git=True)
    assert found.git == ()
    assert found.tree == described(GIT)


# What cannot be read

SCAN = """
try:
    scan.scan(sys.argv[1], ignore_rules.IgnoreRules(), {}, workers.Workers(), steps.Steps())
except KontextError as error:
    print(error.message)
"""


@pytest.mark.parametrize("path", ["secret", "d/secret", "closed", "d/closed"])
def test_what_may_not_be_read_is_named(path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root, {"d": DIR, "d/closed": DIR, "closed": DIR, "secret": X, "d/secret": X})
        for other in ("secret", "d/secret", "closed", "d/closed"):
            (root / other).chmod(0o000 if other == path else 0o755)
        root.chmod(0o755)
        printed = unprivileged.run(SCAN, folder)
        (root / path).chmod(0o755)
    assert f"{path!r}: cannot be read: Permission denied" in printed


def test_a_root_that_is_gone_is_told(scan: Scanner, root: Path) -> None:
    root.rmdir()
    with pytest.raises(KontextError, match="root': cannot be read"):
        scan()


# The stat cache


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour goes by between writing and scanning."""
    now = scans.time.time_ns
    monkeypatch.setattr(scans.time, "time_ns", lambda: now() + 3600 * 10**9)


def test_an_unchanged_file_is_not_read_again(settled: None, scan: Scanner, root: Path) -> None:
    plant(root, NESTED)
    first = scan()
    again = scan(known=first.stats)
    assert (first.hashed, again.hashed) == (4, 0)
    assert (again.tree, again.stats) == (first.tree, first.stats)


def test_only_what_is_new_in_a_directory_is_read(settled: None, scan: Scanner, root: Path) -> None:
    plant(root, NESTED)
    known = scan().stats
    plant(root, {"a/b/new": File(b"new"), "other": DIR, "other/f": X})
    (root / "a/b/d").unlink()
    found = scan(known=known)
    assert found.hashed == 2
    assert unpack(found.stats["a/b"]).keys() == {"c", "new"}
    assert {folder for folder in known if found.stats[folder] is known[folder]} == {"", "a"}
    assert scan(known=found.stats).hashed == 0


def edited(path: Path) -> None:
    """Other content of one size, at the same time by the clock: git and make see nothing."""
    before = path.stat()
    path.write_bytes(b"other!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def renamed_over(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"other!")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": edited,
    "renamed over": renamed_over,
    "longer": lambda path: path.write_bytes(b"other content"),
    "removed and made again": lambda path: (path.unlink(), path.write_bytes(b"other!")),
    "touched": lambda path: path.touch(),
    "made executable": lambda path: path.chmod(0o755),
    "grown by a hole": lambda path: os.truncate(path, 10**7),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_read_again(
    change: Callable[[Path], object], settled: None, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": File(b"before"), "g": X})
    known = scan().stats
    change(root / "f")
    again = scan(known=known)
    content = (root / "f").read_bytes()
    assert again.hashed == 1
    assert again.tree.files["f"] == hashlib.sha256(content).hexdigest()
    assert again.tree.sizes["f"] == len(content)
    assert ("f" in again.tree.executable) == bool((root / "f").stat().st_mode & stat.S_IXUSR)


def test_a_file_that_was_just_written_is_not_remembered(scan: Scanner, root: Path) -> None:
    """It may change once more within the tick of the file system's clock."""
    plant(root, {"f": X})
    found = scan()
    assert (found.hashed, found.stats) == (1, {})
    os.utime(root / "f", (0, 0))  # looks old; its status is what changed just now
    assert scan().stats == {}


def test_a_file_from_the_future_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X})
    now = scans.time.time_ns()
    monkeypatch.setattr(scans.time, "time_ns", lambda: now - 3600 * 10**9)  # the clock jumped back
    assert scan().stats == {}


def test_another_checkout_in_its_place_is_read_anew(
    settled: None, scan: Scanner, root: Path, tmp_path: Path
) -> None:
    """Of the same names, sizes and times, with other content."""
    plant(root, {"d": DIR, "d/f": File(b"before"), "g": X})
    known = scan().stats
    root.rename(tmp_path / "away")
    plant(root, {"d": DIR, "d/f": File(b"other!"), "g": X})
    for path in ("d/f", "g"):
        before = (tmp_path / "away" / path).stat()
        os.utime(root / path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = scan(known=known)
    assert again.hashed == 2
    assert again.tree == described({"d": DIR, "d/f": File(b"other!"), "g": X})


def test_what_is_remembered_stays_so_when_the_clock_jumps_back(
    monkeypatch: pytest.MonkeyPatch, settled: None, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": File(b"before")})
    known = scan().stats
    monkeypatch.setattr(scans.time, "time_ns", lambda: 10**18)
    edited(root / "f")
    again = scan(known=known)
    assert again.hashed == 1
    assert again.tree == described({"f": File(b"other!")})


def test_what_is_gone_is_forgotten(settled: None, scan: Scanner, root: Path) -> None:
    plant(root, {"f": X, "g": X})
    known = scan().stats
    (root / "g").unlink()
    assert unpack(scan(known=known).stats[""]).keys() == {"f"}
    (root / "f").unlink()
    assert scan(known=known).stats == {}


WRONG: dict[str, bytes] = {
    "empty": b"",
    "another signature": pack({"f": (bytes(SIGNATURE_BYTES), bytes(32))}),
    "no memories": b"f/",
    "no names": bytes(SIGNATURE_BYTES + 32),
    "cut": pack({"f": (bytes(SIGNATURE_BYTES), bytes(32))})[:-1],
    "a name too many": b"f\0" + pack({"f": (bytes(SIGNATURE_BYTES), bytes(32))}),
    "a name that is not UTF-8": b"\xff" + pack({"f": (bytes(SIGNATURE_BYTES), bytes(32))}),
}


@pytest.mark.parametrize("packed", WRONG.values(), ids=WRONG)
def test_a_wrong_memory_is_not_believed(
    packed: bytes, settled: None, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X})
    found = scan(known={"": packed, "gone": packed})
    assert found.tree == described({"f": X})
    assert found.stats.keys() == {""}
    assert unpack(found.stats[""]).keys() == {"f"}


@pytest.mark.parametrize("seconds", [-(10**9), 0, 10**10, 1.5 * 10**10, 2**33], ids=str)
def test_a_file_of_any_time_is_remembered(
    seconds: float, settled: None, scan: Scanner, root: Path
) -> None:
    """As far as the file system has such times."""
    plant(root, {"f": X})
    os.utime(root / "f", (seconds, seconds))
    first = scan()
    assert scan(known=first.stats).hashed == first.hashed - len(first.stats)
    assert scan(known=first.stats).tree == described({"f": X})


# Changes while the files are hashed


def test_a_file_that_changes_at_each_reading_is_refused(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"d": DIR, "d/f": X})
    read = os.read

    def busy(file: int, size: int) -> bytes:
        with (root / "d/f").open("ab") as log:
            log.write(b"x")
        return read(file, 1)

    # As soon as the file is read, it is longer: a log under heavy use. Some bytes, then the end.
    counts = iter(range(10**6))
    monkeypatch.setattr(scans.os, "read", lambda f, n: busy(f, n) if next(counts) % 2 == 0 else b"")
    with pytest.raises(KontextError, match="'d/f' changed while it was read") as raised:
        scan()
    assert raised.value.hint


def test_a_file_that_changes_once_is_read_again(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": File(b"before")})
    read, changes = os.read, [b"after, and longer"]

    def busy(file: int, size: int) -> bytes:
        if changes:
            (root / "f").write_bytes(changes.pop())
        return read(file, size)

    monkeypatch.setattr(scans.os, "read", busy)
    assert scan().tree == described({"f": File(b"after, and longer")})


# Workers


@pytest.fixture
def by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_MANY_FILES", 1)
    monkeypatch.setattr(hashing, "_BATCH_FILES", 3)


@given(tree=trees(st.one_of(PLAIN_NAMES, STRANGE_NAMES)))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_workers_find_the_same(by_workers: None, tree: Tree, workers: Workers) -> None:
    with tempfile.TemporaryDirectory() as root:
        plant(Path(root), tree)
        found = scans.scan(root, ignore_rules.IgnoreRules(), {}, workers, Steps())
    assert found.tree == described(tree)


def test_what_workers_find_is_remembered(
    settled: None, by_workers: None, scan: Scanner, root: Path
) -> None:
    tree: Tree = {f"{number % 5}/{number}": File(b"x" * number) for number in range(50)}
    plant(root, tree)
    first = scan()
    again = scan(known=first.stats)
    assert (first.hashed, again.hashed) == (50, 0)
    assert again.tree == first.tree
    assert {digest for path, digest in first.tree.files.items() if path in tree} == {
        hashlib.sha256(b"x" * number).hexdigest() for number in range(50)
    }


def test_a_file_that_changes_at_each_reading_is_refused_by_workers(
    by_workers: None, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X, "log": X})
    os.truncate(root / "log", 64 * MIB)  # a hole: some time to read
    done = threading.Event()

    def write() -> None:
        with (root / "log").open("ab", buffering=0) as log:
            while not done.wait(0.001):
                log.write(b"line\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(KontextError, match="'log' changed while it was read") as raised:
            scan()
    finally:
        done.set()
        writer.join()
    assert raised.value.hint


@pytest.mark.parametrize("many", [1, 10**6], ids=["by workers", "alone"])
def test_of_many_files_the_unreadable_one_is_named(
    many: int, monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    monkeypatch.setattr(hashing, "_MANY_FILES", many)
    monkeypatch.setattr(hashing, "_BATCH_FILES", 3)
    plant(root, {f"d/{number}": X for number in range(20)})
    walk = scans._walk

    def walk_and_remove(*arguments: Any) -> Any:
        found = walk(*arguments)
        (root / "d/17").unlink()
        return found

    monkeypatch.setattr(scans, "_walk", walk_and_remove)
    with pytest.raises(KontextError, match="'d/17': cannot be read: No such file"):
        scan()
    monkeypatch.setattr(scans, "_walk", walk)
    assert scan().hashed == 19


SWAPS: dict[str, Callable[[Path], object]] = {
    "vanishes": lambda path: None,
    "link": lambda path: path.symlink_to("secret"),
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_a_file_that_becomes_something_else_is_refused(
    swap: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X, "secret": X})
    walk = scans._walk

    def walk_and_swap(*arguments: Any) -> Any:
        found = walk(*arguments)
        (root / "f").unlink()
        swap(root / "f")
        return found

    monkeypatch.setattr(scans, "_walk", walk_and_swap)
    with pytest.raises(KontextError, match="'f'"):
        scan()
