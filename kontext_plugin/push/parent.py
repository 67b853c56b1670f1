"""Choose the parent: the image under the tag, one of its ancestors, or none. Pure.

Building on an ancestor uploads again what the layers above it hold, and leaves those layers out. A
push reaches down step by step, as long as each step at most doubles the bytes that go up. As with a
binary counter, or Subversion's skip-deltas, n pushes leave some log2(n) layers. Unlike these, the
rule counts bytes: a small edit leaves a large layer where it is. docs/choice.md compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kontext_plugin.delta import (
    Changes,
    changes_from,
    compose,
    layer_bytes,
    reverse_delta,
    tree_bytes,
)
from kontext_plugin.errors import brief
from kontext_plugin.image.oci import Layer
from kontext_plugin.image.spec import GIT_LABELS, ImageSpec
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import Ancestor, Lineage
from kontext_plugin.registry.fetch import KontextImage

_PUSHES = 15
"""The pushes whose layers an image keeps: 16 layers with the base, or more if the first push made
several (push.partition)."""

_SINGLE_LAYER = "--single-layer was given"


@dataclass(frozen=True)
class BuildOn:
    """Put a delta on the tag's image or on one of its ancestors: that is the parent."""

    tag_image: KontextImage
    # Of the new image. The last one is the parent; its reverse delta leads there from the new tree.
    ancestors: tuple[Ancestor, ...]
    layers: tuple[Layer, ...]  # of the parent
    changes: Changes  # since the parent: what the new layer holds
    bytes: int  # of the changes (delta.layer_bytes)
    generation: int  # of the new image
    to_tag: ReverseDelta  # leads from the new tree to that of the tag's image
    is_up_to_date: bool = False  # the tag's image is as wanted already

    @property
    def parent(self) -> Ancestor:
        """The parent, as the new manifest will list it."""
        return self.ancestors[-1]

    @property
    def is_ancestor(self) -> bool:
        """Whether the parent is not the tag's image itself."""
        return len(self.layers) < len(self.tag_image.image.layers)

    @property
    def content(self) -> int:
        """The new lineage's `content`."""
        return self.parent.content + self.bytes


@dataclass(frozen=True)
class StartFresh:
    """Build on no earlier image."""

    reason: str  # completes "Starting fresh: …"
    is_ordinary: bool = False  # a first push, or an option asked for it
    is_refused: bool = False  # the registry does not say whether there is an image


def choose(tag_image: KontextImage, spec: ImageSpec, tree: Tree) -> BuildOn | StartFresh:
    """Choose the parent of a delta that makes `tree` right for every consumer.

    If the tag's image has `tree` and is as `spec` says, it is the choice, up to date.
    """
    if reason := mismatch(tag_image, spec):
        return StartFresh(reason)
    candidates = candidates_of(tag_image, tree)
    choice = next(candidates)
    is_same = not (choice.changes or spec.changes_labels(lineage_of(tag_image).labels))
    if is_same and len(tag_image.image.layers) <= spec.max_layers:
        return replace(choice, is_up_to_date=True)
    if spec.base.single_layer:
        return StartFresh(_SINGLE_LAYER)
    reason = unusable(choice, tree)
    for farther in candidates:
        if unusable(farther, tree):
            continue
        if not (reason or _is_crowded(choice, spec, tree) or _is_cheap(farther, choice, tree)):
            break
        choice, reason = farther, ""
    if reason := reason or too_many_layers(choice, spec):
        return StartFresh(reason)
    if not spec.always_reuse and (reason := _worse_than_fresh(choice, tree)):
        return StartFresh(reason)
    return choice


