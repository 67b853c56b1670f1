"""Hashes the files of the source directory, as many at once as there are processors."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor

from kontext_plugin.errors import KontextError
from kontext_plugin.sources import Sources, Status, status_of

_BATCH_BYTES = 32 * 1024 * 1024  # what one thread hashes at a time
_BATCH_FILES = 256
_CHUNK = 1024 * 1024
_ATTEMPTS = 3


class Unreadable(Exception):
    """A file that cannot be read; the arguments are its path and why."""


def hash_files(
    root: str, paths: list[str], known: Mapping[str, Status], executor: Executor
) -> Iterator[tuple[str, Status, str]]:
    """Each of the files with its status and hex SHA-256, both of one moment.

    `known` has their status as it was seen before. Raises Unreadable, and KontextError for a file
    that goes on changing.
    """

    def hash_batch(batch: list[str]) -> list[tuple[str, Status, str]]:
        with Sources(root) as sources:
            return [(path, *_hash(sources, path, known[path])) for path in batch]

    for batch in executor.map(hash_batch, _batches(paths, known)):
        yield from batch


def _batches(paths: list[str], known: Mapping[str, Status]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in paths:
        batch.append(path)
        size += known[path].size
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hash(sources: Sources, path: str, seen: Status) -> tuple[Status, str]:
    """If the status is `seen` after reading as it was before, nobody wrote in between."""
    try:
        for _ in range(_ATTEMPTS):
            file = sources.file(path)
            try:
                digest = hashlib.sha256()
                left = seen.size + 1  # one more, to notice that there is more
                while chunk := os.read(file, min(left, _CHUNK)):
                    digest.update(chunk)
                    left -= len(chunk)
                    if left <= 1:
                        break
                status = os.fstat(file)
            finally:
                os.close(file)
            now = status_of(status)
            if left == 1 and now.signature == seen.signature:
                return now, digest.hexdigest()
            if not stat.S_ISREG(status.st_mode):
                break
            seen = now
    except OSError as error:
        raise Unreadable(path, error.strerror) from error
    raise KontextError(
        f"{path!r} changed while it was read",
        hint="Push again when nothing writes to the directory, or ignore the file.",
    )
