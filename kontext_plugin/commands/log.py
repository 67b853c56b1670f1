"""`docker kontext log`: list the generations of an image."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import LOG, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.push.history import Generation, generations, records_of, resolve
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import aligned, json_array, line_safe, size

_DIGITS = 12
"""Of a digest or a commit: enough to name it, as docker has it."""


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text,) = parse(LOG, arguments)
    name = parse_image_reference(text)
    report = Report(show_debug=flags.debug)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        name = resolve(crane, requests, name)
        image = fetch(crane, requests, name, with_history=True)
    found = generations(image, name, records_of(name))
    write_stdout((as_json if parsed.format == "json" else lines)(name, found))
    return 0


def lines(name: Reference, found: Sequence[Generation]) -> Iterator[str]:
    """Yield a table, the newest generation first."""
    titles = ("NAME", "GENERATION", "DIGEST", "WHEN", "COMMIT", "FILES", "SIZE")
    yield from aligned([titles, *(_row(name, one) for one in found)])


def as_json(name: Reference, found: Sequence[Generation]) -> Iterator[str]:
    """Yield the lines of --format json (docs/commands.md)."""
    return json_array(_document(name, one) for one in found)


def _row(name: Reference, one: Generation) -> tuple[str, ...]:
    counts = one.counts
    changes = f"+{counts.added:,} ~{counts.changed:,} -{counts.removed:,}" if counts else "-"
    return (
        (f"~{one.back}" if one.back else str(name)) if one.back is not None else "-",
        str(one.number),
        _short(one.digest, len("sha256:")),
        line_safe(one.time) or "-",
        _short(line_safe(one.revision)) or "-",
        changes,
        size(one.bytes) if one.bytes is not None else "-",
    )


def _short(text: str, prefix: int = 0) -> str:
    """Return the first 12 digits on a terminal, all of them in a pipe."""
    return text[: prefix + _DIGITS] if sys.stdout.isatty() else text


def _document(name: Reference, one: Generation) -> dict[str, Any]:
    counts = one.counts
    return {
        "generation": one.number,
        "digest": one.digest,
        "reference": name.at(one.digest),
        "back": one.back,
        "time": one.time or None,
        "revision": one.revision or None,
        "added": counts.added if counts else None,
        "changed": counts.changed if counts else None,
        "removed": counts.removed if counts else None,
        "bytes": one.bytes,
    }
