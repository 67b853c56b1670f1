"""Plans of whole histories: each image shows its tree to every consumer, whatever its parent is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support.models import (
    EXTRACTOR,
    NOTHING,
    SPEC,
    TAG,
    Layer,
    crane_export,
    described,
    histories,
    layer,
    overlay,
    plan_on,
    published,
    trees,
)
from support.trees import Directory, File, Tree

from kontext_plugin import manifest
from kontext_plugin.delta import earlier_tree, layer_bytes
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.oci import Layer as ImageLayer
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import Tree as Described
from kontext_plugin.manifest import Ancestor
from kontext_plugin.push import plan
from kontext_plugin.push.parent import (
    BuildOn,
    Candidate,
    Origin,
    StartFresh,
    candidates_of,
    unusable,
)
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import Plan, counted_since, make_plan, plan_fresh
from kontext_plugin.registry.fetch import KontextImage

DIR, X = Directory(), File(b"x")


class Registry:
    """A registry that keeps the entries of each layer, and shows images as consumers do."""

    def __init__(self) -> None:
        self.layers: dict[Digest, Layer] = {EXTRACTOR.layer.digest: []}
        self.bytes: dict[Digest, int] = {EXTRACTOR.layer.digest: 0}

    def push(self, plan: Plan, tree: Tree) -> KontextImage:
        made = published(plan)
        if not plan.sources:
            top = made.sources[-1].digest
            self.layers[top] = layer(plan.changes, tree)
            self.bytes[top] = layer_bytes(plan.changes, described(tree))
        return made

    def entries(self, image: KontextImage) -> list[Layer]:
        return [self.layers[layer.digest] for layer in image.image.layers]

    def content(self, image: KontextImage) -> int:
        return sum(self.bytes[layer.digest] for layer in image.image.layers)


def plan_on_any(
    tag_image: KontextImage | StartFresh,
    tree: Tree,
    data: st.DataObject,
    also: Sequence[KontextImage] = (),
) -> Plan:
    """Plan on any of the usable images, mostly the nearest: the rule is about costs alone.

    `also` are other images that were found.
    """

    def choose(found: KontextImage, spec: ImageSpec, tree: Described) -> BuildOn | StartFresh:
        usable = [choice for choice in candidates_of(found, tree) if not unusable(choice, tree)]
        return data.draw(st.sampled_from([*usable[:1] * 2, *usable])) if usable else NOTHING

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "choose", choose)
        if also:
            found = [Candidate(image, TAG, Origin.FROM) for image in (tag_image, *also)]
            return make_plan(found, NOTHING, SPEC, described(tree))
        return plan_on(tag_image, SPEC, described(tree))


@pytest.mark.slow
@given(st.one_of(st.lists(trees(), min_size=2, max_size=6), histories()), st.data())
def test_each_image_of_a_history_shows_its_tree(history: list[Tree], data: st.DataObject) -> None:
    registry = Registry()
    tag_image: KontextImage | StartFresh = NOTHING

    for tree in history:
        made = plan_on_any(tag_image, tree, data)
        layers = 0 if isinstance(made.parent, StartFresh) else len(made.parent.layers)
        event(f"on {layers} layers")
        tag_image = registry.push(made, tree)
        assert overlay(registry.entries(tag_image)) == tree
        assert crane_export(registry.entries(tag_image)) == tree
        assert tag_image.manifest.tree == described(tree)
        assert tag_image.lineage.content == registry.content(tag_image)


@pytest.mark.slow
@given(histories(), st.data())
def test_each_image_of_branches_shows_its_tree(history: list[Tree], data: st.DataObject) -> None:
    """A push may find several images, of which each has a history of its own."""
    registry = Registry()
    images: list[KontextImage] = []
    for tree in history:
        some = data.draw(st.lists(st.sampled_from(images), max_size=3)) if images else []
        tag_image = some[0] if some else NOTHING
        made = plan_on_any(tag_image, tree, data, some[1:])
        images.append(registry.push(made, tree))
        assert overlay(registry.entries(images[-1])) == tree
        assert crane_export(registry.entries(images[-1])) == tree
        assert images[-1].manifest.tree == described(tree)
        assert images[-1].is_intact


OLD_BASE = ImageLayer(Digest("sha256:" + "0" * 64), 1)


def as_version_2(image: KontextImage) -> KontextImage:
    """Return the image as an earlier Kontext made it: the extractor's layer lies at the bottom."""
    document = json.loads(manifest.encode(image.manifest))
    for ancestor in document["ancestors"]:
        ancestor["layers"] += 1
        assert not ancestor.keys() & {"created", "revision"}
    named = {"base": OLD_BASE.digest, "extractor": OLD_BASE.digest, "platform": "linux/amd64"}
    document |= {"version": 2, "labels": {}, "layers": [OLD_BASE.digest, *document["layers"]]}
    root = manifest.read_root(manifest.canonical(document | named))
    held = manifest.without_base(manifest.decode(root, {}), 1)
    assert image.config is not None
    return KontextImage(
        image.digest,
        replace(image.image, layers=(OLD_BASE, *image.sources), extractor=None),
        held,
        replace(image.config, diff_ids=(OLD_BASE.digest, *image.config.diff_ids[:-1])),
    )


