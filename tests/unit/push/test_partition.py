"""Partition: an edit writes one part, and a fresh start makes the layers of the last one again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.models import NOTHING, SPEC, content_of, described, plan_on, published, trees

from kontext_plugin import manifest
from kontext_plugin.cache import decode_image, encode_image
from kontext_plugin.image.chunking import SMALL, is_boundary
from kontext_plugin.image.oci import Digest, Image, ImageConfig
from kontext_plugin.image.tree import DIRECTORY, ReverseDelta, Tree
from kontext_plugin.manifest import Ancestor, Lineage, Manifest
from kontext_plugin.push.parent import BuildOn
from kontext_plugin.push.partition import (
    CHUNK_BYTES,
    MAX_CHUNKS,
    Partition,
    layer_chunks,
    manifest_bytes,
    manifest_on,
    partition,
    partition_listing,
    partition_reverse_deltas,
)
from kontext_plugin.registry.fetch import KontextImage

LAYER = Digest("sha256:" + "b" * 64)
LINEAGE = Lineage(layers=(LAYER, LAYER))


def tree_of(sizes: dict[str, int]) -> Tree:
    """Return a tree with these files; each lies in one directory at most."""
    directories = {path.partition("/")[0] for path in sizes if "/" in path}
    digests = {
        path: hashlib.sha256(f"{path} {size}".encode()).hexdigest() for path, size in sizes.items()
    }
    return Tree(dict.fromkeys(directories, DIRECTORY) | digests, dict(sizes))


def many(count: int, size: int = 10) -> dict[str, int]:
    return {f"d{number % 7}/f{number:05}": size for number in range(count)}


def read_back(held: Manifest, documents: dict[str, bytes]) -> Manifest:
    """Return what another machine reads from the manifest and its parts."""
    root = manifest.read_root(manifest.encode(held))
    parts = {part.digest: documents[part.name] for part in (*root.listing, *root.reverse_deltas)}
    return manifest.decode(root, parts)


def cached(held: Manifest) -> Manifest:
    """Return what the cache of this machine reads back."""
    image = KontextImage(LAYER, Image(LAYER, (), LAYER), held, ImageConfig("linux/amd64"))
    record, content = encode_image(image)
    found = decode_image(json.loads(json.dumps(record)), content_of(content), LAYER)
    assert found
    return found.manifest


# The listing

EDITS = st.dictionaries(
    st.builds("d{}/f{:05}".format, st.integers(0, 7), st.integers(0, 3100)),
    st.none() | st.integers(0, 9),
    max_size=5,
)


@pytest.mark.slow
@settings(max_examples=50)
@given(st.lists(st.tuples(EDITS, st.integers(2, 5)), min_size=1, max_size=5))
def test_the_parts_of_each_push_list_its_tree(history: list[tuple[dict[str, Any], int]]) -> None:
    """The parts in the parent's layers and in the new one are the whole listing."""
    sizes = many(3000)
    tree = tree_of(sizes)
    parts, documents = partition_listing(None, tree, 1)
    stored = {1: documents}  # of each layer
    held = Manifest(tree, LINEAGE, parts)
    for edit, wanted in history:
        sizes = {path: size for path, size in (sizes | edit).items() if size is not None}
        tree = tree_of(sizes)
        layers = min(wanted, max(stored) + 1)  # the parent may be an ancestor
        parts, new = partition_listing(held, tree, layers)
        stored = {number: documents for number, documents in stored.items() if number < layers}
        stored[layers] = new
        for part in parts:
            assert part.name in stored[part.layer], "the layer that is named lacks a part"
        everything = {
            name: text for documents in stored.values() for name, text in documents.items()
        }
        held = Manifest(tree, LINEAGE, parts)
        assert read_back(held, everything) == held
        assert cached(held) == held
        fresh, _ = partition_listing(None, tree, 1)
        assert [part.digest for part in fresh] == [part.digest for part in parts]


def test_an_edit_writes_one_part() -> None:
    old, new = tree_of(many(5000)), tree_of(many(5000) | {"d3/f00010": 11})
    parts, documents = partition_listing(None, old, 1)
    new_parts, written = partition_listing(Manifest(old, LINEAGE, parts), new, 2)
    assert len(parts) > 10
    assert len(written) == 1
    assert len(next(iter(written.values()))) < len(b"".join(documents.values())) / 5
    assert sum(part.layer == 2 for part in new_parts) == 1


