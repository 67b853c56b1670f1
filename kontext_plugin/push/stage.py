"""Write the layers of a prepared push, while files of the directory may change."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack

from kontext_plugin.delta import SourceMoved
from kontext_plugin.push.check import check_parent
from kontext_plugin.push.prepare import Prepared, scan_again
from kontext_plugin.push.publish import StagedLayers, stage_layers
from kontext_plugin.push.session import PushSession
from kontext_plugin.source.hashing import changed_twice


def stage(
    session: PushSession,
    prepared: Prepared,
    directory: str,
    *,
    scan_secrets: bool = False,
    check: bool = False,
) -> tuple[Prepared, StagedLayers | None]:
    """Write the new layers into `directory`; return them, and what was pushed in the end.

    Where a file is not as the scan saw it, the directory is scanned again. The push is planned
    anew, so image, manifest and layers agree. From then on each file that a scan reads is copied,
    and layers take the copy. So a path fails once at most, and this ends however much is written.

    There are no layers if the directory is what the parent has by now. `check` checks a new parent,
    and an empty `directory` writes nowhere. Raises KontextError.
    """
    moved: set[str] = set()
    copies = ""
    with ExitStack() as scratch:
        while prepared.partition is not None:
            # A worker may still write a layer of the last time.
            place = tempfile.mkdtemp(dir=directory) if directory else ""
            try:
                return prepared, stage_layers(
                    session,
                    prepared.source.root,
                    prepared.plan,
                    prepared.partition,
                    place,
                    scan_secrets=scan_secrets,
                    copies=copies,
                )
            except SourceMoved as error:
                if place:
                    shutil.rmtree(place, ignore_errors=True)
                if error.path in moved:
                    raise changed_twice(error.path) from error
                tell = session.report.debug if moved else session.report.info
                tell(f"{error.path!r} changed while its layer was written: scanning again")
                moved.add(error.path)
                copies = copies or scratch.enter_context(session.cache.scratch())
                prepared = scan_again(session, prepared, error.path, copies)
                if check:
                    prepared = check_parent(session, prepared)
    return prepared, None
