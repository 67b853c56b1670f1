"""Watch a source directory: which of its directories may have changed.

Linux's inotify tells of each change, and when it has lost some. On macOS, watchfiles names paths,
and not when it has lost some. Where no kernel tells anything, Kontext looks again and again.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

Touched = frozenset[str] | None
"""Paths of directories that may have changed, relative to the root. None: any may have."""

NOTHING: frozenset[str] = frozenset()

IsSkipped = Callable[[str, str, bool], bool]
"""Whether no push takes an entry: its directory's path, its name, whether it is a directory."""

POLL_INTERVAL = 2.0
"""Seconds between two looks at a file system that tells nothing of its changes."""

_POLL_SHARE = 10
"""A look may take so small a part of the time: one that takes 1 s is followed by 10 s of rest."""

_SETTLES = 2.0
"""Seconds without a change that end a burst of changes."""

_FOREVER = 86_400.0  # seconds

_STEP = 50
"""Milliseconds between two looks of watchfiles at what has come."""

_SILENT_FILE_SYSTEMS = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "fuse", "lustre", "nfs", "nfs4", "prl_fs", "smb3"),
        *("smbfs", "vboxsf", "virtiofs", "vmhgfs"),
    }
)
"""File systems that others change as well: another machine, or the host of this virtual one."""


class Watcher(Protocol):
    """Tells which directories may have changed since it was made."""

    def wait(self, timeout: float | None) -> Touched:
        """Wait for a change, and return what may have changed.

        Returns NOTHING after `timeout` seconds; None waits for ever. Raises CannotWatch.
        """

    def close(self) -> None:
        """Stop watching."""


class CannotWatch(Exception):
    """The kernel cannot watch the directory. The argument says why."""


def tells_changes(directory: str) -> bool:
    """Whether the kernel tells of all changes in this directory's file system."""
    return _file_system_of(directory).partition(".")[0] not in _SILENT_FILE_SYSTEMS


def watch_directory(directory: str, outside: Iterable[str], is_skipped: IsSkipped) -> Watcher:
    """Watch a directory. Changes of entries that are skipped wake nobody.

    `outside` has files that count as well, and need not be in the directory. Raises CannotWatch.
    """
    if sys.platform == "linux":
        return KernelWatcher(directory, outside, is_skipped)
    return PathWatcher(directory, outside, is_skipped)


# --- Linux ---

# inotify(7), <sys/inotify.h>
_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_OVERFLOW, _IGNORED, _IS_DIRECTORY = 0x4000, 0x8000, 0x40000000
_ONLY_DIRECTORY, _NO_FOLLOW, _EXCLUDE_UNLINKED = 0x1000000, 0x2000000, 0x4000000

_REPLACED = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _REPLACED | _ONLY_DIRECTORY | _EXCLUDE_UNLINKED

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_READ_SIZE = 1 << 16


