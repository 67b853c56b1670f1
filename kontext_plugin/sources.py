"""How a file of the source directory is opened, by whoever reads its content."""

from __future__ import annotations

import os

# O_NONBLOCK: a FIFO that took the file's place must not hold us.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_file(root: str, path: str) -> int:
    """The descriptor of a file below `root`; a link that took its place is not followed.

    Raises OSError.
    """
    return os.open(os.path.join(root, path), _FLAGS)
