"""List the entries of directories, perhaps in a worker: what is not as their records say.

All consumers of an image show a path in the same way: any other name or link is rejected.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kontext_plugin.image.tree import SOURCES_PATH, WHITEOUT, is_utf8
from kontext_plugin.runtime.files import DirTree
from kontext_plugin.runtime.status import signature_of, status_in
from kontext_plugin.runtime.workers import Advance
from kontext_plugin.source import snapshot as snapshots
from kontext_plugin.source.filters import Decision, Filters, Place, place_at
from kontext_plugin.source.hashing import Moved, Seen
from kontext_plugin.source.snapshot import UNSETTLED, Record, Signatures, pack_entries

MAX_PATH = 3800
"""Bytes of a path. PATH_MAX is 4096, and a container engine adds a directory in front."""

MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
"""What listing a directory says if it, or one above it, was removed or replaced."""

AT_ONCE = 8192
"""Files of new directories that one process lists before the rest is divided anew."""

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
class Task:
    """What one process lists."""

    root: str
    filters: Filters
    settled: int  # nanoseconds: what changed later may change again and look the same
    known: Mapping[str, bytes]  # packed records, by the directory's path
    new: Sequence[tuple[Place, bytes | None]]  # with its record, if there is one


class Rejected(NamedTuple):
    """A path that cannot be in an image."""

    path: str
    reason: str


@dataclass
class Listed:
    """What was found in a directory that is not as its record says. Paths begin at the root."""

    place: Place
    entries: bytes = b""  # packed
    corrected: Signatures = field(default_factory=dict)  # these replace what is packed
    again: bool = False  # as in Record
    same: Seen = field(default_factory=dict)  # files that are as the record says
    files: Seen = field(default_factory=dict)  # all others
    links: dict[str, str] = field(default_factory=dict)
    directories: list[Place] = field(default_factory=list)  # to be listed as well
    special_files: list[SpecialFile] = field(default_factory=list)
    git_entries: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    error: int = 0  # why it cannot be listed


def list_all(task: Task, advance: Advance) -> tuple[list[Listed], list[tuple[Place, bytes | None]]]:
    """List directories, and those below that are new. Return what differs, and what is left."""
    found: list[Listed] = []
    count = 0
    with DirTree(task.root) as sources:
        for path, record in task.known.items():
            listed, files = _list(sources, task, path, None, record)
            advance(files)
            if listed:
                found.append(listed)
        pending = [*task.new]
        while pending and count < AT_ONCE:
            place, before = pending.pop()
            listed, files = _list(sources, task, place.path, place, before)
            advance(files)
            count += files
            if listed:
                found.append(listed)
                if before is None:  # else some of them may be known
                    pending += [(below, None) for below in listed.directories]
                    listed.directories.clear()
    return found, pending


def _list(
    sources: DirTree, task: Task, path: str, place: Place | None, record: bytes | None
) -> tuple[Listed | None, int]:
    """List one directory, and return the number of its files.

    Returns None in place of what it has if that is known: without a `place`, a directory that is
    as its record says.
    """
    entries: list[tuple[str, bytes]] = []
    failed: list[tuple[str, int]] = []
    files = 0
    try:
        directory = sources.open_directory(path)
        with os.scandir(directory) as items:
            for item in items:
                name = item.name
                try:
                    if item.is_dir(follow_symlinks=False):
                        entries.append((name, snapshots.DIRECTORY))
                    else:
                        files += 1
                        entries.append((name, signature_of(item.stat(follow_symlinks=False))))
                except OSError as error:
                    failed.append((name, error.errno or errno.EIO))
        packed = pack_entries(entries)
        if not place and record == snapshots.pack(Record(packed)) and not failed:
            return None, files
        listed = Listed(place or place_at(task.filters, path), packed)
        before = snapshots.entries_of(record)
        for name, signature in entries:
            _look(listed, task, directory, name, signature, before.get(name))
        for name, number in failed:
            _fail_to_look(listed, task, name, number)
    except OSError as error:
        return Listed(place or place_at(task.filters, path), error=error.errno or errno.EIO), 0
    return listed, files


def _look(
    listed: Listed,
    task: Task,
    directory: int,
    name: str,
    signature: bytes,
    before: bytes | None,
) -> None:
    """Decide about one entry of an open directory, and note it. Raises OSError."""
    place = listed.place
    path = place.join(name)
    is_directory = signature == snapshots.DIRECTORY
    decision, verdict = task.filters.decide(path, name, is_directory, place.verdict, place.in_git)
    if decision is Decision.SKIP:
        return
    if decision is Decision.SKIP_GIT:
        listed.git_entries.append(path)
        listed.again = True
    elif decision is Decision.ENTER:
        listed.directories.append(place.below(name, decision, verdict))
    elif problem := _name_problem(path):
        listed.rejected.append(Rejected(path, problem))
    elif is_directory:
        listed.directories.append(place.below(name, decision, verdict))
    else:
        mode, status = status_in(signature)
        if kind := _SPECIAL.get(stat.S_IFMT(mode)):
            listed.special_files.append(SpecialFile(path, kind))
            listed.again = True
        elif stat.S_ISLNK(mode):
            _look_at_link(listed, path, name, directory, settled=status.changed < task.settled)
        elif signature == before:
            listed.same[path] = status.size
        else:
            listed.files[path] = status.size


def _fail_to_look(listed: Listed, task: Task, name: str, number: int) -> None:
    """Note an entry that has no status, unless it is skipped."""
    place = listed.place
    path = place.join(name)
    listed.corrected[name] = UNSETTLED
    decision, _ = task.filters.decide(path, name, False, place.verdict, place.in_git)
    if number in MOVED:
        listed.moved.append(Moved(path, number))
    elif decision is Decision.KEEP:
        listed.rejected.append(unreadable(path, os.strerror(number)))


def _look_at_link(listed: Listed, path: str, name: str, directory: int, *, settled: bool) -> None:
    """Note a link of an open directory. Raises OSError."""
    if not settled:
        listed.corrected[name] = UNSETTLED
    try:
        listed.links[path] = target = os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a file was renamed over it
            listed.files[path] = 0
        else:
            listed.moved.append(Moved(path, error.errno or 0))
        return
    if problem := link_problem(path, target):
        listed.rejected.append(Rejected(path, problem))


# --- What no image can hold ---


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


def link_problem(path: str, target: str) -> str | None:
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


def unreadable(path: str, reason: str | None) -> Rejected:
    return Rejected(path, f"cannot be read: {reason}")
