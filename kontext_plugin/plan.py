"""What a push will make, decided from what there is and what is wanted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from kontext_plugin import manifest
from kontext_plugin.base_choice import Fresh, Previous, Reuse, Wanted, choose, without
from kontext_plugin.diff import Changes, diff, replaced_directories, tree_bytes
from kontext_plugin.manifest import Lineage, Manifest
from kontext_plugin.tree import Tree, Undo


@dataclass(frozen=True)
class Plan:
    """The image to be made: what it is built on, what its new layer changes, what it holds."""

    wanted: Wanted
    choice: Reuse | Fresh
    changes: Changes
    tree: Tree
    lineage: Lineage
    since: Undo  # leads from the tree to the previous image's, or to nothing

    @property
    def up_to_date(self) -> bool:
        """Whether the image under the tag is the wanted one already."""
        return isinstance(self.choice, Reuse) and self.choice.up_to_date

    @cached_property
    def manifest(self) -> bytes:
        return manifest.encode(Manifest(self.tree, self.lineage))

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
        nothing = "no files" if isinstance(self.choice, Fresh) else "the labels alone"
        return ", ".join(parts) or ("directories alone" if self.since else nothing)


def make_plan(previous: Previous | Fresh, wanted: Wanted, tree: Tree) -> Plan:
    choice = previous if isinstance(previous, Fresh) else choose(previous, wanted, tree)
    if isinstance(choice, Fresh):
        everything = diff(Tree(), tree)
        lineage = Lineage(
            base=wanted.base,
            extractor=wanted.extractor,
            platform=wanted.platform,
            content=tree_bytes(tree),
            layers=tuple(layer.digest for layer in wanted.below),
            labels=wanted.labels,
        )
        return Plan(
            wanted, choice, everything, tree, lineage, Undo(absent=frozenset(everything.added))
        )
    upon = choice.ancestors[-1]
    lineage = Lineage(
        base=wanted.base,
        extractor=wanted.extractor,
        platform=wanted.platform,
        generation=choice.generation,
        content=choice.content,
        layers=tuple(layer.digest for layer in choice.layers),
        ancestors=choice.ancestors,
        labels=wanted.labels,
        replaced_directories=replaced_directories(upon.undo, tree, upon.replaced_directories),
    )
    return Plan(wanted, choice, choice.changes, tree, lineage, choice.since)


def plan_without(plan: Plan, choice: Reuse) -> Plan:
    """The plan for when the ancestor of `choice` cannot be had."""
    return make_plan(without(choice), plan.wanted, plan.tree)


def plan_afresh(plan: Plan, reason: str) -> Plan:
    """The plan for when nothing can be built on."""
    return make_plan(Fresh(reason), plan.wanted, plan.tree)
