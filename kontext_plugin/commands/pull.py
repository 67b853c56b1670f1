"""`docker kontext pull`: writes an image's sources into a directory, without docker."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kontext_plugin import crane, exported, options, published, reference
from kontext_plugin.base_choice import Previous
from kontext_plugin.commands.preparation import idle_threads
from kontext_plugin.commands.push_arguments import timeout
from kontext_plugin.commands.table import PULL
from kontext_plugin.crane import Crane
from kontext_plugin.errors import INTERRUPTED, KontextError
from kontext_plugin.options import Globals
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report, number
from kontext_plugin.target import File, Target, check_mirror


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = options.parse(PULL, arguments)
    name = reference.parse_image(positional[0])
    directory = positional[1] if len(positional) > 1 else "."
    report = Report(quiet=parsed.quiet, debug=flags.debug)
    registry = crane.find(parsed.insecure, report.trace, timeout(parsed))
    try:
        report.say(pull(registry, name, directory, mirror=parsed.mirror))
    except KeyboardInterrupt:
        report.tell("Interrupted; each file is as it was before, or as the image has it")
        return INTERRUPTED
    return 0


def pull(registry: Crane, name: Reference, directory: str, *, mirror: bool) -> str:
    """Makes the directory hold the image's sources; returns what was done.

    Raises KontextError. Each file is then as it was before, or as the image has it.
    """
    if mirror:
        check_mirror(directory, os.path.expanduser("~"))
    with idle_threads() as threads, registry:
        found = published.read(registry, threads, name)
        tree = found.manifest.tree
        with Target(directory) as target:
            for path in sorted(tree.directories()):
                target.make_directory(path)
            written, wrong = 0, {}
            for file in _files(found):
                state = target.settle(file)
                written += state != "right"
                if state == "wrong":
                    wrong[file.path] = file
            if wrong:
                _fetch(registry, name, found, target, wrong)
            for path, to in sorted(tree.links.items()):
                written += target.place_link(path, to)
            right = tree.file_count - written
            done = (
                f"{number(tree.file_count, 'file')}: {written:,} written, {right:,} already right"
            )
            if mirror:
                done += f", {target.mirror(tree):,} removed"
            return f'{done} in "{target.root}"'


def _files(found: Previous) -> list[File]:
    """The regular files. Version 1 of the manifest lists no sizes."""
    tree = found.manifest.tree
    return [
        File(
            path,
            tree.files[path],
            tree.sizes[path] if found.manifest.lineage else None,
            path in tree.executable,
        )
        for path in sorted(tree.sizes)
    ]


def _fetch(
    registry: Crane, name: Reference, found: Previous, target: Target, wanted: dict[str, File]
) -> None:
    """Writes the wanted files, and reads no further than it must."""
    limit = exported.most_bytes(found.manifest.tree)
    if found.manifest.lineage is None:
        limit += exported.most_unpacked(found.image.layers)
    missing = dict(wanted)
    try:
        with registry.export(name.at(found.image.digest)) as stream:
            export = exported.Export(stream, limit)
            for entry in export.entries():
                file = missing.pop(entry.path, None)
                if file is None:
                    continue
                if entry.what != "a file":
                    raise ValueError(f"{entry.path!r} is {entry.what}, not a file")
                if file.size not in (None, entry.size):
                    raise ValueError(f"{entry.path!r} has another size")
                target.write(file, export.content())
                if not missing:
                    return
            raise ValueError(f"{min(missing)!r} is missing")
    except ValueError as error:
        raise KontextError(
            f"{name} is not what its manifest says: {error}",
            hint="What was written is as the manifest says. Push the image again with --fresh; "
            "'docker kontext verify' shows all that is wrong with it.",
        ) from error
