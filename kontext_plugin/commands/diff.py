"""`docker kontext diff`: what a push would change in the tag's image, and what it would upload."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from enum import Enum, auto
from itertools import takewhile
from typing import TYPE_CHECKING

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals, parse_flags
from kontext_plugin.cli.options import DIFF, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.delta import Changes, Rename, changes_from, diff, renames
from kontext_plugin.errors import DIFFERENT, FAILED, TROUBLE, KontextError, UsageError
from kontext_plugin.image.assembly import Assembly, assemble
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.image.tree import Tree
from kontext_plugin.push.history import resolve
from kontext_plugin.push.messages import builds_on, report_config, would_upload
from kontext_plugin.push.options import (
    PushOptions,
    check_tagged,
    read_command_line,
    shared_options,
)
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.prepare import Prepared, prepare
from kontext_plugin.push.publish import count_upload
from kontext_plugin.push.session import PushSession, open_session
from kontext_plugin.push.stage import stage
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report, stdout_room, write_stdout
from kontext_plugin.terminal.table import UNLIMITED, Room, cells, cut, fit
from kontext_plugin.terminal.text import json_document, line_safe, number, size

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace


class Show(Enum):
    """What standard output shows."""

    TEXT = auto()
    STAT = auto()
    JSON = auto()


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse_flags(DIFF, arguments)
    report, show = Report(show_debug=flags.debug), Show.TEXT
    if parsed.format == "json":
        show = Show.JSON
    elif parsed.stat:
        show = Show.STAT
    try:
        if parsed.stat and show is Show.JSON:
            raise UsageError("--stat and --format json cannot be given together")
        if not parsed.tag and len(positional) == 2 and not os.path.exists(positional[1]):
            differs = show_images_diff(parsed, positional, show, report)
        else:
            line = read_command_line(DIFF, arguments)
            check_tagged(line)
            if len(line.positional) > 1:
                raise UsageError("give either --tag with one directory, or two images")
            options = shared_options(line.parsed, [line.parsed.tag], line.directory)
            report_config(line, report)
            differs = show_diff(options, show, report)
    except KontextError as error:
        if parsed.exit_code and error.exit_code == FAILED:
            error.exit_code = TROUBLE  # as in git diff
        raise
    return DIFFERENT if differs and parsed.exit_code else 0


def show_images_diff(parsed: Namespace, texts: Sequence[str], show: Show, report: Report) -> bool:
    """Show how the second image differs from the first one; return whether it does.

    Raises KontextError.
    """
    old, new = map(parse_image_reference, texts)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        images = [fetch(crane, requests, resolve(crane, requests, name)) for name in (old, new)]
    trees = [image.manifest.tree for image in images]
    changes = diff(*trees)
    if show is Show.JSON:
        document = {
            "from": {"reference": str(old), "digest": images[0].digest},
            "to": {"reference": str(new), "digest": images[1].digest},
            "added": changes.added,
            "changed": changes.changed,
            "removed": changes.removed,
            "renamed": _renamed(renames(changes, *trees)),
        }
        write_stdout([json_document(document)])
    else:
        _write_text(show, changes, *trees)
    return bool(changes)


def show_diff(options: PushOptions, show: Show, report: Report) -> bool:
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
        old = found.tag_image.manifest.tree if found.tag_image else Tree()
        if show is not Show.JSON:
            _write_text(show, changes, old, plan.tree)  # before layers are written to be measured
        prepared, assembly = _assemble(session, prepared)
        plan = prepared.plan
        changes = changes_from(plan.since, plan.tree)
        is_shown = not found.tags_to_write(assembly.digest)
        upload = 0 if is_shown else count_upload(session, plan, assembly, tag)
        if not is_shown:
            report.info(builds_on(plan))
        report.info(would_upload(tag, plan, assembly, upload, is_shown=is_shown))
        if show is Show.JSON:
            renamed = renames(changes, old, plan.tree)
            document = _document(tag, prepared, changes, renamed, assembly, upload)
            write_stdout([json_document(document)])
    return bool(changes)


def _write_text(show: Show, changes: Changes, old: Tree, new: Tree) -> None:
    renamed, room = renames(changes, old, new), stdout_room()
    if show is Show.STAT:
        write_stdout(stat_lines(changes, renamed, old, new, room))
    else:
        write_stdout(lines(changes, renamed, room))


def lines(
    changes: Changes, renamed: Sequence[Rename] = (), room: Room = UNLIMITED
) -> Iterator[str]:
    """Yield a line for each path in the form of `docker diff`, and `R` for each rename.

    They are sorted by path, renames by the new one.
    """
    gone = {one.old for one in renamed}
    shown = [(one.new, "R", rename_text(one)) for one in renamed]
    come = {path for path, _, _ in shown}
    for kind, paths in (("A", changes.added), ("C", changes.changed), ("D", changes.removed)):
        but = gone if kind == "D" else come
        shown += [(path, kind, path) for path in paths if path not in but]
    for _, kind, text in sorted(shown):
        yield fit(f"{kind} {line_safe(text)}", room)


def rename_text(rename: Rename) -> str:
    """Return a rename as git shows it: `pkg/{a => b}/file`."""
    old, new = rename.old.split("/"), rename.new.split("/")
    shorter = min(len(old), len(new))
    head = _common(old, new, shorter - 1)
    tail = _common(old[::-1], new[::-1], shorter - (head or 1))
    if not head and not tail:
        return f"{rename.old} => {rename.new}"
    middle = ["/".join(path[head : len(path) - tail]) for path in (old, new)]
    braces = f"{{{middle[0]} => {middle[1]}}}"
    return "/".join([*old[:head], braces, *old[len(old) - tail :]])


def _common(one: Sequence[str], other: Sequence[str], limit: int) -> int:
    """Return how many of the first `limit` components are the same."""
    pairs = zip(one[:limit], other[:limit], strict=True)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


_STAT_WIDTH = 80
"""Cells of a line where standard output is not a terminal, as in git."""

_LEAST_BAR, _WIDEST_BAR = 5, 40


def stat_lines(
    changes: Changes, renamed: Sequence[Rename], old: Tree, new: Tree, room: Room = UNLIMITED
) -> Iterator[str]:
    """Yield how the size of each file changes, in the form of `git diff --stat`, and a summary.

    Directories are no files. `-` is a size that is not known, and that of a link.
    """
    before = {one.new: one.old for one in renamed}
    gone = set(before.values())
    rows: list[tuple[str, int | None]] = []
    for path in sorted({*changes.added, *changes.changed, *changes.removed} - gone):
        tree = new if path in new else old
        if tree.is_directory(path) and (path not in old or old.is_directory(path)):
            continue
        former = before.get(path, path)
        text = rename_text(Rename(former, path)) if path in before else path
        rows.append((line_safe(text), _growth(former, path, old, new)))
    if not rows:
        return
    numbers = ["-" if growth is None else _signed(growth) for _, growth in rows]
    width, most = room.cells or _STAT_WIDTH, max(abs(growth or 0) for _, growth in rows)
    number_width, name_width = max(map(len, numbers)), max(cells(name) for name, _ in rows)
    beside = number_width + len("  |  ")
    if room.cells:
        name_width = max(1, min(name_width, width - beside - _LEAST_BAR))
    bar_width = max(_LEAST_BAR, min(_WIDEST_BAR, width - beside - name_width))
    for (name, growth), text in zip(rows, numbers, strict=True):
        bar = ("+" if (growth or 0) > 0 else "-") * _bar(growth or 0, most, bar_width)
        name = cut(name, name_width, room)
        blank = " " * (name_width - cells(name))
        yield fit(f" {name}{blank} | {text:>{number_width}} {bar}".rstrip(), room)
    yield fit(f" {_summary([growth or 0 for _, growth in rows])}", room)


def _growth(former: str, path: str, old: Tree, new: Tree) -> int | None:
    """Return by how many bytes a path's file has grown; None if a size is not known."""
    sizes = []
    for tree, name in ((new, path), (old, former)):
        is_file = bool(tree.files.get(name))
        if is_file and name not in tree.sizes:
            return None
        sizes.append(tree.sizes[name] if is_file else 0)
    return sizes[0] - sizes[1]


