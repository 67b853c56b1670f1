"""Watchers: what they tell of a directory, each with the same changes."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kontext_plugin.source import watcher
from kontext_plugin.source.watcher import (
    NOTHING,
    CannotWatch,
    KernelWatcher,
    PathWatcher,
    PollingWatcher,
    Touched,
    Watcher,
)


def is_skipped(directory: str, name: str, is_directory: bool) -> bool:
    return name == "skipped"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a/b/c").mkdir(parents=True)
    (root / "skipped").mkdir()
    (root / "file").write_bytes(b"1")
    return root


@pytest.fixture(params=[KernelWatcher, PathWatcher])
def watching(root: Path, request: pytest.FixtureRequest) -> Iterator[Watcher]:
    """KernelWatcher is for Linux. PathWatcher is for macOS, and works here as well."""
    watching = request.param(str(root), [str(root.parent / "rules")], is_skipped)
    time.sleep(0.2)
    while watching.wait(0.05) != NOTHING:  # what the test itself has made
        pass
    yield watching
    watching.close()


def told(watching: Watcher, seconds: float = 5) -> Touched:
    """Return all that is told until nothing comes for half a second."""
    touched: Touched = watching.wait(seconds)
    while touched is not None and (more := watching.wait(0.5)) != NOTHING:
        touched = None if more is None else touched | more
    return touched


CHANGES: dict[str, tuple[Callable[[Path], object], frozenset[str]]] = {
    "root": (lambda root: (root / "file").write_bytes(b"2"), frozenset({""})),
    "deep": (lambda root: (root / "a/b/c/new").touch(), frozenset({"a/b/c"})),
    "two": (
        lambda root: ((root / "a/x").touch(), (root / "a/b/x").touch()),
        frozenset({"a", "a/b"}),
    ),
    "mode": (lambda root: (root / "file").chmod(0o700), frozenset({""})),
    "outside": (lambda root: (root.parent / "rules").write_bytes(b"x"), frozenset({""})),
    "directory": (lambda root: (root / "a/b").rename(root / "d"), frozenset({"", "a"})),
}


@pytest.mark.parametrize(("change", "directories"), CHANGES.values(), ids=CHANGES)
def test_the_directory_of_each_change_is_told(
    watching: Watcher, root: Path, change: Callable[[Path], object], directories: frozenset[str]
) -> None:
    change(root)
    touched = told(watching)
    assert touched is None or touched >= directories


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "skipped/file").touch(),
        lambda root: (root / "a/skipped").touch(),
        lambda root: (root.parent / "other").touch(),
    ],
    ids=["in a skipped directory", "skipped file", "beside the root"],
)
def test_what_is_skipped_wakes_nobody(
    watching: Watcher, root: Path, change: Callable[[Path], object]
) -> None:
    change(root)
    assert watching.wait(0.5) == NOTHING


def test_a_replaced_directory_is_told_with_all_below(root: Path) -> None:
    """Its entries may be named as those before, so its record alone shows no difference."""
    watching = KernelWatcher(str(root), (), is_skipped)
    shutil.copytree(root / "a", root.parent / "new")
    shutil.rmtree(root / "a")
    (root.parent / "new").rename(root / "a")
    assert watching.wait(5) == {"", "a", "a/b", "a/b/c"}
    (root / "a/b/c/file").touch()
    assert watching.wait(5) == {"a/b/c"}
    watching.close()


def test_a_directory_that_was_moved_out_is_no_longer_watched(root: Path) -> None:
    watching = KernelWatcher(str(root), (), is_skipped)
    (root / "a/b").rename(root.parent / "out")
    assert watching.wait(5) == {"a", "a/b", "a/b/c"}
    (root.parent / "out/c/file").touch()
    assert watching.wait(0.3) == NOTHING
    watching.close()


def test_a_root_that_comes_back(root: Path) -> None:
    watching = KernelWatcher(str(root), (), is_skipped)
    root.rename(root.parent / "away")
    assert watching.wait(5) is None
    root.mkdir()
    assert watching.wait(5) is None
    (root / "file").touch()
    assert watching.wait(5) == {""}
    watching.close()


def test_a_burst_of_paths_ends_with_a_look_at_everything(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """watchfiles drops what tells of lost events (its issue 348)."""
    monkeypatch.setattr(watcher, "_SETTLES", 0.3)
    watching = PathWatcher(str(root), (), is_skipped)
    (root / "file").write_bytes(b"2")
    assert watching.wait(5) == {""}
    assert watching.wait(5) is None
    assert watching.wait(0.5) == NOTHING
    watching.close()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "fs.inotify.max_user_watches"),
        (errno.EMFILE, "fs.inotify.max_user_instances"),
    ],
)
def test_a_limit_of_the_kernel(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    """Debian allows a user fewer watches than a large directory needs."""

    made = []

    def refuse(inotify: watcher._Inotify, *_: object) -> int:
        made.append(inotify)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(watcher._Inotify, "add", refuse)
    with pytest.raises(CannotWatch, match=reason):
        KernelWatcher(str(root), (), is_skipped)
    assert [inotify._file for inotify in made] == [-1], "what cannot be used is closed"


def test_polling_rests_ten_times_as_long_as_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def has_changed() -> bool:
        nonlocal now
        looks.append(now)
        now += 1
        return len(looks) == 3

    monkeypatch.setattr(watcher.time, "sleep", sleep)
    monkeypatch.setattr(watcher.time, "monotonic", lambda: now)
    watching = PollingWatcher(has_changed, 2)
    assert watching.wait(None) is None
    assert looks == [2, 13, 24]
    assert watching.wait(1) == NOTHING


@pytest.mark.parametrize(
    ("kind", "tells"),
    [("ext4", True), ("overlay", True), ("nfs4", False), ("fuse.sshfs", False), ("9p", False)],
)
def test_file_systems_that_tell_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: str, tells: bool
) -> None:
    monkeypatch.setattr(watcher, "_file_system_of", lambda _: kind)
    assert watcher.tells_changes("/anywhere") is tells


def test_the_file_system_of_a_directory() -> None:
    assert watcher._file_system_of("/proc") == "proc"
    assert watcher._file_system_of("/nowhere") == ""
