"""Opens what lies below the source directory, whatever somebody else does to it meanwhile."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that took the file's place must not hold us.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Status(NamedTuple):
    """What a push needs of a regular file's status, which is ten times as large."""

    signature: str  # changes whenever the content may have
    size: int
    executable: bool
    settled: int  # nanoseconds: the last change of the content or the status


def status_of(status: os.stat_result) -> Status:
    # A write sets ctime, which nobody can set back; the rest tells one file from another.
    mtime, ctime, mode = status.st_mtime_ns, status.st_ctime_ns, status.st_mode
    return Status(
        f"{status.st_size}:{mtime}:{ctime}:{status.st_dev}:{status.st_ino}:{mode}",
        status.st_size,
        bool(mode & stat.S_IXUSR),
        max(mtime, ctime),
    )


class Sources:
    """A source directory, to be read by one thread.

    Each directory on the way is opened from its parent: a link that takes the place of one is not
    followed, and so nothing outside is ever read. Paths are relative and `/`-separated. All
    methods raise OSError.
    """

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._path, self._folder = "", self._root  # what was opened last

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        os.close(self._root)

    def folder(self, path: str) -> int:
        """The descriptor of a directory, "" for the root; good until the next call."""
        if path == self._path:
            return self._folder
        if self._path and path.startswith(self._path + "/"):
            start, rest = self._folder, path[len(self._path) + 1 :]
        else:
            start, rest = self._root, path
        opened = start
        try:
            for name in rest.split("/") if rest else ():
                above, opened = opened, os.open(name, _FOLDER, dir_fd=opened)
                if above != start:
                    os.close(above)
        except OSError:
            if opened != start:
                os.close(opened)
            raise
        self._forget()
        self._path, self._folder = path, opened
        return opened

    def file(self, path: str) -> int:
        """The descriptor of a file, for the caller to close. It may be no regular one."""
        folder, _, name = path.rpartition("/")
        return os.open(name, _FILE, dir_fd=self.folder(folder))

    def _forget(self) -> None:
        if self._folder != self._root:
            os.close(self._folder)
        self._path, self._folder = "", self._root


def read_file(path: str, limit: int) -> bytes:
    """A whole regular file, of at most `limit` bytes. Raises OSError, and ValueError for others.

    Neither a FIFO nor an endless device, whatever leads to it, can hold or fill this process.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("it is not a regular file")
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return content
