"""Asks git about a work tree: which files it would not ignore, and which commit it is at.

The repository may be anybody's, and its configuration can name programs. Of those that reading
would run (git-config(1)), none is: `core.fsmonitor` and hooks are set aside; the filters of
`filter.*.clean` and `process` as well, unless the user's own configuration defines them; what a
partial clone lacks is not fetched, so no transport, helper or `core.sshCommand` comes into play;
and `git status` does not go into submodules, where it would start a git without these settings.

The labels that say which commit an image's sources are of. Pure.

Both keys are the OCI image specification's (annotations.md), and `-dirty` behind the commit is what
buildx, `git describe` and Go's tools write. These labels come and go with the work tree, so they
are not held to what the user's own labels are: they never make a push start afresh.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from kontext_plugin.errors import KontextError
from kontext_plugin.image.spec import _COMMIT, REVISION, SOURCE
from kontext_plugin.image.tree import is_utf8, parents
from kontext_plugin.runtime.environment import of_git

_SETTINGS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "protocol.allow=never")

_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",  # nothing is written, the index neither
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
}

_FILES_PATIENCE = 600.0
"""Seconds. Only what holds git for ever, as a FIFO named .gitignore does, takes so long."""

_LABELS_PATIENCE = 60.0

_ADVICE_PATIENCE = 2.0

_WORDS = 1000  # characters of git's that are shown

_SUBMODULE = "160000 "


class _GitFailed(Exception):
    """git gave no answer; the text says why, in its own words if it had any."""


@dataclass(frozen=True)
class NotIgnored:
    """What git tracks or would track below a directory, relative paths; some may be gone."""

    files: frozenset[str]  # links, too
    folders: frozenset[str]  # in which they lie


def list_not_ignored(root: str, trace: Callable[[str], None]) -> NotIgnored:
    """What the ignore rules of git leave of `root`, a directory in a work tree.

    A repository in the work tree, submodule or not, is asked as well. Raises KontextError.
    """
    files: set[str] = set()
    pending = [""]
    while pending:
        below = pending.pop()
        folder = os.path.normpath(os.path.join(root, below))
        try:
            found, repositories = _listed(folder, trace, inner=bool(below))
        except _GitFailed as error:
            raise KontextError(
                f"git cannot say what to leave out of {folder!r}: {error}",
                hint="Without --gitignore the rules of .kontextignore alone are heard.",
            ) from error
        files.update(below + path for path in found)
        pending += [f"{below}{path}/" for path in repositories]
    if not files:
        raise KontextError(
            f"--gitignore leaves nothing of {root!r}: git ignores all of it, or it is empty",
            hint="Push it without --gitignore, or name another directory.",
        )
    return NotIgnored(frozenset(files), frozenset(parents(files)))


def read_labels(root: str, trace: Callable[[str], None]) -> dict[str, str]:
    """The labels that say where the sources are from; none where git does not know, or fails."""
    top = _top(root)
    if top is None:
        return {}
    try:
        url, filters = _configured(root, trace)
        status = _run(
            root,
            *("status", "--porcelain=v2", "--branch", "-z", "--no-renames"),
            *("--untracked-files=normal", "--ignored=matching", "--ignore-submodules=dirty"),
            *("--", "."),
            settings=[
                f"filter.{name}.{setting}"
                for name in sorted(filters)
                for setting in ("clean=", "process=", "required=false")
            ],
            patience=_LABELS_PATIENCE,
            trace=trace,
        )
    except _GitFailed as error:
        trace(f"no labels of git's: {error}")
        return {}
    return labels_of(status, url, root[len(top) :].strip("/"))


def find_ignored(root: str, paths: Collection[str], trace: Callable[[str], None]) -> frozenset[str]:
    """Those of the paths below `root` that git ignores: none where git cannot say."""
    if not paths or _top(root) is None:
        return frozenset()
    given = {f"./{path}": path for path in paths}  # so that none begins as a pathspec's magic
    try:
        answer = _run(
            root,
            *("check-ignore", "--no-index", "-z", "--stdin"),
            patience=_ADVICE_PATIENCE,
            trace=trace,
            fine=(0, 1),  # 1: it ignores none
            typed="\0".join(given),
        )
    except _GitFailed as error:
        trace(f"git does not say what it ignores: {error}")
        return frozenset()
    return frozenset(given[path] for path in answer.split("\0") if path in given)


def _top(root: str) -> str | None:
    """The nearest directory upwards that has a `.git`: looking costs less than starting git."""
    folder = root
    while not os.path.lexists(os.path.join(folder, ".git")):
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
    return folder


def _listed(
    folder: str, trace: Callable[[str], None], *, inner: bool
) -> tuple[list[str], list[str]]:
    """The paths that git would not ignore, and those at which other repositories lie."""
    listing = _run(
        folder,
        *("ls-files", "-z", "-t", "--stage", "--others", "--exclude-standard"),
        patience=_FILES_PATIENCE,
        trace=trace,
        # The broken repository of a submodule must not be taken for the one around it.
        ceiling=os.path.dirname(folder) if inner else "",
    )
    files: list[str] = []
    repositories: list[str] = []
    for line in listing.split("\0"):
        if line.startswith("? "):  # and the path, which ends with a slash at a repository
            path = line[2:]
            (repositories if path.endswith("/") else files).append(path.rstrip("/"))
        elif line:  # a letter, mode, object and stage, and behind a tab the path
            status, _, path = line.partition("\t")
            (repositories if status.startswith(_SUBMODULE, 2) else files).append(path)
    return files, [path for path in repositories if _is_repository(folder, path)]


def _is_repository(folder: str, path: str) -> bool:
    """Not a submodule that was not checked out, nor what links lead to: back here, for ever."""
    inner = os.path.join(os.path.realpath(folder), path)
    return os.path.lexists(os.path.join(inner, ".git")) and os.path.realpath(inner) == inner


def _configured(root: str, trace: Callable[[str], None]) -> tuple[str, set[str]]:
    """The remote's URL ("": none), and the names of the filters that the repository defines."""
    answer = _run(
        root,
        *("config", "--null", "--show-scope", "--get-regexp", r"^(remote\.origin\.url$|filter\.)"),
        patience=_LABELS_PATIENCE,
        trace=trace,
        fine=(0, 1),  # 1: there is nothing of these
    )
    url, filters = "", set()
    words = iter(answer.split("\0"))
    for scope, setting in zip(words, words, strict=False):
        key, _, value = setting.partition("\n")
        if key == "remote.origin.url":
            url = url or value
        elif scope not in ("system", "global"):
            filters.add(key.removeprefix("filter.").rpartition(".")[0])
    if any("=" in name for name in filters):
        raise _GitFailed("a filter of the repository's has a name that cannot be switched off")
    return url, filters


