"""Reads a source directory into a tree: what is there, less what the ignore rules leave out.

Every name and link is one that each consumer of the image shows alike, or the scan refuses it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

from kontext_plugin.cache import Stats
from kontext_plugin.errors import KontextError
from kontext_plugin.ignore import ROOT, IgnoreRules
from kontext_plugin.manifest import DIRECTORY, SOURCES, WHITEOUT, Tree
from kontext_plugin.sources import open_file

MAX_PATH = 3800
"""Bytes of a path: PATH_MAX is 4096, and a container engine unpacks below folders of its own."""

_RACY = 2_000_000_000
"""Nanoseconds. A file changed this shortly before the scan could change again within the file
system's clock tick and look the same (git's "racily clean" entries), so it is not remembered."""

_BATCH = 32 * 1024 * 1024  # bytes of files that one thread hashes at a time
_CHUNK = 1024 * 1024
_ATTEMPTS = 3
_SHOWN = 10
_DRIVE = re.compile(r"[A-Za-z]:")

_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class LeftOut:
    """An entry that no image can hold, or that is git's own."""

    path: str
    what: str


@dataclass(frozen=True)
class Scan:
    tree: Tree
    special: tuple[LeftOut, ...]  # sockets, FIFOs and devices
    git: tuple[str, ...]  # the `.git` entries that were left out
    stats: Stats  # to be remembered for the next scan
    hashed: int  # files whose content was read


class _Regular(NamedTuple):
    """What the scan needs of a regular file's status, which is ten times as large."""

    signature: str
    size: int
    executable: bool
    settled: int  # nanoseconds: the last change of the content or the status


@dataclass
class _Found:
    """What a walk collects on its way."""

    directories: dict[str, str] = field(default_factory=dict)  # each to DIRECTORY
    links: dict[str, str] = field(default_factory=dict)
    regular: dict[str, _Regular] = field(default_factory=dict)
    special: list[LeftOut] = field(default_factory=list)
    git: list[str] = field(default_factory=list)
    refused: list[LeftOut] = field(default_factory=list)


def scan(
    root: str, rules: IgnoreRules, known: Stats, executor: Executor, *, keep_git: bool = False
) -> Scan:
    """The tree below `root`. `known` saves hashing the files that it vouches for.

    Raises KontextError for what cannot be read or be put into an image, naming the paths.
    """
    horizon = time.time_ns() - _RACY
    found = _walk(root, rules, keep_git)
    if found.refused:
        raise _refusal(found.refused)
    stats: dict[str, tuple[str, str]] = {}
    unknown: list[str] = []
    for path, file in found.regular.items():
        remembered = known.get(path)
        if remembered and remembered[0] == file.signature:
            stats[path] = remembered
        else:
            unknown.append(path)
    files = found.directories | {path: digest for path, (_, digest) in stats.items()}
    for path, file, digest in _hashes(root, unknown, found.regular, executor):
        found.regular[path] = file
        files[path] = digest
        if file.settled < horizon:
            stats[path] = (file.signature, digest)
    tree = Tree(
        files=files,
        sizes={path: file.size for path, file in found.regular.items()},
        executable=frozenset(path for path, file in found.regular.items() if file.executable),
        links=found.links,
    )
    return Scan(tree, tuple(found.special), tuple(found.git), stats, len(unknown))


def _walk(root: str, rules: IgnoreRules, keep_git: bool) -> _Found:
    """Everything below `root` that the rules keep; no content is read."""
    found = _Found()
    pending = [("", ROOT)]
    matching = not rules.empty
    while pending:  # a loop, since a tree can be deeper than Python's stack
        folder, verdict = pending.pop()
        prefix = folder + "/" if folder else ""
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for item in entries:
                    path = prefix + item.name
                    if item.name == ".git" and not keep_git:
                        found.git.append(path)
                        continue
                    directory = item.is_dir(follow_symlinks=False)
                    own = rules.verdict(path, verdict) if matching else ROOT
                    if own.excluded:
                        if directory and rules.may_keep_below(path):
                            pending.append((path, own))
                        continue
                    if problem := _name_problem(path):
                        found.refused.append(LeftOut(path, problem))
                        continue
                    if verdict.excluded:
                        _keep_parents(folder, found)
                    if directory:
                        found.directories[path] = DIRECTORY
                        pending.append((path, own))
                    else:
                        _collect(item, path, found)
        except OSError as error:
            found.refused.append(LeftOut(folder or ".", f"cannot be read: {error.strerror}"))
    return found


def _keep_parents(folder: str, found: _Found) -> None:
    """An excluded directory stays as the parent of what a later rule keeps."""
    while folder and folder not in found.directories:
        found.directories[folder] = DIRECTORY
        folder = folder.rpartition("/")[0]


