"""Layers: writes one that turns an image's sources into a tree, and reads the manifest off one.

The bytes depend on the trees alone: entries are sorted; owners, times and modes are fixed; and the
compressed stream is cut into blocks at fixed places.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Protocol

from kontext_plugin import tar
from kontext_plugin.diff import Changes
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Digest, Layer
from kontext_plugin.manifest import MANIFEST, MAX_BYTES, SOURCES
from kontext_plugin.sources import Sources
from kontext_plugin.tree import WHITEOUT, Entry, Tree

# zlib-ng gives the same bytes on x86-64, with and without SSE4.2, and on arm64; ISA-L does not.
# At level 2 they do not depend on how the input is handed over either.
_LEVEL = 2
_THREADS = 2
_BLOCK = 4 * 1024 * 1024  # bytes of tar that one thread compresses at a time
_COPY = 1024 * 1024
# RFC 1952: deflate, no flags, no time, no hint, of an unknown system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


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


def write_layer(
    sink: Sink, root: str, manifest: bytes, tree: Tree, changes: Changes, besides: bytes = b""
) -> Layer:
    """Writes the gzip layer that brings an image from `changes`' old tree to `tree`.

    `manifest` is the new manifest.json and comes first, then `besides`, archive entries that lie
    outside of the sources. File contents are read below `root` and
    must be those that `tree` has. Raises KontextError if one is not, or cannot be read, and
    OSError if the sink takes no more.
    """
    try:
        sources = Sources(root)
    except OSError as error:
        raise _changed(root, f"cannot be read any more: {error.strerror}") from error
    with sources:
        return compress(sink, _tar(sources, manifest, tree, changes, besides))


def compress(sink: Sink, archive: Iterable[bytes]) -> Layer:
    """Writes the pieces of a tar archive as one gzip stream, and says what it came to."""
    counting = _Counting(sink)
    blocks = _blocks(archive)
    first = next(blocks)
    if len(first) < _BLOCK:
        from zlib_ng import zlib_ng

        counting.write(_GZIP_HEADER + zlib_ng.compress(first, _LEVEL, wbits=-15))
        counting.write(struct.pack("<II", zlib.crc32(first), len(first)))
        return counting.layer()

    from zlib_ng import gzip_ng_threaded  # its threads take 50 ms to end

    with gzip_ng_threaded.open(  # type: ignore[no-untyped-call]
        counting, "wb", compresslevel=_LEVEL, threads=_THREADS, block_size=_BLOCK
    ) as compressed:
        compressed.write(first)
        for block in blocks:
            compressed.write(block)
    return counting.layer()


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces in blocks of one size, of which the last may be smaller, even empty.

    The cuts, and so the compressed bytes, are ours to fix.
    """
    pending = bytearray()
    for piece in pieces:
        pending += piece
        while len(pending) >= _BLOCK:
            yield bytes(pending[:_BLOCK])
            del pending[:_BLOCK]
    yield bytes(pending)


def read_manifest(layer: IO[bytes]) -> bytes:
    """The manifest.json at the head of a gzip layer; little more of the stream is read.

    Raises ValueError where the layer does not begin with one of at most MAX_BYTES. The bytes are
    unchecked: a blob's digest is known only at its end.
    """
    try:
        with gzip.GzipFile(fileobj=layer) as stream:
            # One plain header, as write_layer makes it: extended headers could be of any size.
            header = tarfile.TarInfo.frombuf(stream.read(tar.BLOCKSIZE), "utf-8", "strict")
            if header.name.lstrip("/") != MANIFEST or not header.isreg():
                raise ValueError("its top layer does not begin with a manifest")
            if not 0 <= header.size <= MAX_BYTES:
                raise ValueError(f"its manifest is larger than {MAX_BYTES} bytes")
            content = stream.read(header.size)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"its top layer is damaged: {error}") from error
    if len(content) != header.size:
        raise ValueError("its top layer is damaged: it ends early")
    return content


def _tar(
    sources: Sources, manifest: bytes, tree: Tree, changes: Changes, besides: bytes
) -> Iterator[bytes]:
    """The layer's tar archive (OCI image specification, layer.md), in pieces."""
    yield tar.header(MANIFEST, tar.REGTYPE, 0o644, size=len(manifest))
    yield from tar.padded([manifest], len(manifest))
    yield besides
    # Parents are always listed: `crane export` shows no entry for one that no layer has.
    for folder in _ancestors([MANIFEST, f"{SOURCES}/"]):
        yield tar.header(folder, tar.DIRTYPE, 0o755)
    written = changes.written
    for path in sorted({*written, *_ancestors([*written, *changes.whiteouts])}):
        yield from _entry(sources, tree.entry(path))
    for path in changes.whiteouts:
        folder, _, name = f"{SOURCES}/{path}".rpartition("/")
        yield tar.header(f"{folder}/{WHITEOUT}{name}", tar.REGTYPE, 0o644)
    yield tar.END


def _entry(sources: Sources, entry: Entry) -> Iterator[bytes]:
    name = f"{SOURCES}/{entry.path}"
    if entry.kind == "directory":
        yield tar.header(name, tar.DIRTYPE, 0o755)
    elif entry.kind == "link":
        yield tar.header(name, tar.SYMTYPE, 0o777, target=entry.target)
    else:
        mode = 0o755 if entry.executable else 0o644
        yield tar.header(name, tar.REGTYPE, mode, size=entry.size)
        yield from tar.padded(_content(sources, entry), entry.size)


def _content(sources: Sources, entry: Entry) -> Iterator[bytes]:
    """A file's bytes: all of them, and those that the tree was made from, or KontextError."""
    digest = hashlib.sha256()
    left = entry.size
    try:
        file = sources.file(entry.path)
        try:
            while left and (piece := os.read(file, min(left, _COPY))):
                digest.update(piece)
                left -= len(piece)
                yield piece
        finally:
            os.close(file)
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
