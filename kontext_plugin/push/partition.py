"""How what is new is spread over files and layers, so that the next push finds it again. Pure.

A manifest's listing is cut into parts, of which a delta carries those that changed. A large tree is
cut into layers when it starts afresh: those that hold the same files as before have the same bytes,
and the registry has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kontext_plugin.delta import ENTRY_BYTES
from kontext_plugin.image.chunking import (
    boundaries,
    boundary_hash,
    is_boundary,
    is_small,
    segment_of,
    segments,
    split_segment,
)
from kontext_plugin.image.oci import digest_of
from kontext_plugin.image.tree import Tree
from kontext_plugin.manifest import (
    Ancestor,
    Manifest,
    Part,
    canonical,
    columns,
    part_name,
    reverse_columns,
)

CHUNK_BYTES = 32 * 1024 * 1024
"""Of sources, uncompressed, that a layer of a fresh start holds on average, or a multiple."""

MOST_CHUNKS = 12
"""That a fresh start makes: each costs every later push a request."""

_INLINE = 64
"""Paths up to which manifest.json has the undo of an ancestor itself."""


@dataclass(frozen=True)
class PartitionedListing:
    """A tree's parts, and the documents of those that no lower layer has."""

    parts: tuple[Part, ...]
    documents: Mapping[str, bytes]  # by their names in the image


def partition_listing(
    former: Manifest | None, tree: Tree, changed: Iterable[str], layers: int
) -> PartitionedListing:
    """For a layer upon the lowest `layers` layers of an image with `former`, if there is one.

    `changed` are the paths where `tree` differs from the former one.
    """
    if is_small(tree):
        return PartitionedListing((), {})
    changed = set(changed)
    starts = _boundaries_since(former, tree, changed)
    held = former.parts if former else ()
    lower = {part.digest: part.layer for part in held if part.layer < layers}
    known = _known_segments(held, layers)
    touched = {segment_of(path, starts) for path in changed}
    parts = {
        index: known[span]
        for index, span in enumerate(_spans(starts))
        if index not in touched and span in known
    }
    new = [index for index in range(len(starts)) if index not in parts]
    documents: list[bytes] = []
    for index, paths in zip(new, segments(tree, starts, new), strict=True):
        parts[index] = []
        for begin, piece in split_segment(starts[index], paths):
            document = canonical(columns(tree.only(piece)))
            digest = digest_of(document)
            parts[index].append(Part(begin, digest, lower.get(digest, layers)))
            if digest not in lower:
                documents.append(document)
    return PartitionedListing(
        tuple(part for index in range(len(starts)) for part in parts[index]), _by_name(documents)
    )


def _boundaries_since(former: Manifest | None, tree: Tree, changed: Iterable[str]) -> list[str]:
    """`listing.anchors` of the tree, without a look at each path of it."""
    if former is None or not former.parts:
        return boundaries(tree)
    paths = {*(part.begin for part in former.parts), *changed}
    return sorted(path for path in paths if is_boundary(path) and (not path or path in tree))


def _known_segments(parts: Iterable[Part], layers: int) -> dict[tuple[str, str], list[Part]]:
    """The stretches that lie in the lowest `layers` layers, by where they begin and end."""
    found: list[list[Part]] = []
    for part in parts:
        if is_boundary(part.begin):
            found.append([])
        found[-1].append(part)
    spans = _spans([stretch[0].begin for stretch in found])
    return {
        span: stretch
        for span, stretch in zip(spans, found, strict=True)
        if all(part.layer < layers for part in stretch)
    }


def _spans(starts: Sequence[str]) -> list[tuple[str, str]]:
    """Where each stretch begins, and where the next."""
    return list(zip(starts, [*starts[1:], ""], strict=True)) if starts else []


def partition_reverse_deltas(
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
        if len(ancestor.undo.paths()) > _INLINE:
            document = canonical(reverse_columns(ancestor.undo))
            digest = digest_of(document)
            part = known.get(digest) or Part("", digest, layers)
            if part.layer == layers:
                documents.append(document)
        made.append(replace(ancestor, stored=part))
    return tuple(made), _by_name(documents)


def layer_chunks(tree: Tree, most: int) -> list[tuple[str, ...]]:
    """The sorted paths, cut into what each of at most `most` layers holds."""
    paths = sorted(tree.paths())
    sizes = [tree.sizes.get(path, 0) + ENTRY_BYTES for path in paths]
    marks = [boundary_hash(path) for path in paths]
    wanted = CHUNK_BYTES
    while len(groups := _chunks(sizes, marks, wanted)) > max(1, min(most, MOST_CHUNKS)):
        wanted *= 2
    return [tuple(paths[group.start : group.stop]) for group in groups]


def _by_name(documents: Iterable[bytes]) -> dict[str, bytes]:
    return {part_name(digest_of(document)): document for document in documents}


def _chunks(sizes: Sequence[int], marks: Sequence[int], wanted: int) -> list[range]:
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
