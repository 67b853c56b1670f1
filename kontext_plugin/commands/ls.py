"""`docker kontext ls`: what an image has of sources, from its manifest alone."""

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
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import json_array, line_safe

_MODES = {"directory": "drwxr-xr-x", "link": "lrwxrwxrwx"}


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (image, *rest) = parse(LS, arguments)
    name = parse_image_reference(image)
    report = Report(show_debug=flags.debug)
    link = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with link as (crane, threads):
        found = fetch(crane, threads, name)
    path = rest[0] if rest else ""
    paths = below(found.manifest.tree, path)
    if paths is None:
        raise KontextError(
            f"{name} has no {path!r}",
            hint=f"'docker kontext ls {name}' lists what it has; links are not followed.",
        )
    write_stdout((as_json if parsed.format == "json" else lines)(found.manifest, paths))
    return 0


def below(tree: Tree, path: str) -> list[str] | None:
    """The sorted paths of what lies below `path`, or of itself if it is no directory; None where
    there is no such path. However it is spelled, it begins at the top of the sources."""
    top = posixpath.normpath(f"/{path}").lstrip("/")
    if top and not tree.is_directory(top):
        return [top] if top in tree else None
    prefix = f"{top}/" if top else ""
    return sorted(path for path in tree.paths() if path.startswith(prefix))


def lines(manifest: Manifest, paths: Sequence[str]) -> Iterator[str]:
    """As `ls -l` without what is the same of all: a line a path, sizes in bytes."""
    width = max((len(str(manifest.tree.sizes.get(path, 0))) for path in paths), default=0)
    for path in paths:
        entry = manifest.tree.entry(path)
        size = _size(manifest, entry)
        line = f"{_mode(entry)} {'-' if size is None else size:>{width}} {line_safe(path)}"
        yield f"{line} -> {line_safe(entry.target)}" if entry.kind == "link" else line


def as_json(manifest: Manifest, paths: Sequence[str]) -> Iterator[str]:
    return json_array(_item(manifest, manifest.tree.entry(path)) for path in paths)


def _item(manifest: Manifest, entry: Entry) -> dict[str, Any]:
    file = entry.kind == "file"
    return {
        "path": entry.path,
        "kind": entry.kind,
        "size": _size(manifest, entry),
        "executable": entry.executable if file else None,
        "target": entry.target if entry.kind == "link" else None,
        "digest": f"sha256:{entry.digest}" if file else None,
    }


def _mode(entry: Entry) -> str:
    return _MODES.get(entry.kind) or ("-rwxr-xr-x" if entry.executable else "-rw-r--r--")


def _size(manifest: Manifest, entry: Entry) -> int | None:
    """Bytes of a file, if the manifest says them, as those of version 1 do not."""
    return entry.size if entry.kind == "file" and manifest.lineage else None
