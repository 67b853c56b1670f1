"""What a push will make, decided from what there is and what is wanted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kontext_plugin import manifest
from kontext_plugin.base_choice import Fresh, Previous, Reuse, Wanted, choose
from kontext_plugin.diff import Changes, diff, replaced_directories
from kontext_plugin.image import Layer
from kontext_plugin.manifest import Lineage, Manifest, Tree


@dataclass(frozen=True)
class Plan:
    """The image to be made: what it is built on, what its new layer changes, what it holds."""

    choice: Reuse | Fresh
    changes: Changes
    tree: Tree
    lineage: Lineage

    @property
    def up_to_date(self) -> bool:
        """Whether the image that would be built on is the wanted one already."""
        return (
            isinstance(self.choice, Reuse)
            and not self.changes
            and self.choice.lineage.labels == self.lineage.labels
        )

    @property
    def old(self) -> Tree:
        """What the image that is built on holds."""
        return self.choice.previous.manifest.tree if isinstance(self.choice, Reuse) else Tree()

    def manifest(self) -> bytes:
        return manifest.encode(Manifest(self.tree, self.lineage))

    def describe(self) -> str:
        """How many files are added, changed and removed; directories do not count as files."""
        counts = (
            (sum(not self.tree.is_directory(path) for path in self.changes.added), "added"),
            (sum(not self.tree.is_directory(path) for path in self.changes.changed), "changed"),
            (sum(not self.old.is_directory(path) for path in self.changes.removed), "removed"),
        )
        parts = [f"{count:,} {what}" for count, what in counts if count]
        return ", ".join(parts) or ("directories alone" if self.changes else "no files")


def make_plan(
    previous: Previous | Fresh, wanted: Wanted, below: Sequence[Layer], tree: Tree
) -> Plan:
    """`below` is what lies under the first layer with sources, if it has to be a fresh start."""
    choice = previous if isinstance(previous, Fresh) else choose(previous, wanted, tree)
    if isinstance(choice, Fresh):
        lineage = Lineage(
            base=wanted.base,
            extractor=wanted.extractor,
            platform=wanted.platform,
            layers=tuple(layer.digest for layer in below),
            labels=wanted.labels,
        )
        return Plan(choice, diff(Tree(), tree), tree, lineage)
    old = choice.previous.manifest.tree
    lineage = replace(
        choice.lineage,
        generation=choice.lineage.generation + 1,
        layers=tuple(layer.digest for layer in choice.previous.image.layers),
        labels=wanted.labels,
        replaced_directories=replaced_directories(old, tree, choice.lineage.replaced_directories),
    )
    return Plan(choice, diff(old, tree), tree, lineage)
