"""The contents of an image's sources, as `crane export` shows them and its manifest vouches for."""

from __future__ import annotations

import hashlib
import os
from typing import IO, TYPE_CHECKING

from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.manifest import SOURCES
from kontext_plugin.tree import Tree, parents

if TYPE_CHECKING:
    import tarfile

_COPY = 1024 * 1024


def fetch(registry: Crane, name: str, tree: Tree, folder: str) -> None:
    """Writes the regular files of `tree` below an empty private folder.

    What is written, and where, the tree says; the image `name` has to have it, byte for byte.
    Links are not made, so that nothing can lead out of the folder. Raises KontextError.
    """
    try:
        for directory in parents(tree.sizes):
            os.mkdir(os.path.join(folder, directory))
        with registry.export(name) as stream:
            missing = _unpack(stream, tree, folder)
    except ValueError as error:
        raise KontextError(
            f"{name} does not hold what its manifest says: {error}",
            hint="Push the directory again with --fresh.",
        ) from error
    except OSError as error:
        raise KontextError(
            f"the image's files cannot be written to {folder}: {error.strerror}",
            hint="Free some space there, or name another folder with KONTEXT_CACHE_DIR.",
        ) from error
    if missing:
        raise KontextError(
            f"{name} does not hold what its manifest says: {min(missing)!r} is not there",
            hint="Push the directory again with --fresh.",
        )


def _unpack(stream: IO[bytes], tree: Tree, folder: str) -> set[str]:
    """The paths that the archive lacks. Raises ValueError for what is damaged, and OSError."""
    import tarfile  # 10 ms

    missing = {*tree.sizes}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                path = member.name.lstrip("/").removeprefix(f"{SOURCES}/")
                if path == member.name.lstrip("/") or not member.isfile():
                    continue
                if path in missing:
                    missing.remove(path)
                    _copy(archive, member, tree, path, folder)
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error
    return missing


def _copy(
    archive: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree, path: str, folder: str
) -> None:
    content = archive.extractfile(member)
    digest = hashlib.sha256()
    if content is None or member.size != tree.sizes[path]:
        raise ValueError(f"{path!r} has another size")
    with open(os.path.join(folder, path), "xb") as file:
        while piece := content.read(_COPY):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != tree.files[path]:
        raise ValueError(f"{path!r} has other content")
