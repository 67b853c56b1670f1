"""`docker kontext pull`: writes an image's sources into a directory, without docker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import PULL, timeout_of
from kontext_plugin.crane import Crane, connect
from kontext_plugin.errors import INTERRUPTED
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number, size
from kontext_plugin.workspace import Workspace, check_mirror, files_of, write_files


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(PULL, arguments)
    name = parse_image_reference(positional[0])
    directory = positional[1] if len(positional) > 1 else "."
    report = Report(quiet=parsed.quiet, show_debug=flags.debug)
    link = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    try:
        with link as (registry, threads):
            report.info(pull(registry, threads, name, directory, report, mirror=parsed.mirror))
    except KeyboardInterrupt:
        report.notice("Interrupted; each file is as it was before, or as the image has it")
        return INTERRUPTED
    return 0


def pull(
    registry: Crane,
    threads: Executor,
    name: Reference,
    directory: str,
    report: Report,
    *,
    mirror: bool,
) -> str:
    """Makes the directory hold the image's sources; returns what was done.

    Raises KontextError. Each file is then as it was before, or as the image has it.
    """
    if mirror:
        check_mirror(directory, os.path.expanduser("~"))
    found = fetch(registry, threads, name)
    tree = found.manifest.tree
    with Workspace(directory) as workspace:
        for path in sorted(tree.directories()):
            workspace.make_directory(path)
        written, wrong = 0, {}
        for file in files_of(found):
            state = workspace.reconcile(file)
            written += state != "right"
            if state == "wrong":
                wrong[file.path] = file
        if wrong:
            sizes = [file.size for file in wrong.values() if file.size is not None]
            known = f", {size(sum(sizes))}" if sizes else ""
            report.info(f"Pulling {name}: {number(len(wrong), 'file')}{known}")
            write_files(registry, name, found, workspace, wrong)
        for path, to in sorted(tree.links.items()):
            written += workspace.place_link(path, to)
        right = tree.file_count - written
        done = f"{number(tree.file_count, 'file')}: {written:,} written, {right:,} already right"
        if mirror:
            done += f", {workspace.mirror(tree):,} removed"
        return f'{done} in "{workspace.root}"'
