"""What `install` puts on this machine, and `uninstall` takes back.

That is a link, by which docker finds the plugin (docker/cli, cli-plugins/manager), and crane. A
record beside crane says what was made. Nothing else is ever replaced or removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.process import CraneRunner, check_version, installed_crane
from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.runtime.docker_config import (
    config_directory,
    data_directory,
    load_docker_config,
)
from kontext_plugin.runtime.files import read_file

PLUGIN_NAME = "docker-kontext"

_SYSTEM_DIRECTORIES = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
"""docker looks last into `docker/cli-plugins` in these."""

_RECORD = "install.json"

_TEMPORARY = ".new-"
"""How the names of unfinished things in the data directory begin."""

_MAX_RECORD = 64 * 1024  # bytes

_MAX_CRANE = 1 << 30  # bytes of a crane to compare with the record

_VERSION_TIMEOUT = 20.0  # seconds for crane to print its version


def plugin_file() -> str:
    """Return the file of this installation that docker must start."""
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), PLUGIN_NAME)


def own_command() -> str:
    """Return a command that starts this installation, also if docker does not find it."""
    found = shutil.which(PLUGIN_NAME)
    beside = os.path.join(os.path.dirname(sys.executable), PLUGIN_NAME)
    if found and os.path.realpath(found) == os.path.realpath(beside):
        return PLUGIN_NAME
    return beside if os.access(beside, os.X_OK) else plugin_file()


# --- The record ---


@dataclass(frozen=True)
class Record:
    """What `install` has made."""

    crane: str = ""  # what `identity_of` returned for it; "": none
    directories: tuple[str, ...] = ()  # that did not exist before, each after its parent


def parse_record(content: bytes) -> Record:
    """Return a record. One that is damaged is empty: then everything counts as the user's."""
    try:
        document = json.loads(content)
        crane, directories = document["crane"], document["directories"]
        if isinstance(crane, str) and all(isinstance(name, str) for name in directories):
            return Record(crane, tuple(directories))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return Record()


def load_record() -> Record:
    """Return the record of this user. It is empty if there is none."""
    directory = data_directory()
    try:
        return parse_record(read_file(os.path.join(directory or "", _RECORD), _MAX_RECORD))
    except (OSError, ValueError):
        return Record()


