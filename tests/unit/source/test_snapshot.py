"""The snapshot: whatever happened since, a scan with it finds what a scan without it finds."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import PLAIN_NAMES, STRANGE_NAMES, described
from support.random_edits import edit_at_random, put, random_seed
from support.trees import File, Link, on_disk, plant

from kontext_plugin.cache import Cache
from kontext_plugin.errors import KontextError
from kontext_plugin.image.chunking import is_boundary
from kontext_plugin.runtime.status import SIGNATURE_BYTES
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import entries
from kontext_plugin.source import scan as scans
from kontext_plugin.source.filters import Filters, NotIgnored, place_at
from kontext_plugin.source.ignore_rules import parse_rules
from kontext_plugin.source.scan import Scan
from kontext_plugin.source.snapshot import (
    UNSETTLED,
    Record,
    Records,
    Snapshot,
    forget,
    pack,
    pack_entries,
    unpack,
    unpack_entries,
)
from kontext_plugin.terminal.steps import Progress, Step, StepName, Steps

X = File(b"x")

# --- Records ---

NAMES = (PLAIN_NAMES | STRANGE_NAMES).filter(lambda name: "\0" not in name)
SIGNATURES = st.binary(min_size=SIGNATURE_BYTES, max_size=SIGNATURE_BYTES)


@given(st.dictionaries(NAMES, SIGNATURES), st.booleans())
def test_a_record_is_unpacked_as_it_was_packed(entries: dict[str, bytes], again: bool) -> None:
    packed = pack_entries(entries.items())
    assert unpack_entries(packed) == entries
    assert packed == pack_entries(sorted(entries.items(), reverse=True))
    assert unpack(pack(Record(packed, again))) == Record(packed, again)


def test_a_name_that_is_not_utf_8_has_a_record() -> None:
    entries = {"caf\udce9": UNSETTLED, "b": bytes(SIGNATURE_BYTES)}
    assert unpack_entries(pack_entries(entries.items())) == entries


@pytest.mark.parametrize("entries", [b"", b"f", b"f/", b"f/x", b"/x", b"f\0g/" + UNSETTLED])
def test_damaged_entries_are_none(entries: bytes) -> None:
    assert unpack_entries(entries) == {}


SOME = st.dictionaries(st.sampled_from("abcdef"), st.binary())


@given(SOME, st.lists(st.tuples(SOME, st.sets(st.sampled_from("abcdef"))), max_size=4))
def test_changed_records_are_those_of_a_plain_map(
    before: dict[str, bytes], changes: list[tuple[dict[str, bytes], set[str]]]
) -> None:
    expected, records = dict(before), Records(before, {})
    for changed, removed in changes:
        expected = {path: one for path, one in expected.items() if path not in removed} | changed
        records = Records(records, changed, removed)
        assert dict(records) == expected
        assert [*records] == sorted(expected) and len(records) == len(expected)
        assert [path for path in "abcdef" if path in records] == sorted(expected)


def test_records_may_change_again_and_again() -> None:
    records = Records({}, {})
    for number in range(3000):
        records = Records(records, {str(number % 7): b"%d" % number})
    assert records["0"] == b"2996"


# --- Scans with a snapshot, and without ---

FILTERS = {
    "no rules": Filters(),
    "a file": Filters(parse_rules("a/b\n**/d.txt", "r")),
    "trees but for some": Filters(parse_rules("b\n!b/c\n!**/d.txt", "r")),
    "all but": Filters(parse_rules("**\n!a/b\n!c", "r")),
    "a file of git": Filters(
        not_ignored=NotIgnored(frozenset({"a/b", "c", "b/c/a"}), frozenset({"a", "b", "b/c"}))
    ),
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes list even the smallest directory."""
    monkeypatch.setattr(scans, "MANY", 1)
    monkeypatch.setattr(entries, "AT_ONCE", 2)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(scans.time, "time_ns", lambda: now() + 3600 * 10**9)


def at_rest(root: Path, known: Snapshot, filters: Filters, workers: Workers) -> Scan:
    """A scan with `known`, after it was compared with one that knows nothing."""
    steps: list[Step] = []
    found = scans.scan(str(root), filters, known, workers, Steps(steps.append))
    fresh = scans.scan(str(root), filters, Snapshot(), workers, Steps())
    scan = next(step for step in steps[::-1] if step.name is StepName.SCAN)
    assert scan.progress == Progress(files=found.tree.file_count)
    assert found.tree == fresh.tree
    assert found.tree.digests == fresh.tree.digests
    assert dict(found.snapshot.records) == dict(fresh.snapshot.records)
    assert {*found.special_files} == {*fresh.special_files}
    assert {*found.git_entries} == {*fresh.git_entries}
    return found


TOLD: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda root: None, []),
    "an edit": (lambda root: (root / "a/f").write_bytes(b"edited"), ["a/f"]),
    "the same content": (lambda root: (root / "a/f").write_bytes(b"x"), []),
    "a new file": (lambda root: (root / "new").touch(), ["new"]),
    "another target": (
        lambda root: ((root / "l").unlink(), (root / "l").symlink_to("a")),
        ["l"],
    ),
    "a file less": (lambda root: (root / "b").unlink(), ["b"]),
}


