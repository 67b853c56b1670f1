"""What a push builds on: each reason to start afresh, and how far down it reaches otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from support.models import described, published
from support.trees import Directory, File

from kontext_plugin.image.oci import Digest, Image, Layer
from kontext_plugin.image.spec import MAX_LAYERS, MOST_LAYERS, REVISION, SOURCE, UNKNOWN, ImageSpec
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import Ancestor, Lineage, Manifest
from kontext_plugin.push.parent import BuildOn, StartFresh, choose, without
from kontext_plugin.push.plan import make_plan
from kontext_plugin.registry.fetch import KontextImage

BASE, EXTRACTOR, FIRST, TOP, OTHER = (Digest("sha256:" + letter * 64) for letter in "abcde")

TREE = described({"d": Directory(), "f": File(b"x" * 4000)})
LINEAGE = Lineage(
    BASE,
    EXTRACTOR,
    "linux/amd64",
    generation=1,
    content=5024,
    layers=(BASE, FIRST),
    labels={"k": "v"},
    replaced_directories=frozenset({"was", "d/was"}),
)
IMAGE = Image(OTHER, (Layer(BASE, 1), Layer(FIRST, 2), Layer(TOP, 3)), OTHER)
PREVIOUS = KontextImage(IMAGE, Manifest(TREE, LINEAGE))


def settings(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"Entrypoint": ["/e"], "Labels": {"of the base": "x", **labels}}


WANTED = ImageSpec(BASE, (Layer(BASE, 1),), EXTRACTOR, "linux/amd64", {"k": "v"}, settings)
ALWAYS = replace(WANTED, always_reuse=True)
NOTHING = StartFresh("there is nothing")


def of(lineage: Lineage | None, image: Image = IMAGE) -> KontextImage:
    return KontextImage(image, Manifest(TREE, lineage))


def of_layers(count: int) -> KontextImage:
    layers = (Layer(BASE, 1), *(Layer(FIRST, 1) for _ in range(count - 1)))
    below = tuple(layer.digest for layer in layers[:-1])
    return of(replace(LINEAGE, layers=below), replace(IMAGE, layers=layers))


def test_the_previous_image_is_built_on() -> None:
    choice = choose(PREVIOUS, WANTED, TREE)
    assert isinstance(choice, BuildOn)
    assert (choice.image, choice.layers) == (OTHER, IMAGE.layers)
    assert not choice.changes
    assert choice.generation == 2


GIT = {REVISION: "a" * 40, SOURCE: "git@host:path"}
LABELLED = of(replace(LINEAGE, labels={"k": "v", **GIT}))


def test_labels_of_gits_come_and_go() -> None:
    gone = choose(LABELLED, WANTED, TREE)
    assert isinstance(gone, BuildOn) and gone.up_to_date
    changed = make_plan(LABELLED, ALWAYS, described({"f": File(b"y")}))
    assert isinstance(changed.choice, BuildOn)
    assert changed.lineage.labels == {"k": "v", REVISION: UNKNOWN, SOURCE: UNKNOWN}
    afresh = make_plan(NOTHING, replace(WANTED, git_labels=GIT), TREE)
    assert afresh.lineage.labels == {"k": "v", **GIT}


def test_another_commit_of_the_same_sources_is_up_to_date() -> None:
    other = replace(WANTED, git_labels=GIT | {REVISION: "b" * 40})
    choice = choose(LABELLED, other, TREE)
    assert isinstance(choice, BuildOn) and choice.up_to_date


def test_committing_what_was_pushed_is_worth_an_image() -> None:
    dirty = of(replace(LINEAGE, labels={"k": "v", REVISION: "a" * 40 + "-dirty"}))
    plan = make_plan(dirty, replace(WANTED, git_labels=GIT), TREE)
    assert not plan.up_to_date
    assert plan.lineage.labels == {"k": "v", **GIT}
    assert plan.describe() == "the labels alone"


REUSED: dict[str, Callable[[], BuildOn | StartFresh]] = {
    "new label": lambda: choose(PREVIOUS, replace(WANTED, labels={"k": "v", "n": "w"}), TREE),
    "label of another value": lambda: choose(PREVIOUS, replace(WANTED, labels={"k": "w"}), TREE),
    "replaced directory is gone": lambda: choose(PREVIOUS, ALWAYS, described({})),
    "replaced directory is a file": lambda: choose(PREVIOUS, ALWAYS, described({"was": File(b"")})),
    "all of it changed, and --reuse always": lambda: choose(
        PREVIOUS, ALWAYS, described({"n": File(b"x" * 9000)})
    ),
    "half of the bytes changed": lambda: choose(
        PREVIOUS,
        WANTED,
        described({"d": Directory(), "f": File(b"x" * 4000), "n": File(b"x" * 4512)}),
    ),
    "settings as Kontext made them": lambda: choose(
        replace(PREVIOUS, settings=settings({"k": "v"})), WANTED, TREE
    ),
    "nothing to add at the limit": lambda: choose(of_layers(MAX_LAYERS), WANTED, TREE),
    "one layer below the limit": lambda: choose(of_layers(MAX_LAYERS - 1), WANTED, TREE),
}


@pytest.mark.parametrize("outcome", REUSED.values(), ids=REUSED)
def test_what_is_no_reason_to_start_afresh(outcome: Callable[[], BuildOn | StartFresh]) -> None:
    assert isinstance(outcome(), BuildOn)


FRESH: dict[str, tuple[Callable[[], BuildOn | StartFresh], str]] = {
    "version 1": (lambda: choose(of(None), WANTED, TREE), "2018 prototype"),
    "platform": (
        lambda: choose(PREVIOUS, replace(WANTED, platform="linux/arm64"), TREE),
        "linux/amd64, not linux/arm64",
    ),
    "extractor": (
        lambda: choose(PREVIOUS, replace(WANTED, extractor=OTHER), TREE),
        "another version of the extractor",
    ),
    "base": (lambda: choose(PREVIOUS, replace(WANTED, base=OTHER), TREE), "base image is another"),
    "label gone": (lambda: choose(PREVIOUS, replace(WANTED, labels={}), TREE), "label k is gone"),
    "layer put on top": (
        lambda: choose(
            of(LINEAGE, replace(IMAGE, layers=(*IMAGE.layers, Layer(OTHER, 1)))), WANTED, TREE
        ),
        "changed by another tool",
    ),
    "layer taken off": (
        lambda: choose(of(LINEAGE, replace(IMAGE, layers=IMAGE.layers[:-1])), WANTED, TREE),
        "changed by another tool",
    ),
    "layers squashed": (
        lambda: choose(of(LINEAGE, replace(IMAGE, layers=IMAGE.layers[-1:])), WANTED, TREE),
        "changed by another tool",
    ),
    "layers in another order": (
        lambda: choose(
            of(LINEAGE, replace(IMAGE, layers=(*IMAGE.layers[1::-1], IMAGE.layers[2]))),
            WANTED,
            TREE,
        ),
        "changed by another tool",
    ),
    "no layers": (
        lambda: choose(of(LINEAGE, replace(IMAGE, layers=())), WANTED, TREE),
        "changed by another tool",
    ),
    "settings of another tool": (
        lambda: choose(replace(PREVIOUS, settings=settings({"k": "w"})), WANTED, TREE),
        "configuration was changed by another tool",
    ),
    "too many layers": (
        lambda: choose(of_layers(MAX_LAYERS), ALWAYS, described({})),
        f"{MAX_LAYERS} layers",
    ),
    "directory comes back": (
        lambda: choose(PREVIOUS, ALWAYS, described({"was": Directory()})),
        "was was a directory once",
    ),
    "base of other layers": (
        lambda: choose(
            of(
                replace(LINEAGE, layers=(OTHER, FIRST)),
                replace(IMAGE, layers=(Layer(OTHER, 1), *IMAGE.layers[1:])),
            ),
            WANTED,
            TREE,
        ),
        "changed by another tool",
    ),
    "ancestor without sources": (
        lambda: choose(
            of(
                replace(
                    LINEAGE,
                    ancestors=(Ancestor(OTHER, 1, 0, 0, frozenset(), ReverseDelta()),),
                )
            ),
            ALWAYS,
            described({}),
        ),
        "no layer of sources",
    ),
    "nothing to add above --max-layers": (
        lambda: choose(of_layers(9), replace(WANTED, max_layers=8), TREE),
        "has reached 8 layers",
    ),
    "single layer wanted": (
        lambda: choose(PREVIOUS, replace(WANTED, single_layer=True), TREE),
        "is to have a single layer",
    ),
    "more than half changed": (
        lambda: choose(PREVIOUS, WANTED, described({"d": Directory(), "f": File(b"y" * 4000)})),
        "more than half of the bytes changed",
    ),
    "more than half removed": (
        lambda: choose(after(ALL), WANTED, sized(a=1000, b=1000, c=1000, big=9000)),
        "out of date",
    ),
    "--max-layers": (
        lambda: choose(PREVIOUS, replace(ALWAYS, max_layers=3), described({})),
        "has reached 3 layers",
    ),
}


@pytest.mark.parametrize(("outcome", "reason"), FRESH.values(), ids=FRESH)
def test_reasons_to_start_afresh(outcome: Callable[[], BuildOn | StartFresh], reason: str) -> None:
    choice = outcome()
    assert isinstance(choice, StartFresh)
    assert reason in choice.reason


def test_the_limit_leaves_room_for_others() -> None:
    assert MAX_LAYERS < MOST_LAYERS == 125, "dockerd fails from 126 on"


def sized(**files: int) -> Tree:
    """Files of so many bytes; another size is another content."""
    return Tree(
        files={name: hashlib.sha256(b"%d" % size).hexdigest() for name, size in files.items()},
        sizes=files,
    )


def after(*history: Tree, wanted: ImageSpec = ALWAYS) -> KontextImage:
    """The image of the last tree, each having been pushed."""
    previous: KontextImage | StartFresh = NOTHING
    for tree in history:
        previous = published(make_plan(previous, wanted, tree))
    assert isinstance(previous, KontextImage)
    return previous


ALL = sized(a=1000, b=1000, c=1000, big=9000, rest=90_000)


def edited(**files: int) -> Tree:
    return sized(**(dict(ALL.sizes) | files))


# The trees that were pushed, the one that is to be; the layers of sources to be built on.
REACH: dict[str, tuple[list[Tree], Tree, int]] = {
    "one edit": ([ALL], edited(a=1001), 1),
    "two edits of one size: one layer with both": (
        [ALL, edited(a=1001)],
        edited(a=1001, b=1001),
        1,
    ),
    "the same file again: only its last content": ([ALL, edited(a=1001)], edited(a=1002), 1),
    "a third one stands by itself": (
        [ALL, edited(a=1001), edited(a=1001, b=1001)],
        edited(a=1001, b=1001, c=1001),
        2,
    ),
    "a small edit leaves a large layer alone": (
        [ALL, edited(big=9001)],
        edited(big=9001, a=1001),
        2,
    ),
    "a large edit takes a small layer along": ([ALL, edited(a=1001)], edited(a=1001, big=9001), 1),
    "what was taken back leaves its layer": ([ALL, edited(big=9001)], ALL, 1),
    "a file that came and went": ([ALL, sized(**ALL.sizes, new=5000)], ALL, 1),
}


@pytest.mark.parametrize(("history", "tree", "layers"), REACH.values(), ids=REACH)
def test_how_far_down_a_push_reaches(history: list[Tree], tree: Tree, layers: int) -> None:
    choice = choose(after(*history), WANTED, tree)
    assert isinstance(choice, BuildOn)
    assert len(choice.layers) == layers + 1


def test_a_directory_that_comes_back_is_put_upon_the_image_that_had_it() -> None:
    """Better than to start afresh: in the new image it has always been one."""
    ballast = {"ballast": File(b"b" * 9000)}
    trees = [ballast | {"d": Directory()}, ballast | {"d": File(b"")}]
    choice = choose(after(*map(described, trees)), WANTED, described(trees[0]))
    assert isinstance(choice, BuildOn)
    assert len(choice.layers) == 2
    assert not choice.changes


def test_many_small_layers_are_joined_though_it_costs_more() -> None:
    history = [ALL]
    size = 40_000
    while size > 1:  # each edit less than half of the one before: no two would be joined
        history.append(sized(**history[-1].sizes, **{f"n{size}": size}))
        size = int(size * 0.6) - 1
    previous = after(*history, wanted=WANTED)
    assert len(previous.image.layers) <= 16


@pytest.mark.parametrize("most", [3, 5, 9])
def test_the_layer_limit_is_kept_by_reaching_down(most: int) -> None:
    wanted = replace(WANTED, max_layers=most)
    previous: KontextImage | StartFresh = NOTHING
    for number in range(40):
        plan = make_plan(previous, wanted, edited(**{"abc"[number % 3]: 2000 + number}))
        assert isinstance(plan.choice, BuildOn) or number == 0, "a fresh start was not needed"
        previous = published(plan)
        assert len(previous.image.layers) <= most


def test_an_image_is_never_more_than_twice_what_a_fresh_one_is() -> None:
    previous: KontextImage | StartFresh = NOTHING
    for number in range(60):
        tree = edited(rest=1000 * (90 - number), **{"abc"[number % 3]: 2000 + number})
        previous = published(make_plan(previous, WANTED, tree))
        lineage = previous.manifest.lineage
        assert lineage is not None
        assert lineage.content <= 2 * (tree.size + 512 * len(tree.files))


def test_an_image_that_is_gone_leaves_what_is_above_it() -> None:
    history = [ALL, edited(big=9001), edited(big=9001, a=4000), edited(big=9001, a=4000, b=1100)]
    tree = edited(big=9002, a=4001, b=1101)
    tried: list[int] = []
    previous = after(*history)
    while True:
        choice = choose(previous, ALWAYS, tree)
        assert isinstance(choice, BuildOn)
        tried.append(len(choice.layers))
        if not choice.on_ancestor:
            break
        previous = without(choice)
    assert tried == sorted(set(tried)), "each one nearer than the last"
    assert len(tried) > 1
    assert tried[-1] == len(after(*history).image.layers), "the one under the tag comes last"
