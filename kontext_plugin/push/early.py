"""Upload layers of a first push while others are still written.

crane has no verb for a blob alone. So an image of the layers that are ready goes up by its digest:
no tag shows it, and `crane push` finds its blobs there afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future

from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.crane_driver.watchdog import UploadProgress
from kontext_plugin.image.layout import StagedLayer, plain_image, write_layout
from kontext_plugin.image.reference import Reference
from kontext_plugin.push.session import PushSession
from kontext_plugin.terminal.steps import StepName

_MOST = 3
"""Images of one push: each leaves a manifest without a tag. On a slow line there is one: that takes
longer to upload than all other layers take to be written."""


class EarlyUpload:
    """The uploads of one push, one after the other, in the background.

    An upload that fails is no error: the push itself finds out what the registry refuses, and why.
    """

    def __init__(self, session: PushSession, tag: Reference, directory: str) -> None:
        """Layouts are written into `directory`."""
        self._session = session
        self._tag = tag
        self._directory = directory
        self._ready: list[StagedLayer] = []  # and not uploaded
        self._uploads: list[tuple[Future[bool], UploadProgress]] = []

    @property
    def uploaded(self) -> int:
        """The bytes of the layers that the registry did not have, each of them whole."""
        return sum(progress.uploaded for _, progress in self._uploads)

    def add(self, layer: StagedLayer) -> None:
        """Upload a layer, with all that are ready, unless an upload is still running."""
        self._ready.append(layer)
        if len(self._uploads) == _MOST:
            return
        if all(upload.done() and upload.result() for upload, _ in self._uploads):
            layers, self._ready = self._ready, []
            progress = UploadProgress({one.layer.digest: one.layer.size for one in layers})
            upload = self._session.jobs.submit(self._push, layers, progress)
            self._uploads.append((upload, progress))

    def finish(self) -> None:
        """Wait for the upload that is running: its blobs would else be uploaded twice."""
        for upload, progress in self._uploads:
            if not upload.done():
                with self._session.report.steps.step(StepName.CRANE_PUSH, progress.measure):
                    upload.result()

    def _push(self, layers: Sequence[StagedLayer], progress: UploadProgress) -> bool:
        """Push an image of these layers; return whether the registry took it."""
        place = os.path.join(tempfile.mkdtemp(dir=self._directory), "layout")
        image = plain_image([(one.layer, one.diff_id) for one in layers])
        try:
            write_layout(place, image.index, image.documents, layers)
            name = self._tag.at(image.digest)
            self._session.crane.push_layout(place, name, progress=progress)
        except (OSError, RegistryError) as error:
            self._session.report.debug(f"cannot upload layers before the others: {error}")
            return False
        return True
