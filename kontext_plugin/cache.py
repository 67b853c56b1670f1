"""The cache: records that this machine keeps between pushes, and scratch directories.

The kinds of records, each with a directory and a pair of methods of its name:

| kind        | key            | content                                                    |
|-------------|----------------|------------------------------------------------------------|
| `stats`     | directory      | the stat cache: what the last scan has left (Snapshot)     |
| `published` | tag and digest | an image that this machine has pushed, or has read         |
| `pushed`    | none: one file | the last pushes: directory, tag, image, what changed       |
| `layers`    | none: one file | keys of sources that were written or checked here          |

A record is one file. It starts with the SHA-256 of the rest. A file that is damaged, that has
another version, or that belongs to another user counts as absent. Only the user may read the cache
(modes 0700 and 0600).

A scratch directory holds layers that a running command writes or unpacks. The command locks it; a
killed one leaves it unlocked, and the next command with one removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Collection, ItemsView, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any, Literal

from kontext_plugin import manifest
from kontext_plugin.errors import KontextError
from kontext_plugin.image.listing import Chunk, ListedTree, list_tree, tree_of_chunks
from kontext_plugin.image.oci import Digest, Image, Layer, config_from_document
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.docker_config import home_directory
from kontext_plugin.runtime.files import open_file
from kontext_plugin.source.snapshot import Snapshot

_STATS, _PUBLISHED, _PUSHED, _LAYERS = _KINDS = ("stats", "published", "pushed", "layers")

_SCRATCH = "scratch"

_PUSHED_VERSION = "kontext pushed 2"

_MAX_PUSHED = 500
"""Pushes that are remembered, with some 400 bytes for each."""

_LAYERS_VERSION = "kontext layers 1"

_MAX_LAYERS = 5000
"""Layers that are remembered."""

_MAX_PUBLISHED = 20
"""Images that are remembered: one of a large tree takes some megabytes."""

_MAX_SIZE = 1024 * 1024 * 1024
"""Bytes of a file, far more than any record has."""

_PIECE = 1024 * 1024  # bytes of a file that are read at a time

_CHECKSUM_SIZE = 64
"""Bytes: a SHA-256 in hexadecimal."""

_RECORD_NAME = re.compile(r"[0-9a-f]{64}")

_SCRATCH_PREFIX = "kontext-scratch-"

_SCRATCH_NAME = re.compile(_SCRATCH_PREFIX + r"[a-z0-9_]{8}")  # as tempfile.mkdtemp() names it

LayerOrigin = Literal["written", "checked"]
"""Why a layer of sources is trusted."""


class Content:
    """What follows the head of a record. It is read piece by piece: it may have 200 MB."""

    def __init__(self, file: int = -1, start: int = 0) -> None:
        self._file = file  # a descriptor that is closed with this object; -1: there is none
        self._start = start
        if file >= 0:
            weakref.finalize(self, os.close, file)

    @property
    def size(self) -> int:
        """The number of bytes. Raises OSError."""
        return os.fstat(self._file).st_size - self._start if self._file >= 0 else 0

    def read(self, offset: int, length: int) -> bytes:
        """Return so many bytes from `offset` on. Raises KontextError."""
        try:
            piece = os.pread(self._file, length, self._start + offset)
            if len(piece) != length:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        except OSError as error:
            raise KontextError(
                f"a file of the cache cannot be read any more: {error.strerror}",
                hint="Run 'docker kontext cache prune', and push again.",
            ) from error
        return piece


@dataclass(frozen=True)
class CacheEntry:
    """A record of the cache, or a scratch directory."""

    kind: str  # as in the table, or "scratch"
    size: int  # bytes
    saved: float  # seconds since 1970
    key: str = ""  # as in the table; "" if it is unknown


@dataclass(frozen=True)
class PushRecord:
    """A push of this machine, under one tag."""

    directory: str
    reference: str
    digest: Digest  # that the tag shows since then
    time: float = 0  # seconds since 1970
    generation: int = 0
    revision: str = ""  # the git commit that the image's label names
    parent: str = ""  # what it was built on, and why; "": nothing
    added: int = 0  # files; as the push has counted
    changed: int = 0
    removed: int = 0
    uploaded: int = 0  # bytes


def open_cache(*, read_only: bool = False) -> Cache:
    """Return the user's cache: KONTEXT_CACHE_DIR, else `kontext` in XDG_CACHE_HOME or ~/.cache.

    A read-only cache writes nothing, not even its directory.
    """
    root = os.environ.get("KONTEXT_CACHE_DIR")
    if not root:
        home = home_directory()
        parent = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else "")
        root = os.path.join(parent, "kontext") if parent else ""
    if not root:
        return Cache(None, problem="HOME is not set, and this user has no home directory")
    if root.startswith("~"):  # no shell has expanded it
        return Cache(None, problem=f"{root!r} is no path: write it out")
    root = os.path.realpath(root)
    if read_only:
        return Cache(root, read_only=True)
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
    except OSError as error:
        return Cache(None, problem=f"{root} cannot be made: {error.strerror}")
    if not os.access(root, os.W_OK | os.X_OK):
        return Cache(None, problem=f"{root} cannot be written")
    return Cache(root)


@dataclass(frozen=True)
class Cache:
    """A cache in the directory `root`. If that is None, nothing is kept, and nothing fails."""

    root: str | None
    read_only: bool = False
    problem: str = field(default="", compare=False)  # why there is none

    # --- The kinds of records ---

    def snapshot(self, directory: str) -> Snapshot:
        """Return the stat cache of a directory, from its last push on this machine."""
        return decode_snapshot(*self._read(_STATS, directory))

    def snapshot_size(self, directory: str) -> int:
        """Return the bytes of a directory's stat cache; 0: there is none."""
        path = self._path(_STATS, directory)
        try:
            return os.stat(path).st_size if path else 0
        except OSError:
            return 0

    def save_snapshot(self, directory: str, snapshot: Snapshot) -> None:
        """Keep the stat cache of a directory."""
        self._write(_STATS, directory, *encode_snapshot(snapshot))

    def published(self, reference: str, digest: Digest) -> KontextImage | None:
        """Return the image that was saved for `reference`, if the tag showed `digest` then."""
        return decode_image(*self._read(_PUBLISHED, f"{reference}@{digest}"), digest)

    def save_published(self, reference: str, image: KontextImage) -> None:
        """Keep the image under a tag. It has a configuration and its history."""
        record, listing = encode_image(image)
        self._write(_PUBLISHED, f"{reference}@{image.digest}", record, listing)
        self._limit_published()

    def pushed(self) -> list[PushRecord]:
        """Return the last pushes of this machine, the latest first."""
        record, _ = self._read(_PUSHED, "")
        try:
            if record["version"] != _PUSHED_VERSION:
                return []
            return [_push_record(entry) for entry in record["pushed"]]
        except (ValueError, LookupError, TypeError):
            return []

    def save_pushed(self, records: Iterable[PushRecord]) -> None:
        """Keep pushes, before those of earlier pushes.

        An image that was pushed before, to any tag, keeps the facts of its first push.
        """
        with self._locked():
            self._save_pushed(records)

    def _save_pushed(self, records: Iterable[PushRecord]) -> None:
        before = {(record.reference, record.digest): record for record in self.pushed()}
        by_digest = {record.digest: record for record in before.values()}
        new = {}
        for record in records:
            key = (record.reference, record.digest)
            first = before.pop(key, by_digest.get(record.digest, record))
            new[key] = replace(
                first,
                directory=record.directory,
                reference=record.reference,
                time=record.time,
            )
        after = [asdict(record) for record in (*new.values(), *before.values())][:_MAX_PUSHED]
        self._write(_PUSHED, "", {"version": _PUSHED_VERSION, "pushed": after}, ())

    def forget_layers(self, layers: Collection[Digest]) -> None:
        """Remove the images that have one of these layers: no push of this machine builds on them.

        Raises KontextError.
        """
        if self.root is None or self.read_only:
            return
        with self._explained():
            for kind, path in self._files():
                if kind == _PUBLISHED and _may_have_layers(_load(path)[0], layers):
                    with contextlib.suppress(FileNotFoundError):  # another push has removed it
                        os.unlink(path)

    def layers(self, how: LayerOrigin) -> frozenset[Digest]:
        """Return the top layers of sources of images that are known to be as their manifests say.

        This machine has written all of their layers, or has checked them.
        """
        return frozenset(self._layer_lists()[how])

    def save_layers(self, how: LayerOrigin, layers: Iterable[Digest]) -> None:
        """Keep the digests of such layers."""
        with self._locked():
            lists = self._layer_lists()
            new = [layer for layer in layers if layer not in lists[how]]
            if new:
                lists[how] = [*new, *lists[how]][:_MAX_LAYERS]
                self._write(_LAYERS, "", {"version": _LAYERS_VERSION} | {**lists}, ())

    def _layer_lists(self) -> dict[LayerOrigin, list[Digest]]:
        record, _ = self._read(_LAYERS, "")
        try:
            if record["version"] == _LAYERS_VERSION:
                written, checked = record["written"], record["checked"]
                return {"written": [*map(Digest, written)], "checked": [*map(Digest, checked)]}
        except (LookupError, TypeError):
            pass
        return {"written": [], "checked": []}

    # --- All entries ---

    def entries(self) -> list[CacheEntry]:
        """Return all records and scratch directories. Raises KontextError."""
        entries = []
        with self._explained():
            for kind, path in self._files():
                with contextlib.suppress(FileNotFoundError):
                    status, (record, _) = os.lstat(path), _load(path)
                    key = str(record.get("key", ""))
                    entries.append(CacheEntry(kind, status.st_size, status.st_mtime, key))
            for scratch in _find_scratch(self.root) if self.root else ():
                with contextlib.suppress(FileNotFoundError):
                    saved = os.lstat(scratch).st_mtime
                    entries.append(CacheEntry(_SCRATCH, _directory_size(scratch), saved))
        return entries

    def prune(self) -> int:
        """Remove all records, and the scratch directories of pushes that do not run any more.

        Returns the bytes that they took. Raises KontextError.
        """
        freed = 0
        with self._explained():
            for _, path in self._files():
                with contextlib.suppress(FileNotFoundError):
                    size = os.lstat(path).st_size
                    os.unlink(path)
                    freed += size
            return freed + (_sweep_scratch(self.root) if self.root else 0)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """Yield a private directory, which is removed after the block. Raises KontextError.

        Also removes the directories that killed pushes have left. A machine without a cache has its
        scratch directories where other programs have their temporary files.
        """
        parent = self.root or tempfile.gettempdir()
        try:
            if self.root:
                os.makedirs(parent, mode=0o700, exist_ok=True)
                _sweep_scratch(parent)
            directory, lock = _make_scratch(parent)
        except OSError as error:
            raise KontextError(
                f"no temporary directory can be made in {parent}: {error.strerror}",
                hint="Name another directory in KONTEXT_CACHE_DIR, or in TMPDIR if there is no "
                "cache.",
            ) from error
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)

    # --- Files ---

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and path of each record, and of no file that is not Kontext's."""
        for kind in _KINDS if self.root else ():
            directory = os.path.join(self.root or "", kind)
            if os.path.islink(directory) or not os.path.isdir(directory):
                continue
            with os.scandir(directory) as items:
                for item in items:
                    if _RECORD_NAME.fullmatch(item.name) and item.is_file(follow_symlinks=False):
                        yield kind, item.path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process change a record that is read and written again."""
        if self.root is None or self.read_only:
            yield
            return
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                directory = os.open(self.root, os.O_RDONLY)
                stack.callback(os.close, directory)
                fcntl.flock(directory, fcntl.LOCK_EX)
            yield

    def _limit_published(self) -> None:
        """Remove the oldest images beyond _MAX_PUBLISHED: each commit may have its own tag."""
        if self.root is None or self.read_only:
            return
        with contextlib.suppress(OSError), os.scandir(os.path.join(self.root, _PUBLISHED)) as items:
            found = [item.path for item in items if _RECORD_NAME.fullmatch(item.name)]
            if len(found) > _MAX_PUBLISHED:
                found.sort(key=os.path.getmtime, reverse=True)
                for path in found[_MAX_PUBLISHED:]:
                    os.unlink(path)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise KontextError(f"the cache {self.root} cannot be used: {error.strerror}") from error

    def _path(self, kind: str, key: str) -> str | None:
        if self.root is None:
            return None
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return os.path.join(self.root, kind, name)

    def _read(self, kind: str, key: str) -> tuple[dict[str, Any], Content]:
        """Return a record and the content that follows it, both empty if there is no good file."""
        path = self._path(kind, key)
        return _load(path) if path else ({}, Content())

    def _write(
        self, kind: str, key: str, record: Mapping[str, Any], content: Iterable[bytes]
    ) -> None:
        """Replace a file as a whole. A failure is ignored: the next push is slower."""
        path = self._path(kind, key)
        if path is None or self.read_only:
            return
        with contextlib.suppress(OSError, KontextError), self.scratch() as directory:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            temporary = os.path.join(directory, "new")
            checksum = hashlib.sha256()
            with open(temporary, "wb", opener=_open_private) as file:
                file.write(bytes(_CHECKSUM_SIZE))
                head = json.dumps({"key": key, **record})  # the file's name does not show its key
                for piece in chain([head.encode(), b"\n"], content):
                    checksum.update(piece)
                    file.write(piece)
                file.seek(0)
                file.write(checksum.hexdigest().encode())
            os.replace(temporary, path)


def _push_record(entry: Mapping[str, Any]) -> PushRecord:
    """Return a record of a push. Raises TypeError or ValueError for one of another shape."""
    record = PushRecord(**entry)
    record = replace(record, time=float(record.time))
    for name, kind in _PUSH_TYPES.items():
        if type(getattr(record, name)) is not kind:
            raise TypeError(name)
    if not 0 <= record.time < _LAST_TIME:
        raise ValueError("time")
    return record


_PUSH_TYPES: dict[str, type] = {
    "directory": str,
    "reference": str,
    "digest": str,
    "time": float,
    "generation": int,
    "revision": str,
    "parent": str,
    "added": int,
    "changed": int,
    "removed": int,
    "uploaded": int,
}

_LAST_TIME = 1e11  # seconds since 1970: the year 5138


def _load(path: str) -> tuple[dict[str, Any], Content]:
    """Return a record and the content that follows it, both empty if the file is no good one."""
    try:
        with os.fdopen(open_file(path, _MAX_SIZE, own=True), "rb") as file:
            expected, head = file.read(_CHECKSUM_SIZE), file.readline()
            checksum = hashlib.sha256(head)
            while piece := file.read(_PIECE):
                checksum.update(piece)
            if checksum.hexdigest().encode() == expected:
                record = json.loads(head)
                if isinstance(record, dict):
                    return record, Content(os.dup(file.fileno()), _CHECKSUM_SIZE + len(head))
    except (OSError, ValueError, RecursionError):
        pass
    return {}, Content()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


# --- Scratch directories ---


def _make_scratch(parent: str) -> tuple[str, int]:
    """Make a scratch directory. Return its path, and the open descriptor that holds its lock.

    Raises OSError.
    """
    while True:
        path = tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=parent)
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # another push has swept it before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return path, lock
        os.close(lock)


def _sweep_scratch(parent: str) -> int:
    """Remove the scratch directories that no process has locked. Return the bytes that they took.

    Raises OSError.
    """
    freed = 0
    for path in _find_scratch(parent):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    freed += _directory_size(path)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
    return freed


def _find_scratch(parent: str) -> list[str]:
    """Return the paths of the scratch directories in `parent`. Raises OSError."""
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return []
    return [os.path.join(parent, name) for name in names if _SCRATCH_NAME.fullmatch(name)]


def _directory_size(path: str) -> int:
    """Return the bytes of all files in a directory, without those that vanish meanwhile."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


