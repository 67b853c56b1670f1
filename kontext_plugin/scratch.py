"""Temporary directories that are locked while they are used: who was killed leaves one unlocked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile

_PREFIX = "kontext-scratch-"
_NAME = re.compile(_PREFIX + r"[a-z0-9_]{8}")  # what tempfile.mkdtemp makes of it


def make(parent: str) -> tuple[str, int]:
    """A new one, and the descriptor that holds its lock while it is open. Raises OSError."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another push swept it before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(folder):
            return folder, lock
        os.close(lock)


def sweep(parent: str) -> int:
    """Removes those that no living process holds, and nothing else; returns their bytes.

    Raises OSError.
    """
    freed = 0
    for folder in found(parent):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    freed += size(folder)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
    return freed


def found(parent: str) -> list[str]:
    """The paths of those in `parent`, and of nothing else. Raises OSError."""
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return []
    return [os.path.join(parent, name) for name in names if _NAME.fullmatch(name)]


def size(folder: str) -> int:
    """The bytes of the files in one; what vanishes meanwhile counts for nothing."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total
