"""TODO."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kontext_plugin.image.oci import Digest, Layer

# zlib-ng gives the same bytes on x86-64, with and without SSE4.2, and on arm64; ISA-L does not.
# At level 2 they do not depend on how the input is handed over either.
_LEVEL = 2

_BLOCK = 256 * 1024  # bytes of tar that are compressed at a time

# RFC 1952: deflate, no flags, no time, no hint, of an unknown system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


class Sink(Protocol):
    """Where a layer goes: a file, or nowhere."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Compressed:
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


def compress_layer(sink: Sink, archive: Iterable[bytes]) -> Compressed:
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
    return Compressed(counting.layer(), Digest("sha256:" + plain.hexdigest()))


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
