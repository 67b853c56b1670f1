"""Hashes the files of the source directory: where there are many, in several processes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.sources import Sources, Status, status_of
from kontext_plugin.steps import Amount, Steps
from kontext_plugin.workers import Workers

_MANY_FILES = 5000  # from here on, or from so many bytes, it pays to start workers
_MANY_BYTES = 256 * 1024 * 1024
_BATCH_BYTES = 32 * 1024 * 1024  # what one worker hashes at a time
_BATCH_FILES = 256
_CHUNK = 1024 * 1024
_ATTEMPTS = 3


class Seen(NamedTuple):
    """A regular file as it was found."""

    path: str
    signature: bytes
    size: int


class Unreadable(Exception):
    """A file that cannot be read; the arguments are its path and why."""


def hash_files(
    root: str, seen: list[Seen], workers: Workers, steps: Steps
) -> Iterator[tuple[str, Status, str]]:
    """Each of the files with its status and hex SHA-256, both of one moment. Empties the list.

    Raises Unreadable, and KontextError for a file that goes on changing.
    """
    if not seen:
        return
    whole = Amount(total_files=len(seen), total_bytes=sum(file.size for file in seen))
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


def hash_batch(batch: tuple[str, list[Seen]]) -> list[tuple[Status, str]]:
    """What a worker does: files below a root. Raises as `hash_files` does."""
    root, files = batch
    with Sources(root) as sources:
        return [_hash(sources, *file) for file in files]


def _are_many(files: Sequence[Seen]) -> bool:
    """Whether several processes read them sooner than one."""
    return len(files) >= _MANY_FILES or sum(file.size for file in files) >= _MANY_BYTES


def _batched(files: Sequence[Seen]) -> Iterator[list[Seen]]:
    """What one worker reads at a time."""
    batch: list[Seen] = []
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


def _hash(sources: Sources, path: str, signature: bytes, size: int) -> tuple[Status, str]:
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
