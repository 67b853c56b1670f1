"""Opens what lies below the source directory, whatever somebody else does to it meanwhile."""

from __future__ import annotations

import operator
import os
import stat
import struct
from typing import NamedTuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that took the file's place must not hold us.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


_fields = operator.attrgetter(
    "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev"
)
_pack = struct.Struct("<6Q").pack
_WORD = 2**64 - 1

SIGNATURE_BYTES = 48

_HELD = 32  # directories: descriptors are few, and a tree can be deep


_MORE = 1024 * 1024  # bytes of a file that has grown since, at a time


class Status(NamedTuple):
    """What a push needs of the status of a regular file that it has read."""

    signature: bytes
    size: int
    executable: bool
    settled: int  # nanoseconds: the last change of the content or the status


def signature_of(status: os.stat_result) -> bytes:
    """SIGNATURE_BYTES that change whenever the content may have."""
    # A write sets ctime, which nobody can set back; the rest tells one file from another.
    try:
        return _pack(*_fields(status))
    except struct.error:  # a time before 1970 or after 2554
        return _pack(*(value & _WORD for value in _fields(status)))


def status_of(status: os.stat_result) -> Status:
    return Status(
        signature_of(status),
        status.st_size,
        bool(status.st_mode & stat.S_IXUSR),
        max(status.st_mtime_ns, status.st_ctime_ns),
    )


class Sources:
    """A source directory, to be read by one thread.

    Each directory on the way is opened from its parent: a link that takes the place of one is not
    followed, and so nothing outside is ever read. Paths are relative and `/`-separated. All
    methods raise OSError.
    """

    def __init__(self, root: str) -> None:
        # What is open on the way to the last directory, each with its path and a slash.
        self._open = [("", os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def folder(self, path: str) -> int:
        """The descriptor of a directory, "" for the root; good until the next call."""
        wanted = path + "/" if path else ""
        while not wanted.startswith(self._open[-1][0]):
            os.close(self._open.pop()[1])
        above, folder = self._open[-1]
        if above == wanted:
            return folder
        for name in wanted[len(above) : -1].split("/"):
            above += name + "/"
            folder = os.open(name, _FOLDER, dir_fd=folder)
            if len(self._open) > _HELD:
                os.close(self._open.pop()[1])
            self._open.append((above, folder))
        return folder

    def file(self, path: str) -> int:
        """The descriptor of a file, for the caller to close. It may be no regular one."""
        folder, _, name = path.rpartition("/")
        return os.open(name, _FILE, dir_fd=self.folder(folder))


def read_file(path: str, limit: int, *, own: bool = False) -> bytes:
    """A whole regular file, of at most `limit` bytes. Raises OSError, and ValueError for others.

    Neither a FIFO nor an endless device, whatever leads to it, can hold or fill this process. If it
    is to be our `own`, a file that belongs to another user is refused.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if own and status.st_uid != os.geteuid():
            raise ValueError("it belongs to another user")
        # Python makes room for all that it is asked to read.
        content = opened.read(min(limit, status.st_size) + 1)
        while len(content) <= limit and (more := opened.read(_MORE)):
            content += more
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return content
