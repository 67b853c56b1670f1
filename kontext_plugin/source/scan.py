"""Scan a source directory into a tree.

The tree of the last scan stands, wherever the entries of a directory are as they were. Several
processes list a large directory.
"""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, groupby

from kontext_plugin.errors import KontextError
from kontext_plugin.image.listing import ListedTree, paths_below, update
from kontext_plugin.image.tree import DIRECTORY, UNREAD, Tree, parents
from kontext_plugin.runtime.status import HashedFile
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import entries
from kontext_plugin.source import snapshot as snapshots
from kontext_plugin.source.entries import (
    MOVED,
    Listed,
    Rejected,
    SpecialFile,
    Task,
    link_problem,
    list_all,
    unreadable,
)
from kontext_plugin.source.filters import Filters, Place, place_at
from kontext_plugin.source.hashing import (
    FoundLink,
    Moved,
    Seen,
    Unreadable,
    hash_files,
)
from kontext_plugin.source.snapshot import (
    UNSETTLED,
    Record,
    Records,
    Signatures,
    Snapshot,
    pack_entries,
    unpack_entries,
)
from kontext_plugin.terminal.steps import Progress, Step, StepName, Steps

_RACY = 2_000_000_000
"""Nanoseconds. A file that changed so shortly before the scan may change again within one tick of
the file system's clock, and look the same (git's "racily clean" entries). It is read again."""

MANY = 400_000
"""Bytes of records, some 6,000 files: from here on, several processes save time."""

_SHARES = 4
"""Tasks for each process: some are done sooner."""

_MAX_SHOWN = 10


@dataclass(frozen=True)
class Scan:
    """What a scan has found."""

    snapshot: Snapshot  # for the next scan; of a scan with unread files it is empty
    special_files: tuple[SpecialFile, ...]  # skipped
    git_entries: tuple[str, ...]  # the paths of `.git` entries that were skipped
    hashed: int  # files whose content was read
    is_unchanged: bool = False  # each directory is as its record says
    unreadable: tuple[str, ...] = ()  # excluded directories that may have something to keep
    unread: Unread | None = None  # files that were left to be read later
    was_edited: bool = False  # a file was not as it was listed when it was read

    @property
    def tree(self) -> Tree:
        """The tree that was found."""
        return self.unread.tree if self.unread else self.snapshot.tree


@dataclass(frozen=True)
class Unread:
    """A directory whose files are listed and not read.

    Its tree has no digests of the files, and no modes. It gets the digests while `complete` takes
    them: a second map of 100,000 files takes 20 MB.
    """

    found: _Found
    filters: Filters
    settled: int  # nanoseconds: what changed later may change again and look the same

    @cached_property
    def tree(self) -> Tree:
        """The tree that was listed."""
        return Tree(self.found.files, self.found.sizes, links=self.found.links)


Leave = Callable[[int], bool]
"""Whether to leave the files of a directory unread. They have so many bytes in all."""

Tell = Callable[[list[str]], object]
"""Receives the sorted paths of files and links that have changed or are gone."""


# --- The scan ---


@dataclass
class _Found:
    """What a scan has found that is not as the snapshot says."""

    tree: ListedTree  # what stands, wherever nothing else was found
    is_fresh: bool  # nothing stands
    dropped: set[str] = field(default_factory=set)  # paths that were taken out
    removed: set[str] = field(default_factory=set)  # paths of this tree
    files: dict[str, str] = field(default_factory=dict)  # these columns are as in a Tree
    sizes: dict[str, int] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    unknown: Seen = field(default_factory=dict)  # the files to hash
    hashed: int = 0  # files that were read
    was_edited: bool = False  # as in Scan
    listed: dict[str, Listed] = field(default_factory=dict)  # by the directory's path
    gone: set[str] = field(default_factory=set)  # directories without a record
    again: set[str] = field(default_factory=set)  # directories to look at again in any case
    unreadable: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)

    def add_link(self, path: str, target: str) -> None:
        """Put a link into the tree."""
        if problem := link_problem(path, target):
            self.rejected.append(Rejected(path, problem))
        self.links[path] = target

    def keep_parents(self, directory: str) -> None:
        """Put a directory that was only entered into the tree, and its parents."""
        while directory and not self.has_directory(directory):
            self.files[directory] = DIRECTORY
            directory = directory.rpartition("/")[0]

    def has_directory(self, path: str) -> bool:
        """Whether the tree has a directory at this path."""
        digest = self.files.get(path)
        if digest is None:
            return path not in self.removed and self.tree.is_directory(path)
        return digest == DIRECTORY

    def count_files(self) -> int:
        """Return the number of files and links, before any is hashed."""
        tree, removed = self.tree, self.removed
        new = self.unknown.keys() | self.links.keys() | self.sizes.keys()
        if self.is_fresh:
            return len(new)
        stay = tree.file_count - sum(not tree.is_directory(path) for path in removed)
        return stay + sum(
            path in removed or path not in tree or tree.is_directory(path) for path in new
        )

    def drop(self, path: str) -> None:
        """Take a path, and what stood below it, out of the tree."""
        self.dropped.add(path)
        if path not in self.removed:  # else its parent was dropped with all below
            if self.tree.is_directory(path):
                self.removed.update(paths_below(self.tree, path))
            if path in self.tree:
                self.removed.add(path)
        for column in (self.files, self.sizes, self.links):
            column.pop(path, None)
        self.executable.discard(path)

    def changed(self, before: Tree) -> list[str]:
        """Return the sorted paths of files and links with another content, or without one now."""
        files = (path for path in self.sizes if self.files[path] != before.files.get(path))
        links = (path for path, to in self.links.items() if to != before.links.get(path))
        return sorted({*files, *links, *self.removed})

    def updated(self) -> ListedTree:
        """Return the tree with all that was found."""
        new = Tree(self.files, self.sizes, frozenset(self.executable), self.links)
        return update(self.tree, new, self.removed)


