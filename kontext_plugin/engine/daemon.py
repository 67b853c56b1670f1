"""The Docker daemon: ask it, pull into it, and run containers on it.

Nothing else in Kontext imports docker's SDK, which takes 200 ms to import: only functions do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kontext_plugin.crane import IDENTITY_TOKEN, Credentials
from kontext_plugin.crane_driver.credentials import registry_key
from kontext_plugin.engine.config import (
    DaemonFlags,
    Endpoint,
    Tls,
    choose_endpoint,
)
from kontext_plugin.errors import KontextError
from kontext_plugin.image.reference import Reference, registry_of

if TYPE_CHECKING:
    from docker import APIClient
    from docker.tls import TLSConfig


_GRACE = 1
"""Seconds in which an interrupted container may end before it is killed."""

_MAX_PROCESSES = 512
"""In a container: more than the threads of the extractor, and too few for a fork bomb."""

_NO_DAEMON_HINT = (
    "Start the daemon, or choose another one with 'docker --host' or 'docker --context'. "
    "A push needs no daemon."
)

_NO_PERMISSION_HINT = (
    "Usually only root and the members of the group 'docker' may use it. A push needs no daemon."
)

_PULL_HINT = (
    "The daemon must reach the registry itself, and trust it (insecure-registries). "
    "Kontext has passed on the credentials that you are logged in with."
)

_DEFAULT_HINT = "See the daemon's log, or run 'docker -D kontext …'."


@dataclass(frozen=True)
class ContainerSpec:
    """A container to run: an image, and a directory that is mounted into it."""

    image: str
    entrypoint: str
    arguments: Sequence[str]
    directory: str  # on the daemon's machine
    target: str  # where it is mounted; also the working directory
    user: str  # UID[:GID]
    groups: Sequence[int] = ()
    capabilities: Sequence[str] = ()  # all others are dropped


@dataclass(frozen=True)
class Daemon:
    """A daemon that has answered."""

    client: APIClient
    endpoint: Endpoint

    def version(self) -> str:
        """Return the version of the daemon. Raises KontextError."""
        with self.request("tell its version"):
            return str(self.client.version()["Version"])

    def platform(self) -> str:
        """Return `OS/ARCHITECTURE`, in Go's words. Raises KontextError."""
        with self.request("tell its platform"):
            version = self.client.version()
        return f"{version['Os']}/{version['Arch']}"

    def security_options(self) -> frozenset[str]:
        """Return the names of the security options, like `rootless` or `userns`.

        Raises KontextError.
        """
        with self.request("tell its settings"):
            options = self.client.info().get("SecurityOptions") or ()
        return frozenset(option.partition(",")[0].removeprefix("name=") for option in options)

    def has_image(self, image: str) -> bool:
        """Return whether the daemon has the image `REPO@sha256:…`. Raises KontextError."""
        from docker.errors import ImageNotFound

        with self.request(f"look for {image}"):
            try:
                self.client.inspect_image(image)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return False
        return True

    def pull(self, image: str, credentials: Credentials | None) -> None:
        """Pull the image `REPO@sha256:…`. Raises KontextError."""
        from docker.errors import DockerException

        # Without an auth_config, also an empty one, the SDK looks for credentials unlike docker.
        auth = _auth_config(image, credentials)
        with self.request(f"pull {image}", hint=_PULL_HINT):
            for message in self.client.pull(image, stream=True, decode=True, auth_config=auth):
                if "error" in message:
                    raise DockerException(str(message["error"]))

    def tag(self, image: str, name: Reference) -> None:
        """Tag an image that the daemon has. Raises KontextError."""
        with self.request(f"tag {image}"):
            self.client.tag(image, name.repository, name.tag)

    @contextlib.contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[Container]:
        """Create a container, and yield it. It is removed after the block. Raises KontextError.

        The container has no network, a read-only root, and no capabilities but those of the spec.
        """
        from docker.types import LogConfig, Mount

        client = self.client
        name = f"kontext-{secrets.token_hex(8)}"
        host_config = client.create_host_config(
            mounts=[Mount(spec.target, spec.directory, type="bind")],
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            cap_add=[*spec.capabilities],
            security_opt=["no-new-privileges"],
            pids_limit=_MAX_PROCESSES,
            group_add=[*spec.groups],
            log_config=LogConfig(type="none"),  # Kontext reads the output while it is written
        )
        interrupted = True
        try:
            with self.request("make a container"):
                client.create_container(
                    spec.image,
                    [*spec.arguments],
                    name=name,
                    user=spec.user,
                    entrypoint=[spec.entrypoint],
                    working_dir=spec.target,
                    host_config=host_config,
                    use_config_proxy=False,
                )
            interrupted = False
            yield Container(self, name)
        except KontextError:
            interrupted = False
            raise
        finally:
            # An interrupted request may still create the container: wait for it.
            patience = _GRACE if interrupted else 0
            try:
                self._remove_container(name, patience)
            except KeyboardInterrupt:  # the first interruption; all later ones are ignored
                self._remove_container(name, patience)
                raise

    def _remove_container(self, name: str, patience: float) -> None:
        """Remove a container. If there is none, try again for `patience` seconds."""
        from docker.errors import NotFound

        deadline = time.monotonic() + patience
        with self.request(f"remove the container {name}"):
            while True:
                try:
                    self.client.stop(name, timeout=_GRACE)
                    self.client.remove_container(name, v=True, force=True)
                    return
                except NotFound:
                    if time.monotonic() >= deadline:
                        return
                    time.sleep(0.05)

    @contextlib.contextmanager
    def request(self, action: str, hint: str = _DEFAULT_HINT) -> Iterator[None]:
        """Turn the SDK's errors in the block into KontextError.

        `action` completes the sentence "the Docker daemon cannot …".
        """
        from docker.errors import DockerException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (DockerException, HTTPError, OSError) as error:
            raise KontextError(
                f"the Docker daemon at {self.endpoint.host} cannot {action}: {_reason(error)}",
                hint=hint,
            ) from error


