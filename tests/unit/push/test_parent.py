"""The parent of a push: the reasons to start fresh, and how far down a push reaches otherwise.

`pytest -s tests/unit/push/test_parent.py -k thousand` prints the table of docs/choice.md.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from support import models
from support.models import described, published
from support.trees import Directory, File

from kontext_plugin import manifest
from kontext_plugin.delta import diff, layer_bytes, tree_bytes
from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer, digest_of
from kontext_plugin.image.spec import (
    LAYER_LIMIT,
    MAX_LAYERS,
    REVISION,
    SOURCE,
    UNKNOWN,
    BaseImage,
    ImageSpec,
)
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import Ancestor, Lineage, Manifest
from kontext_plugin.push import plan
from kontext_plugin.push.messages import counts
from kontext_plugin.push.parent import (
    BuildOn,
    StartFresh,
    candidates_of,
    choose,
    lineage_of,
    without_ancestor,
)
from kontext_plugin.push.partition import manifest_on, partition
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
CONFIG = ImageConfig("linux/amd64", ("/e",), "/w", {"of the base": "x"}, {"Env": ["A=b"]})
SPEC = ImageSpec(
    platforms=frozenset({"linux/amd64"}),
    base=BaseImage(Image(BASE, (Layer(BASE, 1),), None), CONFIG, EXTRACTOR),
    config=CONFIG,
    labels={"k": "v"},
)
SINGLE = replace(
    SPEC,
    base=replace(SPEC.base, image=replace(SPEC.base.image, layers=()), single_layer=True),
)
ALWAYS = replace(SPEC, always_reuse=True)
NOTHING = StartFresh("there is nothing")


def image_of(lineage: Lineage | None, image: Image = IMAGE) -> KontextImage:
    config = CONFIG.with_labels(lineage.labels) if lineage else None
    return KontextImage(image, Manifest(TREE, lineage), config)


TAG_IMAGE = image_of(LINEAGE)


def image_of_layers(count: int) -> KontextImage:
    layers = (Layer(BASE, 1), *(Layer(FIRST, 1) for _ in range(count - 1)))
    lower = tuple(layer.digest for layer in layers[:-1])
    return image_of(replace(LINEAGE, layers=lower), replace(IMAGE, layers=layers))


def test_a_push_builds_on_the_image_under_the_tag() -> None:
    choice = choose(TAG_IMAGE, SPEC, TREE)
    assert isinstance(choice, BuildOn)
    assert (choice.parent.image, choice.layers) == (OTHER, IMAGE.layers)
    assert not choice.is_ancestor
    assert not choice.changes
    assert choice.generation == 2


# Labels of git

GIT = {REVISION: "a" * 40, SOURCE: "git@host:path"}
LABELLED = image_of(replace(LINEAGE, labels={"k": "v", **GIT}))


def test_git_labels_may_appear_and_disappear() -> None:
    gone = choose(LABELLED, SPEC, TREE)
    assert isinstance(gone, BuildOn) and gone.is_up_to_date
    changed = make_plan(LABELLED, ALWAYS, described({"f": File(b"y")}))
    assert isinstance(changed.parent, BuildOn)
    assert changed.lineage.labels == {"k": "v", REVISION: UNKNOWN, SOURCE: UNKNOWN}
    fresh = make_plan(NOTHING, replace(SPEC, git_labels=GIT), TREE)
    assert fresh.lineage.labels == {"k": "v", **GIT}


def test_another_commit_of_the_same_sources_is_up_to_date() -> None:
    other = replace(SPEC, git_labels=GIT | {REVISION: "b" * 40})
    choice = choose(LABELLED, other, TREE)
    assert isinstance(choice, BuildOn) and choice.is_up_to_date


def test_a_push_after_the_commit_of_pushed_changes_makes_an_image() -> None:
    dirty = image_of(replace(LINEAGE, labels={"k": "v", REVISION: "a" * 40 + "-dirty"}))
    made = make_plan(dirty, replace(SPEC, git_labels=GIT), TREE)
    assert not made.is_up_to_date
    assert made.lineage.labels == {"k": "v", **GIT}
    assert counts(made) == "only labels"


# Whether the image under the tag can be the parent

BUILT_ON: dict[str, Callable[[], BuildOn | StartFresh]] = {
    "new label": lambda: choose(TAG_IMAGE, replace(SPEC, labels={"k": "v", "n": "w"}), TREE),
    "label with another value": lambda: choose(TAG_IMAGE, replace(SPEC, labels={"k": "w"}), TREE),
    "replaced directory is gone": lambda: choose(TAG_IMAGE, ALWAYS, described({})),
    "replaced directory is a file": lambda: choose(
        TAG_IMAGE, ALWAYS, described({"was": File(b"")})
    ),
    "everything changed, with --reuse always": lambda: choose(
        TAG_IMAGE, ALWAYS, described({"n": File(b"x" * 9000)})
    ),
    "half of the bytes changed": lambda: choose(
        TAG_IMAGE,
        SPEC,
        described({"d": Directory(), "f": File(b"x" * 4000), "n": File(b"x" * 4512)}),
    ),
    "configuration as Kontext made it": lambda: choose(
        replace(TAG_IMAGE, config=CONFIG.with_labels({"k": "v"})), SPEC, TREE
    ),
    "no change at the layer limit": lambda: choose(image_of_layers(MAX_LAYERS), SPEC, TREE),
    "one layer below the limit": lambda: choose(image_of_layers(MAX_LAYERS - 1), SPEC, TREE),
}


@pytest.mark.parametrize("outcome", BUILT_ON.values(), ids=BUILT_ON)
def test_a_push_does_not_start_fresh_without_a_reason(
    outcome: Callable[[], BuildOn | StartFresh],
) -> None:
    assert isinstance(outcome(), BuildOn)


CHANGED_LAYERS = "another tool changed the image's layers"
CHANGED_CONFIG = "another tool changed the image's configuration"

FRESH: dict[str, tuple[Callable[[], BuildOn | StartFresh], str]] = {
    "version 1": (lambda: choose(image_of(None), SPEC, TREE), "2018 prototype"),
    "platform": (
        lambda: choose(TAG_IMAGE, replace(SPEC, platforms=frozenset({"linux/arm64"})), TREE),
        "linux/amd64, not linux/arm64",
    ),
    "extractor": (
        lambda: choose(TAG_IMAGE, with_base(extractor=OTHER), TREE),
        "another version of the extractor",
    ),
    "base": (
        lambda: choose(TAG_IMAGE, with_base(image=replace(SPEC.base.image, digest=OTHER)), TREE),
        "the image has another base",
    ),
    "label dropped": (
        lambda: choose(TAG_IMAGE, replace(SPEC, labels={}), TREE),
        "the label k was dropped, and no layer can remove a label",
    ),
    "layer added on top": (
        lambda: choose(
            image_of(LINEAGE, replace(IMAGE, layers=(*IMAGE.layers, Layer(OTHER, 1)))), SPEC, TREE
        ),
        CHANGED_LAYERS,
    ),
    "layer removed": (
        lambda: choose(image_of(LINEAGE, replace(IMAGE, layers=IMAGE.layers[:-1])), SPEC, TREE),
        CHANGED_LAYERS,
    ),
    "layers squashed": (
        lambda: choose(image_of(LINEAGE, replace(IMAGE, layers=IMAGE.layers[-1:])), SPEC, TREE),
        CHANGED_LAYERS,
    ),
    "layers in another order": (
        lambda: choose(
            image_of(LINEAGE, replace(IMAGE, layers=(*IMAGE.layers[1::-1], IMAGE.layers[2]))),
            SPEC,
            TREE,
        ),
        CHANGED_LAYERS,
    ),
    "no layers": (
        lambda: choose(image_of(LINEAGE, replace(IMAGE, layers=())), SPEC, TREE),
        CHANGED_LAYERS,
    ),
    "label of another tool": (
        lambda: choose(replace(TAG_IMAGE, config=CONFIG.with_labels({"k": "w"})), SPEC, TREE),
        CHANGED_CONFIG,
    ),
    "entrypoint of another tool": (
        lambda: choose(with_config(entrypoint=("/x",)), SPEC, TREE),
        CHANGED_CONFIG,
    ),
    "working directory of another tool": (
        lambda: choose(with_config(working_directory="/x"), SPEC, TREE),
        CHANGED_CONFIG,
    ),
    "environment of another tool": (
        lambda: choose(with_config(other={"Env": ["A=c"]}), SPEC, TREE),
        CHANGED_CONFIG,
    ),
    "configuration for another platform": (
        lambda: choose(with_config(platform="linux/arm64"), SPEC, TREE),
        CHANGED_CONFIG,
    ),
    "too many layers": (
        lambda: choose(image_of_layers(MAX_LAYERS), ALWAYS, described({})),
        f"the image has reached {MAX_LAYERS} layers",
    ),
    "directory comes back": (
        lambda: choose(TAG_IMAGE, ALWAYS, described({"was": Directory()})),
        "was was a directory once",
    ),
    "base with other layers": (
        lambda: choose(
            image_of(
                replace(LINEAGE, layers=(OTHER, FIRST)),
                replace(IMAGE, layers=(Layer(OTHER, 1), *IMAGE.layers[1:])),
            ),
            SPEC,
            TREE,
        ),
        CHANGED_LAYERS,
    ),
    "ancestor without sources": (
        lambda: choose(
            image_of(
                replace(
                    LINEAGE,
                    ancestors=(Ancestor(OTHER, 1, 0, 0, frozenset(), ReverseDelta()),),
                )
            ),
            ALWAYS,
            described({}),
        ),
        "ancestors without a layer of sources",
    ),
    "no change above --max-layers": (
        lambda: choose(image_of_layers(9), replace(SPEC, max_layers=8), TREE),
        "the image has reached 8 layers",
    ),
    "single layer wanted": (lambda: choose(TAG_IMAGE, SINGLE, TREE), "--single-layer was given"),
    "several layers wanted": (
        lambda: choose(single_layer_image(), SPEC, TREE),
        "the image was pushed with --single-layer",
    ),
    "single layer with a change": (
        lambda: choose(single_layer_image(), SINGLE, described({})),
        "--single-layer was given",
    ),
    "more than half changed": (
        lambda: choose(TAG_IMAGE, SPEC, described({"d": Directory(), "f": File(b"y" * 4000)})),
        "more than half of the bytes changed",
    ),
    "more than half removed": (
        lambda: choose(image_after(ALL), SPEC, sized(a=1000, b=1000, c=1000, big=9000)),
        "more than half of the image would be obsolete",
    ),
    "--max-layers": (
        lambda: choose(TAG_IMAGE, replace(ALWAYS, max_layers=3), described({})),
        "the image has reached 3 layers",
    ),
}


def with_base(**changes: object) -> ImageSpec:
    return replace(SPEC, base=replace(SPEC.base, **changes))


def with_config(**changes: object) -> KontextImage:
    assert TAG_IMAGE.config is not None
    return replace(TAG_IMAGE, config=replace(TAG_IMAGE.config, **changes))


def single_layer_image() -> KontextImage:
    return published(make_plan(NOTHING, SINGLE, TREE))


@pytest.mark.parametrize(("outcome", "reason"), FRESH.values(), ids=FRESH)
def test_a_push_starts_fresh_for_a_reason(
    outcome: Callable[[], BuildOn | StartFresh], reason: str
) -> None:
    choice = outcome()
    assert isinstance(choice, StartFresh)
    assert reason in choice.reason
    assert not choice.is_ordinary, "a user wants to know of it"
    assert not choice.is_refused


def test_an_unchanged_single_layer_image_is_up_to_date() -> None:
    choice = choose(single_layer_image(), SINGLE, TREE)
    assert isinstance(choice, BuildOn) and choice.is_up_to_date


def test_the_default_layer_limit_leaves_room_for_others() -> None:
    assert MAX_LAYERS < LAYER_LIMIT == 125, "dockerd fails from 126 on"


# How far down a push reaches


def sized(**files: int) -> Tree:
    """Return a tree of files with these sizes; another size is another content."""
    return Tree(
        files={name: hashlib.sha256(b"%d" % size).hexdigest() for name, size in files.items()},
        sizes=files,
    )


def image_after(*history: Tree, spec: ImageSpec = ALWAYS) -> KontextImage:
    """Return the image under the tag after a push of each tree."""
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in history:
        tag_image = published(make_plan(tag_image, spec, tree))
    assert isinstance(tag_image, KontextImage)
    return tag_image


ALL = sized(a=1000, b=1000, c=1000, big=9000, rest=90_000)


def edited(**files: int) -> Tree:
    return sized(**(dict(ALL.sizes) | files))


# Earlier trees, the new tree, and the number of the parent's layers of sources.
REACH: dict[str, tuple[list[Tree], Tree, int]] = {
    "one edit": ([ALL], edited(a=1001), 1),
    "two edits of one size share a layer": ([ALL, edited(a=1001)], edited(a=1001, b=1001), 1),
    "only the last content of a file is kept": ([ALL, edited(a=1001)], edited(a=1002), 1),
    "a third edit has its own layer": (
        [ALL, edited(a=1001), edited(a=1001, b=1001)],
        edited(a=1001, b=1001, c=1001),
        2,
    ),
    "a small edit leaves a large layer": ([ALL, edited(big=9001)], edited(big=9001, a=1001), 2),
    "a large edit replaces a small layer": ([ALL, edited(a=1001)], edited(a=1001, big=9001), 1),
    "an edit that was undone leaves no layer": ([ALL, edited(big=9001)], ALL, 1),
    "a file that came and went leaves no layer": ([ALL, sized(**ALL.sizes, new=5000)], ALL, 1),
}


@pytest.mark.parametrize(("history", "tree", "layers"), REACH.values(), ids=REACH)
def test_a_push_reaches_as_far_down_as_is_cheap(
    history: list[Tree], tree: Tree, layers: int
) -> None:
    choice = choose(image_after(*history), SPEC, tree)
    assert isinstance(choice, BuildOn)
    assert len(choice.layers) == layers + 1


def test_a_directory_that_comes_back_is_built_on_the_image_that_had_it() -> None:
    """That is better than to start fresh: in the new image it has always been a directory."""
    ballast = {"ballast": File(b"b" * 9000)}
    trees = [ballast | {"d": Directory()}, ballast | {"d": File(b"")}]
    choice = choose(image_after(*map(described, trees)), SPEC, described(trees[0]))
    assert isinstance(choice, BuildOn)
    assert len(choice.layers) == 2
    assert not choice.changes


def test_many_small_layers_are_compacted_even_if_that_uploads_more() -> None:
    history = [ALL]
    size = 40_000
    while size > 1:  # each edit has less than half of the bytes before: none would be compacted
        history.append(sized(**history[-1].sizes, **{f"n{size}": size}))
        size = int(size * 0.6) - 1
    tag_image = image_after(*history, spec=SPEC)
    assert len(tag_image.image.layers) <= 16


@pytest.mark.parametrize("most", [3, 5, 9])
def test_an_image_never_exceeds_max_layers(most: int) -> None:
    spec = replace(SPEC, max_layers=most)
    tag_image: KontextImage | StartFresh = NOTHING
    for number in range(40):
        made = make_plan(tag_image, spec, edited(**{"abc"[number % 3]: 2000 + number}))
        assert isinstance(made.parent, BuildOn) or number == 0, "a fresh start was not needed"
        tag_image = published(made)
        assert len(tag_image.image.layers) <= most


def test_an_image_has_at_most_twice_the_bytes_of_a_fresh_one() -> None:
    tag_image: KontextImage | StartFresh = NOTHING
    for number in range(60):
        tree = edited(rest=1000 * (90 - number), **{"abc"[number % 3]: 2000 + number})
        tag_image = published(make_plan(tag_image, SPEC, tree))
        lineage = tag_image.manifest.lineage
        assert lineage is not None
        assert lineage.content <= 2 * (tree.size + 512 * len(tree.files))


def test_a_push_without_an_ancestor_builds_on_a_nearer_image() -> None:
    history = [ALL, edited(big=9001), edited(big=9001, a=4000), edited(big=9001, a=4000, b=1100)]
    tree = edited(big=9002, a=4001, b=1101)
    tried: list[int] = []
    tag_image = image_after(*history)
    while True:
        choice = choose(tag_image, ALWAYS, tree)
        assert isinstance(choice, BuildOn)
        tried.append(len(choice.layers))
        if not choice.is_ancestor:
            break
        tag_image = without_ancestor(choice)
    assert tried == sorted(set(tried)), "each one nearer than the last"
    assert len(tried) > 1
    assert tried[-1] == len(image_after(*history).image.layers), "the tag's image comes last"


# A thousand pushes, compared with skip-deltas on the same history. Bytes are those of sources,
# uncompressed, without manifests, which would hide the difference.

COSTS_SPEC = replace(models.SPEC, always_reuse=False)
FILES, PUSHES = 2000, 1000
Spread = Literal["hot", "even"]


@dataclass(frozen=True)
class Costs:
    """What the pushes of a history cost."""

    layers: int  # the most at any time, the base's among them
    upload: float  # bytes of all pushes, divided by the bytes of the single deltas
    size: float  # of the largest image, divided by the size of a fresh one


def skip_deltas(tag_image: KontextImage, spec: ImageSpec, tree: Tree) -> BuildOn | StartFresh:
    """Choose as Subversion does: generation g builds on g with its lowest set bit cleared."""
    generation = lineage_of(tag_image).generation + 1
    wanted = generation & (generation - 1)
    choice = next(
        candidate
        for candidate in candidates_of(tag_image, tree)
        if candidate.parent.generation == wanted
    )
    if 2 * choice.bytes > tree_bytes(tree):
        return StartFresh("more than half of the bytes changed")
    return choice


def random_edits(spread: Spread) -> Iterator[Tree]:
    """Yield trees of which 1 to 10 files change each time.

    With "hot", 80 % of the edits fall on 5 % of the files.
    """
    chance = random.Random(spread)
    sizes = {f"{n}": int(min(chance.lognormvariate(8, 1.2), 300_000)) for n in range(FILES)}
    files = {path: hashlib.sha256(path.encode()).hexdigest() for path in sizes}
    yield Tree(dict(files), sizes)
    names = list(sizes)
    few = names[: FILES // 20]
    for _ in range(PUSHES):
        for _ in range(chance.randint(1, 10)):
            hot = spread == "hot" and chance.random() < 0.8
            path = chance.choice(few if hot else names)
            files[path] = hashlib.sha256(files[path].encode()).hexdigest()
        yield Tree(dict(files), sizes)


def costs(spread: Spread) -> Costs:
    most, upload, single, size = 0, 0, 0, 0.0
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in random_edits(spread):
        made = make_plan(tag_image, COSTS_SPEC, tree)
        if isinstance(tag_image, KontextImage):
            upload += layer_bytes(made.changes, tree)
            single += layer_bytes(diff(tag_image.manifest.tree, tree), tree)
        held = manifest_on(made, partition(made), (layer.digest for layer in made.parent_layers))
        digest = digest_of(manifest.encode(held))
        image = Image(digest, (*made.parent_layers, Layer(digest, 1)), digest)
        tag_image = KontextImage(image, held, COSTS_SPEC.config)
        most = max(most, len(image.layers))
        size = max(size, made.lineage.content / tree_bytes(tree))
    return Costs(most, upload / single, size)


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["hot", "even"])
def test_a_thousand_pushes_cost_less_than_with_skip_deltas(
    spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "choose", choose)
    ours = costs(spread)
    monkeypatch.setattr(plan, "choose", skip_deltas)
    theirs = costs(spread)
    for name, made in (("by bytes", ours), ("skip-deltas", theirs)):
        print(f"| {spread} | {name} | {made.layers} | {made.upload:.2f} | {made.size:.2f} |")
    assert ours.layers <= 16
    assert ours.size <= 2
    assert ours.upload < theirs.upload
    assert ours.upload <= 4 or spread == "even"
