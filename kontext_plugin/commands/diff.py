"""`docker kontext diff`: what a push would change of the tag's image, and what it would upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kontext_plugin import output
from kontext_plugin.base_choice import Fresh, Previous
from kontext_plugin.commands.preparation import Prepared, prepared
from kontext_plugin.commands.push_arguments import Options, shared
from kontext_plugin.commands.push_messages import built_on, would_upload
from kontext_plugin.commands.table import DIFF
from kontext_plugin.diff import Changes, diff
from kontext_plugin.errors import DIFFERENT, FAILED, TROUBLE, KontextError, UsageError
from kontext_plugin.options import Globals, parse
from kontext_plugin.report import Report
from kontext_plugin.tree import Tree
from kontext_plugin.upload import rehearse


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(DIFF, arguments)
    if not parsed.tag:
        raise UsageError("docker: 'docker kontext diff' requires --tag")
    options = shared(parsed, [parsed.tag], positional[0] if positional else ".")
    try:
        differs = tell(options, parsed.format == "json", Report(debug=flags.debug))
    except KontextError as error:
        if parsed.exit_code and error.exit_code == FAILED:
            error.exit_code = TROUBLE  # as git has it
        raise
    return DIFFERENT if differs and parsed.exit_code else 0


def tell(options: Options, as_json: bool, report: Report) -> bool:
    """Says how the directory differs from the tag's image, and whether. Raises KontextError."""
    with prepared(replace(options, dry_run=True, secrets="off"), report) as ready:
        job, plan, previous = ready.job, ready.plan, ready.previous
        if isinstance(previous, Fresh) and previous.refused:
            raise KontextError(
                f"{job.tag.registry} refuses to show {job.tag}",
                hint=f"Run 'docker login {job.tag.registry}' if it wants credentials; some "
                "registries refuse to show what nobody has pushed yet, too.",
            )
        old = previous.manifest.tree if isinstance(previous, Previous) else Tree()
        made = diff(old, ready.found.tree)
        if not as_json:
            output.write(lines(made))  # before layers are written to be measured
        sizes = () if plan.up_to_date else rehearse(job, plan).sizes
        if not plan.up_to_date:
            if isinstance(previous, Previous) and not made:
                report.say("No path differs, and yet a push would publish another image")
            report.say(built_on(job.tag, plan))
        report.say(would_upload(job.tag, plan, sizes))
        if as_json:
            output.write([output.document(_document(ready, made, sum(sizes)))])
    return bool(made)


def lines(made: Changes) -> list[str]:
    """As `docker diff` has them, sorted by path."""
    kinds = (("A", made.added), ("C", made.changed), ("D", made.removed))
    every = sorted((path, kind) for kind, paths in kinds for path in paths)
    return [f"{kind} {output.name(path)}" for path, kind in every]


def _document(ready: Prepared, made: Changes, upload: int) -> dict[str, object]:
    choice, previous = ready.plan.choice, ready.previous
    return {
        "reference": str(ready.job.tag),
        "image": previous.image.digest if isinstance(previous, Previous) else None,
        "up_to_date": ready.plan.up_to_date,
        "builds_on": None if isinstance(choice, Fresh) else choice.image,
        "fresh": choice.reason if isinstance(choice, Fresh) else None,
        "added": made.added,
        "changed": made.changed,
        "removed": made.removed,
        "upload": upload,
    }
