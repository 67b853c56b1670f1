"""What a push tells of itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin.base_choice import Fresh, Previous, Reuse, candidates_of, too_many, unfit
from kontext_plugin.diff import tree_bytes
from kontext_plugin.plan import Plan
from kontext_plugin.reference import Reference
from kontext_plugin.scan import Scan
from kontext_plugin.text import number, size


def scanned(found: Scan) -> str:
    text = f"Scanned {number(found.tree.file_count, 'file')}, {size(found.tree.size)}"
    if found.git:
        more = f" and {len(found.git) - 1} more .git" if len(found.git) > 1 else ""
        text += f"; left out {found.git[0]!r}{more} (--git keeps it)"
    return text


def built_on(tag: Reference, plan: Plan) -> str:
    choice = plan.choice
    if isinstance(choice, Fresh):
        return f"Starting afresh: {choice.reason}"
    text = (
        f"Building on {tag}, generation {choice.ancestors[-1].generation}: "
        f"{number(len(choice.layers), 'layer')}, {size(sum(layer.size for layer in choice.layers))}"
    )
    if above := len(choice.previous.image.layers) - len(choice.layers):
        text += f"; the new layer replaces {'the one' if above == 1 else f'all {above}'} above"
    return text


def would_upload(tag: Reference, plan: Plan, sizes: Sequence[int]) -> str:
    """What a push would do; `sizes` has the compressed bytes of each new layer."""
    if plan.up_to_date:
        return f"Nothing changed: {tag} is up to date, nothing would be uploaded"
    layers = number(len(sizes), "layer") if len(sizes) > 1 else "one layer"
    text = f"Would upload {size(sum(sizes))} in {layers}: "
    if not isinstance(plan.choice, Fresh):
        return text + plan.describe()
    text += f"everything, {number(plan.tree.file_count, 'file')}"
    if plan.wanted.single_layer:
        return text
    return f"{text}; and the base image, if the repository does not have it"


def weighed(previous: Previous, plan: Plan) -> str:
    """All that the push could build on; bytes are those of sources, uncompressed."""
    chosen = plan.choice.image if isinstance(plan.choice, Reuse) else None
    lines = ["Weighed, with what the new layer would hold (uncompressed):"]
    for candidate in candidates_of(previous, plan.tree):
        why_not = unfit(candidate, plan.tree) or too_many(candidate, plan.wanted)
        lines.append(
            f"{'*' if candidate.image == chosen else ' '} "
            f"generation {candidate.ancestors[-1].generation}, "
            f"{number(len(candidate.layers), 'layer')}: "
            f"{size(candidate.bytes)} in {number(len(candidate.changes.written), 'path')}, "
            f"{number(len(candidate.changes.whiteouts), 'whiteout')}"
            + (f"; not possible: {why_not}" if why_not else "")
        )
    lines.append(
        f"{' ' if chosen else '*'} the base alone: {size(tree_bytes(plan.tree))} "
        f"in {number(len(plan.tree.paths()), 'path')}"
    )
    return "\n".join(lines)
