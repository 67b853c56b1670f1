"""How a layer is compressed: one type an algorithm, chosen here.

A Compression has a name, the media type of its layers, `compress` and `decompress`. Everything
else asks it, so a second algorithm is one more class and an entry in `_BY_MEDIA_TYPE`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kontext_plugin.image.oci import GZIP_LAYER, Digest, Layer

_BLOCK = 256 * 1024  # bytes of an archive that are compressed at a time
_INPUT = 16 * 1024  # bytes of a compressed stream that are read at a time

_MAX_IDLE = 1024 * 1024
"""Compressed bytes that may be read without a byte coming out."""


class Sink(Protocol):
    """Where compressed bytes go: an open file, or nowhere."""

    def write(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """A decompressed stream, read from its start."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, fewer at the end. Raises ValueError where the stream is damaged."""


@dataclass(frozen=True)
class Compressed:
    """What `compress` has written."""

    layer: Layer
    diff_id: Digest  # of the archive, uncompressed (OCI image specification, config.md)


class Compression(Protocol):
    """An algorithm: the same archive gives the same bytes on every machine."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str:
        """The media type of its layers (OCI image specification, media-types.md)."""

    def compress(self, sink: Sink, archive: Iterable[bytes]) -> Compressed:
        """Write the pieces of a tar archive to a sink. Raises OSError if the sink does."""

    def decompress(self, layer: Source) -> Source:
        """Open a layer's blob for reading."""


class Gzip:
    """Deflate by zlib-ng at level 2, in one gzip member (RFC 1952).

    zlib-ng gives the same bytes on x86-64, with and without SSE4.2, and on arm64; ISA-L does not.
    At level 2 the bytes do not depend on how the input is divided either.
    """

    name = "gzip"
    media_type = GZIP_LAYER

    _LEVEL = 2
    _HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no flags, no time, unknown system

    def compress(self, sink: Sink, archive: Iterable[bytes]) -> Compressed:
        """Compress in this thread alone: other processes compress other layers."""
        from zlib_ng import zlib_ng  # 10 ms

        counter, plain, checksum, size = _Counter(sink), hashlib.sha256(), 0, 0
        deflate = zlib_ng.compressobj(self._LEVEL, zlib_ng.DEFLATED, -zlib_ng.MAX_WBITS)
        counter.write(self._HEADER)
        for block in _blocks(archive):
            plain.update(block)
            checksum = zlib_ng.crc32(block, checksum)
            size += len(block)
            counter.write(deflate.compress(block))
        counter.write(deflate.flush())
        counter.write(struct.pack("<II", checksum, size % 2**32))
        layer = Layer(counter.digest(), counter.size, self.media_type)
        return Compressed(layer, Digest("sha256:" + plain.hexdigest()))

    def decompress(self, layer: Source) -> Source:
        return _Gunzip(layer)


GZIP = Gzip()

DEFAULT: Compression = GZIP
"""What a push compresses its layers with."""

_BY_MEDIA_TYPE: dict[str, Compression] = {
    GZIP.media_type: GZIP,
    # Docker's name for the same (Image Manifest Version 2, Schema 2).
    "application/vnd.docker.image.rootfs.diff.tar.gzip": GZIP,
}


def compression_of(media_type: str) -> Compression:
    """Return the algorithm of a layer. Raises ValueError for a media type that is unknown here."""
    try:
        return _BY_MEDIA_TYPE[media_type]
    except KeyError:
        raise ValueError(f"its layer has the media type {media_type[:100]!r}") from None


def is_known(media_type: str) -> bool:
    """Whether layers of a media type can be read."""
    return media_type in _BY_MEDIA_TYPE


class _Counter:
    """A sink that counts and hashes what goes through it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._sink.write(data)
        self._hash.update(data)
        self.size += len(data)

    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces into blocks that are worth a call."""
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        pending.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield b"".join(pending)
            pending, size = [], 0
    yield b"".join(pending)


class _Gunzip:
    """A gzip stream of any number of members, decompressed only as far as it is read."""

    _WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to say gzip

    def __init__(self, stream: Source) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj(self._WINDOW)
        self._pending = b""
        self._idle = 0  # bytes that were read, less the bytes that came out

    def read(self, size: int) -> bytes:
        content = bytearray()
        try:
            while len(content) < size and (self._pending or self._more()):
                piece = self._inflate.decompress(self._pending, size - len(content))
                content += piece
                self._idle -= len(piece)
                self._pending = self._inflate.unconsumed_tail or self._inflate.unused_data
                if self._inflate.eof:  # another member may follow
                    self._inflate = zlib.decompressobj(self._WINDOW)
        except zlib.error as error:
            raise ValueError(f"its layer is damaged, or not gzip: {error}") from error
        return bytes(content)

    def _more(self) -> bytes:
        # Empty members and blocks, and names in a header, could go on for ever.
        if self._idle > _MAX_IDLE:
            raise zlib.error("nothing comes out of it")
        self._pending = self._stream.read(_INPUT)
        self._idle += len(self._pending)
        return self._pending
