"""What Linux shows of a process of ours: what it has passed on, and what waits to be sent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import NamedTuple

ROOT = "/proc"


class Passed(NamedTuple):
    """Bytes that a process has read and written since it began, of files and sockets alike."""

    read: int
    written: int


def is_visible(pid: int) -> bool:
    """Whether this system shows a process of ours. macOS does not."""
    return os.access(f"{ROOT}/{pid}/io", os.R_OK)


def passed(pid: int) -> Passed:
    """Raises OSError for one that has ended."""
    with open(f"{ROOT}/{pid}/io", encoding="ascii") as file:
        counts = dict(line.split(": ") for line in file)
    return Passed(int(counts["rchar"]), int(counts["wchar"]))


def queues(pid: int) -> Mapping[str, str]:
    """Each of its TCP sockets, and the bytes that wait in it: `SENT:RECEIVED`, hexadecimal.

    Those sent wait until the other side has them. Raises OSError for one that has ended.
    """
    descriptors, sockets, found = f"{ROOT}/{pid}/fd", set(), {}
    for name in os.listdir(descriptors):
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(os.path.join(descriptors, name)))
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"{ROOT}/{pid}/net/{table}", "rb") as file:
            for line in file:
                _, _, _, _, waiting, _, _, _, _, inode, *_ = line.decode("ascii").split()
                if f"socket:[{inode}]" in sockets:
                    found[inode] = waiting
    return found


def has_child(pid: int) -> bool:
    """Raises OSError for one that has ended."""
    tasks = f"{ROOT}/{pid}/task"
    for task in os.listdir(tasks):
        with contextlib.suppress(OSError), open(f"{tasks}/{task}/children", "rb") as file:
            if file.read():
                return True
    return False
