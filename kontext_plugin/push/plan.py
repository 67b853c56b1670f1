"""Plan the new image from what there is and what is asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from kontext_plugin.delta import (
    Changes,
    FileCounts,
    changes_from,
    count_files,
    replaced_directories,
    reverse_delta,
    tree_bytes,
)
from kontext_plugin.image.assembly import Sources
from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.layer.compression import (
    DEFAULT,
    Compression,
    compression_named,
    compression_of,
)
from kontext_plugin.manifest import Lineage
from kontext_plugin.push.parent import BuildOn, Candidate, Origin, StartFresh, choose
from kontext_plugin.registry.fetch import KontextImage


@dataclass(frozen=True)
class Plan:
    """The image to make: its parent, and what its new layers change."""

    spec: ImageSpec
    parent: BuildOn | StartFresh
    tree: Tree
    changes: Changes  # since the parent
    lineage: Lineage  # `layers` and the ancestors' parts are filled in when layers are written
    # Leads from the tree to that of the tag's image, or else of the candidate, or to nothing.
    since: ReverseDelta
    candidate: Candidate | None = None  # where the parent was found

    @cached_property
    def counts(self) -> FileCounts:
        """How many files differ from the tag's image, as in `since`."""
        return count_files(self.since, self.tree)

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The labels of the new image that are not the base's."""
        if isinstance(self.parent, StartFresh):
            return self.spec.labels_on({}, is_same=False)
        assert self.candidate is not None and self.parent.found.config is not None
        former = self.spec.own_labels(self.parent.found.config.labels)
        # Another repository's image does not say which commit these sources are of.
        is_same = self.parent.is_same and self.candidate.origin is not Origin.FROM
        return self.spec.labels_on(former, is_same=is_same)

    @property
    def found_image(self) -> KontextImage | None:
        """The image that was found, which is the parent or has it as an ancestor."""
        return self.parent.found if isinstance(self.parent, BuildOn) else None

    @property
    def compression(self) -> Compression:
        """What the new layers are compressed with."""
        if self.spec.compression:
            return compression_named(self.spec.compression)
        return compression_of(self.parent_layers[-1].media_type) if self.parent_layers else DEFAULT

    @property
    def parent_layers(self) -> tuple[Layer, ...]:
        """The layers of sources that the new ones go on top of."""
        return self.parent.layers if isinstance(self.parent, BuildOn) else ()

    @property
    def parent_diff_ids(self) -> tuple[Digest, ...]:
        """The diff IDs of these layers."""
        if not isinstance(self.parent, BuildOn):
            return ()
        found = self.parent.found
        assert found.config is not None  # fetched with history
        return found.config.diff_ids[found.height :][: len(self.parent.layers)]

    @property
    def sources(self) -> Sources | None:
        """The layers of sources if there are no new ones; None: new ones must be written."""
        if not (isinstance(self.parent, BuildOn) and self.parent.is_same):
            return None
        image = self.parent.found.image
        assert image.manifest is not None  # found by its annotation
        return Sources(self.parent_layers, self.parent_diff_ids, image.manifest)


def make_plan(
    candidates: Sequence[Candidate], fresh: StartFresh, spec: ImageSpec, tree: Tree
) -> Plan:
    """Plan an image of `tree` on the candidate that takes the fewest bytes, or else fresh.

    Of candidates that cost as much, the first is taken. `fresh` is the reason if there is none.
    """
    choices = [(candidate, choose(candidate.image, spec, tree)) for candidate in candidates]
    usable = [(one, choice) for one, choice in choices if isinstance(choice, BuildOn)]
    if not usable:
        reasons = [choice for _, choice in choices if isinstance(choice, StartFresh)]
        return plan_fresh(next(iter(reasons), fresh), spec, tree)
    candidate, choice = min(usable, key=lambda each: _cost(each[1]))
    parent = choice.parent
    assert parent.reverse_delta is not None
    lineage = Lineage(
        generation=choice.generation,
        content=choice.content,
        ancestors=choice.ancestors,
        replaced_directories=replaced_directories(
            parent.reverse_delta, tree, parent.replaced_directories
        ),
    )
    return Plan(
        spec=spec,
        parent=choice,
        tree=tree,
        changes=choice.changes,
        lineage=choice.found.lineage if choice.is_same else lineage,
        candidate=candidate,
        since=choice.to_found,
    )


def _cost(choice: BuildOn) -> tuple[bool, int, int]:
    """Return what a choice costs: first the bytes of files, then the paths to list anew."""
    return not choice.is_same, choice.bytes, len(choice.to_found.paths())


def plan_fresh(fresh: StartFresh, spec: ImageSpec, tree: Tree) -> Plan:
    """Plan an image of `tree` that builds on no earlier one."""
    everything = ReverseDelta(absent=frozenset(tree.paths()))
    return Plan(
        spec=spec,
        parent=fresh,
        tree=tree,
        changes=changes_from(everything, tree),
        lineage=Lineage(content=tree_bytes(tree)),
        since=everything,
    )


def counted_since(plan: Plan, former: Tree) -> Plan:
    """Return the plan, with changes counted since this tree."""
    return replace(plan, since=reverse_delta(former, plan.tree))
