"""How a layer is compressed: one type an algorithm, chosen here.

A Compression has a name, the media type of its layers, `compress` and `decompress`. Everything
else asks it, so another algorithm is one more class and an entry in two tables.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, ClassVar, Protocol, cast

from kontext_plugin.image.oci import GZIP_LAYER, ZSTD_LAYER, Digest, Layer

_BLOCK = 1024 * 1024  # bytes of an archive that are compressed at a time
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


@dataclass(frozen=True)
class Gzip:
    """Deflate by libdeflate, in gzip members of 1 MiB of the archive each (RFC 1952).

    libdeflate gives the same bytes on every processor; ISA-L does not.
    """

    level: int = 1  # up to 12: 20 times slower, 10 % smaller

    name: ClassVar = "gzip"
    media_type: ClassVar = GZIP_LAYER

    def compress(self, sink: Sink, archive: Iterable[bytes]) -> Compressed:
        """Compress in this thread alone: other processes compress other layers."""
        from deflate import gzip_compress  # 1 ms

        counter, plain = _Counter(sink), hashlib.sha256()
        for block in _blocks(archive):
            plain.update(block)
            counter.write(bytes(gzip_compress(block, self.level)))
        return counter.compressed(self.media_type, plain)

    def decompress(self, layer: Source) -> Source:
        return _Gunzip(layer)


class Zstd:
    """Zstandard at level 2, in one frame (RFC 8878)."""

    name = "zstd"
    media_type = ZSTD_LAYER

    _LEVEL = 2

    def compress(self, sink: Sink, archive: Iterable[bytes]) -> Compressed:
        """Compress in this thread alone, as Gzip does."""
        from zstandard import ZstdCompressor  # 10 ms

        counter, plain = _Counter(sink), hashlib.sha256()
        frame = ZstdCompressor(level=self._LEVEL).compressobj()
        for block in _blocks(archive):
            plain.update(block)
            counter.write(frame.compress(block))
        counter.write(frame.flush())
        return counter.compressed(self.media_type, plain)

    def decompress(self, layer: Source) -> Source:
        return _Unzstd(layer)


GZIP, ZSTD = Gzip(), Zstd()

DEFAULT: Compression = GZIP
"""What a push compresses its layers with, unless it is told otherwise."""

_BY_NAME: dict[str, Compression] = {GZIP.name: GZIP, ZSTD.name: ZSTD}

COMPRESSIONS = tuple(_BY_NAME)
"""The names of the algorithms, the default first."""

_BY_MEDIA_TYPE: dict[str, Compression] = {
    GZIP.media_type: GZIP,
    # Docker's name for the same (Image Manifest Version 2, Schema 2).
    "application/vnd.docker.image.rootfs.diff.tar.gzip": GZIP,
    ZSTD.media_type: ZSTD,
}


def compression_named(name: str) -> Compression:
    """Return the algorithm with one of the names in COMPRESSIONS."""
    return _BY_NAME[name]


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

    def compressed(self, media_type: str, plain: hashlib._Hash) -> Compressed:
        """Describe the layer that went through; `plain` is the hash of its archive."""
        layer = Layer(Digest("sha256:" + self._hash.hexdigest()), self.size, media_type)
        return Compressed(layer, Digest("sha256:" + plain.hexdigest()))


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Cut an archive into blocks of one size, the last one smaller; at least one.

    So the bytes of a layer do not depend on how the archive was read.
    """
    pending: list[bytes] = []
    size = 0  # of what is pending
    has_block = False
    for piece in pieces:
        pending.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            joined = b"".join(pending)
            end = size - size % _BLOCK
            for start in range(0, end, _BLOCK):
                yield joined[start : start + _BLOCK]
            pending, size = [joined[end:]], size - end
            has_block = True
    if size or not has_block:
        yield b"".join(pending)


class _Gunzip:
    """A gzip stream of any number of members, decompressed little further than it is read."""

    _WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to say gzip

    _AHEAD = 64 * 1024
    """Bytes that are decompressed at least: one call of zlib for many headers."""

    def __init__(self, stream: Source) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj(self._WINDOW)
        self._pending = b""
        self._idle = 0  # bytes that were read, less the bytes that came out
        self._plain = b""
        self._next = 0  # the first byte of that which was not returned yet

    def read(self, size: int) -> bytes:
        content = self._plain[self._next : self._next + size]
        self._next += len(content)
        if len(content) < size:
            self._plain = self._decompress(max(size - len(content), self._AHEAD))
            self._next = size - len(content)
            content += self._plain[: self._next]
        return content

    def _decompress(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
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


class _Unzstd:
    """Zstandard frames, decompressed only as far as they are read."""

    _MAX_WINDOW = 8 * 1024 * 1024
    """Bytes of memory that a frame may ask for: what RFC 8878 (3.1.1.1.2) recommends to support."""

    def __init__(self, stream: Source) -> None:
        from zstandard import ZstdDecompressor

        self._stream = stream
        self._idle = 0  # bytes that were read, less the bytes that came out
        decompressor = ZstdDecompressor(max_window_size=self._MAX_WINDOW)
        self._frames = decompressor.stream_reader(
            cast("IO[bytes]", _Reading(self._more)), read_size=_INPUT, read_across_frames=True
        )

    def read(self, size: int) -> bytes:
        from zstandard import ZstdError

        content = bytearray()
        try:
            while len(content) < size and (piece := self._frames.read(size - len(content))):
                content += piece
                self._idle -= len(piece)
        except ZstdError as error:
            raise ValueError(f"its layer is damaged, or not zstd: {error}") from error
        return bytes(content)

    def _more(self, size: int) -> bytes:
        # Empty frames and frames to skip could go on for ever.
        if self._idle > _MAX_IDLE:
            raise ValueError("its layer is damaged: nothing comes out of it")
        piece = self._stream.read(size)
        self._idle += len(piece)
        return piece


@dataclass(frozen=True)
class _Reading:
    """A function that reads, as an object with the method `read`."""

    read: Callable[[int], bytes]
