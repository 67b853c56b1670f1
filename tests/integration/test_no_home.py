"""Users of CI: without a home directory, without a name, and with a home that is read-only."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.services import PASSWORD, USER, Docker, Registry, Result, missing
from support.trees import File

TREE = {"file": File(b"content\n"), "~/.docker/config.json": File(b"not JSON")}

HOME_VARIABLES = ("HOME", "KONTEXT_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG")


class Nobody:
    """A user that the system does not know, as in a container with a random uid."""

    def __init__(self, root: Path, docker: Docker, registry: Registry, source: Path) -> None:
        self.program = root / "kontext_plugin/docker-kontext"
        self.cwd = source
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        kept = {k: v for k, v in os.environ.items() if k not in HOME_VARIABLES}
        self.environment = kept | {
            "DOCKER_AUTH_CONFIG": json.dumps({"auths": {registry.host: {"auth": auth}}})
        }

    def __call__(self, *arguments: str) -> Result:
        # In a user namespace the files stay one's own, and the uid has no entry in passwd.
        apart = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
        done = subprocess.run(
            [*apart, self.program, *arguments],
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def nobody(root: Path, docker: Docker, registry: Registry, source: Path) -> Nobody:
    try:
        subprocess.run(["unshare", "--user", "--map-user=54321", "true"], check=True)
    except (OSError, subprocess.CalledProcessError):
        missing("unshare --map-user")
    return Nobody(root, docker, registry, source)


def test_a_push_without_a_home(nobody: Nobody, registry: Registry, source: Path) -> None:
    """tektoncd/pipeline#3943, kaniko#758. os.path.expanduser would leave `~`: no such directory is
    made or read."""
    before = sorted(source.rglob("*"))
    tag = registry.repository()
    pushed = nobody("push", "-t", tag, ".")
    assert pushed.image
    assert "No cache: HOME is not set, and this user has no home directory." in pushed.stderr
    assert "KONTEXT_CACHE_DIR" in pushed.stderr
    assert sorted(source.rglob("*")) == before
    assert nobody("push", "-t", tag, ".").image == pushed.image
    said = nobody("doctor", tag)
    assert "there is none: HOME is not set" in said.stdout
    assert f"DOCKER_AUTH_CONFIG has credentials for {registry.host}" in said.stdout
    assert sorted(source.rglob("*")) == before


def test_install_without_a_home_is_an_error(nobody: Nobody, source: Path) -> None:
    before = sorted(source.rglob("*"))
    said = nobody("install")
    assert (said.code, "DOCKER_CONFIG" in said.stderr) == (1, True)
    assert "Traceback" not in said.stderr
    assert sorted(source.rglob("*")) == before


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that is read-only."""
    home = tmp_path / "home"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        missing("the right to mount a file system")
    try:
        yield home
    finally:
        subprocess.run(["umount", str(home)], check=True)


def test_a_home_that_is_read_only(nobody: Nobody, registry: Registry, read_only: Path) -> None:
    nobody.environment["HOME"] = str(read_only)
    tag = registry.repository()
    pushed = nobody("push", "-t", tag, ".")
    assert pushed.image
    cache = f"{read_only}/.cache/kontext"
    assert f"No cache: {cache} cannot be made: Read-only file system." in pushed.stderr
    said = nobody("doctor", tag)
    assert f"{cache} cannot be made" in said.stdout
