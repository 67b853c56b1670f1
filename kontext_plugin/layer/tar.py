"""Tar headers that tell nothing of who made them, when and where; Python's tarfile defines them.

A template that tarfile made, with name, size and checksum filled in, takes 3 µs; tarfile itself
takes 40 to 80. tests/unit/test_tar.py holds the two to the same bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from functools import cache
from tarfile import BLOCKSIZE, DIRTYPE, REGTYPE, SYMTYPE

__all__ = ["BLOCKSIZE", "DIRTYPE", "END", "REGTYPE", "SYMTYPE", "header", "padded"]

MTIME = 315532801
"""1980-01-01 00:00:01 UTC, as in Cloud Native Buildpacks: zip tools fail on times before 1980."""

_ZEROS = b"\0" * BLOCKSIZE

END = _ZEROS * 2
"""What an archive ends with."""

_NAME = 100  # bytes that fit into a header; PAX records take longer names

_SIZE = slice(124, 135)  # octal digits

_CHECKSUM = slice(148, 154)

_LARGEST = 8**11 - 1  # bytes whose number fits into a header


def header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    """The header of an entry of owner 0:0, with a PAX header before it where it needs one."""
    if target or size > _LARGEST or not name.isascii():
        return _made_by_tarfile(name, kind, mode, size, target)
    encoded = name.encode("ascii")
    if kind == DIRTYPE and not name.endswith("/"):
        encoded += b"/"
    plain = _filled(*_template(kind, mode), encoded[:_NAME], size)
    if len(encoded) <= _NAME:
        return plain
    record = _pax_record(b"path", encoded)
    extended = _filled(*_pax_template(), b"././@PaxHeader", len(record))
    return extended + record + _ZEROS[: -len(record) % BLOCKSIZE] + plain


def padded(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """A file's `size` bytes as an archive holds them."""
    yield from pieces
    yield _ZEROS[: -size % BLOCKSIZE]


def _made_by_tarfile(name: str, kind: bytes, mode: int, size: int, target: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    info.size = size
    info.linkname = target
    info.mtime = MTIME
    # PAX, for long names, UTF-8 and sizes over 8 GiB.
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


@cache
def _template(kind: bytes, mode: int) -> tuple[bytes, int]:
    """A header without name and size, and its checksum."""
    return _emptied(_made_by_tarfile("n", kind, mode, 0, ""))


@cache
def _pax_template() -> tuple[bytes, int]:
    """The header before PAX records, without their size: what a long name makes tarfile write."""
    return _emptied(_made_by_tarfile("n" * (_NAME + 1), REGTYPE, 0o644, 0, "")[:BLOCKSIZE])


def _emptied(made: bytes) -> tuple[bytes, int]:
    checksum = int(made[_CHECKSUM], 8) - sum(made[:_NAME]) - sum(made[_SIZE])
    return b"\0" * _NAME + made[_NAME:], checksum


def _filled(template: bytes, checksum: int, name: bytes, size: int) -> bytes:
    digits = b"%011o" % size
    checksum += sum(name) + sum(digits)
    return b"".join(
        (
            name,
            template[len(name) : _SIZE.start],
            digits,
            template[_SIZE.stop : _CHECKSUM.start],
            b"%06o" % checksum,
            template[_CHECKSUM.stop :],
        )
    )


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts itself (POSIX.1-2001, pax, "extended header")."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)
