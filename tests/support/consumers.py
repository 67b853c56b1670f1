"""Programs that read images. Each class takes an image's name and returns the tree of its sources.

What has to be mounted is mounted in a mount namespace of its own, which ends with its last process,
however that ends: no mount is left behind.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.services import PASSWORD, USER, Docker
from support.trees import SOURCES, Tree, in_archive, on_disk

Consumer = Callable[[str], Tree]

_TAR = f'tar --create --directory "$root" {SOURCES}'
"""Writes the sources below `$root` as an archive to standard output."""


def run(*command: str | Path, **environment: str | Path) -> bytes:
    """Return what a command prints. Assert that it ends with 0."""
    surroundings = os.environ | {name: str(value) for name, value in environment.items()}
    done = subprocess.run(command, env=surroundings, capture_output=True, timeout=300)
    assert done.returncode == 0, (command, done.stderr.decode(errors="replace"))
    return done.stdout


def in_mount_namespace(script: str, *arguments: str | Path, **environment: str | Path) -> Tree:
    """Return the tree that a script shows, which mounts an image and runs `_TAR`."""
    command = ["unshare", "--mount", "sh", "-euc", script, "sh", *arguments]
    return in_archive(io.BytesIO(run(*command, **environment)))


@dataclass
class Crane:
    """`crane export`, as in `crane export IMAGE - | tar -x`."""

    program: str
    config: Path  # docker's configuration, with the registry's password

    def __call__(self, image: str, platform: str = "linux/amd64") -> Tree:
        command = (self.program, "export", "--platform", platform, image, "-")
        archive = run(*command, DOCKER_CONFIG=self.config)
        return in_archive(io.BytesIO(archive))


@dataclass
class Run:
    """`docker run`: the extractor copies into a workspace, a new one if none is given."""

    docker: Docker
    options: Sequence[str] = ()
    workspace: Path | None = None

    def __call__(self, image: str) -> Tree:
        with tempfile.TemporaryDirectory() as new:
            workspace = self.workspace or Path(new)
            mount = f"type=bind,source={workspace},target=/workspace"
            ran = self.docker("run", "--rm", "--mount", mount, image, *self.options)
            assert ran.code == 0, ran.stderr
            return on_disk(workspace)


@dataclass
class Pull:
    """`docker kontext pull`, always into the same directory."""

    docker: Docker
    directory: Path

    def __call__(self, image: str) -> Tree:
        pulled = self.docker("kontext", "pull", "--mirror", image, str(self.directory))
        assert pulled.code == 0, pulled.stderr
        return on_disk(self.directory)


@dataclass
class Export:
    """`docker export` of a container that never ran, stacked by the daemon's storage driver."""

    docker: Docker

    def __call__(self, image: str) -> Tree:
        created = self.docker("create", image)
        assert created.code == 0, created.stderr
        container = created.stdout.strip()
        try:
            return in_archive(
                io.BytesIO(run("docker", "export", container, DOCKER_CONFIG=self.docker.config))
            )
        finally:
            self.docker("rm", container)


def container_settings(folder: Path, config: Path) -> dict[str, str]:
    """Configure podman, buildah and skopeo below a new folder; return the environment for it.

    They keep everything there, take a registry on loopback as it is, and log in as docker does.
    """
    files = {
        "CONTAINERS_CONF": """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[network]
network_backend = "cni"
""",
        "CONTAINERS_STORAGE_CONF": f"""
[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{folder}/run"
""",
        "CONTAINERS_REGISTRIES_CONF": """
[[registry]]
location = "127.0.0.1"
insecure = true
""",
    }
    policy = folder / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    for name, text in files.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in files} | {
        "HOME": str(folder),
        "REGISTRY_AUTH_FILE": str(config / "config.json"),
    }


PRIVATE = "for private in /run /var/lib; do mount -t tmpfs none $private; done"
"""Hides, in a mount namespace, the folders in which podman and buildah keep state."""


