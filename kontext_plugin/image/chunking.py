"""TODO."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from kontext_plugin.image.tree import Tree

SMALL = 512
"""Paths up to which a listing is one piece, inside manifest.json."""

_MEAN = 256
"""Paths of a piece, at most twice as many. An edit uploads one, and of each other one a digest."""


def boundary_hash(path: str) -> int:
    """What says where to cut: a number that depends on the path alone."""
    return zlib.crc32(path.encode())


def is_small(tree: Tree) -> bool:
    return len(tree.files) + len(tree.links) <= SMALL


def is_boundary(path: str) -> bool:
    """Whether a piece begins with this path, whatever the others are."""
    return not path or boundary_hash(path) % _MEAN == 0


def boundaries(tree: Tree) -> list[str]:
    """Where the stretches of the listing begin that are cut by themselves, the first at ""."""
    return sorted(["", *filter(is_boundary, _paths(tree))])


def split_segment(
    start: str, paths: Sequence[str], mean: int = _MEAN
) -> list[tuple[str, list[str]]]:
    """The pieces of the stretch that begins at `start`: where each begins, and its paths.

    A long one is cut where twice as many hashes say so, and again, until no piece is long.
    """
    if len(paths) <= 2 * _MEAN or mean == 1:
        return [(start, list(paths))]
    mean //= 2
    marked = [
        index for index, path in enumerate(paths) if index and boundary_hash(path) % mean == 0
    ]
    made: list[tuple[str, list[str]]] = []
    for begin, end in pairwise([0, *marked, len(paths)]):
        made += split_segment(paths[begin] if begin else start, paths[begin:end], mean)
    return made


def segments(tree: Tree, starts: Sequence[str], wanted: Sequence[int]) -> list[list[str]]:
    """The sorted paths of the wanted stretches, of those that begin so; the wanted are sorted."""
    found: dict[int, list[str]] = {index: [] for index in wanted}
    if found:
        # Most paths lie outside of a small edit, which a comparison finds out sooner.
        near = [path for path in _paths(tree) if path >= starts[wanted[0]]]
        if wanted[-1] + 1 < len(starts):
            near = [path for path in near if path < starts[wanted[-1] + 1]]
        for path in near:
            if (index := segment_of(path, starts)) in found:
                found[index].append(path)
    return [sorted(found[index]) for index in wanted]


def segment_of(path: str, starts: Sequence[str]) -> int:
    """The stretch that a path belongs to."""
    return bisect_right(starts, path) - 1


def _paths(tree: Tree) -> tuple[str, ...]:
    return (*tree.files, *tree.links)