def candidates_of(tag_image: KontextImage, tree: Tree) -> Iterator[BuildOn]:
    """Yield the tag's image, which has no mismatch, and its ancestors, the nearest first."""
    image, lineage = tag_image.image, lineage_of(tag_image)
    to_tag = to_parent = reverse_delta(tag_image.manifest.tree, tree)
    chain = (
        *lineage.ancestors,
        Ancestor(
            image=image.digest,
            layers=len(image.layers),
            generation=lineage.generation,
            content=lineage.content,
            replaced_directories=lineage.replaced_directories,
            reverse_delta=ReverseDelta(),
        ),
    )
    for index in range(len(chain) - 1, -1, -1):
        step = chain[index].reverse_delta
        assert step is not None  # fetched with history
        to_parent = compose(to_parent, step, tree)
        changes = changes_from(to_parent, tree)
        yield BuildOn(
            tag_image=tag_image,
            ancestors=(*chain[:index], replace(chain[index], reverse_delta=to_parent)),
            layers=image.layers[: chain[index].layers],
            changes=changes,
            bytes=layer_bytes(changes, tree),
            generation=lineage.generation + 1,
            to_tag=to_tag,
        )


def without_ancestor(choice: BuildOn) -> KontextImage:
    """Return the tag's image without the chosen ancestor, which the registry does not have.

    Nor does it have those that are older.
    """
    lineage = lineage_of(choice.tag_image)
    rest = replace(lineage, ancestors=lineage.ancestors[len(choice.ancestors) :])
    manifest = replace(choice.tag_image.manifest, lineage=rest)
    return replace(choice.tag_image, manifest=manifest)


def lineage_of(image: KontextImage) -> Lineage:
    """Return the lineage of an image that has no mismatch."""
    assert image.manifest.lineage is not None
    return image.manifest.lineage


def mismatch(tag_image: KontextImage, spec: ImageSpec) -> str:
    """Return why neither this image nor an ancestor can be the parent; "" if one can."""
    lineage = tag_image.manifest.lineage
    if lineage is None:
        return "the image was made by the 2018 prototype"
    if not lineage.layers and not spec.base.single_layer:
        return "the image was pushed with --single-layer"
    if lineage.layers and spec.base.single_layer:
        return _SINGLE_LAYER
    if lineage.platform != spec.platform:
        return f"the image is for {lineage.platform}, not {spec.platform}"
    if lineage.extractor != spec.base.extractor:
        return "the image was made with another version of the extractor"
    if lineage.base != spec.base.image.digest:
        return "the image has another base"
    layers = [layer.digest for layer in tag_image.image.layers]
    base_layers = [layer.digest for layer in spec.base.layers]
    if list(lineage.layers) != layers[:-1] or layers[: len(base_layers)] != base_layers:
        return "another tool changed the image's layers"
    if any(ancestor.layers <= len(base_layers) for ancestor in lineage.ancestors):
        return "its manifest lists ancestors without a layer of sources"
    if tag_image.config != spec.config.with_labels(lineage.labels):
        return "another tool changed the image's configuration"
    if dropped := lineage.labels.keys() - spec.labels.keys() - GIT_LABELS:
        return f"the label {brief(min(dropped))} was dropped, and no layer can remove a label"
    return ""


def unusable(choice: BuildOn, tree: Tree) -> str:
    """Return why consumers would disagree about a delta on this parent; "" if they agree."""
    replaced = choice.parent.replaced_directories
    if returned := sorted(path for path in replaced if tree.is_directory(path)):
        return f"{returned[0]} was a directory once and is a directory again"
    return ""


def too_many_layers(choice: BuildOn, spec: ImageSpec) -> str:
    """Return why there is no room for one more layer; "" if there is."""
    if len(choice.layers) < spec.max_layers:
        return ""
    return f"the image has reached {spec.max_layers} layers"


def _is_cheap(farther: BuildOn, nearer: BuildOn, tree: Tree) -> bool:
    return farther.bytes <= 2 * nearer.bytes and not _worse_than_fresh(farther, tree)


def _is_crowded(choice: BuildOn, spec: ImageSpec, tree: Tree) -> bool:
    """Whether layers should go, even if that costs more."""
    return bool(
        len(choice.ancestors) >= _PUSHES
        or too_many_layers(choice, spec)
        or (not spec.always_reuse and _obsolete(choice, tree))
    )


def _worse_than_fresh(choice: BuildOn, tree: Tree) -> str:
    if 2 * choice.bytes > tree_bytes(tree):
        return "more than half of the bytes changed"
    return _obsolete(choice, tree)


def _obsolete(choice: BuildOn, tree: Tree) -> str:
    if choice.content > 2 * tree_bytes(tree):
        return "more than half of the image would be obsolete"
    return ""
