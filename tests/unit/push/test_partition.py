"""How trees are cut: an edit changes one part, a fresh start finds the layers of the last one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin import manifest
from kontext_plugin.cache.records import decode_image, encode_image
from kontext_plugin.delta import reverse_delta
from kontext_plugin.image.chunking import SMALL, is_boundary
from kontext_plugin.image.oci import Digest, Image
from kontext_plugin.image.tree import DIRECTORY, ReverseDelta, Tree
from kontext_plugin.manifest import (
    Ancestor,
    InvalidManifest,
    Lineage,
    Manifest,
    Part,
    join_parts,
)
from kontext_plugin.push.partition import (
    CHUNK_BYTES,
    MOST_CHUNKS,
    layer_chunks,
    partition_listing,
    partition_reverse_deltas,
)

BASE = Digest("sha256:" + "b" * 64)
LINEAGE = Lineage(BASE, BASE, "linux/amd64", layers=(BASE, BASE))


def tree_of(sizes: dict[str, int]) -> Tree:
    """A tree with these files; the paths have one directory at most."""
    folders = {path.partition("/")[0] for path in sizes if "/" in path}
    digests = {
        path: hashlib.sha256(f"{path} {size}".encode()).hexdigest() for path, size in sizes.items()
    }
    return Tree(dict.fromkeys(folders, DIRECTORY) | digests, dict(sizes))


def many(count: int, size: int = 10) -> dict[str, int]:
    return {f"d{number % 7}/f{number:05}": size for number in range(count)}


def listed_afresh(tree: Tree, layer: int = 1) -> tuple[tuple[Part, ...], dict[str, bytes]]:
    """The parts of a fresh start, and what they are."""
    made = partition_listing(None, tree, (), layer)
    return made.parts, dict(made.documents)


def read_back(held: Manifest, documents: dict[str, bytes]) -> Manifest:
    """What another machine makes of the manifest and what lies beside it."""
    document = json.loads(manifest.encode(held))
    parts = [json.loads(documents[part.name]) for part in manifest.parts_of(document)]
    return manifest.decode(document, parts)


def as_remembered(held: Manifest) -> Manifest:
    """What this machine's cache makes of it."""
    image = Image(BASE, (), BASE)
    record, content = encode_image(image, held, ())
    known = decode_image(json.loads(json.dumps(record)), memoryview(b"".join(content)), BASE)
    assert known
    return known.manifest


EDITS = st.dictionaries(
    st.builds("d{}/f{:05}".format, st.integers(0, 7), st.integers(0, 3100)),
    st.none() | st.integers(0, 9),
    max_size=5,
)


@given(st.lists(st.tuples(EDITS, st.integers(2, 5)), min_size=1, max_size=5))
def test_a_history_of_parts_lists_each_tree(history: list[tuple[dict[str, Any], int]]) -> None:
    """Whatever is built on, the parts of the layers below and the new one are the whole listing."""
    sizes = many(3000)
    tree = tree_of(sizes)
    parts, documents = listed_afresh(tree)
    stored = {1: documents}  # layer to what it holds
    held = Manifest(tree, LINEAGE, parts)
    for edit, wanted in history:
        sizes = {path: size for path, size in (sizes | edit).items() if size is not None}
        tree = tree_of(sizes)
        layers = min(wanted, max(stored) + 1)  # upon an ancestor, maybe
        made = partition_listing(held, tree, reverse_delta(held.tree, tree).paths(), layers)
        stored = {number: have for number, have in stored.items() if number < layers}
        stored[layers] = dict(made.documents)
        for part in made.parts:
            assert part.name in stored[part.layer], "a part is not in the layer that is named"
        everything = {name: text for have in stored.values() for name, text in have.items()}
        held = Manifest(tree, LINEAGE, made.parts)
        assert read_back(held, everything) == held
        assert as_remembered(held) == replace(held, tree=tree.without_sizes())
        fresh, _ = listed_afresh(tree)
        assert [part.digest for part in fresh] == [part.digest for part in made.parts]


def test_an_edit_writes_one_part() -> None:
    old, new = tree_of(many(5000)), tree_of(many(5000) | {"d3/f00010": 11})
    parts, documents = listed_afresh(old)
    made = partition_listing(Manifest(old, LINEAGE, parts), new, {"d3/f00010"}, 2)
    assert len(parts) > 10
    assert len(made.documents) == 1
    assert len(next(iter(made.documents.values()))) < len(b"".join(documents.values())) / 5
    assert sum(part.layer == 2 for part in made.parts) == 1


