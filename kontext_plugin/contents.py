"""The contents of an image's sources, as `crane export` shows them and its manifest vouches for."""

from __future__ import annotations

from collections.abc import Mapping

from kontext_plugin import exported
from kontext_plugin.base_choice import Previous
from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.reference import Reference
from kontext_plugin.target import File, Target


def files_of(found: Previous) -> list[File]:
    """The regular files of an image. Version 1 of the manifest lists no sizes."""
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


def fetch(
    registry: Crane,
    name: Reference,
    found: Previous,
    target: Target,
    wanted: Mapping[str, File],
) -> None:
    """Writes the wanted files of the image that `name` was found to be; reads no further than that.

    Raises KontextError where the image has not what its manifest says.
    """
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
