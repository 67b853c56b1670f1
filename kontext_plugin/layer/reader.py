"""The stream of `crane export`, entry by entry: the whole file system of an image.

crane writes plain and PAX headers alone, so a reader of our own takes no more of them than it has
to: tarfile would keep each entry, and read records of any size.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from kontext_plugin.image.oci import Layer
from kontext_plugin.image.tree import Tree
from kontext_plugin.layer import tar
from kontext_plugin.manifest import MANIFEST_PATH, MAX_READ, MAX_VALUES, SOURCES_PATH, is_document

_GZIP = 16 + zlib.MAX_WBITS  # what zlib calls it

_INPUT = 16 * 1024  # bytes of a packed stream that are read at a time

_MOST_EMPTY = 1024 * 1024


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


class _Decompressed:
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


def read_documents(layer: IO[bytes], budget: Budget) -> Iterator[tuple[str, bytes]]:
    """The documents at the head of a gzip layer, each with its name; little more is read.

    Raises ValueError where the layer is damaged, or the budget is at its end. The bytes are
    unchecked: a blob's digest is known only at its end.
    """
    try:
        stream = _Decompressed(layer)
        # Plain headers, as write_layer makes them: extended ones could be of any size.
        while header := _document_header(stream.read(tar.BLOCKSIZE)):
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
    if name != MANIFEST_PATH:
        raise ValueError("its top layer does not begin with a manifest")
    return content


def _document_header(block: bytes) -> tarfile.TarInfo | None:
    """That of a document, or nothing where others begin."""
    header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    return header if header.isreg() and is_document(header.name.lstrip("/")) else None


_PIECE = 1024 * 1024

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
class ExportedEntry:
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


class ExportReader:
    """A stream to be read once. All methods raise ValueError for what crane would not send, for
    an early end, and where the stream is longer than `limit` bytes."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = self._left = limit
        self._content = 0  # bytes that are left of the last entry's
        self._padding = 0

    def entries(self) -> Iterator[ExportedEntry]:
        """Those below the sources, in the image's order: its top layer comes first."""
        while (header := self._header()) is not None:
            name = header.name.lstrip("/")
            if header.type != tarfile.DIRTYPE and f"{SOURCES_PATH}/".startswith(f"{name}/"):
                raise ValueError(f"/{name} is no directory")
            if name.startswith(f"{SOURCES_PATH}/"):
                yield ExportedEntry(
                    path=name[len(SOURCES_PATH) + 1 :],
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
            piece = self._read(min(self._content, _PIECE))
            self._content -= len(piece)
            yield piece

    def finish(self) -> None:
        """Reads what follows the last entry: crane ends well only if it gets rid of all."""
        while piece := self._stream.read(_PIECE):
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
                records = _pax_records(content)
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


def _pax_records(content: bytes) -> dict[bytes, bytes]:
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
