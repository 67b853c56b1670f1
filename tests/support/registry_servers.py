"""Registries on loopback, each until its block ends: what they can do, and how to break them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from support.machine import ends_within
from support.program_builds import DISTRIBUTION, GITEA, OCIREGISTRY
from support.services import PASSWORD, USER, Docker, built, missing

if TYPE_CHECKING:
    from typing_extensions import Self

MANIFEST_TYPES = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)

START = 30.0
"""Seconds that a registry may take to start."""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Server:
    """A registry. Its subclasses say how it is started."""

    overwrites: ClassVar[bool] = True  # puts a tag on another image
    deletes: ClassVar[bool] = True  # images, by their tags or digests
    collects: ClassVar[bool] = False  # garbage; see collect()
    keeps: ClassVar[bool] = False  # its content, over a restart
    namespace: ClassVar[str] = "test"
    credentials: ClassVar[tuple[str, str] | None] = None
    listens: ClassVar[str] = r"listening on 127\.0\.0\.1:(\d+)"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.host = ""  # ADDRESS:PORT, after the start
        self._names = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.prepare()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- What a subclass says ---

    def prepare(self) -> None:
        """Find the program, and write its configuration."""

    def command(self) -> list[str]:
        """Return its command line. It listens on `host`, or on any free port if that is empty."""
        raise NotImplementedError

    # --- The process ---

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start it, on the same port as before."""
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(), stdout=output, stderr=subprocess.STDOUT, env=self.environment()
            )
        process, found = self._process, ""

        def listens() -> bool:
            nonlocal found
            text = self.log.read_bytes()[before:].decode(errors="replace")
            match = re.search(self.listens, text)
            found = match[1] if match else ""
            return bool(match) or process.poll() is not None

        if not ends_within(START, listens) or not found:
            self.stop()
            raise AssertionError(f"the registry did not start: {self.log.read_text()[-2000:]}")
        self.host = f"127.0.0.1:{found}"

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def restart(self) -> None:
        assert self.keeps, "its content would be lost"
        self.stop()
        self.start()

    def collect(self, *, untagged: bool = False) -> None:
        """Collect garbage while the registry runs; also manifests without a tag, if told so.

        The registry may remember what is gone now, until it is started again.
        """
        raise NotImplementedError

    # --- For a test ---

    def repository(self) -> str:
        """Return the path of a repository that no other test uses, without the host."""
        self._names += 1
        return f"{self.namespace}/r{self._names}"

    def log_in(self, docker: Docker, *hosts: str) -> None:
        """Give docker the credentials, for the registry and for proxies to it."""
        if self.credentials:
            docker.configure({"auths": {host: {"auth": self._secret} for host in hosts}})

    @property
    def _secret(self) -> str:
        assert self.credentials
        return base64.b64encode(":".join(self.credentials).encode()).decode()

    # --- Requests, as an administrator makes them ---

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        headers = {"Accept": f"{MANIFEST_TYPES}, */*"}
        if self.credentials:
            headers["Authorization"] = f"Basic {self._secret}"
        with closing(http.client.HTTPConnection(self.host, timeout=START)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def tags(self, repository: str) -> set[str]:
        answer = self.ask("GET", f"/v2/{repository}/tags/list")
        if answer.status == 404:
            return set()
        assert answer.status == 200, answer
        return set(json.loads(answer.body)["tags"] or ())

    def digest(self, repository: str, reference: str) -> str | None:
        """Return the digest of the manifest under a tag or digest, or None."""
        answer = self.ask("GET", f"/v2/{repository}/manifests/{reference}")
        if answer.status == 404:
            return None
        assert answer.status == 200, answer
        return f"sha256:{hashlib.sha256(answer.body).hexdigest()}"

    def manifest(self, repository: str, reference: str) -> Any:
        answer = self.ask("GET", f"/v2/{repository}/manifests/{reference}")
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def layers(self, repository: str, reference: str) -> list[str]:
        return [layer["digest"] for layer in self.manifest(repository, reference)["layers"]]

    def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether the registry sends the blob. It may say so on HEAD and not have it."""
        try:
            answer = self.ask("GET", f"/v2/{repository}/blobs/{digest}")
        except http.client.IncompleteRead:
            return False
        return answer.status == 200 and hashlib.sha256(answer.body).hexdigest() in digest

    def put_blob(self, repository: str, content: bytes) -> None:
        begun = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        place = urlsplit(begun.headers["Location"])
        query = f"{place.query}&" if place.query else ""
        digest = hashlib.sha256(content).hexdigest()
        answer = self.ask("PUT", f"{place.path}?{query}digest=sha256:{digest}", content)
        assert answer.status == 201, answer

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete a tag, or its image with all its tags if the registry knows no other way."""
        answer = self.ask("DELETE", f"/v2/{repository}/manifests/{tag}")
        if answer.status >= 400:
            digest = self.digest(repository, tag)
            answer = self.ask("DELETE", f"/v2/{repository}/manifests/{digest}")
        assert answer.status < 300, answer
        assert tag not in self.tags(repository)

    def delete_blob(self, repository: str, digest: str) -> None:
        answer = self.ask("DELETE", f"/v2/{repository}/blobs/{digest}")
        assert answer.status < 300, answer
        assert not self.has_blob(repository, digest)


class Distribution(Server):
    """Distribution 3, with its files in `folder`, and with the cache that is its default."""

    collects = True
    keeps = True

    def prepare(self) -> None:
        self.program = self.find()
        self._configure("127.0.0.1:0")

    def find(self) -> str:
        return built(DISTRIBUTION)

    @property
    def _configuration(self) -> Path:
        return self.folder / "config.yml"

    def _configure(self, address: str) -> None:
        self._configuration.write_text(
            f"""version: 0.1
log: {{level: info}}
storage:
  filesystem: {{rootdirectory: {self.folder}/data}}
  cache: {{blobdescriptor: inmemory}}
  delete: {{enabled: true}}
http: {{addr: "{address}"}}
"""
        )

    def start(self) -> None:
        super().start()
        self._configure(self.host)

    def command(self) -> list[str]:
        return [self.program, "serve", str(self._configuration)]

    def environment(self) -> Mapping[str, str]:
        return os.environ | {"OTEL_TRACES_EXPORTER": "none"}

    def file(self, digest: str) -> Path:
        """Return the file that the registry keeps a blob in. No request makes it look there."""
        name = digest.removeprefix("sha256:")
        return self.folder / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def collect(self, *, untagged: bool = False) -> None:
        options = ["--delete-untagged"] if untagged else []
        done = subprocess.run(
            [self.program, "garbage-collect", *options, str(self._configuration)],
            env=self.environment(),
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]


class DebianDistribution(Distribution):
    """Debian's docker-registry, which is distribution 2.8."""

    def find(self) -> str:
        program = shutil.which("docker-registry")
        if program is None:
            missing("docker-registry (Debian: docker-registry)")
        return program


class CraneRegistry(Server):
    """crane's own, in memory."""

    listens = r"serving on port (\d+)"

    def command(self) -> list[str]:
        crane = Path(sys.executable).parent / "crane"
        return [str(crane), "registry", "serve", "--address", "127.0.0.1:0"]


class OciRegistry(Server):
    """ociregistry of CUE, in memory."""

    def prepare(self) -> None:
        self.program = built(OCIREGISTRY)

    def command(self) -> list[str]:
        return [self.program]


class ImmutableOciRegistry(OciRegistry):
    """ociregistry with tags that keep their image for good."""

    overwrites = False
    deletes = False

    def command(self) -> list[str]:
        return [self.program, "-immutable"]


class Gitea(Server):
    """Gitea's container registry. The owner of all repositories is USER."""

    keeps = True
    namespace = USER
    credentials = (USER, PASSWORD)
    listens = r"Listen: http://127\.0\.0\.1:(\d+)"

    def prepare(self) -> None:
        self.program = built(GITEA)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._configuration.write_text(
            f"""RUN_MODE = prod
RUN_USER = {_user()}
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
WORK_PATH = {self.folder}
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {port}
ROOT_URL = http://127.0.0.1:{port}/
STATIC_ROOT_PATH = {GITEA.folder}
OFFLINE_MODE = true
DISABLE_SSH = true
[database]
DB_TYPE = sqlite3
PATH = {self.folder}/gitea.db
[security]
INSTALL_LOCK = true
SECRET_KEY = of-a-test
PASSWORD_HASH_ALGO = pbkdf2$1$50
[indexer]
ISSUE_INDEXER_TYPE = db
[log]
LEVEL = Info
ROOT_PATH = {self.folder}/logs
"""
        )
        self._run("migrate")
        account = ["--username", USER, "--password", PASSWORD, "--email", f"{USER}@example.com"]
        self._run("admin", "user", "create", *account, "--must-change-password=false")

    @property
    def _configuration(self) -> Path:
        return self.folder / "app.ini"

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [self.program, *arguments, "--config", str(self._configuration)],
            env=self.environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def environment(self) -> Mapping[str, str]:
        return os.environ | {"HOME": str(self.folder), "USER": _user()}

    def command(self) -> list[str]:
        return [self.program, "web", "--config", str(self._configuration)]


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
