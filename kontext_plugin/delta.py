"""Layers: writes one that turns an image's sources into a tree, and reads documents off its head.

The bytes depend on the trees alone: entries are sorted; owners, times and modes are fixed.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Protocol

from kontext_plugin import tar
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Digest, Layer
from kontext_plugin.manifest import MANIFEST, MAX_VALUES, SOURCES, is_document
from kontext_plugin.sources import Sources
from kontext_plugin.tree import WHITEOUT, Entry, Tree, parents

# zlib-ng gives the same bytes on x86-64, with and without SSE4.2, and on arm64; ISA-L does not.
# At level 2 they do not depend on how the input is handed over either.
_LEVEL = 2
_BLOCK = 256 * 1024  # bytes of tar that are compressed at a time
_COPY = 256 * 1024
# RFC 1952: deflate, no flags, no time, no hint, of an unknown system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_GZIP = 16 + zlib.MAX_WBITS  # what zlib calls it
_INPUT = 16 * 1024  # bytes of a packed stream that are read at a time
_MOST_EMPTY = 1024 * 1024


Watcher = Callable[[str, Iterator[bytes]], Iterator[bytes]]
"""Sees a file's path and the pieces of its content, and passes these on as they are."""


class Sink(Protocol):
    """Where a layer goes: a file, or nowhere."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Content:
    """What a layer holds."""

    documents: Mapping[str, bytes]  # the manifest and parts of it, by their names in the image
    written: tuple[str, ...]  # paths of the tree
    whiteouts: tuple[str, ...] = ()
    besides: bytes = b""  # archive entries that lie outside of the sources


@dataclass(frozen=True)
class Written:
    layer: Layer
    diff_id: Digest  # of the archive, uncompressed (OCI image specification, config.md)


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

    def layer(self) -> Layer:
        return Layer(Digest("sha256:" + self._hash.hexdigest()), self._size)


def write_layer(
    sink: Sink, root: str, tree: Tree, content: Content, watcher: Watcher | None = None
) -> Written:
    """Writes a gzip layer: the documents first, then what `tree` has at the written paths.

    File contents are read below `root` and must be those that `tree` has. Raises KontextError if
    one is not, or cannot be read, and OSError if the sink takes no more.
    """
    try:
        sources = Sources(root)
    except OSError as error:
        raise _changed(root, f"cannot be read any more: {error.strerror}") from error
    with sources:
        return compress(sink, _tar(sources, tree, content, watcher))


def compress(sink: Sink, archive: Iterable[bytes]) -> Written:
    """Writes the pieces of a tar archive as one gzip stream, and says what it came to.

    By this thread alone: where there is much to write, other processes write other layers.
    """
    from zlib_ng import zlib_ng  # 10 ms

    counting, plain, checksum, size = _Counting(sink), hashlib.sha256(), 0, 0
    deflate = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, -zlib_ng.MAX_WBITS)
    counting.write(_GZIP_HEADER)
    for block in _blocks(archive):
        plain.update(block)
        checksum = zlib_ng.crc32(block, checksum)
        size += len(block)
        counting.write(deflate.compress(block))
    counting.write(deflate.flush())
    counting.write(struct.pack("<II", checksum, size % 2**32))
    return Written(counting.layer(), Digest("sha256:" + plain.hexdigest()))


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces, put together to what is worth a call."""
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        pending.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield b"".join(pending)
            pending, size = [], 0
    yield b"".join(pending)


@dataclass
class Budget:
    """How much may be read of documents in all, from whatever layers."""

    left: int  # bytes
    values: int = MAX_VALUES

    def take(self, size: int) -> None:
        """Raises ValueError where that is too much."""
        self.left -= tar.BLOCKSIZE + size
        if size < 0 or self.left < 0:
            raise _too_large()

    def weigh(self, document: bytes) -> None:
        """Raises ValueError where it has more values than may be: three bytes can make one, and
        Python takes a hundred for it. Commas and brackets in names are counted as well."""
        self.values -= sum(map(document.count, (b",", b"[", b"{")))
        if self.values < 0:
            raise _too_large()


