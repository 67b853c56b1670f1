"""Which Docker daemon docker itself would talk to: its flags, its environment, its contexts."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kontext_plugin import docker_config, schema
from kontext_plugin.errors import KontextError
from kontext_plugin.options import Globals

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


def choose(flags: Globals, environment: Mapping[str, str]) -> Endpoint:
    """In docker's order: --host, --context, DOCKER_HOST, DOCKER_CONTEXT, the current context.

    Raises KontextError if a context is named that is not there.
    """
    name = _DEFAULT
    if not flags.host:
        name = flags.context
        if not name and not environment.get("DOCKER_HOST"):
            name = environment.get("DOCKER_CONTEXT") or docker_config.load().context
    if name and name != _DEFAULT:
        return _of_context(name)
    tls = _tls(flags, environment)
    host = flags.host or environment.get("DOCKER_HOST") or (_TLS_HOST if tls else _SOCKET)
    port = 2376 if tls else 2375
    return Endpoint(_PORTLESS.sub(rf"\g<0>:{port}", host, count=1), tls)


def _tls(flags: Globals, environment: Mapping[str, str]) -> Tls | None:
    # docker turns TLS on for --tlsverify=false, too.
    verify = (
        flags.tlsverify if flags.tlsverify is not None else _set(environment, "DOCKER_TLS_VERIFY")
    )
    if not (flags.tls or verify or flags.tlsverify is not None or _set(environment, "DOCKER_TLS")):
        return None
    folder = environment.get("DOCKER_CERT_PATH") or docker_config.folder()
    return Tls(
        verify,
        flags.tlscacert or os.path.join(folder, "ca.pem"),
        flags.tlscert or _there(os.path.join(folder, "cert.pem")),
        flags.tlskey or _there(os.path.join(folder, "key.pem")),
    )


def _set(environment: Mapping[str, str], name: str) -> bool:
    return bool(environment.get(name))  # docker takes "0" for yes


def _of_context(name: str) -> Endpoint:
    # docker's context store: directories are named by the SHA-256 of the context's name.
    number = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    store = os.path.join(docker_config.folder(), "contexts")
    meta = os.path.join(store, "meta", number, "meta.json")
    document = docker_config.read(meta, schema.DOCKER_CONTEXT)
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
