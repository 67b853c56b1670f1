"""What this machine remembers between pushes, and the place for temporary layers.

Everything here may be lost, damaged or stale: each file starts with the SHA-256 of the rest, and
what does not check out, or belongs to another user, is treated as absent. Only the user may read it
(0700, 0600).

Temporary directories that are locked while they are used: who was killed leaves one unlocked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from kontext_plugin.cache.records import decode_image, decode_stats, encode_image, encode_stats
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest, Image
from kontext_plugin.manifest import Manifest
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.files import read_file
from kontext_plugin.source.hashing import Stats

_LARGEST = 1024 * 1024 * 1024  # bytes: no file of ours comes near

_CHECKSUM = 64  # bytes: hexadecimal digits of a SHA-256

_KINDS = ("stats", "published", "pushed")

_RECORD_NAME = re.compile(r"[0-9a-f]{64}")

_NOTHING: tuple[dict[str, Any], memoryview] = {}, memoryview(b"")

_PUSHED_VERSION = "kontext pushed 1"

_MOST_PUSHED = 200  # what is remembered for completion alone


@dataclass(frozen=True)
class Entry:
    """A file of the cache, or a directory with temporary layers."""

    kind: str
    size: int  # bytes
    saved: float  # seconds since 1970
    key: str = ""  # a directory's path, a tag; "" where that is not known


@dataclass(frozen=True)
class Cache:
    """`root` is None where no cache can be had: everything still works, and is slower."""

    root: str | None
    read_only: bool = False

    def stats(self, directory: str) -> Stats:
        """What was known of a directory's files when it was last pushed from this machine."""
        return decode_stats(*self._read("stats", directory))

    def save_stats(self, directory: str, stats: Stats) -> None:
        index, records = encode_stats(stats)
        self._write("stats", directory, index, records)

    def published(self, reference: str, digest: Digest) -> KontextImage | None:
        """What `reference` held when this machine last looked, if that was the image `digest`."""
        return decode_image(*self._read("published", reference), digest)

    def save_published(
        self, reference: str, image: Image, manifest: Manifest, known: Iterable[Digest] = ()
    ) -> None:
        """`known` are the ancestors that this machine has made or looked at."""
        record, listing = encode_image(image, manifest, known)
        self._write("published", reference, record, listing)

    def pushed(self) -> list[tuple[str, str]]:
        """Directories and references that they were pushed to, the latest first."""
        record, _ = self._read("pushed", "")
        try:
            if record["version"] != _PUSHED_VERSION:
                return []
            return [(str(directory), str(reference)) for directory, reference in record["pushed"]]
        except (ValueError, LookupError, TypeError):
            return []

    def save_pushed(self, directory: str, references: Iterable[str]) -> None:
        before = self.pushed()
        new = [(directory, reference) for reference in references]
        after = [*new, *(pair for pair in before if pair not in new)][:_MOST_PUSHED]
        if after != before:
            self._write("pushed", "", {"version": _PUSHED_VERSION, "pushed": after}, ())

    def entries(self) -> list[Entry]:
        """What is here, also what running pushes hold. Raises KontextError."""
        found = []
        with self._told():
            for kind, path in self._files():
                with contextlib.suppress(FileNotFoundError):
                    status, (record, _) = os.lstat(path), _load(path)
                    key = str(record.get("key", ""))
                    found.append(Entry(kind, status.st_size, status.st_mtime, key))
            for folder in find_scratch(self.root) if self.root else ():
                with contextlib.suppress(FileNotFoundError):
                    saved = os.lstat(folder).st_mtime
                    found.append(Entry("scratch", scratch_size(folder), saved))
        return found

    def prune(self) -> int:
        """Removes all but what running pushes hold; returns its bytes. Raises KontextError."""
        freed = 0
        with self._told():
            for _, path in self._files():
                with contextlib.suppress(FileNotFoundError):
                    size = os.lstat(path).st_size
                    os.unlink(path)
                    freed += size
            return freed + (sweep_scratch(self.root) if self.root else 0)

    def _files(self) -> Iterator[tuple[str, str]]:
        """Each file of ours by its kind and path, and nothing that somebody else has put here."""
        for kind in _KINDS if self.root else ():
            folder = os.path.join(self.root or "", kind)
            if os.path.islink(folder) or not os.path.isdir(folder):
                continue
            with os.scandir(folder) as found:
                for entry in found:
                    if _RECORD_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        yield kind, entry.path

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise KontextError(f"the cache {self.root} cannot be used: {error.strerror}") from error

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """A private directory that is gone afterwards; what a killed push left goes as well."""
        parent = self.root or tempfile.gettempdir()
        try:
            if self.root:
                os.makedirs(parent, mode=0o700, exist_ok=True)
                sweep_scratch(parent)
            folder, lock = make_scratch(parent)
        except OSError as error:
            raise KontextError(
                f"no temporary directory in {parent}: {error.strerror}",
                hint="Name another folder with KONTEXT_CACHE_DIR, or TMPDIR if there is no cache.",
            ) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    def _path(self, kind: str, key: str) -> str | None:
        if self.root is None:
            return None
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return os.path.join(self.root, kind, name)

    def _read(self, kind: str, key: str) -> tuple[dict[str, Any], memoryview]:
        """A record and what follows it, or nothing: absent, unreadable and damaged are one."""
        path = self._path(kind, key)
        return _load(path) if path else _NOTHING

    def _write(
        self, kind: str, key: str, record: Mapping[str, Any], content: Iterable[bytes]
    ) -> None:
        """Replaces the file as a whole. A cache that cannot be written costs time, not the push."""
        path = self._path(kind, key)
        if path is None or self.read_only:
            return
        with contextlib.suppress(OSError, KontextError), self.scratch() as folder:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            temporary = os.path.join(folder, "new")
            digest = hashlib.sha256()
            with open(temporary, "wb", opener=_private) as file:
                file.write(bytes(_CHECKSUM))
                head = json.dumps({"key": key, **record})  # the name tells nobody
                for piece in chain([head.encode(), b"\n"], content):
                    digest.update(piece)
                    file.write(piece)
                file.seek(0)
                file.write(digest.hexdigest().encode())
            os.replace(temporary, path)


