"""`docker kontext pull`: writes an image's sources into a directory, without docker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor

from kontext_plugin import options, published, reference
from kontext_plugin.commands.registry import connected, timeout_of
from kontext_plugin.commands.table import PULL
from kontext_plugin.contents import fetch, files_of
from kontext_plugin.crane import Crane
from kontext_plugin.errors import INTERRUPTED
from kontext_plugin.mirror import check_mirror
from kontext_plugin.options import Globals
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report
from kontext_plugin.target import Target
from kontext_plugin.text import number, size


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = options.parse(PULL, arguments)
    name = reference.parse_image(positional[0])
    directory = positional[1] if len(positional) > 1 else "."
    report = Report(quiet=parsed.quiet, debug=flags.debug)
    link = connected(report, insecure=parsed.insecure, timeout=timeout_of(parsed))
    try:
        with link as (registry, threads):
            report.say(pull(registry, threads, name, directory, report, mirror=parsed.mirror))
    except KeyboardInterrupt:
        report.tell("Interrupted; each file is as it was before, or as the image has it")
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
    found = published.read(registry, threads, name)
    tree = found.manifest.tree
    with Target(directory) as target:
        for path in sorted(tree.directories()):
            target.make_directory(path)
        written, wrong = 0, {}
        for file in files_of(found):
            state = target.settle(file)
            written += state != "right"
            if state == "wrong":
                wrong[file.path] = file
        if wrong:
            sizes = [file.size for file in wrong.values() if file.size is not None]
            known = f", {size(sum(sizes))}" if sizes else ""
            report.say(f"Pulling {name}: {number(len(wrong), 'file')}{known}")
            fetch(registry, name, found, target, wrong)
        for path, to in sorted(tree.links.items()):
            written += target.place_link(path, to)
        right = tree.file_count - written
        done = f"{number(tree.file_count, 'file')}: {written:,} written, {right:,} already right"
        if mirror:
            done += f", {target.mirror(tree):,} removed"
        return f'{done} in "{target.root}"'
