"""Staging: layers of a directory that changes between the scan and the writing of the layers."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_registry import FakeRegistry, push_session
from support.models import described
from support.trees import Directory, File, Link, Tree, in_archive, on_disk, plant, remove

from kontext_plugin import delta
from kontext_plugin.delta import SourceMoved
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import REVISION
from kontext_plugin.push import layers as layers_module
from kontext_plugin.push import partition as partition_module
from kontext_plugin.push import prepare as prepare_module
from kontext_plugin.push import stage as stage_module
from kontext_plugin.push.layers import StagedLayers, WriteOptions, WrittenLayer, write_lower
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.push.partition import Partition
from kontext_plugin.push.plan import Plan
from kontext_plugin.push.prepare import Prepared, prepare
from kontext_plugin.push.session import PushSession
from kontext_plugin.push.stage import stage
from kontext_plugin.source import entries, hashing, scan

TAG = parse_reference("host.io/repo:t")
DIR = Directory()

EVERY = -(10**15)
"""Nanoseconds, for scan._RACY: every file gets a record, however new it is."""

TREE: Tree = {
    "a": DIR,
    "a/f": File(b"f"),
    "a/g": File(b"g"),
    "d": DIR,
    "d/e": DIR,
    "d/e/f": File(b"e"),
    "l": Link("a/f"),
    "run": File(b"#!/bin/sh\n", executable=True),
    **{f"n/{number:03}": File(b"%d" % number * 100) for number in range(60)},
    "n": DIR,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    plant(tmp_path / "root", TREE)
    return tmp_path / "root"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[PushSession]:
    registry = FakeRegistry(tmp_path / "registry")
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN", ls=b"", push=b"")
    with push_session(registry, tmp_path / "cache") as session:
        yield session


@pytest.fixture(params=["one layer", "by workers", "read once", "one layer, unread"])
def layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Cut the tree into several layers, or into one; read it before or while they are written."""
    if request.param in ("by workers", "read once"):
        monkeypatch.setattr(partition_module, "CHUNK_BYTES", 5000)
    if request.param in ("read once", "one layer, unread"):
        monkeypatch.setattr(prepare_module, "READ_ONCE", 0)
    return str(request.param)


def prepared(session: PushSession, root: Path) -> Prepared:
    return prepare(session, PushOptions((TAG,), directory=str(root)))


def content(layers: StagedLayers) -> Tree:
    """Return the tree that the layers of a fresh start make."""
    found: Tree = {}
    for layer in layers.all:
        found |= in_archive(io.BytesIO(gzip.decompress(Path(layer.path).read_bytes())))
    return found


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        remove(root / "a/f")
        make(root / "a/f")

    return change


CHANGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda root: (root / "a/f").unlink(),
    "written": lambda root: (root / "a/f").write_bytes(b"other"),
    "emptied": lambda root: (root / "a/f").write_bytes(b""),
    "saved by an editor": lambda root: (
        (root / "a/.f.tmp").write_bytes(b"saved"),
        (root / "a/.f.tmp").rename(root / "a/f"),
    ),
    "renamed": lambda root: (root / "a/f").rename(root / "d/e/renamed"),
    "a link": replaced_by(lambda path: path.symlink_to("g")),
    "a dangling link": replaced_by(lambda path: path.symlink_to("nowhere")),
    "a directory": replaced_by(lambda path: (path.mkdir(), (path / "x").write_bytes(b"x"))),
    "its directory is gone": lambda root: remove(root / "a"),
    "its directory is a file": lambda root: (remove(root / "a"), (root / "a").touch()),
    "its directory is a link": lambda root: (
        (root / "a").rename(root / "d/moved"),
        (root / "a").symlink_to("d/moved"),
    ),
    "all is gone": lambda root: [remove(path) for path in root.iterdir()],
    "executable, and written": lambda root: (
        (root / "a/f").write_bytes(b"other"),
        (root / "a/f").chmod(0o755),
    ),
    "many": lambda root: [path.write_bytes(b"new") for path in (root / "n").iterdir()],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_before_its_layer_is_written_is_pushed_as_it_is_then(
    change: Callable[[Path], object],
    layers: str,
    session: PushSession,
    root: Path,
    scratch: Path,
) -> None:
    """Image, manifest and layers agree, and have the bytes of a push that begins afterwards."""
    before = prepared(session, root)
    change(root)
    after, staged = stage(session, before, str(scratch))
    assert staged is not None
    now = on_disk(root)
    assert content(staged) == now
    assert staged.manifest.tree == described(now)
    assert after.plan.tree == staged.manifest.tree
    again, same = stage(session, prepared(session, root), "")
    assert same is not None
    assert again.plan.tree == after.plan.tree
    assert same.root == staged.root
    assert [one.layer for one in same.all] == [one.layer for one in staged.all]


