"""Watch a running crane from outside: whether it makes progress, and how much has arrived.

1. What Linux shows of a process: bytes read and written, bytes in its sockets, its children.
2. `watch` ends a process that makes no progress.
3. `UploadProgress` tells how much of an upload has arrived.
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

# --- What Linux shows of a process (proc(5)) ---

PROC = "/proc"


class IOCounts(NamedTuple):
    """Bytes that a process has read and written since its start, in files and sockets."""

    read: int
    written: int


def is_visible(pid: int) -> bool:
    """Return whether this system shows the process. macOS shows none."""
    return os.access(f"{PROC}/{pid}/io", os.R_OK)


def io_counts(pid: int) -> IOCounts:
    """Return the bytes that a process has read and written. Raises OSError if it has ended."""
    with open(f"{PROC}/{pid}/io", encoding="ascii") as file:
        counts = dict(line.split(": ") for line in file)
    return IOCounts(int(counts["rchar"]), int(counts["wchar"]))


def socket_queues(pid: int) -> Mapping[str, str]:
    """Return each TCP socket of a process, by its inode, with the bytes that wait in it.

    The bytes have the form `SENT:RECEIVED`, hexadecimal. Sent bytes wait until the other machine
    has confirmed them. Raises OSError if the process has ended.
    """
    descriptors, sockets, queues = f"{PROC}/{pid}/fd", set(), {}
    for name in os.listdir(descriptors):
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(os.path.join(descriptors, name)))
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"{PROC}/{pid}/net/{table}", "rb") as file:
            for line in file:
                _, _, _, _, waiting, _, _, _, _, inode, *_ = line.decode("ascii").split()
                if f"socket:[{inode}]" in sockets:
                    queues[inode] = waiting
    return queues


def has_child(pid: int) -> bool:
    """Return whether a process has a child. Raises OSError if it has ended."""
    tasks = f"{PROC}/{pid}/task"
    for task in os.listdir(tasks):
        with contextlib.suppress(OSError), open(f"{tasks}/{task}/children", "rb") as file:
            if file.read():
                return True
    return False


# --- End a process that makes no progress ---

_CHECKS = 8
"""Snapshots within the time limit. A run that is shorter than the first interval costs none."""

_NOISE = 64
"""Bytes a minute that are no progress: the runtime of a Go program that waits reads its processor
limit now and then."""


@dataclass(frozen=True)
class Snapshot:
    """What Linux shows of a process at one moment.

    The socket queues count too: 4 MB in the kernel take minutes on a slow line, and the process
    neither reads nor writes meanwhile. Processor time does not: a slow upload takes less than one
    tick a minute.
    """

    transferred: int = 0  # bytes read and written since its start
    queues: frozenset[tuple[str, str]] = frozenset()  # as in socket_queues()
    waits_for_us: bool = False  # for Kontext to read
    waits_for_child: bool = False  # a credential helper, which may ask a person for a password

    def shows_progress(self, before: Snapshot, seconds: float) -> bool:
        """Return whether there was progress in the `seconds` since `before`."""
        noise = _NOISE * (1 + seconds / 60)
        moved = self.transferred - before.transferred > noise or self.queues != before.queues
        return moved or self.waits_for_us


class Stall(threading.Event):
    """Is set when a process was ended for lack of progress."""

    in_child = False  # whether it then waited for a child


def has_person() -> bool:
    """Return whether there is a terminal, where a person may answer what a helper asks."""
    return any(map(os.isatty, (0, 1, 2)))


@contextlib.contextmanager
def watch(
    process: subprocess.Popen[bytes],
    limit: float,
    end: Callable[[], None],
    *,
    allows_child: bool = True,
) -> Iterator[Stall]:
    """Call `end` after `limit` seconds without progress, never if it is 0. Yield an event.

    The event is set before `end` is called. Time is counted in snapshots: time in which this
    machine sleeps, or Kontext is stopped, does not count. If the process `allows_child`, the time
    in which it waits for a child does not count either.
    """
    left, stalled = threading.Event(), Stall()

    def check() -> None:
        interval, quiet = limit / _CHECKS, 0
        before: Snapshot | None = None
        while quiet < _CHECKS:
            if left.wait(interval):
                return
            now = take_snapshot(process)
            if (
                before is None
                or now.shows_progress(before, (quiet + 1) * interval)
                or (now.waits_for_child and allows_child)
            ):
                before, quiet = now, 0
            else:
                quiet += 1
        stalled.in_child = now.waits_for_child
        stalled.set()
        end()

    thread = threading.Thread(target=check, daemon=True)
    if limit:
        thread.start()
    try:
        yield stalled
    finally:
        left.set()
        if limit:
            thread.join()


def take_snapshot(process: subprocess.Popen[bytes]) -> Snapshot:
    """Return what Linux shows of a process. One that has ended shows nothing."""
    pid = process.pid
    try:
        return Snapshot(
            sum(io_counts(pid)),
            frozenset(socket_queues(pid).items()),
            _has_unread_output(process),
            has_child(pid),
        )
    except OSError:
        return Snapshot()


def _has_unread_output(process: subprocess.Popen[bytes]) -> bool:
    try:
        waiting = select.poll()
        waiting.register(process.stdout or -1, select.POLLIN)
        return any(events & select.POLLIN for _, events in waiting.poll(0))
    except ValueError:  # the pipe is closed: everything was read
        return False


# --- How much of an upload has arrived ---

_PUSHED = re.compile(rb"pushed blob: (sha256:[0-9a-f]{64})")

_PRESENT = re.compile(rb"(?:existing|mounted) blob: (sha256:[0-9a-f]{64})")

_ALL_PRESENT = b"existing manifest: "


def pushed_blobs(messages: bytes | bytearray) -> frozenset[Digest]:
    """Return the digests of the blobs that crane has uploaded, from what it printed on stderr."""
    return _digests(_PUSHED, messages)


@dataclass
class UploadProgress:
    """How much of the layers of one run of crane has arrived. Any thread may ask.

    crane reads a layer up to three times, so the bytes that it has read say nothing. The bytes
    that it has written, less those that wait in its sockets, have arrived at the other machine.
    That is exact to about 100 kB, on a slow line and on loopback. crane also prints a line when a
    blob is complete, or was there already.
    """

    sizes: Mapping[Digest, int]  # in bytes, of each layer
    _pid: int = 0  # of crane, once it runs
    _messages: bytearray = field(default_factory=bytearray)
    _arrived: int = 0  # bytes

    def follow(self, pid: int, messages: bytearray) -> None:
        """Watch this crane from now on. It prints `messages`, which grow."""
        self._pid, self._messages = pid, messages

    def measure(self) -> Progress:
        """Return the bytes that have arrived, never fewer than before, and those that must.

        On a system that shows no processes, a blob counts as soon as it is complete.
        """
        messages = bytes(self._messages)
        pushed = self._size(pushed_blobs(messages))
        total = sum(self.sizes.values()) - self._size(_digests(_PRESENT, messages))
        if _ALL_PRESENT in messages:
            total = pushed
        arrived = max(pushed, self._sent(), self._arrived)
        self._arrived = min(arrived, total)
        return Progress(bytes=self._arrived, total_bytes=total)

    @property
    def uploaded(self) -> int:
        """The bytes of the blobs that are uploaded, each of them whole."""
        return self._size(pushed_blobs(bytes(self._messages)))

    @property
    def is_complete(self) -> bool:
        """Whether the registry has all blobs, so that only manifests are left to write."""
        messages = bytes(self._messages)
        there = pushed_blobs(messages) | _digests(_PRESENT, messages)
        return _ALL_PRESENT in messages or there >= self.sizes.keys()

    def _size(self, digests: frozenset[Digest]) -> int:
        return sum(self.sizes.get(digest, 0) for digest in digests)

    def _sent(self) -> int:
        try:
            waiting = sum(int(queue[:8], 16) for queue in socket_queues(self._pid).values())
            return io_counts(self._pid).written - waiting
        except OSError:
            return 0


def _digests(pattern: re.Pattern[bytes], messages: bytes | bytearray) -> frozenset[Digest]:
    return frozenset(Digest(digest.decode("ascii")) for digest in pattern.findall(messages))
