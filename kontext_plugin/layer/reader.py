"""Read what a registry sends: documents at a layer's head, a layer, the stream of `crane export`.

All come from outside. Each reader stops at a limit of bytes and takes nothing into memory whole
but single documents. Python's tarfile would keep every entry and accept headers of any size.
"""

from __future__ import annotations

import posixpath
import tarfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Literal, NamedTuple

from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.tree import OPAQUE, SOURCES_PATH, WHITEOUT, Tree, hidden_by, parents
from kontext_plugin.layer import tar
from kontext_plugin.layer.compression import Source, compression_of
from kontext_plugin.manifest import (
    MANIFEST_PATH,
    MAX_BYTES,
    MAX_DOCUMENT,
    is_document,
    part_name,
)
from kontext_plugin.runtime.files import HashedPieces

# --- The documents at a layer's head: manifest.json and parts of the manifest ---


@dataclass
class Budget:
    """What may still be read of documents, from all layers of an image together.

    Several threads read layers at the same time and share one budget.
    """

    left: int  # bytes of all documents, also of obsolete ones
    kept: int = MAX_BYTES  # bytes of the documents that are taken
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def take_bytes(self, size: int) -> None:
        """Count a document of `size` bytes before it is read. Raises ValueError at the limit."""
        with self._lock:
            self.left -= tar.BLOCKSIZE + size
            exceeded = size < 0 or self.left < 0
        if exceeded:
            raise _too_large()

    def keep(self, document: bytes) -> None:
        """Count a document that is kept in memory. Raises ValueError beyond the limit."""
        with self._lock:
            self.kept -= len(document)
            exceeded = self.kept < 0
        if exceeded:
            raise _too_large()


def read_documents(blob: IO[bytes], layer: Layer, budget: Budget) -> Iterator[tuple[str, bytes]]:
    """Yield the documents at the head of a layer, each with its name; read little more than them.

    The bytes are unchecked: a blob's digest is known only at its end. Raises ValueError where the
    layer is damaged or the budget is exceeded.
    """
    try:
        stream = compression_of(layer.media_type).decompress(blob)
        # Plain headers only, as write_layer makes them: extended ones could be of any size.
        while header := _document_header(stream.read(tar.BLOCKSIZE)):
            budget.take_bytes(header.size)
            if header.size > MAX_DOCUMENT:
                raise _too_large()
            content = stream.read(header.size)
            if len(content) != header.size:
                raise EOFError("it ends early")
            stream.read(-header.size % tar.BLOCKSIZE)
            yield header.name.lstrip("/"), content
    except (tarfile.TarError, EOFError, OSError, UnicodeError) as error:
        raise ValueError(f"its layer is damaged, or not gzip: {error}") from error


def first_name(blob: IO[bytes], layer: Layer) -> str:
    """Return the name of a layer's first entry. Raises ValueError where it has none."""
    try:
        block = compression_of(layer.media_type).decompress(blob).read(tar.BLOCKSIZE)
        return tarfile.TarInfo.frombuf(block, "utf-8", "strict").name.lstrip("/")
    except (tarfile.TarError, EOFError, OSError, UnicodeError) as error:
        raise ValueError(f"its layer is damaged, or not gzip: {error}") from error


def take_manifest(documents: Iterator[tuple[str, bytes]]) -> bytes:
    """Return the manifest.json that a layer starts with. Raises ValueError."""
    name, content = next(documents, ("", b""))
    if name != MANIFEST_PATH:
        raise ValueError("it has no manifest of Kontext's")
    return content


def _document_header(block: bytes) -> tarfile.TarInfo | None:
    """Return the header if it is a document's, None where other entries start."""
    header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    return header if header.isreg() and is_document(header.name.lstrip("/")) else None


def _too_large() -> ValueError:
    return ValueError("its manifest is too large to be read")


# --- The archive of a layer, or of `crane export`, which has the top layer first ---

EntryKind = Literal["file", "directory", "link", "hard link", "FIFO", "device", "unknown"]

