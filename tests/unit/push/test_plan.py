"""Plans of whole histories: each image shows its tree to every consumer, whatever its parent is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support.models import (
    BASE,
    SPEC,
    Layer,
    crane_export,
    described,
    histories,
    layer,
    overlay,
    published,
    trees,
)
from support.trees import Directory, File, Tree

from kontext_plugin import manifest
from kontext_plugin.delta import layer_bytes
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import Tree as Described
from kontext_plugin.manifest import Ancestor
from kontext_plugin.push import plan
from kontext_plugin.push.parent import BuildOn, StartFresh, candidates_of, lineage_of, unusable
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import Plan, make_plan, plan_fresh, plan_without_ancestor
from kontext_plugin.registry.fetch import KontextImage

NOTHING = StartFresh("there is nothing")
DIR, X = Directory(), File(b"x")


class Registry:
    """A registry that keeps the entries of each layer, and shows images as consumers do."""

    def __init__(self) -> None:
        self.layers: dict[Digest, Layer] = {BASE: []}
        self.bytes: dict[Digest, int] = {BASE: 0}

    def push(self, plan: Plan, tree: Tree) -> KontextImage:
        made = published(plan)
        top = made.image.layers[-1].digest
        self.layers[top] = layer(plan.changes, tree)
        self.bytes[top] = layer_bytes(plan.changes, described(tree))
        return made

    def entries(self, image: KontextImage) -> list[Layer]:
        return [self.layers[layer.digest] for layer in image.image.layers]

    def content(self, image: KontextImage) -> int:
        return sum(self.bytes[layer.digest] for layer in image.image.layers)


def plan_on_any(tag_image: KontextImage | StartFresh, tree: Tree, data: st.DataObject) -> Plan:
    """Plan on any of the usable images, mostly the nearest: the rule is about costs alone."""

    def choose(tag_image: KontextImage, spec: ImageSpec, tree: Described) -> BuildOn | StartFresh:
        usable = [choice for choice in candidates_of(tag_image, tree) if not unusable(choice, tree)]
        return data.draw(st.sampled_from([*usable[:1] * 2, *usable])) if usable else NOTHING

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "choose", choose)
        return make_plan(tag_image, SPEC, described(tree))


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
        assert lineage_of(tag_image).content == registry.content(tag_image)


@pytest.mark.slow
@given(histories(), st.data())
def test_a_manifest_describes_each_ancestor_as_it_was_pushed(
    history: list[Tree], data: st.DataObject
) -> None:
    pushed: dict[Digest, KontextImage] = {}
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in history:
        tag_image = published(plan_on_any(tag_image, tree, data))
        pushed[tag_image.image.digest] = tag_image
        lineage = tag_image.manifest.lineage
        assert lineage is not None
        for position, ancestor in enumerate(lineage.ancestors):
            then = pushed[ancestor.image]
            assert then.manifest.lineage is not None
            assert then.image.layers == tag_image.image.layers[: ancestor.layers]
            assert then.manifest.lineage.ancestors[:position] == lineage.ancestors[:position]
            former = reversed_tree(described(tree), lineage.ancestors[position:])
            assert former == then.manifest.tree.without_sizes()
            assert ancestor.content == then.manifest.lineage.content
            assert ancestor.generation == then.manifest.lineage.generation
            assert ancestor.replaced_directories == then.manifest.lineage.replaced_directories


def reversed_tree(tree: Described, ancestors: Sequence[Ancestor]) -> Described:
    """Return the tree of the first of these ancestors, without sizes, from the image's."""
    for ancestor in reversed(ancestors):
        step = ancestor.reverse_delta
        assert step is not None
        kept, former = tree.only(tree.paths() - step.paths()), step.former
        tree = Described(
            files={**kept.files, **former.files},
            executable=kept.executable | former.executable,
            links={**kept.links, **former.links},
        )
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
        tag_image = registry.push(make_plan(tag_image, SPEC, described(tree)), tree)
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
        tag_image = registry.push(make_plan(tag_image, SPEC, described(tree)), tree)
    assert isinstance(tag_image, KontextImage) and tag_image.manifest.lineage is not None
    assert [made.replaced_directories for made in tag_image.manifest.lineage.ancestors] == [
        frozenset(),
        {"d"},
        {"d"},
    ]
    tree = {"ballast": File(b"b" * 200_000), "d": DIR, "e": X}
    tag_image = registry.push(make_plan(tag_image, SPEC, described(tree)), tree)
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
    first = make_plan(NOTHING, spec, large)
    edited = replace(large, files={**large.files, "f00": "b" * 64}, sizes={**large.sizes, "f00": 9})
    assert isinstance(make_plan(published(first), spec, edited).parent, BuildOn)


def test_a_push_without_an_ancestor_keeps_the_parts_of_the_listing() -> None:
    names = [f"f{number:04}" for number in range(3000)]
    tree = Described(dict.fromkeys(names, "a" * 64), dict.fromkeys(names, 1000))
    tag_image: KontextImage | StartFresh = NOTHING
    written = []
    for letter in "bcd":
        tree = replace(tree, files={**tree.files, "f0007": letter * 64})
        made = make_plan(tag_image, SPEC, tree)
        if isinstance(made.parent, BuildOn) and made.parent.is_ancestor:
            made = plan_without_ancestor(made, made.parent)
        written.append(len(partition(made).documents))
        tag_image = published(made)
    assert written[0] > 5
    assert written[1:] == [1, 1]


@given(trees(), trees())
def test_a_fresh_plan_ignores_the_image_under_the_tag(old: Tree, new: Tree) -> None:
    tag_image = published(make_plan(NOTHING, SPEC, described(old)))
    on_nothing = make_plan(NOTHING, SPEC, described(new))
    assert plan_fresh(NOTHING, SPEC, described(new)) == on_nothing
    assert on_nothing.parent_layers == SPEC.base.layers
    assert not on_nothing.is_up_to_date
    assert on_nothing.lineage.generation == 0 and not on_nothing.lineage.ancestors
    assert on_nothing.changes.added == tuple(sorted(new))
    if old == new:
        assert make_plan(tag_image, SPEC, described(new)).is_up_to_date
