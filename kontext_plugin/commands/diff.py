"""`docker kontext diff`: what a push would change of the tag's image, and what it would upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import DIFF
from kontext_plugin.delta import Changes, diff
from kontext_plugin.errors import DIFFERENT, FAILED, TROUBLE, KontextError, UsageError
from kontext_plugin.image.tree import Tree
from kontext_plugin.push.messages import built_on, would_upload
from kontext_plugin.push.options import PushOptions, shared_options
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.push.prepare import Prepared, prepare
from kontext_plugin.push.publish import stage_nowhere
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import json_document, line_safe


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(DIFF, arguments)
    if not parsed.tag:
        raise UsageError("docker: 'docker kontext diff' requires --tag")
    options = shared_options(parsed, [parsed.tag], positional[0] if positional else ".")
    try:
        differs = tell(options, parsed.format == "json", Report(show_debug=flags.debug))
    except KontextError as error:
        if parsed.exit_code and error.exit_code == FAILED:
            error.exit_code = TROUBLE  # as git has it
        raise
    return DIFFERENT if differs and parsed.exit_code else 0


def tell(options: PushOptions, as_json: bool, report: Report) -> bool:
    """Says how the directory differs from the tag's image, and whether. Raises KontextError."""
    with prepare(replace(options, dry_run=True, secrets="off"), report) as ready:
        job, plan, previous = ready.job, ready.plan, ready.previous
        if isinstance(previous, StartFresh) and previous.refused:
            raise KontextError(
                f"{job.tag.registry} refuses to show {job.tag}",
                hint=f"Run 'docker login {job.tag.registry}' if it wants credentials; some "
                "registries refuse to show what nobody has pushed yet, too.",
            )
        old = previous.manifest.tree if isinstance(previous, KontextImage) else Tree()
        made = diff(old, ready.found.tree)
        if not as_json:
            write_stdout(lines(made))  # before layers are written to be measured
        sizes = () if plan.up_to_date else stage_nowhere(job, plan).sizes
        if not plan.up_to_date:
            if isinstance(previous, KontextImage) and not made:
                report.info("No path differs, and yet a push would publish another image")
            report.info(built_on(job.tag, plan))
        report.info(would_upload(job.tag, plan, sizes))
        if as_json:
            write_stdout([json_document(_document(ready, made, sum(sizes)))])
    return bool(made)


def lines(made: Changes) -> list[str]:
    """As `docker diff` has them, sorted by path."""
    kinds = (("A", made.added), ("C", made.changed), ("D", made.removed))
    every = sorted((path, kind) for kind, paths in kinds for path in paths)
    return [f"{kind} {line_safe(path)}" for path, kind in every]


def _document(ready: Prepared, made: Changes, upload: int) -> dict[str, object]:
    choice, previous = ready.plan.choice, ready.previous
    return {
        "reference": str(ready.job.tag),
        "image": previous.image.digest if isinstance(previous, KontextImage) else None,
        "up_to_date": ready.plan.up_to_date,
        "builds_on": None if isinstance(choice, StartFresh) else choice.image,
        "fresh": choice.reason if isinstance(choice, StartFresh) else None,
        "added": made.added,
        "changed": made.changed,
        "removed": made.removed,
        "upload": upload,
    }
