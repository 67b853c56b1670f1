"""`docker kontext diff`: what a push would change in the tag's image, and what it would upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals, check_arguments, parse_flags
from kontext_plugin.cli.options import DIFF
from kontext_plugin.delta import Changes, diff
from kontext_plugin.errors import DIFFERENT, FAILED, TROUBLE, KontextError
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.tree import Tree
from kontext_plugin.push.messages import builds_on, would_upload
from kontext_plugin.push.options import PushOptions, missing_tag, shared_options
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.prepare import Prepared, PushSession, open_session, prepare
from kontext_plugin.push.publish import stage_layers
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import json_document, line_safe


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse_flags(DIFF, arguments)
    if not parsed.tag:  # before the arguments are counted: one of them may be the tag
        raise missing_tag("diff", positional)
    check_arguments(DIFF, positional)
    options = shared_options(parsed, [parsed.tag], positional[0] if positional else ".")
    try:
        differs = show_diff(options, parsed.format == "json", Report(show_debug=flags.debug))
    except KontextError as error:
        if parsed.exit_code and error.exit_code == FAILED:
            error.exit_code = TROUBLE  # as in git diff
        raise
    return DIFFERENT if differs and parsed.exit_code else 0


def show_diff(options: PushOptions, as_json: bool, report: Report) -> bool:
    """Show how the directory differs from the tag's image; return whether it does.

    Raises KontextError.
    """
    options = replace(options, dry_run=True)
    tag, cache = options.tags[0], open_cache(read_only=True)
    with open_session(report, cache, insecure=options.insecure, timeout=options.timeout) as session:
        prepared = prepare(session, options)
        tag_image = prepared.tag_image
        if isinstance(tag_image, StartFresh) and tag_image.is_refused:
            raise KontextError(
                f"{tag.registry} refuses to show {tag}",
                hint=f"Run 'docker login {tag.registry}' if it needs credentials. Some registries "
                "also refuse if the image does not exist yet.",
            )
        old = tag_image.manifest.tree if isinstance(tag_image, KontextImage) else Tree()
        changes = diff(old, prepared.scan.tree)
        if not as_json:
            write_stdout(lines(changes))  # before layers are written to be measured
        sizes = _upload_sizes(session, prepared)
        if sizes:
            if isinstance(tag_image, KontextImage) and not changes:
                report.info(
                    "No path differs, but a push would publish a new image (other labels or "
                    "options)"
                )
            report.info(builds_on(tag, prepared.plan))
        report.info(would_upload(tag, prepared.plan, sizes))
        if as_json:
            write_stdout([json_document(_document(tag, prepared, changes, sum(sizes)))])
    return bool(changes)


def lines(changes: Changes) -> list[str]:
    """Return a line for each path in the form of `docker diff`, sorted by path."""
    kinds = (("A", changes.added), ("C", changes.changed), ("D", changes.removed))
    every = sorted((path, kind) for kind, paths in kinds for path in paths)
    return [f"{kind} {line_safe(path)}" for path, kind in every]


def _upload_sizes(session: PushSession, prepared: Prepared) -> tuple[int, ...]:
    """Return the compressed bytes of each layer that a push would upload."""
    if prepared.partition is None:
        return ()
    layers = stage_layers(
        session,
        prepared.source.root,
        prepared.plan,
        prepared.partition,
        directory="",
        scan_secrets=False,
    )
    return layers.sizes


def _document(
    tag: Reference, prepared: Prepared, changes: Changes, upload: int
) -> dict[str, object]:
    parent, tag_image = prepared.plan.parent, prepared.tag_image
    return {
        "reference": str(tag),
        "image": tag_image.image.digest if isinstance(tag_image, KontextImage) else None,
        "up_to_date": prepared.plan.is_up_to_date,
        "builds_on": parent.parent.image if isinstance(parent, BuildOn) else None,
        "fresh": parent.reason if isinstance(parent, StartFresh) else None,
        "added": changes.added,
        "changed": changes.changed,
        "removed": changes.removed,
        "upload": upload,
    }
