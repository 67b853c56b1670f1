"""Scan a source directory into a tree, with the filters that decide which entries it has.

All consumers of an image show a path of the tree in the same way: the scan rejects any other name
or link.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import groupby
from typing import Literal, NamedTuple

from kontext_plugin.errors import KontextError
from kontext_plugin.image.tree import DIRECTORY, WHITEOUT, Tree, is_utf8
from kontext_plugin.manifest import SOURCES_PATH
from kontext_plugin.runtime.files import DirTree
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.git import NotIgnored
from kontext_plugin.source.hashing import (
    FileRecord,
    FileRecords,
    HashedFile,
    Moved,
    SeenFile,
    Stats,
    Unreadable,
    hash_files,
    pack,
    signature_of,
    unpack,
)
from kontext_plugin.source.ignore_rules import ROOT, IgnoreRules, Verdict
from kontext_plugin.terminal.steps import Progress, Step, StepName, Steps

MAX_PATH = 3800
"""Bytes of a path. PATH_MAX is 4096, and a container engine adds a directory in front."""

_RACY = 2_000_000_000
"""Nanoseconds. A file that changed so shortly before the scan may change again within one tick of
the file system's clock, and look the same (git's "racily clean" entries). It gets no record."""

_MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
"""What listing a directory says if it, or one above it, was removed or replaced."""

_MAX_SHOWN = 10

_DRIVE = re.compile(r"[A-Za-z]:")

SpecialKind = Literal["FIFO", "socket", "device"]

_SPECIAL: dict[int, SpecialKind] = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


@dataclass(frozen=True)
class SpecialFile:
    """A file that no image can hold."""

    path: str
    kind: SpecialKind


@dataclass(frozen=True)
class Scan:
    """What a scan has found."""

    tree: Tree
    special_files: tuple[SpecialFile, ...]  # skipped
    git_entries: tuple[str, ...]  # the paths of `.git` entries that were skipped
    stats: Stats  # for the stat cache
    hashed: int  # files whose content was read
    unreadable: tuple[str, ...] = ()  # excluded directories that may have something to keep


# --- The filters: pure ---


class Decision(Enum):
    """What the scan does with an entry of a directory."""

    KEEP = auto()  # put it into the tree; of a directory, look at each entry
    ENTER = auto()  # look at each entry; put the directory into the tree with the first one kept
    SKIP = auto()
    SKIP_GIT = auto()  # skip it and list it in `Scan.git_entries`


# Plain names: looking up a member of an enum takes as long as the rest of a decision.
_KEEP, _ENTER, _SKIP, _SKIP_GIT = Decision


@dataclass(frozen=True)
class Filters:
    """Which entries of a source directory go into the image."""

    rules: IgnoreRules = field(default_factory=IgnoreRules)
    not_ignored: NotIgnored | None = None  # of the rest, only what git does not ignore
    keep_git: bool = False
    excluded: str = ""  # the path of a directory that is always skipped; "": none

    def decide(
        self, path: str, name: str, is_directory: bool, parent: Verdict, in_git: bool = False
    ) -> tuple[Decision, Verdict]:
        """Decide what happens to the entry `name` at `path`.

        `parent` is the verdict of the ignore rules on the entry's directory. `in_git` says that the
        entry lies in a kept `.git`, of which git lists nothing. Also returns the verdict of the
        ignore rules on the entry: the `parent` of the entries below it.
        """
        if name == ".git" and not self.keep_git:
            return _SKIP_GIT, parent
        if is_directory and path == self.excluded:
            return _SKIP, parent
        verdict = self.rules.verdict(path, parent) if self.rules.groups else ROOT
        if verdict.excluded:
            enter = is_directory and self.rules.may_keep_below(path)
            return (_ENTER if enter else _SKIP), verdict
        if self.not_ignored and not in_git and name != ".git":
            if is_directory:
                enter = path in self.not_ignored.directories
                return (_ENTER if enter else _SKIP), verdict
            return (_KEEP if path in self.not_ignored.files else _SKIP), verdict
        return _KEEP, verdict


# --- The scan ---


class _Directory(NamedTuple):
    """A directory that the walk enters."""

    path: str
    verdict: Verdict
    kept: bool  # whether the tree has it already
    in_git: bool = False  # it is a kept `.git`, or lies in one


@dataclass(frozen=True)
class _Rejected:
    """A path that cannot be in an image."""

    path: str
    reason: str


@dataclass
class _Collected:
    """What a walk collects: a tree without the unknown digests, and all other results."""

    files: dict[str, str] = field(default_factory=dict)  # as in a Tree
    sizes: dict[str, int] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    entered: set[str] = field(default_factory=set)  # excluded directories that the tree has
    unknown: list[SeenFile] = field(default_factory=list)  # the files to hash
    hashed: int = 0  # files that were read
    stats: dict[str, bytes] = field(default_factory=dict)  # of all other files
    special_files: list[SpecialFile] = field(default_factory=list)
    git_entries: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    rejected: list[_Rejected] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)

    def add_link(self, path: str, target: str) -> None:
        """Put a link into the tree."""
        if problem := _link_problem(path, target):
            self.rejected.append(_Rejected(path, problem))
        self.links[path] = target

    def fail(self, path: str, error: OSError) -> None:
        """Note why a path cannot be read."""
        if error.errno in _MOVED:
            self.moved.append(Moved(path, error.errno))
        else:
            self.rejected.append(_unreadable(path, error.strerror))

    def drop(self, path: str) -> None:
        """Take a path out of the tree."""
        for column in (self.files, self.sizes, self.links):
            column.pop(path, None)
        self.executable.discard(path)


def scan(
    root: str, filters: Filters, known: Stats, workers: Workers, steps: Steps, copies: str = ""
) -> Scan:
    """Scan the directory `root`. `known` has the records of an earlier scan, of unchanged files.

    What moves during the scan is looked for a second time. What is gone then was not there.
    A copy of each file that is read goes into the directory `copies`, as in `hash_files`.

    Raises KontextError, with the paths, for what cannot be read or be in an image.
    """
    settled = time.time_ns() - _RACY

    def look(known: Stats) -> _Collected:
        found = _look(root, filters, known, steps)
        try:
            _hash_unknown(root, found, workers, steps, settled, copies)
        except Unreadable as error:
            raise _rejection([_unreadable(*error.args)]) from error
        if found.rejected:
            raise _rejection(found.rejected)
        return found

    found = look(known)
    hashed = found.hashed
    if found.moved:
        found = look(found.stats)
        hashed += found.hashed
        _settle(found)
    tree = Tree(found.files, found.sizes, frozenset(found.executable), found.links)
    special_files, git_entries = tuple(found.special_files), tuple(found.git_entries)
    unreadable = tuple(found.unreadable)
    return Scan(tree, special_files, git_entries, found.stats, hashed, unreadable)


def _look(root: str, filters: Filters, known: Stats, steps: Steps) -> _Collected:
    """Collect all entries that the filters keep. Raises KontextError."""
    try:
        with DirTree(root) as sources, steps.step(StepName.SCAN) as step:
            found = _walk(sources, filters, known, step)
    except OSError as error:
        raise _rejection([_unreadable(root, error.strerror)]) from error
    if found.rejected:
        raise _rejection(found.rejected)
    return found


def _walk(sources: DirTree, filters: Filters, known: Stats, step: Step) -> _Collected:
    """Collect all entries that the filters keep. Reads no content."""
    found = _Collected()
    decide = filters.decide
    pending = [_Directory("", ROOT, kept=True)]
    while pending:  # a loop, since a tree can be deeper than Python's stack
        directory, parent, kept, in_git = pending.pop()
        prefix = f"{directory}/" if directory else ""
        records, unchanged = unpack(known.get(directory)), {}
        try:
            descriptor = sources.open_directory(directory)
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    name = entry.name
                    path = prefix + name
                    is_directory = entry.is_dir(follow_symlinks=False)
                    decision, verdict = decide(path, name, is_directory, parent, in_git)
                    if decision is _SKIP:
                        continue
                    if decision is _SKIP_GIT:
                        found.git_entries.append(path)
                    elif decision is _ENTER:
                        below_git = in_git or name == ".git"
                        pending.append(_Directory(path, verdict, False, below_git))
                    elif problem := _name_problem(path):
                        found.rejected.append(_Rejected(path, problem))
                    else:
                        if not kept:
                            _keep_parents(directory, found)
                        if is_directory:
                            found.files[path] = DIRECTORY
                            below_git = in_git or name == ".git"
                            pending.append(_Directory(path, verdict, True, below_git))
                        elif record := _collect(entry, path, descriptor, records, found):
                            unchanged[name] = record
        except OSError as error:
            if not parent.excluded:
                found.fail(directory or ".", error)
            elif error.errno not in _MOVED:
                found.unreadable.append(directory)
            elif directory in found.files:  # something below it was kept
                found.moved.append(Moved(directory, errno.ENOENT))
        if unchanged:
            same = unchanged == records
            found.stats[directory] = known[directory] if same else pack(unchanged)
        step.progress = Progress(files=len(found.sizes) + len(found.links))
    return found


def _keep_parents(directory: str, found: _Collected) -> None:
    """Put a directory that was only entered into the tree, and its parents."""
    while directory and directory not in found.files:
        found.files[directory] = DIRECTORY
        found.entered.add(directory)
        directory = directory.rpartition("/")[0]


def _collect(
    entry: os.DirEntry[str], path: str, directory: int, records: FileRecords, found: _Collected
) -> FileRecord | None:
    """Collect a file or link. Return the record of a file that has not changed since."""
    try:
        if entry.is_symlink():
            try:
                found.add_link(path, os.readlink(entry.name, dir_fd=directory))
                return None
            except OSError as error:
                if error.errno != errno.EINVAL:  # a file was renamed over it
                    raise
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        found.fail(path, error)
        return None
    mode, size = status.st_mode, status.st_size
    if kind := _SPECIAL.get(stat.S_IFMT(mode)):
        found.special_files.append(SpecialFile(path, kind))
        return None
    found.sizes[path] = size
    if mode & stat.S_IXUSR:
        found.executable.add(path)
    signature = signature_of(status)
    record = records.get(entry.name)
    if record and record[0] == signature:
        found.files[path] = record[1].hex()
        return record
    found.unknown.append(SeenFile(path, size))
    return None


def _hash_unknown(
    root: str, found: _Collected, workers: Workers, steps: Steps, settled: int, copies: str
) -> None:
    """Hash the files without a record, and make one of each that did not change after `settled`.

    Raises as `hash_files` does.
    """
    found.hashed = len(found.unknown)
    # The files come directory by directory, except for the large ones, so few records are unpacked.
    hashed = hash_files(root, found.unknown, workers, steps, copies)
    for directory, files in groupby(hashed, lambda file: file.path.rpartition("/")[0]):
        new: FileRecords = {}
        for file in files:
            if not isinstance(file, HashedFile):
                found.hashed -= 1
                found.drop(file.path)
                if isinstance(file, Moved):
                    found.moved.append(file)
                else:
                    found.add_link(*file)
                continue
            path, status, digest = file
            found.files[path] = digest
            found.sizes[path] = status.size
            (found.executable.add if status.executable else found.executable.discard)(path)
            if status.changed < settled:
                new[path.rpartition("/")[2]] = status.signature, bytes.fromhex(digest)
        if new:
            found.stats[directory] = pack(unpack(found.stats.get(directory)) | new)


def _settle(found: _Collected) -> None:
    """Take what has moved out of the tree, with all below. Raises KontextError.

    A directory cannot be replaced in one step (rename(2)), so whatever became one, or is one no
    more, was gone for a moment. A file server that is gone is an error.

    An excluded directory leaves the tree with the last thing below it that was kept.
    """
    for path, reason in found.moved:
        if reason == errno.ESTALE:
            raise _rejection([_unreadable(path, os.strerror(reason))])
        found.drop(path)
    inside: Counter[str] = Counter()
    for path in sorted(found.files.keys() | found.links.keys()):
        parent = path.rpartition("/")[0]
        if parent and found.files.get(parent) != DIRECTORY:
            found.drop(path)
        else:
            inside[parent] += 1
    for directory in sorted(found.entered & found.files.keys(), reverse=True):
        if not inside[directory]:
            found.drop(directory)
            inside[directory.rpartition("/")[0]] -= 1


# --- What the scan rejects ---


def _name_problem(path: str) -> str | None:
    """Return why no image can hold a file of this name; None if one can."""
    if WHITEOUT in path and f"/{WHITEOUT}" in f"/{path}":
        return f"its name begins with {WHITEOUT}, which marks a removed file in a layer"
    if not path.isascii() and not is_utf8(path):
        return "its name is not UTF-8, which the layers' format and the manifest need"
    if len(path) * 4 > MAX_PATH and len(path.encode()) > MAX_PATH:
        return f"its path is longer than {MAX_PATH} bytes, and container engines cannot unpack it"
    if "\\" in path and _leads_out(f"{SOURCES_PATH}/{path}"):
        return "'crane export' reads its backslashes as slashes, and they lead out of the image"
    return None


def _link_problem(path: str, target: str) -> str | None:
    """Return why consumers would disagree about this link; None if they agree.

    `crane export` drops a relative link whose text leads out of the image's root, and a link to
    what looks like a Windows drive. Docker keeps both. (go-containerregistry, pkg/v1/mutate,
    unsafeRelativeLink.) All keep a link out of the sources that stays in the image.
    """
    if not is_utf8(target):
        return "its target is not UTF-8"
    slashed = target.replace("\\", "/")
    if slashed.startswith("/"):
        return None
    if _DRIVE.match(slashed):
        return f"its target {target!r} looks like a Windows drive, and 'crane export' drops it"
    if _leads_out(f"{SOURCES_PATH}/{path}/../{slashed}"):
        return f"its target {target!r} leads out of the image, and 'crane export' drops it"
    return None


def _leads_out(path: str) -> bool:
    return os.path.normpath(path.replace("\\", "/")).startswith("..")


def _unreadable(path: str, reason: str | None) -> _Rejected:
    return _Rejected(path, f"cannot be read: {reason}")


def _rejection(rejected: list[_Rejected]) -> KontextError:
    lines = [f"  {item.path!r}: {item.reason}" for item in rejected[:_MAX_SHOWN]]
    if len(rejected) > _MAX_SHOWN:
        lines.append(f"  and {len(rejected) - _MAX_SHOWN} more")
    return KontextError(
        "these paths cannot be in an image:\n" + "\n".join(lines),
        hint="Rename them, or skip them with a line in the ignore file "
        "(.kontextignore, else .dockerignore).",
    )
