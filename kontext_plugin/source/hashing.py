"""Hash the files of a source directory, and know later which of them are unchanged.

First a file's status and its signature, which changes with the content. Then the records that the
stat cache keeps, packed, one for each directory. Last the hashing itself: many files are hashed in
several processes.
"""

from __future__ import annotations

import operator
import os
import stat
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.files import DirTree, hash_file
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.terminal.steps import Progress, StepName, Steps

# --- The status of a file ---

SIGNATURE_BYTES = 48

_signature_fields = operator.attrgetter(
    "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev"
)

_pack_signature = struct.Struct("<6Q").pack

_UINT64_MAX = 2**64 - 1


class Status(NamedTuple):
    """The facts of a regular file's status that a push needs."""

    signature: bytes
    size: int
    executable: bool
    changed: int  # nanoseconds: the last change of content or status


def signature_of(status: os.stat_result) -> bytes:
    """Return SIGNATURE_BYTES that change whenever the content may have changed."""
    # A write sets ctime, which nobody can set back. The other fields tell files apart.
    try:
        return _pack_signature(*_signature_fields(status))
    except struct.error:  # a time before 1970 or after 2554
        return _pack_signature(*(field & _UINT64_MAX for field in _signature_fields(status)))


def status_of(status: os.stat_result) -> Status:
    """Return what a push needs of a file's status."""
    return Status(
        signature_of(status),
        status.st_size,
        bool(status.st_mode & stat.S_IXUSR),
        max(status.st_mtime_ns, status.st_ctime_ns),
    )


# --- The records of the stat cache ---

FileRecord = tuple[bytes, bytes]
"""The signature of a file's status, and the SHA-256 of its content."""

FileRecords = dict[str, FileRecord]
"""The records of one directory's files, by name."""

Stats = Mapping[str, bytes]
"""The packed records of a source directory's files: one value for each directory's path.

Packed, the records of 100,000 files load quickly, and an unchanged directory needs no comparison.
"""

_RECORD = struct.Struct(f"{SIGNATURE_BYTES}s32s")


def pack(records: FileRecords) -> bytes:
    """Pack the records of one directory's files."""
    names = "\0".join(records).encode()
    return b"".join([names, b"/", *starmap(_RECORD.pack, records.values())])


def unpack(packed: bytes | None) -> FileRecords:
    """Return what `pack` has packed: no records if it is damaged or None."""
    if not packed:
        return {}
    names, _, records = packed.partition(b"/")  # which no name contains
    try:
        return dict(zip(names.decode().split("\0"), _RECORD.iter_unpack(records), strict=True))
    except (ValueError, struct.error):
        return {}


# --- Hashing ---

_MANY_FILES = 5000  # from here on, or from so many bytes, starting workers saves time

_MANY_BYTES = 256 * 1024 * 1024

_BATCH_BYTES = 32 * 1024 * 1024  # one worker hashes a batch at a time

_BATCH_FILES = 256

_ATTEMPTS = 3


class SeenFile(NamedTuple):
    """A regular file as the scan saw it, before it is read."""

    path: str
    signature: bytes
    size: int


class Unreadable(Exception):
    """A file that cannot be read. The arguments are its path and the reason."""


def hash_files(
    root: str, files: list[SeenFile], workers: Workers, steps: Steps
) -> Iterator[tuple[str, Status, str]]:
    """Yield each file's path, status and hex SHA-256, all of one moment. Empties the list.

    Raises Unreadable, and KontextError for a file that changes whenever it is read.
    """
    if not files:
        return
    total = Progress(total_files=len(files), total_bytes=sum(file.size for file in files))
    map_batches = workers.map if _are_many(files) else map
    batches = deque(_batches_of(files))
    files.clear()  # 100,000 files take 20 MB: each batch is freed when it is hashed
    with steps.step(StepName.HASH) as step:
        step.progress = total
        for results in map_batches(hash_batch, [(root, batch) for batch in batches]):
            batch = batches.popleft()
            # The paths of this process: those from a worker would be copies.
            for file, result in zip(batch, results, strict=True):
                yield file.path, *result
            step.advance(len(batch), sum(file.size for file in batch))


def hash_batch(batch: tuple[str, list[SeenFile]]) -> list[tuple[Status, str]]:
    """Hash files below a root, in a worker. Raises as `hash_files` does."""
    root, files = batch
    with DirTree(root) as sources:
        return [_hash_file(sources, *file) for file in files]


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


def _hash_file(sources: DirTree, path: str, signature: bytes, size: int) -> tuple[Status, str]:
    """Return a file's status and hex SHA-256, if nobody wrote to it while it was read."""
    try:
        for _ in range(_ATTEMPTS):
            file = sources.open_file(path)
            try:
                digest = hash_file(file, size)
                after = os.fstat(file)
            finally:
                os.close(file)
            status = status_of(after)
            if digest is not None and status.signature == signature:
                return status, digest
            if not stat.S_ISREG(after.st_mode):
                break
            signature, size = status.signature, status.size
    except OSError as error:
        raise Unreadable(path, error.strerror) from error
    raise KontextError(
        f"{path!r} changed while it was read",
        hint="Push again when nothing writes to the directory, or ignore the file.",
    )
