"""The only door to the Docker daemon, and the only import of docker's SDK (200 ms: lazily)."""

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

from kontext_plugin.cli.flags import Globals
from kontext_plugin.crane import IDENTITY_TOKEN, Credentials
from kontext_plugin.engine.config import Endpoint, Tls, choose_endpoint, registry_key
from kontext_plugin.errors import KontextError
from kontext_plugin.image.reference import Reference, registry_of

if TYPE_CHECKING:
    from docker import APIClient
    from docker.tls import TLSConfig


_GRACE = 1
"""Seconds that an interrupted container has to end by itself before it is killed."""

_PIDS = 512
"""More than the extractor's threads, and too few for a fork bomb."""

_NOT_THERE = (
    "Start it, or name another one with 'docker --host' or 'docker --context'. "
    "A push needs no daemon."
)

_NOT_ALLOWED = (
    "Only root and, as a rule, the members of the group docker may use it. A push needs no daemon."
)

_CANNOT_PULL = (
    "The daemon asks the registry by itself: it must reach it, and trust it (insecure-registries). "
    "What you are logged in with has been passed on."
)


@dataclass(frozen=True)
class Container:
    """What is to run: an image with a directory of the daemon's machine at `target`."""

    image: str
    entrypoint: str
    arguments: Sequence[str]
    directory: str
    target: str
    user: str  # UID[:GID]
    groups: Sequence[int] = ()
    capabilities: Sequence[str] = ()  # all others are dropped


@dataclass(frozen=True)
class Running:
    """A container that was made and not started yet."""

    daemon: Daemon
    name: str

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Starts it; yields what it writes, each piece with its descriptor: 1 or 2.

        Raises KontextError.
        """
        client = self.daemon.client
        with self.daemon.asked("start a container"):
            pieces = client.attach(self.name, stream=True, demux=True)
            client.start(self.name)
            for written, complained in pieces:
                if written:
                    yield 1, written
                if complained:
                    yield 2, complained

    def exit_code(self) -> int:
        """Waits for its end. Raises KontextError."""
        with self.daemon.asked("wait for a container"):
            code: int = self.daemon.client.wait(self.name)["StatusCode"]
            return code


@dataclass(frozen=True)
class Daemon:
    """A daemon that has answered."""

    client: APIClient
    endpoint: Endpoint

    def version(self) -> str:
        """Raises KontextError."""
        with self.asked("tell its version"):
            return str(self.client.version()["Version"])

    def platform(self) -> str:
        """`OS/ARCHITECTURE`, as Go has them. Raises KontextError."""
        with self.asked("tell its platform"):
            version = self.client.version()
        return f"{version['Os']}/{version['Arch']}"

    def security(self) -> frozenset[str]:
        """The names of its security options, `rootless` and `userns` among them.

        Raises KontextError.
        """
        with self.asked("tell its settings"):
            options = self.client.info().get("SecurityOptions") or ()
        return frozenset(option.partition(",")[0].removeprefix("name=") for option in options)

    def has(self, image: str) -> bool:
        """Whether `REPO@sha256:…` is there. Raises KontextError."""
        from docker.errors import ImageNotFound

        with self.asked(f"look for {image}"):
            try:
                self.client.inspect_image(image)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return False
        return True

    def pull(self, image: str, credentials: Credentials | None) -> None:
        """Pulls `REPO@sha256:…`. Raises KontextError."""
        from docker.errors import DockerException

        known = _auth_config(image, credentials)
        with self.asked(f"pull {image}", hint=_CANNOT_PULL):
            # An empty one keeps the SDK from looking by itself, which it does unlike docker.
            for message in self.client.pull(image, stream=True, decode=True, auth_config=known):
                if "error" in message:
                    raise DockerException(str(message["error"]))

    def tag(self, image: str, name: Reference) -> None:
        """Names an image that is there. Raises KontextError."""
        with self.asked(f"tag {image}"):
            self.client.tag(image, name.repository, name.tag)

    @contextlib.contextmanager
    def container(self, wanted: Container) -> Iterator[Running]:
        """A container that is gone after the block, whatever ends it. Raises KontextError."""
        from docker.types import LogConfig, Mount

        client = self.client
        name = f"kontext-{secrets.token_hex(8)}"
        settings = client.create_host_config(
            mounts=[Mount(wanted.target, wanted.directory, type="bind")],
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            cap_add=[*wanted.capabilities],
            security_opt=["no-new-privileges"],
            pids_limit=_PIDS,
            group_add=[*wanted.groups],
            log_config=LogConfig(type="none"),  # we read it as it comes
        )
        broken_off = True
        try:
            with self.asked("make a container"):
                client.create_container(
                    wanted.image,
                    [*wanted.arguments],
                    name=name,
                    user=wanted.user,
                    entrypoint=[wanted.entrypoint],
                    working_dir=wanted.target,
                    host_config=settings,
                    use_config_proxy=False,
                )
            broken_off = False
            yield Running(self, name)
        except KontextError:
            broken_off = False
            raise
        finally:
            self._remove(name, _GRACE if broken_off else 0)

    def _remove(self, name: str, patience: float) -> None:
        """`patience` is for a request that was broken off: the daemon may be about to obey it."""
        from docker.errors import NotFound

        limit = time.monotonic() + patience
        with self.asked(f"remove the container {name}"):
            while True:
                try:
                    self.client.stop(name, timeout=_GRACE)
                    self.client.remove_container(name, v=True, force=True)
                    return
                except NotFound:
                    if time.monotonic() >= limit:
                        return
                    time.sleep(0.05)

    @contextlib.contextmanager
    def asked(self, what: str, hint: str = "") -> Iterator[None]:
        """Turns the SDK's errors into ours: `what` the daemon was asked to do, as a verb."""
        from docker.errors import DockerException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (DockerException, HTTPError, OSError) as error:
            raise KontextError(
                f"the Docker daemon at {self.endpoint.host} cannot {what}: {_reason(error)}",
                hint=hint or "Its log may say more; so does 'docker -D kontext …'.",
            ) from error


def connect(flags: Globals) -> Daemon:
    """The daemon that docker itself would talk to. Raises KontextError where none answers."""
    from docker.errors import DockerException

    endpoint = choose_endpoint(flags, os.environ)
    try:
        client = _client(endpoint)
    except (DockerException, OSError, ValueError) as error:
        reason = _reason(error)
        hint = _NOT_THERE
        if reason == os.strerror(errno.EACCES):
            hint = _NOT_ALLOWED
        elif "paramiko" in reason:
            hint = f"'{sys.executable} -m pip install paramiko' is what docker's SDK needs for ssh."
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
            # Else REQUESTS_CA_BUNDLE would take the place of the daemon's own authority.
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
    """Docker Engine API, "Authentication"."""
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
    """What the daemon says, or else the system: the SDK wraps that three times."""
    if explanation := getattr(error, "explanation", None):
        return str(explanation)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