# --- How records are encoded: pure ---

_STATS_VERSION = "kontext stats 3"


def encode_snapshot(snapshot: Snapshot) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return an index of the stat cache, and what it has: records, and chunks of the tree."""
    records = snapshot.records
    index = {
        "version": _STATS_VERSION,
        "filters": snapshot.filters,
        "folders": [*records],
        "lengths": [*map(len, records.values())],
        **_index_of(snapshot.tree),
    }
    return index, chain(records.values(), (chunk.read() for chunk in snapshot.tree.chunks))


def decode_snapshot(index: Mapping[str, Any], content: Content) -> Snapshot:
    """Return the stat cache; empty if the record is absent, damaged, or of another version."""
    try:
        if index["version"] != _STATS_VERSION:
            return Snapshot()
        starts = [0, *accumulate(index["lengths"])]
        records = _Records(
            dict(zip(index["folders"], pairwise(starts), strict=True)),
            content,
        )
        return Snapshot(_tree_of(index, content, starts[-1]), records, index["filters"])
    except (ValueError, LookupError, TypeError):
        return Snapshot()


class _Records(Mapping[str, bytes]):
    """The records of directories, read when they are needed."""

    def __init__(self, places: Mapping[str, tuple[int, int]], content: Content) -> None:
        self._places = places  # where each begins and ends
        self._content = content

    def __getitem__(self, path: str) -> bytes:
        start, end = self._places[path]
        return self._content.read(start, end - start)

    def items(self) -> ItemsView[str, bytes]:
        """All records, read at once."""
        size = max((end for _, end in self._places.values()), default=0)
        content = self._content.read(0, size)
        return {path: content[start:end] for path, (start, end) in self._places.items()}.items()

    def __contains__(self, path: object) -> bool:
        return path in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _index_of(tree: ListedTree) -> dict[str, Any]:
    """Return what a record says of the chunks that follow it."""
    return {
        "starts": [chunk.start for chunk in tree.chunks],
        "chunks": [
            [
                chunk.digest,
                chunk.length,
                chunk.files,
                chunk.directories,
                chunk.links,
                chunk.size,
            ]
            for chunk in tree.chunks
        ],
    }


def _tree_of(index: Mapping[str, Any], content: Content, offset: int) -> ListedTree:
    """Return the tree whose chunks follow. Raises ValueError, LookupError and TypeError."""
    chunks: list[Chunk] = []
    for start, (digest, length, files, directories, links, size) in zip(
        index["starts"], index["chunks"], strict=True
    ):
        read = partial(content.read, offset, length)
        chunks.append(Chunk(start, Digest(digest), length, files, directories, links, size, read))
        offset += length
    if offset != content.size:
        raise ValueError("it has more or less than its head says")
    return tree_of_chunks(chunks)


_IMAGE_VERSION = "kontext published 5"


def encode_image(held: KontextImage) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return the record of an image, and the chunks of its listing if the manifest has parts.

    The image has a configuration and its history.
    """
    image, listed = held.image, held.manifest
    assert held.config is not None
    record: dict[str, Any] = {
        "version": _IMAGE_VERSION,
        "digest": held.digest,
        "image": image.digest,
        "platforms": held.platforms,
        "extractor": image.extractor,
        "base": [image.base, image.base_name],
        "replaces": image.replaces,
        "layers": [[layer.digest, layer.size, layer.media_type] for layer in image.layers],
        "manifest": image.manifest,
        "config": held.config.document(),
        "document": json.loads(manifest.encode(listed)),
        "reverse": {
            ancestor.part.digest: manifest.reverse_columns(ancestor.reverse_delta)
            for ancestor in (listed.lineage.ancestors if listed.lineage else ())
            if ancestor.part and ancestor.reverse_delta is not None
        },
    }
    if not listed.parts:
        return record, iter(())
    tree = list_tree(listed.tree)
    return record | _index_of(tree), (chunk.read() for chunk in tree.chunks)


def _may_have_layers(record: Mapping[str, Any], layers: Collection[Digest]) -> bool:
    """Whether the record of an image has one of these layers, or is of another shape."""
    try:
        return any(digest in layers for digest, *_ in record["layers"])
    except (LookupError, TypeError, ValueError):
        return True


def decode_image(
    record: Mapping[str, Any], listing: Content, digest: Digest
) -> KontextImage | None:
    """Return the image `digest`; None if the record is absent, damaged, or of another image."""
    try:
        if record["version"] != _IMAGE_VERSION or record["digest"] != digest:
            return None
        base, base_name = record["base"]
        image = Image(
            digest=Digest(record["image"]),
            layers=tuple(
                Layer(Digest(layer), size, kind) for layer, size, kind in record["layers"]
            ),
            manifest=Digest(record["manifest"]),
            extractor=record["extractor"] and Digest(record["extractor"]),
            base=base and Digest(base),
            base_name=base_name,
            replaces=record["replaces"],
        )
        tree = _tree_of(record, listing, 0) if "chunks" in record else None
        held = manifest.restore(record["document"], record["reverse"], tree)
        config, platforms = config_from_document(record["config"]), tuple(record["platforms"])
        return KontextImage(digest, image, held, config, platforms, is_cached=True)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