def _load(path: str) -> tuple[dict[str, Any], memoryview]:
    try:
        content = read_file(path, _LARGEST, own=True)
        rest = memoryview(content)[_CHECKSUM:]  # no copies: there may be tens of megabytes
        if hashlib.sha256(rest).hexdigest().encode() != content[:_CHECKSUM]:
            return _NOTHING
        end = content.index(b"\n", _CHECKSUM)
        record = json.loads(content[_CHECKSUM:end])
    except (OSError, ValueError, RecursionError):
        return _NOTHING
    return (record, memoryview(content)[end + 1 :]) if isinstance(record, dict) else _NOTHING


def open_cache(*, read_only: bool = False) -> Cache:
    """The user's cache: KONTEXT_CACHE_DIR, else `kontext` in XDG_CACHE_HOME or ~/.cache.

    Read-only, nothing at all is written, not even the folder.
    """
    root = os.environ.get("KONTEXT_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "kontext"
    )
    if root.startswith("~"):  # a user without a home
        return Cache(None)
    root = os.path.realpath(root)
    if read_only:
        return Cache(root, read_only=True)
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
    except OSError:
        return Cache(None)
    return Cache(root if os.access(root, os.W_OK | os.X_OK) else None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


_SCRATCH_PREFIX = "kontext-scratch-"

_SCRATCH_NAME = re.compile(_SCRATCH_PREFIX + r"[a-z0-9_]{8}")  # what tempfile.mkdtemp makes of it


def make_scratch(parent: str) -> tuple[str, int]:
    """A new one, and the descriptor that holds its lock while it is open. Raises OSError."""
    while True:
        folder = tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=parent)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another push swept it before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(folder):
            return folder, lock
        os.close(lock)


def sweep_scratch(parent: str) -> int:
    """Removes those that no living process holds, and nothing else; returns their bytes.

    Raises OSError.
    """
    freed = 0
    for folder in find_scratch(parent):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    freed += scratch_size(folder)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
    return freed


def find_scratch(parent: str) -> list[str]:
    """The paths of those in `parent`, and of nothing else. Raises OSError."""
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return []
    return [os.path.join(parent, name) for name in names if _SCRATCH_NAME.fullmatch(name)]


def scratch_size(folder: str) -> int:
    """The bytes of the files in one; what vanishes meanwhile counts for nothing."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total
