"""Ask git about a work tree: which files it ignores, and the labels of its commit and remote.

The repository may belong to anybody, and its configuration can name programs (git-config(1)). None
of them runs:

- `core.fsmonitor` and hooks are switched off.
- The filters `filter.*.clean` and `process` are switched off, except those of the user.
- The missing objects of a partial clone are not fetched, with no transport, helper or
  `core.sshCommand`.
- `git status` does not enter submodules, where it would start a git without these settings.

The OCI image specification defines the labels (annotations.md). The suffix `-dirty` is that of
buildx, `git describe` and Go's tools. A push never starts fresh because of these labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from kontext_plugin.errors import KontextError
from kontext_plugin.image.spec import COMMIT, REVISION, SOURCE
from kontext_plugin.image.tree import is_utf8, parents
from kontext_plugin.runtime.environment import git_environment
from kontext_plugin.runtime.files import DirTree
from kontext_plugin.source.filters import NotIgnored

_SETTINGS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "protocol.allow=never")

_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",  # git writes nothing, not even the index
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
}

_FILES_TIMEOUT = 600.0
"""Seconds. Only what holds git for ever takes so long, such as a FIFO named .gitignore."""

_LABELS_TIMEOUT = 60.0

_ADVICE_TIMEOUT = 2.0

_MAX_ASKED = 50
"""Paths in one question to git."""

_MAX_READ = 1_000_000
"""Bytes of changed files that are compared with the commit before git status is asked."""

_MAX_MESSAGE = 1000  # characters of git's error message that are shown

_SUBMODULE = "160000 "  # the mode of a submodule in the index, and a space

Debug = Callable[[str], None]
"""Receives git's command lines, and why it failed where that is no error."""


class _GitFailed(Exception):
    """git gave no answer. The text says why, with git's own message on one line."""


class _NotTrusted(_GitFailed):
    """The repository belongs to somebody else, and no safe.directory names it (git-config(1))."""


# --- The files that git does not ignore ---


def list_not_ignored(root: str, debug: Debug) -> NotIgnored:
    """Return what git does not ignore below `root`, a directory in a work tree.

    Asks each repository below, submodule or not, as well. Raises KontextError, also if git ignores
    everything.
    """
    files: set[str] = set()
    pending = [""]
    while pending:
        prefix = pending.pop()
        directory = os.path.normpath(os.path.join(root, prefix))
        try:
            paths, repositories = _list_files(directory, debug, is_nested=bool(prefix))
        except _GitFailed as error:
            hint = "Push without --gitignore. The rules of .kontextignore apply in any case."
            if isinstance(error, _NotTrusted):
                hint = f"Run '{_trusting(directory)}' if you trust it. Or push without --gitignore."
            raise KontextError(
                f"git cannot list the files of {directory!r}: {error}", hint=hint
            ) from error
        files.update(prefix + path for path in paths)
        pending += [f"{prefix}{path}/" for path in repositories]
    if not files:
        raise KontextError(
            f"--gitignore leaves nothing of {root!r}: git ignores all of it, or it is empty",
            hint="Push it without --gitignore, or name another directory.",
        )
    return NotIgnored(frozenset(files), frozenset(parents(files)))


def find_ignored(root: str, paths: Collection[str], debug: Debug) -> frozenset[str]:
    """Return those of the paths below `root` that git ignores; empty if git cannot tell."""
    if not paths or _find_work_tree(root) is None:
        return frozenset()
    given = {f"./{path}": path for path in paths}  # so that none begins with a pathspec's magic
    try:
        answer = _run(
            root,
            *("check-ignore", "--no-index", "-z", "--stdin"),
            timeout=_ADVICE_TIMEOUT,
            debug=debug,
            good_codes=(0, 1),  # 1: it ignores none
            stdin="\0".join(given),
        )
    except _GitFailed as error:
        debug(f"git does not say what it ignores: {error}")
        return frozenset()
    return frozenset(given[path] for path in answer.split("\0") if path in given)


