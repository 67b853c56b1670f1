"""`docker kontext ls`: list the files in an image, from its manifest alone."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import LS, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.errors import KontextError
from kontext_plugin.image.reference import parse_image_reference
from kontext_plugin.image.tree import Entry, Tree
from kontext_plugin.manifest import Manifest
from kontext_plugin.push.history import resolve
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import json_array, line_safe

_MODES = {"directory": "drwxr-xr-x", "link": "lrwxrwxrwx"}


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text, *rest) = parse(LS, arguments)
    name = parse_image_reference(text)
    path = rest[0] if rest else ""
    report = Report(show_debug=flags.debug)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        name = resolve(crane, requests, name)
        manifest = fetch(crane, requests, name).manifest
    paths = paths_at(manifest.tree, path)
    if paths is None:
        raise KontextError(
            f"{path!r} is not in {name}",
            hint=f"Run 'docker kontext ls {name}' to list its files. Links are not followed.",
        )
    write_stdout((as_json if parsed.format == "json" else lines)(manifest, paths))
    return 0


def paths_at(tree: Tree, path: str) -> list[str] | None:
    """Return the sorted paths in a directory, or the path of another entry; None if it is absent.

    `path` begins at the top of the sources, in any spelling: `src`, `/src/`, `./src/../src`.
    """
    top = posixpath.normpath(f"/{path}").lstrip("/")
    if top and not tree.is_directory(top):
        return [top] if top in tree else None
    prefix = f"{top}/" if top else ""
    return sorted(path for path in tree.paths() if path.startswith(prefix))


def lines(manifest: Manifest, paths: Sequence[str]) -> Iterator[str]:
    """Yield a line for each path, as `ls -l` does: mode, size in bytes, path."""
    width = max((len(str(manifest.tree.sizes.get(path, 0))) for path in paths), default=0)
    for path in paths:
        entry = manifest.tree.entry(path)
        size = _size(manifest, entry)
        line = f"{_mode(entry)} {'-' if size is None else size:>{width}} {line_safe(path)}"
        yield f"{line} -> {line_safe(entry.target)}" if entry.kind == "link" else line


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
