"""The daemon that docker itself would use, from its flags, the environment and its contexts."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.docker_config import (
    config_directory,
    load_docker_config,
    load_docker_document,
)
from kontext_plugin.runtime.schema import DOCKER_CONTEXT

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
    directory = environment.get("DOCKER_CERT_PATH") or config_directory() or os.devnull
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
    contexts = os.path.join(config_directory() or os.devnull, "contexts")
    document = load_docker_document(
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
