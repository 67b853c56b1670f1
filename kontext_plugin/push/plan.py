"""Plan the new image from what there is and what is asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kontext_plugin.delta import Changes, changes_from, replaced_directories, tree_bytes
from kontext_plugin.image.oci import Layer
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import Lineage
from kontext_plugin.push.parent import BuildOn, StartFresh, choose, lineage_of, without_ancestor
from kontext_plugin.registry.fetch import KontextImage


@dataclass(frozen=True)
class Plan:
    """The image to make: its parent, and what its new layers change."""

    spec: ImageSpec
    parent: BuildOn | StartFresh
    tree: Tree
    changes: Changes  # since the parent
    to_tag: ReverseDelta  # leads from the tree to that of the tag's image, or to nothing
    lineage: Lineage  # `layers` and the ancestors' parts are filled in when layers are written

    @property
    def is_up_to_date(self) -> bool:
        """Whether the image under the tag is the wanted one already."""
        return isinstance(self.parent, BuildOn) and self.parent.is_up_to_date

    @property
    def parent_layers(self) -> tuple[Layer, ...]:
        """The layers that the new ones go on top of."""
        return self.parent.layers if isinstance(self.parent, BuildOn) else self.spec.base.layers


def make_plan(tag_image: KontextImage | StartFresh, spec: ImageSpec, tree: Tree) -> Plan:
    """Plan an image of `tree`, on the image under the tag or fresh."""
    if isinstance(tag_image, StartFresh):
        return plan_fresh(tag_image, spec, tree)
    choice = choose(tag_image, spec, tree)
    if isinstance(choice, StartFresh):
        return plan_fresh(choice, spec, tree)
    parent = choice.parent
    assert parent.reverse_delta is not None
    lineage = Lineage(
        base=spec.base.image.digest,
        extractor=spec.base.extractor,
        platform=spec.platform,
        generation=choice.generation,
        content=choice.content,
        ancestors=choice.ancestors,
        labels=spec.labels_on(lineage_of(tag_image).labels),
        replaced_directories=replaced_directories(
            parent.reverse_delta, tree, parent.replaced_directories
        ),
    )
    return Plan(spec, choice, tree, choice.changes, choice.to_tag, lineage)


def plan_fresh(fresh: StartFresh, spec: ImageSpec, tree: Tree) -> Plan:
    """Plan an image of `tree` that builds on no earlier one."""
    everything = ReverseDelta(absent=frozenset(tree.paths()))
    lineage = Lineage(
        base=spec.base.image.digest,
        extractor=spec.base.extractor,
        platform=spec.platform,
        content=tree_bytes(tree),
        labels=spec.labels_on({}),
    )
    return Plan(spec, fresh, tree, changes_from(everything, tree), everything, lineage)


def plan_without_ancestor(plan: Plan, choice: BuildOn) -> Plan:
    """Plan again where the registry does not have the chosen ancestor."""
    return make_plan(without_ancestor(choice), plan.spec, plan.tree)
