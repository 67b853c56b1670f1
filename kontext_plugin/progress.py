"""Ends a process that waits in vain for its network.

Linux shows whether one gets on: `io` counts the bytes that it reads and writes, and `net/tcp` those
that the kernel has yet to send (4 MB of them are minutes on a slow line, while `io` stands still).
Its processor time is no sign: a slow upload takes less than one tick of it a minute.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_PROC = "/proc"
_LOOKS = 8
"""How often it is looked at within the limit; no look at all where it ends before the first."""

_NOISE = 64
"""Bytes a minute that are none: the runtime of a waiting Go program reads its processor limit."""


@dataclass(frozen=True)
class Look:
    """What there is to see of a process at one moment."""

    transferred: int = 0  # bytes, since it began
    queues: frozenset[str] = frozenset()  # its sockets, each with the bytes that wait in it
    waits_for_us: bool = False  # or for a person, whom a credential helper asks

    def is_beyond(self, before: Look, seconds: float) -> bool:
        """Whether there was progress in the `seconds` since `before`."""
        noise = _NOISE * (1 + seconds / 60)
        moved = self.transferred - before.transferred > noise or self.queues != before.queues
        return moved or self.waits_for_us


def is_visible(pid: int) -> bool:
    """Whether this system shows the progress of a process of ours. macOS does not."""
    return os.access(f"{_PROC}/{pid}/io", os.R_OK)


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
    try:
        return Look(
            _transferred(process.pid),
            _queues(process.pid),
            _is_unread(process) or _has_child(process.pid),
        )
    except OSError:
        return Look()


def _transferred(pid: int) -> int:
    with open(f"{_PROC}/{pid}/io", encoding="ascii") as file:
        counts = dict(line.split(": ") for line in file)
    return int(counts["rchar"]) + int(counts["wchar"])


def _queues(pid: int) -> frozenset[str]:
    descriptors, sockets, found = f"{_PROC}/{pid}/fd", set(), set()
    for name in os.listdir(descriptors):
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(os.path.join(descriptors, name)))
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"{_PROC}/{pid}/net/{table}", "rb") as file:
            for line in file:
                _, _, _, _, queues, _, _, _, _, inode, *_ = line.decode("ascii").split()
                if f"socket:[{inode}]" in sockets:
                    found.add(f"{inode} {queues}")
    return frozenset(found)


def _is_unread(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has written what we have not taken yet: then it may wait for us."""
    try:
        waiting = select.poll()
        waiting.register(process.stdout or -1, select.POLLIN)
        return any(events & select.POLLIN for _, events in waiting.poll(0))
    except ValueError:  # closed already: all was taken
        return False


def _has_child(pid: int) -> bool:
    """Whether a credential helper runs. docker sets it no limit either."""
    tasks = f"{_PROC}/{pid}/task"
    for task in os.listdir(tasks):
        with contextlib.suppress(OSError), open(f"{tasks}/{task}/children", "rb") as file:
            if file.read():
                return True
    return False