_KINDS: dict[bytes, EntryKind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
    tarfile.FIFOTYPE: "FIFO",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
}

_PIECE = 1024 * 1024  # bytes of content that are read at a time

_MAX_RECORDS = 1024 * 1024
"""Bytes of a PAX header: the limit of Go's archive/tar, and so of crane."""

_MAX_HEADERS = 4096  # bytes of an entry, apart from its content and names

_MAX_BESIDES = 256 * 1024 * 1024
"""Bytes before the last of the sources: current and obsolete manifests, the extractor. A larger
manifest has so many paths that _MAX_HEADERS leaves room for it."""

_MAX_OVERHEAD = 32

_MAX_RATIO = 20
_MAX_UNPACKED = 64 * 1024**3
"""What layers unpack to is estimated from their sizes, about which an image may lie."""

_PARTS = posixpath.dirname(part_name(Digest("")))

_ABOVE = (SOURCES_PATH, _PARTS)
"""Directories that a layer of sources lists, with those above them."""

_BELOW = f"{SOURCES_PATH}/"

_ABOVE_ALL = frozenset({SOURCES_PATH, *parents([SOURCES_PATH])})
"""What must be directories: a link there could lead elsewhere."""

_RECORDS = frozenset({b"path", b"linkpath", b"size"})

_GNU_RECORDS = {tarfile.GNUTYPE_LONGNAME: b"path", tarfile.GNUTYPE_LONGLINK: b"linkpath"}
"""Long names in GNU's format: `crane export` writes none, but a layer may have them."""

_EXTENDED = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, *_GNU_RECORDS})


class ExportedEntry(NamedTuple):
    """An entry of an archive that lies below the sources."""

    path: str  # relative to the sources
    kind: EntryKind
    size: int  # of the content, in bytes
    mode: int
    target: str  # of a link


def max_export_bytes(tree: Tree) -> int:
    """Return the bytes that an export takes at most, up to the last of these sources."""
    paths = tree.paths()
    names = sum(map(len, paths)) + sum(map(len, tree.links.values()))
    return tree.size + _MAX_HEADERS * len(paths) + 4 * names + _MAX_BESIDES


def max_layer_bytes(content: int) -> int:
    """Return the bytes that a layer takes at most, whose image has `content` bytes of sources.

    That counts each path with 512 bytes (delta.layer_bytes). With headers for long names and long
    targets, an entry without content takes 20 times as much. Its directories count as well.
    """
    return _MAX_OVERHEAD * content + _MAX_BESIDES


def max_unpacked_bytes(layers: Iterable[Layer]) -> int:
    """Return the bytes that these layers may unpack to, whatever they hold."""
    return min(_MAX_RATIO * sum(layer.size for layer in layers), _MAX_UNPACKED)