@pytest.mark.slow
@given(histories(), st.integers(0, 7), st.data())
def test_images_on_one_of_an_earlier_kontext_show_their_trees(
    history: list[Tree], step: int, data: st.DataObject
) -> None:
    registry = Registry()
    registry.layers[OLD_BASE.digest] = []
    tag_image: KontextImage | StartFresh = NOTHING
    for number, tree in enumerate(history):
        made = plan_on_any(tag_image, tree, data)
        tag_image = registry.push(made, tree)
        assert tag_image.image.layers == (*tag_image.sources, EXTRACTOR.layer), "the new order"
        assert tag_image.is_intact
        if number == step:
            tag_image = as_version_2(tag_image)
            assert (tag_image.height, tag_image.is_intact) == (1, True)
        assert overlay(registry.entries(tag_image)) == tree
        assert crane_export(registry.entries(tag_image)) == tree
        assert tag_image.manifest.tree == described(tree)


@pytest.mark.slow
@given(histories(), st.data())
def test_a_manifest_describes_each_ancestor_as_it_was_pushed(
    history: list[Tree], data: st.DataObject
) -> None:
    pushed: dict[Digest, KontextImage] = {}
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in history:
        tag_image = published(plan_on_any(tag_image, tree, data))
        pushed[tag_image.digest] = tag_image
        lineage = tag_image.manifest.lineage
        assert lineage is not None
        for position, ancestor in enumerate(lineage.ancestors):
            then = pushed[ancestor.image]
            assert then.manifest.lineage is not None
            assert then.sources == tag_image.sources[: ancestor.layers]
            assert then.manifest.lineage.ancestors[:position] == lineage.ancestors[:position]
            former = reversed_tree(described(tree), lineage.ancestors[position:])
            assert former == then.manifest.tree.without_sizes()
            assert ancestor.content == then.manifest.lineage.content
            assert ancestor.generation == then.manifest.lineage.generation
            assert ancestor.replaced_directories == then.manifest.lineage.replaced_directories


def reversed_tree(tree: Described, ancestors: Sequence[Ancestor]) -> Described:
    """Return the tree of the first of these ancestors, without sizes, from the image's."""
    for ancestor in reversed(ancestors):
        assert ancestor.reverse_delta is not None
        tree = earlier_tree(ancestor.reverse_delta, tree)
    return tree.without_sizes()


