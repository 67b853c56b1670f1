"""Reads a source directory into a tree: what is there, less what the ignore rules leave out.

Every name and link is one that each consumer of the image shows alike, or the scan refuses it.
"""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass, field
from itertools import groupby

from kontext_plugin.errors import KontextError
from kontext_plugin.image.tree import DIRECTORY, WHITEOUT, Tree, is_utf8
from kontext_plugin.manifest import SOURCES_PATH
from kontext_plugin.runtime.files import DirTree
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.git import NotIgnored
from kontext_plugin.source.hashing import (
    Memories,
    Memory,
    SeenFile,
    Stats,
    Unreadable,
    hash_files,
    pack,
    signature_of,
    unpack,
)
from kontext_plugin.source.ignore_rules import ROOT, IgnoreRules
from kontext_plugin.terminal.steps import Progress, Step, Steps

MAX_PATH = 3800
"""Bytes of a path: PATH_MAX is 4096, and a container engine unpacks below folders of its own."""

_RACY = 2_000_000_000
"""Nanoseconds. A file changed this shortly before the scan could change again within the file
system's clock tick and look the same (git's "racily clean" entries), so it is not remembered."""

_SHOWN = 10

_DRIVE = re.compile(r"[A-Za-z]:")

_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Skipped:
    """An entry that no image can hold, or that is git's own."""

    path: str
    what: str


@dataclass(frozen=True)
class Scan:
    tree: Tree
    special: tuple[Skipped, ...]  # sockets, FIFOs and devices
    git: tuple[str, ...]  # the `.git` entries that were left out
    stats: Stats  # to be remembered for the next scan
    hashed: int  # files whose content was read


@dataclass
class _Collected:
    """What a walk collects on its way."""

    files: dict[str, str] = field(default_factory=dict)  # as a Tree has them, less the unknown
    sizes: dict[str, int] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    unknown: list[SeenFile] = field(default_factory=list)  # the files to be hashed
    stats: dict[str, bytes] = field(default_factory=dict)  # of the others
    special: list[Skipped] = field(default_factory=list)
    git: list[str] = field(default_factory=list)
    refused: list[Skipped] = field(default_factory=list)


def scan(
    root: str,
    rules: IgnoreRules,
    known: Stats,
    workers: Workers,
    steps: Steps,
    *,
    keep_git: bool = False,
    without: str = "",
    not_ignored: NotIgnored | None = None,
) -> Scan:
    """The tree below `root`. `known` saves hashing the files that it vouches for.

    `without` is a directory that is left out in any case. With `not_ignored` only these files are
    kept, the directories on the way to them, and `.git` if that is kept.

    Raises KontextError for what cannot be read or be put into an image, naming the paths.
    """
    horizon = time.time_ns() - _RACY
    try:
        with DirTree(root) as sources, steps.step("scan") as step:
            found = _walk(sources, rules, known, step, keep_git, without, not_ignored)
    except OSError as error:
        raise _refusal([Skipped(root, f"cannot be read: {error.strerror}")]) from error
    if found.refused:
        raise _refusal(found.refused)
    hashed = len(found.unknown)
    try:
        _read_unknown(root, found, workers, steps, horizon)
    except Unreadable as error:
        path, why = error.args
        raise _refusal([Skipped(path, f"cannot be read: {why}")]) from error
    tree = Tree(found.files, found.sizes, frozenset(found.executable), found.links)
    return Scan(tree, tuple(found.special), tuple(found.git), found.stats, hashed)


def _walk(
    sources: DirTree,
    rules: IgnoreRules,
    known: Stats,
    step: Step,
    keep_git: bool,
    without: str,
    not_ignored: NotIgnored | None,
) -> _Collected:
    """Everything that the rules keep; no content is read."""
    found = _Collected()
    pending = [("", ROOT, not_ignored)]
    matching = not rules.empty
    while pending:  # a loop, since a tree can be deeper than Python's stack
        folder, verdict, listed = pending.pop()
        prefix = folder + "/" if folder else ""
        remembered, kept = unpack(known.get(folder)), {}
        try:
            descriptor = sources.folder(folder)
            with os.scandir(descriptor) as entries:
                for item in entries:
                    path = prefix + item.name
                    if item.name == ".git" and not keep_git:
                        found.git.append(path)
                        continue
                    directory = item.is_dir(follow_symlinks=False)
                    if directory and path == without:
                        continue
                    own = rules.verdict(path, verdict) if matching else ROOT
                    if own.excluded:
                        if directory and rules.may_keep_below(path):
                            pending.append((path, own, listed))
                        continue
                    if listed and item.name != ".git":
                        if directory and path in listed.folders:
                            pending.append((path, own._replace(excluded=True), listed))
                        if directory or path not in listed.files:
                            continue
                    if problem := _name_problem(path):
                        found.refused.append(Skipped(path, problem))
                        continue
                    if verdict.excluded:
                        _keep_parents(folder, found)
                    if directory:
                        found.files[path] = DIRECTORY
                        # Of what git would list, .git is no part.
                        pending.append((path, own, None))
                    elif memory := _collect(item, path, descriptor, remembered, found):
                        kept[item.name] = memory
        except OSError as error:
            found.refused.append(Skipped(folder or ".", f"cannot be read: {error.strerror}"))
        if kept:
            found.stats[folder] = known[folder] if kept == remembered else pack(kept)
        step.amount = Progress(files=len(found.sizes) + len(found.links))
    return found