def _run(
    root: str,
    *arguments: str,
    patience: float,
    trace: Callable[[str], None],
    settings: Iterable[str] = (),
    ceiling: str = "",
    fine: tuple[int, ...] = (0,),
    typed: str = "",
) -> str:
    """What git prints when it reads `typed`. Raises _Failed."""
    import subprocess  # 10 ms that neither docker's metadata request nor --help needs

    program = shutil.which("git")
    if program is None:
        raise _GitFailed("there is no git on PATH")
    environment = of_git(os.environ) | _ENVIRONMENT
    if ceiling:
        environment["GIT_CEILING_DIRECTORIES"] = ceiling
    command = [program, "--no-pager", "-C", root]
    for setting in (*_SETTINGS, *settings):
        command += ["-c", setting]
    command += arguments
    trace(f"+ {' '.join(command)}")
    try:
        done = subprocess.run(
            command,
            env=environment,
            input=os.fsencode(typed),
            capture_output=True,
            timeout=patience,
        )
    except subprocess.TimeoutExpired as error:
        raise _GitFailed(f"it has not answered for {patience:.0f} s") from error
    except OSError as error:
        raise _GitFailed(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode not in fine:
        words = os.fsdecode(done.stderr).strip()[:_WORDS]
        raise _GitFailed(words.removeprefix("fatal: ") or f"it ended with {done.returncode}")
    return os.fsdecode(done.stdout)


_DIRTY = "-dirty"

_WEB = ("http", "https", "git", "ftp", "ftps")

_SSH = ("ssh", "git+ssh", "ssh+git")

_SCP = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?![/\\]{2}|:)[^:@?#\\]+", re.ASCII)

_MOST_URL = 2000  # characters of a URL


def labels_of(status: str, url: str, directory: str) -> dict[str, str]:
    """The labels of a directory, from what git says.

    `status` is that of `git status --porcelain=v2 --branch --ignored=matching -z -- DIRECTORY`,
    `directory` the path in the work tree, "" for the whole. None where git ignores all of it: what
    was built from a commit is not that commit's.
    """
    commit, dirty = "", False
    for line in status.split("\0"):
        if line.startswith("# branch.oid "):
            commit = line.rpartition(" ")[2]
        elif line.startswith("! "):
            if line.endswith("/") and f"{directory}/".startswith(line[2:]):
                return {}
        elif line and not line.startswith("# "):
            dirty = True
    labels = {}
    if _COMMIT.fullmatch(commit):  # else there is none yet
        labels[REVISION] = commit + (_DIRTY if dirty else "")
    if source := source_of(url):
        labels[SOURCE] = source
    return labels


def source_of(url: str) -> str:
    """A remote's URL as the world may read it, without secrets; "" for one of this machine's.

    The user of an ssh URL is part of the address, as `git@` is. Elsewhere it may be a token.
    """
    if len(url) > _MOST_URL or not url.isprintable() or not is_utf8(url):
        return ""
    try:
        parts = urlsplit(url)
        host, port, user = parts.hostname, parts.port, parts.username
    except ValueError:
        return ""
    if "://" not in url:
        return url if _SCP.fullmatch(url) else ""
    if not host or parts.scheme not in _WEB + _SSH or "@" in parts.path:
        return ""
    where = f"[{host}]" if ":" in host else host
    if port:
        where += f":{port}"
    if user and parts.scheme in _SSH:
        where = f"{user}@{where}"
    return f"{parts.scheme}://{where}{parts.path}"
