"""What the tests run: docker's command line, and a registry with passwords."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.program_builds import Build

USER, PASSWORD = "alice", "s3cret-of-alice"
_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>/v2/\S*) HTTP/1\.1" (?P<status>\d+)')
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def missing(what: str) -> NoReturn:
    """Skip the test on a developer's machine, and fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}")


def built(build: Build) -> str:
    """Return the path of a program of scripts/build-programs, or end the test without it."""
    if not build.program.exists():
        missing(f"{build.name} {build.version} (scripts/build-programs {build.name})")
    return str(build.program)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    status: int

    @property
    def uploaded(self) -> str | None:
        """The digest of the blob whose upload this request completed."""
        found = _DIGEST.search(self.path.replace("%3A", ":"))
        done = self.method == "PUT" and "/blobs/uploads/" in self.path and self.status == 201
        return found.group() if done and found else None


@dataclass
class Registry:
    """A registry, with its access log and its files."""

    host: str
    log: Path
    data: Path
    _seen: int = 0
    _names: int = 0

    def repository(self) -> str:
        """Return a repository that no other test uses."""
        self._names += 1
        return f"{self.host}/test/r{self._names}"

    def requests(self) -> list[Request]:
        """Return the requests since the last call."""
        text = self.log.read_text()
        new, self._seen = text[self._seen :], len(text)
        return [
            Request(found["method"], found["path"], int(found["status"]))
            for found in _ACCESS.finditer(new)
        ]

    def blob(self, digest: str) -> Path:
        """Return the file that the registry keeps a blob in."""
        name = digest.removeprefix("sha256:")
        return self.data / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def blob_size(self, digest: str) -> int:
        return self.blob(digest).stat().st_size


@dataclass
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The document that a command printed with `--format json`."""
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)

    def assert_printable(self) -> None:
        """Assert that no control character and no traceback was printed."""
        assert self.stdout.replace("\n", "").isprintable()
        assert self.stderr.replace("\n", "").isprintable()
        assert "Traceback" not in self.stderr

    @property
    def image(self) -> str:
        """The name with a digest that a push printed, its only line."""
        assert self.code == 0, self.stderr
        line = self.stdout.removesuffix("\n")
        assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", line), self.stdout
        return line


@dataclass
class Docker:
    """Docker's command line, with a configuration of its own that has the plugin."""

    config: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, cwd: Path | None = None, timeout: float = 300) -> Result:
        return self._run(["docker", *arguments], cwd, timeout)

    def push(self, tag: str, directory: Path, *options: str, debug: bool = False) -> Result:
        """Push a directory. With `debug`, the messages say what each push builds on.

        The plugin runs as docker runs it, without docker: that saves a third of the time.
        """
        flags = ["-D"] if debug else []
        command = [str(self.plugin), *flags, "kontext", "push", "-t", tag, *options, str(directory)]
        return self._run(command)

    @property
    def plugin(self) -> Path:
        """What docker runs for `docker kontext`."""
        return self.config / "cli-plugins" / "docker-kontext"

    def _run(self, command: list[str], cwd: Path | None = None, timeout: float = 300) -> Result:
        done = subprocess.run(
            command,
            env=os.environ | {"DOCKER_CONFIG": str(self.config)} | self.environment,
            cwd=cwd,
            capture_output=True,
            timeout=timeout,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def log_in(self, host: str, user: str = USER, password: str = PASSWORD) -> None:
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.configure({"auths": {host: {"auth": secret}}})

    def configure(self, settings: object) -> None:
        (self.config / "config.json").write_text(json.dumps(settings))


def install_plugin(config: Path, shim: Path) -> None:
    (config / "cli-plugins").mkdir(parents=True)
    (config / "cli-plugins" / "docker-kontext").symlink_to(shim)


class serve_registry:
    """Run Debian's docker-registry until the block ends."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.folder = folder
        self.extra = extra

    def __enter__(self) -> Registry:
        if not (shutil.which("docker-registry") and shutil.which("htpasswd")):
            missing("docker-registry and htpasswd (Debian: docker-registry, apache2-utils)")
        folder, log = self.folder, self.folder / "log"
        # The cheapest hash: the registry makes it anew for every request.
        passwords = subprocess.run(
            ["htpasswd", "-B", "-C", "4", "-bn", USER, PASSWORD], capture_output=True, check=True
        ).stdout
        (folder / "htpasswd").write_bytes(passwords)
        (folder / "config.yml").write_text(
            f"""version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http:
  addr: 127.0.0.1:0
{self.extra}
auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}
"""
        )
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(folder / "config.yml")],
                env=os.environ | {"GOGC": "400"},  # a fifth of its time would be garbage collection
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        address = self._address(log)
        return Registry(address, log, folder / "data")

    def _address(self, log: Path) -> str:
        """Return the address that the registry prints."""
        with log.open() as lines:
            while self.process.poll() is None:
                if found := re.search(r"listening on (127\.0\.0\.1:\d+)", lines.readline()):
                    return found[1]
        raise AssertionError(log.read_text())

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
