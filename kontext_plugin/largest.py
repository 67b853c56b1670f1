"""Which directories most of some files lies in. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from kontext_plugin.tree import parents


class Share(NamedTuple):
    path: str  # of a directory
    bytes: int
    rest: bool  # less than it holds: a directory below it is a share of its own


def largest(sizes: Mapping[str, int], count: int) -> list[Share]:
    """At most `count` directories, the largest first, with the bytes of files in and below them.

    Each is as deep as it can be: one has the place of the one above if more than half is in it. No
    byte is in two of them, and those of files beside all directories are in none.
    """
    held, below = _directories(sizes)
    found: dict[str, int] = {}
    while len(found) < count and (path := _deepest(held, below)):
        found[path] = held[path]
        for folder in (*parents([path]), path):
            held[folder] -= found[path]
    shares = [
        Share(path, size, any(other.startswith(f"{path}/") for other in found))
        for path, size in found.items()
    ]
    return sorted(shares, key=lambda share: (-share.bytes, share.path))


def _directories(sizes: Mapping[str, int]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """The bytes that each directory holds, and the directories in each; "" is the root."""
    held: dict[str, int] = defaultdict(int)
    below: dict[str, list[str]] = defaultdict(list)
    for path, size in sizes.items():
        held[path.rpartition("/")[0]] += size
    for folder in sorted({*held, *parents(held)} - {""}, reverse=True):  # children first
        above = folder.rpartition("/")[0]
        below[above].append(folder)
        if above:
            held[above] += held[folder]
    return held, below


def _deepest(held: Mapping[str, int], below: Mapping[str, list[str]]) -> str:
    """The directory to name next; "" if there is none."""
    path, least = "", 0
    while inside := below.get(path):
        child = max(inside, key=lambda folder: held[folder])
        if held[child] <= least:
            break
        path, least = child, held[child] // 2
    return path