@dataclass(frozen=True)
class Container:
    """A container that is created, and not started yet."""

    daemon: Daemon
    name: str

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Start the container. Yield each piece that it writes with its descriptor, 1 or 2.

        Raises KontextError.
        """
        client = self.daemon.client
        with self.daemon.request("start a container"):
            pieces = client.attach(self.name, stream=True, demux=True)
            client.start(self.name)
            for stdout, stderr in pieces:
                if stdout:
                    yield 1, stdout
                if stderr:
                    yield 2, stderr

    def exit_code(self) -> int:
        """Wait until the container ends. Raises KontextError."""
        with self.daemon.request("wait for a container"):
            code: int = self.daemon.client.wait(self.name)["StatusCode"]
            return code


def connect(flags: DaemonFlags) -> Daemon:
    """Return the daemon that docker itself would use. Raises KontextError if it does not answer."""
    from docker.errors import DockerException

    endpoint = choose_endpoint(flags, os.environ)
    try:
        client = _client(endpoint)
    except (DockerException, OSError, ValueError) as error:
        reason = _reason(error)
        hint = _NO_DAEMON_HINT
        if reason == os.strerror(errno.EACCES):
            hint = _NO_PERMISSION_HINT
        elif "paramiko" in reason:
            hint = f"docker's SDK needs it for ssh: '{sys.executable} -m pip install paramiko'."
        raise KontextError(
            f"no Docker daemon answers at {endpoint.host}: {reason}", hint=hint
        ) from error
    return Daemon(client, endpoint)


def _client(endpoint: Endpoint) -> APIClient:
    import docker

    class Client(docker.APIClient):
        def merge_environment_settings(
            self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
        ) -> Any:
            # Otherwise REQUESTS_CA_BUNDLE replaces the daemon's own certificate authority.
            verify = self.verify if verify is None else verify
            return super().merge_environment_settings(url, proxies, stream, verify, cert)

    return Client(
        endpoint.host,
        version="auto",
        tls=_tls_config(endpoint.tls) if endpoint.tls else False,
        use_ssh_client=True,
    )


def _tls_config(tls: Tls) -> TLSConfig:
    from docker.tls import TLSConfig

    pair = (tls.certificate, tls.key) if tls.certificate or tls.key else None
    return TLSConfig(client_cert=pair, ca_cert=tls.authority, verify=tls.verify)


def _auth_config(image: str, credentials: Credentials | None) -> dict[str, str]:
    """Return credentials as the daemon takes them (Docker Engine API, "Authentication")."""
    if credentials is None:
        return {}
    server = registry_key(registry_of(image))
    if credentials.user == IDENTITY_TOKEN:
        return {"identitytoken": credentials.secret, "serveraddress": server}
    return {
        "username": credentials.user,
        "password": credentials.secret,
        "serveraddress": server,
    }


def _reason(error: BaseException) -> str:
    """Return the daemon's words, or else the system's: the SDK wraps both up to three times."""
    if explanation := getattr(error, "explanation", None):
        return str(explanation)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
