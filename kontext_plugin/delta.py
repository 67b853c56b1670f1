"""A delta: what changed between two trees, and the layer tarball that says so.

Changes say what a new layer must hold so that one tree, seen through an overlay, becomes another.
`write_layer` writes them as a layer. Its bytes depend on the trees alone: entries are sorted;
owners, times and modes are fixed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import stat
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from kontext_plugin.errors import KontextError
from kontext_plugin.image.listing import differing, joined
from kontext_plugin.image.tree import (
    SOURCES_PATH,
    UNREAD,
    WHITEOUT,
    Entry,
    ReverseDelta,
    Tree,
    parents,
)
from kontext_plugin.layer import compression, tar
from kontext_plugin.layer.compression import Compressed, Compression, Sink
from kontext_plugin.runtime.files import DirTree, read_pieces
from kontext_plugin.runtime.status import HashedFile, pack_hashed, status_of

ENTRY_BYTES = 512
"""Bytes of a path in an archive, apart from its content (POSIX.1-2017, pax, "ustar")."""

# --- What changed: pure ---


@dataclass(frozen=True)
class Changes:
    """What leads from an old tree to a new one. All columns are sorted."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    # The topmost removed paths whose parent is still a directory: a whiteout hides all below it,
    # and a directory that became a file or a link hides its children by itself. None of them
    # exists in the new tree, so no layer ever holds a name together with its whiteout, which
    # consumers disagree about (OCI image specification, layer.md, "Whiteouts").
    whiteouts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    @property
    def written(self) -> tuple[str, ...]:
        """The paths that the layer holds, parents before their children."""
        return tuple(sorted(self.added + self.changed))


def diff(old: Tree, new: Tree) -> Changes:
    """Return the changes that turn `old` into `new`."""
    return changes_from(reverse_delta(old, new), new)


def reverse_delta(old: Tree, new: Tree) -> ReverseDelta:
    """Return what leads from `new` back to `old`."""
    former: list[Tree] = []
    absent: set[str] = set()
    for before, after in differing(old, new):
        files = before.files.items() ^ after.files.items()
        items = files | (before.links.items() ^ after.links.items())
        touched = {path for path, _ in items} | (before.executable ^ after.executable)
        former.append(before.only(touched))
        absent.update(path for path in touched if path not in before)
    return ReverseDelta(joined(former).without_sizes(), frozenset(absent))


def compose(nearer: ReverseDelta, farther: ReverseDelta, new: Tree) -> ReverseDelta:
    """Return what leads from `new` through the end of `nearer` to the end of `farther`.

    Paths that end up as they are in `new` are not in the result.
    """
    first = nearer.former.only(nearer.former.paths() - farther.paths())
    second = farther.former
    former = Tree(
        files={**first.files, **second.files},
        executable=first.executable | second.executable,
        links={**first.links, **second.links},
    )
    changed = {path for path in former.paths() if not _same(path, former, new)}
    absent = (nearer.absent - farther.paths()) | farther.absent
    return ReverseDelta(former.only(changed), frozenset(path for path in absent if path in new))


def earlier_tree(reverse: ReverseDelta, new: Tree) -> Tree:
    """Return the tree that `reverse` leads back to from `new`; it lacks sizes of what differs."""
    kept, former = new.only(new.paths() - reverse.paths()), reverse.former
    return Tree(
        files={**kept.files, **former.files},
        sizes=kept.sizes,
        executable=kept.executable | former.executable,
        links={**kept.links, **former.links},
    )


def changes_from(reverse: ReverseDelta, new: Tree) -> Changes:
    """Return the changes that lead to `new` from the tree that `reverse` leads back to."""
    former = reverse.former.paths()
    removed = sorted(path for path in former if path not in new)
    return Changes(
        added=tuple(sorted(reverse.absent)),
        changed=tuple(sorted(path for path in former if path in new)),
        removed=tuple(removed),
        whiteouts=tuple(path for path in removed if _parent_stays(path, new)),
    )


@dataclass(frozen=True)
class Rename:
    """A file or link that has the same content under another path. A layer has all of it again."""

    old: str
    new: str


def renames(changes: Changes, old: Tree, new: Tree) -> tuple[Rename, ...]:
    """Return the removed and added paths that are renames, sorted by the new path.

    The kind, and the content or target, are the same. A path is in one pair at most; names in
    other directories go together first. `old` has at least what was removed.
    """
    by_content: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in changes.removed:
        if content := _content(old, path):
            by_content[content].append(path)
    if not by_content:
        return ()
    added = [(path, content) for path in changes.added if (content := _content(new, path))]
    pairs: dict[str, str] = {}
    for part in (posixpath.basename, lambda path: ""):  # same name, then any name
        left: dict[tuple[tuple[str, str], str], deque[str]] = defaultdict(deque)
        taken = set(pairs.values())
        for content, paths in by_content.items():
            for path in paths:
                if path not in taken:
                    left[content, part(path)].append(path)
        for path, content in added:
            if path not in pairs and (found := left.get((content, part(path)))):
                pairs[path] = found.popleft()
    return tuple(Rename(pairs[path], path) for path in sorted(pairs))


