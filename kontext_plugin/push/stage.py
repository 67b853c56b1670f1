"""Write the layers of a prepared push, while files of the directory may change."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from kontext_plugin.delta import SourceMoved
from kontext_plugin.push import messages
from kontext_plugin.push.check import check_parent
from kontext_plugin.push.early import EarlyUpload
from kontext_plugin.push.layers import (
    StagedLayers,
    WriteOptions,
    WrittenLayer,
    write_lower,
    write_top,
)
from kontext_plugin.push.prepare import Prepared, scan_again, take_scan
from kontext_plugin.push.session import PushSession
from kontext_plugin.runtime.status import HashedFile, unpack_hashed
from kontext_plugin.secret_scan.policy import SecretPolicy
from kontext_plugin.source.hashing import changed_twice
from kontext_plugin.source.scan import complete


def stage(
    session: PushSession,
    prepared: Prepared,
    directory: str,
    *,
    policy: SecretPolicy | None = None,
    early: EarlyUpload | None = None,
    check: bool = False,
) -> tuple[Prepared, StagedLayers | None]:
    """Write the new layers into `directory`; return them, and what was pushed in the end.

    Files that are still unread are read while they are written. Where a file is not as the scan
    saw it, the directory is scanned again. The push is planned anew, so image, manifest and layers
    agree. From then on each file that a scan reads is copied, and layers take the copy. So a path
    fails once at most, and this ends however much is written.

    There are no layers if the directory is what the parent has by now. `policy` says whether to
    look for secrets. `early` uploads layers while others are written, but none that `policy`
    blocks. `check` checks a new parent. An empty `directory` writes nowhere. Raises KontextError.
    """
    moved: set[str] = set()
    copies = ""
    with ExitStack() as scratch:
        while prepared.partition is not None:
            # A worker may still write a layer of the last time.
            place = tempfile.mkdtemp(dir=directory) if directory else ""
            scan_secrets = policy is not None and policy.needs_scan
            options = WriteOptions(prepared.source.root, place, scan_secrets, copies)
            try:
                prepared, lower = _write_lower(session, prepared, options, policy, early)
                if lower is None or prepared.partition is None:
                    continue
                plan, divided = prepared.plan, prepared.partition
                return prepared, write_top(session, plan, divided, lower, options)
            except SourceMoved as error:
                if place:
                    shutil.rmtree(place, ignore_errors=True)
                if error.path in moved:
                    raise changed_twice(error.path) from error
                tell = session.report.debug if moved else session.report.info
                tell(f"{error.path!r} changed while its layer was written: scanning again")
                moved.add(error.path)
                copies = copies or scratch.enter_context(session.scratch())
                prepared = scan_again(session, prepared, error.path, copies)
                session.report.info(messages.scanned(prepared.scan))
                if check:
                    prepared = check_parent(session, prepared)
    return prepared, None


def _write_lower(
    session: PushSession,
    prepared: Prepared,
    options: WriteOptions,
    policy: SecretPolicy | None,
    early: EarlyUpload | None,
) -> tuple[Prepared, list[WrittenLayer] | None]:
    """Write the layers below the top one, and complete the scan if it left the files unread.

    There are no layers if those of the complete scan would be others. Raises SourceMoved, and
    KontextError.
    """
    divided, unread = prepared.partition, prepared.scan.unread
    assert divided is not None
    if unread and not divided.lower:  # the one layer begins with the digests of its files
        return scan_again(session, prepared), None
    written: dict[int, WrittenLayer] = {}

    def take() -> Iterator[HashedFile]:
        for number, layer in write_lower(session, prepared.plan, divided, options):
            written[number] = replace(layer, hashed=b"")
            if early and policy is not None and policy.blocks(layer.findings):
                early.stop()
            if early and len(written) < len(divided.lower):
                early.add(layer.staged)
            if unread:
                paths = filter(unread.tree.sizes.__contains__, divided.lower[number])
                yield from unpack_hashed(paths, layer.hashed)
        session.workers.end()  # the main process needs the memory now

    if unread:
        complete_scan = complete(unread, take())
        prepared = take_scan(session, prepared, complete_scan)
        if prepared.partition is None or prepared.partition.lower != divided.lower:
            return prepared, None  # files have grown or shrunk: the cuts are elsewhere
    else:
        deque(take(), maxlen=0)
    return prepared, [written[number] for number in sorted(written)]
