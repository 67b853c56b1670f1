"""Hashing: which files are read, what the stat cache saves, and files that change meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import PLAIN_NAMES, STRANGE_NAMES, described, trees
from support.trees import Directory, File, Link, Tree, on_disk, plant, remove

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.files import DirTree
from kontext_plugin.runtime.status import SIGNATURE_BYTES, signature_of
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import entries as listing
from kontext_plugin.source import hashing
from kontext_plugin.source import scan as scans
from kontext_plugin.source.filters import Filters
from kontext_plugin.source.scan import Scan
from kontext_plugin.source.snapshot import UNSETTLED, Snapshot, unpack, unpack_entries
from kontext_plugin.terminal.steps import Progress, Step, StepName, Steps

MIB = 1024 * 1024
DIR, X = Directory(), File(b"x")

NESTED: Tree = {
    "a": DIR, "a/b": DIR, "a/b/c": X, "a/b/d": X, "a/e": X, "f": X, "empty": DIR, "l": Link("f"),
}  # fmt: skip

Scanner = Callable[..., Scan]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 40 * MIB])
def test_a_file_of_any_size_is_hashed_completely(size: int, scan: Scanner, root: Path) -> None:
    content = (b"line\n" * (size // 5 + 1))[:size]
    plant(root, {"f": File(content), "g": X})
    assert scan().tree == described({"f": File(content), "g": X})


# --- What the stat cache saves ---


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour goes by between writing and scanning."""
    now = scans.time.time_ns
    monkeypatch.setattr(scans.time, "time_ns", lambda: now() + 3600 * 10**9)


def entries(found: Scan, directory: str = "") -> dict[str, bytes]:
    """The signatures of a directory's entries, as the next scan finds them."""
    record = unpack(found.snapshot.records.get(directory))
    return unpack_entries(record.entries) if record else {}


def test_an_unchanged_file_is_not_read_again(settled: None, scan: Scanner, root: Path) -> None:
    plant(root, NESTED)
    first = scan()
    again = scan(known=first.snapshot)
    assert (first.hashed, again.hashed) == (4, 0)
    assert again.snapshot is first.snapshot and again.is_unchanged


def test_only_new_files_of_a_directory_are_read(settled: None, scan: Scanner, root: Path) -> None:
    plant(root, NESTED)
    known = scan().snapshot
    plant(root, {"a/b/new": File(b"new"), "other": DIR, "other/f": X})
    (root / "a/b/d").unlink()
    found = scan(known=known)
    assert found.hashed == 2
    assert entries(found, "a/b").keys() == {"c", "new"}
    records, before = found.snapshot.records, known.records
    assert {path for path in before if records[path] is before[path]} == {"a", "empty"}
    assert scan(known=found.snapshot).hashed == 0


def edit(path: Path) -> None:
    """Write other content of the same size, and set the old time: git and make see no change."""
    before = path.stat()
    path.write_bytes(b"other!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def rename_over(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"other!")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": edit,
    "replaced by a rename": rename_over,
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
    known = scan().snapshot
    change(root / "f")
    again = scan(known=known)
    content = (root / "f").read_bytes()
    assert again.hashed == 1
    assert again.tree.files["f"] == hashlib.sha256(content).hexdigest()
    assert again.tree.sizes["f"] == len(content)
    assert ("f" in again.tree.executable) == bool((root / "f").stat().st_mode & stat.S_IXUSR)


def test_a_file_that_was_just_written_is_read_again(scan: Scanner, root: Path) -> None:
    """It may change again within one tick of the file system's clock."""
    plant(root, {"f": X})
    found = scan()
    assert (found.hashed, entries(found)) == (1, {"f": UNSETTLED})
    os.utime(root / "f", (0, 0))  # looks old, but its status has just changed
    assert scan(known=found.snapshot).hashed == 1


def test_a_file_that_was_just_written_may_change_and_look_the_same(
    scan: Scanner, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, {"f": X})
    same = (root / "f").stat()
    monkeypatch.setattr(listing, "signature_of", lambda status: signature_of(same))
    known = scan().snapshot
    plant(root, {"f": File(b"y")})
    found = scan(known=known)
    assert not found.is_unchanged
    assert found.tree == described({"f": File(b"y")})


def test_a_file_from_the_future_is_read_again(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X})
    now = scans.time.time_ns()
    monkeypatch.setattr(scans.time, "time_ns", lambda: now - 3600 * 10**9)  # the clock jumped back
    known = scan().snapshot
    assert scan(known=known).hashed == 1


