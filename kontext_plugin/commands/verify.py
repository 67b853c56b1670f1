"""`docker kontext verify`: check that an image, its manifest and a directory match."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals, check_arguments
from kontext_plugin.cli.options import VERIFY, timeout_of
from kontext_plugin.crane import Crane, connect
from kontext_plugin.delta import (
    Difference,
    DifferenceKind,
    Place,
    differences,
    entry_difference,
)
from kontext_plugin.errors import DIFFERENT, KontextError
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.image.tree import Entry, Tree
from kontext_plugin.layer.reader import (
    ExportedEntry,
    ExportReader,
    max_export_bytes,
    max_unpacked_bytes,
)
from kontext_plugin.push.history import resolve
from kontext_plugin.push.messages import report_scan
from kontext_plugin.push.options import read_command_line
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.runtime.files import HashedPieces
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.directory import open_source
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.progress import choose_mode, reporting
from kontext_plugin.terminal.steps import Progress, StepName, Steps
from kontext_plugin.terminal.text import json_document, line_safe, number, size

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace

_MAX_SHOWN = 10_000
"""Differences that are kept. A hostile image may have any number, and the rest are only counted."""

_SPECIAL_BITS = 0o7000
"""Set-user-ID, set-group-ID, sticky: no push writes them."""


@dataclass(frozen=True)
class Comparison:
    """What differs between an image, its manifest and a directory."""

    shown: tuple[Difference, ...]  # the first _MAX_SHOWN
    count: int  # of all differences

    @property
    def omitted(self) -> int:
        """The number of differences that are not shown."""
        return self.count - len(self.shown)


def main(arguments: Sequence[str], flags: Globals) -> int:
    line = read_command_line(VERIFY, arguments)
    check_arguments(VERIFY, line.positional)
    parsed, directory = line.parsed, line.directory
    name = parse_image_reference(line.positional[0])
    timeout = timeout_of(parsed)
    try:
        with (
            reporting(choose_mode(None, False), flags.debug) as report,
            connect(report.debug, insecure=parsed.insecure, timeout=timeout) as (crane, requests),
        ):
            directory_tree = _scan(directory, parsed, report) if directory else None
            name = resolve(crane, requests, name)
            image = fetch(crane, requests, name)
            layers = number(len(image.image.layers), "layer")
            report.info(f"Reading {name}: {layers}, {size(image.image.size)}")
            comparison = summarize(_compare(crane, name, image, directory_tree, report.steps))
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("nothing was checked completely") from interrupt
    if parsed.format == "json":
        write_stdout([json_document(_document(name, directory, image, comparison))])
    else:
        write_stdout(lines(directory, image.manifest.tree, comparison))
    return DIFFERENT if comparison.count else 0


def _scan(directory: str, parsed: Namespace, report: Report) -> Tree:
    """Return the directory's tree as a push would see it. Reads each file. Raises KontextError."""
    source = open_source(
        directory, parsed.ignore_file or "", keep_git=parsed.git, gitignore=parsed.gitignore
    )
    cache = open_cache(read_only=True).root
    with Workers() as workers:
        scan = source.scan(Snapshot(), workers, report.steps, report.debug, cache=cache)
    report_scan(scan, report)
    return scan.tree


def _compare(
    crane: Crane,
    name: Reference,
    image: KontextImage,
    directory_tree: Tree | None,
    steps: Steps,
) -> Iterator[Difference]:
    """Yield how the image, and then the directory, differ from the manifest. Raises KontextError.

    Modes count only if the manifest lists them; version 1 does not.
    """
    tree, modes = image.manifest.tree, image.manifest.lineage is not None
    limit = max_export_bytes(tree) + max_unpacked_bytes(image.image.layers)
    try:
        with (
            steps.step(StepName.VERIFY) as step,
            crane.export(name.at(image.image.digest), whole=True) as stream,
        ):
            step.progress = Progress(total_files=len(tree.sizes), total_bytes=tree.size)
            export = ExportReader(stream, limit)
            yield from image_differences(tree, export, modes=modes, count=step.count)
    except ValueError as error:
        raise KontextError(f"{name} cannot be read: {error}") from error
    if directory_tree is not None:
        yield from differences(tree, directory_tree, Place.DIRECTORY, modes=modes)


def image_differences(
    expected: Tree,
    export: ExportReader,
    *,
    modes: bool = True,
    count: Callable[[Iterator[bytes]], Iterator[bytes]] = iter,
) -> Iterator[Difference]:
    """Yield how an export differs from a tree: those of its entries first, then missing paths.

    Keeps nothing of the export. The contents of files pass through `count`. Raises ValueError where
    the export is damaged.
    """
    missing = expected.paths()
    for entry in export.entries():
        path = entry.path
        if path not in expected:
            yield Difference(path, Place.IMAGE, DifferenceKind.ONLY)
        elif path not in missing:
            yield Difference(path, Place.IMAGE, DifferenceKind.TWICE)
        else:
            missing.remove(path)
            content = count(export.content())
            if kind := _entry_difference(expected.entry(path), entry, content, modes=modes):
                yield Difference(path, Place.IMAGE, kind)
    export.finish()
    for path in sorted(missing):
        yield Difference(path, Place.IMAGE, DifferenceKind.MISSING)


def _entry_difference(
    expected: Entry, entry: ExportedEntry, content: Iterator[bytes], *, modes: bool
) -> DifferenceKind | None:
    """Return how the current entry of an export differs. Reads its content."""
    kind = entry.kind
    if kind not in ("file", "directory", "link"):
        return DifferenceKind.OTHER_KIND
    digest = HashedPieces(content).hexdigest()
    actual = Entry(
        path=entry.path,
        kind=kind,
        digest=digest if kind == "file" else "",
        executable=kind == "file" and bool(entry.mode & 0o100),
        target=entry.target if kind == "link" else "",
    )
    if difference := entry_difference(expected, actual, modes=modes):
        return difference
    is_special = kind != "link" and entry.mode & _SPECIAL_BITS
    return DifferenceKind.OTHER_MODE if is_special else None


def summarize(found: Iterable[Difference]) -> Comparison:
    """Return the first differences, and the number of all."""
    shown, count = [], 0
    for difference in found:
        count += 1
        if count <= _MAX_SHOWN:
            shown.append(difference)
    return Comparison(tuple(shown), count)


def lines(directory: str, tree: Tree, comparison: Comparison) -> Iterator[str]:
    """Yield the lines for a person; `tree` is the manifest's, `directory` "" without DIR."""
    if not comparison.count:
        compared = "The image, its manifest and DIR" if directory else "The image and its manifest"
        yield f"{compared} match: {number(tree.file_count, 'file')}"
    for one in comparison.shown:
        yield f"{one.kind.value} in {one.place.value}: {line_safe(one.path)}"
    if comparison.omitted:
        yield f"and {comparison.omitted:,} more"


def _document(
    name: Reference, directory: str, image: KontextImage, comparison: Comparison
) -> dict[str, Any]:
    return {
        "reference": str(name),
        "digest": image.image.digest,
        "directory": directory or None,
        "differences": [
            {"path": one.path, "place": one.place.value, "what": one.kind.value}
            for one in comparison.shown
        ],
        "count": comparison.count,
    }
