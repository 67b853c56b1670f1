"""Unpack: take the wanted files of an image out of its layers, and write them into a workspace.

Worker processes unpack several layers at a time, each as soon as crane has fetched it and compared
its digest. The one with the manifest comes before those below, and alone: after an edit it has all
that is wanted.

A file is written only if its content is that of the manifest, so it does not matter which layer is
unpacked first. Whether the image shows this very file is decided from the top layer down, by the
rules of the OCI image specification (layer.md). What consumers disagree about is an error.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from typing import IO, NamedTuple

from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Layer
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.tree import OPAQUE, hidden_by, parents
from kontext_plugin.layer.compression import compression_of
from kontext_plugin.layer.reader import (
    ExportReader,
    max_export_bytes,
    max_layer_bytes,
    max_unpacked_bytes,
)
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.files import explaining_scratch
from kontext_plugin.runtime.workers import Workers, thread_pool
from kontext_plugin.terminal.steps import Step, StepName, Steps
from kontext_plugin.workspace import File, OtherContent, Workspace

_PIECE = 1024 * 1024  # bytes of a blob that are read at a time

_KEEP = "a layer cannot be kept in"

_MOST_AT_ONCE = 4
"""Layers. Each process lists all wanted files: 1,000,000 take 400 MB."""

Scratch = Callable[[], AbstractContextManager[str]]
"""Gives a private directory, which goes after the block."""


def files_of(image: KontextImage) -> list[File]:
    """Return the regular files of an image. Version 1 of the manifest lists no sizes."""
    tree = image.manifest.tree
    return [
        File(
            path,
            tree.files[path],
            tree.sizes[path] if image.manifest.lineage else None,
            path in tree.executable,
        )
        for path in sorted(tree.sizes)
    ]


def write_files(
    crane: Crane,
    workers: Workers,
    scratch: Scratch,
    name: Reference,
    image: KontextImage,
    workspace: Workspace,
    wanted: Mapping[str, File],
    steps: Steps,
) -> None:
    """Write the wanted files of an image into a workspace, which has their directories.

    Layers are kept in a scratch directory until they are unpacked. No layer counts that is below
    the last wanted file. Raises KontextError where the image does not show what its manifest says.
    """
    with steps.step(StepName.UNPACK) as step, scratch() as directory:
        fetch = _Fetch(crane, name, directory, step)
        unpacking = _Unpacking(workers, image, workspace, fetch, _save(wanted, directory))
        step.progress = replace(step.progress, total_files=len(wanted))
        missing = set(wanted)
        try:
            with thread_pool(_MOST_AT_ONCE + 1) as threads:
                for unpacked in unpacking.results(threads):
                    step.advance(_take(unpacked, missing), 0)
                    if not missing:
                        raise _Enough
            raise ValueError(f"{min(missing)!r} is missing")
        except _Enough:
            pass
        except ValueError as error:
            raise KontextError(
                f"{name} does not match its manifest: {error}",
                hint="All files that were written do match. Push the image again with --fresh. "
                "'docker kontext verify' shows everything that is wrong with it.",
            ) from error
        finally:
            fetch.stop()
            workers.end()
            if unpacking.unfinished:
                workspace.clear(wanted)


def _save(wanted: Mapping[str, File], directory: str) -> str:
    """Return the path of a file that lists the wanted files for `unpack`."""
    path = os.path.join(directory, "wanted")
    with explaining_scratch(_KEEP, directory), open(path, "wb") as file:
        pickle.dump([*map(tuple, wanted.values())], file)
    return path


def _take(unpacked: Unpacked, missing: set[str]) -> int:
    """Take what a layer has from what is missing, and return how many files that are.

    Raises ValueError if the layer hides files that neither it nor a layer above it has.
    """
    for path, reason in unpacked.wrong.items():
        if path in missing:
            raise ValueError(reason)
    before = len(missing)
    missing -= unpacked.written
    above = {"", *parents(missing)} if missing and unpacked.hidden else set()
    for path in unpacked.hidden:
        if path in missing or path in above:
            below = f"{path}/" if path else ""
            lost = min(one for one in missing if one == path or one.startswith(below))
            raise ValueError(f"{lost!r} is missing")
    return before - len(missing)


class _Unpacking:
    """The layers of an image on their way into a workspace."""

    def __init__(
        self,
        workers: Workers,
        image: KontextImage,
        workspace: Workspace,
        fetch: _Fetch,
        listing: str,
    ) -> None:
        lineage = image.manifest.lineage
        self._layers = image.image.layers[max(image.height, 0) if lineage else 0 :][::-1]
        self._alone = max(len(self._layers) - len(image.lineage.layers), 0)
        self._limit = max_layer_bytes(image.lineage.content)
        if lineage is None:
            self._limit = max_export_bytes(image.manifest.tree)
            self._limit += max_unpacked_bytes(self._layers)
        self._workers = workers
        self._workspace = workspace
        self._fetch = fetch
        self._listing = listing
        self.unfinished: list[Layer] = []  # a worker may still write files of these

    def results(self, threads: Executor) -> Iterator[Unpacked]:
        """Yield what the layers have, from the top down.

        All down to the one with the manifest are unpacked one by one.
        """
        first, rest = self._layers[: self._alone], self._layers[self._alone :]
        self._workers.start(unpack, 1)
        self._fetch.expect(first)
        yield from map(self._unpack, first)
        if rest:
            self._workers.start(unpack, min(len(rest), _MOST_AT_ONCE))
            self._fetch.expect(rest)
            yield from threads.map(self._unpack, rest)

    def _unpack(self, layer: Layer) -> Unpacked:
        if layer.size > self._limit:
            raise ValueError(f"its layer {layer.digest} is too large")
        blob = self._fetch(layer)
        place = self._workspace
        task = _Task(
            blob, layer.media_type, self._limit, place.root, place.temporary, self._listing
        )
        self.unfinished.append(layer)
        unpacked = self._workers.run(unpack, task)
        self.unfinished.remove(layer)
        os.unlink(blob)
        return unpacked


class _Enough(Exception):
    """Nothing is wanted any more."""


class _Fetch:
    """Fetches layers into files of a directory, in any thread."""

    def __init__(self, crane: Crane, name: Reference, directory: str, step: Step) -> None:
        self._crane = crane
        self._name = name
        self._directory = directory
        self._step = step
        self._lock = threading.Lock()  # for what follows
        self._is_stopped = False
        self._count = 0  # files

    def expect(self, layers: Iterable[Layer]) -> None:
        """Count the bytes of these layers as still to be done."""
        done = self._step.progress
        more = sum(layer.size for layer in layers)
        self._step.progress = replace(done, total_bytes=done.total_bytes + more)

    def stop(self) -> None:
        """Make no other file, so that the directory can be removed."""
        with self._lock:
            self._is_stopped = True

    def __call__(self, layer: Layer) -> str:
        """Return the path of a new file with the layer's blob, whose digest is right.

        Raises KontextError, and ValueError for a blob of another size.
        """
        size, name = 0, self._name.at(layer.digest)
        with self._new_file() as file, self._crane.blob(name, whole=True) as blob:
            while piece := blob.read(_PIECE):
                size += len(piece)
                if size > layer.size:
                    raise ValueError(f"its layer {layer.digest} has more than {layer.size} bytes")
                if self._is_stopped:
                    raise _Enough
                with explaining_scratch(_KEEP, self._directory):
                    file.write(piece)
                self._step.advance(0, len(piece))
        if size < layer.size:
            raise ValueError(f"its layer {layer.digest} has only {size} bytes")
        return file.name

    def _new_file(self) -> IO[bytes]:
        with self._lock, explaining_scratch(_KEEP, self._directory):
            if self._is_stopped:
                raise _Enough
            self._count += 1
            return open(os.path.join(self._directory, f"{self._count}"), "wb")


# --- In a worker ---


class _Task(NamedTuple):
    """A layer to unpack."""

    blob: str  # the path of its file
    media_type: str
    limit: int  # bytes, unpacked
    root: str  # of the workspace
    temporary: str  # how temporary names begin there
    listing: str  # the path of a file with all wanted files


class Unpacked(NamedTuple):
    """What a layer has of the wanted files."""

    written: set[str]  # paths: they are in the workspace
    wrong: dict[str, str]  # paths that it has, but not as wanted, and how
    hidden: set[str]  # paths, also of directories, that layers below cannot show


def unpack(task: _Task) -> Unpacked:
    """Write the files of a layer that are as wanted, also those that a layer above hides.

    Raises KontextError where the workspace cannot be written, and ValueError for a layer that is
    damaged, or that consumers would show differently.
    """
    wanted, above = _read_listing(task.listing)
    written, wrong, hidden = set[str](), dict[str, str](), set[str]()
    opaque = set[str]()
    with open(task.blob, "rb") as blob, Workspace(task.root, task.temporary) as workspace:
        layer = ExportReader(compression_of(task.media_type).decompress(blob), task.limit)
        for entry in layer.entries():
            directory, _, name = entry.path.rpartition("/")
            if name == OPAQUE:
                opaque.add(directory)
                continue
            target = hidden_by(entry.path)
            path = target or entry.path
            if path in written or path in wrong or path in hidden:
                raise ValueError(f"it has {path!r} twice")
            if target or (path in above and entry.kind != "directory"):
                if path in wanted or path in above:
                    hidden.add(path)
            elif file := wanted.get(path):
                try:
                    if entry.kind != "file":
                        raise OtherContent(f"{path!r}: expected a file, found a {entry.kind}")
                    if file.size not in (None, entry.size):
                        raise OtherContent(f"{path!r} has another size")
                    workspace.write(file, layer.content())
                    written.add(path)
                except OtherContent as error:
                    wrong[path] = str(error)
    for path in hidden.intersection(parents(written)):
        raise ValueError(f"it has something below {path!r}, and hides it")
    return Unpacked(written, wrong, hidden | (opaque & above))


@lru_cache(maxsize=1)
def _read_listing(path: str) -> tuple[Mapping[str, File], frozenset[str]]:
    """Return the wanted files by their paths, and all directories above them."""
    with open(path, "rb") as file:
        wanted = {columns[0]: File(*columns) for columns in pickle.load(file)}
    return wanted, frozenset(["", *parents(wanted)])
