"""A tree as the columns of a JSON document, and where a large tree's listing is cut. Pure.

It is cut before each path whose hash says so. So the cuts depend on the paths alone, an edit
changes one piece, and paths of one directory mostly share it. Between two such paths, the anchors,
lies a stretch, which is cut further where it is long.
"""

from __future__ import annotations

import json
import re
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from kontext_plugin.errors import brief
from kontext_plugin.tree import DIRECTORY, Tree

SMALL = 512
"""Paths up to which a listing is one piece, inside manifest.json."""

_MEAN = 256
"""Paths of a piece, at most twice as many. An edit uploads one, and of each other one a digest."""

_LARGEST = 2**63 - 1
_HEX = re.compile(r"[0-9a-f]*")

# An empty, `.` or `..` component (so a leading, trailing or double slash too), a NUL, a
# whiteout's name, or what is no Unicode.
_UNSAFE = re.compile(r"(?:\A|/)(?:\.{0,2}(?:/|\Z)|\.wh\.)|\0|[\ud800-\udfff]")


class InvalidManifest(ValueError):
    """A manifest that cannot be trusted; the text says why."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, in UTF-8, without spaces: one state, one digest."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def columns(tree: Tree) -> dict[str, Any]:
    return {
        "files": dict(tree.files),
        # In the order of the sorted paths of the regular files: a second map of paths would
        # make the listing half as large again.
        "sizes": [tree.sizes[path] for path in sorted(tree.sizes)],
        "executable": sorted(tree.executable),
        "links": dict(tree.links),
    }


def exceeds(tree: Tree, limit: int) -> bool:
    """Whether the whole listing takes more bytes; a quick bound mostly spares making it."""
    text = "".join((*tree.files, *tree.links, *tree.links.values(), *tree.executable))
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    entries = len(tree.files) + len(tree.links) + len(tree.executable)
    most = len(text) * (1 if plain else 6) + 100 * entries  # a digest, a size, punctuation
    return most > limit and len(canonical(columns(tree))) > limit


def tree_of(listed: Mapping[str, Any]) -> Tree:
    """The tree that has these columns, which are of the schema's outer shape.

    Raises InvalidManifest where a value is not of the schema: jsonschema takes tens of
    microseconds for each. The paths remain unchecked: `check_tree` does that.
    """
    files, links, sizes = listed["files"], listed["links"], listed["sizes"]
    executable = paths_of(listed["executable"])
    _check_digests(files.values())
    _check_targets(links.values())
    check_counts(sizes)
    if not all(files.get(path) for path in executable):
        raise InvalidManifest("it lists as executable what is no file")
    regular = sorted(path for path, digest in files.items() if digest != DIRECTORY)
    if len(regular) != len(sizes):
        raise InvalidManifest("it lists another number of sizes than of files")
    return Tree(files, dict(zip(regular, sizes, strict=True)), executable, links)


def former_of(listed: Mapping[str, Any]) -> Tree:
    """`tree_of` for what a tree was, of which no sizes are listed."""
    some = [0 for digest in listed["files"].values() if digest != DIRECTORY]
    return tree_of({**listed, "sizes": some}).without_sizes()


def paths_of(listed: Sequence[Any]) -> frozenset[str]:
    """A list of different strings as a set. Raises InvalidManifest for anything else."""
    if not set(map(type, listed)) <= {str} or len(found := frozenset(listed)) != len(listed):
        raise InvalidManifest("it lists a path twice, or what is no path")
    return found


def check_counts(values: Collection[Any]) -> None:
    """Raises InvalidManifest. 1.0 is an integer to JSON Schema, and to nobody else."""
    if not set(map(type, values)) <= {int} or (
        values and not 0 <= min(values) <= max(values) <= _LARGEST
    ):
        raise InvalidManifest("it lists a number that is no integer")


def _check_digests(values: Collection[Any]) -> None:
    if not set(map(type, values)) <= {str} or not (
        set(map(len, values)) <= {0, 64} and _HEX.fullmatch("".join(values))
    ):
        raise InvalidManifest("it lists a hash that is none")


def _check_targets(values: Collection[Any]) -> None:
    if not set(map(type, values)) <= {str} or "" in values:
        raise InvalidManifest("it lists a link to nothing")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise InvalidManifest("it lists a link to what is no UTF-8") from None


def check_tree(tree: Tree) -> None:
    """Raises InvalidManifest unless every path is safe, has its parents, and is one thing only."""
    paths = tree.paths()
    check_paths(paths)
    if len(paths) != len(tree.files) + len(tree.links):
        raise InvalidManifest("it lists a path both as a file and as a link")
    for parent in {path.rpartition("/")[0] for path in paths}:
        if parent and not tree.is_directory(parent):
            raise InvalidManifest(f"{brief(repr(parent))} has entries below it and is no directory")


def check_paths(paths: Iterable[str]) -> None:
    """Raises InvalidManifest unless they lie where they seem to."""
    for path in paths:
        if _UNSAFE.search(path):
            raise InvalidManifest(f"it lists the path {brief(repr(path))}")


def mark(path: str) -> int:
    """What says where to cut: a number that depends on the path alone."""
    return zlib.crc32(path.encode())


def is_small(tree: Tree) -> bool:
    return len(tree.files) + len(tree.links) <= SMALL


def is_anchor(path: str) -> bool:
    """Whether a piece begins with this path, whatever the others are."""
    return not path or mark(path) % _MEAN == 0


def anchors(tree: Tree) -> list[str]:
    """Where the stretches of the listing begin that are cut by themselves, the first at ""."""
    return sorted(["", *filter(is_anchor, _paths(tree))])


def cut(start: str, paths: Sequence[str], mean: int = _MEAN) -> list[tuple[str, list[str]]]:
    """The pieces of the stretch that begins at `start`: where each begins, and its paths.

    A long one is cut where twice as many hashes say so, and again, until no piece is long.
    """
    if len(paths) <= 2 * _MEAN or mean == 1:
        return [(start, list(paths))]
    mean //= 2
    marked = [index for index, path in enumerate(paths) if index and mark(path) % mean == 0]
    made: list[tuple[str, list[str]]] = []
    for begin, end in pairwise([0, *marked, len(paths)]):
        made += cut(paths[begin] if begin else start, paths[begin:end], mean)
    return made


def stretches(tree: Tree, starts: Sequence[str], wanted: Sequence[int]) -> list[list[str]]:
    """The sorted paths of the wanted stretches, of those that begin so; the wanted are sorted."""
    found: dict[int, list[str]] = {index: [] for index in wanted}
    if found:
        # Most paths lie outside of a small edit, which a comparison finds out sooner.
        near = [path for path in _paths(tree) if path >= starts[wanted[0]]]
        if wanted[-1] + 1 < len(starts):
            near = [path for path in near if path < starts[wanted[-1] + 1]]
        for path in near:
            if (index := place_of(path, starts)) in found:
                found[index].append(path)
    return [sorted(found[index]) for index in wanted]


def joined(trees: Sequence[Tree]) -> tuple[Tree, list[str]]:
    """The whole of a tree's pieces, and where each begins.

    Raises InvalidManifest if the tree is cut elsewhere.
    """
    whole = Tree(
        files={path: digest for tree in trees for path, digest in tree.files.items()},
        sizes={path: size for tree in trees for path, size in tree.sizes.items()},
        executable=frozenset().union(*(tree.executable for tree in trees)),
        links={path: target for tree in trees for path, target in tree.links.items()},
    )
    starts = anchors(whole)
    pieces = [
        piece
        for start, paths in zip(starts, stretches(whole, starts, range(len(starts))), strict=True)
        for piece in cut(start, paths)
    ]
    if is_small(whole) or [set(paths) for _, paths in pieces] != [tree.paths() for tree in trees]:
        raise InvalidManifest("its parts are not those of its tree")
    return whole, [begin for begin, _ in pieces]


def place_of(path: str, starts: Sequence[str]) -> int:
    """The stretch that a path belongs to."""
    return bisect_right(starts, path) - 1


def _paths(tree: Tree) -> tuple[str, ...]:
    return (*tree.files, *tree.links)
