"""Compression: an archive always gives the same bytes, and they are read as far as needed."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import subprocess
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext_plugin.image.oci import GZIP_LAYER, digest_of
from kontext_plugin.layer import compression
from kontext_plugin.layer.compression import DEFAULT, GZIP, compression_of

BLOCK = 4 * 1024 * 1024
TEXT = b"".join(b"line %d\n" % number for number in range(200_000))
NOISE = random.Random(1).randbytes(2 * BLOCK)
"""TEXT compresses well, NOISE does not at all. Together they are more than one block."""

# The choice of the algorithm


def test_a_push_compresses_with_gzip() -> None:
    assert DEFAULT is GZIP
    assert (GZIP.name, GZIP.media_type) == ("gzip", GZIP_LAYER)


@pytest.mark.parametrize(
    "media_type", [GZIP_LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip"]
)
def test_gzip_has_a_media_type_of_oci_and_one_of_docker(media_type: str) -> None:
    assert compression_of(media_type) is GZIP


UNKNOWN = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
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


@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_the_result_describes_the_layer(pieces: list[bytes]) -> None:
    sink = io.BytesIO()
    result = GZIP.compress(sink, pieces)
    content = sink.getvalue()
    assert (result.layer.digest, result.layer.size) == (digest_of(content), len(content))
    assert result.layer.media_type == GZIP_LAYER
    assert result.diff_id == digest_of(b"".join(pieces))
    assert gzip.decompress(content) == b"".join(pieces)


GOLDEN = {
    "nothing": (b"", "ac73670af3abed54ac6fb4695131f4099be9fbe39d6076c5d0264a6bbdae9d83"),
    "text": (TEXT, "456d40e6279268611c16745104e379b04c8ce443d50acd4a9470221c7214992c"),
    "noise": (NOISE, "82b3f2d843d8859212fb9f597da6496ba3db4843bb1a30ce8dfe4c137772dff5"),
}


@pytest.mark.parametrize(("archive", "digest"), GOLDEN.values(), ids=GOLDEN)
def test_the_bytes_do_not_change(archive: bytes, digest: str) -> None:
    """Other bytes cost each user one upload of everything; a new zlib-ng may bring them."""
    sink = io.BytesIO()
    GZIP.compress(sink, [archive])
    assert hashlib.sha256(sink.getvalue()).hexdigest() == digest


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1])
def test_the_bytes_do_not_depend_on_the_pieces(size: int) -> None:
    content = (NOISE[:1000] + TEXT + NOISE)[:size]
    outcomes = set()
    for piece in (1000, BLOCK - 1, BLOCK, 3 * BLOCK):
        sink = io.BytesIO()
        GZIP.compress(sink, (content[at : at + piece] for at in range(0, size, piece)))
        outcomes.add(sink.getvalue())
    (compressed,) = outcomes
    assert compressed[:8] == b"\x1f\x8b\x08\0\0\0\0\0", "a name or a time"
    assert gzip.decompress(compressed) == content
    subprocess.run(["gzip", "-t"], input=compressed, check=True)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.sampled_from([1, 500, 4097, 65_537, 300_000, BLOCK - 1]), min_size=1), st.data())
def test_the_bytes_do_not_depend_on_the_blocks(sizes: list[int], data: st.DataObject) -> None:
    """The system may return pieces of any size, and they decide the blocks."""
    content = TEXT[: 2 * BLOCK] + NOISE[: BLOCK // 2] + TEXT
    whole, cut = io.BytesIO(), io.BytesIO()
    GZIP.compress(whole, [content])
    pieces, start = [], 0
    while start < len(content):
        pieces.append(content[start : start + data.draw(st.sampled_from(sizes))])
        start += len(pieces[-1])
        if len(pieces) > 40:
            pieces.append(content[start:])
            break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "_BLOCK", data.draw(st.sampled_from([1, 10_000, BLOCK])))
        GZIP.compress(cut, pieces)
    assert cut.getvalue() == whole.getvalue()


# Decompressing


@given(st.lists(st.binary(max_size=9000), max_size=4), st.lists(st.integers(1, 5000), min_size=1))
def test_a_stream_is_read_in_pieces_of_any_size(members: list[bytes], sizes: list[int]) -> None:
    """RFC 1952 allows several members."""
    stream = GZIP.decompress(io.BytesIO(b"".join(map(gzip.compress, members))))
    content = b"".join(members)
    start = 0
    while start <= len(content):
        size = sizes[start % len(sizes)]
        assert stream.read(size) == content[start : start + size]
        start += size
    assert stream.read(1) == b""


def test_a_stream_is_read_no_further_than_needed() -> None:
    blob = io.BytesIO(gzip.compress(NOISE))
    assert GZIP.decompress(blob).read(1000) == NOISE[:1000]
    assert blob.tell() < 100_000


PACKED = gzip.compress(TEXT[:100_000])
DAMAGED = {
    "no gzip": b"x" * 100,
    "zlib": zlib.compress(TEXT),
    "changed": PACKED[:5000] + b"\xff" * 100 + PACKED[5100:],
    "wrong checksum": PACKED[:-8] + bytes(8),
    "text after the member": PACKED + b"and more text",
}


@pytest.mark.parametrize("blob", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_stream_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="its layer is damaged, or not gzip"):
        GZIP.decompress(io.BytesIO(blob)).read(1_000_000)


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


ENDLESS = {
    "empty members": (b"", EMPTY_MEMBER),
    "empty blocks": (EMPTY_MEMBER[:10], b"\0\0\0\xff\xff"),
    "a name in a header": (b"\x1f\x8b\x08\x08" + bytes(5) + b"\xff", b"name"),
}


@pytest.mark.parametrize(("first", "rest"), ENDLESS.values(), ids=ENDLESS)
def test_a_stream_without_content_does_not_go_on_for_ever(first: bytes, rest: bytes) -> None:
    stream = Endless(first, rest)
    with pytest.raises(ValueError, match="nothing comes out of it"):
        GZIP.decompress(stream).read(1)  # type: ignore[arg-type]
    assert stream.given < 2_000_000