def test_no_part_is_long() -> None:
    tree = tree_of({f"{'x' * (number % 9)}/{number}": 1 for number in range(20_000)})
    _, documents = partition_listing(None, tree, 1)
    counts = sorted(len(json.loads(text)["files"]) for text in documents.values())
    assert counts[-1] <= 512
    assert 100 < len(counts) < 300


def test_without_a_change_no_part_is_written() -> None:
    tree = tree_of(many(2000))
    parts, _ = partition_listing(None, tree, 1)
    assert partition_listing(Manifest(tree, LINEAGE, parts), tree, 2) == (parts, {})


def test_an_edit_in_a_long_segment_writes_one_part() -> None:
    """That holds also on an ancestor, whose layers lack the part that the last edit wrote."""
    sizes = {f"f{number:05}": 10 for number in range(5000)}
    held = Manifest(tree_of(sizes), LINEAGE, partition_listing(None, tree_of(sizes), 1)[0])
    edited = next(part.start for part in held.parts if not is_boundary(part.start))
    for size in (11, 12, 13):
        tree = tree_of(sizes | {edited: size})
        parts, written = partition_listing(held, tree, 2)
        assert len(written) == 1
        held = Manifest(tree, LINEAGE, parts)


def test_a_part_above_the_parent_is_written_again() -> None:
    tree = tree_of(many(2000))
    fresh, _ = partition_listing(None, tree, 1)
    above = tuple(replace(part, layer=7) for part in fresh)
    parts, written = partition_listing(Manifest(tree, LINEAGE, above), tree, 7)
    assert {part.layer for part in parts} == {7}
    assert len(written) == len(parts)


@pytest.mark.parametrize("count", [0, 1, SMALL])
def test_a_small_tree_has_no_parts(count: int) -> None:
    tree = tree_of({f"f{number}": 1 for number in range(count)})
    assert layer_chunks(tree, 9) == [tuple(sorted(tree.paths()))]
    assert partition_listing(None, tree, 1) == ((), {})
    assert partition_listing(Manifest(tree, LINEAGE), tree, 2) == ((), {})


def test_a_growing_tree_gets_parts_and_a_shrinking_one_loses_them() -> None:
    small, large = tree_of(many(SMALL - 7)), tree_of(many(SMALL + 1))
    parts, documents = partition_listing(Manifest(small, LINEAGE), large, 2)
    assert parts
    held = Manifest(large, LINEAGE, parts)
    assert read_back(held, documents) == held
    assert partition_listing(held, small, 3) == ((), {})


# The reverse deltas


def ancestor(count: int) -> Ancestor:
    """Return an ancestor whose tree had this many other files."""
    former = tree_of({f"f{number}": 1 for number in range(count)}).without_sizes()
    return Ancestor(LAYER, 1, 0, 0, frozenset(), ReverseDelta(former))


def test_a_long_reverse_delta_is_a_part_that_is_written_once() -> None:
    def held(*ancestors: Ancestor) -> Manifest:
        return Manifest(Tree(), replace(LINEAGE, layers=(LAYER,) * 9, ancestors=ancestors))

    short, long = ancestor(3), ancestor(100)
    placed, written = partition_reverse_deltas(held(), [long], 3)
    assert (len(written), placed[0].part and placed[0].part.layer) == (1, 3)
    assert read_back(held(*placed), written) == held(*placed)
    assert cached(held(*placed)) == held(*placed)

    assert partition_reverse_deltas(held(*placed), placed, 4) == (placed, {}), "a layer has it"
    assert partition_reverse_deltas(held(*placed), placed, 3) == (placed, written), (
        "the layer that had it is replaced"
    )
    assert partition_reverse_deltas(held(*placed), [short], 4) == ((short,), {})
    grown = replace(placed[0], reverse_delta=ancestor(101).reverse_delta)
    assert partition_reverse_deltas(held(*placed), [grown], 4)[0][0].part != placed[0].part


# The layers of a fresh start

MEGA = 1024 * 1024
SIZES = st.sampled_from([0, MEGA, 10 * MEGA, 40 * MEGA, 500 * MEGA])


