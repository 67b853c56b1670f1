"""Choose the parent: an image that was found, one of its ancestors, or none. Pure.

Building on an ancestor uploads again what the layers above it hold, and leaves those layers out. A
push reaches down step by step, as long as each step at most doubles the bytes that go up. As with a
binary counter, or Subversion's skip-deltas, n pushes leave some log2(n) layers. Unlike these, the
rule counts bytes: a small edit leaves a large layer where it is. docs/choice.md compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from kontext_plugin.delta import (
    Changes,
    changes_from,
    compose,
    layer_bytes,
    reverse_delta,
    tree_bytes,
)
from kontext_plugin.image.listing import differing
from kontext_plugin.image.oci import Layer
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.layer.compression import GZIP, compression_of, is_known
from kontext_plugin.manifest import Ancestor
from kontext_plugin.registry.fetch import KontextImage

_PUSHES = 15
"""The pushes whose layers an image keeps: 16 layers with the extractor's, or more if the first push
made several (push.partition)."""

_MAX_COUNT = 2**53
"""Pushes and bytes that an image may have had: each push counts on."""

_MAX_STEPS = 2_000_000
"""Paths of the reverse deltas that are composed: those of more ancestors are not looked at."""

_MAX_REVISION = 100  # characters

_SINGLE_LAYER = "--single-layer was given"


class Origin(Enum):
    """Why a push looked at an image. The values are public (docs/commands.md)."""

    TAG = "the tag"
    FROM = "named with --from"
    OWN_PUSH = "a push of this machine"
    COMMIT = "the nearest commit"
    BRANCH = "a branch"


@dataclass(frozen=True)
class Candidate:
    """An image that a push may build on."""

    image: KontextImage
    reference: Reference  # where it was found
    origin: Origin


@dataclass(frozen=True)
class BuildOn:
    """Put a delta on an image that was found or on one of its ancestors: that is the parent."""

    found: KontextImage
    # Of the new image. The last one is the parent; its reverse delta leads there from the new tree.
    ancestors: tuple[Ancestor, ...]
    layers: tuple[Layer, ...]  # of the parent's sources
    changes: Changes  # since the parent: what the new layer holds
    bytes: int  # of the changes (delta.layer_bytes)
    generation: int  # of the new image
    to_found: ReverseDelta  # leads from the new tree to that of the found image
    is_same: bool = False  # the found image has these sources already

    @property
    def parent(self) -> Ancestor:
        """The parent, as the new manifest will list it."""
        return self.ancestors[-1]

    @property
    def content(self) -> int:
        """The new lineage's `content`."""
        return self.parent.content + self.bytes


@dataclass(frozen=True)
class StartFresh:
    """Build on no earlier image."""

    reason: str  # completes "Starting fresh: …"
    is_ordinary: bool = False  # an option asked for it


def choose(found: KontextImage, spec: ImageSpec, tree: Tree) -> BuildOn | StartFresh:
    """Choose the parent of a delta that makes `tree` right for every consumer.

    If the found image has `tree` already, it is the choice, and no layer is needed.
    """
    if reason := mismatch(found, spec):
        return StartFresh(reason)
    if not found.is_cached and has_wrong_sizes(found.manifest.tree, tree):
        return StartFresh("its manifest lists a wrong size")
    candidates = candidates_of(found, tree)
    choice = next(candidates)
    reason = unusable(choice, tree)
    is_current = spec.single_layer or found.image.extractor is not None
    if not choice.changes and is_current and not reason and len(choice.layers) <= spec.room:
        return replace(choice, is_same=True)
    if spec.single_layer:
        return StartFresh(_SINGLE_LAYER)
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


def candidates_of(found: KontextImage, tree: Tree) -> Iterator[BuildOn]:
    """Yield the found image, which has no mismatch, and its ancestors, the nearest first."""
    lineage, sources, config = found.lineage, found.sources, found.config
    assert config is not None  # fetched with history
    to_found = to_parent = reverse_delta(found.manifest.tree, tree)
    chain = (
        *lineage.ancestors,
        Ancestor(
            image=found.digest,
            layers=len(sources),
            generation=lineage.generation,
            content=lineage.content,
            replaced_directories=lineage.replaced_directories,
            reverse_delta=ReverseDelta(),
            created=config.created,
            revision=found.revision[:_MAX_REVISION],
        ),
    )
    steps = 0
    for index in range(len(chain) - 1, -1, -1):
        step = chain[index].reverse_delta
        assert step is not None  # fetched with history
        steps += len(to_parent.paths()) + len(step.paths())
        if steps > _MAX_STEPS and index < len(chain) - 1:
            return
        to_parent = compose(to_parent, step, tree)
        changes = changes_from(to_parent, tree)
        yield BuildOn(
            found=found,
            ancestors=(*chain[:index], replace(chain[index], reverse_delta=to_parent)),
            layers=sources[: chain[index].layers],
            changes=changes,
            bytes=layer_bytes(changes, tree),
            generation=lineage.generation + 1,
            to_found=to_found,
        )


def has_wrong_sizes(found: Tree, tree: Tree) -> bool:
    """Whether a file of both trees with the same content has another size in the found one."""
    return any(
        path in after.sizes and before.files[path] == after.files[path]
        for before, after in differing(found, tree)
        for path, _ in before.sizes.items() - after.sizes.items()
    )


def mismatch(found: KontextImage, spec: ImageSpec) -> str:
    """Return why neither this image nor an ancestor can be the parent; "" if one can."""
    if found.manifest.lineage is None:
        return "the image was made by the 2018 prototype"
    if found.is_single_layer and not spec.single_layer:
        return "the image was pushed with --single-layer"
    if spec.single_layer and not found.is_single_layer:
        return _SINGLE_LAYER
    if not found.is_intact:
        return "another tool changed the image's layers"
    if found.config is None or len(found.config.diff_ids) != len(found.image.layers):
        return "the image's configuration does not list its layers"
    counts = [found.lineage.generation, found.lineage.content]
    counts += [ancestor.content for ancestor in found.lineage.ancestors]
    if max(counts) > _MAX_COUNT:
        return "its manifest counts further than any push"
    if not all(is_known(layer.media_type) for layer in found.sources):
        return "it has layers of another type than a push writes"
    if spec.compression == GZIP.name and any(
        compression_of(layer.media_type) is not GZIP for layer in found.sources
    ):
        return "its layers are not compressed with gzip"
    if spec.trusted is not None and found.sources_key not in spec.trusted:
        return "this machine did not push the image, or not all that it was built on"
    return ""


def unusable(choice: BuildOn, tree: Tree) -> str:
    """Return why consumers would disagree about a delta on this parent; "" if they agree."""
    replaced = choice.parent.replaced_directories
    if returned := sorted(path for path in replaced if tree.is_directory(path)):
        return f"{returned[0]} was a directory once and is a directory again"
    return ""


def too_many_layers(choice: BuildOn, spec: ImageSpec) -> str:
    """Return why there is no room for one more layer; "" if there is."""
    if len(choice.layers) < spec.room:
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
        return "a delta would be more than half of the whole"
    return _obsolete(choice, tree)


def _obsolete(choice: BuildOn, tree: Tree) -> str:
    if choice.content > 2 * tree_bytes(tree):
        return "more than half of the image would be obsolete"
    return ""
