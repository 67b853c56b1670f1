"""Upload layers of a first push while others are still written.

crane has no verb for a blob alone. So an image of the layers that are ready goes up by its digest:
no tag shows it, and `crane push` finds its blobs there afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock

from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.crane_driver.watchdog import UploadProgress
from kontext_plugin.image.layout import StagedLayer, plain_image, write_layout
from kontext_plugin.image.reference import Reference
from kontext_plugin.push.session import PushSession
from kontext_plugin.terminal.steps import StepName

_MOST = 3
"""Images of one push: each leaves a manifest without a tag. On a slow line there are two: the
second one takes longer to upload than all other layers take to be written."""


class EarlyUpload:
    """The uploads of one push, one after the other, in the background.

    An upload that fails is no error: the push itself finds out what the registry refuses, and why.
    """

    def __init__(self, session: PushSession, tag: Reference, directory: str) -> None:
        """Layouts are written into `directory`."""
        self._session = session
        self._tag = tag
        self._directory = directory
        self._lock = Lock()  # for what follows
        self._ready: list[StagedLayer] = []  # and not uploaded
        self._uploads: list[UploadProgress] = []
        self._running: Future[None] | None = None
        self._left = _MOST  # images
        self._is_stopped = False

    def __enter__(self) -> EarlyUpload:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()  # so the directory may be removed

    @property
    def uploaded(self) -> int:
        """The bytes of the layers that the registry did not have, each of them whole."""
        return sum(progress.uploaded for progress in self._uploads)

    def add(self, layer: StagedLayer) -> None:
        """Upload a layer: now, or with all that are ready when the upload before it has ended."""
        with self._lock:
            self._ready.append(layer)
            if self._running is None and (layers := self._take()):
                self._running = self._session.jobs.submit(self._upload, layers)

    def stop(self) -> None:
        """Begin no other upload, and write no layout any more."""
        with self._lock:
            self._is_stopped = True

    def finish(self) -> None:
        """Begin no other upload now, and wait for the one that is running.

        Otherwise the push uploads the blobs of that one a second time.
        """
        with self._lock:
            self._ready.clear()
            running = self._running
        if running:
            with self._session.report.steps.step(StepName.CRANE_PUSH, self._uploads[-1].measure):
                running.result()

    def _take(self) -> list[StagedLayer]:
        """Return the layers of the next upload; none after the last one."""
        layers, self._ready = self._ready if self._left and not self._is_stopped else [], []
        if layers:
            self._left -= 1
            self._uploads.append(
                UploadProgress({one.layer.digest: one.layer.size for one in layers})
            )
        return layers

    def _upload(self, layers: list[StagedLayer]) -> None:
        while layers:
            if not self._push(layers, self._uploads[-1]):
                self.stop()
            with self._lock:
                if not (layers := self._take()):
                    self._running = None

    def _push(self, layers: Sequence[StagedLayer], progress: UploadProgress) -> bool:
        """Push an image of these layers; return whether the registry took it."""
        image = plain_image([(one.layer, one.diff_id) for one in layers])
        try:
            with self._lock:
                if self._is_stopped:
                    return False
                place = os.path.join(tempfile.mkdtemp(dir=self._directory), "layout")
                write_layout(place, image.index, image.documents, layers)
            name = self._tag.at(image.digest)
            self._session.crane.push_layout(place, name, progress=progress)
        except (OSError, RegistryError) as error:
            self._session.report.debug(f"cannot upload layers before the others: {error}")
            return False
        return True
