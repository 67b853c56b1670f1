"""How a file of the source directory is opened, by whoever reads its content."""

from __future__ import annotations

import os
from io import FileIO


def open_file(root: str, path: str) -> FileIO:
    """A regular file below `root`, unbuffered; a link that took its place is not followed.

    Raises OSError.
    """
    return FileIO(os.path.join(root, path), opener=_open)


def _open(path: str, flags: int) -> int:
    # O_NONBLOCK: a FIFO that took the file's place must not hold us.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
