"""A delta: what changed between two trees, and the layer tarball that says so.

Changes say what a new layer must hold so that one tree, seen through an overlay, becomes another.
`write_layer` writes them as a layer. Its bytes depend on the trees alone: entries are sorted;
owners, times and modes are fixed.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from kontext_plugin.errors import KontextError
from kontext_plugin.image.listing import differing
from kontext_plugin.image.tree import WHITEOUT, Entry, ReverseDelta, Tree, parents
from kontext_plugin.layer import compression, tar
from kontext_plugin.layer.compression import Compressed, Compression, Sink
from kontext_plugin.manifest import SOURCES_PATH
from kontext_plugin.runtime.files import DirTree, HashedPieces, read_pieces

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
    old, new = differing(old, new)
    items = (old.files.items() ^ new.files.items()) | (old.links.items() ^ new.links.items())
    touched = {path for path, _ in items} | (old.executable ^ new.executable)
    return ReverseDelta(
        old.only(touched).without_sizes(), frozenset(path for path in touched if path not in old)
    )


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
    former = reverse.former
    return FileCounts(
        added=sum(not new.is_directory(path) for path in reverse.absent),
        changed=sum(path in new and not new.is_directory(path) for path in former.paths()),
        removed=sum(path not in new and not former.is_directory(path) for path in former.paths()),
    )


def layer_bytes(changes: Changes, new: Tree) -> int:
    """Return the bytes of sources in a layer with these changes, uncompressed."""
    written = changes.added + changes.changed
    sizes = sum(new.sizes.get(path, 0) for path in written)
    return sizes + ENTRY_BYTES * (len(written) + len(changes.whiteouts))


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

Tee = Callable[[str, Iterator[bytes]], Iterator[bytes]]
"""Takes a file's path and the pieces of its content; yields the pieces unchanged."""


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
    tee: Tee | None = None,
    algorithm: Compression = compression.DEFAULT,
    copies: str = "",
) -> Compressed:
    """Write a layer: the documents first, then the tree's entries at the written paths.

    File contents are read below `root` and must be those of `tree`. A file whose digest is a name
    in the directory `copies` is read from there. The layer is compressed.
    Raises SourceMoved where a file has changed or cannot be read, and OSError from the sink.
    """
    try:
        sources = _Sources(root, copies)
    except OSError as error:
        raise _moved(root, f"cannot be read any more: {error.strerror}") from error
    with sources:
        return algorithm.compress(sink, _archive(sources, tree, content, tee))


class _Sources(DirTree):
    """A source directory, with copies of some of its files, by their digests."""

    def __init__(self, root: str, copies: str) -> None:
        super().__init__(root)
        self._copies = copies

    def open_content(self, entry: Entry) -> int:
        """Return the descriptor of a file, or of its copy. Raises OSError."""
        if self._copies:
            with contextlib.suppress(FileNotFoundError):
                return os.open(os.path.join(self._copies, entry.digest), os.O_RDONLY | os.O_CLOEXEC)
        return self.open_file(entry.path)


def _archive(
    sources: _Sources, tree: Tree, content: LayerContent, tee: Tee | None
) -> Iterator[bytes]:
    """Yield the layer's tar archive (OCI image specification, layer.md), in pieces."""
    for name, document in content.documents.items():
        yield tar.header(name, tar.REGTYPE, 0o644, size=len(document))
        yield from tar.padded([document], len(document))
    yield content.extra
    # Parents are always listed: `crane export` has no entry for one that no layer lists.
    for directory in parents([*content.documents, f"{SOURCES_PATH}/"]):
        yield tar.header(directory, tar.DIRTYPE, 0o755)
    for path in sorted({*content.written, *parents([*content.written, *content.whiteouts])}):
        yield from _tar_entry(sources, tree.entry(path), tee)
    for path in content.whiteouts:
        directory, _, name = f"{SOURCES_PATH}/{path}".rpartition("/")
        yield tar.header(f"{directory}/{WHITEOUT}{name}", tar.REGTYPE, 0o644)
    yield tar.END


def _tar_entry(sources: _Sources, entry: Entry, tee: Tee | None) -> Iterator[bytes]:
    name = f"{SOURCES_PATH}/{entry.path}"
    if entry.kind == "directory":
        yield tar.header(name, tar.DIRTYPE, 0o755)
    elif entry.kind == "link":
        yield tar.header(name, tar.SYMTYPE, 0o777, target=entry.target)
    else:
        mode = 0o755 if entry.executable else 0o644
        yield tar.header(name, tar.REGTYPE, mode, size=entry.size)
        pieces = _read_content(sources, entry)
        yield from tar.padded(tee(entry.path, pieces) if tee else pieces, entry.size)


def _read_content(sources: _Sources, entry: Entry) -> Iterator[bytes]:
    """Yield a file's bytes. Raises SourceMoved where they are not those that the tree lists."""
    try:
        file = sources.open_content(entry)
        try:
            pieces = HashedPieces(read_pieces(file, entry.size, _PIECE))
            yield from pieces
        finally:
            os.close(file)
    except OSError as error:
        raise _moved(entry.path, f"cannot be read any more: {error.strerror}") from error
    if (pieces.size, pieces.hexdigest()) != (entry.size, entry.digest):
        raise _moved(entry.path, "changed while it was pushed")


def _moved(path: str, what: str) -> SourceMoved:
    return SourceMoved(
        f"{path!r} {what}; nothing was published",
        hint="Push again when nothing writes to the directory, or ignore the file.",
        path=path,
    )
