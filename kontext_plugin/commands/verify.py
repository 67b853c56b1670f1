"""`docker kontext verify`: proves that an image, its manifest and a directory are one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kontext_plugin.cache.store import open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import VERIFY, timeout_of
from kontext_plugin.crane import Crane, connect
from kontext_plugin.delta import Difference, DifferenceKind, differences, entry_difference
from kontext_plugin.errors import DIFFERENT, INTERRUPTED, KontextError
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.image.tree import Entry, Tree
from kontext_plugin.layer.reader import (
    ExportedEntry,
    ExportReader,
    max_export_bytes,
    max_unpacked_bytes,
)
from kontext_plugin.push.messages import report_scan
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.runtime.files import HashedPieces
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.directory import open_source
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import json_document, line_safe, number, size

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace


_MOST = 10_000
"""Differences that are shown: an image may have any number, and all the others are counted."""

_SPECIAL_BITS = 0o7000
"""Set-user-ID, set-group-ID, sticky: no push writes them."""


@dataclass
class Found:
    """The differences, as they turn up."""

    shown: list[Difference] = field(default_factory=list)
    count: int = 0

    def add(self, differences: Iterable[Difference]) -> None:
        for one in differences:
            self.count += 1
            if self.count <= _MOST:
                self.shown.append(one)


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(VERIFY, arguments)
    name = parse_image_reference(positional[0])
    directory = positional[1] if len(positional) > 1 else ""
    report = Report(show_debug=flags.debug)
    link = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    found = Found()
    try:
        with link as (registry, threads):
            there = _there(directory, parsed, report) if directory else None
            image = fetch(registry, threads, name)
            layers = number(len(image.image.layers), "layer")
            report.info(f"Reading {name}: {layers}, {size(image.image.size)}")
            found.add(_differences(registry, name, image, there))
    except KeyboardInterrupt:
        report.notice("Interrupted; nothing is proven")
        return INTERRUPTED
    if parsed.format == "json":
        write_stdout([json_document(_document(name, directory, image, found))])
    else:
        write_stdout(_lines(directory, image, found))
    return DIFFERENT if found.count else 0


def _there(directory: str, parsed: Namespace, report: Report) -> Tree:
    """Return the directory's tree as a push would see it. Reads each file. Raises KontextError."""
    source = open_source(
        directory, parsed.ignore_file or "", keep_git=parsed.git, gitignore=parsed.gitignore
    )
    cache = open_cache(read_only=True).root
    with Workers() as workers:
        scan = source.scan({}, workers, report.steps, report.debug, cache=cache)
    report_scan(scan, report)
    return scan.tree


def _differences(
    registry: Crane, name: Reference, found: KontextImage, there: Tree | None
) -> Iterator[Difference]:
    """What is not as the image's manifest says. Raises KontextError.

    Version 1 of the manifest does not say what is executable.
    """
    tree, modes = found.manifest.tree, found.manifest.lineage is not None
    limit = max_export_bytes(tree) + max_unpacked_bytes(found.image.layers)
    try:
        with registry.export(name.at(found.image.digest), whole=True) as stream:
            yield from in_image(ExportReader(stream, limit), tree, modes=modes)
    except ValueError as error:
        raise KontextError(f"{name} cannot be read: {error}") from error
    if there is not None:
        yield from differences(tree, there, "DIR", modes=modes)


def in_image(export: ExportReader, want: Tree, *, modes: bool) -> Iterator[Difference]:
    """How a whole export differs from a manifest's tree; no more is kept of it than that."""
    missing = want.paths()
    for entry in export.entries():
        path = entry.path
        if path not in want:
            yield Difference(path, "the image", "only")
        elif path not in missing:
            yield Difference(path, "the image", "twice")
        else:
            missing.remove(path)
            if what := _difference(want.entry(path), entry, export, modes=modes):
                yield Difference(path, "the image", what)
    export.finish()
    for path in sorted(missing):
        yield Difference(path, "the image", "missing")


def _difference(
    want: Entry, entry: ExportedEntry, export: ExportReader, *, modes: bool
) -> DifferenceKind | None:
    kind = entry.kind
    if kind not in ("file", "directory", "link"):
        return "other kind"
    digest = HashedPieces(export.content()).hexdigest()
    have = Entry(
        path=entry.path,
        kind=kind,
        digest=digest if kind == "file" else "",
        executable=kind == "file" and bool(entry.mode & 0o100),
        target=entry.target if kind == "link" else "",
    )
    special = kind != "link" and entry.mode & _SPECIAL_BITS
    return entry_difference(want, have, modes=modes) or ("other mode" if special else None)


def _lines(directory: str, image: KontextImage, found: Found) -> Iterator[str]:
    if not found.count:
        what = "The image, its manifest and DIR" if directory else "The image and its manifest"
        yield f"{what} are one: {number(image.manifest.tree.file_count, 'file')}"
    for one in found.shown:
        yield f"{one.kind} in {one.place}: {line_safe(one.path)}"
    if more := found.count - len(found.shown):
        yield f"and {more:,} more"


def _document(name: Reference, directory: str, image: KontextImage, found: Found) -> dict[str, Any]:
    return {
        "reference": str(name),
        "digest": image.image.digest,
        "directory": directory or None,
        "differences": [
            {"path": one.path, "place": one.place, "what": one.kind} for one in found.shown
        ],
        "count": found.count,
    }
