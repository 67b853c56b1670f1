"""Ends a process that waits in vain for its network.

Linux shows whether one gets on: `io` counts the bytes that it reads and writes, and `net/tcp` those
that the kernel has yet to send (4 MB of them are minutes on a slow line, while `io` stands still).
Its processor time is no sign: a slow upload takes less than one tick of it a minute.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kontext_plugin import proc

_LOOKS = 8
"""How often it is looked at within the limit; no look at all where it ends before the first."""

_NOISE = 64
"""Bytes a minute that are none: the runtime of a waiting Go program reads its processor limit."""


@dataclass(frozen=True)
class Look:
    """What there is to see of a process at one moment."""

    transferred: int = 0  # bytes, since it began
    queues: frozenset[tuple[str, str]] = frozenset()  # as proc.queues has them
    waits_for_us: bool = False  # or for a person, whom a credential helper asks

    def is_beyond(self, before: Look, seconds: float) -> bool:
        """Whether there was progress in the `seconds` since `before`."""
        noise = _NOISE * (1 + seconds / 60)
        moved = self.transferred - before.transferred > noise or self.queues != before.queues
        return moved or self.waits_for_us


@contextlib.contextmanager
def limited(
    process: subprocess.Popen[bytes], limit: float, end: Callable[[], None]
) -> Iterator[threading.Event]:
    """Calls `end` after `limit` seconds without progress, 0 being never. The event tells of it.

    Only what was looked at counts: time in which this machine sleeps, or we are stopped, does not.
    """
    left, silent = threading.Event(), threading.Event()

    def watch() -> None:
        step, quiet = limit / _LOOKS, 0
        seen: Look | None = None
        while quiet < _LOOKS:
            if left.wait(step):
                return
            now = look(process)
            if seen is None or now.is_beyond(seen, (quiet + 1) * step):
                seen, quiet = now, 0
            else:
                quiet += 1
        silent.set()
        end()

    watcher = threading.Thread(target=watch, daemon=True)
    if limit:
        watcher.start()
    try:
        yield silent
    finally:
        left.set()
        if limit:
            watcher.join()


def look(process: subprocess.Popen[bytes]) -> Look:
    """One that has just ended shows nothing."""
    pid = process.pid
    try:
        return Look(
            sum(proc.passed(pid)),
            frozenset(proc.queues(pid).items()),
            _is_unread(process) or proc.has_child(pid),  # a helper: docker sets it no limit either
        )
    except OSError:
        return Look()


def _is_unread(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has written what we have not taken yet: then it may wait for us."""
    try:
        waiting = select.poll()
        waiting.register(process.stdout or -1, select.POLLIN)
        return any(events & select.POLLIN for _, events in waiting.poll(0))
    except ValueError:  # closed already: all was taken
        return False
