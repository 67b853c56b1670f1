"""Unpack: take the wanted files of an image out of its layers, and write them into a workspace.

Worker processes unpack several layers at a time, each as soon as crane has fetched it and compared
its digest. The one with the manifest comes first, and alone: after an edit it has all that is
wanted.

A file is written only if its content is that of the manifest, so it does not matter which layer is
unpacked first. Whether the image shows this very file is decided from the top layer down.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import NamedTuple

from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Layer
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.tree import WHITEOUT, parents
from kontext_plugin.layer.compression import compression_of
from kontext_plugin.layer.reader import (
    ExportReader,
    max_export_bytes,
    max_layer_bytes,
    max_unpacked_bytes,
)
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers, thread_pool
from kontext_plugin.terminal.steps import Progress, Step, StepName, Steps
from kontext_plugin.workspace import File, OtherContent, Workspace

_PIECE = 1024 * 1024  # bytes of a blob that are read at a time

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

    Layers are kept in a scratch directory while they are unpacked. Those below the last wanted file
    are left alone. Raises KontextError where the image does not hold what its manifest says.
    """
    with steps.step(StepName.UNPACK) as step, scratch() as directory:
        fetch = _Fetch(crane, name, directory, step)
        unpacking = _Unpacking(workers, image, workspace, fetch, _save(wanted, directory))
        step.progress = Progress(total_files=len(wanted), total_bytes=unpacking.size)
        missing = set(wanted)
        try:
            with thread_pool(workers.count + 1) as threads:
                for unpacked in unpacking.results(threads):
                    _check(unpacked, missing)
                    before = len(missing)
                    missing.difference_update(unpacked.written)
                    step.advance(before - len(missing), 0)
                    if not missing:
                        break
                fetch.stop()
            if missing:
                raise ValueError(f"{min(missing)!r} is missing")
        except BaseException as error:
            fetch.stop()
            workers.end()
            workspace.clear(wanted)
            if isinstance(error, ValueError):
                raise KontextError(
                    f"{name} does not match its manifest: {error}",
                    hint="All files that were written do match. Push the image again with --fresh. "
                    "'docker kontext verify' shows everything that is wrong with it.",
                ) from error
            raise


def _save(wanted: Mapping[str, File], directory: str) -> str:
    """Return the path of a file that lists the wanted files for `unpack`."""
    path = os.path.join(directory, "wanted")
    with _explaining(directory), open(path, "wb") as file:
        pickle.dump([*map(tuple, wanted.values())], file)
    return path


def _check(unpacked: Unpacked, missing: Collection[str]) -> None:
    """Raise ValueError if a layer hides files that no layer above it has."""
    above = None
    for path, reason in unpacked.hidden.items():
        if path in missing:
            raise ValueError(reason)
        above = set(parents(missing)) if above is None else above
        if path in above:
            below = min(one for one in missing if one.startswith(f"{path}/"))
            raise ValueError(f"{below!r} is missing")


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
        lowest = max(image.height, 0) if lineage else 0
        layers = reversed(image.image.layers[lowest:])
        self._layers = [layer for layer in layers if layer.digest != image.image.extractor]
        self._first = len(self._layers) - len(image.lineage.layers)  # has the manifest
        self._limit = max_layer_bytes(image.lineage.content)
        if lineage is None:
            self._limit = max_export_bytes(image.manifest.tree)
            self._limit += max_unpacked_bytes(self._layers)
        self._workers = workers
        self._workspace = workspace
        self._fetch = fetch
        self._listing = listing

    @property
    def size(self) -> int:
        """The bytes of all layers."""
        return sum(layer.size for layer in self._layers)

    def results(self, threads: Executor) -> Iterator[Unpacked]:
        """Yield what the layers have, from the top down."""
        numbers = range(len(self._layers))
        self._workers.start(unpack, 1)
        yield from map(self._unpack, numbers[: self._first])
        self._workers.start(unpack, len(numbers))
        yield from threads.map(self._unpack, numbers[self._first :])

    def _unpack(self, number: int) -> Unpacked:
        layer = self._layers[number]
        blob = self._fetch(layer, f"{number}")
        place = self._workspace
        task = _Task(
            blob, layer.media_type, self._limit, place.root, place.temporary, self._listing
        )
        try:
            return self._workers.run(unpack, task)
        finally:
            os.unlink(blob)


class _Stopped(Exception):
    """Nothing else is wanted."""


class _Fetch:
    """Fetches layers into files of a directory, in any thread."""

    def __init__(self, crane: Crane, name: Reference, directory: str, step: Step) -> None:
        self._crane = crane
        self._name = name
        self._directory = directory
        self._step = step
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        """Fetch nothing else."""
        self._is_stopped.set()

    def __call__(self, layer: Layer, name: str) -> str:
        """Return the path of a new file with the layer's blob, whose digest is right.

        Raises KontextError, and ValueError for a blob of another size.
        """
        self._go_on()
        path, size = os.path.join(self._directory, name), 0
        with self._crane.blob(self._name.at(layer.digest), whole=True) as blob:
            for piece in iter(partial(blob.read, _PIECE), b""):
                self._go_on()
                size += len(piece)
                if size > layer.size:
                    break
                with _explaining(self._directory), open(path, "ab") as file:
                    file.write(piece)
                self._step.advance(0, len(piece))
        if size != layer.size:
            raise ValueError(f"its layer {layer.digest} has not {layer.size:,} bytes")
        self._go_on()
        return path

    def _go_on(self) -> None:
        if self._is_stopped.is_set():
            raise _Stopped


@contextlib.contextmanager
def _explaining(directory: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KontextError(
            f"a layer cannot be kept in {directory}: {error.strerror}",
            hint="Free some space there, or name another directory with KONTEXT_CACHE_DIR.",
        ) from error


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

    written: list[str]  # paths: they are in the workspace
    hidden: dict[str, str]  # other paths, also of directories, that layers below do not show; why


def unpack(task: _Task) -> Unpacked:
    """Write the wanted files of a layer that are as they should be.

    Raises KontextError where the workspace cannot be written, and ValueError for a damaged layer.
    """
    wanted, above = _read_listing(task.listing)
    written, hidden = list[str](), dict[str, str]()
    with open(task.blob, "rb") as blob, Workspace(task.root, task.temporary) as workspace:
        layer = ExportReader(compression_of(task.media_type).decompress(blob), task.limit)
        for entry in layer.entries():
            path, kind = entry.path, entry.kind
            directory, _, name = path.rpartition("/")
            if name.startswith(WHITEOUT):
                path = f"{directory}/{name[len(WHITEOUT) :]}".lstrip("/")
                if path in wanted or path in above:
                    hidden[path] = f"{path!r} is missing"
            elif path in hidden:
                pass
            elif file := wanted.get(path):
                try:
                    if kind != "file":
                        raise OtherContent(f"{path!r}: expected a file, found a {kind}")
                    if file.size not in (None, entry.size):
                        raise OtherContent(f"{path!r} has another size")
                    workspace.write(file, layer.content())
                    written.append(path)
                except OtherContent as error:
                    hidden[path] = str(error)
            elif path in above and kind != "directory":
                hidden[path] = f"{path!r}: expected a directory, found a {kind}"
    return Unpacked(written, hidden)


@lru_cache(maxsize=1)
def _read_listing(path: str) -> tuple[Mapping[str, File], frozenset[str]]:
    """Return the wanted files by their paths, and all directories above them."""
    with open(path, "rb") as file:
        wanted = {columns[0]: File(*columns) for columns in pickle.load(file)}
    return wanted, frozenset(parents(wanted))