@pytest.mark.parametrize(("change", "told"), TOLD.values(), ids=TOLD)
def test_a_scan_tells_what_has_changed_and_no_more(
    change: Callable[[Path], object], told: list[str], root: Path, workers: Workers
) -> None:
    """All files are so new that they are read again, and what is skipped is looked at again."""
    plant(root, {"a/f": X, "a/g": X, "b": X, "l": Link("b"), ".git/HEAD": X})
    heard: list[list[str]] = []
    first = scans.scan(
        *(str(root), Filters(), Snapshot(), workers, Steps()), tell=heard.append
    ).snapshot
    assert not heard, "all is new"
    change(root)
    scans.scan(str(root), Filters(), first, workers, Steps(), tell=heard.append)
    assert heard == ([told] if told else [])


SWAPS: dict[str, Callable[[Path], object]] = {
    "comes back": lambda path: path.with_name("away").rename(path),
    "another one": lambda path: plant(path.parent, {"p/x/f1": File(b"another"), "p/g": X}),
    "a link": lambda path: path.symlink_to("away"),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("parent", ["first", "last"])
@pytest.mark.parametrize("swap", SWAPS)
def test_a_directory_that_is_away_while_its_parent_is_listed_is_not_lost(
    swap: str,
    parent: str,
    settled: None,
    root: Path,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build replaces its output: `mv dist old; mv new dist`."""
    plant(root, {"p/x/f1": X, "p/x/f2": X, "p/g": X, "kept": X})
    known = scans.scan(str(root), Filters(), Snapshot(), workers, Steps()).snapshot
    if parent == "last":
        items = scans._known
        monkeypatch.setattr(scans, "_known", lambda *both: dict(reversed(items(*both).items())))
    real, done = entries._list, []

    def list_and_swap(sources: Any, task: Any, path: str, *others: Any) -> Any:
        if path or done:
            return real(sources, task, path, *others)
        done.append(path)
        (root / "p").rename(root / "away")
        found = real(sources, task, path, *others)
        SWAPS[swap](root / "p")
        return found

    monkeypatch.setattr(entries, "_list", list_and_swap)
    found = scans.scan(str(root), Filters(), known, workers, Steps())
    assert done
    monkeypatch.undo()
    now = time.time_ns
    monkeypatch.setattr(scans.time, "time_ns", lambda: now() + 3600 * 10**9)
    assert described(on_disk(root)) == at_rest(root, found.snapshot, Filters(), workers).tree
    if (swap, parent) == ("comes back", "first"):
        assert found.tree == described(on_disk(root)), "it was there a moment later"


def test_a_root_that_goes_away_before_its_files_are_read_is_named(
    root: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, {"f": X})
    walk = scans._walk

    def walk_and_go(*arguments: Any) -> Any:
        found = walk(*arguments)
        root.rename(root.with_name("away"))
        return found

    monkeypatch.setattr(scans, "_walk", walk_and_go)
    with pytest.raises(KontextError, match="root': cannot be read: No such file"):
        scans.scan(str(root), Filters(), Snapshot(), workers, Steps())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILTERS, "another one each time"])
def test_a_history_of_edits_is_found(
    name: str, tiny: None, settled: None, root: Path, tmp_path: Path, workers: Workers
) -> None:
    """The snapshot goes through the cache each time, as between pushes."""
    seed = random_seed(f"snapshot {name}")
    chance = random.Random(seed)
    cache = Cache(str(tmp_path / "cache"))
    plant(root, {f"crowd/{number % 7}/{number}": X for number in range(600)})
    filters = FILTERS.get(name, Filters())
    for _ in range(40):
        edit_at_random(root, chance)
        if chance.random() < 0.3:
            put(root, f"crowd/{chance.randrange(9)}/{chance.randrange(700)}", X)
        if chance.random() < 0.1:
            shutil.rmtree(root / f"crowd/{chance.randrange(7)}", ignore_errors=True)
        if name not in FILTERS:
            filters = chance.choice([*FILTERS.values()])
        found = at_rest(root, cache.snapshot(str(root)), filters, workers)
        cache.save_snapshot(str(root), found.snapshot)
        again = scans.scan(str(root), filters, cache.snapshot(str(root)), workers, Steps())
        assert again.is_unchanged and not again.hashed


def test_an_unsettled_history_of_edits_is_found(tiny: None, root: Path, workers: Workers) -> None:
    """Each edit follows the last one within one tick of the clock."""
    chance = random.Random(random_seed("unsettled"))
    known = Snapshot()
    for _ in range(40):
        edit_at_random(root, chance)
        found = scans.scan(str(root), Filters(), known, workers, Steps())
        assert found.tree == described(on_disk(root))
        known = found.snapshot


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"other!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def copied_back(path: Path) -> None:
    """The directory is another one with the same names, sizes and times."""
    root = path.parent.parent
    copy = root.with_name("copy")
    shutil.copytree(root, copy, symlinks=True)
    (copy / "d/f").write_bytes(b"other!")
    shutil.copystat(path, copy / "d/f")
    shutil.rmtree(root)
    copy.rename(root)


TRICKS: dict[str, Callable[[Path], object]] = {
    "same size and time": same_size_and_time,
    "another file renamed over it": lambda path: (
        path.with_name("new").write_bytes(b"other!"),
        path.with_name("new").rename(path),
    ),
    "hard link to another": lambda path: (
        path.with_name("new").write_bytes(b"other!"),
        path.unlink(),
        os.link(path.with_name("new"), path),
        path.with_name("new").unlink(),
    ),
    "another directory": copied_back,
    "directories exchanged": lambda path: (
        path.parent.rename(path.parent.parent / "e"),
        plant(path.parent.parent, {"d/f": File(b"other!")}),
    ),
    "touched only": lambda path: path.touch(),
    "removed": lambda path: path.unlink(),
    "a directory in its place": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself before": lambda path: (
        path.rename(path.with_name("g")),
        path.symlink_to("g"),
    ),
}


@pytest.mark.parametrize("hours", [-1000, 0, 1000], ids="clock {}".format)
@pytest.mark.parametrize("trick", TRICKS)
def test_no_stale_record_hides_a_change(
    trick: str, hours: int, root: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, {"d/f": File(b"before"), "g": X})
    now = time.time_ns
    monkeypatch.setattr(scans.time, "time_ns", lambda: now() + 3600 * 10**9)
    known = scans.scan(str(root), Filters(), Snapshot(), workers, Steps()).snapshot
    monkeypatch.setattr(scans.time, "time_ns", lambda: now() + hours * 3600 * 10**9)
    TRICKS[trick](root / "d/f")
    found = scans.scan(str(root), Filters(), known, workers, Steps())
    assert found.tree == described(on_disk(root))


def test_the_snapshot_of_another_directory_does_no_harm(
    settled: None, root: Path, tmp_path: Path, workers: Workers
) -> None:
    """A cache may be copied to another machine, or its directory moved to another file system."""
    plant(root, {"d/f": File(b"before"), "d/g": X})
    shutil.copytree(root, tmp_path / "other")
    (tmp_path / "other/d/f").write_bytes(b"other!")
    known = scans.scan(str(root), Filters(), Snapshot(), workers, Steps()).snapshot
    found = scans.scan(str(tmp_path / "other"), Filters(), known, workers, Steps())
    assert found.tree == described(on_disk(tmp_path / "other"))


def test_a_forgotten_file_alone_is_read_again(settled: None, root: Path, workers: Workers) -> None:
    plant(root, {"d/f": X, "d/g": X, "h": X})
    known = scans.scan(str(root), Filters(), Snapshot(), workers, Steps()).snapshot
    found = scans.scan(str(root), Filters(), forget(known, "d/f"), workers, Steps())
    assert found.hashed == 1
    assert dict(found.snapshot.records) == dict(known.records)
    assert forget(known, "gone/f") is known


def test_a_scan_of_an_unchanged_directory_decodes_and_hashes_nothing(
    settled: None, root: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(root, {f"d/{number % 9}/{number}": X for number in range(1500)} | {".git/HEAD": X})
    cache = Cache(str(tmp_path / "cache"))
    first = scans.scan(str(root), Filters(), Snapshot(), workers, Steps())
    cache.save_snapshot(str(root), first.snapshot)
    known = cache.snapshot(str(root))

    def refuse(*_: Any) -> Any:
        raise AssertionError("a chunk was read")

    chunks = tuple(replace(chunk, read=refuse) for chunk in known.tree.chunks)
    monkeypatch.setattr(scans, "update", lambda tree, *_: tree)
    found = scans.scan(
        str(root), Filters(), replace(known, tree=scans.ListedTree(chunks=chunks)), workers, Steps()
    )
    assert (found.is_unchanged, found.hashed, found.git_entries) == (True, 0, (".git",))
    assert len(chunks) > 1 and any(is_boundary(chunk.start) for chunk in chunks)


# --- Filters ---


@pytest.mark.parametrize("name", FILTERS)
def test_equal_filters_have_equal_keys(name: str) -> None:
    filters = FILTERS[name]
    assert replace(filters).key == filters.key
    assert len({other.key for other in FILTERS.values()}) == len(FILTERS)
    for other in (
        replace(filters, keep_git=True),
        replace(filters, excluded="a"),
        replace(filters, rules=parse_rules("!x", "r")),
        replace(filters, not_ignored=NotIgnored(frozenset({"z"}), frozenset())),
    ):
        assert other.key != filters.key


def test_the_order_of_rules_counts() -> None:
    one, other = (Filters(parse_rules(text, "r")) for text in ("a\n!b\nc", "a\nc\n!b"))
    assert one.key != other.key


def test_a_place_is_what_a_walk_would_find() -> None:
    filters = Filters(parse_rules("a\n!a/b/c", "r"), keep_git=True)
    assert place_at(filters, "").is_kept
    assert not place_at(filters, "a").is_kept
    assert not place_at(filters, "a/b").is_kept
    assert place_at(filters, "a/b/c").is_kept
    assert place_at(filters, "x/.git/refs").in_git
