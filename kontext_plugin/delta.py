"""Layers: writes one that turns an image's sources into a tree, and reads the manifest off one.

The bytes depend on the trees alone: entries are sorted; owners, times and modes are fixed; and the
compressed stream is cut into blocks at fixed places.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Protocol

from kontext_plugin.diff import Changes
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Digest, Layer
from kontext_plugin.manifest import MANIFEST, MAX_BYTES, SOURCES, Entry, Tree
from kontext_plugin.sources import open_file

MTIME = 315532801
"""1980-01-01 00:00:01 UTC, as in Cloud Native Buildpacks: zip tools fail on times before 1980."""

# zlib-ng gives the same bytes on x86-64, with and without SSE4.2, and on arm64; ISA-L does not.
# At level 2 they do not depend on how the input is handed over either.
_LEVEL = 2
_THREADS = 2
_BLOCK = 1024 * 1024  # bytes of tar that are compressed on their own
_COPY = 1024 * 1024
_ZEROS = b"\0" * tarfile.BLOCKSIZE
END = _ZEROS * 2
"""What a tar archive ends with."""


class Sink(Protocol):
    """Where a layer goes: a file, or nowhere."""

    def write(self, data: bytes, /) -> object: ...


class _Counting:
    """Passes bytes on and knows what they were."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        self._sink.write(data)
        self._hash.update(data)
        self._size += len(data)

    def flush(self) -> None:
        """gzip_ng_threaded wants it; the sink's owner closes it."""

    def layer(self) -> Layer:
        return Layer(Digest("sha256:" + self._hash.hexdigest()), self._size)


def write_layer(sink: Sink, root: str, manifest: bytes, tree: Tree, changes: Changes) -> Layer:
    """Writes the gzip layer that brings an image from `changes`' old tree to `tree`.

    `manifest` is the new manifest.json and comes first. File contents are read below `root` and
    must be those that `tree` has. Raises KontextError if one is not, or cannot be read, and
    OSError if the sink takes no more.
    """
    return compress(sink, _tar(root, manifest, tree, changes))


def compress(sink: Sink, archive: Iterable[bytes]) -> Layer:
    """Writes the pieces of a tar archive as one gzip stream, and says what it came to."""
    from zlib_ng import gzip_ng_threaded  # only where a layer is written

    counting = _Counting(sink)
    with gzip_ng_threaded.open(  # type: ignore[no-untyped-call]
        counting, "wb", compresslevel=_LEVEL, threads=_THREADS, block_size=_BLOCK
    ) as compressed:
        pending = bytearray()
        for piece in archive:
            pending += piece
            while len(pending) >= _BLOCK:  # the cuts, and so the bytes, are ours to fix
                compressed.write(bytes(pending[:_BLOCK]))
                del pending[:_BLOCK]
        compressed.write(bytes(pending))
    return counting.layer()


def read_manifest(layer: IO[bytes]) -> bytes:
    """The manifest.json at the head of a gzip layer; little more of the stream is read.

    Raises ValueError where the layer does not begin with one of at most MAX_BYTES. The bytes are
    unchecked: a blob's digest is known only at its end.
    """
    try:
        with gzip.GzipFile(fileobj=layer) as stream:
            # One plain header, as write_layer makes it: extended headers could be of any size.
            header = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "strict")
            if header.name.lstrip("/") != MANIFEST or not header.isreg():
                raise ValueError("its top layer does not begin with a manifest")
            if header.size > MAX_BYTES:
                raise ValueError(f"its manifest is larger than {MAX_BYTES} bytes")
            content = stream.read(header.size)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"its top layer is damaged: {error}") from error
    if len(content) != header.size:
        raise ValueError("its top layer is damaged: it ends early")
    return content


def _tar(root: str, manifest: bytes, tree: Tree, changes: Changes) -> Iterator[bytes]:
    """The layer's tar archive (OCI image specification, layer.md), in pieces."""
    yield header(MANIFEST, tarfile.REGTYPE, 0o644, size=len(manifest))
    yield from padded([manifest], len(manifest))
    # Parents are always listed: `crane export` shows no entry for one that no layer has.
    for folder in _ancestors([MANIFEST, f"{SOURCES}/"]):
        yield header(folder, tarfile.DIRTYPE, 0o755)
    written = changes.written
    for path in sorted({*written, *_ancestors([*written, *changes.whiteouts])}):
        yield from _entry(root, tree.entry(path))
    for path in changes.whiteouts:
        folder, _, name = f"{SOURCES}/{path}".rpartition("/")
        yield header(f"{folder}/.wh.{name}", tarfile.REGTYPE, 0o644)
    yield END


def _entry(root: str, entry: Entry) -> Iterator[bytes]:
    name = f"{SOURCES}/{entry.path}"
    if entry.kind == "directory":
        yield header(name, tarfile.DIRTYPE, 0o755)
    elif entry.kind == "link":
        yield header(name, tarfile.SYMTYPE, 0o777, target=entry.target)
    else:
        mode = 0o755 if entry.executable else 0o644
        yield header(name, tarfile.REGTYPE, mode, size=entry.size)
        yield from padded(_content(root, entry), entry.size)


def header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    """A tar header that tells nothing of who made it, when and where."""
    info = tarfile.TarInfo(name)  # owner 0:0 without names is the default
    info.type = kind
    info.mode = mode
    info.size = size
    info.linkname = target
    info.mtime = MTIME
    # PAX, for long names, UTF-8 and sizes over 8 GiB.
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padded(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """A file's `size` bytes as a tar archive holds them."""
    yield from pieces
    yield _ZEROS[: -size % tarfile.BLOCKSIZE]


def _content(root: str, entry: Entry) -> Iterator[bytes]:
    """A file's bytes: all of them, and those that the tree was made from, or KontextError."""
    digest = hashlib.sha256()
    left = entry.size
    try:
        with open_file(root, entry.path) as file:
            while left and (piece := file.read(min(left, _COPY))):
                digest.update(piece)
                left -= len(piece)
                yield piece
    except OSError as error:
        raise _changed(entry.path, f"cannot be read any more: {error.strerror}") from error
    if left or digest.hexdigest() != entry.digest:
        raise _changed(entry.path, "changed while it was pushed")


def _changed(path: str, what: str) -> KontextError:
    return KontextError(
        f"{path!r} {what}; nothing was published",
        hint="Push again when nothing writes to the directory, or ignore the file.",
    )


def _ancestors(paths: Iterable[str]) -> list[str]:
    """All the directories above the paths, sorted: parents first."""
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return sorted(found)
