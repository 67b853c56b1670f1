"""Opens what lies below the source directory, whatever somebody else does to it meanwhile."""

from __future__ import annotations

import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# O_NONBLOCK: a FIFO that took the file's place must not hold us.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_HELD = 32  # directories: descriptors are few, and a tree can be deep


_MORE = 1024 * 1024  # bytes of a file that has grown since, at a time


class DirTree:
    """A source directory, to be read by one thread.

    Each directory on the way is opened from its parent: a link that takes the place of one is not
    followed, and so nothing outside is ever read. Paths are relative and `/`-separated. All
    methods raise OSError.
    """

    def __init__(self, root: str) -> None:
        # What is open on the way to the last directory, each with its path and a slash.
        self._open = [("", os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]

    def __enter__(self) -> DirTree:
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
            folder = os.open(name, _DIRECTORY, dir_fd=folder)
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
