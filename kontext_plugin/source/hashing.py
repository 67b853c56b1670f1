"""What is remembered of a directory's files, so that a scan need not read them again. Pure.

It is packed, a record a directory: 100,000 files so take little to load, and nothing to compare.

Hashes the files of the source directory: where there are many, in several processes.
"""

from __future__ import annotations

import hashlib
import operator
import os
import stat
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.files import DirTree
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.terminal.steps import Progress, Steps

_fields = operator.attrgetter(
    "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev"
)

_pack = struct.Struct("<6Q").pack

_WORD = 2**64 - 1

SIGNATURE_BYTES = 48


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


Memory = tuple[bytes, bytes]
"""The signature of a file's status, and its content's SHA-256."""

Memories = dict[str, Memory]
"""Of the files of one directory, by their names."""

Stats = Mapping[str, bytes]
"""Each directory's path to the `record` of its files."""

_MEMORY = struct.Struct(f"{SIGNATURE_BYTES}s32s")


def pack(memories: Memories) -> bytes:
    """Packs what is remembered of the files of one directory."""
    names = "\0".join(memories).encode()
    return b"".join([names, b"/", *starmap(_MEMORY.pack, memories.values())])


def unpack(packed: bytes | None) -> Memories:
    """What `record` packed; nothing at all if it is damaged or there is none."""
    if not packed:
        return {}
    names, _, memories = packed.partition(b"/")  # which no name contains
    try:
        return dict(zip(names.decode().split("\0"), _MEMORY.iter_unpack(memories), strict=True))
    except (ValueError, struct.error):
        return {}


_MANY_FILES = 5000  # from here on, or from so many bytes, it pays to start workers

_MANY_BYTES = 256 * 1024 * 1024

_BATCH_BYTES = 32 * 1024 * 1024  # what one worker hashes at a time

_BATCH_FILES = 256

_CHUNK = 1024 * 1024

_ATTEMPTS = 3


class SeenFile(NamedTuple):
    """A regular file as it was found."""

    path: str
    signature: bytes
    size: int


class Unreadable(Exception):
    """A file that cannot be read; the arguments are its path and why."""


def hash_files(
    root: str, seen: list[SeenFile], workers: Workers, steps: Steps
) -> Iterator[tuple[str, Status, str]]:
    """Each of the files with its status and hex SHA-256, both of one moment. Empties the list.

    Raises Unreadable, and KontextError for a file that goes on changing.
    """
    if not seen:
        return
    whole = Progress(total_files=len(seen), total_bytes=sum(file.size for file in seen))
    hash_all = workers.map if _are_many(seen) else map
    batches = deque(_batched(seen))
    seen.clear()  # 100,000 take 20 MB: each batch goes when it is done
    with steps.step("hash") as step:
        step.amount = whole
        for results in hash_all(hash_batch, [(root, batch) for batch in batches]):
            batch = batches.popleft()
            # The paths that we have: those from another process would be copies.
            for file, result in zip(batch, results, strict=True):
                yield file.path, *result
            step.advance(len(batch), sum(file.size for file in batch))


def hash_batch(batch: tuple[str, list[SeenFile]]) -> list[tuple[Status, str]]:
    """What a worker does: files below a root. Raises as `hash_files` does."""
    root, files = batch
    with DirTree(root) as sources:
        return [_hash_file(sources, *file) for file in files]


def _are_many(files: Sequence[SeenFile]) -> bool:
    """Whether several processes read them sooner than one."""
    return len(files) >= _MANY_FILES or sum(file.size for file in files) >= _MANY_BYTES


def _batched(files: Sequence[SeenFile]) -> Iterator[list[SeenFile]]:
    """What one worker reads at a time."""
    batch: list[SeenFile] = []
    size = 0
    # Not the large ones at the end.
    for file in sorted(files, key=lambda file: file.size < _BATCH_BYTES):
        batch.append(file)
        size += file.size
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hash_file(sources: DirTree, path: str, signature: bytes, size: int) -> tuple[Status, str]:
    """If the status is after reading as it was seen before, nobody wrote in between."""
    try:
        for _ in range(_ATTEMPTS):
            file = sources.file(path)
            try:
                digest = hashlib.sha256()
                left = size + 1  # one more, to notice that there is more
                while chunk := os.read(file, min(left, _CHUNK)):
                    digest.update(chunk)
                    left -= len(chunk)
                    if left <= 1:
                        break
                status = os.fstat(file)
            finally:
                os.close(file)
            now = status_of(status)
            if left == 1 and now.signature == signature:
                return now, digest.hexdigest()
            if not stat.S_ISREG(status.st_mode):
                break
            signature, size = now.signature, now.size
    except OSError as error:
        raise Unreadable(path, error.strerror) from error
    raise KontextError(
        f"{path!r} changed while it was read",
        hint="Push again when nothing writes to the directory, or ignore the file.",
    )