def scan(
    root: str,
    filters: Filters,
    known: Snapshot,
    workers: Workers,
    steps: Steps,
    copies: str = "",
    leave: Leave | None = None,
    tell: Tell | None = None,
) -> Scan:
    """Scan the directory `root`. `known` is what an earlier scan has left.

    What moves during the scan is looked for a second time. What is gone then was not there.
    A copy of each file that is read goes into the directory `copies`, as in `hash_files`.
    If nothing is known, and `leave` says so, no file is read: `complete` ends the scan then.
    If something is known, `tell` receives what has changed, before the tree is made of it.

    Raises KontextError, with the paths, for what cannot be read or be in an image.
    """
    settled = time.time_ns() - _RACY

    def walk(before: Snapshot) -> _Found:
        try:
            with steps.step(StepName.SCAN) as step:
                found = _walk(root, filters, before, workers, step, settled)
        except OSError as error:
            raise _rejection([unreadable(root, error.strerror)]) from error
        if found.rejected:
            raise _rejection(found.rejected)
        return found

    def read(found: _Found) -> None:
        try:
            _take_hashed(found, hash_files(root, found.unknown, workers, steps, copies), settled)
        except Unreadable as error:
            raise _rejection([unreadable(*error.args)]) from error
        except OSError as error:
            raise _rejection([unreadable(root, error.strerror)]) from error
        if found.rejected:
            raise _rejection(found.rejected)

    found = walk(known)
    size = sum(found.unknown.values())
    if leave and not (known.records or found.moved) and leave(size):
        found.files.update(dict.fromkeys(found.unknown, UNREAD))
        found.sizes.update(found.unknown)
        found.unknown.clear()
        return replace(_scan_of(found, Snapshot()), unread=Unread(found, filters, settled))
    read(found)
    if tell and known.records and (changed := found.changed(known.tree)):
        tell(changed)
    snapshot = _snapshot(found, known, filters)
    hashed = found.hashed
    if found.moved:
        before = snapshot
        found = walk(before)
        read(found)
        hashed += found.hashed
        for path, reason in found.moved:
            if reason == errno.ESTALE:  # a file server that is gone is an error
                raise _rejection([unreadable(path, os.strerror(reason))])
        snapshot = _snapshot(found, before, filters)
    return replace(_scan_of(found, snapshot), hashed=hashed, is_unchanged=snapshot is known)


def complete(unread: Unread, hashed: Iterable[HashedFile]) -> Scan:
    """Return the scan of a directory whose files have been read meanwhile, in any order."""
    found = unread.found
    _take_hashed(found, hashed, unread.settled)
    return _scan_of(found, _snapshot(found, Snapshot(), unread.filters))


def _scan_of(found: _Found, snapshot: Snapshot) -> Scan:
    listed = found.listed.values()
    return Scan(
        snapshot,
        special_files=tuple(special for one in listed for special in one.special_files),
        git_entries=tuple(path for one in listed for path in one.git_entries),
        hashed=found.hashed,
        unreadable=tuple(found.unreadable),
        was_edited=found.was_edited,
    )


