"""Hash the files of a source directory: many of them in several processes."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.files import DirTree, hash_file
from kontext_plugin.runtime.status import HashedFile, Status, signature_of, status_of
from kontext_plugin.runtime.workers import Advance, Workers
from kontext_plugin.terminal.steps import Progress, StepName, Steps

_MANY_FILES = 5000  # from here on, or from so many bytes, starting workers saves time

_MANY_BYTES = 256 * 1024 * 1024

_BATCH_BYTES = 32 * 1024 * 1024  # one worker hashes a batch at a time

_BATCH_FILES = 256

_STILL = 0.1
"""Seconds in which a file must not change before it is read again."""

_PATIENCE = 3.0
"""Seconds to wait for that: a linker writes a large program for so long."""

_MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)
"""What opening a file says if it, or a directory above it, was removed or replaced."""


class SeenFile(NamedTuple):
    """A regular file as the scan saw it, before it is read."""

    path: str
    size: int


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
    root: str, files: list[SeenFile], workers: Workers, steps: Steps, copies: str = ""
) -> Iterator[HashedFile | FoundLink | Moved]:
    """Yield what is known of each file after it was read, or that it has moved. Empties the list.

    A file that changes while it is read is read once more, as soon as it holds still. A copy of
    each file goes into the directory `copies`, unless that is "". Its name is the digest.

    Raises Unreadable, and KontextError for a file that changes while it is read twice.
    """
    if not files:
        return
    total = Progress(total_files=len(files), total_bytes=sum(file.size for file in files))
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
        for results in hashed:
            batch = batches.popleft()
            # The paths of this process: those from a worker would be copies.
            for (path, _), result in zip(batch, results, strict=True):
                if isinstance(result, int):
                    yield Moved(path, result)
                elif isinstance(result, str):
                    yield FoundLink(path, result)
                else:
                    yield HashedFile(path, *result)
            step.advance(len(batch), 0)


_Result = tuple[Status, str] | str | int
"""Of one file: its status and digest, the target of a link, or why it has moved, as in Moved."""


def hash_batch(task: tuple[str, list[SeenFile], str], advance: Advance) -> list[_Result]:
    """Hash files below a root, in a worker: the task is the root, the files and `copies`.

    Raises as `hash_files` does.
    """
    root, files, copies = task
    with DirTree(root) as sources:
        return [_hash_file(sources, file, copies, advance) for file in files]


def _are_many(files: Sequence[SeenFile]) -> bool:
    """Whether several processes hash the files faster than one."""
    return len(files) >= _MANY_FILES or sum(file.size for file in files) >= _MANY_BYTES


def _batches_of(files: Sequence[SeenFile]) -> Iterator[list[SeenFile]]:
    """Yield the files in batches."""
    batch: list[SeenFile] = []
    size = 0
    # The large files come first: at the end, one worker would still hash while the others idle.
    for file in sorted(files, key=lambda file: file.size < _BATCH_BYTES):
        batch.append(file)
        size += file.size
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hash_file(sources: DirTree, seen: SeenFile, copies: str, advance: Advance) -> _Result:
    """Hash a file. `advance` gets as many bytes as the scan saw, whatever is there now."""
    path, left = seen

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
            return first.status, first.digest
        _wait_until_still(sources, path)
        second = _read(sources, path, copies, count)
        if not isinstance(second, _Reading):
            return second
        # Who reads the same twice has what was there in between: a new hard link or a chmod changes
        # the status, and not the content.
        if second.digest is not None and (second.held_still or second.digest == first.digest):
            return second.status, second.digest
    except OSError as error:
        if error.errno in _MOVED:
            return error.errno
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
) -> _Reading | str | int:
    """Read a file, and copy it. A link's target or 0, as in _Result, if it is no file any more.

    Raises OSError.
    """
    try:
        file = sources.open_file(path)
    except OSError as error:
        target = _read_link(sources, path) if error.errno == errno.ELOOP else None
        if target is None:
            raise
        return target
    try:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            return 0
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
        with _explaining(directory):
            while rest:
                rest = rest[os.write(copy, rest) :]
        on_piece(piece)

    with _explaining(directory):
        copy = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        digest = hash_file(file, size, write)
        if digest is not None:
            with _explaining(directory):
                os.rename(path, os.path.join(directory, digest))
        return digest
    finally:
        os.close(copy)
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def _explaining(directory: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KontextError(
            f"a file that changes cannot be copied to {directory}: {error.strerror}",
            hint="Free some space there, or name another directory with KONTEXT_CACHE_DIR.",
        ) from error
