"""What a push builds on: the previous image, one of its ancestors, or the plain base. Pure.

Building on an ancestor uploads again what the layers in between hold, and leaves them out. It is
done step by step, as long as each at most doubles what goes up. As with a binary counter, or
Subversion's skip-deltas, n pushes so leave some log2(n) layers; unlike these it goes by bytes: a
small edit leaves a large layer where it is. docs/choice.md compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kontext_plugin.delta import (
    Changes,
    changes_of,
    compose,
    layer_bytes,
    reverse_delta,
    tree_bytes,
)
from kontext_plugin.errors import brief
from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.spec import GIT_LABELS, ImageSpec, worth_publishing
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import Ancestor, Lineage
from kontext_plugin.registry.fetch import KontextImage

_PUSHES = 15
"""Whose layers are sought in an image whose ancestors are there: with the base 16 layers, or more
where the first of them made several (division.MOST_LAYERS)."""

_SINGLE = "the image is to have a single layer"


@dataclass(frozen=True)
class BuildOn:
    """A delta on the previous image or an ancestor of it."""

    # Of the new image. The last one is built upon, and its undo leads there from the new tree.
    ancestors: tuple[Ancestor, ...]
    layers: tuple[Layer, ...]  # of the image that is built upon
    changes: Changes  # what the new layer holds
    bytes: int  # of them (diff.layer_bytes)
    generation: int  # of the new image
    since: ReverseDelta  # leads from the new tree to the previous image's
    previous: KontextImage
    up_to_date: bool = False  # the previous image is as wanted already

    @property
    def image(self) -> Digest:
        """The image that is built upon."""
        return self.ancestors[-1].image

    @property
    def on_ancestor(self) -> bool:
        """Whether it is not the previous image that is built upon."""
        return len(self.layers) < len(self.previous.image.layers)

    @property
    def content(self) -> int:
        """The new lineage's `content`."""
        return self.ancestors[-1].content + self.bytes


@dataclass(frozen=True)
class StartFresh:
    reason: str  # completes "starting afresh: …"
    refused: bool = False  # the registry does not tell whether there is an image


def choose(previous: KontextImage, wanted: ImageSpec, tree: Tree) -> BuildOn | StartFresh:
    """The image that a delta is put upon, so that `tree` is right for every consumer, as `wanted`.

    If `previous` has `tree` and is as wanted already, it is the choice, with no changes.
    """
    if reason := mismatch(previous, wanted):
        return StartFresh(reason)
    candidates = candidates_of(previous, tree)
    chosen = next(candidates)
    labels = lineage_of(previous).labels
    same = not (chosen.changes or worth_publishing(labels, wanted.labels, wanted.git_labels))
    if same and len(previous.image.layers) <= wanted.max_layers:
        return replace(chosen, up_to_date=True)
    if wanted.single_layer:
        return StartFresh(_SINGLE)
    reason = unfit(chosen, tree)
    for farther in candidates:
        if unfit(farther, tree):
            continue
        if not (reason or _crowded(chosen, wanted, tree) or _cheap(farther, chosen, tree)):
            break
        chosen, reason = farther, ""
    if reason := reason or too_many(chosen, wanted):
        return StartFresh(reason)
    if not wanted.always_reuse and (reason := _worse_than_fresh(chosen, tree)):
        return StartFresh(reason)
    return chosen


def candidates_of(previous: KontextImage, tree: Tree) -> Iterator[BuildOn]:
    """The previous image, which has no mismatch, and its ancestors, the nearest first."""
    image, lineage = previous.image, lineage_of(previous)
    since = way = reverse_delta(previous.manifest.tree, tree)
    chain = (
        *lineage.ancestors,
        Ancestor(
            image=image.digest,
            layers=len(image.layers),
            generation=lineage.generation,
            content=lineage.content,
            replaced_directories=lineage.replaced_directories,
            undo=ReverseDelta(),
        ),
    )
    for below in range(len(chain) - 1, -1, -1):
        way = compose(way, chain[below].undo, tree)
        made = changes_of(way, tree)
        yield BuildOn(
            ancestors=(*chain[:below], replace(chain[below], undo=way)),
            layers=image.layers[: chain[below].layers],
            changes=made,
            bytes=layer_bytes(made, tree),
            generation=lineage.generation + 1,
            since=since,
            previous=previous,
        )


