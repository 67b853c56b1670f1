"""docker's own configuration: where it is, and what it says that concerns Kontext.

Which Docker daemon docker itself would talk to: its flags, its environment, its contexts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kontext_plugin.cli.flags import Globals
from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.image.reference import DOCKER_HUB
from kontext_plugin.runtime.files import read_file
from kontext_plugin.runtime.schema import DOCKER_CONFIG, DOCKER_CONTEXT, load_document

_MOST = 1024 * 1024  # bytes

_HUB_KEY = "https://index.docker.io/v1/"
"""What docker calls its own registry there."""


@dataclass(frozen=True)
class DockerConfig:
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
        if helper := self.helpers.get(registry_key(registry)):
            return helper, "credHelpers"
        return (self.store, "credsStore") if self.store else ("", "")

    def has_login(self, registry: str) -> bool:
        """Whether `auths` names the registry, in any of the spellings that docker knows."""
        if registry_key(registry) in self.logins:
            return True
        return registry in map(_registry_host, self.logins)


def config_directory() -> str:
    """docker's configuration directory."""
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def config_path() -> str:
    return os.path.join(config_directory(), "config.json")


def registry_key(registry: str) -> str:
    """A registry as config.json and the credential helpers name it."""
    return _HUB_KEY if registry in (DOCKER_HUB, "index.docker.io") else registry


def load_config() -> DockerConfig:
    """Raises KontextError if the file is there and cannot be used."""
    document = read_config(config_path(), DOCKER_CONFIG)
    if document is None:
        return DockerConfig()
    return DockerConfig(
        there=True,
        context=document.get("currentContext", ""),
        plugin_folders=tuple(document.get("cliPluginsExtraDirs", ())),
        helpers=document.get("credHelpers", {}),
        store=document.get("credsStore", ""),
        logins=frozenset(document.get("auths", ())),
    )


def read_config(file: str, shape: str) -> dict[str, Any] | None:
    """A document of docker's by a schema of ours; None if there is none. Raises KontextError."""
    try:
        return load_document(read_file(file, _MOST), shape)
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
        settings = json.loads(read_file(config_path(), _MOST))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(settings, dict):
        return []
    sections = (settings.get(name) for name in ("auths", "credHelpers"))
    names = {name for section in sections if isinstance(section, dict) for name in section}
    return sorted({_registry_host(name) for name in names} - {""})


def _registry_host(name: str) -> str:
    if name == _HUB_KEY:
        return DOCKER_HUB
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


_DEFAULT = "default"

_SOCKET = "unix:///var/run/docker.sock"

_TLS_HOST = "tcp://localhost:2376"

_PORTLESS = re.compile(r"tcp://(?:\[[^\]]*\]|[^:/\[]+)(?=/|$)")


@dataclass(frozen=True)
class Tls:
    """How to speak to a daemon over TLS; files that are not there are empty."""

    verify: bool
    authority: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Endpoint:
    host: str = _SOCKET
    tls: Tls | None = None

    @property
    def is_local(self) -> bool:
        """Whether the daemon sees this machine's files."""
        return self.host.startswith("unix://")


def choose_endpoint(flags: Globals, environment: Mapping[str, str]) -> Endpoint:
    """In docker's order: --host, --context, DOCKER_HOST, DOCKER_CONTEXT, the current context.

    Raises KontextError if a context is named that is not there.
    """
    name = _DEFAULT
    if not flags.host:
        name = flags.context
        if not name and not environment.get("DOCKER_HOST"):
            name = environment.get("DOCKER_CONTEXT") or load_config().context
    if name and name != _DEFAULT:
        return _of_context(name)
    tls = _tls(flags, environment)
    host = flags.host or environment.get("DOCKER_HOST") or (_TLS_HOST if tls else _SOCKET)
    port = 2376 if tls else 2375
    return Endpoint(_PORTLESS.sub(rf"\g<0>:{port}", host, count=1), tls)


def _tls(flags: Globals, environment: Mapping[str, str]) -> Tls | None:
    # docker turns TLS on for --tlsverify=false, too.
    verify = (
        flags.tlsverify
        if flags.tlsverify is not None
        else _is_set(environment, "DOCKER_TLS_VERIFY")
    )
    if not (
        flags.tls or verify or flags.tlsverify is not None or _is_set(environment, "DOCKER_TLS")
    ):
        return None
    folder = environment.get("DOCKER_CERT_PATH") or config_directory()
    return Tls(
        verify,
        flags.tlscacert or os.path.join(folder, "ca.pem"),
        flags.tlscert or _there(os.path.join(folder, "cert.pem")),
        flags.tlskey or _there(os.path.join(folder, "key.pem")),
    )


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return bool(environment.get(name))  # docker takes "0" for yes


def _of_context(name: str) -> Endpoint:
    # docker's context store: directories are named by the SHA-256 of the context's name.
    number = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    store = os.path.join(config_directory(), "contexts")
    meta = os.path.join(store, "meta", number, "meta.json")
    document = read_config(meta, DOCKER_CONTEXT)
    if document is None:
        raise KontextError(
            f"docker has no context {name!r}", hint="'docker context ls' shows those that it has."
        )
    found = document["Endpoints"].get("docker", {})
    files = os.path.join(store, "tls", number, "docker")
    skip = found.get("SkipTLSVerify", False)
    tls = Tls(
        not skip, *(_there(os.path.join(files, name)) for name in ("ca.pem", "cert.pem", "key.pem"))
    )
    return Endpoint(
        found.get("Host") or _SOCKET, tls if skip or tls.authority or tls.certificate else None
    )


def _there(file: str) -> str:
    return file if os.path.exists(file) else ""