def _read_unknown(
    root: str, found: _Collected, workers: Workers, steps: Steps, horizon: int
) -> None:
    """Hashes what is not known, and remembers what was settled before `horizon`.

    Raises as `hash_files` does.
    """
    # They come directory by directory, but for the largest: so packed they take little memory.
    contents = hash_files(root, found.unknown, workers, steps)
    for folder, group in groupby(contents, lambda content: content[0].rpartition("/")[0]):
        fresh: Memories = {}
        for path, file, digest in group:
            found.files[path] = digest
            found.sizes[path] = file.size
            (found.executable.add if file.executable else found.executable.discard)(path)
            if file.settled < horizon:
                fresh[path.rpartition("/")[2]] = file.signature, bytes.fromhex(digest)
        if fresh:
            found.stats[folder] = pack(unpack(found.stats.get(folder)) | fresh)


def _keep_parents(folder: str, found: _Collected) -> None:
    """An excluded directory stays as the parent of what a later rule keeps."""
    while folder and folder not in found.files:
        found.files[folder] = DIRECTORY
        folder = folder.rpartition("/")[0]


def _collect(
    item: os.DirEntry[str], path: str, folder: int, remembered: Memories, found: _Collected
) -> Memory | None:
    """What is remembered of a file, if it still is the same."""
    try:
        if item.is_symlink():
            target = os.readlink(item.name, dir_fd=folder)
            if problem := _link_problem(path, target):
                found.refused.append(Skipped(path, problem))
            found.links[path] = target
            return None
        status = item.stat(follow_symlinks=False)
    except OSError as error:
        found.refused.append(Skipped(path, f"cannot be read: {error.strerror}"))
        return None
    mode, size = status.st_mode, status.st_size
    if special := _SPECIAL.get(stat.S_IFMT(mode)):
        found.special.append(Skipped(path, special))
        return None
    found.sizes[path] = size
    if mode & stat.S_IXUSR:
        found.executable.add(path)
    signature = signature_of(status)
    memory = remembered.get(item.name)
    if memory and memory[0] == signature:
        found.files[path] = memory[1].hex()
        return memory
    found.unknown.append(SeenFile(path, signature, size))
    return None


def _name_problem(path: str) -> str | None:
    """Why no image can hold a file of this name, if that is so."""
    if WHITEOUT in path and f"/{WHITEOUT}" in f"/{path}":
        return f"its name begins with {WHITEOUT}, which marks a removed file in a layer"
    if not path.isascii() and not is_utf8(path):
        return "its name is not UTF-8, which the layers' format and the manifest need"
    if len(path) * 4 > MAX_PATH and len(path.encode()) > MAX_PATH:
        return f"its path is longer than {MAX_PATH} bytes, which container engines cannot unpack"
    if "\\" in path and _leads_out(f"{SOURCES_PATH}/{path}"):
        return "'crane export' takes its backslashes for slashes, and then it leads out"
    return None


def _link_problem(path: str, target: str) -> str | None:
    """Why consumers would disagree about this link, if they would.

    `crane export` drops a relative link that leads out of the image's root, going by its text
    alone, and one that looks like a Windows drive; docker keeps both. (go-containerregistry,
    pkg/v1/mutate, unsafeRelativeLink.) A link out of the sources that stays below is kept by all.
    """
    if not is_utf8(target):
        return "its target is not UTF-8"
    slashed = target.replace("\\", "/")
    if not slashed.startswith("/"):
        if _DRIVE.match(slashed):
            return f"its target {target!r} looks like a Windows drive, and 'crane export' drops it"
        if _leads_out(f"{SOURCES_PATH}/{path}/../{slashed}"):
            return f"it leads to {target!r}, out of an image's root, and 'crane export' drops it"
    return None


def _leads_out(path: str) -> bool:
    return os.path.normpath(path.replace("\\", "/")).startswith("..")


def _refusal(refused: list[Skipped]) -> KontextError:
    lines = [f"  {item.path!r}: {item.what}" for item in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        lines.append(f"  and {len(refused) - _SHOWN} more")
    return KontextError(
        "these cannot be put into an image:\n" + "\n".join(lines),
        hint="Rename them, or leave them out with a line in the ignore file "
        "(.kontextignore, else .dockerignore).",
    )
