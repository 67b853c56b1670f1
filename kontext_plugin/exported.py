"""The stream of `crane export`, entry by entry: the whole file system of an image.

crane writes plain and PAX headers alone, so a reader of our own takes no more of them than it has
to: tarfile would keep each entry, and read records of any size.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from kontext_plugin.image import Layer
from kontext_plugin.manifest import MAX_READ, SOURCES
from kontext_plugin.tree import Tree

_CHUNK = 1024 * 1024
_ZEROS = bytes(tarfile.BLOCKSIZE)

_MAX_RECORDS = 1024 * 1024
"""Bytes of a PAX header: what Go's archive/tar, and with it crane, reads and writes at most."""

_HEADERS = 4096
"""Bytes that an entry takes at most, apart from its content and names."""

_BESIDES = 2 * MAX_READ
"""Bytes of what comes before the last of the sources: manifests old and new, the extractor."""

_RATIO = 20
_MOST_UNPACKED = 64 * 1024**3
"""What layers unpack to is guessed from their sizes, which an image may lie about."""

_KINDS = {
    tarfile.REGTYPE: "a file",
    tarfile.AREGTYPE: "a file",
    tarfile.DIRTYPE: "a directory",
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}
_WITHOUT_CONTENT = _KINDS.keys() - {tarfile.REGTYPE, tarfile.AREGTYPE}


@dataclass(frozen=True)
class Exported:
    """An entry below the sources."""

    path: str
    what: str  # "a file", "a directory", "a link", or another of _KINDS
    size: int  # of the content, in bytes
    mode: int
    target: str  # of a link


def most_bytes(tree: Tree) -> int:
    """How many bytes an export takes at most up to the last of these sources."""
    paths = tree.paths()
    names = sum(map(len, paths)) + sum(map(len, tree.links.values()))
    return tree.size + _HEADERS * len(paths) + 4 * names + _BESIDES


def most_unpacked(layers: Iterable[Layer]) -> int:
    """How many bytes more may be in these layers, whatever it is."""
    return min(_RATIO * sum(layer.size for layer in layers), _MOST_UNPACKED)


class Export:
    """A stream to be read once. All methods raise ValueError for what crane would not send, for
    an early end, and where the stream is longer than `limit` bytes."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = self._left = limit
        self._content = 0  # bytes that are left of the last entry's
        self._padding = 0

    def entries(self) -> Iterator[Exported]:
        """Those below the sources, in the image's order: its top layer comes first."""
        while (header := self._header()) is not None:
            name = header.name.lstrip("/")
            if header.type != tarfile.DIRTYPE and f"{SOURCES}/".startswith(f"{name}/"):
                raise ValueError(f"/{name} is no directory")
            if name.startswith(f"{SOURCES}/"):
                yield Exported(
                    path=name[len(SOURCES) + 1 :],
                    what=_KINDS.get(header.type, "of an unknown kind"),
                    size=header.size,
                    mode=header.mode,
                    target=header.linkname,
                )
            for _ in self.content():
                pass
            self._read(self._padding)

    def content(self) -> Iterator[bytes]:
        """That of the last entry, in pieces."""
        while self._content:
            piece = self._read(min(self._content, _CHUNK))
            self._content -= len(piece)
            yield piece

    def finish(self) -> None:
        """Reads what follows the last entry: crane ends well only if it gets rid of all."""
        while piece := self._stream.read(_CHUNK):
            self._count(len(piece))

    def _header(self) -> tarfile.TarInfo | None:
        records: dict[bytes, bytes] = {}
        while (block := self._read(tarfile.BLOCKSIZE)) != _ZEROS:
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.TarError as error:
                raise ValueError(f"its export is damaged: {error}") from error
            if header.type not in (tarfile.XHDTYPE, tarfile.XGLTYPE):
                return self._completed(header, records)
            if not 0 <= header.size <= _MAX_RECORDS:
                raise ValueError("its export has a header that is too large")
            content = self._read(header.size)
            self._read(-header.size % tarfile.BLOCKSIZE)
            if header.type == tarfile.XHDTYPE:  # global ones mean nothing to crane
                records = _records(content)
        return None

    def _completed(self, header: tarfile.TarInfo, records: dict[bytes, bytes]) -> tarfile.TarInfo:
        header.name = records.get(b"path", b"").decode("utf-8", "surrogateescape") or header.name
        target = records.get(b"linkpath", b"").decode("utf-8", "surrogateescape")
        header.linkname = target or header.linkname
        size = records.get(b"size", b"%d" % header.size)
        if not size.isdigit():
            raise ValueError("its export has an entry without a size")
        header.size = 0 if header.type in _WITHOUT_CONTENT else int(size)
        self._content, self._padding = header.size, -header.size % tarfile.BLOCKSIZE
        return header

    def _read(self, size: int) -> bytes:
        """Exactly so many bytes, a few at most."""
        self._count(size)
        content = self._stream.read(size)
        if len(content) != size:
            raise ValueError("its export ends early")
        return content

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"its export is longer than {self._limit:,} bytes")


def _records(content: bytes) -> dict[bytes, bytes]:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts itself (POSIX.1-2001, pax, "extended header")."""
    found: dict[bytes, bytes] = {}
    begin = 0
    while begin < len(content):
        length = content[begin : begin + len(str(_MAX_RECORDS))].partition(b" ")[0]
        end = begin + int(length) if length.isdigit() else 0
        key, equals, value = content[begin + len(length) + 1 : end - 1].partition(b"=")
        if not (equals and begin < end <= len(content)):
            raise ValueError("its export has a damaged header")
        if key in (b"path", b"linkpath", b"size"):
            found[key] = value
        begin = end
    return found
