"""docker's own configuration: where it is, and what it says that concerns Kontext."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kontext_plugin import schema
from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.reference import DOCKER_HUB
from kontext_plugin.sources import read_file

_MOST = 1024 * 1024  # bytes

_HUB_KEY = "https://index.docker.io/v1/"
"""What docker calls its own registry there."""


@dataclass(frozen=True)
class Settings:
    """config.json, as far as it matters here; empty where there is none."""

    there: bool = False
    context: str = ""
    plugin_folders: tuple[str, ...] = ()  # looked through before docker's own
    helpers: Mapping[str, str] = field(default_factory=dict)  # by their registries' keys
    store: str = ""
    logins: frozenset[str] = frozenset()  # the registries' keys

    def credential_helper(self, registry: str) -> tuple[str, str]:
        """Who answers for a registry, without `docker-credential-`, and the setting that says so.

        Both are empty where no helper does.
        """
        if helper := self.helpers.get(key(registry)):
            return helper, "credHelpers"
        return (self.store, "credsStore") if self.store else ("", "")

    def has_login(self, registry: str) -> bool:
        """Whether `auths` names the registry, in any of the spellings that docker knows."""
        if key(registry) in self.logins:
            return True
        return registry in map(_host, self.logins)


def folder() -> str:
    """docker's configuration directory."""
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def path() -> str:
    return os.path.join(folder(), "config.json")


def key(registry: str) -> str:
    """A registry as config.json and the credential helpers name it."""
    return _HUB_KEY if registry in (DOCKER_HUB, "index.docker.io") else registry


def load() -> Settings:
    """Raises KontextError if the file is there and cannot be used."""
    document = read(path(), schema.DOCKER_CONFIG)
    if document is None:
        return Settings()
    return Settings(
        there=True,
        context=document.get("currentContext", ""),
        plugin_folders=tuple(document.get("cliPluginsExtraDirs", ())),
        helpers=document.get("credHelpers", {}),
        store=document.get("credsStore", ""),
        logins=frozenset(document.get("auths", ())),
    )


def read(file: str, shape: str) -> dict[str, Any] | None:
    """A document of docker's by a schema of ours; None if there is none. Raises KontextError."""
    try:
        return schema.load(read_file(file, _MOST), shape)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise KontextError(
            f"docker's configuration {file} cannot be read: {reason_of(error)}",
            hint="It must be valid JSON: mend it, or move it away.",
        ) from error


def registries() -> list[str]:
    """The hosts that docker has credentials or a credential helper for; none if it cannot tell.

    For completion, which has no time for schemas.
    """
    try:
        settings = json.loads(read_file(path(), _MOST))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(settings, dict):
        return []
    sections = (settings.get(name) for name in ("auths", "credHelpers"))
    names = {name for section in sections if isinstance(section, dict) for name in section}
    return sorted({_host(name) for name in names} - {""})


def _host(name: str) -> str:
    if name == _HUB_KEY:
        return DOCKER_HUB
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]