@given(st.lists(SIZES, max_size=700), st.integers(1, 30))
def test_the_layers_hold_each_path_once_and_in_order(sizes: list[int], most: int) -> None:
    tree = tree_of({f"d/f{number:04}": size for number, size in enumerate(sizes)})
    chunks = layer_chunks(tree, most)
    assert [path for paths in chunks for path in paths] == sorted(tree.paths())
    assert 1 <= len(chunks) <= min(most, MAX_CHUNKS)


def test_a_tree_below_the_size_of_a_layer_is_one_layer() -> None:
    tree = tree_of(many(3000, CHUNK_BYTES // 3100))
    assert len(layer_chunks(tree, 12)) == 1


def large(**more: int) -> list[tuple[str, ...]]:
    sizes = {f"f{number:05}": (number * 7919) % 100_000 for number in range(6000)} | more
    return layer_chunks(tree_of(sizes), 12)


def test_the_layers_have_similar_sizes() -> None:
    sizes = [sum(int(path[1:]) * 7919 % 100_000 for path in paths) for paths in large()]
    assert 5 <= len(sizes) <= 12
    assert all(CHUNK_BYTES / 2 <= size <= 1.6 * CHUNK_BYTES for size in sizes[:-1])


@pytest.mark.parametrize(
    "more",
    [{"f00000a": 1}, {"f06000": 1}, {"f02000a": 3 * MEGA}, {"A": 20 * MEGA}],
    ids=["near the start", "the last", "some megabytes", "a large one first"],
)
def test_an_edit_leaves_most_layers_as_they_were(more: dict[str, int]) -> None:
    before = large()
    after = large(**more)
    same = [paths for paths in after if paths in before]
    assert len(same) >= len(before) - 3
    assert len(same) < len(before)


def test_the_layers_do_not_depend_on_the_order_of_the_scan() -> None:
    sizes = {f"f{number:05}": (number * 7919) % 100_000 for number in range(3000)}
    forward, backward = tree_of(sizes), tree_of(dict(reversed(sizes.items())))
    assert layer_chunks(forward, 12) == layer_chunks(backward, 12)


# A whole plan


@given(trees(), trees())
def test_the_partition_of_a_delta_writes_the_changes_into_one_layer(old: Any, new: Any) -> None:
    tag_image = published(plan_on(NOTHING, SPEC, described(old)))
    plan = plan_on(tag_image, SPEC, described(new))
    assume(not plan.sources)
    divided = partition(plan)
    assert (divided.lower, divided.top) == ((), plan.changes.written)
    if isinstance(plan.parent, BuildOn):
        assert len(divided.ancestors) == len(plan.parent.ancestors)


def test_a_large_fresh_start_writes_all_sources_below_the_manifest() -> None:
    tree = tree_of({f"f{number}": 10 * MEGA for number in range(20)})
    plan = plan_on(NOTHING, SPEC, tree)
    divided = partition(plan)
    assert len(divided.lower) > 1 and divided.top == ()
    assert sorted(path for paths in divided.lower for path in paths) == sorted(tree.paths())
    single = plan_on(NOTHING, replace(SPEC, single_layer=True), tree)
    assert partition(single) == Partition((), tuple(sorted(tree.paths())), (), (), {})


def test_the_parts_of_a_large_fresh_start_lie_in_its_top_layer() -> None:
    tree = tree_of(many(3000, MEGA))
    plan = plan_on(NOTHING, SPEC, tree)
    divided = partition(plan)
    assert {part.layer for part in divided.parts} == {len(divided.lower)}
    assert {part.name for part in divided.parts} == divided.documents.keys()
    held = manifest_on(plan, divided, [LAYER] * len(divided.lower))
    assert held.lineage and held.lineage.layers == (LAYER,) * len(divided.lower)
    assert read_back(held, dict(divided.documents)) == held


@pytest.mark.parametrize("count", [3, 3000])
def test_manifest_bytes_are_those_of_all_new_documents(count: int) -> None:
    plan = plan_on(NOTHING, SPEC, tree_of(many(count)))
    divided = partition(plan)
    root = manifest.encode(manifest_on(plan, divided, []))
    written = sum(map(len, divided.documents.values()))
    assert manifest_bytes(plan, divided) == len(root) + written
    edited = plan_on(published(plan), SPEC, tree_of(many(count) | {"new": 1}))
    assert isinstance(edited.parent, BuildOn)
    if count == 3000:
        assert manifest_bytes(edited, partition(edited)) < written / 2
