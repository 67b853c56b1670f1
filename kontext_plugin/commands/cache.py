"""`docker kontext cache`: show what the cache holds (`ls`), or empty it (`prune`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone

from kontext_plugin.cache import Cache, CacheEntry, open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import CACHE
from kontext_plugin.errors import UsageError
from kontext_plugin.terminal.messages import Report, stdout_room, write_stdout
from kontext_plugin.terminal.table import Column, Room, short, table
from kontext_plugin.terminal.text import ago, json_document, line_safe, number, size

_KINDS = {
    "stats": "directory",
    "published": "image",
    "pushed": "pushes",
    "layers": "layers",
    "scratch": "temporary",
}
"""What a person reads, and what JSON has (docs/commands.md), for each kind of entry."""

_COLUMNS = (
    Column("KIND"),
    Column("SIZE", drop=1),
    Column("SAVED", drop=2),
    Column("OF", least=20),
)


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (verb,) = parse(CACHE, arguments)
    report = Report(show_debug=flags.debug)
    cache = open_cache(read_only=True)
    if verb == "ls":
        _show(cache, parsed.format == "json", report)
    elif parsed.format:
        raise UsageError("unknown flag: --format", hint="Only 'cache ls' has this flag.")
    else:
        report.info(f"Freed {size(cache.prune())} in {cache.root or 'no cache'}")
    return 0


def _show(cache: Cache, as_json: bool, report: Report) -> None:
    entries = sorted(cache.entries(), key=lambda entry: entry.saved, reverse=True)
    if as_json:
        document = {"folder": cache.root, "entries": [_document(entry) for entry in entries]}
        write_stdout([json_document(document)])
        return
    if entries:
        now, room = time.time(), stdout_room()
        write_stdout(table(_COLUMNS, [_row(entry, now, room) for entry in entries], room))
    total = size(sum(entry.size for entry in entries))
    report.info(f"{number(len(entries), 'record')}, {total} in {cache.root or 'no cache'}")


def _document(entry: CacheEntry) -> dict[str, object]:
    saved = datetime.fromtimestamp(entry.saved, timezone.utc)
    return {
        "kind": _KINDS[entry.kind],
        "of": entry.key or None,
        "bytes": entry.size,
        "saved": saved.isoformat(timespec="seconds"),
    }


def _row(entry: CacheEntry, now: float, room: Room) -> tuple[str, str, str, str]:
    name, at, digest = entry.key.partition("@sha256:")
    key = line_safe(f"{name}@{short(f'sha256:{digest}', room)}" if at else name) or "-"
    return _KINDS[entry.kind], size(entry.size), ago(now - entry.saved), key