def _list_files(directory: str, debug: Debug, *, is_nested: bool) -> tuple[list[str], list[str]]:
    """Return the paths that git does not ignore, and the paths of other repositories."""
    listing = _run(
        directory,
        *("ls-files", "-z", "-t", "--stage", "--others", "--exclude-standard"),
        timeout=_FILES_TIMEOUT,
        debug=debug,
        # A submodule with a broken repository must not be taken for the repository around it.
        ceiling=os.path.dirname(directory) if is_nested else "",
    )
    files: list[str] = []
    repositories: list[str] = []
    for line in listing.split("\0"):
        if line.startswith("? "):  # then the path, with a slash at the end for a repository
            path = line[2:]
            (repositories if path.endswith("/") else files).append(path.rstrip("/"))
        elif line:  # a letter, mode, object and stage, and after a tab the path
            status, _, path = line.partition("\t")
            (repositories if status.startswith(_SUBMODULE, 2) else files).append(path)
    return files, [path for path in repositories if _is_repository(directory, path)]


def _is_repository(directory: str, path: str) -> bool:
    """Whether to ask the repository at `path`: it has a `.git`, and no link leads to it.

    A submodule may not be checked out. A link could lead back here, again and again.
    """
    nested = os.path.join(os.path.realpath(directory), path)
    return os.path.lexists(os.path.join(nested, ".git")) and os.path.realpath(nested) == nested


# --- The labels ---


def read_labels(
    root: str, debug: Debug, warn: Debug, changed: Sequence[str] = ()
) -> dict[str, str]:
    """Return the labels of commit and remote; empty if git does not know them, or fails.

    The paths `changed` come first: if one of them differs from the commit, the rest makes no
    difference. `warn` receives what the user can do about it in one line, if there is something.
    """
    if _find_work_tree(root) is None:
        return {}
    try:
        url, settings = _read_config(root, debug)
        commit, unknown = _compare_with_commit(root, changed[:_MAX_ASKED], settings, debug)
        if commit:
            return _labels(commit, url, is_dirty=True)
        status = ""
        if unknown:
            # A name with wildcards may stand for others as well: they are below the root, too.
            some = [f"./{path}" for path in unknown]
            status = _read_status(root, settings, debug, *some)
        if not _is_dirty(status):
            status = _read_status(root, settings, debug, ".")
    except _GitFailed as error:
        debug(f"no labels from git: {error}")
        if isinstance(error, _NotTrusted):
            warn(
                f"the image gets no labels of git: {root!r} belongs to another user. "
                f"Run '{_trusting(root)}' if you trust it, or give --no-git-labels"
            )
        return {}
    return labels_of(status, url, path_in_work_tree(root))


def _compare_with_commit(
    root: str, paths: Sequence[str], settings: Sequence[str], debug: Debug
) -> tuple[str, Sequence[str]]:
    """Compare files with HEAD; return the commit if a file differs, else "" and the open paths.

    No index is read for that: it takes git 300 bytes for each file of the repository. A file
    differs if neither its bytes nor what git's filters make of them are those of the commit.
    `settings` switch filters off, and then nothing can be compared.
    """
    above = path_in_work_tree(root)
    contents = {} if settings or "\n" in above else _read_small_files(root, paths)
    if not contents:
        return "", paths
    names = ["HEAD^{commit}", *(f"HEAD:./{path}" for path in contents)]
    with contextlib.suppress(_GitFailed):  # as for a file that was removed just now
        found = _run(
            root,
            *("cat-file", "--batch-check=%(objecttype) %(objectname)"),
            timeout=_LABELS_TIMEOUT,
            debug=debug,
            stdin="\n".join(names),
        )
        hashed = _run(
            root,
            *("hash-object", "--stdin-paths"),
            timeout=_LABELS_TIMEOUT,
            debug=debug,
            stdin="\n".join(os.path.join(above, path) for path in contents),
        )
        head, *committed = found.removesuffix("\n").split("\n")
        each = zip(contents.items(), committed, hashed.split(), strict=True)
        known = set()
        for (path, content), line, filtered in each:
            kind, _, before = line.partition(" ")
            if kind == "blob":  # else it is missing, or git takes NAME-g1234567 for a commit
                if before not in (filtered, _object_id(content, len(before))):
                    return head.partition(" ")[2], ()
                known.add(path)
        return "", [path for path in paths if path not in known]
    return "", paths