class _Inotify:
    """The system calls of inotify, which Python does not have."""

    def __init__(self) -> None:
        import ctypes  # 10 ms that only a watch needs

        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        self._errno = ctypes.get_errno
        self._file = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise self._error()

    def add(self, path: str, flags: int) -> int:
        """Watch a directory, and return the number of the watch. Raises OSError."""
        watch: int = self._libc.inotify_add_watch(self._file, os.fsencode(path), flags)
        if watch < 0:
            raise self._error()
        return watch

    def remove(self, watch: int) -> None:
        """End a watch, if there is one of this number."""
        self._libc.inotify_rm_watch(self._file, watch)

    def wait(self, timeout: float | None) -> bool:
        """Whether there is something to read, after `timeout` seconds at most."""
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def read(self) -> Iterator[tuple[int, int, str]]:
        """Yield watch, mask and name of each event that there is."""
        while True:
            try:
                events = os.read(self._file, _READ_SIZE)
            except BlockingIOError:
                return
            place = 0
            while place < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, place)
                place += _EVENT.size + length
                yield watch, mask, os.fsdecode(events[place - length : place].rstrip(b"\0"))

    def close(self) -> None:
        """End all watches. May be called again."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _error(self) -> OSError:
        number = self._errno()
        return OSError(number, os.strerror(number))


class KernelWatcher:
    """A watch of inotify on each directory that a push enters."""

    def __init__(self, directory: str, outside: Iterable[str], is_skipped: IsSkipped) -> None:
        self._directory = os.path.abspath(directory)
        self._outside = tuple(map(os.path.abspath, outside))
        self._is_skipped = is_skipped
        self._open()

    def wait(self, timeout: float | None) -> Touched:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._inotify.wait(None if deadline is None else deadline - time.monotonic()):
            touched = self._read()
            if touched != NOTHING:
                return touched
        return NOTHING

    def close(self) -> None:
        self._inotify.close()

    def _open(self) -> None:
        self._root = os.path.realpath(self._directory)
        self._paths: dict[int, str] = {}  # of the watched directories, by the number of the watch
        self._watches: dict[str, int] = {}
        self._names: dict[int, set[str]] = {}  # that count in the directories around the root
        try:
            self._inotify = _Inotify()
        except OSError as error:
            raise CannotWatch(_reason(error)) from error
        try:
            for path in (self._directory, self._root, *self._outside):
                parent, name = os.path.split(path)
                self._names.setdefault(self._inotify.add(parent, _MASK), set()).add(name)
            self._watch("")
        except OSError as error:
            self._inotify.close()
            raise CannotWatch(_reason(error)) from error

    def _read(self) -> Touched:
        """Return what the events tell that there are, and watch what they have replaced."""
        touched: set[str] = set()
        replaced: set[str] = set()
        for watch, mask, name in self._inotify.read():
            if mask & _OVERFLOW or (mask & _REPLACED and name in self._names.get(watch, ())):
                self._inotify.close()
                self._open()
                return None
            if name in self._names.get(watch, ()):
                touched.add("")
            if mask & _IGNORED:
                path = self._paths.pop(watch, None)
                if path is not None and self._watches.get(path) == watch:
                    del self._watches[path]
                continue
            directory = self._paths.get(watch)
            is_directory = bool(mask & _IS_DIRECTORY)
            if directory is None or not name or self._is_skipped(directory, name, is_directory):
                continue
            touched.add(directory)
            if is_directory and mask & (_REPLACED | _ATTRIB):
                replaced.add(os.path.join(directory, name))
        if replaced:
            touched |= self._watch_again(replaced)
        return frozenset(touched)

    def _watch_again(self, replaced: set[str]) -> set[str]:
        """Watch these directories anew. Return all that were below, and all that are below."""
        before = {path for path in self._watches if _is_below(path, replaced)}
        for path in before:
            watch = self._watches.pop(path)
            self._paths.pop(watch, None)
            self._inotify.remove(watch)
        for path in replaced:
            self._watch(path)
        return before | {path for path in self._watches if _is_below(path, replaced)}

    def _watch(self, directory: str) -> None:
        """Watch a directory and those below. A watch begins before its directory is listed."""
        pending = [directory]
        while pending:
            path = pending.pop()
            full = os.path.join(self._root, path)
            try:
                watch = self._inotify.add(full, _MASK | _NO_FOLLOW)
                self._paths[watch], self._watches[path] = path, watch
                with os.scandir(full) as entries:
                    for entry in entries:
                        is_directory = entry.is_dir(follow_symlinks=False)
                        if is_directory and not self._is_skipped(path, entry.name, True):
                            pending.append(os.path.join(path, entry.name))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.ENOMEM):  # a limit of the kernel's
                    raise
                # It has gone, or may not be read: the watch of its parent tells if that changes.


def _is_below(path: str, directories: set[str]) -> bool:
    """Whether a path is one of these directories, or below one."""
    while path:
        if path in directories:
            return True
        path = path.rpartition("/")[0]
    return False


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "fs.inotify.max_user_watches allows no more directories"
    if error.errno == errno.EMFILE:
        return "fs.inotify.max_user_instances allows no more programs that watch"
    return os.strerror(error.errno or errno.EIO)


# --- macOS ---


class PathWatcher:
    """watchfiles, which names paths. It may lose some, so the end of each burst is None."""

    def __init__(self, directory: str, outside: Iterable[str], is_skipped: IsSkipped) -> None:
        from watchfiles._rust_notify import RustNotify  # 20 ms, only where there is no inotify

        self._root = os.path.realpath(directory)
        self._outside = frozenset(map(os.path.realpath, outside))
        self._is_skipped = is_skipped
        self._may_have_lost = False
        parents = map(os.path.dirname, self._outside)
        try:
            self._notify = RustNotify([self._root, *parents], False, False, 0, True, True)
        except OSError as error:
            raise CannotWatch(str(error)) from error

    def wait(self, timeout: float | None) -> Touched:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _FOREVER if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return NOTHING
            patience = min(left, _SETTLES) if self._may_have_lost else left
            milliseconds = max(1, round(patience * 1000))
            changes = self._notify.watch(1, _STEP, milliseconds, None)
            if changes == "signal":
                raise KeyboardInterrupt
            if isinstance(changes, str):  # nothing has come
                if self._may_have_lost:
                    self._may_have_lost = False
                    return None
                continue
            touched = self._touched(path for _, path in changes)
            if touched != NOTHING:
                self._may_have_lost = True
                return touched

    def close(self) -> None:
        self._notify.close()

    def _touched(self, paths: Iterable[str]) -> Touched:
        touched = set()
        for path in paths:
            if path in self._outside:
                touched.add("")
            elif path.startswith(f"{self._root}/"):
                directory, _, name = path[len(self._root) + 1 :].rpartition("/")
                is_directory = os.path.isdir(path) and not os.path.islink(path)
                if self._skips(directory, name, is_directory):
                    continue
                if is_directory:  # it may have come with all that is below
                    return None
                touched.add(directory)
            elif path == self._root:
                return None
        return frozenset(touched)

    def _skips(self, directory: str, name: str, is_directory: bool) -> bool:
        """Whether a push does not take an entry, or does not enter the directory it is in."""
        above = ""
        for part in directory.split("/") if directory else ():
            if self._is_skipped(above, part, True):
                return True
            above = f"{above}/{part}" if above else part
        return self._is_skipped(directory, name, is_directory)


# --- Anywhere ---


class PollingWatcher:
    """Looks at the directory again and again."""

    def __init__(self, has_changed: Callable[[], bool], interval: float) -> None:
        self._has_changed = has_changed
        self._interval = interval

    def wait(self, timeout: float | None) -> Touched:
        deadline = None if timeout is None else time.monotonic() + timeout
        rest = self._interval
        while True:
            left = rest if deadline is None else deadline - time.monotonic()
            time.sleep(max(0.0, min(left, rest)))
            if left < rest:
                return NOTHING
            start = time.monotonic()
            if self._has_changed():
                return None
            rest = max(self._interval, _POLL_SHARE * (time.monotonic() - start))

    def close(self) -> None:
        pass


def _file_system_of(directory: str) -> str:
    """Return the type of the file system that a directory is in; "" if it is unknown.

    In /proc/self/mountinfo the device is the third field, and the type the first one after "-"
    (proc_pid_mountinfo(5)).
    """
    try:
        device = os.stat(directory).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                mount, _, file_system = line.partition(" - ")
                if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                    return file_system.split()[0]
    except (OSError, IndexError):
        pass
    return ""
