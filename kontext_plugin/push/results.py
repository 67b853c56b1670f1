"""The result of a push: standard output, and the files that its options name."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from kontext_plugin.cache import PushRecord
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.image.reference import Reference
from kontext_plugin.push.messages import parent_name
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.plan import Plan
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.terminal.text import json_document

_MODE = 0o644
"""The mode that buildx gives these files: later steps of a build may run as other users."""

_HINT = "Name a regular file, or a new one."


@dataclass(frozen=True)
class Pushed:
    """What a push has published, or found to be published already."""

    image: KontextImage
    tags: tuple[Reference, ...]
    plan: Plan  # as it was carried out
    written: tuple[Reference, ...]  # the tags that showed something else before
    uploaded: int  # bytes of blobs

    def __str__(self) -> str:
        """Return the line for standard output, `REPOSITORY@sha256:…`."""
        return self.tags[0].at(self.image.digest)


def remove_stale_results(options: PushOptions) -> None:
    """Remove the files of an earlier push, as docker does: a failed push must leave no digest.

    Raises KontextError, before anything is removed, where a file could not be written later.
    """
    named = (
        ("--iidfile", options.iidfile),
        ("--metadata-file", options.metadata_file),
        ("--provenance", options.provenance),
    )
    given = [(flag, path) for flag, path in named if path]
    for (flag, path), (other, same) in combinations(given, 2):
        if os.path.realpath(path) == os.path.realpath(same):
            raise UsageError(f"{flag} and {other} name the same file")
    paths = [path for _, path in given]
    try:
        for path in paths:
            _check(path)
            os.unlink(_make_beside(path))
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.realpath(path))
    except OSError as error:
        raise KontextError(
            f"{path!r} cannot be written: {error.strerror}",
            hint="Name a file in a directory that exists and that you may write to.",
        ) from error


def write_results(options: PushOptions, pushed: Pushed) -> None:
    """Write the files, each as a whole. Raises KontextError."""
    if options.iidfile:
        _write(options.iidfile, pushed.image.digest, pushed)
    if options.metadata_file:
        _write(options.metadata_file, json_document(metadata(pushed)) + "\n", pushed)
    if options.provenance:
        from kontext_plugin.push.provenance import statement

        _write(options.provenance, json_document(statement(options, pushed)) + "\n", pushed)


def metadata(pushed: Pushed) -> Mapping[str, Any]:
    """Return what --metadata-file holds: buildx's keys, and one with Kontext's own facts."""
    image, plan, parent = pushed.image, pushed.plan, pushed.plan.parent
    candidate = plan.candidate if pushed.written else None
    return {
        "containerimage.digest": image.digest,
        "image.name": ",".join(map(str, pushed.tags)),
        "kontext.push": {
            "tags": [str(tag) for tag in pushed.tags],
            "up_to_date": not pushed.written,
            "built_on": parent.parent.image if candidate and isinstance(parent, BuildOn) else None,
            "built_on_name": str(candidate.reference) if candidate else None,
            "built_on_reason": candidate.origin.value if candidate else None,
            "fresh": parent.reason if isinstance(parent, StartFresh) else None,
            "platforms": list(image.all_platforms),
            "generation": image.lineage.generation,
            "layers": len(image.image.layers),
            "files": plan.tree.file_count,
            "size": plan.tree.size,
            "uploaded": pushed.uploaded,
        },
    }


def records_of(root: str, pushed: Pushed) -> list[PushRecord]:
    """Return the records of a push of the directory `root`, one for each tag."""
    plan = pushed.plan
    counts = plan.counts
    return [
        PushRecord(
            directory=root,
            reference=str(tag),
            digest=pushed.image.digest,
            time=time.time(),
            generation=pushed.image.lineage.generation,
            revision=pushed.image.revision,
            parent=parent_name(plan.candidate) if plan.candidate else "",
            added=counts.added,
            changed=counts.changed,
            removed=counts.removed,
            uploaded=pushed.uploaded,
        )
        for tag in pushed.tags
    ]


def _write(path: str, text: str, pushed: Pushed) -> None:
    temporary = ""
    try:
        temporary = _make_beside(path)
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
            hint="Push again: that uploads nothing and writes the file.",
        ) from error


def _make_beside(path: str) -> str:
    """Make a new file in the same directory, following links; return its path."""
    directory = os.path.dirname(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=".kontext-", dir=directory)
    os.close(descriptor)
    return name


def _check(path: str) -> None:
    """Raise KontextError for a file that must not be removed. Raises OSError, too."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    # /dev/stdout may lead to a file.
    if any(os.path.samestat(status, os.fstat(stream)) for stream in (0, 1, 2)):
        raise KontextError(f"{path!r} is a standard stream of this command", hint=_HINT)
    if not stat.S_ISREG(status.st_mode):
        raise KontextError(f"{path!r} is not a regular file", hint=_HINT)