def test_no_part_is_long() -> None:
    tree = tree_of({f"{'x' * (number % 9)}/{number}": 1 for number in range(20_000)})
    _, documents = listed_afresh(tree)
    counts = sorted(len(json.loads(text)["files"]) for text in documents.values())
    assert counts[-1] <= 512
    assert 100 < len(counts) < 300


def test_without_a_change_no_part_is_written() -> None:
    tree = tree_of(many(2000))
    parts, _ = listed_afresh(tree)
    made = partition_listing(Manifest(tree, LINEAGE, parts), tree, (), 2)
    assert (made.parts, made.documents) == (parts, {})


def test_a_long_stretch_has_one_part_written_again() -> None:
    """Also upon an ancestor, whose lower layers do not have the part that was edited last."""
    sizes = {f"f{number:05}": 10 for number in range(5000)}
    held = Manifest(tree_of(sizes), LINEAGE, listed_afresh(tree_of(sizes))[0])
    edited = next(part.begin for part in held.parts if not is_boundary(part.begin))
    for size in (11, 12, 13):
        tree = tree_of(sizes | {edited: size})
        made = partition_listing(held, tree, {edited}, 2)
        assert len(made.documents) == 1
        held = Manifest(tree, LINEAGE, made.parts)


def test_a_part_that_lies_above_is_written_again() -> None:
    tree = tree_of(many(2000))
    parts = tuple(replace(part, layer=7) for part in listed_afresh(tree)[0])
    made = partition_listing(Manifest(tree, LINEAGE, parts), tree, (), 7)
    assert {part.layer for part in made.parts} == {7}
    assert len(made.documents) == len(parts)


def ancestor(count: int) -> Ancestor:
    """One whose tree had so many other files."""
    former = tree_of({f"f{number}": 1 for number in range(count)}).without_sizes()
    return Ancestor(BASE, 1, 0, 0, frozenset(), ReverseDelta(former))


def test_a_long_undo_is_written_once() -> None:
    def held(*ancestors: Ancestor) -> Manifest:
        return Manifest(Tree(), replace(LINEAGE, layers=(BASE,) * 9, ancestors=ancestors))

    short, long = ancestor(3), ancestor(100)
    made, written = partition_reverse_deltas(held(), [long], 3)
    assert (len(written), made[0].stored and made[0].stored.layer) == (1, 3)
    document = json.loads(manifest.encode(held(*made)))
    (part,) = manifest.reverse_parts_of(document)
    listed = {part.digest: json.loads(written[part.name])}
    assert manifest.decode(document, (), listed) == held(*made)
    record, content = encode_image(Image(BASE, (), BASE), held(*made), ())
    known = decode_image(json.loads(json.dumps(record)), memoryview(b"".join(content)), BASE)
    assert known and known.manifest == held(*made)

    assert partition_reverse_deltas(held(*made), made, 4) == (made, {}), "a lower layer has it"
    assert partition_reverse_deltas(held(*made), made, 3) == (made, written), (
        "the layer that had it is replaced"
    )
    assert partition_reverse_deltas(held(*made), [short], 4) == ((short,), {})
    grown = replace(made[0], undo=ancestor(101).undo)
    assert partition_reverse_deltas(held(*made), [grown], 4)[0][0].stored != made[0].stored


@pytest.mark.parametrize("count", [0, 1, SMALL])
def test_a_small_tree_has_no_parts(count: int) -> None:
    tree = tree_of({f"f{number}": 1 for number in range(count)})
    assert layer_chunks(tree, 9) == [tuple(sorted(tree.paths()))]
    assert listed_afresh(tree) == ((), {})
    assert partition_listing(Manifest(tree, LINEAGE), tree, (), 2).parts == ()


def test_a_tree_that_grows_and_shrinks_is_in_parts_and_whole_again() -> None:
    small, large = tree_of(many(SMALL - 7)), tree_of(many(SMALL + 1))
    grown = partition_listing(
        Manifest(small, LINEAGE), large, reverse_delta(small, large).paths(), 2
    )
    assert grown.parts
    held = Manifest(large, LINEAGE, grown.parts)
    assert read_back(held, dict(grown.documents)) == held
    shrunk = partition_listing(held, small, reverse_delta(large, small).paths(), 3)
    assert (shrunk.parts, shrunk.documents) == ((), {})


# Layers


MEGA = 1024 * 1024
SIZES = st.sampled_from([0, MEGA, 10 * MEGA, 40 * MEGA, 500 * MEGA])


