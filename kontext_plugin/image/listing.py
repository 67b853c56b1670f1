"""The listing of a tree: its sorted paths in chunks, each a document with a digest of its own.

Chunks with one digest are the same, so trees are compared chunk by chunk, and only what differs is
decoded. An edit encodes the chunks around it (docs/format.md, "Parts").
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, Literal

from kontext_plugin.image.chunking import SMALL, cut, is_boundary
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.tree import DIRECTORY, Tree

_DECODED = 1024
"""Chunks that are kept decoded: 120 MB if a push touches two trees of 130,000 paths all over."""


# --- Documents ---


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return JSON with sorted keys, in UTF-8, without spaces: one state has one digest."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def columns(tree: Tree) -> dict[str, Any]:
    """Return a tree as the columns of a listing."""
    return {
        "files": dict(tree.files),
        # In the order of the sorted paths of the regular files: a second map of paths would
        # make the listing half as large again.
        "sizes": [tree.sizes[path] for path in sorted(tree.sizes)],
        "executable": sorted(tree.executable),
        "links": dict(tree.links),
    }


def tree_of(listing: Mapping[str, Any]) -> Tree:
    """Return the tree whose columns were checked, or are our own."""
    files = listing["files"]
    regular = sorted(path for path, digest in files.items() if digest != DIRECTORY)
    sizes = dict(zip(regular, listing["sizes"], strict=True))
    return Tree(files, sizes, frozenset(listing["executable"]), listing["links"])


# --- Chunks, and the trees that they make ---


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some paths of a tree, from `start` to the start of the next chunk."""

    start: str
    digest: Digest  # of the document
    length: int  # bytes of the document
    files: int  # entries of the column `files`: regular files and directories
    directories: int
    links: int
    size: int  # bytes of all regular files
    read: Callable[[], bytes] = field(repr=False)  # returns the document

    # So a chunk of a scan, and the same one of an image, are decoded once.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chunk) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def tree(self) -> Tree:
        """Its paths, and nothing else."""
        return _decoded(self)


@lru_cache(_DECODED)
def _decoded(chunk: Chunk) -> Tree:
    return tree_of(json.loads(chunk.read()))


def chunk_of(start: str, tree: Tree, document: bytes = b"") -> Chunk:
    """Return the chunk that lists all of `tree`. `document` is its document, if that is known."""
    document = document or canonical(columns(tree))
    return Chunk(
        start=start,
        digest=digest_of(document),
        length=len(document),
        files=len(tree.files),
        directories=len(tree.files) - len(tree.sizes),
        links=len(tree.links),
        size=sum(tree.sizes.values()),
        read=lambda: document,
    )


