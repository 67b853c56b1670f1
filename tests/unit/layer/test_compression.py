"""Compression: an archive always gives the same bytes, and they are read as far as needed."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import subprocess
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zstandard import ZstdCompressionParameters, ZstdCompressor

from kontext_plugin.image.oci import GZIP_LAYER, ZSTD_LAYER, digest_of
from kontext_plugin.layer.compression import (
    COMPRESSIONS,
    DEFAULT,
    GZIP,
    ZSTD,
    Compression,
    compression_named,
    compression_of,
)

BLOCK = 4 * 1024 * 1024
TEXT = b"".join(b"line %d\n" % number for number in range(200_000))
NOISE = random.Random(1).randbytes(2 * BLOCK)
"""TEXT compresses well, NOISE does not at all. Together they are more than one block."""

# The choice of the algorithm


ALGORITHMS: dict[str, Compression] = {"gzip": GZIP, "zstd": ZSTD}

MEDIA_TYPES = {"gzip": GZIP_LAYER, "zstd": ZSTD_LAYER}


def unpacked(algorithm: Compression, blob: bytes) -> bytes:
    """What the usual program makes of a layer."""
    done = subprocess.run([algorithm.name, "-dc"], input=blob, capture_output=True, check=True)
    return done.stdout


def test_a_push_compresses_with_gzip() -> None:
    assert DEFAULT is GZIP
    assert COMPRESSIONS == ("gzip", "zstd")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_found_by_its_name_and_by_its_media_type(name: str) -> None:
    algorithm = ALGORITHMS[name]
    assert (algorithm.name, algorithm.media_type) == (name, MEDIA_TYPES[name])
    assert compression_named(name) is algorithm
    assert compression_of(MEDIA_TYPES[name]) is algorithm


@pytest.mark.parametrize(
    "media_type", [GZIP_LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip"]
)
def test_gzip_has_a_media_type_of_oci_and_one_of_docker(media_type: str) -> None:
    assert compression_of(media_type) is GZIP


UNKNOWN = {
    "uncompressed": "application/vnd.oci.image.layer.v1.tar",
    "upper case": GZIP_LAYER.upper(),
    "nothing": "",
    "long": "x" * 10_000,
}


@pytest.mark.parametrize("media_type", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_media_type_is_refused_by_its_name(media_type: str) -> None:
    with pytest.raises(ValueError, match="its layer has the media type") as raised:
        compression_of(media_type)
    assert repr(media_type[:100]) in str(raised.value)
    assert len(str(raised.value)) < 200


# Compressing


@pytest.mark.parametrize("name", ALGORITHMS)
@given(pieces=st.lists(st.binary(max_size=5000), max_size=5))
def test_the_result_describes_the_layer(name: str, pieces: list[bytes]) -> None:
    sink, algorithm = io.BytesIO(), ALGORITHMS[name]
    result = algorithm.compress(sink, pieces)
    content = sink.getvalue()
    assert (result.layer.digest, result.layer.size) == (digest_of(content), len(content))
    assert result.layer.media_type == MEDIA_TYPES[name]
    assert result.diff_id == digest_of(b"".join(pieces))
    assert algorithm.decompress(io.BytesIO(content)).read(100_000) == b"".join(pieces)


GOLDEN = {
    "gzip of nothing": (
        GZIP,
        b"",
        "81da0491c5af5635831f6a3febb5d9bfd66987ba3ecc42e58dc3d80938c25705",
    ),
    "gzip of text": (
        GZIP,
        TEXT,
        "e4944c9c08e83c4064059418106b0bf35a880d9e3ea0f6892d4d0c8c510337a0",
    ),
    "gzip of noise": (
        GZIP,
        NOISE,
        "dcbf663fa82d3cc92b27e410d4d3a59d0a011363c3523713c9b6120dbebff6c6",
    ),
    "zstd of nothing": (
        ZSTD,
        b"",
        "6fb8543883dafcc2ed0934866b8b3f775231f5b0933add08bf502e9e84944cbd",
    ),
    "zstd of text": (
        ZSTD,
        TEXT,
        "942d8a170927b38e883d6f92619715a2080411d12008a0cc8ec1a06fc76c75ff",
    ),
    "zstd of noise": (
        ZSTD,
        NOISE,
        "c10ea6ec673bb2c9816cef97170f1f3d6cfc85fe6af07d86e49d19b8c3d88b6b",
    ),
}


@pytest.mark.parametrize(("algorithm", "archive", "digest"), GOLDEN.values(), ids=GOLDEN)
def test_the_bytes_do_not_change(algorithm: Compression, archive: bytes, digest: str) -> None:
    """Other bytes cost each user one upload of everything; a new library may bring them."""
    sink = io.BytesIO()
    algorithm.compress(sink, [archive])
    assert hashlib.sha256(sink.getvalue()).hexdigest() == digest


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1])
def test_the_bytes_do_not_depend_on_the_pieces(algorithm: Compression, size: int) -> None:
    content = (NOISE[:1000] + TEXT + NOISE)[:size]
    outcomes = set()
    for piece in (1000, BLOCK - 1, BLOCK, 3 * BLOCK):
        sink = io.BytesIO()
        algorithm.compress(sink, (content[at : at + piece] for at in range(0, size, piece)))
        outcomes.add(sink.getvalue())
    (compressed,) = outcomes
    if algorithm is GZIP:
        assert compressed[:8] == b"\x1f\x8b\x08\0\0\0\0\0", "a name or a time"
    assert unpacked(algorithm, compressed) == content


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
@settings(max_examples=20)
@given(
    sizes=st.lists(st.sampled_from([1, 500, 4097, 65_537, 300_000, BLOCK - 1]), min_size=1),
    data=st.data(),
)
def test_the_bytes_do_not_depend_on_how_the_system_returns_them(
    algorithm: Compression, sizes: list[int], data: st.DataObject
) -> None:
    content = TEXT[: 2 * BLOCK] + NOISE[: BLOCK // 2] + TEXT
    whole, cut = io.BytesIO(), io.BytesIO()
    algorithm.compress(whole, [content])
    pieces, start = [], 0
    while start < len(content):
        pieces.append(content[start : start + data.draw(st.sampled_from(sizes))])
        start += len(pieces[-1])
        if len(pieces) > 40:
            pieces.append(content[start:])
            break
    algorithm.compress(cut, pieces)
    assert cut.getvalue() == whole.getvalue()


# Decompressing


def packed(algorithm: Compression, content: bytes) -> bytes:
    return gzip.compress(content) if algorithm is GZIP else ZstdCompressor().compress(content)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
@given(
    members=st.lists(st.binary(max_size=9000), max_size=4),
    sizes=st.lists(st.integers(1, 5000), min_size=1),
)
def test_a_stream_is_read_in_pieces_of_any_size(
    algorithm: Compression, members: list[bytes], sizes: list[int]
) -> None:
    """RFC 1952 allows several members, and RFC 8878 several frames."""
    blob = b"".join(packed(algorithm, member) for member in members)
    stream = algorithm.decompress(io.BytesIO(blob))
    content = b"".join(members)
    start = 0
    while start <= len(content):
        size = sizes[start % len(sizes)]
        assert stream.read(size) == content[start : start + size]
        start += size
    assert stream.read(1) == b""


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_stream_is_read_no_further_than_needed(algorithm: Compression) -> None:
    blob = io.BytesIO(packed(algorithm, NOISE))
    assert algorithm.decompress(blob).read(1000) == NOISE[:1000]
    assert blob.tell() < 200_000


def test_a_small_stream_that_grows_is_read_without_much_memory() -> None:
    """16 kB of zstd can hold 512 MB of one byte."""
    frame = ZstdCompressor(level=19).compressobj()
    blob = b"".join(frame.compress(bytes(1 << 20)) for _ in range(512)) + frame.flush()
    assert len(blob) < 100_000
    tracemalloc.start()
    try:
        stream = ZSTD.decompress(io.BytesIO(blob))
        assert sum(len(stream.read(1 << 16)) for _ in range(100)) == 100 << 16
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_wants_much_memory_is_refused() -> None:
    parameters = ZstdCompressionParameters.from_level(1, window_log=27)
    blob = ZstdCompressor(compression_params=parameters).compressobj()
    packed = blob.compress(NOISE) + blob.flush()
    with pytest.raises(ValueError, match="its layer is damaged, or not zstd"):
        ZSTD.decompress(io.BytesIO(packed)).read(1)


PACKED = gzip.compress(TEXT[:100_000])
FRAME = ZstdCompressor(write_checksum=True).compress(TEXT[:100_000])
DAMAGED = {
    "no gzip": (GZIP, b"x" * 100),
    "zlib": (GZIP, zlib.compress(TEXT)),
    "changed": (GZIP, PACKED[:5000] + b"\xff" * 100 + PACKED[5100:]),
    "wrong checksum": (GZIP, PACKED[:-8] + bytes(8)),
    "text after the member": (GZIP, PACKED + b"and more text"),
    "no zstd": (ZSTD, b"x" * 100),
    "gzip in place of zstd": (ZSTD, PACKED),
    "changed zstd": (ZSTD, FRAME[:5000] + b"\xff" * 100 + FRAME[5100:]),
    "wrong checksum of zstd": (ZSTD, FRAME[:-4] + bytes(4)),
    "text after the frame": (ZSTD, FRAME + b"and more text"),
}


@pytest.mark.parametrize(("algorithm", "blob"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_stream_is_refused(algorithm: Compression, blob: bytes) -> None:
    with pytest.raises(ValueError, match=f"its layer is damaged, or not {algorithm.name}"):
        algorithm.decompress(io.BytesIO(blob)).read(1_000_000)


@pytest.mark.parametrize("end", [0, 5, 100, len(PACKED) // 2])
def test_a_stream_that_ends_early_ends_the_content_early(end: int) -> None:
    content = GZIP.decompress(io.BytesIO(PACKED[:end])).read(1_000_000)
    assert len(content) < 100_000
    assert TEXT.startswith(content)


EMPTY_MEMBER = gzip.compress(b"", mtime=0)


class Endless(io.RawIOBase):
    """A stream that repeats some bytes for ever, after a header."""

    def __init__(self, first: bytes, rest: bytes) -> None:
        self.given = 0
        self._first, self._rest = first, rest

    def read(self, size: int = -1) -> bytes:
        piece = self._first + self._rest * (size // len(self._rest))
        self._first = b""
        self.given += len(piece)
        return piece


EMPTY_FRAME = ZstdCompressor().compress(b"")

ENDLESS = {
    "empty members": (GZIP, b"", EMPTY_MEMBER),
    "empty blocks": (GZIP, EMPTY_MEMBER[:10], b"\0\0\0\xff\xff"),
    "a name in a header": (GZIP, b"\x1f\x8b\x08\x08" + bytes(5) + b"\xff", b"name"),
    "empty frames": (ZSTD, b"", EMPTY_FRAME),
    "frames to skip": (ZSTD, b"", b"\x50\x2a\x4d\x18\x08\0\0\0" + bytes(8)),
}


@pytest.mark.parametrize(("algorithm", "first", "rest"), ENDLESS.values(), ids=ENDLESS)
def test_a_stream_without_content_does_not_go_on_for_ever(
    algorithm: Compression, first: bytes, rest: bytes
) -> None:
    stream = Endless(first, rest)
    with pytest.raises(ValueError, match="nothing comes out of it"):
        algorithm.decompress(stream).read(1)  # type: ignore[arg-type]
    assert stream.given < 2_000_000
