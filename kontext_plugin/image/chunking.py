"""Content-defined chunking of a sorted list of paths: where the listing of a large tree is cut.

A boundary is a path whose hash says so. It depends on that path alone, so an edit moves no other
boundary, and neighbouring paths mostly share a chunk. The paths between two boundaries are a
segment. A long segment is split further, by the same hash, into chunks.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

SMALL = 512
"""The most paths of a tree whose listing is not cut: manifest.json lists them itself."""

_MEAN = 256
"""Paths of an average chunk; the most are twice as many. An edit uploads one chunk."""


def boundary_hash(path: str) -> int:
    """Return the CRC-32 of a path. It decides where lists of paths are cut."""
    return zlib.crc32(path.encode())


def boundary_hashes(paths: Iterable[str]) -> Iterator[int]:
    """Yield `boundary_hash` of each path, four times as fast."""
    return map(zlib.crc32, map(str.encode, paths))


def is_boundary(path: str) -> bool:
    """Whether a segment starts with this path, whatever the other paths are."""
    return not path or boundary_hash(path) % _MEAN == 0


def cut(paths: Sequence[str], start: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    """Cut the sorted paths from the boundary `start` on, up to any other boundary.

    Yields the start of each chunk, and its paths. Only the chunk that starts at "" can be empty.
    """
    cuts = [index for index in _find(paths, _MEAN) if paths[index] != start]
    yield from _split_segment(start, paths[: (*cuts, len(paths))[0]], _MEAN)
    for first, end in pairwise([*cuts, len(paths)]):
        yield from _split_segment(paths[first], paths[first:end], _MEAN)


def _split_segment(
    start: str, paths: Sequence[str], mean: int
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the chunks of a segment. A long one is cut at twice as many hashes, and again."""
    if len(paths) <= 2 * _MEAN or mean == 1:
        yield start, paths
        return
    mean //= 2
    cuts = [index for index in _find(paths, mean) if index]
    for first, end in pairwise([0, *cuts, len(paths)]):
        yield from _split_segment(paths[first] if first else start, paths[first:end], mean)


def _find(paths: Sequence[str], mean: int) -> list[int]:
    """Return the indexes of the paths whose hash is a multiple of `mean`."""
    return [index for index, number in enumerate(boundary_hashes(paths)) if number % mean == 0]