class ExportReader:
    """The export of an image, or the archive of a layer, read once from start to end.

    All methods raise ValueError for what crane would not send, for an early end, and for a stream
    of more than `limit` bytes.
    """

    def __init__(self, stream: Source, limit: int) -> None:
        self._stream = stream
        self._limit = self._left = limit
        self._content = 0  # bytes left of the current entry's content
        self._padding = 0

    def entries(self, *, strict: bool = False) -> Iterator[ExportedEntry]:
        """Yield the entries below the sources, in the order of the stream.

        If `strict`, raises ValueError for what no layer of sources has beside them.
        """
        while (header := self._next_header()) is not None:
            name = _clean(header.name)
            if name in _ABOVE_ALL and header.kind != tar.DIRTYPE:
                raise ValueError(f"/{name} is not a directory")
            if WHITEOUT in name and _hides_sources(name):
                raise ValueError(f"/{name} hides the sources")
            if strict:
                self._check(header, name)
            if name.startswith(_BELOW):
                yield ExportedEntry(
                    path=name[len(_BELOW) :],
                    kind=_KINDS.get(header.kind, "unknown"),
                    size=header.size,
                    mode=header.mode,
                    target=header.target,
                )
            while self._content:
                self._read_content()
            if self._padding:
                self._read(self._padding)

    def content(self) -> Iterator[bytes]:
        """Yield what is left of the current entry's content, in pieces."""
        while self._content:
            yield self._read_content()

    def finish(self) -> None:
        """Read what follows the last entry: crane succeeds only if all of its output is read."""
        while piece := self._stream.read(_PIECE):
            self._count(len(piece))

    def _next_header(self) -> tar.Header | None:
        records: dict[bytes, bytes] = {}
        while (block := self._read(tar.BLOCKSIZE)) != tar.ZEROS:
            try:
                header = tar.parse_header(block)
            except ValueError as error:
                raise ValueError(f"its archive is damaged: {error}") from error
            if header.kind not in _EXTENDED:
                return self._complete(header, records)
            if not 0 <= header.size <= _MAX_RECORDS:
                raise ValueError("its archive has a header that is too large")
            content = self._read(header.size)
            self._read(-header.size % tar.BLOCKSIZE)
            if header.kind == tarfile.XHDTYPE:  # crane ignores global ones
                records = tar.parse_pax_records(content, _RECORDS)
            elif key := _GNU_RECORDS.get(header.kind):
                records[key] = content.rstrip(b"\0")
        return None

    def _complete(self, header: tar.Header, records: dict[bytes, bytes]) -> tar.Header:
        if records:
            name = records.get(b"path", b"").decode("utf-8", "surrogateescape") or header.name
            target = records.get(b"linkpath", b"").decode("utf-8", "surrogateescape")
            size = records.get(b"size", b"%d" % header.size)
            if not size.isdigit():
                raise ValueError("its archive has an entry without a size")
            header = header._replace(
                name=name.rstrip("/") if header.kind == tar.DIRTYPE else name,
                size=int(size),
                target=target or header.target,
            )
        if header.size and _KINDS.get(header.kind, "file") != "file":
            header = header._replace(size=0)
        self._content, self._padding = header.size, -header.size % tar.BLOCKSIZE
        return header

    def _check(self, header: tar.Header, name: str) -> None:
        """Raise ValueError for what no layer of sources has beside them."""
        if not _is_of_sources(header, name):
            raise ValueError(f"it has /{name} beside the sources")
        if posixpath.dirname(name) == _PARTS:
            digest = Digest(f"sha256:{HashedPieces(self.content()).hexdigest()}")
            if name != part_name(digest):
                raise ValueError(f"/{name} has another content than its name says")

    def _read_content(self) -> bytes:
        piece = self._read(min(self._content, _PIECE))
        self._content -= len(piece)
        return piece

    def _read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        self._count(size)
        content = self._stream.read(size)
        if len(content) != size:
            raise ValueError("its archive ends early")
        return content

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"its archive is longer than {self._limit:,} bytes")


def _clean(name: str) -> str:
    """Return the path that a name stands for, below the root.

    Raises ValueError for a name that leads up, or that consumers may read in different ways.
    """
    path = name.strip("/").removeprefix("./")
    if "//" in path or "/." in f"/{path}":
        plain = posixpath.normpath(path)
        if path != plain or plain.startswith("../") or plain == "..":
            raise ValueError(f"it has the unsafe path {name!r}")
    return path


def _hides_sources(name: str) -> bool:
    """Whether an entry above the sources hides those of the layers below."""
    directory, _, base = name.rpartition("/")
    is_above = not directory or directory in _ABOVE_ALL - {SOURCES_PATH}
    return is_above and (base == OPAQUE or hidden_by(name) in _ABOVE_ALL)


def _is_of_sources(header: tar.Header, name: str) -> bool:
    """Whether a layer of sources may have this entry: sources, a document, a directory above."""
    if header.kind == tar.DIRTYPE and any(f"{path}/".startswith(f"{name}/") for path in _ABOVE):
        return True
    if header.kind in tarfile.REGULAR_TYPES and (
        name == MANIFEST_PATH or posixpath.dirname(name) == _PARTS
    ):
        return not posixpath.basename(name).startswith(".")
    return name.startswith(_BELOW)
