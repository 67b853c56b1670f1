"""`.kontext.toml`: the options that a directory sets for its own pushes.

The file comes with the sources, so a stranger may have written it. It may describe the image. It
may not spend the rights of the user who pushes (docs/push.md, "What the file may not set").

Each setting becomes a flag in front of the command line. So there is one parser, and the command
line wins.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from kontext_plugin.cli.flags import did_you_mean, suggest
from kontext_plugin.errors import KontextError, brief, reason_of
from kontext_plugin.image.spec import GIT_LABELS
from kontext_plugin.runtime.files import DirTree, read_pieces
from kontext_plugin.runtime.schema import CONFIG_FILE, check_document

CONFIG_FILE_NAME = ".kontext.toml"

MAX_BYTES = 16 * 1024
"""Of the file. The time that Python's TOML parser takes grows with the square of a dotted key: a
file of this size takes at most two seconds."""

OPTIONS = {
    "check-parent": "check-parent",
    "compression": "compression",
    "from": "from",
    "gitignore": "gitignore",
    "ignore-file": "ignore-file",
    "labels": "label",
    "max-layers": "max-layers",
    "no-git-labels": "no-git-labels",
    "platforms": "platform",
    "reuse": "reuse",
    "secrets": "secrets",
    "single-layer": "single-layer",
    "tag": "tag",
    "timeout": "timeout",
}
"""The keys of the file, each with the option of a push that it sets."""

_ONE_PUSH = "it is for a single push"

_WRITES = "it writes a file with your rights"

REFUSED = {
    "base": "a base is read with your credentials, and its layers are published",
    "dry-run": _ONE_PUSH,
    "fresh": _ONE_PUSH,
    "git": ".git may hold credentials, and commits that you have not published",
    "iidfile": _WRITES,
    "insecure": "it would send your credentials without protection",
    "metadata-file": _WRITES,
    "progress": _ONE_PUSH,
    "provenance": _WRITES,
    "quiet": "it hides warnings",
    "show-config": _ONE_PUSH,
    "timings": _ONE_PUSH,
}
"""The other options of a push, and why a directory must not set them for its pusher."""


Setting = tuple[str, str]
"""The name of an option, and a value as its flag has it."""


def read_config_file(directory: str) -> tuple[Setting, ...]:
    """Return the settings of a directory: none without a file, or without such a directory.

    Raises KontextError.
    """
    try:
        content = _read(directory)
        if content is None:
            return ()
        settings = settings_of(parse_toml(content))
        return tuple(_in_directory(directory, *setting) for setting in settings)
    except (OSError, ValueError) as error:
        raise unusable(directory, reason_of(error)) from error


def config_path(directory: str) -> str:
    """Return the path of a directory's file."""
    return os.path.join(directory, CONFIG_FILE_NAME)


def unusable(directory: str, why: str) -> KontextError:
    """Return the error for a file with something wrong in it."""
    return KontextError(
        f"cannot use {config_path(directory)!r}: {why}",
        hint="Correct the file, or remove it. docs/push.md lists what it may set; the command line "
        "may set everything.",
    )


def parse_toml(content: bytes) -> dict[str, Any]:
    """Return a TOML document in UTF-8. Raises ValueError, with a text of one line."""
    if sys.version_info >= (3, 11):  # 10 ms, only for a directory that has such a file
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"it is not TOML: {brief(error)}") from error


def settings_of(document: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the options of a document with their values. Pure. Raises ValueError."""
    for key in document:
        if key in REFUSED:
            raise ValueError(f"it must not set {key!r}: {REFUSED[key]}")
        if key not in OPTIONS:
            near = did_you_mean([repr(name) for name in suggest(key, [*OPTIONS])])
            raise ValueError(f"unknown key {brief(key)!r}" + (f". {near}" if near else ""))
    check_document(dict(document), CONFIG_FILE)
    for name in GIT_LABELS & document.get("labels", {}).keys():
        raise ValueError(f"it must not set the label {name!r}: only git says which commit this is")
    for key, value in document.items():
        option = OPTIONS[key]
        if key == "labels":
            yield from ((option, f"{name}={text}") for name, text in value.items())
        elif key == "platforms" and isinstance(value, list):
            yield option, ",".join(value)
        elif isinstance(value, list):
            yield from ((option, text) for text in value)
        elif isinstance(value, bool):
            yield option, "true" if value else "false"
        else:
            yield option, str(value)


def _read(directory: str) -> bytes | None:
    """Return the content of the file, None if there is none. Raises OSError and ValueError."""
    try:
        with DirTree(directory) as tree:
            file = tree.open_file(CONFIG_FILE_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("it is not a regular file")
        content = b"".join(read_pieces(file, MAX_BYTES + 1))
    finally:
        os.close(file)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return content


def _in_directory(directory: str, option: str, value: str) -> Setting:
    """Return a setting with its path as seen from here. Raises ValueError for one that leads out.

    A link in the directory may lead out of it, too.
    """
    if option != "ignore-file" or not value:
        return option, value
    path = os.path.join(directory, value)
    if "\0" in value or not os.path.realpath(path).startswith(_with_slash(directory)):
        raise ValueError(f"'ignore-file' {brief(value)!r} is not in the directory")
    return option, path


def _with_slash(directory: str) -> str:
    return os.path.realpath(directory).rstrip("/") + "/"
