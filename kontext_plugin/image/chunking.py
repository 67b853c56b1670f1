"""Content-defined chunking of a sorted list of paths: where the listing of a large tree is cut.

A boundary is a path whose hash says so. It depends on that path alone, so an edit moves no other
boundary, and neighbouring paths mostly share a chunk. The paths between two boundaries are a
segment. A long segment is split further, by the same hash, into chunks.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from kontext_plugin.image.tree import Tree

SMALL = 512
"""The most paths of a tree whose listing is not cut: manifest.json lists them itself."""

_MEAN = 256
"""Paths of an average chunk; the most are twice as many. An edit uploads one chunk."""


def boundary_hash(path: str) -> int:
    """Return the CRC-32 of a path. It decides where lists of paths are cut."""
    return zlib.crc32(path.encode())


def is_small(tree: Tree) -> bool:
    """Whether the listing of a tree is not cut at all."""
    return len(tree.files) + len(tree.links) <= SMALL


def is_boundary(path: str) -> bool:
    """Whether a segment starts with this path, whatever the other paths are."""
    return not path or boundary_hash(path) % _MEAN == 0


def boundaries(tree: Tree) -> list[str]:
    """Return the sorted paths at which the tree's segments start; the first one is ""."""
    return sorted(["", *filter(is_boundary, _paths(tree))])


def split_segment(
    start: str, paths: Sequence[str], mean: int = _MEAN
) -> list[tuple[str, list[str]]]:
    """Return the chunks of the segment that starts at `start`: the start of each, and its paths.

    A long segment is cut at twice as many hashes, and again, until no chunk is long.
    """
    if len(paths) <= 2 * _MEAN or mean == 1:
        return [(start, list(paths))]
    mean //= 2
    cuts = [index for index, path in enumerate(paths) if index and boundary_hash(path) % mean == 0]
    chunks: list[tuple[str, list[str]]] = []
    for first, end in pairwise([0, *cuts, len(paths)]):
        chunks += split_segment(paths[first] if first else start, paths[first:end], mean)
    return chunks


def segments(tree: Tree, starts: Sequence[str], wanted: Sequence[int]) -> list[list[str]]:
    """Return the sorted paths of some of the segments that start at `starts`.

    `wanted` holds the indexes of these segments, sorted.
    """
    found: dict[int, list[str]] = {index: [] for index in wanted}
    if found:
        # Most paths lie outside of a small edit; comparing with its ends is faster than bisecting.
        near = [path for path in _paths(tree) if path >= starts[wanted[0]]]
        if wanted[-1] + 1 < len(starts):
            near = [path for path in near if path < starts[wanted[-1] + 1]]
        for path in near:
            if (index := segment_of(path, starts)) in found:
                found[index].append(path)
    return [sorted(found[index]) for index in wanted]


def segment_of(path: str, starts: Sequence[str]) -> int:
    """Return the index of the segment that a path belongs to."""
    return bisect_right(starts, path) - 1


def _paths(tree: Tree) -> tuple[str, ...]:
    return (*tree.files, *tree.links)