def _too_large() -> ValueError:
    return ValueError("its manifest is too large to be read")


class _Unpacked:
    """A gzip stream, unpacked as far as it is read. Raises zlib.error where it is damaged."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._inflate = zlib.decompressobj(_GZIP)
        self._pending = b""
        self._empty = 0  # bytes that were read, less those that came of them

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        made = bytearray()
        while len(made) < size and (self._pending or self._more()):
            piece = self._inflate.decompress(self._pending, size - len(made))
            made += piece
            self._empty -= len(piece)
            self._pending = self._inflate.unconsumed_tail or self._inflate.unused_data
            if self._inflate.eof:  # RFC 1952: another member may follow
                self._inflate = zlib.decompressobj(_GZIP)
        return bytes(made)

    def _more(self) -> bytes:
        # Members, blocks and names of a header may go on without end, and nothing come of them.
        if self._empty > _MOST_EMPTY:
            raise zlib.error("nothing comes of it")
        self._pending = self._packed.read(_INPUT)
        self._empty += len(self._pending)
        return self._pending


def documents(layer: IO[bytes], budget: Budget) -> Iterator[tuple[str, bytes]]:
    """The documents at the head of a gzip layer, each with its name; little more is read.

    Raises ValueError where the layer is damaged, or the budget is at its end. The bytes are
    unchecked: a blob's digest is known only at its end.
    """
    try:
        stream = _Unpacked(layer)
        # Plain headers, as write_layer makes them: extended ones could be of any size.
        while header := _header(stream.read(tar.BLOCKSIZE)):
            budget.take(header.size)
            content = stream.read(header.size)
            if len(content) != header.size:
                raise EOFError("it ends early")
            budget.weigh(content)
            stream.read(-header.size % tar.BLOCKSIZE)
            yield header.name.lstrip("/"), content
    except (tarfile.TarError, zlib.error, EOFError, OSError, UnicodeError) as error:
        raise ValueError(f"its layer is damaged, or no gzip: {error}") from error


def manifest_of(documents: Iterator[tuple[str, bytes]]) -> bytes:
    """The manifest.json that a layer begins with. Raises ValueError."""
    name, content = next(documents, ("", b""))
    if name != MANIFEST:
        raise ValueError("its top layer does not begin with a manifest")
    return content


def _header(block: bytes) -> tarfile.TarInfo | None:
    """That of a document, or nothing where others begin."""
    header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    return header if header.isreg() and is_document(header.name.lstrip("/")) else None


def _tar(
    sources: Sources, tree: Tree, content: Content, watcher: Watcher | None
) -> Iterator[bytes]:
    """The layer's tar archive (OCI image specification, layer.md), in pieces."""
    for name, document in content.documents.items():
        yield tar.header(name, tar.REGTYPE, 0o644, size=len(document))
        yield from tar.padded([document], len(document))
    yield content.besides
    # Parents are always listed: `crane export` shows no entry for one that no layer has.
    for folder in parents([*content.documents, f"{SOURCES}/"]):
        yield tar.header(folder, tar.DIRTYPE, 0o755)
    for path in sorted({*content.written, *parents([*content.written, *content.whiteouts])}):
        yield from _entry(sources, tree.entry(path), watcher)
    for path in content.whiteouts:
        folder, _, name = f"{SOURCES}/{path}".rpartition("/")
        yield tar.header(f"{folder}/{WHITEOUT}{name}", tar.REGTYPE, 0o644)
    yield tar.END


def _entry(sources: Sources, entry: Entry, watcher: Watcher | None) -> Iterator[bytes]:
    name = f"{SOURCES}/{entry.path}"
    if entry.kind == "directory":
        yield tar.header(name, tar.DIRTYPE, 0o755)
    elif entry.kind == "link":
        yield tar.header(name, tar.SYMTYPE, 0o777, target=entry.target)
    else:
        mode = 0o755 if entry.executable else 0o644
        yield tar.header(name, tar.REGTYPE, mode, size=entry.size)
        pieces = _content(sources, entry)
        yield from tar.padded(watcher(entry.path, pieces) if watcher else pieces, entry.size)


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