def _walk(
    root: str, filters: Filters, before: Snapshot, workers: Workers, step: Step, settled: int
) -> _Found:
    """Find all entries that the filters keep, and are not as before. Reads no content.

    Raises OSError.
    """
    known = _known(before, filters)
    is_fresh = known is None
    new = [(Place(), before.records.get(""))] if is_fresh else []
    found = _Found(ListedTree() if is_fresh else before.tree, is_fresh)
    results: list[Listed] = []
    count = 0

    def advance(files: int) -> None:
        nonlocal count
        count += files
        step.advance(files, 0)

    while known or new:
        for_new = workers.count if count >= entries.AT_ONCE else 1
        tasks = _divide(Task(root, filters, settled, known or {}, new), workers.count, for_new)
        known, new = {}, []
        for listed, left in workers.map(list_all, tasks, advance):
            results += listed
            new += left
            for place in (below for one in listed for below in one.directories):
                record = before.records.get(place.path)
                if found.is_fresh or record is None:
                    new.append((place, record))
    _merge(found, before, {listed.place.path: listed for listed in results})
    step.progress = Progress(files=found.count_files())
    return found


def _known(before: Snapshot, filters: Filters) -> dict[str, bytes] | None:
    """Return the records to compare; None where nothing of the snapshot stands.

    All of it stands, or nothing: it was made by the same filters.
    """
    records = before.records
    if before.filters != filters.key or "" not in records:
        return None
    if before.touched is None:
        known = dict(records.items())
    else:
        known = {path: records[path] for path in before.touched if path in records}
    return known if all(map(snapshots.unpack, known.values())) else None


def _divide(task: Task, processes: int, for_new: int) -> list[Task]:
    """Divide what is to be listed among processes, if there is enough of it."""
    if task.filters.not_ignored:  # too large to be sent to each of them
        return [task]
    none = replace(task, known={}, new=())
    size = sum(map(len, task.known.values()))
    parts = [task.known] if task.known else []
    if size >= MANY:
        ends = accumulate(map(len, task.known.values()))
        share = size / (processes * _SHARES)
        items = zip(task.known.items(), ends, strict=True)
        groups = groupby(items, key=lambda each: int((each[1] - 1) / share))
        parts = [dict(item for item, _ in group) for _, group in groups]
    shares = min(len(task.new), 1 if for_new == 1 else for_new * _SHARES)
    return [
        *(replace(none, known=part) for part in parts),
        *(replace(none, new=task.new[share::shares]) for share in range(shares)),
    ]


def _merge(found: _Found, before: Snapshot, results: dict[str, Listed]) -> None:
    """Put what was listed into what was found."""
    missing: set[str] = set()  # directories that their parents do not have
    failed: set[str] = set()  # directories that cannot be listed
    for path, listed in results.items():
        if listed.error:
            failed.add(path)
            found.drop(path)
        elif not found.is_fresh:
            missing |= _drop_missing(found, listed, snapshots.entries_of(before.records.get(path)))
    # One that was listed was there a moment before or after its parent: look again.
    found.moved += [Moved(path, 0) for path in (missing & results.keys()) - failed]
    left = missing | failed
    records = [] if found.is_fresh else [*before.records]
    for directory in left:
        found.gone.add(directory)
        first = bisect_left(records, f"{directory}/")
        end = bisect_left(records, f"{directory}0")  # "0" follows "/"
        found.gone.update(records[first:end])
    for path, listed in results.items():
        if path in missing or (left and any(above in left for above in parents([path]))):
            continue
        if listed.error:
            _fail_to_list(found, listed)
        else:
            _take(found, before, listed)


def _drop_missing(found: _Found, listed: Listed, before: Signatures) -> set[str]:
    """Drop what the directory had before and has no more. Return the directories among it."""
    directories = {place.path for place in listed.directories}
    kept = {*listed.links, *listed.same, *listed.files}
    left: set[str] = set()
    for name, signature in before.items():
        path = listed.place.join(name)
        if signature == snapshots.DIRECTORY:
            if path not in directories:
                left.add(path)
                found.drop(path)
        elif path not in kept:
            found.drop(path)
    return left