def _save_record(record: Record) -> None:
    """Raises OSError."""
    directory = _data_directory()
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=directory) as temporary:
        new = os.path.join(temporary, _RECORD)
        with open(new, "w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
        os.replace(new, os.path.join(directory, _RECORD))


def missing_directories(path: str) -> tuple[str, ...]:
    """Return those of a directory and its parents that do not exist, the uppermost first."""
    path, missing = os.path.abspath(path), []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return tuple(reversed(missing))


def _make_directory(path: str) -> tuple[str, ...]:
    """Make a directory and its parents; return those that are new. Raises OSError."""
    missing = missing_directories(path)
    os.makedirs(path, exist_ok=True)
    return missing


def _remove_empty(directories: Sequence[str]) -> None:
    """Remove those that are empty, each before its parent."""
    for path in reversed(directories):
        with contextlib.suppress(OSError):  # it is not empty, or gone
            os.rmdir(path)


def _data_directory() -> str:
    directory = data_directory()
    if directory is None:
        raise KontextError(
            "there is no directory for crane: HOME is not set, and this user has no home",
            hint="Name a directory in XDG_DATA_HOME, or a crane in KONTEXT_CRANE.",
        )
    return directory


# --- The link ---


def link_path() -> str:
    """Return where the user's own link belongs. Raises KontextError if there is no home."""
    directory = config_directory()
    if directory is None:
        raise KontextError(
            "docker's plugins have no directory: HOME is not set, and this user has no home",
            hint="Name docker's configuration directory in DOCKER_CONFIG.",
        )
    return os.path.join(directory, "cli-plugins", PLUGIN_NAME)


def link() -> bool:
    """Make the user's link lead to this installation; return False if it does already.

    An older link of Kontext's is replaced. Raises KontextError if anything else is there.
    """
    path = link_path()
    if os.path.lexists(path):
        if not os.path.islink(path):
            raise KontextError(
                f"{path} exists and is not a link", hint="Move it away, and run this again."
            )
        target = os.readlink(path)
        if os.path.join(os.path.dirname(path), target) == plugin_file():
            return False
        if not _is_kontext(target):
            raise KontextError(
                f"{path} links to {target}, which is not Kontext",
                hint="Remove the link if nobody needs it, and run this again.",
            )
    try:
        made = _make_directory(os.path.dirname(path))
        _replace_link(plugin_file(), path)
    except OSError as error:
        raise KontextError(f"cannot make {path}: {error.strerror}") from error
    _remember_directories(made)
    return True


def unlink() -> str:
    """Remove the user's link, and return the path. Raises KontextError if it is not ours.

    A link that leads nowhere is ours too, if its name says so: its installation is gone.
    """
    path = link_path()
    if not os.path.lexists(path):
        return ""
    if not os.path.islink(path):
        raise KontextError(
            f"{path} is not a link, so 'install' did not make it", hint="It was left as it is."
        )
    target = os.readlink(path)
    if not is_ours(path) and (os.path.exists(path) or not _is_kontext(target)):
        other = f"Run '{target} uninstall'." if _is_kontext(target) else "It was left as it is."
        raise KontextError(f"{path} links to another program: {target}", hint=other)
    try:
        os.unlink(path)
    except OSError as error:
        raise KontextError(f"cannot remove {path}: {error.strerror}") from error
    return path


def _is_kontext(target: str) -> bool:
    """By its name alone: an installation may have moved, and then the link dangles."""
    return target.endswith(f"kontext_plugin/{PLUGIN_NAME}")


def _replace_link(target: str, path: str) -> None:
    """Make a link in the place of anything but a directory, at once. Raises OSError."""
    new = f"{path}.{secrets.token_hex(4)}"
    os.symlink(target, new)
    try:
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _remember_directories(made: Sequence[str]) -> None:
    """Without a record, `uninstall` leaves them. That is no reason to fail."""
    if not made:
        return
    with contextlib.suppress(OSError, KontextError):
        own = _make_directory(_data_directory())
        record = load_record()
        _save_record(replace(record, directories=(*record.directories, *made, *own)))


def first_candidate() -> str | None:
    """Return the file that docker takes for Kontext, even if it does not work; None without one.

    docker ignores dangling links (PluginRunCommand). Raises KontextError.
    """
    own = config_directory()
    directories = [
        *load_docker_config().plugin_directories,
        *([os.path.join(own, "cli-plugins")] if own else []),
        *(os.path.join(directory, "docker/cli-plugins") for directory in _SYSTEM_DIRECTORIES),
    ]
    candidates = (os.path.join(directory, PLUGIN_NAME) for directory in directories)
    return next(filter(os.path.exists, candidates), None)


def is_ours(candidate: str) -> bool:
    """Return whether a file or link leads to this installation."""
    return os.path.realpath(candidate) == plugin_file()


def cache_of(path: str, prefix: str) -> str:
    """Return the cache that a path lies in, "" if it lies in none.

    uvx and `pipx run` install into caches, which are cleaned. A cache is a directory of that name,
    or has a file CACHEDIR.TAG (bford.info/cachedir). uv writes one into each environment, too: that
    of `prefix`, the environment of this Python, does not count.
    """
    while path != (path := os.path.dirname(path)):
        if os.path.basename(path) in (".cache", "Caches"):
            return path
        if path != prefix and os.path.exists(os.path.join(path, "CACHEDIR.TAG")):
            return path
    return ""


# --- crane ---


def identity_of(path: str) -> str:
    """Return what tells one crane from another: `link:TARGET` or `sha256:HEX`; "" without one.

    Anything else, and a file that cannot be read, is `other`.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return f"link:{os.readlink(path)}"
        return f"sha256:{hashlib.sha256(read_file(path, _MAX_CRANE)).hexdigest()}"
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):
        return "other"


def check_place_for_crane() -> None:
    """Raise KontextError if another crane than that of `install` is in its place."""
    path = installed_crane()
    identity = identity_of(path) if path else ""
    if identity and identity != load_record().crane:
        raise KontextError(
            f"'install' did not make {path}, so it does not replace it",
            hint="Move it away, or name it in KONTEXT_CRANE. Then run this again.",
        )


def crane_problem(program: str) -> KontextError | None:
    """Return why a crane cannot be used, None if it can. An unknown version is no reason."""
    try:
        with Crane(CraneRunner(program, timeout=_VERSION_TIMEOUT)) as crane:
            problem = check_version(crane.version(), program)
    except KontextError as error:
        return error
    return (
        KontextError(problem.message, hint=problem.hint) if problem and problem.is_fatal else None
    )


def write_crane(content: bytes) -> str:
    """Put a program in crane's place if it runs, and return the path. Raises KontextError."""
    check_place_for_crane()
    with _preparing() as (temporary, path):
        new = os.path.join(temporary, "crane")
        with open(new, "wb") as file:
            file.write(content)
        os.chmod(new, 0o755)
        if problem := crane_problem(new):
            raise KontextError(
                f"the crane for {path} cannot be used: {problem.message}",
                hint="Run 'docker kontext install --crane PATH' with a crane that runs here. If "
                "programs do not run in that directory, name another one in XDG_DATA_HOME.",
            )
        os.replace(new, path)
    return path


def check_crane(program: str) -> None:
    """Raise KontextError if a crane that the user names cannot be used."""
    hint = "Name another crane, or run this without --crane."
    if not os.path.lexists(program):
        raise KontextError(f"{program!r} does not exist", hint=hint)
    if problem := crane_problem(program):
        raise KontextError(problem.message, hint=hint)


def link_crane(target: str) -> str:
    """Put a link to a crane in crane's place, and return the path. Raises KontextError."""
    check_crane(target)
    check_place_for_crane()
    with _preparing() as (_, path):
        if not _is_same_file(target, path):  # or the link would lead to itself
            _replace_link(target, path)
    return path


def _is_same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


@contextlib.contextmanager
def _preparing() -> Iterator[tuple[str, str]]:
    """Yield a temporary directory and the path of crane. Record afterwards what is there."""
    directory = _data_directory()
    path = os.path.join(directory, "crane")
    made: tuple[str, ...] = ()
    try:
        made = _make_directory(directory)
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=directory) as temporary:
            yield temporary, path
        record = load_record()
        _save_record(Record(identity_of(path), (*record.directories, *made)))
    except BaseException as error:
        _remove_empty(made)
        if not isinstance(error, OSError):
            raise
        raise KontextError(
            f"cannot write {path}: {reason_of(error)}",
            hint="Make room there, name another directory in XDG_DATA_HOME, or name a crane in "
            "KONTEXT_CRANE.",
        ) from error


def remove_crane() -> str:
    """Remove the crane that `install` put into its place; return its path, "" if it is not there.

    Raises KontextError for any other crane there, and if it cannot be removed.
    """
    path = installed_crane()
    if path is None or not os.path.lexists(path):
        return ""
    check_place_for_crane()
    try:
        os.unlink(path)
    except OSError as error:
        raise KontextError(f"cannot remove {path}: {error.strerror}") from error
    return path


def remove_record() -> None:
    """Remove the record, and the recorded directories that are empty. Raises KontextError."""
    directory = data_directory()
    if directory is None or not os.path.isdir(directory):
        return
    directories = load_record().directories
    try:
        for name in os.listdir(directory):
            if name.startswith(_TEMPORARY):  # an `install` was killed
                shutil.rmtree(os.path.join(directory, name))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, _RECORD))
    except OSError as error:
        raise KontextError(f"cannot empty {directory}: {error.strerror}") from error
    _remove_empty(directories)
