"""Whole histories: whatever is built on, every image shows its tree to every consumer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support.models import (
    BASE,
    WANTED,
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
from kontext_plugin.push.parent import BuildOn, StartFresh, candidates_of, lineage_of, unfit
from kontext_plugin.push.plan import Plan, make_plan, plan_without
from kontext_plugin.registry.fetch import KontextImage

NOTHING = StartFresh("there is nothing")
DIR, X = Directory(), File(b"x")


class Registry:
    """Keeps the entries of each layer, and shows images as consumers do."""

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


def planned(previous: KontextImage | StartFresh, tree: Tree, data: st.DataObject) -> Plan:
    """A plan to build on any of the fit images, mostly the nearest: the rule is about costs."""

    def choose(previous: KontextImage, wanted: ImageSpec, tree: Described) -> BuildOn | StartFresh:
        fit = [choice for choice in candidates_of(previous, tree) if not unfit(choice, tree)]
        return data.draw(st.sampled_from([*fit[:1] * 2, *fit])) if fit else NOTHING

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "choose", choose)
        return make_plan(previous, WANTED, described(tree))


@given(st.one_of(st.lists(trees(), min_size=2, max_size=6), histories()), st.data())
def test_every_image_of_a_history_is_its_tree(history: list[Tree], data: st.DataObject) -> None:
    registry = Registry()
    previous: KontextImage | StartFresh = NOTHING

    for tree in history:
        plan = planned(previous, tree, data)
        layers = 0 if isinstance(plan.choice, StartFresh) else len(plan.choice.layers)
        event(f"on {layers} layers")
        previous = registry.push(plan, tree)
        assert overlay(registry.entries(previous)) == tree
        assert crane_export(registry.entries(previous)) == tree
        assert previous.manifest.tree == described(tree)
        assert lineage_of(previous).content == registry.content(previous)


@given(histories(), st.data())
def test_an_ancestor_is_an_image_that_was_pushed(history: list[Tree], data: st.DataObject) -> None:
    """What an image says of its ancestors is what they say of themselves."""
    known: dict[Digest, KontextImage] = {}
    previous: KontextImage | StartFresh = NOTHING
    for tree in history:
        previous = published(planned(previous, tree, data))
        known[previous.image.digest] = previous
        lineage = previous.manifest.lineage
        assert lineage is not None
        for position, ancestor in enumerate(lineage.ancestors):
            then = known[ancestor.image]
            assert then.manifest.lineage is not None
            assert then.image.layers == previous.image.layers[: ancestor.layers]
            assert then.manifest.lineage.ancestors[:position] == lineage.ancestors[:position]
            former = undone(described(tree), lineage.ancestors[position:])
            assert former == then.manifest.tree.without_sizes()
            assert ancestor.content == then.manifest.lineage.content
            assert ancestor.generation == then.manifest.lineage.generation
            assert ancestor.replaced_directories == then.manifest.lineage.replaced_directories


def undone(tree: Described, ancestors: Sequence[Ancestor]) -> Described:
    """The tree of the first of the ancestors, without sizes, from that of the image."""
    for ancestor in reversed(ancestors):
        kept, was = tree.only(tree.paths() - ancestor.undo.paths()), ancestor.undo.former
        tree = Described(
            files={**kept.files, **was.files},
            executable=kept.executable | was.executable,
            links={**kept.links, **was.links},
        )
    return tree.without_sizes()


def test_without_the_rule_crane_shows_what_is_gone() -> None:
    """The model of `crane export` has the flaw that `replaced_directories` is for."""
    history: list[Tree] = [{"d": DIR, "d/old": X, "e": X}, {"d": X}, {"d": DIR, "d/new": X}]
    registry = Registry()
    previous: KontextImage | StartFresh = NOTHING
    for tree in history:
        if isinstance(previous, KontextImage):
            lineage = previous.manifest.lineage
            assert lineage is not None
            forgetful = replace(lineage, ancestors=(), replaced_directories=frozenset())
            previous = replace(
                previous, manifest=manifest.Manifest(previous.manifest.tree, forgetful)
            )
        previous = registry.push(make_plan(previous, WANTED, described(tree)), tree)
    assert overlay(registry.entries(previous)) == history[-1]
    assert crane_export(registry.entries(previous)) == history[-1] | {"d/old": X}


def test_a_replaced_directory_is_remembered_from_push_to_push() -> None:
    file: Tree = {"ballast": File(b"b" * 200_000), "d": File(b"f" * 50_000)}
    history: list[Tree] = [
        {"ballast": File(b"b" * 200_000), "d": DIR, "d/old": X},
        file,
        file | {"e": File(b"e" * 5000)},
        file | {"e": File(b"e" * 5000), "f": X},
    ]
    registry = Registry()
    previous: KontextImage | StartFresh = NOTHING
    for tree in history:
        previous = registry.push(make_plan(previous, WANTED, described(tree)), tree)
    assert isinstance(previous, KontextImage) and previous.manifest.lineage is not None
    assert [made.replaced_directories for made in previous.manifest.lineage.ancestors] == [
        frozenset(),
        {"d"},
        {"d"},
    ]
    tree = {"ballast": File(b"b" * 200_000), "d": DIR, "e": X}
    previous = registry.push(make_plan(previous, WANTED, described(tree)), tree)
    assert crane_export(registry.entries(previous)) == tree


DESCRIPTIONS: dict[str, tuple[Tree, Tree, str]] = {
    "first": ({}, {"a": X, "d": DIR, "d/b": X}, "2 added"),
    "of each": (
        {"a": X, "b": X, "c": X},
        {"a": File(b"y"), "b": X, "n": X},
        "1 added, 1 changed, 1 removed",
    ),
    "directories": ({"a": X}, {"a": X, "d": DIR}, "directories alone"),
    "a tree removed": ({"a": X, "d": DIR, "d/b": X, "d/c": X}, {"a": X}, "2 removed"),
    "file to directory": ({"a": X, "b": X}, {"a": DIR, "b": X}, "directories alone"),
    "nothing at all": ({}, {}, "no files"),
}


@pytest.mark.parametrize(("old", "new", "text"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_what_is_said_of_a_plan(old: Tree, new: Tree, text: str) -> None:
    previous = published(make_plan(NOTHING, WANTED, described(old))) if old else NOTHING
    assert make_plan(previous, WANTED, described(new)).describe() == text


def test_what_was_pushed_since_is_told_and_not_what_goes_up_again() -> None:
    ballast: Tree = {"ballast": File(b"b" * 100_000)}
    previous: KontextImage | StartFresh = NOTHING
    for number in range(3):
        tree = ballast | {name: File(bytes([number])) for name in ("a", "b")[: number + 1]}
        plan = make_plan(previous, WANTED, described(tree))
        previous = published(plan)
    assert isinstance(plan.choice, BuildOn) and len(plan.choice.ancestors) == 1
    assert plan.describe() == "2 changed"


@pytest.mark.parametrize("limit", [3, 4, 5, 8, 64])
@pytest.mark.parametrize("size", [4, 20, 40, 90], ids=lambda size: f"{size * 10} MB")
def test_a_delta_follows_a_fresh_start(limit: int, size: int) -> None:
    """However few layers there may be, a large tree does not take them all."""
    large = Described(
        files={f"f{number:02}": "a" * 64 for number in range(size)},
        sizes={f"f{number:02}": 10_000_000 for number in range(size)},
    )
    wanted = replace(WANTED, max_layers=limit, always_reuse=False)
    first = make_plan(NOTHING, wanted, large)
    edited = replace(large, files={**large.files, "f00": "b" * 64}, sizes={**large.sizes, "f00": 9})
    assert isinstance(make_plan(published(first), wanted, edited).choice, BuildOn)


def test_parts_are_kept_when_an_ancestor_is_gone() -> None:
    names = [f"f{number:04}" for number in range(3000)]
    tree = Described(dict.fromkeys(names, "a" * 64), dict.fromkeys(names, 1000))
    previous: KontextImage | StartFresh = NOTHING
    written = []
    for letter in "bcd":
        tree = replace(tree, files={**tree.files, "f0007": letter * 64})
        plan = make_plan(previous, WANTED, tree)
        if isinstance(plan.choice, BuildOn) and plan.choice.on_ancestor:
            plan = plan_without(plan, plan.choice)
        written.append(len(plan.documents))
        previous = published(plan)
    assert written[0] > 5
    assert written[1:] == [1, 1]