def test_the_model_of_crane_shows_old_children_without_replaced_directories() -> None:
    """The model of `crane export` must have the flaw that `replaced_directories` works around."""
    history: list[Tree] = [{"d": DIR, "d/old": X, "e": X}, {"d": X}, {"d": DIR, "d/new": X}]
    registry = Registry()
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in history:
        if isinstance(tag_image, KontextImage):
            lineage = tag_image.manifest.lineage
            assert lineage is not None
            forgetful = replace(lineage, ancestors=(), replaced_directories=frozenset())
            tag_image = replace(
                tag_image, manifest=manifest.Manifest(tag_image.manifest.tree, forgetful)
            )
        tag_image = registry.push(plan_on(tag_image, SPEC, described(tree)), tree)
    assert overlay(registry.entries(tag_image)) == history[-1]
    assert crane_export(registry.entries(tag_image)) == history[-1] | {"d/old": X}


def test_a_replaced_directory_is_listed_in_each_later_manifest() -> None:
    file: Tree = {"ballast": File(b"b" * 200_000), "d": File(b"f" * 50_000)}
    history: list[Tree] = [
        {"ballast": File(b"b" * 200_000), "d": DIR, "d/old": X},
        file,
        file | {"e": File(b"e" * 5000)},
        file | {"e": File(b"e" * 5000), "f": X},
    ]
    registry = Registry()
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in history:
        tag_image = registry.push(plan_on(tag_image, SPEC, described(tree)), tree)
    assert isinstance(tag_image, KontextImage) and tag_image.manifest.lineage is not None
    assert [made.replaced_directories for made in tag_image.manifest.lineage.ancestors] == [
        frozenset(),
        {"d"},
        {"d"},
    ]
    tree = {"ballast": File(b"b" * 200_000), "d": DIR, "e": X}
    tag_image = registry.push(plan_on(tag_image, SPEC, described(tree)), tree)
    assert crane_export(registry.entries(tag_image)) == tree


@pytest.mark.parametrize("limit", [3, 4, 5, 8, 64])
@pytest.mark.parametrize("size", [4, 20, 40, 90], ids=lambda size: f"{size * 10} MB")
def test_a_delta_fits_on_a_fresh_start(limit: int, size: int) -> None:
    """However low --max-layers is, a large tree leaves layers for later pushes."""
    large = Described(
        files={f"f{number:02}": "a" * 64 for number in range(size)},
        sizes={f"f{number:02}": 10_000_000 for number in range(size)},
    )
    spec = replace(SPEC, max_layers=limit, always_reuse=False)
    first = plan_on(NOTHING, spec, large)
    edited = replace(large, files={**large.files, "f00": "b" * 64}, sizes={**large.sizes, "f00": 9})
    assert isinstance(plan_on(published(first), spec, edited).parent, BuildOn)


def test_pushes_that_write_few_paths_keep_the_parts_of_the_listing() -> None:
    names = [f"f{number:04}" for number in range(3000)]
    tree = Described(dict.fromkeys(names, "a" * 64), dict.fromkeys(names, 1000))
    tag_image: KontextImage | StartFresh = NOTHING
    written = []
    for letter in "bcd":
        tree = replace(tree, files={**tree.files, "f0007": letter * 64})
        made = plan_on(tag_image, SPEC, tree)
        written.append(len(partition(made).documents))
        tag_image = published(made)
    assert written[0] > 5
    assert written[1:] == [1, 1]


@given(trees(), trees())
def test_a_fresh_plan_ignores_the_image_under_the_tag(old: Tree, new: Tree) -> None:
    tag_image = published(plan_on(NOTHING, SPEC, described(old)))
    on_nothing = plan_on(NOTHING, SPEC, described(new))
    assert plan_fresh(NOTHING, SPEC, described(new)) == on_nothing
    assert on_nothing.parent_layers == ()
    assert on_nothing.sources is None
    assert on_nothing.lineage.generation == 0 and not on_nothing.lineage.ancestors
    assert on_nothing.changes.added == tuple(sorted(new))
    if old == new:
        again = plan_on(tag_image, SPEC, described(new))
        assert again.sources is not None
        assert published(again) == tag_image, "the same image, byte for byte"


# Which of several images