def without(choice: BuildOn) -> KontextImage:
    """What is left to build on when the ancestor of `choice` cannot be had."""
    previous = choice.previous
    lineage = lineage_of(previous)
    # Nor will those be there that are older still.
    rest = replace(lineage, ancestors=lineage.ancestors[len(choice.ancestors) :])
    return replace(previous, manifest=replace(previous.manifest, lineage=rest))


def lineage_of(previous: KontextImage) -> Lineage:
    """That of an image which has no mismatch."""
    assert previous.manifest.lineage is not None
    return previous.manifest.lineage


def mismatch(previous: KontextImage, wanted: ImageSpec) -> str:
    """Why neither this image nor an ancestor of it can be built on, if that is so."""
    lineage = previous.manifest.lineage
    if lineage is None:
        return "the image was made by the 2018 prototype"
    single = not lineage.layers
    if single != wanted.single_layer:
        return "the image has a single layer, and is to have more" if single else _SINGLE
    if lineage.platform != wanted.platform:
        return f"the image is for {lineage.platform}, not {wanted.platform}"
    if lineage.extractor != wanted.extractor:
        return "the image was made with another version of the extractor"
    if lineage.base != wanted.base:
        return "the base image is another"
    layers = [layer.digest for layer in previous.image.layers]
    below = [layer.digest for layer in wanted.below]
    if list(lineage.layers) != layers[:-1] or layers[: len(below)] != below:
        return "the image's layers were changed by another tool"
    if any(ancestor.layers <= len(below) for ancestor in lineage.ancestors):
        return "its manifest lists ancestors that have no layer of sources"
    if previous.settings not in (None, wanted.settings(lineage.labels)):
        return "the image's configuration was changed by another tool"
    if dropped := lineage.labels.keys() - wanted.labels.keys() - GIT_LABELS:
        return f"the label {brief(min(dropped))} is gone, and no layer can take a label away"
    return ""


def unfit(choice: BuildOn, tree: Tree) -> str:
    """Why consumers would disagree about a delta on this image, if they would."""
    replaced = choice.ancestors[-1].replaced_directories
    if returned := sorted(path for path in replaced if tree.is_directory(path)):
        return f"{returned[0]} was a directory once and is one again"
    return ""


def _cheap(farther: BuildOn, nearer: BuildOn, tree: Tree) -> bool:
    return farther.bytes <= 2 * nearer.bytes and not _worse_than_fresh(farther, tree)


def _crowded(choice: BuildOn, wanted: ImageSpec, tree: Tree) -> bool:
    """Whether layers should go, even if that costs more."""
    return bool(
        len(choice.ancestors) >= _PUSHES
        or too_many(choice, wanted)
        or (not wanted.always_reuse and _shadowed(choice, tree))
    )


def too_many(choice: BuildOn, wanted: ImageSpec) -> str:
    """Why there is no room for a layer more, if that is so."""
    if len(choice.layers) < wanted.max_layers:
        return ""
    return f"the image has reached {wanted.max_layers} layers"


def _worse_than_fresh(choice: BuildOn, tree: Tree) -> str:
    if 2 * choice.bytes > tree_bytes(tree):
        return "more than half of the bytes changed"
    return _shadowed(choice, tree)


def _shadowed(choice: BuildOn, tree: Tree) -> str:
    if choice.content > 2 * tree_bytes(tree):
        return "more than half of what the image would hold is out of date"
    return ""
