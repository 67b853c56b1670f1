"""`docker kontext status`: what a directory was last pushed as, and what has changed since."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from kontext_plugin.cache import Cache, PushRecord, open_cache
from kontext_plugin.cli.flags import Globals, check_arguments
from kontext_plugin.cli.options import STATUS, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.crane_driver.errors import NotFound
from kontext_plugin.delta import FileCounts, count_files, reverse_delta
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.reference import repository_of
from kontext_plugin.image.tree import Tree
from kontext_plugin.push.messages import count_text, no_cache, report_scan
from kontext_plugin.push.options import CommandLine, last_push, read_command_line
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.directory import open_source
from kontext_plugin.terminal.messages import Report, stdout_room, write_stdout
from kontext_plugin.terminal.progress import choose_mode, reporting
from kontext_plugin.terminal.table import Room, fit, short
from kontext_plugin.terminal.text import ago, json_document, line_safe


@dataclass(frozen=True)
class Changes:
    """How a directory differs from the image that it was last pushed as."""

    is_unchanged: bool  # also no directory and no link has changed
    counts: FileCounts


@dataclass(frozen=True)
class Status:
    """What is known of a directory."""

    directory: str  # its real path
    last: PushRecord | None  # its last push from this machine
    tags: tuple[str, ...] = ()  # that this push has set, and no later push from this machine
    changes: Changes | None = None  # None: never pushed, or the cache does not have the image
    remote: Mapping[str, Digest | None] | None = None  # what each tag shows; None: not asked


def main(arguments: Sequence[str], flags: Globals) -> int:
    line = read_command_line(STATUS, arguments)
    check_arguments(STATUS, line.positional)
    cache = open_cache(read_only=True)
    with reporting(choose_mode(None, quiet=False), flags.debug) as report:
        if cache.problem:
            report.info(no_cache(cache))
        status = find_status(line, cache, report)
    if line.parsed.format == "json":
        write_stdout([json_document(as_json(status))])
    else:
        write_stdout(lines(status, time.time(), stdout_room()))
    return 0


def find_status(line: CommandLine, cache: Cache, report: Report) -> Status:
    """Return the status of a directory. Raises KontextError."""
    parsed = line.parsed
    source = open_source(
        line.directory, parsed.ignore_file or "", keep_git=parsed.git, gitignore=parsed.gitignore
    )
    pushed = cache.pushed()
    last = last_push(pushed, source.root)
    if last is None:
        return Status(source.root, None)
    tags = tags_of(last, pushed)
    changes = remote = None
    if image := _pushed_image(last, pushed, cache):
        known = cache.snapshot(source.root)
        with Workers() as workers:
            scan = source.scan(known, workers, report.steps, report.debug, cache=cache.root)
        report_scan(scan, report)
        changes = compare(image, scan.tree)
    if parsed.remote:
        remote = _ask_registry(tags, report, insecure=parsed.insecure, timeout=timeout_of(parsed))
    return Status(source.root, last, tags, changes, remote)


def tags_of(last: PushRecord, pushed: Sequence[PushRecord]) -> tuple[str, ...]:
    """Return the tags that a push has set, and no later push of `pushed`. Pure.

    `pushed` are this machine's pushes, the latest first. It has one for each tag of a push.
    """
    latest: dict[str, PushRecord] = {}
    for record in pushed:
        latest.setdefault(record.reference, record)
    return tuple(
        reference
        for reference, record in latest.items()
        if (record.digest, record.directory) == (last.digest, last.directory)
    )


def compare(image: KontextImage, tree: Tree) -> Changes:
    """Return how a directory differs from the image of its last push. Pure."""
    since = reverse_delta(image.manifest.tree, tree)
    return Changes(not since, count_files(since, tree))


def lines(status: Status, now: float, room: Room) -> Iterator[str]:
    """Yield the status for a person. `now` is in seconds since 1970."""
    last, directory = status.last, line_safe(status.directory)
    if last is None:
        yield fit(f"{directory} was never pushed from this machine", room)
        return
    names = ", ".join(status.tags) or f"{last.reference}, which shows a later push"
    age, digest = ago(now - last.time), short(last.digest, room)
    yield fit(f"Pushed {age} as {line_safe(names)}: {digest}", room)
    yield fit(changes_line(status.changes), room)
    for tag, shown in (status.remote or {}).items():
        yield fit(f"{line_safe(tag)} {remote_text(last, shown)}", room)


def changes_line(changes: Changes | None) -> str:
    """Return the line that says whether a push would upload files. Pure."""
    if changes is None:
        return "The cache has lost this image. Run 'docker kontext diff' to see what changed."
    if changes.is_unchanged:
        return "Unchanged since: a push would upload no file"
    what = count_text(changes.counts) or "only directories"
    return f"Changed since: {what}"


def remote_text(last: PushRecord, digest: Digest | None) -> str:
    """Return what a tag shows in the registry. Pure."""
    if digest is None:
        return "is not in the registry"
    return "shows this image" if digest == last.digest else f"shows another image, {digest}"


def image_of(last: PushRecord) -> str:
    """Return the image of a push, `REPOSITORY@sha256:…`."""
    return f"{repository_of(last.reference)}@{last.digest}"


def as_json(status: Status) -> dict[str, object]:
    """Return the document of --format json (docs/commands.md)."""
    last, changes, remote = status.last, status.changes, status.remote
    counts = changes.counts if changes else None
    pushed_at = datetime.fromtimestamp(last.time, timezone.utc) if last else None
    return {
        "directory": status.directory,
        "image": image_of(last) if last else None,
        "tags": list(status.tags),
        "time": pushed_at.isoformat(timespec="seconds") if pushed_at else None,
        "generation": last.generation if last else None,
        "revision": (last.revision or None) if last else None,
        "unchanged": changes.is_unchanged if changes else None,
        "added": counts.added if counts else None,
        "changed": counts.changed if counts else None,
        "removed": counts.removed if counts else None,
        "remote": None if remote is None else {**remote},
    }


def _pushed_image(
    last: PushRecord, pushed: Sequence[PushRecord], cache: Cache
) -> KontextImage | None:
    """Return the image of a push from the cache. It is there under a tag that it was pushed to."""
    names = (one.reference for one in pushed if one.digest == last.digest)
    images = (cache.published(name, last.digest) for name in names)
    return next(filter(None, images), None)


def _ask_registry(
    tags: Sequence[str], report: Report, *, insecure: bool, timeout: float
) -> dict[str, Digest | None]:
    """Return what each tag shows, None for nothing. Raises RegistryError."""
    shown: dict[str, Digest | None] = {}
    with connect(report.debug, insecure=insecure, timeout=timeout) as (crane, _):
        for tag in tags:
            try:
                shown[tag] = digest_of(crane.manifest(tag))
            except NotFound:
                shown[tag] = None
    return shown