def _read_small_files(root: str, paths: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of regular files, by path. Reads at most _MAX_READ bytes.

    Skips names with a newline or a leading quote: git cannot read them from standard input.
    """
    contents: dict[str, bytes] = {}
    left = _MAX_READ
    listable = [path for path in paths if "\n" not in path and not path.startswith('"')]
    with contextlib.suppress(OSError), DirTree(root) as sources:
        for path in listable:
            with contextlib.suppress(OSError), os.fdopen(sources.open_file(path), "rb") as file:
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode) and status.st_size <= left:
                    contents[path] = file.read(status.st_size)
                    left -= len(contents[path])
    return contents


def _object_id(content: bytes, digits: int) -> str:
    """Return git's name of a file's content: 40 digits for SHA-1, 64 for SHA-256."""
    algorithm = "sha256" if digits == 64 else "sha1"
    head = b"blob %d\0" % len(content)
    return hashlib.new(algorithm, head + content, usedforsecurity=False).hexdigest()


def _read_status(root: str, settings: Iterable[str], debug: Debug, *paths: str) -> str:
    """Return what git says of the commit, and of paths that differ from it. Raises _GitFailed."""
    return _run(
        root,
        *("status", "--porcelain=v2", "--branch", "-z", "--no-renames"),
        *("--untracked-files=normal", "--ignored=matching", "--ignore-submodules=dirty"),
        *("--", *paths),
        settings=settings,
        timeout=_LABELS_TIMEOUT,
        debug=debug,
    )


def _read_config(root: str, debug: Debug) -> tuple[str, list[str]]:
    """Return the remote's URL ("": none), and settings without the filters of the repository."""
    answer = _run(
        root,
        *("config", "--null", "--show-scope", "--get-regexp", r"^(remote\.origin\.url$|filter\.)"),
        timeout=_LABELS_TIMEOUT,
        debug=debug,
        good_codes=(0, 1),  # 1: there is no such setting
    )
    url, filters = "", set()
    fields = iter(answer.split("\0"))
    for scope, setting in zip(fields, fields, strict=False):
        key, _, value = setting.partition("\n")
        if key == "remote.origin.url":
            url = url or value
        elif scope not in ("system", "global", "command"):  # command: the user's environment
            filters.add(key.removeprefix("filter.").rpartition(".")[0])
    if any("=" in name for name in filters):
        raise _GitFailed("the repository has a filter with a name that cannot be switched off")
    off = ("clean=", "process=", "required=false")
    return url, [f"filter.{name}.{setting}" for name in sorted(filters) for setting in off]


_DIRTY = "-dirty"

_WEB = ("http", "https", "git", "ftp", "ftps")

_SSH = ("ssh", "git+ssh", "ssh+git")

_SCP = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?![/\\]{2}|:)[^:@?#\\]+", re.ASCII)

_MAX_URL = 2000  # characters


def labels_of(status: str, url: str, directory: str) -> dict[str, str]:
    """Return the labels of a directory.

    `status` is the output of `git status --porcelain=v2 --branch --ignored=matching -z --
    DIRECTORY`. `url` is the remote's, and `directory` the path in the work tree, "" for all of it.
    There are no labels if git ignores the directory: build results do not belong to a commit.
    """
    commit = ""
    for line in status.split("\0"):
        if line.startswith("# branch.oid "):
            commit = line.rpartition(" ")[2]
        elif line[:2] == "! " and line.endswith("/") and f"{directory}/".startswith(line[2:]):
            return {}
    return _labels(commit, url, is_dirty=_is_dirty(status))


def _labels(commit: str, url: str, *, is_dirty: bool) -> dict[str, str]:
    labels = {}
    if COMMIT.fullmatch(commit):  # else the repository has no commit yet
        labels[REVISION] = commit + (_DIRTY if is_dirty else "")
    if source := source_of(url):
        labels[SOURCE] = source
    return labels


def parse_revision(label: str) -> tuple[str, bool]:
    """Return the commit of a label ("": none), and whether the directory differs from it."""
    commit = label.removesuffix(_DIRTY)
    return (commit if COMMIT.fullmatch(commit) else ""), commit != label


def _is_dirty(status: str) -> bool:
    """Whether git names a path that differs from the commit."""
    return any(line and line[:2] not in ("# ", "! ") for line in status.split("\0"))


def source_of(url: str) -> str:
    """Return a remote's URL without secrets. "" for a path on this machine, and for other forms.

    The user of an ssh URL is part of the address, like `git@`. In other URLs it may be a token.
    """
    if len(url) > _MAX_URL or not url.isprintable() or not is_utf8(url):
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
    address = f"[{host}]" if ":" in host else host
    if port:
        address += f":{port}"
    if user and parts.scheme in _SSH:
        address = f"{user}@{address}"
    return f"{parts.scheme}://{address}{parts.path}"


# --- The history ---

_DEPTH = 50
"""Ancestors of HEAD that a tag may name."""

_CI_BRANCHES = (
    "GITHUB_HEAD_REF",
    "GITHUB_REF_NAME",
    "CI_COMMIT_BRANCH",
    "GITHUB_BASE_REF",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME",
    "CI_DEFAULT_BRANCH",
)
"""Where CI systems name the branch: they check out a commit, not a branch."""


_PARENT = re.compile("^parent ([0-9a-f]{40,64})$", re.MULTILINE)


@dataclass(frozen=True)
class History:
    """Where a work tree's commit comes from."""

    commits: tuple[str, ...] = ()  # HEAD and its first parents, the nearest first
    branches: tuple[str, ...] = ()  # the likeliest first
    is_shallow: bool = False  # it ends with a clone's depth
    problem: str = ""  # why git does not tell it


def read_history(root: str, debug: Debug) -> History:
    """Return the history of the work tree at `root`; empty if git does not know it, or fails."""
    if _find_work_tree(root) is None:
        return History()
    branches = [os.environ.get(name, "") for name in _CI_BRANCHES]

    def ask(*arguments: str) -> str:
        return _run(root, *arguments, timeout=_ADVICE_TIMEOUT, debug=debug)

    try:
        names = ask(
            *("for-each-ref", "--format=%(HEAD)%(refname:lstrip=2)%00%(upstream:lstrip=3)"),
            "refs/heads",
        )
        shallow = ask("rev-parse", "--is-shallow-repository")
    except _GitFailed as error:
        debug(f"no history from git: {error}")
        return History(branches=tuple(filter(None, branches)), problem=str(error))
    commits: list[str] = []
    with contextlib.suppress(_GitFailed):  # the repository has no commit yet
        commits = ask("rev-list", "--first-parent", f"--max-count={_DEPTH + 1}", "HEAD").split()
        if len(commits) <= _DEPTH:  # a shallow clone's last commit still names its parent
            last = ask("cat-file", "commit", commits[-1])
            commits += _PARENT.findall(last.partition("\n\n")[0])[:1]
    for line in names.splitlines():
        if line.startswith("*"):  # the branch that is checked out
            branches = [*line[1:].split("\0"), *branches]
    named = tuple(dict.fromkeys(filter(None, branches)))
    return History(tuple(commits), named, shallow.strip() == "true")


# --- Running git ---


def _find_work_tree(root: str) -> str | None:
    """Return the nearest directory from `root` upwards with a `.git`. Faster than asking git."""
    directory = root
    while not os.path.lexists(os.path.join(directory, ".git")):
        above = os.path.dirname(directory)
        if above == directory:
            return None
        directory = above
    return directory


def path_in_work_tree(root: str) -> str:
    """Return the path of a directory in the work tree around it; "" for all of it, or for none."""
    return root[len(_find_work_tree(root) or root) :].strip("/")


def _trusting(root: str) -> str:
    """Return the command that makes git answer for the work tree around a directory."""
    top = _find_work_tree(root) or root
    return f"git config --global --add safe.directory {shlex.quote(top)}"


def _run(
    root: str,
    *arguments: str,
    timeout: float,
    debug: Debug,
    settings: Iterable[str] = (),
    ceiling: str = "",
    good_codes: tuple[int, ...] = (0,),
    stdin: str = "",
) -> str:
    """Return what git prints in the directory `root`. Raises _GitFailed.

    git looks for no repository in or above the directory `ceiling`.
    """
    import subprocess  # 10 ms that neither docker's metadata request nor --help needs

    program = shutil.which("git")
    if program is None:
        raise _GitFailed("there is no git on PATH")
    environment = git_environment(os.environ) | _ENVIRONMENT
    if ceiling:
        environment["GIT_CEILING_DIRECTORIES"] = ceiling
    command = [program, "--no-pager", "-C", root]
    for setting in (*_SETTINGS, *settings):
        command += ["-c", setting]
    command += arguments
    debug(f"+ {' '.join(command)}")
    try:
        ended = subprocess.run(
            command,
            env=environment,
            input=os.fsencode(stdin),
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise _GitFailed(f"it has not answered for {timeout:.0f} s") from error
    except OSError as error:
        raise _GitFailed(f"{program} cannot be run: {error.strerror}") from error
    if ended.returncode not in good_codes:
        message = " ".join(os.fsdecode(ended.stderr).split())[:_MAX_MESSAGE].removeprefix("fatal: ")
        failure = _NotTrusted if "detected dubious ownership" in message else _GitFailed
        raise failure(message or f"it exited with code {ended.returncode}")
    return os.fsdecode(ended.stdout)
