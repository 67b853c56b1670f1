"""What a new layer must hold so that one tree, seen through an overlay, becomes another. Pure.

Where two trees differ, path by path. Pure.

Layers: writes one that turns an image's sources into a tree, and reads documents off its head.

The bytes depend on the trees alone: entries are sorted; owners, times and modes are fixed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kontext_plugin.errors import KontextError
from kontext_plugin.image.tree import WHITEOUT, Entry, ReverseDelta, Tree, parents
from kontext_plugin.layer import tar
from kontext_plugin.layer.compression import Compressed, Sink, compress_layer
from kontext_plugin.manifest import SOURCES_PATH
from kontext_plugin.runtime.files import DirTree

ENTRY_BYTES = 512
"""What each path takes in an archive, apart from its content (POSIX.1-2017, pax, "ustar")."""


@dataclass(frozen=True)
class Changes:
    """The way from an old tree to a new one; every column is sorted."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    # The topmost of the removed whose parent is still a directory: a whiteout hides what is below
    # it, and a directory that became a file or a link hides its children by itself. None of them
    # exists in the new tree, so no layer ever holds a name together with its whiteout, which
    # consumers disagree about (OCI image specification, layer.md, "Whiteouts").
    whiteouts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    @property
    def written(self) -> tuple[str, ...]:
        """What the layer carries, parents before their children."""
        return tuple(sorted(self.added + self.changed))


def reverse_delta(old: Tree, new: Tree) -> ReverseDelta:
    """The way back from `new` to `old`."""
    differing = (old.files.items() ^ new.files.items()) | (old.links.items() ^ new.links.items())
    touched = {path for path, _ in differing} | (old.executable ^ new.executable)
    return ReverseDelta(
        old.only(touched).without_sizes(), frozenset(path for path in touched if path not in old)
    )


def compose(nearer: ReverseDelta, farther: ReverseDelta, new: Tree) -> ReverseDelta:
    """The way back from `new` that leads first to where `nearer` leads, and `farther` on.

    What the whole way leaves as it is in `new` is not in the result.
    """
    first = nearer.former.only(nearer.former.paths() - farther.paths())
    then = farther.former
    former = Tree(
        files={**first.files, **then.files},
        executable=first.executable | then.executable,
        links={**first.links, **then.links},
    )
    changed = {path for path in former.paths() if not _same(path, former, new)}
    absent = (nearer.absent - farther.paths()) | farther.absent
    return ReverseDelta(former.only(changed), frozenset(path for path in absent if path in new))


def changes_of(undone: ReverseDelta, new: Tree) -> Changes:
    """What must be done to come to `new` from where `undone` leads back to."""
    former = undone.former.paths()
    removed = sorted(path for path in former if path not in new)
    return Changes(
        added=tuple(sorted(undone.absent)),
        changed=tuple(sorted(path for path in former if path in new)),
        removed=tuple(removed),
        whiteouts=tuple(path for path in removed if _parent_stays(path, new)),
    )


def diff(old: Tree, new: Tree) -> Changes:
    """The changes that turn `old` into `new`."""
    return changes_of(reverse_delta(old, new), new)


def layer_bytes(made: Changes, new: Tree) -> int:
    """What a layer with these changes holds of sources, uncompressed, its manifest left aside."""
    written = made.added + made.changed
    sizes = sum(new.sizes.get(path, 0) for path in written)
    return sizes + ENTRY_BYTES * (len(written) + len(made.whiteouts))


def tree_bytes(tree: Tree) -> int:
    """What a layer with all of the tree holds of sources, as `layer_bytes`."""
    return tree.size + ENTRY_BYTES * (len(tree.files) + len(tree.links))


def replaced_directories(undone: ReverseDelta, new: Tree, before: frozenset[str]) -> frozenset[str]:
    """The lineage's `replaced_directories` at `new`, after a delta on where `undone` leads back to.

    `before` is what it was there. A whiteout ends the danger: it hides the old children for
    good, whatever comes later. So does the replacement of a directory above, which is in the
    result itself.
    """
    replaced = before | undone.former.directories()
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


Place = Literal["the image", "DIR"]

What = Literal["missing", "only", "twice", "other kind", "other content", "other mode"]


@dataclass(frozen=True)
class Difference:
    """What is not as the manifest says."""

    path: str
    place: Place
    what: What


