"""Hash the files of a source directory: many of them in several processes."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.files import DirTree, explaining_scratch, hash_file
from kontext_plugin.runtime.status import (
    HashedFile,
    Status,
    pack_hashed,
    signature_of,
    status_of,
    unpack_hashed,
)
from kontext_plugin.runtime.workers import Advance, Workers
from kontext_plugin.terminal.steps import Progress, StepName, Steps

_MANY_FILES = 5000  # from here on, or from so many bytes, starting workers saves time

_MANY_BYTES = 256 * 1024 * 1024

_BATCH_BYTES = 32 * 1024 * 1024  # one worker hashes a batch at a time

_BATCH_FILES = 256

_COPY = "a file that changes cannot be copied to"

_STILL = 0.1
"""Seconds in which a file must not change before it is read again."""

_PATIENCE = 3.0
"""Seconds to wait for that: a linker writes a large program for so long."""

Seen = dict[str, int]
"""Regular files as the scan saw them, before they are read: their bytes, by path."""

_MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)
"""What opening a file says if it, or a directory above it, was removed or replaced."""


class FoundLink(NamedTuple):
    """A link that was a file when its directory was listed, and was renamed over it."""

    path: str
    target: str


class Moved(NamedTuple):
    """A path that is not what it was when its directory was listed: it was gone at some moment."""

    path: str
    errno: int  # what the system says; 0: something else is there


class Unreadable(Exception):
    """A file that cannot be read. The arguments are its path and the reason."""


def changed_twice(path: str) -> KontextError:
    """Return the error for what never holds still."""
    return KontextError(
        f"{path!r} changed while it was read twice",
        hint="Stop what writes it, or leave it out with a line in the ignore file "
        "(.kontextignore, else .dockerignore).",
    )


def hash_files(
    root: str, files: Seen, workers: Workers, steps: Steps, copies: str = ""
) -> Iterator[HashedFile | FoundLink | Moved]:
    """Yield what is known of each file after it was read, or that it has moved. Empties `files`.

    A file that changes while it is read is read once more, as soon as it holds still. A copy of
    each file goes into the directory `copies`, unless that is "". Its name is the digest.

    Raises Unreadable, and KontextError for a file that changes while it is read twice.
    """
    if not files:
        return
    total = Progress(total_files=len(files), total_bytes=sum(files.values()))
    are_many = _are_many(files)
    batches = deque(_batches_of(files))
    files.clear()  # 100,000 files take 20 MB: each batch is freed when it is hashed
    tasks = [(root, batch, copies) for batch in batches]
    with steps.step(StepName.HASH) as step:
        step.progress = total

        def advance(size: int) -> None:
            step.advance(0, size)

        if are_many:
            hashed = workers.map(hash_batch, tasks, advance)
        else:
            hashed = (hash_batch(task, advance) for task in tasks)
        for packed, others in hashed:
            batch = batches.popleft()
            # The paths of this process: those from a worker would be copies.
            yield from unpack_hashed([path for path in batch if path not in others], packed)
            yield from others.values()
            step.advance(len(batch), 0)


_Hashed = tuple[bytes, dict[str, FoundLink | Moved]]
"""The packed files of a batch, and by path what is no file any more."""


def hash_batch(task: tuple[str, Seen, str], advance: Advance) -> _Hashed:
    """Hash files below a root, in a worker: the task is the root, the files and `copies`.

    Raises as `hash_files` does.
    """
    root, files, copies = task
    packed = bytearray()
    others: dict[str, FoundLink | Moved] = {}
    with DirTree(root) as sources:
        for path, size in files.items():
            result = _hash_file(sources, path, size, copies, advance)
            if isinstance(result, HashedFile):
                packed += pack_hashed(result)
            else:
                others[path] = result
    return bytes(packed), others


def _are_many(files: Seen) -> bool:
    """Whether several processes hash the files faster than one."""
    return len(files) >= _MANY_FILES or sum(files.values()) >= _MANY_BYTES


def _batches_of(files: Seen) -> Iterator[Seen]:
    """Yield the files in batches."""
    batch: Seen = {}
    size = 0
    # The large files come first: at the end, one worker would still hash while the others idle.
    large = [file for file in files.items() if file[1] >= _BATCH_BYTES]
    small = (file for file in files.items() if file[1] < _BATCH_BYTES)
    for path, count in chain(large, small):
        batch[path] = count
        size += count
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def _hash_file(
    sources: DirTree, path: str, left: int, copies: str, advance: Advance
) -> HashedFile | FoundLink | Moved:
    """Hash a file. `advance` gets `left` bytes in all, whatever is there now."""

    def count(piece: bytes) -> None:
        nonlocal left
        size = min(left, len(piece))
        left -= size
        advance(size)

    try:
        first = _read(sources, path, copies, count)
        if not isinstance(first, _Reading):
            return first
        if first.digest is not None and first.held_still:
            return HashedFile(path, first.status, first.digest)
        _wait_until_still(sources, path)
        second = _read(sources, path, copies, count)
        if not isinstance(second, _Reading):
            return second
        # Who reads the same twice has what was there in between: a new hard link or a chmod changes
        # the status, and not the content.
        if second.digest is not None and (second.held_still or second.digest == first.digest):
            return HashedFile(path, second.status, second.digest)
    except OSError as error:
        if error.errno in _MOVED:
            return Moved(path, error.errno)
        raise Unreadable(path, error.strerror) from error
    finally:
        if left:
            advance(left)
    if first.held_still and second.held_still:
        said = second.status.size
        raise Unreadable(path, f"it does not have the {said} bytes that its file system says")
    raise changed_twice(path)


class _Reading(NamedTuple):
    """What was found when a file was read once."""

    status: Status
    digest: str | None  # None: the content has another size than the status says
    held_still: bool  # the status is the same before and after


def _read(
    sources: DirTree, path: str, copies: str, on_piece: Callable[[bytes], object]
) -> _Reading | FoundLink | Moved:
    """Read a file, and copy it. Raises OSError."""
    try:
        file = sources.open_file(path)
    except OSError as error:
        target = _read_link(sources, path) if error.errno == errno.ELOOP else None
        if target is None:
            raise
        return FoundLink(path, target)
    try:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            return Moved(path, 0)
        if copies:
            digest = _copy_file(file, before.st_size, copies, on_piece)
        else:
            digest = hash_file(file, before.st_size, on_piece)
        status = status_of(os.fstat(file))
        return _Reading(status, digest, status.signature == signature_of(before))
    finally:
        os.close(file)


def _read_link(sources: DirTree, path: str) -> str | None:
    """Return the target of a link, None if it is none any more. Raises OSError."""
    above, _, name = path.rpartition("/")
    try:
        return os.readlink(name, dir_fd=sources.open_directory(above))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _wait_until_still(sources: DirTree, path: str) -> None:
    """Wait until a file looks the same twice, but not for ever. Raises OSError."""
    end, before = time.monotonic() + _PATIENCE, b""
    while time.monotonic() < end:
        above, _, name = path.rpartition("/")
        parent = sources.open_directory(above)
        now = signature_of(os.stat(name, dir_fd=parent, follow_symlinks=False))
        if now == before:
            break
        before = now
        time.sleep(_STILL)


def _copy_file(
    file: int, size: int, directory: str, on_piece: Callable[[bytes], object]
) -> str | None:
    """Hash a file as `hash_file` does, and copy it to the file in `directory` named by its digest.

    Raises OSError of the file, and KontextError of the copy.
    """
    path = os.path.join(directory, os.urandom(16).hex())

    def write(piece: bytes) -> None:
        rest = memoryview(piece)
        with explaining_scratch(_COPY, directory):
            while rest:
                rest = rest[os.write(copy, rest) :]
        on_piece(piece)

    with explaining_scratch(_COPY, directory):
        copy = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        digest = hash_file(file, size, write)
        if digest is not None:
            with explaining_scratch(_COPY, directory):
                os.rename(path, os.path.join(directory, digest))
        return digest
    finally:
        os.close(copy)
        with suppress(FileNotFoundError):
            os.unlink(path)
