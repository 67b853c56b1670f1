"""`docker kontext log`: list the generations of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import LOG, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.push.history import Generation, generations, records_of, resolve
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report, stdout_room, write_stdout
from kontext_plugin.terminal.table import Column, Room, short, table
from kontext_plugin.terminal.text import json_array, line_safe, size

_COLUMNS = (
    Column("NAME", least=9),
    Column("GENERATION", drop=5),  # NAME says as much
    Column("DIGEST", drop=1),
    Column("WHEN"),
    Column("COMMIT", drop=4),
    Column("FILES", drop=2),
    Column("SIZE", drop=3),
)


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text,) = parse(LOG, arguments)
    name = parse_image_reference(text)
    report = Report(show_debug=flags.debug)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        name = resolve(crane, requests, name)
        image = fetch(crane, requests, name, with_history=True)
    found = generations(image, name, records_of(name))
    if parsed.format == "json":
        write_stdout(as_json(name, found))
    else:
        write_stdout(lines(name, found, stdout_room()))
    return 0


def lines(name: Reference, found: Sequence[Generation], room: Room) -> Iterator[str]:
    """Yield a table, the newest generation first."""
    return table(_COLUMNS, [_row(name, one, room) for one in found], room)


def as_json(name: Reference, found: Sequence[Generation]) -> Iterator[str]:
    """Yield the lines of --format json (docs/commands.md)."""
    return json_array(_document(name, one) for one in found)


def _row(name: Reference, one: Generation, room: Room) -> tuple[str, ...]:
    counts = one.counts
    changes = f"+{counts.added:,} ~{counts.changed:,} -{counts.removed:,}" if counts else "-"
    return (
        (f"~{one.back}" if one.back else str(name)) if one.back is not None else "-",
        str(one.number),
        short(one.digest, room),
        line_safe(one.time) or "-",
        short(line_safe(one.revision), room) or "-",
        changes,
        size(one.bytes) if one.bytes is not None else "-",
    )


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