def _take(found: _Found, before: Snapshot, listed: Listed) -> None:
    """Take over what is in a directory."""
    place = listed.place
    found.listed[place.path] = listed
    found.rejected += listed.rejected
    found.moved += listed.moved
    found.unknown.update(listed.files)
    if found.is_fresh:
        _take_known(found, before, listed)
    for path, target in listed.links.items():
        if found.tree.links.get(path) != target:
            found.links[path] = target
    if not place.is_kept:
        if listed.files or listed.links or listed.same:
            found.keep_parents(place.path)
    elif place.path and not found.has_directory(place.path):
        found.files[place.path] = DIRECTORY
        found.keep_parents(place.path.rpartition("/")[0])
    for taken in (listed.files, listed.same):
        taken.clear()  # of 100,000 files they take 10 MB


def _take_known(found: _Found, before: Snapshot, listed: Listed) -> None:
    """Take the digests of files that are as before from a tree that other filters have made."""
    for path, size in listed.same.items():
        if before.tree.files.get(path, DIRECTORY) == DIRECTORY:
            found.unknown[path] = size
            continue
        found.files[path], found.sizes[path] = before.tree.files[path], before.tree.sizes[path]
        if path in before.tree.executable:
            found.executable.add(path)


def _fail_to_list(found: _Found, listed: Listed) -> None:
    """Note why a directory cannot be listed. The next scan tries again."""
    path, number = listed.place.path, listed.error
    found.again.add(path.rpartition("/")[0])
    if number in MOVED:
        found.moved.append(Moved(path or ".", number))
    elif listed.place.verdict.excluded:
        found.unreadable.append(path)
    else:
        found.rejected.append(unreadable(path or ".", os.strerror(number)))


def _take_hashed(
    found: _Found, files: Iterable[HashedFile | FoundLink | Moved], settled: int
) -> None:
    """Take over what the files are that are not as before."""
    listed, signatures = Listed(Place()), Signatures()
    last = None
    for file in files:
        directory, _, name = file.path.rpartition("/")
        if directory != last:  # they come directory by directory
            listed, last = found.listed[directory], directory
            signatures = unpack_entries(listed.entries)
        if isinstance(file, HashedFile):
            path, (signature, size, is_executable, changed), digest = file
            found.hashed += 1
            found.files[path], found.sizes[path] = digest, size
            (found.executable.add if is_executable else found.executable.discard)(path)
            is_as_listed = signature == signatures.get(name)
            found.was_edited |= not is_as_listed
            if changed >= settled:
                listed.corrected[name] = UNSETTLED
            elif not is_as_listed:
                listed.corrected[name] = signature
            continue
        found.drop(file.path)
        listed.corrected[name] = UNSETTLED
        if isinstance(file, Moved):
            found.moved.append(file)
        else:
            found.add_link(*file)


# --- What a scan leaves ---


def _snapshot(found: _Found, before: Snapshot, filters: Filters) -> Snapshot:
    """Return what the next scan starts with: the same as before if nothing has changed."""
    records = {} if found.is_fresh else before.records
    changed: dict[str, bytes] = {}
    for path, listed in found.listed.items():
        again = listed.again or path in found.again
        packed = listed.entries
        if listed.corrected:
            packed = pack_entries((unpack_entries(packed) | listed.corrected).items())
        record = snapshots.pack(Record(packed, again))
        if records.get(path) != record:
            changed[path] = record
    for path in found.again - found.listed.keys():
        old = snapshots.unpack(records.get(path))
        if old and not old.again:
            changed[path] = snapshots.pack(old._replace(again=True))
    tree = _without_empty(found, filters)
    gone = found.gone & records.keys()
    if not (found.is_fresh or changed or gone) and tree.digests == before.tree.digests:
        return before
    return Snapshot(tree, Records(records, changed, gone), filters.key)


def _without_empty(found: _Found, filters: Filters) -> ListedTree:
    """Return the tree without excluded directories that have nothing below them any more."""
    tree = found.updated()
    if not (filters.rules.kept or filters.not_ignored):
        return tree
    removed: set[str] = set()
    for directory in reversed(parents(found.dropped)):  # children first
        if (
            tree.is_directory(directory)
            and not place_at(filters, directory).is_kept
            and all(path in removed for path in paths_below(tree, directory))
        ):
            removed.add(directory)
    return update(tree, Tree(), removed)


# --- What the scan rejects ---


def _rejection(rejected: list[Rejected]) -> KontextError:
    lines = [f"  {item.path!r}: {item.reason}" for item in rejected[:_MAX_SHOWN]]
    if len(rejected) > _MAX_SHOWN:
        lines.append(f"  and {len(rejected) - _MAX_SHOWN} more")
    return KontextError(
        "these paths cannot be in an image:\n" + "\n".join(lines),
        hint="Rename them, or skip them with a line in the ignore file "
        "(.kontextignore, else .dockerignore).",
    )