def test_another_checkout_in_the_same_place_is_read_again(
    settled: None, scan: Scanner, root: Path, tmp_path: Path
) -> None:
    """Names, sizes and times are the same, the content is not."""
    plant(root, {"d": DIR, "d/f": File(b"before"), "g": X})
    known = scan().snapshot
    root.rename(tmp_path / "away")
    plant(root, {"d": DIR, "d/f": File(b"other!"), "g": X})
    for path in ("d/f", "g"):
        before = (tmp_path / "away" / path).stat()
        os.utime(root / path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = scan(known=known)
    assert again.hashed == 2
    assert again.tree == described({"d": DIR, "d/f": File(b"other!"), "g": X})


def test_a_changed_file_is_read_again_after_the_clock_jumped_back(
    monkeypatch: pytest.MonkeyPatch, settled: None, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": File(b"before")})
    known = scan().snapshot
    monkeypatch.setattr(scans.time, "time_ns", lambda: 10**18)
    edit(root / "f")
    again = scan(known=known)
    assert again.hashed == 1
    assert again.tree == described({"f": File(b"other!")})


def test_the_record_of_a_removed_file_is_dropped(settled: None, scan: Scanner, root: Path) -> None:
    plant(root, {"f": X, "g": X})
    known = scan().snapshot
    (root / "g").unlink()
    found = scan(known=known)
    assert entries(found).keys() == {"f"}
    (root / "f").unlink()
    found = scan(known=found.snapshot)
    assert (entries(found), found.tree) == ({}, described({}))


@pytest.mark.parametrize(
    "packed", [b"", b"?", b"=", b"=/", b"=f/", b"=g/" + bytes(SIGNATURE_BYTES), b"=\xff/", b"!x"]
)
def test_wrong_records_do_no_harm(packed: bytes, settled: None, scan: Scanner, root: Path) -> None:
    plant(root, {"f": X, "d": DIR, "d/f": X})
    first = scan().snapshot
    for wrong in ({"": packed}, {"d": packed}, {"gone": packed}):
        found = scan(known=replace(first, records={**first.records, **wrong}))
        assert found.tree == described({"f": X, "d": DIR, "d/f": X})
        assert found.snapshot.records == first.records


@pytest.mark.parametrize("seconds", [-(10**9), 0, 10**10, 1.5 * 10**10, 2**33], ids=str)
def test_a_file_of_any_time_gets_a_record(
    seconds: float, settled: None, scan: Scanner, root: Path
) -> None:
    """If the file system has such times."""
    plant(root, {"f": X})
    os.utime(root / "f", (seconds, seconds))
    first = scan()
    is_known = entries(first)["f"] != UNSETTLED
    assert scan(known=first.snapshot).hashed == first.hashed - is_known
    assert scan(known=first.snapshot).tree == described({"f": X})


# --- Changes while the files are hashed ---


def test_a_file_that_changes_whenever_it_is_read_is_an_error(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"d": DIR, "d/f": X})
    read = os.read

    def busy(file: int, size: int) -> bytes:
        with (root / "d/f").open("ab") as log:
            log.write(b"x")
        return read(file, 1)

    # Like a busy log, the file grows with each reading: one byte, then its end.
    counts = iter(range(10**6))
    monkeypatch.setattr(os, "read", lambda f, n: busy(f, n) if next(counts) % 2 == 0 else b"")
    with pytest.raises(KontextError, match="'d/f' changed while it was read twice") as raised:
        scan()
    assert raised.value.hint


def test_a_file_whose_status_alone_changes_whenever_it_is_read_is_hashed(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    """pantsbuild/pants#19740: "file changed as we read it", for a new hard link to it.

    borgbackup/borg#7558 is about the same.
    """
    plant(root, {"f": X})
    read, numbers = os.read, iter(range(100))

    def link_and_read(file: int, size: int) -> bytes:
        os.link(root / "f", root.parent / f"link{next(numbers)}")
        return read(file, size)

    monkeypatch.setattr(os, "read", link_and_read)
    assert scan().tree == described({"f": X})
    assert next(numbers) == 2


def test_a_file_system_that_does_not_know_the_size_is_named(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    """mutagen-io/mutagen#167: "hashed size mismatch", as with /proc and some file systems in FUSE.

    Nobody writes to such a file, and it must not end in an image cut to the size that is said.
    """
    plant(root, {"f": File(b"content")})
    monkeypatch.setattr(hashing, "_STILL", 0)
    read = os.read
    monkeypatch.setattr(os, "read", lambda file, size: read(file, size) + b"more")
    with pytest.raises(KontextError, match=r"'f': cannot be read: it does not have the 7 bytes"):
        scan()


def test_a_file_that_changes_once_is_read_again(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": File(b"before")})
    read, changes = os.read, [b"after, and longer"]

    def busy(file: int, size: int) -> bytes:
        if changes:
            (root / "f").write_bytes(changes.pop())
        return read(file, size)

    monkeypatch.setattr(os, "read", busy)
    assert scan().tree == described({"f": File(b"after, and longer")})


# --- Workers ---


@pytest.fixture
def many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_MANY_FILES", 1)
    monkeypatch.setattr(hashing, "_BATCH_FILES", 3)


@given(tree=trees(st.one_of(PLAIN_NAMES, STRANGE_NAMES)))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_workers_find_the_same_tree(many_files: None, tree: Tree, workers: Workers) -> None:
    with tempfile.TemporaryDirectory() as root:
        plant(Path(root), tree)
        found = scans.scan(root, Filters(), Snapshot(), workers, Steps())
    assert found.tree == described(tree)


def test_files_that_workers_hash_get_records(
    settled: None, many_files: None, scan: Scanner, root: Path
) -> None:
    tree: Tree = {f"{number % 5}/{number}": File(b"x" * number) for number in range(50)}
    plant(root, tree)
    first = scan()
    again = scan(known=first.snapshot)
    assert (first.hashed, again.hashed) == (50, 0)
    assert again.tree == first.tree
    assert {digest for path, digest in first.tree.files.items() if path in tree} == {
        hashlib.sha256(b"x" * number).hexdigest() for number in range(50)
    }


def test_a_file_that_changes_whenever_a_worker_reads_it_is_an_error(
    many_files: None, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X, "log": X})
    os.truncate(root / "log", 64 * MIB)  # a hole that takes some time to read
    done = threading.Event()

    def write() -> None:
        with (root / "log").open("ab", buffering=0) as log:
            while not done.wait(0.001):
                log.write(b"line\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(KontextError, match="'log' changed while it was read twice") as raised:
            scan()
    finally:
        done.set()
        writer.join()
    assert raised.value.hint


# --- Progress ---


class Counted:
    """A root's scan, with the bytes of each count of its step `hash`."""

    def __init__(self, root: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.steps: list[Step] = []
        advance = Step.advance

        def note(step: Step, files: int, size: int) -> None:
            self.sizes.append(size)
            advance(step, files, size)

        with monkeypatch.context() as patched:
            patched.setattr(Step, "advance", note)
            scans.scan(str(root), Filters(), Snapshot(), workers, Steps(self.steps.append))

    @property
    def last(self) -> Progress:
        return next(step.progress for step in self.steps[::-1] if step.name is StepName.HASH)


@pytest.mark.parametrize("count", [1, 2], ids=["in one process", "by workers"])
def test_bytes_are_counted_within_a_file(
    count: int, root: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(count):
        (root / f"huge{number}").touch()
        os.truncate(root / f"huge{number}", 256 * MIB)
    counted = Counted(root, workers, monkeypatch)
    total = count * 256 * MIB
    assert counted.last == Progress(count, total, count, total)
    assert len([size for size in counted.sizes if size]) > 2 * count


@pytest.mark.parametrize("size", [0, 1, 3 * MIB], ids=str)
def test_the_count_ends_at_the_total_if_files_change(
    size: int, root: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, {"a": File(bytes(2 * MIB)), "b": X})
    walk = scans._walk

    def walk_and_change(*arguments: Any) -> Any:
        found = walk(*arguments)
        os.truncate(root / "a", size)
        return found

    monkeypatch.setattr(scans, "_walk", walk_and_change)
    last = Counted(root, workers, monkeypatch).last
    assert last == Progress(2, 2 * MIB + 1, 2, 2 * MIB + 1)


# --- Copies ---


@pytest.mark.parametrize("many", [1, 10**6], ids=["by workers", "in one process"])
def test_each_file_that_is_read_is_copied(
    many: int,
    settled: None,
    monkeypatch: pytest.MonkeyPatch,
    scan: Scanner,
    root: Path,
    tmp_path: Path,
    workers: Workers,
) -> None:
    monkeypatch.setattr(hashing, "_MANY_FILES", many)
    monkeypatch.setattr(hashing, "_BATCH_FILES", 3)
    plant(root, {"known": X})
    known = scan().snapshot
    contents = [b"", b"x" * 3 * MIB, *(b"%d" % number for number in range(8))]
    plant(root, {f"d/{number}": File(content) for number, content in enumerate(contents)})
    (tmp_path / "copies").mkdir()
    copies = str(tmp_path / "copies")
    found = scans.scan(str(root), Filters(), known, workers, Steps(), copies)
    assert found.tree == described(on_disk(root))
    assert {path.name: path.read_bytes() for path in (tmp_path / "copies").iterdir()} == {
        hashlib.sha256(content).hexdigest(): content for content in contents
    }


def test_a_disk_without_room_for_a_copy_is_an_error_of_that_disk(
    monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path, workers: Workers
) -> None:
    plant(root, {"f": X})

    def full(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    (tmp_path / "copies").mkdir()
    with pytest.raises(KontextError, match=r"copied to .*copies: No space left") as raised:
        scans.scan(str(root), Filters(), Snapshot(), workers, Steps(), str(tmp_path / "copies"))
    assert "KONTEXT_CACHE_DIR" in raised.value.hint
    assert not [*(tmp_path / "copies").iterdir()]


# --- What moves between the listing and the reading ---


@pytest.fixture
def after_each_walk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something done each time the directory was listed, before its files are read."""
    walk = scans._walk

    def set_action(action: Callable[[], object]) -> None:
        def walk_and_act(*arguments: Any) -> Any:
            found = walk(*arguments)
            action()
            return found

        monkeypatch.setattr(scans, "_walk", walk_and_act)

    return set_action


Moves = Callable[[Callable[[], object]], None]


@pytest.mark.parametrize("many", [1, 10**6], ids=["by workers", "in one process"])
def test_a_file_that_is_gone_when_it_is_opened_was_not_there(
    many: int,
    monkeypatch: pytest.MonkeyPatch,
    after_each_walk: Moves,
    scan: Scanner,
    root: Path,
) -> None:
    """gamechanger/dusty#609: a build failed if a temporary file vanished from its context."""
    monkeypatch.setattr(hashing, "_MANY_FILES", many)
    monkeypatch.setattr(hashing, "_BATCH_FILES", 3)
    files: Tree = {f"d/{number}": X for number in range(20)}
    plant(root, files)

    def come_and_go() -> None:
        (root / "d/17").unlink(missing_ok=True)
        (root / "d/new").unlink(missing_ok=True)

    after_each_walk(come_and_go)
    (root / "d/new").touch()
    found = scan()
    del files["d/17"]
    assert found.tree == described({"d": DIR, **files})


def test_a_file_that_is_renamed_meanwhile_is_found_under_its_new_name(
    after_each_walk: Moves, scan: Scanner, root: Path
) -> None:
    plant(root, {"staging/f": X, "kept": X})
    steps = [lambda: (root / "staging").rename(root / "final")]
    after_each_walk(lambda: steps and steps.pop()())
    assert scan().tree == described({"final": DIR, "final/f": X, "kept": X})


def test_a_directory_that_is_gone_takes_what_was_listed_of_it_along(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    """Also files that the stat cache knows, which nothing opens."""
    plant(root, {"d/f": X, "d/e/f": X, "kept": X})
    known = scan().snapshot
    scandir = os.scandir

    class Vanishing:
        """Lists a directory, and then says what Linux says of one that is removed meanwhile."""

        def __init__(self, directory: int) -> None:
            self.entries = list(scandir(directory))

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            yield_all = iter(self.entries)
            gone = any(entry.name == "e" for entry in self.entries)
            return _then_raise(yield_all) if gone else yield_all

        def __exit__(self, *_: object) -> None:
            pass

    def _then_raise(entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        yield from entries
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "scandir", Vanishing)
    assert scan(known=known).tree == described({"kept": X})


def test_an_ignored_directory_leaves_with_the_last_file_that_was_kept(
    after_each_walk: Moves, scan: Scanner, root: Path
) -> None:
    plant(root, {"a/out/keep": X, "a/f": X})
    after_each_walk(lambda: (root / "a/out/keep").unlink(missing_ok=True))
    assert scan("**/out", "!**/out/keep").tree == described({"a": DIR, "a/f": X})


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    remove(path)
    make(path)


SWAPS: dict[str, tuple[Callable[[Path], object], Tree]] = {
    "link": (lambda path: path.symlink_to("other"), {"f": Link("other")}),
    "FIFO": (os.mkfifo, {}),
    "directory": (Path.mkdir, {"f": DIR}),
    "file": (lambda path: path.write_bytes(b"another"), {"f": File(b"another")}),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_a_file_that_becomes_something_else_is_what_it_is_now(
    swap: str, after_each_walk: Moves, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X, "other": X})
    make, expected = SWAPS[swap]
    after_each_walk(lambda: replaced(root / "f", make))
    assert scan().tree == described(expected | {"other": X})


def test_a_directory_that_becomes_a_file_is_that_file(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"d/f": X})
    open_directory = DirTree.open_directory

    def swap_and_open(self: DirTree, path: str) -> int:
        if path == "d" and (root / "d").is_dir():
            replaced(root / "d", lambda path: path.write_bytes(b"x"))
        return open_directory(self, path)

    monkeypatch.setattr(DirTree, "open_directory", swap_and_open)
    assert scan().tree == described({"d": File(b"x")})


def test_a_file_and_a_link_that_are_renamed_over_each_other_are_never_gone(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    """npm does so with the commands of packages."""
    walk = scans._walk

    def put(make: Callable[[Path], object]) -> None:
        make(root / "new")
        (root / "new").rename(root / "f")

    def walk_between(*arguments: Any) -> Any:
        put(lambda path: path.write_bytes(b"x"))
        found = walk(*arguments)
        put(lambda path: path.symlink_to("x"))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(scans, "_walk", walk_between)
        assert scan().tree == described({"f": Link("x")})
    readlink = os.readlink

    def replace_and_read(*arguments: Any, **options: Any) -> str:
        put(lambda path: path.write_bytes(b"x"))
        return readlink(*arguments, **options)

    monkeypatch.setattr(os, "readlink", replace_and_read)
    assert scan().tree == described({"f": X})


def test_a_link_that_takes_the_place_of_a_file_must_be_one_that_an_image_can_hold(
    after_each_walk: Moves, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X})
    after_each_walk(lambda: replaced(root / "f", lambda path: path.symlink_to("../" * 9)))
    with pytest.raises(KontextError, match=r"'f': its target .* leads out of the image"):
        scan()


def test_what_is_a_file_and_a_directory_in_turn_was_gone_in_between(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    plant(root, {"f": X, "kept": X})
    walk = scans._walk

    def walk_between(*arguments: Any) -> Any:
        replaced(root / "f", lambda path: path.write_bytes(b"x"))
        found = walk(*arguments)
        replaced(root / "f", Path.mkdir)
        return found

    monkeypatch.setattr(scans, "_walk", walk_between)
    assert scan().tree == described({"kept": X})


def test_a_stale_handle_is_opened_again(
    monkeypatch: pytest.MonkeyPatch, scan: Scanner, root: Path
) -> None:
    """restic/restic#21786: ESTALE of a network file system, where a server has replaced a file."""
    plant(root, {"d/f": X, "g": X})
    open_file, stale = DirTree.open_file, [2]

    def open_stale(self: DirTree, path: str) -> int:
        if path == "d/f" and stale[0]:
            stale[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return open_file(self, path)

    monkeypatch.setattr(DirTree, "open_file", open_stale)
    with pytest.raises(KontextError, match="'d/f': cannot be read: Stale file handle"):
        scan()
    stale[0] = 1
    assert scan().tree == described({"d": DIR, "d/f": X, "g": X})
