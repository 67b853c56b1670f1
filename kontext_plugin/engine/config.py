"""docker's own configuration.

1. `DockerConfig`: docker's config.json, with its logins and credential helpers.
2. `choose_endpoint`: the daemon that docker itself would use, from docker's flags, the environment
   and docker's contexts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.image.reference import DOCKER_HUB
from kontext_plugin.runtime.files import read_file
from kontext_plugin.runtime.schema import DOCKER_CONFIG, DOCKER_CONTEXT, load_document

_MAX_SIZE = 1024 * 1024
"""Bytes of a configuration file."""

# --- docker's config.json ---

_HUB_KEY = "https://index.docker.io/v1/"
"""The key of Docker Hub in config.json."""


@dataclass(frozen=True)
class DockerConfig:
    """What Kontext reads of docker's config.json. All is empty if there is no such file."""

    exists: bool = False
    context: str = ""
    plugin_directories: tuple[str, ...] = ()  # docker searches them before its own
    helpers: Mapping[str, str] = field(default_factory=dict)  # `credHelpers`: by registry key
    store: str = ""  # `credsStore`
    logins: frozenset[str] = frozenset()  # `auths`: registry keys

    def credential_helper(self, registry: str) -> tuple[str, str]:
        """Return a registry's credential helper and the setting that names it.

        The helper's name lacks `docker-credential-`. Both are empty if there is no helper.
        """
        if helper := self.helpers.get(registry_key(registry)):
            return helper, "credHelpers"
        return (self.store, "credsStore") if self.store else ("", "")

    def has_login(self, registry: str) -> bool:
        """Return whether `auths` names the registry, in any spelling that docker accepts."""
        if registry_key(registry) in self.logins:
            return True
        return registry in map(_registry_host, self.logins)


def config_directory() -> str:
    """Return docker's configuration directory."""
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def config_path() -> str:
    """Return the path of docker's config.json."""
    return os.path.join(config_directory(), "config.json")


def load_docker_config() -> DockerConfig:
    """Return docker's config.json. Raises KontextError if it exists and cannot be read."""
    document = _load_document(config_path(), DOCKER_CONFIG)
    if document is None:
        return DockerConfig()
    return DockerConfig(
        exists=True,
        context=document.get("currentContext", ""),
        plugin_directories=tuple(document.get("cliPluginsExtraDirs", ())),
        helpers=document.get("credHelpers", {}),
        store=document.get("credsStore", ""),
        logins=frozenset(document.get("auths", ())),
    )


def registry_key(registry: str) -> str:
    """Return the key of a registry in config.json and in credential helpers."""
    return _HUB_KEY if registry in (DOCKER_HUB, "index.docker.io") else registry


def known_registries() -> list[str]:
    """Return the hosts that config.json has logins or credential helpers for, sorted.

    For completion: it has no time for schemas, and a file that cannot be read names no hosts.
    """
    try:
        document = json.loads(read_file(config_path(), _MAX_SIZE))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(document, dict):
        return []
    sections = (document.get(name) for name in ("auths", "credHelpers"))
    keys = {key for section in sections if isinstance(section, dict) for key in section}
    return sorted({_registry_host(key) for key in keys} - {""})


def _registry_host(key: str) -> str:
    if key == _HUB_KEY:
        return DOCKER_HUB
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _load_document(path: str, schema: str) -> dict[str, Any] | None:
    """Return a JSON document of docker's, None if there is no file. Raises KontextError."""
    try:
        return load_document(read_file(path, _MAX_SIZE), schema)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise KontextError(
            f"docker's configuration {path} cannot be read: {reason_of(error)}",
            hint="It must be valid JSON. Correct the file, or move it away.",
        ) from error


# --- The daemon that docker would use ---

_DEFAULT_CONTEXT = "default"

_DEFAULT_SOCKET = "unix:///var/run/docker.sock"

_DEFAULT_TLS_HOST = "tcp://localhost:2376"

_HOST_WITHOUT_PORT = re.compile(r"tcp://(?:\[[^\]]*\]|[^:/\[]+)(?=/|$)")


@dataclass(frozen=True)
class DaemonFlags:
    """docker's global flags that choose a daemon, by their names."""

    host: str = ""
    context: str = ""
    tls: bool = False
    tlsverify: bool | None = None  # None: not given
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""


@dataclass(frozen=True)
class Tls:
    """TLS with a daemon. Paths of PEM files, each empty if there is no such file."""

    verify: bool
    authority: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Endpoint:
    """The address of a daemon."""

    host: str = _DEFAULT_SOCKET
    tls: Tls | None = None

    @property
    def is_local(self) -> bool:
        """Whether the daemon sees this machine's files."""
        return self.host.startswith("unix://")


def choose_endpoint(flags: DaemonFlags, environment: Mapping[str, str]) -> Endpoint:
    """Return the daemon that docker would use.

    The first of these decides: --host, --context, DOCKER_HOST, DOCKER_CONTEXT, the current context
    in config.json. Raises KontextError if the context does not exist.
    """
    context = _DEFAULT_CONTEXT
    if not flags.host:
        context = flags.context
        if not context and not environment.get("DOCKER_HOST"):
            context = environment.get("DOCKER_CONTEXT") or load_docker_config().context
    if context and context != _DEFAULT_CONTEXT:
        return _load_context(context)
    tls = _choose_tls(flags, environment)
    host = flags.host or environment.get("DOCKER_HOST")
    host = host or (_DEFAULT_TLS_HOST if tls else _DEFAULT_SOCKET)
    port = 2376 if tls else 2375
    return Endpoint(_HOST_WITHOUT_PORT.sub(rf"\g<0>:{port}", host, count=1), tls)


def _choose_tls(flags: DaemonFlags, environment: Mapping[str, str]) -> Tls | None:
    # docker takes any value for yes, also "0".
    verify = flags.tlsverify
    if verify is None:
        verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    # Like docker, --tlsverify=false turns TLS on too, without verification.
    given = flags.tls or flags.tlsverify is not None or environment.get("DOCKER_TLS")
    if not (verify or given):
        return None
    directory = environment.get("DOCKER_CERT_PATH") or config_directory()
    return Tls(
        verify,
        flags.tlscacert or os.path.join(directory, "ca.pem"),
        flags.tlscert or _if_exists(os.path.join(directory, "cert.pem")),
        flags.tlskey or _if_exists(os.path.join(directory, "key.pem")),
    )


def _load_context(name: str) -> Endpoint:
    """Return the endpoint of a docker context. Raises KontextError."""
    # docker names the directory of a context by the SHA-256 of the context's name.
    directory = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    contexts = os.path.join(config_directory(), "contexts")
    document = _load_document(
        os.path.join(contexts, "meta", directory, "meta.json"), DOCKER_CONTEXT
    )
    if document is None:
        raise KontextError(
            f"docker has no context {name!r}", hint="'docker context ls' lists the contexts."
        )
    endpoint = document["Endpoints"].get("docker", {})
    pem = os.path.join(contexts, "tls", directory, "docker")
    skip_verify = endpoint.get("SkipTLSVerify", False)
    tls = Tls(
        not skip_verify,
        *(_if_exists(os.path.join(pem, file)) for file in ("ca.pem", "cert.pem", "key.pem")),
    )
    uses_tls = skip_verify or tls.authority or tls.certificate
    return Endpoint(endpoint.get("Host") or _DEFAULT_SOCKET, tls if uses_tls else None)


def _if_exists(path: str) -> str:
    return path if os.path.exists(path) else ""
