"""`docker kontext cache ls` and `docker kontext cache prune`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone

from kontext_plugin import output
from kontext_plugin.cache import Cache, Entry, open_cache
from kontext_plugin.commands.table import CACHE
from kontext_plugin.errors import UsageError
from kontext_plugin.options import Globals, parse
from kontext_plugin.report import Report
from kontext_plugin.text import number, size

_KINDS = {
    "stats": "directory",
    "published": "image",
    "pushed": "completion",
    "scratch": "temporary",
}
_HEADER = ("KIND", "SIZE", "SAVED", "OF")


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (verb,) = parse(CACHE, arguments)
    report = Report(debug=flags.debug)
    cache = open_cache(read_only=True)
    if verb == "ls":
        _show(cache, parsed.format == "json", report)
    elif parsed.format:
        raise UsageError("unknown flag: --format", hint="Only 'cache ls' knows it.")
    else:
        report.say(f"Freed {size(cache.prune())} in {cache.root or 'no cache'}")
    return 0


def _show(cache: Cache, as_json: bool, report: Report) -> None:
    entries = sorted(cache.entries(), key=lambda entry: entry.saved, reverse=True)
    if as_json:
        found = {"folder": cache.root, "entries": [_document(entry) for entry in entries]}
        output.write([output.document(found)])
        return
    now = time.time()
    if entries:
        output.write(output.aligned([_HEADER, *(_row(entry, now) for entry in entries)]))
    total = size(sum(entry.size for entry in entries))
    report.say(f"{number(len(entries), 'record')}, {total} in {cache.root or 'no cache'}")


def _row(entry: Entry, now: float) -> tuple[str, str, str, str]:
    of = output.name(entry.key) or "-"
    return _KINDS[entry.kind], size(entry.size), ago(now - entry.saved), of


def _document(entry: Entry) -> dict[str, object]:
    saved = datetime.fromtimestamp(entry.saved, timezone.utc)
    return {
        "kind": _KINDS[entry.kind],
        "of": entry.key or None,
        "bytes": entry.size,
        "saved": saved.isoformat(timespec="seconds"),
    }


def ago(seconds: float) -> str:
    """As docker says it: `5 minutes ago`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{number(int(seconds // length), unit)} ago"
    return "just now"