def _signed(growth: int) -> str:
    return f"{'+' if growth > 0 else '-' if growth < 0 else ''}{size(abs(growth))}"


def _bar(growth: int, most: int, width: int) -> int:
    """Return the length of a bar, at least 1 for any change of the size."""
    return -(-abs(growth) * min(width, most) // most) if most else 0


def _summary(growths: Sequence[int]) -> str:
    grown = sum(growth for growth in growths if growth > 0)
    shrunk = sum(growth for growth in growths if growth < 0)
    sizes = [_signed(total) for total in (grown, shrunk) if total]
    return ", ".join([f"{number(len(growths), 'file')} changed", *sizes])


def _assemble(session: PushSession, prepared: Prepared) -> tuple[Prepared, Assembly]:
    """Return the image that a push would publish, and of what. Raises KontextError."""
    prepared, layers = stage(session, prepared, directory="")
    if layers is None:
        assert prepared.assembly is not None
        return prepared, prepared.assembly
    plan = prepared.plan
    return prepared, assemble(plan.spec, layers.sources(plan), plan.labels)


def _document(
    tag: Reference,
    prepared: Prepared,
    changes: Changes,
    renamed: Sequence[Rename],
    assembly: Assembly,
    upload: int,
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
        "renamed": _renamed(renamed),
        "upload": upload,
    }


def _renamed(renamed: Iterable[Rename]) -> list[dict[str, str]]:
    return [{"from": one.old, "to": one.new} for one in renamed]