def _content(tree: Tree, path: str) -> tuple[str, str] | None:
    """Return what makes two paths the same; None for a directory."""
    entry = tree.entry(path)
    return None if entry.kind == "directory" else (entry.kind, entry.digest or entry.target)


@dataclass(frozen=True)
class FileCounts:
    """How many files and links differ between two trees. Directories are not files."""

    added: int = 0
    changed: int = 0
    removed: int = 0


def count_files(reverse: ReverseDelta, new: Tree) -> FileCounts:
    """Return how many files `new` has added, changed and removed since the tree before."""
    former, absent = reverse.former, reverse.absent
    changed = {path for path in former.paths() if path in new}
    removed = former.paths() - changed
    return FileCounts(
        added=len(absent) - new.count_directories(absent),
        changed=len(changed) - new.count_directories(changed),
        removed=len(removed) - former.count_directories(removed),
    )


def layer_bytes(changes: Changes, new: Tree) -> int:
    """Return the bytes of sources in a layer with these changes, uncompressed."""
    written = changes.added + changes.changed
    return new.size_of(written) + ENTRY_BYTES * (len(written) + len(changes.whiteouts))


def tree_bytes(tree: Tree) -> int:
    """Return the bytes of sources in a layer with the whole tree, uncompressed."""
    return tree.size + ENTRY_BYTES * (len(tree.files) + len(tree.links))


def replaced_directories(
    reverse: ReverseDelta, new: Tree, before: frozenset[str]
) -> frozenset[str]:
    """Return the lineage's `replaced_directories` at `new`, after a delta on an earlier tree.

    `reverse` leads back to that tree, and `before` is the value there. A whiteout ends the danger:
    it hides the old children for good. So does a file or link that replaces a directory above,
    which is in the result itself.
    """
    replaced = before | reverse.former.directories()
    return frozenset(path for path in replaced if path in new and not new.is_directory(path))


def _same(path: str, one: Tree, other: Tree) -> bool:
    return (
        one.files.get(path) == other.files.get(path)
        and one.links.get(path) == other.links.get(path)
        and (path in one.executable) == (path in other.executable)
    )


def _parent_stays(path: str, new: Tree) -> bool:
    parent = path.rpartition("/")[0]
    return not parent or new.is_directory(parent)


# --- How two trees differ, path by path: pure ---


class Place(Enum):
    """What was compared with a manifest. The values are public (docs/commands.md)."""

    IMAGE = "the image"
    DIRECTORY = "DIR"


class DifferenceKind(Enum):
    """How a path differs. The values are public (docs/commands.md)."""

    MISSING = "missing"  # only in the manifest
    ONLY = "only"  # not in the manifest
    TWICE = "twice"  # in an image that has the path twice
    OTHER_KIND = "other kind"
    OTHER_CONTENT = "other content"  # also another target of a link
    OTHER_MODE = "other mode"


@dataclass(frozen=True)
class Difference:
    """Something that is not as the manifest says."""

    path: str
    place: Place
    kind: DifferenceKind


def differences(
    expected: Tree, actual: Tree, place: Place, *, modes: bool = True
) -> Iterator[Difference]:
    """Yield all differences, sorted by path. Modes count only if `modes` is set."""
    for path in sorted(expected.paths() | actual.paths()):
        if path not in actual:
            yield Difference(path, place, DifferenceKind.MISSING)
        elif path not in expected:
            yield Difference(path, place, DifferenceKind.ONLY)
        elif kind := entry_difference(expected.entry(path), actual.entry(path), modes=modes):
            yield Difference(path, place, kind)


def entry_difference(
    expected: Entry, actual: Entry, *, modes: bool = True
) -> DifferenceKind | None:
    """Return how two entries of one path differ. Sizes follow from the content."""
    if expected.kind != actual.kind:
        return DifferenceKind.OTHER_KIND
    if (expected.digest, expected.target) != (actual.digest, actual.target):
        return DifferenceKind.OTHER_CONTENT
    if modes and expected.executable != actual.executable:
        return DifferenceKind.OTHER_MODE
    return None


# --- The layer tarball ---

_PIECE = 256 * 1024  # bytes of a file that are read at a time


class Watcher(Protocol):
    """Sees the content of each regular file that goes into a layer: `begin`, pieces, `end`."""

    def begin(self, path: str, /) -> None: ...

    def add(self, piece: bytes, /) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class LayerContent:
    """What a layer holds."""

    documents: Mapping[str, bytes]  # manifest.json and parts, by their names in the image
    written: tuple[str, ...]  # paths of the tree
    whiteouts: tuple[str, ...] = ()
    extra: bytes = b""  # archive entries outside of the sources


