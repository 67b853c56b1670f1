"""`docker kontext pull`: write an image's files into a directory, without docker."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import PULL, timeout_of
from kontext_plugin.crane import Crane, connect
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.push.history import resolve
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.runtime.docker_config import home_directory
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.progress import choose_mode, reporting
from kontext_plugin.terminal.steps import Progress, StepName
from kontext_plugin.terminal.text import number, size
from kontext_plugin.unpack import files_of, write_files
from kontext_plugin.workspace import Workspace, check_mirror


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text, *rest) = parse(PULL, arguments)
    name = parse_image_reference(text)
    directory = rest[0] if rest else "."
    timeout = timeout_of(parsed)
    try:
        with (
            reporting(choose_mode(None, parsed.quiet), flags.debug) as report,
            connect(report.debug, insecure=parsed.insecure, timeout=timeout) as (crane, requests),
        ):
            name = resolve(crane, requests, name)
            report.info(pull(crane, requests, name, directory, report, mirror=parsed.mirror))
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            "each file is as it was before, or as the image has it"
        ) from interrupt
    return 0


def pull(
    crane: Crane,
    requests: Executor,
    name: Reference,
    directory: str,
    report: Report,
    *,
    mirror: bool,
) -> str:
    """Make the directory hold the image's files; return a line that says what was done.

    Raises KontextError. Each file is then as it was before, or as the image has it.
    """
    if mirror:
        check_mirror(directory, home_directory() or "/")
    image = fetch(crane, requests, name)
    tree = image.manifest.tree
    with Workspace(directory) as workspace:
        workspace.check_names(tree)
        for path in sorted(tree.directories()):
            workspace.make_directory(path)
        written, wrong = 0, {}
        with report.steps.step(StepName.HASH) as step:
            step.progress = Progress(total_files=len(tree.sizes), total_bytes=tree.size)
            for file in files_of(image):
                before = step.progress.bytes
                state = workspace.reconcile(file, step)
                # What is absent or has another size was not read.
                step.advance(1, (file.size or 0) - (step.progress.bytes - before))
                written += state != "right"
                if state == "wrong":
                    wrong[file.path] = file
        if wrong:
            sizes = [file.size for file in wrong.values() if file.size is not None]
            known_size = f", {size(sum(sizes))}" if sizes else ""
            report.info(f"Pulling {name}: {number(len(wrong), 'file')}{known_size}")
            scratch = open_cache().scratch
            with Workers() as workers:
                write_files(crane, workers, scratch, name, image, workspace, wrong, report.steps)
        for path, target in sorted(tree.links.items()):
            written += workspace.place_link(path, target)
        right = tree.file_count - written
        done = f"{number(tree.file_count, 'file')}: {written:,} written, {right:,} already right"
        if mirror:
            done += f", {workspace.mirror(tree):,} removed"
        return f'{done} in "{workspace.root}"'