@dataclass
class Buildah:
    """containers/storage, as in podman and CRI-O. Its overlay driver stacks the layers."""

    settings: Mapping[str, str]  # of container_settings

    SCRIPT = f"""
        {PRIVATE}
        container=$(buildah from --quiet "docker://$1")
        root=$(buildah mount "$container")
        {_TAR}
        buildah rm "$container" >&2
    """

    def __call__(self, image: str) -> Tree:
        return in_mount_namespace(self.SCRIPT, image, **self.settings)


@dataclass
class Podman:
    """`podman run`: the extractor copies into a new workspace."""

    settings: Mapping[str, str]  # of container_settings

    SCRIPT = f"""
        {PRIVATE}
        podman run --rm --quiet --volume "$1:/workspace" "$2" --verify >&2
    """

    def __call__(self, image: str) -> Tree:
        with tempfile.TemporaryDirectory() as workspace:
            command = ("unshare", "--mount", "sh", "-euc", self.SCRIPT, "sh", workspace, image)
            run(*command, **self.settings)
            return on_disk(Path(workspace))


@dataclass
class Skopeo:
    """`skopeo copy` into an OCI layout, which umoci unpacks."""

    settings: Mapping[str, str]  # of container_settings
    layout: Path  # grows by the layers that it does not have

    def __call__(self, image: str) -> Tree:
        names = (f"docker://{image}", f"oci:{self.layout}:it")
        run("skopeo", "copy", "--quiet", "--src-tls-verify=false", *names, **self.settings)
        return unpacked(self.layout)


def unpacked(layout: Path) -> Tree:
    """Return the sources of the image that an OCI layout names `it`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        run("umoci", "raw", "unpack", "--image", f"{layout}:it", root)
        return on_disk(root / SOURCES)


@dataclass
class Umoci:
    """`umoci raw unpack` of an OCI layout. It unpacks each layer onto the last one."""

    crane: Crane
    layout: Path  # grows by the layers that it does not have

    def __call__(self, image: str) -> Tree:
        run(
            *(self.crane.program, "pull", "--format=oci", "--platform=linux/amd64"),
            *(image, self.layout),
            DOCKER_CONFIG=self.crane.config,
        )
        self._tag()
        return unpacked(self.layout)

    def _tag(self) -> None:
        """umoci finds an image by a name in the index, not by its digest."""
        index = self.layout / "index.json"
        content = json.loads(index.read_text())
        newest = content["manifests"][-1]
        newest["annotations"] = {"org.opencontainers.image.ref.name": "it"}
        index.write_text(json.dumps(content | {"manifests": [newest]}))


@dataclass
class Containerd:
    """A private containerd, as Kubernetes uses it. Its overlayfs snapshotter stacks the layers."""

    folder: Path
    host: str  # the registry

    SCRIPT = f"""
        root=$3
        ctr --address "$1" images mount "$2" "$root" >&2
        {_TAR}
    """

    def __enter__(self) -> Containerd:
        self.address = self.folder / "socket"
        self._configure()
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["containerd", "--config", self.folder / "config.toml"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()
        return self

    def _configure(self) -> None:
        (self.folder / "config.toml").write_text(
            f"""version = 2
root = "{self.folder}/root"
state = "{self.folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{self.address}"
"""
        )
        hosts = self.folder / "hosts" / self.host
        hosts.mkdir(parents=True)
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (hosts / "hosts.toml").write_text(
            f"""[host."http://{self.host}"]
capabilities = ["pull", "resolve"]
[host."http://{self.host}".header]
authorization = "Basic {secret}"
"""
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            if not subprocess.run(self._ctr("version"), capture_output=True).returncode:
                return
            time.sleep(0.05)
        self.__exit__()
        raise AssertionError((self.folder / "log").read_text())

    def _ctr(self, *arguments: str | Path) -> list[str | Path]:
        return ["ctr", "--address", self.address, *arguments]

    def __call__(self, image: str) -> Tree:
        run(*self._ctr("images", "pull", "--hosts-dir", self.folder / "hosts", image))
        with tempfile.TemporaryDirectory() as root:
            return in_mount_namespace(self.SCRIPT, self.address, image, root)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
