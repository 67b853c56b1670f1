"""How what is new is spread over files and layers, so that the next push finds it again. Pure.

A manifest's listing is cut into parts, of which a delta carries those that changed. A large tree is
cut into layers when it starts afresh: those that hold the same files as before have the same bytes,
and the registry has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kontext_plugin.diff import ENTRY_BYTES
from kontext_plugin.image import digest_of
from kontext_plugin.listing import (
    begins,
    begun,
    canonical,
    columns,
    is_small,
    mark,
    piece_of,
    pieces,
)
from kontext_plugin.manifest import Ancestor, Manifest, Part, part_name, undo_columns
from kontext_plugin.tree import Tree

LAYER_BYTES = 32 * 1024 * 1024
"""Of sources, uncompressed, that a layer of a fresh start holds on average, or a multiple."""

MOST_LAYERS = 12
"""That a fresh start makes: each costs every later push a request."""

_UNDO = 64
"""Paths up to which manifest.json has the undo of an ancestor itself."""


@dataclass(frozen=True)
class Listing:
    """A tree's parts, and the documents of those that no lower layer has."""

    parts: tuple[Part, ...]
    documents: Mapping[str, bytes]  # by their names in the image


def listing_upon(
    former: Manifest | None, tree: Tree, changed: Iterable[str], layers: int
) -> Listing:
    """For a layer upon the lowest `layers` layers of an image with `former`, if there is one.

    `changed` are the paths where `tree` differs from the former one.
    """
    if is_small(tree):
        return Listing((), {})
    changed = set(changed)
    starts = _begun_since(former, tree, changed)
    held = former.parts if former else ()
    known = dict(zip(_spans([part.begin for part in held]), held, strict=True))
    touched = {piece_of(path, starts) for path in changed}
    parts = {
        index: known[span]
        for index, span in enumerate(_spans(starts))
        if index not in touched and span in known and known[span].layer < layers
    }
    new = [index for index in range(len(starts)) if index not in parts]
    documents = [_document(tree, paths) for paths in pieces(tree, starts, new)]
    for index, document in zip(new, documents, strict=True):
        parts[index] = Part(starts[index], digest_of(document), layers)
    return Listing(tuple(parts[index] for index in range(len(starts))), _by_name(documents))


def undos_upon(
    former: Manifest, ancestors: Iterable[Ancestor], layers: int
) -> tuple[tuple[Ancestor, ...], dict[str, bytes]]:
    """As `listing_upon`: the ancestors with what has their undos, and the new documents."""
    assert former.lineage
    stored = (ancestor.stored for ancestor in former.lineage.ancestors)
    known = {part.digest: part for part in stored if part and part.layer < layers}
    made: list[Ancestor] = []
    documents: list[bytes] = []
    for ancestor in ancestors:
        part = None
        if len(ancestor.undo.paths()) > _UNDO:
            document = canonical(undo_columns(ancestor.undo))
            digest = digest_of(document)
            part = known.get(digest) or Part("", digest, layers)
            if part.layer == layers:
                documents.append(document)
        made.append(replace(ancestor, stored=part))
    return tuple(made), _by_name(documents)


def _begun_since(former: Manifest | None, tree: Tree, changed: Iterable[str]) -> list[str]:
    """`listing.begun` of the tree, without a look at each path of it."""
    if former is None or not former.parts:
        return begun(tree)
    starts = {part.begin for part in former.parts}
    starts.update(path for path in changed if begins(path))
    return sorted(path for path in starts if not path or path in tree)


def shares(tree: Tree, most: int) -> list[tuple[str, ...]]:
    """The sorted paths, cut into what each of at most `most` layers holds."""
    paths = sorted(tree.paths())
    sizes = [tree.sizes.get(path, 0) + ENTRY_BYTES for path in paths]
    marks = [mark(path) for path in paths]
    wanted = LAYER_BYTES
    while len(groups := _cut(sizes, marks, wanted)) > max(1, min(most, MOST_LAYERS)):
        wanted *= 2
    return [tuple(paths[group.start : group.stop]) for group in groups]


def _document(tree: Tree, paths: Iterable[str]) -> bytes:
    return canonical(columns(tree.only(paths)))


def _by_name(documents: Iterable[bytes]) -> dict[str, bytes]:
    return {part_name(digest_of(document)): document for document in documents}


def _spans(starts: Sequence[str]) -> list[tuple[str, str]]:
    """Where each piece begins, and where the next."""
    return list(zip(starts, [*starts[1:], ""], strict=True)) if starts else []


def _cut(sizes: Sequence[int], marks: Sequence[int], wanted: int) -> list[range]:
    """Each group ends at the lowest mark between half and one and a half times the wanted size.

    So two trees that begin to differ are soon cut at the same places again.
    """
    groups: list[range] = []
    start, size = 0, 0
    best = start
    index = start
    while index < len(sizes):
        size += sizes[index]
        index += 1
        if index < len(sizes) and 2 * size >= wanted:
            if best == start or marks[index] < marks[best]:
                best = index
            if 2 * size >= 3 * wanted:
                groups.append(range(start, best))
                start = index = best
                size = 0
    return [*groups, range(start, len(sizes))]
