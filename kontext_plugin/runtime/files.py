"""Open, read and hash files safely, whatever another user does to them meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from kontext_plugin.errors import KontextError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# O_NONBLOCK: opening a FIFO that took the file's place must not wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_MAX_OPEN = 32  # directories: descriptors are few, and a tree can be deep

_PIECE = 1024 * 1024  # bytes


class DirTree:
    """A directory tree that is read from its root, by one thread.

    Each directory is opened from its parent, and no link is followed. So nothing outside of the
    tree is ever read. Paths are relative to the root and `/`-separated. All methods raise OSError.
    """

    def __init__(self, root: str) -> None:
        # The open directories on the way to the last one: path with a slash, and descriptor.
        self._open = [("", os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]

    def __enter__(self) -> DirTree:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def open_directory(self, path: str) -> int:
        """Return the descriptor of a directory, "" for the root. The next call may close it."""
        prefix = path + "/" if path else ""
        while not prefix.startswith(self._open[-1][0]):
            os.close(self._open.pop()[1])
        above, directory = self._open[-1]
        if above == prefix:
            return directory
        for name in prefix[len(above) : -1].split("/"):
            above += name + "/"
            directory = os.open(name, _DIRECTORY, dir_fd=directory)
            if len(self._open) > _MAX_OPEN:
                os.close(self._open.pop()[1])
            self._open.append((above, directory))
        return directory

    def open_file(self, path: str) -> int:
        """Return the descriptor of a file, which the caller closes. It may be a special file."""
        above, _, name = path.rpartition("/")
        return os.open(name, _FILE, dir_fd=self.open_directory(above))


def read_pieces(file: int, limit: int, piece: int = _PIECE) -> Iterator[bytes]:
    """Yield the content of an open file, at most `limit` bytes, in pieces of `piece` bytes.

    A file that grows while it is read cannot prolong this. Raises OSError.
    """
    left = limit
    while left > 0 and (content := os.read(file, min(left, piece))):
        left -= len(content)
        yield content


def hash_file(
    file: int, size: int, on_piece: Callable[[bytes], object] | None = None
) -> str | None:
    """Return the hex SHA-256 of an open file, or None if it does not have exactly `size` bytes.

    Reads at most one byte more than `size`, and passes each piece to `on_piece`. Raises OSError.
    """
    digest, count = hashlib.sha256(), 0
    for piece in read_pieces(file, size + 1):
        digest.update(piece)
        if on_piece:
            on_piece(piece)
        count += len(piece)
        if count >= size:  # saves the read that returns nothing
            break
    return digest.hexdigest() if count == size else None


class HashedPieces:
    """Pieces of content that are hashed while they pass."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._digest = hashlib.sha256()
        self.size = 0  # bytes that have passed

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._digest.update(piece)
            self.size += len(piece)
            yield piece

    def hexdigest(self) -> str:
        """Read the pieces that are left, and return the hex SHA-256 of all of them."""
        for _ in self:
            pass
        return self._digest.hexdigest()


@contextlib.contextmanager
def explaining_scratch(what: str, directory: str) -> Iterator[None]:
    """Raise KontextError for an OSError: `what` cannot be done in a directory of the cache."""
    try:
        yield
    except OSError as error:
        raise KontextError(
            f"{what} {directory}: {error.strerror}",
            hint="Free some space there, or name another directory with KONTEXT_CACHE_DIR.",
        ) from error


def open_file(path: str, limit: int, *, own: bool = False) -> int:
    """Return the descriptor of a regular file of at most `limit` bytes. Links are followed.

    With `own`, the file must belong to the user. Raises ValueError for any other file, and OSError.
    Neither a FIFO nor an endless device can hold this process.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if own and status.st_uid != os.geteuid():
            raise ValueError("it belongs to another user")
        if status.st_size > limit:
            raise ValueError(f"it is larger than {limit} bytes")
    except BaseException:
        os.close(file)
        raise
    return file


def read_file(path: str, limit: int, *, own: bool = False) -> bytes:
    """Return the content of a file that `open_file` opens. Raises ValueError and OSError."""
    with os.fdopen(open_file(path, limit, own=own), "rb") as opened:
        # Python allocates as many bytes as a read asks for, so `limit` alone would be too much.
        content = opened.read(min(limit, os.fstat(opened.fileno()).st_size) + 1)
        while len(content) <= limit and (more := opened.read(_PIECE)):
            content += more
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return content