def _collect(item: os.DirEntry[str], path: str, found: _Found) -> None:
    try:
        if item.is_symlink():
            target = os.readlink(item.path)
            if problem := _link_problem(path, target):
                found.refused.append(LeftOut(path, problem))
            found.links[path] = target
            return
        status = item.stat(follow_symlinks=False)
    except OSError as error:
        found.refused.append(LeftOut(path, f"cannot be read: {error.strerror}"))
        return
    if special := _SPECIAL.get(stat.S_IFMT(status.st_mode)):
        found.special.append(LeftOut(path, special))
    else:
        found.regular[path] = _regular(status)


def _name_problem(path: str) -> str | None:
    """Why no image can hold a file of this name, if that is so."""
    if WHITEOUT in path and f"/{WHITEOUT}" in f"/{path}":
        return f"its name begins with {WHITEOUT}, which marks a removed file in a layer"
    if not path.isascii() and _is_surrogate(path):
        return "its name is not UTF-8, which the layers' format and the manifest need"
    if len(path) * 4 > MAX_PATH and len(path.encode()) > MAX_PATH:
        return f"its path is longer than {MAX_PATH} bytes, which container engines cannot unpack"
    if "\\" in path and _leads_out(f"{SOURCES}/{path}"):
        return "'crane export' takes its backslashes for slashes, and then it leads out"
    return None


def _link_problem(path: str, target: str) -> str | None:
    """Why consumers would disagree about this link, if they would.

    `crane export` drops a relative link that leads out of the image's root, going by its text
    alone, and one that looks like a Windows drive; docker keeps both. (go-containerregistry,
    pkg/v1/mutate, unsafeRelativeLink.) A link out of the sources that stays below is kept by all.
    """
    if _is_surrogate(target):
        return "its target is not UTF-8"
    slashed = target.replace("\\", "/")
    if not slashed.startswith("/"):
        if _DRIVE.match(slashed):
            return f"its target {target!r} looks like a Windows drive, and 'crane export' drops it"
        if _leads_out(f"{SOURCES}/{path}/../{slashed}"):
            return f"it leads to {target!r}, out of an image's root, and 'crane export' drops it"
    return None


def _is_surrogate(name: str) -> bool:
    """Whether the file system's bytes were no UTF-8 (Python: surrogateescape)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _leads_out(path: str) -> bool:
    return os.path.normpath(path.replace("\\", "/")).startswith("..")


def _hashes(
    root: str, paths: list[str], files: Mapping[str, _Regular], executor: Executor
) -> Iterator[tuple[str, _Regular, str]]:
    """Each file with its status and hex SHA-256; hashing releases the GIL, so threads share it."""

    def hash_batch(batch: list[str]) -> list[tuple[str, _Regular, str]]:
        return [(path, *_hash(root, path, files[path])) for path in batch]

    for batch in executor.map(hash_batch, _batches(paths, files)):
        yield from batch


def _batches(paths: list[str], files: Mapping[str, _Regular]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in paths:
        batch.append(path)
        size += files[path].size
        if size >= _BATCH or len(batch) >= 256:
            yield batch
            batch, size = [], 0
    yield batch


def _hash(root: str, path: str, seen: _Regular) -> tuple[_Regular, str]:
    """A file's status and hex SHA-256, of one moment. Raises KontextError.

    `seen` is its status before: if that is the same afterwards, nobody wrote in between.
    """
    try:
        for _ in range(_ATTEMPTS):
            file = open_file(root, path)
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
            now = _regular(status)
            if left == 1 and now.signature == seen.signature:
                return now, digest.hexdigest()
            if not stat.S_ISREG(status.st_mode):
                break
            seen = now
    except OSError as error:
        raise _refusal([LeftOut(path, f"cannot be read: {error.strerror}")]) from error
    raise KontextError(
        f"{path!r} changed while it was read",
        hint="Push again when nothing writes to the directory, or ignore the file.",
    )


def _regular(status: os.stat_result) -> _Regular:
    # A write sets ctime, which nobody can set back; the rest tells one file from another.
    mtime, ctime, mode = status.st_mtime_ns, status.st_ctime_ns, status.st_mode
    return _Regular(
        f"{status.st_size}:{mtime}:{ctime}:{status.st_dev}:{status.st_ino}:{mode}",
        status.st_size,
        bool(mode & stat.S_IXUSR),
        max(mtime, ctime),
    )


def _refusal(refused: list[LeftOut]) -> KontextError:
    lines = [f"  {item.path!r}: {item.what}" for item in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"  and {len(refused) - _SHOWN} more")
    return KontextError(
        "these cannot be put into an image:\n" + "\n".join(lines),
        hint="Rename them, or leave them out with a line in .kontextignore.",
    )
