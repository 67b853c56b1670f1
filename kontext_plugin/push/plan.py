"""What a push will make, decided from what there is and what is wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from kontext_plugin import manifest
from kontext_plugin.delta import Changes, changes_of, replaced_directories, tree_bytes
from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import Ancestor, Lineage, Manifest
from kontext_plugin.push.parent import BuildOn, StartFresh, choose, lineage_of, without
from kontext_plugin.push.partition import (
    PartitionedListing,
    layer_chunks,
    partition_listing,
    partition_reverse_deltas,
)
from kontext_plugin.registry.fetch import KontextImage


@dataclass(frozen=True)
class _Partition:
    lower: tuple[tuple[str, ...], ...]
    written: tuple[str, ...]
    listing: PartitionedListing
    ancestors: tuple[Ancestor, ...]
    undos: Mapping[str, bytes]


@dataclass(frozen=True)
class Plan:
    """The image to be made: what it is built on, what its new layers hold."""

    wanted: ImageSpec
    choice: BuildOn | StartFresh
    changes: Changes
    tree: Tree
    lineage: Lineage  # its `layers` come when these are written
    since: ReverseDelta  # leads from the tree to the previous image's, or to nothing

    @property
    def up_to_date(self) -> bool:
        """Whether the image under the tag is the wanted one already."""
        return isinstance(self.choice, BuildOn) and self.choice.up_to_date

    @property
    def beneath(self) -> tuple[Layer, ...]:
        """The layers that are there already."""
        return self.wanted.below if isinstance(self.choice, StartFresh) else self.choice.layers

    @property
    def lower(self) -> tuple[tuple[str, ...], ...]:
        """The paths of each layer below the one with the manifest, if there are several."""
        return self._division.lower

    @property
    def written(self) -> tuple[str, ...]:
        """The paths in the layer with the manifest."""
        return self._division.written

    @property
    def documents(self) -> Mapping[str, bytes]:
        """What that layer has beside manifest.json, by their names in the image."""
        return {**self._division.listing.documents, **self._division.undos}

    def manifest(self, layers: Iterable[Digest]) -> Manifest:
        """The new manifest, in a layer upon these."""
        made = self._division
        lineage = replace(self.lineage, layers=tuple(layers), ancestors=made.ancestors)
        return Manifest(self.tree, lineage, made.listing.parts)

    @cached_property
    def manifest_bytes(self) -> int:
        """What the documents come to that are to be written."""
        root = manifest.encode(self.manifest(layer.digest for layer in self.beneath))
        return len(root) + sum(map(len, self.documents.values()))

    @cached_property
    def _division(self) -> _Partition:
        below = len(self.beneath)
        if isinstance(self.choice, BuildOn):
            former = self.choice.previous.manifest
            listing = partition_listing(former, self.tree, self.since.paths(), below)
            ancestors, undos = partition_reverse_deltas(former, self.lineage.ancestors, below)
            return _Partition((), self.changes.written, listing, ancestors, undos)
        # Half of the layers at most, lest there be no room for deltas.
        most = 1 if self.wanted.single_layer else (self.wanted.max_layers - below) // 2
        layers = layer_chunks(self.tree, most)
        lower, written = (tuple(layers), ()) if len(layers) > 1 else ((), layers[0])
        listing = partition_listing(None, self.tree, (), below + len(lower))
        return _Partition(lower, written, listing, (), {})

    def describe(self) -> str:
        """How many files were added, changed and removed; directories do not count as files."""
        tree, former = self.tree, self.since.former
        added = (path for path in self.since.absent if not tree.is_directory(path))
        changed = (path for path in former.paths() if path in tree and not tree.is_directory(path))
        removed = (
            path for path in former.paths() if path not in tree and not former.is_directory(path)
        )
        counts = (
            (sum(1 for _ in paths), what)
            for paths, what in ((added, "added"), (changed, "changed"), (removed, "removed"))
        )
        parts = [f"{count:,} {what}" for count, what in counts if count]
        nothing = "no files" if isinstance(self.choice, StartFresh) else "the labels alone"
        return ", ".join(parts) or ("directories alone" if self.since else nothing)


def make_plan(previous: KontextImage | StartFresh, wanted: ImageSpec, tree: Tree) -> Plan:
    choice = previous if isinstance(previous, StartFresh) else choose(previous, wanted, tree)
    if isinstance(choice, StartFresh):
        everything = ReverseDelta(absent=frozenset(tree.paths()))
        lineage = Lineage(
            base=wanted.base,
            extractor=wanted.extractor,
            platform=wanted.platform,
            content=tree_bytes(tree),
            labels=wanted.labels_upon({}),
        )
        return Plan(wanted, choice, changes_of(everything, tree), tree, lineage, everything)
    upon = choice.ancestors[-1]
    lineage = Lineage(
        base=wanted.base,
        extractor=wanted.extractor,
        platform=wanted.platform,
        generation=choice.generation,
        content=choice.content,
        ancestors=choice.ancestors,
        labels=wanted.labels_upon(lineage_of(choice.previous).labels),
        replaced_directories=replaced_directories(upon.undo, tree, upon.replaced_directories),
    )
    return Plan(wanted, choice, choice.changes, tree, lineage, choice.since)


def plan_without(plan: Plan, choice: BuildOn) -> Plan:
    """The plan for when the ancestor of `choice` cannot be had."""
    return make_plan(without(choice), plan.wanted, plan.tree)


def plan_afresh(plan: Plan, reason: str) -> Plan:
    """The plan for when nothing can be built on."""
    return make_plan(StartFresh(reason), plan.wanted, plan.tree)
