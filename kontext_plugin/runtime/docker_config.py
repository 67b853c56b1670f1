"""docker's config.json, and the directories that a user's configuration and programs lie in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.runtime.files import read_file
from kontext_plugin.runtime.schema import DOCKER_CONFIG, load_document

MAX_SIZE = 1024 * 1024
"""Bytes of a configuration file."""


@dataclass(frozen=True)
class DockerConfig:
    """What Kontext reads of config.json besides credentials. Empty if there is no such file."""

    context: str = ""
    plugin_directories: tuple[str, ...] = ()  # docker searches them before its own


def home_directory() -> str | None:
    """Return the user's home directory, None if neither HOME nor the user database names one.

    As Go and docker do, and unlike os.path.expanduser: an empty HOME counts as unset, and nothing
    is ever named `~`.
    """
    if home := os.environ.get("HOME"):
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir or None
    except KeyError:
        return None


def config_directory() -> str | None:
    """Return docker's configuration directory, None without DOCKER_CONFIG and a home directory."""
    if directory := os.environ.get("DOCKER_CONFIG"):
        return directory
    home = home_directory()
    return os.path.join(home, ".docker") if home else None


def data_directory() -> str | None:
    """Return the directory of what `install` fetches: `kontext` in XDG_DATA_HOME or ~/.local/share.

    None without both. A relative XDG_DATA_HOME counts as unset (XDG Base Directory Specification).
    """
    parent = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(parent):
        home = home_directory()
        parent = os.path.join(home, ".local", "share") if home else ""
    return os.path.join(parent, "kontext") if parent else None


def config_path() -> str | None:
    """Return the path of docker's config.json, None as for `config_directory`."""
    directory = config_directory()
    return os.path.join(directory, "config.json") if directory else None


def load_docker_config() -> DockerConfig:
    """Return docker's config.json. Raises KontextError if it exists and cannot be read."""
    path = config_path()
    document = load_docker_document(path, DOCKER_CONFIG) if path else None
    if document is None:
        return DockerConfig()
    return DockerConfig(
        context=document.get("currentContext", ""),
        plugin_directories=tuple(document.get("cliPluginsExtraDirs", ())),
    )


def load_docker_document(path: str, schema: str) -> dict[str, Any] | None:
    """Return a JSON document of docker's, None if there is no file. Raises KontextError."""
    try:
        return load_document(read_file(path, MAX_SIZE), schema)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise KontextError(
            f"docker's configuration {path} cannot be read: {reason_of(error)}",
            hint="It must be valid JSON. Correct the file, or move it away.",
        ) from error
