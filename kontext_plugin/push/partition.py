"""Divide what is new into layers and parts of the manifest, so that the next push finds it. Pure.

The listing of a large tree is cut into parts; a delta carries only the parts that changed. A large
tree that starts fresh is cut into layers; layers with the same files as before have the same bytes,
so the registry has them already.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from kontext_plugin import manifest
from kontext_plugin.delta import ENTRY_BYTES
from kontext_plugin.image.chunking import SMALL, boundary_hashes
from kontext_plugin.image.listing import canonical, list_tree
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.tree import Tree
from kontext_plugin.manifest import (
    Ancestor,
    Manifest,
    Part,
    part_name,
    reverse_columns,
)
from kontext_plugin.push.parent import BuildOn
from kontext_plugin.push.plan import Plan

CHUNK_BYTES = 32 * 1024 * 1024
"""Uncompressed bytes of sources in an average layer of a fresh start, or a multiple of that."""

MAX_CHUNKS = 12
"""The most layers of a fresh start: each costs every later push a request."""

_MAX_INLINE = 64
"""The most paths of a reverse delta in manifest.json itself; a larger one is a part."""


@dataclass(frozen=True)
class Partition:
    """Where the new content of a plan goes. Making it encodes the changed parts of the listing."""

    lower: tuple[tuple[str, ...], ...]  # paths of each layer below the top one, if there are any
    top: tuple[str, ...]  # paths in the layer that has the manifest
    parts: tuple[Part, ...]  # of the listing; (): manifest.json lists the tree
    ancestors: tuple[Ancestor, ...]  # with the parts that have their reverse deltas
    documents: Mapping[str, bytes]  # new parts, by their names in the image


def partition(plan: Plan, unread: Partition | None = None) -> Partition:
    """Divide the new content of a plan that is not up to date.

    `unread` is how it was divided before the files were read, if that is known and still right.
    """
    count = len(plan.parent_layers)
    if isinstance(plan.parent, BuildOn):
        former = plan.parent.found.manifest
        parts, new_parts = partition_listing(former, plan.tree, count)
        ancestors, new = partition_reverse_deltas(former, plan.lineage.ancestors, count)
        return Partition((), plan.changes.written, parts, ancestors, {**new_parts, **new})
    divided = unread or partition_unread(plan)
    parts, new_parts = partition_listing(None, plan.tree, count + len(divided.lower))
    return replace(divided, parts=parts, documents=new_parts)


def partition_unread(plan: Plan) -> Partition:
    """Divide the content of a fresh start, whose tree may be unread: it is not listed."""
    # At most half of the layers, to leave room for deltas.
    limit = 1 if plan.spec.single_layer else plan.spec.room // 2
    layers = layer_chunks(plan.tree, limit)
    lower, top = (tuple(layers), ()) if len(layers) > 1 else ((), layers[0])
    return Partition(lower, top, (), (), {})


def manifest_on(plan: Plan, divided: Partition, layers: Iterable[Digest]) -> Manifest:
    """Return the new manifest, for a layer on top of `layers`."""
    lineage = replace(plan.lineage, layers=tuple(layers), ancestors=divided.ancestors)
    return Manifest(plan.tree, lineage, divided.parts)


def manifest_bytes(plan: Plan, divided: Partition) -> int:
    """Return the bytes of the new manifest.json and the new parts."""
    layers = (layer.digest for layer in plan.parent_layers)
    root = manifest.encode(manifest_on(plan, divided, layers))
    return len(root) + sum(map(len, divided.documents.values()))


# --- The listing and the reverse deltas, in parts ---


def partition_listing(
    former: Manifest | None, tree: Tree, layers: int
) -> tuple[tuple[Part, ...], dict[str, bytes]]:
    """Return the parts of the tree's listing, and the documents of the new ones by name.

    The new layer goes on top of the `layers` lowest layers of an image with the manifest `former`,
    if there is one. The listing of a small tree has no parts.
    """
    if len(tree.files) + len(tree.links) <= SMALL:
        return (), {}
    former_parts = former.parts if former else ()
    lower = {part.digest: part.layer for part in former_parts if part.layer < layers}
    chunks = list_tree(tree).chunks
    return (
        tuple(Part(one.start, one.digest, lower.get(one.digest, layers)) for one in chunks),
        {part_name(one.digest): one.read() for one in chunks if one.digest not in lower},
    )


def partition_reverse_deltas(
    former: Manifest, ancestors: Iterable[Ancestor], layers: int
) -> tuple[tuple[Ancestor, ...], dict[str, bytes]]:
    """Return the ancestors with the parts of their reverse deltas, and the new documents by name.

    `former` and `layers` are as in `partition_listing`.
    """
    assert former.lineage
    former_parts = (ancestor.part for ancestor in former.lineage.ancestors)
    known = {part.digest: part for part in former_parts if part and part.layer < layers}
    placed: list[Ancestor] = []
    documents: list[bytes] = []
    for ancestor in ancestors:
        part, reverse = None, ancestor.reverse_delta
        assert reverse is not None
        if len(reverse.paths()) > _MAX_INLINE:
            document = canonical(reverse_columns(reverse))
            digest = digest_of(document)
            part = known.get(digest) or Part("", digest, layers)
            if part.layer == layers:
                documents.append(document)
        placed.append(replace(ancestor, part=part))
    return tuple(placed), _by_name(documents)


def _by_name(documents: Iterable[bytes]) -> dict[str, bytes]:
    return {part_name(digest_of(document)): document for document in documents}


# --- The layers of a fresh start ---


def layer_chunks(tree: Tree, limit: int) -> list[tuple[str, ...]]:
    """Return the sorted paths of a tree, cut into what each of at most `limit` layers holds."""
    paths = sorted(tree.paths())
    ends = [*accumulate(tree.sizes.get(path, 0) + ENTRY_BYTES for path in paths)]
    hashes = [*boundary_hashes(paths)]
    target = CHUNK_BYTES
    while len(chunks := _cut(ends, hashes, target)) > max(1, min(limit, MAX_CHUNKS)):
        target *= 2
    return [tuple(paths[chunk.start : chunk.stop]) for chunk in chunks]


def _cut(ends: Sequence[int], hashes: Sequence[int], target: int) -> list[range]:
    """Cut where the hash is lowest between half and one and a half times the target size.

    So two trees that differ at the start are soon cut at the same places again. `ends` has the size
    of each path and of all before it.
    """
    chunks: list[range] = []
    start, before = 0, 0
    while (last := bisect_left(ends, before + 3 * target // 2) + 1) < len(ends):
        first = bisect_left(ends, before + target // 2) + 1
        best = min(range(first, last + 1), key=hashes.__getitem__)
        chunks.append(range(start, best))
        start, before = best, ends[best - 1]
    return [*chunks, range(start, len(ends))]