class SourceMoved(KontextError):
    """A file that is not as the tree lists it, or cannot be read. `path` is its path."""

    def __init__(self, message: str, *, hint: str = "", path: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


def write_layer(
    sink: Sink,
    root: str,
    tree: Tree,
    content: LayerContent,
    watcher: Watcher | None = None,
    algorithm: Compression = compression.DEFAULT,
    copies: str = "",
    hashed: bytearray | None = None,
) -> Compressed:
    """Write a layer: the documents first, then the tree's entries at the written paths.

    File contents are read below `root` and must be those of `tree`. A file whose digest is a name
    in the directory `copies` is read from there. What an UNREAD file is, is added to `hashed`, as
    `pack_hashed` packs it. The layer is compressed.

    Raises SourceMoved where a file has changed or cannot be read, and OSError from the sink.
    """
    try:
        sources = DirTree(root)
    except OSError as error:
        raise _moved(root, f"cannot be read any more: {error.strerror}") from error
    with sources:

        def read(entry: Entry) -> Iterator[bytes]:
            if entry.digest == UNREAD:
                assert hashed is not None
                return _read_unread(sources, entry.path, hashed, watcher)
            return _read_listed(sources, entry, copies, watcher)

        return algorithm.compress(sink, _archive(tree, content, read))


def _archive(
    tree: Tree, content: LayerContent, read: Callable[[Entry], Iterator[bytes]]
) -> Iterator[bytes]:
    """Yield the layer's tar archive (OCI image specification, layer.md), in pieces.

    `read` yields the header and the content of a regular file.
    """
    for name, document in content.documents.items():
        yield tar.header(name, tar.REGTYPE, 0o644, size=len(document))
        yield document
        yield tar.padding(len(document))
    yield content.extra
    # Parents are always listed: `crane export` has no entry for one that no layer lists.
    for directory in parents([*content.documents, f"{SOURCES_PATH}/"]):
        yield tar.header(directory, tar.DIRTYPE, 0o755)
    for path in sorted({*content.written, *parents([*content.written, *content.whiteouts])}):
        entry = tree.entry(path)
        if entry.kind == "file":
            yield from read(entry)
        elif entry.kind == "link":
            yield tar.header(_name(path), tar.SYMTYPE, 0o777, target=entry.target)
        else:
            yield tar.header(_name(path), tar.DIRTYPE, 0o755)
    for path in content.whiteouts:
        directory, _, name = _name(path).rpartition("/")
        yield tar.header(f"{directory}/{WHITEOUT}{name}", tar.REGTYPE, 0o644)
    yield tar.END


def _name(path: str) -> str:
    return f"{SOURCES_PATH}/{path}"


def _read_listed(
    sources: DirTree, entry: Entry, copies: str, watcher: Watcher | None
) -> Iterator[bytes]:
    """Yield the header and the content of a file. Raises SourceMoved where it is another one."""
    try:
        file = _open_content(sources, entry, copies)
        try:
            digest = yield from _entry(file, entry.path, entry.size, entry.executable, watcher)
        finally:
            os.close(file)
    except OSError as error:
        raise _moved(entry.path, f"cannot be read any more: {error.strerror}") from error
    if digest != entry.digest:
        raise _moved(entry.path, "changed while it was pushed")


def _open_content(sources: DirTree, entry: Entry, copies: str) -> int:
    """Return the descriptor of a file, or of its copy. Raises OSError."""
    if copies:
        with contextlib.suppress(FileNotFoundError):
            return os.open(os.path.join(copies, entry.digest), os.O_RDONLY | os.O_CLOEXEC)
    return sources.open_file(entry.path)


def _read_unread(
    sources: DirTree, path: str, hashed: bytearray, watcher: Watcher | None
) -> Iterator[bytes]:
    """Yield the header and the content of a file, and add it to `hashed`. Raises SourceMoved."""
    try:
        file = sources.open_file(path)
        try:
            found = os.fstat(file)
            before = status_of(found)
            if not stat.S_ISREG(found.st_mode):
                raise _moved(path, "is no file any more")
            digest = yield from _entry(file, path, before.size, before.executable, watcher)
            after = status_of(os.fstat(file))
        finally:
            os.close(file)
    except OSError as error:
        raise _moved(path, f"cannot be read any more: {error.strerror}") from error
    if digest is None or after != before:
        raise _moved(path, "changed while it was pushed")
    hashed += pack_hashed(HashedFile(path, after, digest))


def _entry(
    file: int, path: str, size: int, executable: bool, watcher: Watcher | None
) -> Generator[bytes, None, str | None]:
    """Yield the entry of an open file; return its hex SHA-256, None if it has fewer bytes.

    Raises OSError.
    """
    digest, left = hashlib.sha256(), size
    yield tar.header(_name(path), tar.REGTYPE, 0o755 if executable else 0o644, size=size)
    if watcher:
        watcher.begin(path)
    for piece in read_pieces(file, size, _PIECE):
        digest.update(piece)
        left -= len(piece)
        if watcher:
            watcher.add(piece)
        yield piece
    if watcher:
        watcher.end()
    yield tar.padding(size)
    return None if left else digest.hexdigest()


def _moved(path: str, what: str) -> SourceMoved:
    return SourceMoved(
        f"{path!r} {what}; nothing was published",
        hint="Push again when nothing writes to the directory, or ignore the file.",
        path=path,
    )
