"""Find out whether a push can succeed, before a large one compresses anything.

A registry says only when something is written whether it takes it: whoever may read a repository
may not push to it, and an immutable tag looks like any other. So ask with something small.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from kontext_plugin.crane_driver.errors import Refused, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.layout import plain_image, write_layout
from kontext_plugin.image.oci import Layer, digest_of
from kontext_plugin.image.reference import Reference
from kontext_plugin.push.find import Found
from kontext_plugin.push.session import PushSession
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.steps import StepName
from kontext_plugin.terminal.text import size

LARGE = 32 * 1024 * 1024
"""Bytes of files to compress. The upload of a smaller push asks as soon."""

_MOST_COMPRESSED = 1032
"""DEFLATE makes a file at most so many times smaller (zlib's technical details)."""

_NO_LAYER = Layer(digest_of(b"Kontext asks whether it may upload a layer"), size=1)
"""A layer that exists nowhere."""


class Preflight:
    """The questions of one push. Each repository is asked once."""

    def __init__(self, session: PushSession) -> None:
        self._session = session
        self._asked: set[str] = set()

    def check(self, found: Found, to_write: int) -> None:
        """Ask whether the registry takes a push of so many bytes. Raises RegistryError if not."""
        if to_write >= LARGE:
            with self._session.report.steps.step(StepName.ASK_REGISTRY):
                self.check_uploads(found, found.shown)
                self.check_tags(found)

    def check_uploads(self, found: Found, tags: Iterable[Reference]) -> None:
        """Ask the repositories of the tags to begin an upload.

        Nothing stays in the registry. Raises RegistryError if one refuses.
        """
        tags_to_ask = {tag.repository: tag for tag in tags if tag.repository not in self._asked}
        if not tags_to_ask:
            return
        with self._session.scratch() as directory:
            layout = os.path.join(directory, "layout")
            question = plain_image([(_NO_LAYER, _NO_LAYER.digest)])
            write_layout(layout, question.index, question.documents, ())
            for repository, tag in tags_to_ask.items():
                try:
                    self._session.crane.check_upload(layout, tag.at(question.digest))
                except Refused as error:
                    raise found.in_its_words(error) from error
                self._asked.add(repository)

    def check_tags(self, found: Found) -> None:
        """Write each tag that exists again, as it is. Raises Refused if it is immutable.

        No verb of crane's asks for less. A tag that somebody else has just moved is left alone.
        """
        crane = self._session.crane
        for tag, digest in found.shown.items():
            try:
                if digest and crane.digest(str(tag)) == digest:
                    crane.tag(tag.at(digest), tag.tag)
            except Refused:
                raise
            except RegistryError as error:  # not the answer to this question
                self._session.report.debug(f"cannot check {tag}: {error.message}")


def check_room(directory: str, to_write: int, report: Report) -> None:
    """Raise KontextError if the disk cannot hold the layers, and warn if it may not.

    `to_write` is in bytes, uncompressed.
    """
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    hint = "Free some space there, or name another directory with KONTEXT_CACHE_DIR."
    if to_write > free * _MOST_COMPRESSED:
        raise KontextError(
            f"the layers cannot be written to {directory}: {os.strerror(errno.ENOSPC)} "
            f"({size(free)} free for {size(to_write)} of files)",
            hint=hint,
        )
    if to_write >= LARGE and to_write > 2 * free:
        report.notice(
            f"{directory} has {size(free)} free, which may not hold the layers of "
            f"{size(to_write)} of files. {hint}"
        )
