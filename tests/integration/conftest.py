"""Fixtures: docker's command line, a registry, a Docker daemon, crane."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.images import publish_programs
from support.schemas import Cluster
from support.scripts import COMMIT_TIME, run_script
from support.services import (
    Docker,
    Registry,
    Result,
    install_plugin,
    missing,
    serve_registry,
)
from support.trees import plant


@pytest.fixture(scope="session", autouse=True)
def _docker_there() -> None:
    if not shutil.which("docker"):
        missing("the docker command line")


@pytest.fixture
def docker(tmp_path: Path, root: Path, registry: Registry) -> Docker:
    """Docker's command line, logged in to the registry."""
    command = Docker(tmp_path / "docker-config")
    install_plugin(command.config, root / "kontext_plugin" / "docker-kontext")
    command.log_in(registry.host)
    return command


@pytest.fixture
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A directory with the TREE of the test's module."""
    directory = tmp_path / "source"
    directory.mkdir()
    plant(directory, request.module.TREE)
    return directory


@pytest.fixture(scope="session")
def crane_path() -> str:
    beside = Path(sys.executable).parent / "crane"
    assert beside.exists(), "scripts/setup installs crane"
    return str(beside)


@pytest.fixture
def crane(docker: Docker, crane_path: str) -> Callable[..., bytes]:
    """Run crane with docker's credentials, and return its output."""

    def run(*arguments: str, stdin: bytes = b"") -> bytes:
        environment = os.environ | {"DOCKER_CONFIG": str(docker.config)}
        return subprocess.run(
            [crane_path, *arguments],
            env=environment,
            input=stdin,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout

    return run


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that accepts only USER and PASSWORD."""
    with serve_registry(tmp_path_factory.mktemp("registry")) as served:
        yield served


@pytest.fixture(scope="session")
def daemon() -> str:
    """The version of the Docker daemon."""
    done = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True
    )
    if done.returncode:
        missing(f"a Docker daemon ({done.stderr.strip()})")
    return done.stdout.strip()


@pytest.fixture
def run_image(daemon: str, docker: Docker) -> Callable[..., Result]:
    """Run an image with a directory as its workspace."""

    def run(image: str, workspace: Path, *arguments: str, options: Sequence[str] = ()) -> Result:
        mount = f"type=bind,source={workspace},target=/workspace"
        return docker("run", "--rm", "--mount", mount, *options, image, *arguments)

    return run


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a self-signed certificate for 127.0.0.1, and of its key."""
    if not shutil.which("openssl"):
        missing("openssl")
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command = ["openssl", "req", *kind, *names, "-keyout", files[1], "-out", files[0]]
    subprocess.run(command, check=True, capture_output=True)
    return files


@pytest.fixture
def publish_layer(
    registry: Registry, crane: Callable[..., bytes], tmp_path: Path
) -> Callable[[bytes], str]:
    """Publish an image of one layer, which has no annotations, and return its tag."""

    def publish(layer: bytes) -> str:
        tag = registry.repository() + ":v1"
        path = tmp_path / "layer.tar.gz"
        path.write_bytes(layer)
        crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
        return tag

    return publish


@pytest.fixture(scope="session")
def busybox() -> Path:
    found = shutil.which("busybox")
    if not found:
        missing("a static busybox (Debian: busybox-static)")
    return Path(found)


@pytest.fixture(scope="session")
def publish(
    registry: Registry, crane_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Publish an image of static programs, and return its name with a digest."""
    folder = tmp_path_factory.mktemp("programs")
    login = Docker(folder)
    login.log_in(registry.host)

    def run(*arguments: str) -> bytes:
        command = [crane_path, *arguments]
        environment = os.environ | {"DOCKER_CONFIG": str(folder)}
        return subprocess.run(command, env=environment, check=True, capture_output=True).stdout

    def publish(programs: dict[str, Path], *settings: str) -> str:
        return publish_programs(run, registry.repository() + ":it", programs, folder, *settings)

    return publish


@pytest.fixture(scope="session")
def toolbox(publish: Callable[..., str], busybox: Path) -> str:
    """An image with a shell, in place of one from a registry far away."""
    tools = {f"bin/{name}": busybox for name in ("sh", "find", "ls", "sort")}
    return publish(tools, "--env", "PATH=/bin")


@pytest.fixture
def tag(docker: Docker, registry: Registry, source: Path) -> str:
    """A tag that shows the source directory."""
    name = registry.repository() + ":v1"
    assert docker.push(name, source).image
    return name


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOURCE_DATE_EPOCH", COMMIT_TIME)
        done = run_script("build-dist", folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (built,) = distributions.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return Cluster(tmp_path_factory.mktemp("cluster"))
