"""What Linux shows of a process of ours: what it has passed on, and what waits to be sent.

Ends a process that waits in vain for its network.

Linux shows whether one gets on: `io` counts the bytes that it reads and writes, and `net/tcp` those
that the kernel has yet to send (4 MB of them are minutes on a slow line, while `io` stands still).
Its processor time is no sign: a slow upload takes less than one tick of it a minute.

How much of an upload has arrived, as far as one can see from outside of crane.

crane reads a layer up to three times, so what it has read says nothing. What it has written, less
what its sockets still hold, is what the other side's machine has; and crane says of each blob when
it is through, or was there already. On loopback and on a slow line that is true to some 100 kB.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kontext_plugin.image.oci import Digest
from kontext_plugin.terminal.steps import Progress

PROC = "/proc"


class BytesPassed(NamedTuple):
    """Bytes that a process has read and written since it began, of files and sockets alike."""

    read: int
    written: int


def is_visible(pid: int) -> bool:
    """Whether this system shows a process of ours. macOS does not."""
    return os.access(f"{PROC}/{pid}/io", os.R_OK)


def bytes_passed(pid: int) -> BytesPassed:
    """Raises OSError for one that has ended."""
    with open(f"{PROC}/{pid}/io", encoding="ascii") as file:
        counts = dict(line.split(": ") for line in file)
    return BytesPassed(int(counts["rchar"]), int(counts["wchar"]))


def queues(pid: int) -> Mapping[str, str]:
    """Each of its TCP sockets, and the bytes that wait in it: `SENT:RECEIVED`, hexadecimal.

    Those sent wait until the other side has them. Raises OSError for one that has ended.
    """
    descriptors, sockets, found = f"{PROC}/{pid}/fd", set(), {}
    for name in os.listdir(descriptors):
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(os.path.join(descriptors, name)))
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"{PROC}/{pid}/net/{table}", "rb") as file:
            for line in file:
                _, _, _, _, waiting, _, _, _, _, inode, *_ = line.decode("ascii").split()
                if f"socket:[{inode}]" in sockets:
                    found[inode] = waiting
    return found


def has_child(pid: int) -> bool:
    """Raises OSError for one that has ended."""
    tasks = f"{PROC}/{pid}/task"
    for task in os.listdir(tasks):
        with contextlib.suppress(OSError), open(f"{tasks}/{task}/children", "rb") as file:
            if file.read():
                return True
    return False


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
def watch(
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
            now = take_look(process)
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


def take_look(process: subprocess.Popen[bytes]) -> Look:
    """One that has just ended shows nothing."""
    pid = process.pid
    try:
        return Look(
            sum(bytes_passed(pid)),
            frozenset(queues(pid).items()),
            _is_unread(process) or has_child(pid),  # a helper: docker sets it no limit either
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


PUSHED = re.compile(rb"pushed blob: (sha256:[0-9a-f]{64})")

_THERE = re.compile(rb"(?:existing|mounted) blob: (sha256:[0-9a-f]{64})")

_ALL_THERE = b"existing manifest: "


@dataclass
class Transfer:
    """Of the layers of one run of crane, by their sizes in bytes. May be asked by any thread."""

    sizes: Mapping[Digest, int]
    _pid: int = 0  # of crane, once it runs
    _messages: bytearray = field(default_factory=bytearray)
    _arrived: int = 0

    def follow(self, pid: int, messages: bytearray) -> None:
        """From now on it is this crane, which adds to its messages."""
        self._pid, self._messages = pid, messages

    def amount(self) -> Progress:
        """The bytes that have arrived, never fewer than before, of those that must go.

        Where a system does not show it, a blob counts when crane is through with it.
        """
        messages = bytes(self._messages)
        pushed = self._size(PUSHED, messages)
        total = sum(self.sizes.values()) - self._size(_THERE, messages)
        if _ALL_THERE in messages:
            total = pushed
        seen = max(pushed, self._sent(), self._arrived)
        self._arrived = min(seen, total)
        return Progress(bytes=self._arrived, total_bytes=total)

    def _size(self, kind: re.Pattern[bytes], messages: bytes) -> int:
        digests = {Digest(digest.decode("ascii")) for digest in kind.findall(messages)}
        return sum(self.sizes.get(digest, 0) for digest in digests)

    def _sent(self) -> int:
        try:
            waiting = queues(self._pid).values()
            return bytes_passed(self._pid).written - sum(int(queue[:8], 16) for queue in waiting)
        except OSError:
            return 0
