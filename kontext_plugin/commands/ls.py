"""`docker kontext ls`: list a directory of an image, from its manifest alone."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kontext_plugin.cli.flags import Globals, did_you_mean, parse, suggest
from kontext_plugin.cli.options import LS, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.errors import KontextError
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.image.tree import Entry, Tree, normal_path, paths_at
from kontext_plugin.manifest import Manifest
from kontext_plugin.push.history import resolve
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report, stdout_room, write_stdout
from kontext_plugin.terminal.table import UNLIMITED, Column, Room, fit, table
from kontext_plugin.terminal.text import json_array, line_safe

_MODES = {"directory": "drwxr-xr-x", "link": "lrwxrwxrwx"}

_MAX_NEAR = 3

_LONG_COLUMNS = (Column(drop=2), Column(drop=1, is_right=True), Column(least=24))


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text, *rest) = parse(LS, arguments)
    name = parse_image_reference(text)
    path = rest[0] if rest else ""
    report = Report(show_debug=flags.debug)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        name = resolve(crane, requests, name)
        manifest = fetch(crane, requests, name).manifest
    paths = paths_at(manifest.tree, path, recursive=parsed.recursive)
    if paths is None:
        raise KontextError(f"{path!r} is not in {name}", hint=_hint(manifest.tree, path, name))
    if parsed.format == "json":
        write_stdout(as_json(manifest, paths))
    else:
        write_stdout((long_lines if parsed.long else lines)(manifest, paths, stdout_room()))
    return 0


def _hint(tree: Tree, path: str, name: Reference) -> str:
    """Return what to type instead of a path that is not there."""
    if near := near_paths(tree, path):
        return did_you_mean([*map(repr, near)])
    return f"Run 'docker kontext ls -R {name}' to list its files. Links are not followed."


def near_paths(tree: Tree, path: str) -> list[str]:
    """Return paths that are nearly spelled like this one, or that have its name elsewhere."""
    above, _, name = normal_path(path).rpartition("/")
    by_name = {posixpath.basename(other): other for other in paths_at(tree, above) or ()}
    if near := suggest(name, list(by_name)):
        return [by_name[other] for other in near]
    same = sorted(other for other in tree.paths() if posixpath.basename(other) == name)
    return same[:_MAX_NEAR]


def lines(manifest: Manifest, paths: Iterable[str], room: Room = UNLIMITED) -> Iterator[str]:
    """Yield a line for each path: that of a directory ends with a slash."""
    for path in paths:
        yield fit(_shown(manifest.tree, path), room)


def long_lines(manifest: Manifest, paths: Sequence[str], room: Room = UNLIMITED) -> Iterator[str]:
    """Yield a line for each path, as `ls -l` does: mode, size in bytes, path, target of a link."""
    rows = []
    for path in paths:
        entry, shown = manifest.tree.entry(path), _shown(manifest.tree, path)
        if entry.kind == "link":
            shown += f" -> {line_safe(entry.target)}"
        count = _size(manifest, entry)
        rows.append((_mode(entry), "-" if count is None else str(count), shown))
    return table(_LONG_COLUMNS, rows, room, gap=1)


def _shown(tree: Tree, path: str) -> str:
    return line_safe(path) + ("/" if tree.is_directory(path) else "")


def as_json(manifest: Manifest, paths: Sequence[str]) -> Iterator[str]:
    """Yield the lines of --format json (docs/commands.md)."""
    return json_array(_document(manifest, manifest.tree.entry(path)) for path in paths)


def _document(manifest: Manifest, entry: Entry) -> dict[str, Any]:
    is_file = entry.kind == "file"
    return {
        "path": entry.path,
        "kind": entry.kind,
        "size": _size(manifest, entry),
        "executable": entry.executable if is_file else None,
        "target": entry.target if entry.kind == "link" else None,
        "digest": f"sha256:{entry.digest}" if is_file else None,
    }


def _mode(entry: Entry) -> str:
    return _MODES.get(entry.kind) or ("-rwxr-xr-x" if entry.executable else "-rw-r--r--")


def _size(manifest: Manifest, entry: Entry) -> int | None:
    """Return the bytes of a file. A manifest of version 1 does not list them."""
    return entry.size if entry.kind == "file" and manifest.lineage else None