BALLAST: Tree = {"ballast": File(b"b" * 9000)}
A: Tree = BALLAST | {"a": File(b"a" * 1000)}
AB: Tree = A | {"b": File(b"b" * 2000)}
OTHER: Tree = {"other": File(b"o" * 9000)}
REASON = StartFresh("there is no image")


def found(*trees: Tree, spec: ImageSpec = SPEC) -> list[Candidate]:
    """Return images with these trees, each under its own tag."""
    return [
        Candidate(
            published(plan_on(NOTHING, spec, described(tree))),
            parse_reference(f"host.io/repo:{number}"),
            Origin.TAG,
        )
        for number, tree in enumerate(trees)
    ]


TAKEN: dict[str, tuple[list[Tree], Tree, int]] = {
    "the one with the fewest bytes": ([BALLAST, AB, A], AB | {"c": X}, 1),
    "the one that has all": ([A, BALLAST, AB], AB, 2),
    "the first of two that have all": ([A, AB, AB], AB, 1),
    "the first of two that take as many": ([A, A], AB, 0),
    "one that is like it, of another": ([OTHER, BALLAST], A, 1),
}


@pytest.mark.parametrize(("trees", "new", "taken"), TAKEN.values(), ids=TAKEN)
def test_the_candidate_that_takes_the_fewest_bytes_is_the_parent(
    trees: list[Tree], new: Tree, taken: int
) -> None:
    candidates = found(*trees)
    made = make_plan(candidates, REASON, replace(SPEC, always_reuse=False), described(new))
    assert made.candidate is candidates[taken]
    assert made.found_image is candidates[taken].image


def test_an_image_with_these_sources_is_taken_even_if_a_delta_needs_no_bytes() -> None:
    """Such a delta is on an image with the extractor at its bottom: it writes a manifest."""
    (same,) = found(A)
    image = same.image.image
    below = replace(image, extractor=None, layers=(image.layers[-1], *image.layers[:-1]))
    old = replace(same, image=replace(same.image, image=below))
    assert old.image.sources == same.image.sources
    assert plan_on(old.image, SPEC, described(A)).sources is None
    assert make_plan([old, same], REASON, SPEC, described(A)).candidate is same


def test_without_a_usable_candidate_the_first_reason_is_told() -> None:
    spec = replace(SPEC, always_reuse=False)
    assert make_plan((), REASON, spec, described(A)).parent is REASON
    changed = make_plan(found(OTHER, OTHER), REASON, spec, described(A))
    assert changed.parent == StartFresh("a delta would be more than half of the whole")
    assert changed.candidate is None


@given(trees(), trees())
def test_changes_are_counted_since_the_tree_that_is_named(old: Tree, new: Tree) -> None:
    counted = counted_since(plan_on(NOTHING, SPEC, described(new)), described(old))
    assert earlier_tree(counted.since, described(new)).without_sizes() == (
        described(old).without_sizes()
    )


def test_the_diff_ids_of_a_parent_stand_beside_its_layers() -> None:
    """Above the layers of a base, whose diff IDs the configuration lists first."""
    base = replace(
        SPEC.bases[0],
        layers=(ImageLayer(Digest("sha256:" + "7" * 64), 5),),
        document=SPEC.bases[0].document
        | {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "8" * 64]}},
    )
    on_base = replace(SPEC, bases=(base,))
    first = published(plan_on(NOTHING, on_base, described(BALLAST)))
    second = published(plan_on(first, on_base, described(A)))
    assert (second.height, len(second.sources)) == (1, 2)
    made = plan_on(second, SPEC, described(A | {"c": X}))
    assert second.config is not None
    assert made.parent_layers == second.sources[: len(made.parent_layers)]
    assert made.parent_diff_ids == second.config.diff_ids[1 : 1 + len(made.parent_layers)]
    third = published(made)
    assert third.config is not None and third.height == 0
    assert len(third.config.diff_ids) == len(third.image.layers)
