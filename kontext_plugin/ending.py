"""Ends what we have started, when we want it to and when we are gone.

A killed push is told nothing, so the kernel ends crane in its place. crane alone would do so at its
next line on stderr, which comes before it writes a tag, but a silent registry would keep it for
ever; so it is on macOS, which has nothing of this kind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

GRACE = 0.5
"""Seconds that an interrupted process has to end by itself before it is killed."""


def end(process: subprocess.Popen[Any]) -> None:
    """Ends the leader of a session that still runs, and what it has started, credential helpers.

    May be called any number of times, and from any thread.
    """
    if process.poll() is None:
        _signal(process, signal.SIGINT)  # the one signal that crane handles
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    # To the whole session: a helper has crane's stderr, and whoever reads that waits for it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def tether() -> Iterator[int]:
    """One end of a pipe without words, for a child to inherit. The other closes when we end."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_RDONLY)  # what a helper leaves running may stay
        os.close(theirs)
        os.close(ours)


def bind(descriptor: int, group: int) -> None:
    """Lets the kernel kill a process group that has inherited the tether when we end."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, -group)
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)