def differences(
    want: Tree, have: Tree, place: Place, *, modes: bool = True
) -> Iterator[Difference]:
    """All differences, sorted by path. Whether files are executable counts if `modes` do."""
    for path in sorted(want.paths() | have.paths()):
        if path not in have:
            yield Difference(path, place, "missing")
        elif path not in want:
            yield Difference(path, place, "only")
        elif what := entry_difference(want.entry(path), have.entry(path), modes=modes):
            yield Difference(path, place, what)


def entry_difference(want: Entry, have: Entry, *, modes: bool = True) -> What | None:
    """How one entry differs from another of the same path. Sizes follow from the content."""
    if want.kind != have.kind:
        return "other kind"
    if (want.digest, want.target) != (have.digest, have.target):
        return "other content"
    if modes and want.executable != have.executable:
        return "other mode"
    return None


_COPY = 256 * 1024


Watcher = Callable[[str, Iterator[bytes]], Iterator[bytes]]
"""Sees a file's path and the pieces of its content, and passes these on as they are."""


@dataclass(frozen=True)
class LayerContent:
    """What a layer holds."""

    documents: Mapping[str, bytes]  # the manifest and parts of it, by their names in the image
    written: tuple[str, ...]  # paths of the tree
    whiteouts: tuple[str, ...] = ()
    besides: bytes = b""  # archive entries that lie outside of the sources


def write_layer(
    sink: Sink, root: str, tree: Tree, content: LayerContent, watcher: Watcher | None = None
) -> Compressed:
    """Writes a gzip layer: the documents first, then what `tree` has at the written paths.

    File contents are read below `root` and must be those that `tree` has. Raises KontextError if
    one is not, or cannot be read, and OSError if the sink takes no more.
    """
    try:
        sources = DirTree(root)
    except OSError as error:
        raise _changed_error(root, f"cannot be read any more: {error.strerror}") from error
    with sources:
        return compress_layer(sink, _tar(sources, tree, content, watcher))


def _tar(
    sources: DirTree, tree: Tree, content: LayerContent, watcher: Watcher | None
) -> Iterator[bytes]:
    """The layer's tar archive (OCI image specification, layer.md), in pieces."""
    for name, document in content.documents.items():
        yield tar.header(name, tar.REGTYPE, 0o644, size=len(document))
        yield from tar.padded([document], len(document))
    yield content.besides
    # Parents are always listed: `crane export` shows no entry for one that no layer has.
    for folder in parents([*content.documents, f"{SOURCES_PATH}/"]):
        yield tar.header(folder, tar.DIRTYPE, 0o755)
    for path in sorted({*content.written, *parents([*content.written, *content.whiteouts])}):
        yield from _tar_entry(sources, tree.entry(path), watcher)
    for path in content.whiteouts:
        folder, _, name = f"{SOURCES_PATH}/{path}".rpartition("/")
        yield tar.header(f"{folder}/{WHITEOUT}{name}", tar.REGTYPE, 0o644)
    yield tar.END


def _tar_entry(sources: DirTree, entry: Entry, watcher: Watcher | None) -> Iterator[bytes]:
    name = f"{SOURCES_PATH}/{entry.path}"
    if entry.kind == "directory":
        yield tar.header(name, tar.DIRTYPE, 0o755)
    elif entry.kind == "link":
        yield tar.header(name, tar.SYMTYPE, 0o777, target=entry.target)
    else:
        mode = 0o755 if entry.executable else 0o644
        yield tar.header(name, tar.REGTYPE, mode, size=entry.size)
        pieces = _read_content(sources, entry)
        yield from tar.padded(watcher(entry.path, pieces) if watcher else pieces, entry.size)


def _read_content(sources: DirTree, entry: Entry) -> Iterator[bytes]:
    """A file's bytes: all of them, and those that the tree was made from, or KontextError."""
    digest = hashlib.sha256()
    left = entry.size
    try:
        file = sources.file(entry.path)
        try:
            while left and (piece := os.read(file, min(left, _COPY))):
                digest.update(piece)
                left -= len(piece)
                yield piece
        finally:
            os.close(file)
    except OSError as error:
        raise _changed_error(entry.path, f"cannot be read any more: {error.strerror}") from error
    if left or digest.hexdigest() != entry.digest:
        raise _changed_error(entry.path, "changed while it was pushed")


def _changed_error(path: str, what: str) -> KontextError:
    return KontextError(
        f"{path!r} {what}; nothing was published",
        hint="Push again when nothing writes to the directory, or ignore the file.",
    )
