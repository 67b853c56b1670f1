"""`docker kontext diff`: what a push would change in the tag's image, and what it would upload."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals, parse_flags
from kontext_plugin.cli.options import DIFF, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.delta import Changes, changes_from, diff
from kontext_plugin.errors import DIFFERENT, FAILED, TROUBLE, KontextError, UsageError
from kontext_plugin.image.assembly import Assembly, assemble
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.push.history import resolve
from kontext_plugin.push.messages import builds_on, would_upload
from kontext_plugin.push.options import PushOptions, parse_tagged, shared_options
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.prepare import Prepared, prepare
from kontext_plugin.push.publish import count_upload
from kontext_plugin.push.session import PushSession, open_session
from kontext_plugin.push.stage import stage
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import json_document, line_safe

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse_flags(DIFF, arguments)
    report, as_json = Report(show_debug=flags.debug), parsed.format == "json"
    try:
        if not parsed.tag and len(positional) == 2 and not os.path.exists(positional[1]):
            differs = show_images_diff(parsed, positional, as_json, report)
        else:
            parsed, directories = parse_tagged(DIFF, arguments)
            if len(directories) > 1:
                raise UsageError("give either --tag with one directory, or two images")
            options = shared_options(parsed, [parsed.tag], directories[0] if directories else ".")
            differs = show_diff(options, as_json, report)
    except KontextError as error:
        if parsed.exit_code and error.exit_code == FAILED:
            error.exit_code = TROUBLE  # as in git diff
        raise
    return DIFFERENT if differs and parsed.exit_code else 0


def show_images_diff(
    parsed: Namespace, texts: Sequence[str], as_json: bool, report: Report
) -> bool:
    """Show how the second image differs from the first one; return whether it does.

    Raises KontextError.
    """
    old, new = map(parse_image_reference, texts)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        images = [fetch(crane, requests, resolve(crane, requests, name)) for name in (old, new)]
    changes = diff(*(image.manifest.tree for image in images))
    if as_json:
        document = {
            "from": {"reference": str(old), "digest": images[0].digest},
            "to": {"reference": str(new), "digest": images[1].digest},
            "added": changes.added,
            "changed": changes.changed,
            "removed": changes.removed,
        }
        write_stdout([json_document(document)])
    else:
        write_stdout(lines(changes))
    return bool(changes)


def show_diff(options: PushOptions, as_json: bool, report: Report) -> bool:
    """Show how the directory differs from the tag's image; return whether it does.

    Raises KontextError.
    """
    options = replace(options, dry_run=True)
    tag, cache = options.tags[0], open_cache(read_only=True)
    with open_session(report, cache, insecure=options.insecure, timeout=options.timeout) as session:
        prepared = prepare(session, options)
        plan, found = prepared.plan, prepared.found
        if found.refusal:
            raise KontextError(
                found.refusal.message,
                hint=f"{found.refusal.hint} Some registries also refuse to show an image that does "
                "not exist yet.",
            )
        changes = changes_from(plan.since, plan.tree)
        if not as_json:
            write_stdout(lines(changes))  # before layers are written to be measured
        prepared, assembly = _assemble(session, prepared)
        plan = prepared.plan
        changes = changes_from(plan.since, plan.tree)
        is_shown = not found.tags_to_write(assembly.digest)
        upload = 0 if is_shown else count_upload(session, plan, assembly, tag)
        if not is_shown:
            report.info(builds_on(plan))
        report.info(would_upload(tag, plan, assembly, upload, is_shown=is_shown))
        if as_json:
            document = _document(tag, prepared, changes, assembly, upload)
            write_stdout([json_document(document)])
    return bool(changes)


def lines(changes: Changes) -> list[str]:
    """Return a line for each path in the form of `docker diff`, sorted by path."""
    kinds = (("A", changes.added), ("C", changes.changed), ("D", changes.removed))
    every = sorted((path, kind) for kind, paths in kinds for path in paths)
    return [f"{kind} {line_safe(path)}" for path, kind in every]


def _assemble(session: PushSession, prepared: Prepared) -> tuple[Prepared, Assembly]:
    """Return the image that a push would publish, and of what. Raises KontextError."""
    prepared, layers = stage(session, prepared, directory="")
    if layers is None:
        assert prepared.assembly is not None
        return prepared, prepared.assembly
    plan = prepared.plan
    return prepared, assemble(plan.spec, layers.sources(plan), plan.labels)


def _document(
    tag: Reference, prepared: Prepared, changes: Changes, assembly: Assembly, upload: int
) -> dict[str, object]:
    parent, found = prepared.plan.parent, prepared.found
    return {
        "reference": str(tag),
        "image": found.tag_image.digest if found.tag_image else None,
        "up_to_date": not found.tags_to_write(assembly.digest),
        "new_image": assembly.digest,
        "builds_on": parent.parent.image if isinstance(parent, BuildOn) else None,
        "fresh": parent.reason if isinstance(parent, StartFresh) else None,
        "added": changes.added,
        "changed": changes.changed,
        "removed": changes.removed,
        "upload": upload,
    }