@given(st.lists(SIZES, max_size=700), st.integers(1, 30))
def test_the_layers_hold_each_path_once_and_in_order(sizes: list[int], most: int) -> None:
    tree = tree_of({f"d/f{number:04}": size for number, size in enumerate(sizes)})
    made = layer_chunks(tree, most)
    assert [path for paths in made for path in paths] == sorted(tree.paths())
    assert 1 <= len(made) <= min(most, MOST_CHUNKS)


def test_a_tree_below_the_size_of_a_layer_is_one() -> None:
    tree = tree_of(many(3000, CHUNK_BYTES // 3100))
    assert len(layer_chunks(tree, 12)) == 1


def large(**more: int) -> list[tuple[str, ...]]:
    sizes = {f"f{number:05}": (number * 7919) % 100_000 for number in range(6000)} | more
    return layer_chunks(tree_of(sizes), 12)


def test_layers_are_of_like_size() -> None:
    sizes = [sum(int(path[1:]) * 7919 % 100_000 for path in paths) for paths in large()]
    assert 5 <= len(sizes) <= 12
    assert all(CHUNK_BYTES / 2 <= size <= 1.6 * CHUNK_BYTES for size in sizes[:-1])


@pytest.mark.parametrize(
    "more",
    [{"f00000a": 1}, {"f06000": 1}, {"f02000a": 3 * MEGA}, {"A": 20 * MEGA}],
    ids=["near the beginning", "the last", "some megabytes", "a large one first"],
)
def test_an_edit_leaves_most_layers_as_they_were(more: dict[str, int]) -> None:
    before = large()
    after = large(**more)
    same = [paths for paths in after if paths in before]
    assert len(same) >= len(before) - 3
    assert len(same) < len(before)


def test_the_order_of_finding_does_not_matter() -> None:
    sizes = {f"f{number:05}": (number * 7919) % 100_000 for number in range(3000)}
    there, back = tree_of(sizes), tree_of(dict(reversed(sizes.items())))
    assert layer_chunks(there, 12) == layer_chunks(back, 12)


# Reading


def parts_of(count: int) -> list[Tree]:
    _, documents = listed_afresh(tree_of(many(count)))
    return [manifest.tree_of(json.loads(document)) for document in documents.values()]


ODD = {
    "one comes twice": lambda parts: [*parts, parts[-1]],
    "in another order": lambda parts: [parts[1], parts[0], *parts[2:]],
    "one is empty": lambda parts: [*parts, Tree()],
    "two are one": lambda parts: [listing_of(parts[:2]), *parts[2:]],
    "a path lies elsewhere": lambda parts: [
        parts[0].only(parts[0].paths() - {max(parts[0].paths())}),
        listing_of([parts[1], parts[0].only({max(parts[0].paths())})]),
        *parts[2:],
    ],
    "small enough for one": lambda parts: [tree_of(many(3)), tree_of({"z": 1})],
}


def listing_of(trees: list[Tree]) -> Tree:
    return Tree(
        {path: digest for tree in trees for path, digest in tree.files.items()},
        {path: size for tree in trees for path, size in tree.sizes.items()},
    )


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_parts_that_are_cut_elsewhere_are_refused(change: Any) -> None:
    parts = parts_of(3000)
    assert join_parts(parts)[0] == tree_of(many(3000))
    with pytest.raises(InvalidManifest):
        join_parts(change(parts))


REFERENCES: dict[str, dict[str, Any]] = {
    "layers missing": {"parts": ["a" * 64]},
    "fewer layers": {"parts": ["a" * 64, "b" * 64], "partLayers": [1]},
    "layer no integer": {"parts": ["a" * 64], "partLayers": [1.0]},
    "twice": {"parts": ["a" * 64, "a" * 64], "partLayers": [1, 1]},
    "and files": {"parts": ["a" * 64], "partLayers": [1], "files": {"a": "c" * 64}, "sizes": [1]},
    "and executables": {"parts": ["a" * 64], "partLayers": [1], "executable": ["a"]},
    "and links": {"parts": ["a" * 64], "partLayers": [1], "links": {"a": "b"}},
}


@pytest.mark.parametrize("changes", REFERENCES.values(), ids=REFERENCES)
def test_parts_that_are_badly_named_are_refused(changes: dict[str, Any]) -> None:
    document = json.loads(manifest.encode(Manifest(Tree(), LINEAGE))) | changes
    with pytest.raises(InvalidManifest):
        manifest.parts_of(document)
