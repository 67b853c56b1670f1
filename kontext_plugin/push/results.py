"""What a push has made, and the files that tell scripts of it: --iidfile and --metadata-file."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.reference import Reference
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import StartFresh, lineage_of
from kontext_plugin.push.plan import Plan
from kontext_plugin.terminal.text import json_document

_MODE = 0o644
"""As buildx has it: a build's later steps may run as other users."""

_HINT = "Name a file, or one that is not there yet."


@dataclass(frozen=True)
class Pushed:
    image: Digest
    tags: tuple[Reference, ...]
    plan: Plan  # as it was carried out
    uploaded: int  # bytes of layers

    def __str__(self) -> str:
        """What goes to standard output."""
        return self.tags[0].at(self.image)


def remove_stale_results(options: PushOptions) -> None:
    """Removes what an earlier push has written, as docker does: a failed one must leave no digest.

    Raises KontextError, before anything is removed, where a file could not be written later.
    """
    paths = [path for path in (options.iidfile, options.metadata_file) if path]
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UsageError("--iidfile and --metadata-file name the same file")
    try:
        for path in paths:
            _check(path)
            os.unlink(_beside(path))
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.realpath(path))
    except OSError as error:
        raise KontextError(
            f"{path!r} cannot be written: {error.strerror}",
            hint="Name a file in a directory that is there and yours.",
        ) from error


def write_results(options: PushOptions, pushed: Pushed) -> None:
    """Raises KontextError. Each file is there as a whole, or not at all."""
    if options.iidfile:
        _write(options.iidfile, pushed.image, pushed)
    if options.metadata_file:
        _write(options.metadata_file, json_document(metadata(pushed)) + "\n", pushed)


def metadata(pushed: Pushed) -> Mapping[str, Any]:
    """buildx's keys (`docker buildx build --metadata-file`), and one with what is Kontext's own."""
    plan, choice = pushed.plan, pushed.plan.choice
    fresh = choice.reason if isinstance(choice, StartFresh) else None
    if not isinstance(choice, StartFresh) and plan.up_to_date:
        built_on = None
        generation = lineage_of(choice.previous).generation
        layers = len(choice.previous.image.layers)
    else:
        built_on = None if isinstance(choice, StartFresh) else choice.image
        generation = plan.lineage.generation
        layers = len(plan.beneath) + len(plan.lower) + 1
    return {
        "containerimage.digest": pushed.image,
        "image.name": ",".join(map(str, pushed.tags)),
        "kontext.push": {
            "tags": [str(tag) for tag in pushed.tags],
            "up_to_date": plan.up_to_date,
            "built_on": built_on,
            "fresh": fresh,
            "generation": generation,
            "layers": layers,
            "files": plan.tree.file_count,
            "size": plan.tree.size,
            "uploaded": pushed.uploaded,
        },
    }


def _write(path: str, text: str, pushed: Pushed) -> None:
    temporary = ""
    try:
        temporary = _beside(path)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, _MODE)
        os.replace(temporary, os.path.realpath(path))
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise KontextError(
            f"{pushed} is published, but {path!r} cannot be written: {error.strerror}",
            hint="Push again: nothing will be uploaded, and the file be written.",
        ) from error


def _beside(path: str) -> str:
    """A new file in the same directory, which is where a link leads."""
    folder = os.path.dirname(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=".kontext-", dir=folder)
    os.close(descriptor)
    return name


def _check(path: str) -> None:
    """Raises KontextError for what must not be removed, and OSError."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    # /dev/stdout may lead to a file.
    if any(os.path.samestat(status, os.fstat(stream)) for stream in (0, 1, 2)):
        raise KontextError(f"{path!r} is where this command reads or writes", hint=_HINT)
    if not stat.S_ISREG(status.st_mode):
        raise KontextError(f"{path!r} is not a regular file", hint=_HINT)