@dataclass(frozen=True, eq=False)
class ListedTree(Tree):
    """A tree with the chunks of its listing."""

    chunks: tuple[Chunk, ...] = ()

    @cached_property
    def file_count(self) -> int:
        """As in Tree; nothing is decoded."""
        return sum(chunk.files - chunk.directories + chunk.links for chunk in self.chunks)

    @cached_property
    def size(self) -> int:
        """As in Tree; nothing is decoded."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def digests(self) -> list[Digest]:
        """The digests of the chunks: equal ones for equal trees."""
        return [chunk.digest for chunk in self.chunks]

    @property
    def length(self) -> int:
        """Bytes of the whole listing."""
        return sum(chunk.length for chunk in self.chunks)


def list_tree(tree: Tree) -> ListedTree:
    """Return the tree with its chunks."""
    if isinstance(tree, ListedTree):
        return tree
    paths = sorted(tree.paths())
    pieces = cut(paths) if len(paths) > SMALL else [("", paths)]
    chunks = tuple(chunk_of(start, tree.only(some)) for start, some in pieces)
    return ListedTree(tree.files, tree.sizes, tree.executable, tree.links, chunks)


def tree_of_chunks(chunks: Iterable[Chunk]) -> ListedTree:
    """Return the tree of all its chunks, which are decoded when somebody asks for their paths."""
    listed = _Chunks(tuple(chunks))
    return ListedTree(
        files=_Column(listed, "files"),
        sizes=_Column(listed, "sizes"),
        executable=_SetColumn(listed),
        links=_Column(listed, "links"),
        chunks=listed.chunks,
    )


@dataclass(frozen=True, eq=False)
class _Chunks:
    chunks: tuple[Chunk, ...]

    @cached_property
    def starts(self) -> list[str]:
        return [chunk.start for chunk in self.chunks]

    def around(self, path: str) -> Tree:
        """Return the only chunk that may have a path."""
        return self.chunks[bisect_right(self.starts, path) - 1].tree

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """The number of entries of each column."""
        files = sum(chunk.files for chunk in self.chunks)
        directories = sum(chunk.directories for chunk in self.chunks)
        links = sum(chunk.links for chunk in self.chunks)
        return {"files": files, "sizes": files - directories, "links": links}


class _Column(Mapping[str, Any]):
    """A column of all chunks."""

    def __init__(self, listed: _Chunks, name: Literal["files", "sizes", "links"]) -> None:
        self._listed = listed
        self._name = name

    def __getitem__(self, path: str) -> Any:
        return getattr(self._listed.around(path), self._name)[path]

    def get(self, path: str, default: Any = None) -> Any:
        return getattr(self._listed.around(path), self._name).get(path, default)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and path in getattr(self._listed.around(path), self._name)

    def __iter__(self) -> Iterator[str]:
        for chunk in self._listed.chunks:
            yield from getattr(chunk.tree, self._name)

    def __len__(self) -> int:
        return self._listed.counts[self._name]


class _SetColumn(AbstractSet[str]):
    """The executable paths of all chunks."""

    def __init__(self, listed: _Chunks) -> None:
        self._listed = listed

    @classmethod
    def _from_iterable(cls, paths: Iterable[str]) -> AbstractSet[str]:  # type: ignore[override]
        return frozenset(paths)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and path in self._listed.around(path).executable

    def __iter__(self) -> Iterator[str]:
        for chunk in self._listed.chunks:
            yield from chunk.tree.executable

    def __len__(self) -> int:
        return sum(len(chunk.tree.executable) for chunk in self._listed.chunks)


# --- Comparing, looking up, changing ---


def differing(old: Tree, new: Tree) -> Iterator[tuple[Tree, Tree]]:
    """Yield pairs of pieces, of `old` and `new` at the same paths. All else is equal."""
    if not (isinstance(old, ListedTree) and isinstance(new, ListedTree)):
        yield old, new
        return
    starts = {chunk.start for chunk in old.chunks} & {chunk.start for chunk in new.chunks}
    for before, after in zip(_groups(old, starts), _groups(new, starts), strict=True):
        same = {chunk.digest for chunk in before} & {chunk.digest for chunk in after}
        if len(same) < max(len(before), len(after)):
            yield _without(before, same), _without(after, same)


def _groups(tree: ListedTree, starts: Collection[str]) -> list[list[Chunk]]:
    """Return the chunks, cut at these starts; a first group has what lies before, maybe nothing."""
    groups: list[list[Chunk]] = [[]]
    for chunk in tree.chunks:
        if chunk.start in starts:
            groups.append([])
        groups[-1].append(chunk)
    return groups


def _without(chunks: Iterable[Chunk], digests: Collection[Digest]) -> Tree:
    return joined(chunk.tree for chunk in chunks if chunk.digest not in digests)


def paths_below(tree: ListedTree, directory: str) -> Iterator[str]:
    """Yield the sorted paths below a directory."""
    prefix = f"{directory}/"
    index = bisect_right(tree.chunks, prefix, key=lambda chunk: chunk.start) - 1
    for chunk in islice(tree.chunks, max(index, 0), None):
        paths = sorted(chunk.tree.paths())
        first = bisect_left(paths, prefix)
        for path in paths[first:]:
            if not path.startswith(prefix):
                return
            yield path


def update(tree: ListedTree, new: Tree, removed: Collection[str]) -> ListedTree:
    """Return the tree with the entries `new`, and with nothing at the paths `removed`.

    A path may be in both. Chunks without any of these paths stay as they are.
    """
    if not tree.chunks:
        return list_tree(new)
    touched = sorted({*new.paths(), *removed})
    if not touched:
        return tree
    count = sum(chunk.files + chunk.links for chunk in tree.chunks)
    if len(tree.chunks) == 1 or count - len(removed) <= SMALL:
        return list_tree(_changed(tree.chunks, new, removed))
    chunks: list[Chunk] = []
    for segment, paths in _touched_segments(tree, new, touched):
        if not paths:
            chunks += segment
            continue
        piece = _changed(segment, new.only(paths), paths)
        for start, some in cut(sorted(piece.paths()), segment[0].start):
            chunks.append(chunk_of(start, piece.only(some)))
    whole = tree_of_chunks(chunks)
    if len(whole.files) + len(whole.links) <= SMALL:
        return list_tree(joined(chunk.tree for chunk in chunks))
    return whole


def _touched_segments(
    tree: ListedTree, new: Tree, touched: Sequence[str]
) -> Iterator[tuple[list[Chunk], Sequence[str]]]:
    """Yield the chunks of each segment, and its touched paths.

    A segment whose first path is gone is part of the one before.
    """
    gone = {path for path in touched if path not in new}
    segments: list[list[Chunk]] = []
    for chunk in tree.chunks:
        if not chunk.start or (is_boundary(chunk.start) and chunk.start not in gone):
            segments.append([])
        segments[-1].append(chunk)
    starts = [segment[0].start for segment in segments]
    first = 0
    for index, segment in enumerate(segments):
        end = bisect_left(touched, starts[index + 1]) if index + 1 < len(starts) else len(touched)
        yield segment, touched[first:end]
        first = end


def _changed(chunks: Iterable[Chunk], new: Tree, removed: Iterable[str]) -> Tree:
    """Return the plain tree of some chunks, changed."""
    piece = joined(chunk.tree for chunk in chunks)
    files, sizes, links = dict(piece.files), dict(piece.sizes), dict(piece.links)
    gone = {*removed, *new.paths()}
    for path in gone:
        for column in (files, sizes, links):
            column.pop(path, None)
    return Tree(
        {**files, **new.files},
        {**sizes, **new.sizes},
        (piece.executable - gone) | new.executable,
        {**links, **new.links},
    )


def joined(trees: Iterable[Tree]) -> Tree:
    """Return the plain tree of all entries of trees that have no path in common."""
    files: dict[str, str] = {}
    sizes: dict[str, int] = {}
    executable: set[str] = set()
    links: dict[str, str] = {}
    for tree in trees:
        files.update(tree.files)
        sizes.update(tree.sizes)
        executable.update(tree.executable)
        links.update(tree.links)
    return Tree(files, sizes, frozenset(executable), links)