def test_the_first_push_of_a_large_directory_reads_each_file_once(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the image that a push makes which reads the files before it writes them."""
    monkeypatch.setattr(partition_module, "CHUNK_BYTES", 5000)
    monkeypatch.setattr(prepare_module, "READ_ONCE", 0)
    with monkeypatch.context() as patch:
        patch.setattr(scan, "hash_files", lambda *_: pytest.fail("read before"))
        before = prepared(session, root)
        assert before.scan.unread
        after, staged = stage(session, before, str(scratch))
    monkeypatch.setattr(prepare_module, "READ_ONCE", 10**9)
    _, twice = stage(session, prepared(session, root), "")
    assert twice is not None and staged is not None
    assert staged.lower and content(staged) == on_disk(root)
    assert after.scan.hashed == sum(isinstance(node, File) for node in TREE.values())
    assert (staged.root, staged.sources(after.plan)) == (twice.root, twice.sources(after.plan))


def test_a_file_that_changes_where_its_layer_would_be_cut_makes_the_same_image(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_module, "CHUNK_BYTES", 5000)
    monkeypatch.setattr(prepare_module, "READ_ONCE", 0)
    before = prepared(session, root)
    (root / "a/f").write_bytes(b"f" * 20_000)
    after, staged = stage(session, before, str(scratch))
    assert staged is not None and content(staged) == on_disk(root)
    monkeypatch.setattr(prepare_module, "READ_ONCE", 10**9)
    _, same = stage(session, prepared(session, root), "")
    assert same is not None and same.sources(after.plan) == staged.sources(after.plan)


def test_what_does_not_change_is_read_once(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(session, root)
    monkeypatch.setattr(scan, "scan", lambda *_: pytest.fail("scanned again"))
    assert stage(session, before, str(scratch))[0] is before


def test_nothing_of_the_copies_stays(session: PushSession, root: Path, scratch: Path) -> None:
    before = prepared(session, root)
    (root / "a/f").write_bytes(b"other")
    stage(session, before, str(scratch))
    assert session.cache.root is not None
    assert not [name for name in os.listdir(session.cache.root) if "scratch" in name]


def test_a_file_that_changes_each_time_its_layer_is_written_is_published(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler writes its objects again and again. Each version holds still for a while."""
    before = prepared(session, root)
    write, contents = layers_module.write_layer, iter(range(100))

    def write_after_a_change(*arguments: Any, **options: Any) -> Any:
        (root / "a/f").write_bytes(b"version %d" % next(contents))
        return write(*arguments, **options)

    monkeypatch.setattr(layers_module, "write_layer", write_after_a_change)
    _, staged = stage(session, before, str(scratch))
    assert staged is not None
    assert content(staged)["a/f"] == File(b"version 0")
    assert next(contents) == 2


def test_a_new_path_changes_in_each_attempt(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt fails for another file than the one before, so it comes to an end."""
    monkeypatch.setattr(scan, "_RACY", EVERY)
    before = prepared(session, root)
    write, numbers = layers_module.write_layer, iter(range(0, 60, 7))

    def write_after_a_change(*arguments: Any, **options: Any) -> Any:
        for number in numbers:
            (root / f"n/{number:03}").unlink()
            (root / f"n/new-{number}").write_bytes(b"new")
            break
        return write(*arguments, **options)

    monkeypatch.setattr(layers_module, "write_layer", write_after_a_change)
    _, staged = stage(session, before, str(scratch))
    assert staged is not None
    assert content(staged) == on_disk(root)
    assert described(content(staged)) == staged.manifest.tree


def test_a_change_that_no_file_system_tells_of_is_found(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """earthly/earthly#2317: a file of the same size and time had its old content for ever.

    Here the cache knows another content for the very same status, as after a write through a
    shared memory map or over a network.
    """
    monkeypatch.setattr(scan, "_RACY", EVERY)
    before = prepared(session, root)
    session.cache.save_snapshot(str(root), before.scan.snapshot)
    status = (root / "a/f").stat()
    real = hashing.signature_of(status)
    (root / "a/f").write_bytes(b"X")
    signature_of = hashing.signature_of

    def old_signature(status: os.stat_result) -> bytes:
        return real if status.st_ino == ino else signature_of(status)

    ino = status.st_ino
    monkeypatch.setattr(hashing, "signature_of", old_signature)
    monkeypatch.setattr(entries, "signature_of", old_signature)
    assert prepared(session, root).plan.tree == before.plan.tree, "nothing tells of the change"
    after, staged = stage(session, before, str(scratch))
    assert staged is not None
    assert content(staged) == on_disk(root)
    session.cache.save_snapshot(str(root), after.scan.snapshot)
    assert prepared(session, root).plan.tree == described(on_disk(root)), "the cache knows now"


def test_a_file_that_becomes_unreadable_is_named(
    session: PushSession, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(session, root)
    open_file = delta.DirTree.open_file

    def refuse(self: delta.DirTree, path: str) -> int:
        if path == "a/f":
            raise PermissionError(13, "Permission denied")
        return open_file(self, path)

    monkeypatch.setattr(delta.DirTree, "open_file", refuse)
    with pytest.raises(KontextError, match="'a/f': cannot be read: Permission denied"):
        stage(session, before, "")


def test_a_directory_that_is_gone_is_an_error(session: PushSession, root: Path) -> None:
    before = prepared(session, root)
    remove(root)
    with pytest.raises(KontextError, match="root': cannot be read: No such file"):
        stage(session, before, "")


def test_a_fresh_start_stays_fresh_and_has_the_labels_of_the_second_scan(
    session: PushSession, root: Path, scratch: Path, layers: str
) -> None:
    """The commit's label must not be one of a clean tree if the image has a later edit."""
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    before = prepared(session, root)
    assert not before.plan.labels[REVISION].endswith("-dirty")
    (root / "a/f").write_bytes(b"edited")
    after, _ = stage(session, before, str(scratch))
    assert after.plan.labels[REVISION] == before.plan.labels[REVISION] + "-dirty"
    assert after.plan.parent == before.plan.parent
    assert isinstance(after.plan.parent, StartFresh)


def test_a_worker_that_still_writes_a_layer_of_before_does_no_harm(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers of the next try have places of their own."""
    before = prepared(session, root)
    places: list[str] = []

    def move_first(
        session: PushSession, plan: Plan, divided: Partition, options: WriteOptions
    ) -> Iterator[tuple[int, WrittenLayer]]:
        places.append(options.directory)
        if len(places) == 1:
            raise SourceMoved("it has moved", path="a/f")
        return write_lower(session, plan, divided, options)

    monkeypatch.setattr(stage_module, "write_lower", move_first)
    _, staged = stage(session, before, str(scratch))
    assert staged is not None
    first, second = places
    assert first != second
    assert not Path(first).exists(), "it takes no room any more"
    for layer in staged.all:
        assert Path(layer.path).parent == Path(second)
        assert digest_of(Path(layer.path).read_bytes()) == layer.layer.digest


def test_the_smallest_layer_is_there_first_and_then_the_largest(
    session: PushSession, root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line the first one goes up while the others are written."""
    monkeypatch.setattr(partition_module, "CHUNK_BYTES", 5000)
    before = prepared(session, root)
    assert before.partition is not None
    written = write_lower(
        session, before.plan, before.partition, WriteOptions(str(root), str(scratch))
    )
    sizes = [before.plan.tree.size_of(before.partition.lower[number]) for number, _ in written]
    assert len(sizes) > 3
    assert sizes == [min(sizes), *sorted(sizes, reverse=True)[:-1]]
