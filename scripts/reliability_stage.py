"""The registries and programs of scripts/reliability, and their versions."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measuring import CRANE, ROOT
from support.consumers import (
    Buildah,
    Consumer,
    Podman,
    Run,
    Skopeo,
    Umoci,
    container_settings,
)
from support.consumers import Crane as CraneExport
from support.machine import Machine
from support.program_builds import DISTRIBUTION, GITEA, OCIREGISTRY
from support.registry_servers import (
    CraneRegistry,
    DebianDistribution,
    Distribution,
    Gitea,
    OciRegistry,
    Server,
)
from support.services import Docker

REGISTRIES: dict[str, type[Server]] = {
    "distribution-2": DebianDistribution,
    "distribution-3": Distribution,
    "ociregistry": OciRegistry,
    "gitea": Gitea,
    "crane": CraneRegistry,
}

_BUILT = {"distribution-3": DISTRIBUTION, "ociregistry": OCIREGISTRY, "gitea": GITEA}


def available_registries() -> list[str]:
    """Return the names of the registries that are installed or built here."""
    there = {name for name, build in _BUILT.items() if build.program.exists()} | {"crane"}
    if shutil.which("docker-registry"):
        there.add("distribution-2")
    return [name for name in REGISTRIES if name in there]


@dataclass
class Stage:
    """One registry, the machines that push to it, and the programs that read from it."""

    server: Server
    folder: Path
    config: Path = field(init=False)  # docker's, logged in to the registry
    consumers: dict[str, Consumer] = field(init=False)  # slow ones; crane export is not among them
    _machines: int = 0

    def __post_init__(self) -> None:
        self.config = self.folder / "docker"
        self.config.mkdir()
        docker = Docker(self.config)
        docker.log_in(self.server.host)
        self.export = CraneExport(str(CRANE), self.config)
        settings = container_settings(self.folder / "containers", self.config)
        self.consumers = {
            "docker run": Run(docker, ["--verify"]),
            "podman run": Podman(settings),
            "buildah": Buildah(settings),
            "umoci": Umoci(self.export, self.folder / "layout"),
            "skopeo": Skopeo(settings, self.folder / "copied"),
        }
        for name in [*self.consumers]:
            if not _is_there(name):
                del self.consumers[name]

    def machine(self, host: str = "") -> Machine:
        """Return a new machine with a repository of its own. `host` is a proxy, if there is one."""
        self._machines += 1
        return Machine(
            self.folder / f"machine {self._machines}",
            host or self.server.host,
            self.server.host,
            str(CRANE),
            self.server.repository(),
        )

    def forget_images(self) -> None:
        """Remove what the daemon has of this registry. By name: others may have the same images."""
        docker = Docker(self.config)
        found = docker("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}")
        mine = [name for name in found.stdout.split() if name.startswith(f"{self.server.host}/")]
        if mine:
            docker("image", "rm", *mine)


@contextmanager
def serve_stage(registry: str, folder: Path) -> Iterator[Stage]:
    """Run a registry until the block ends. `folder` exists."""
    with REGISTRIES[registry](folder / "registry") as server:
        stage = Stage(server, folder)
        try:
            yield stage
        finally:
            if "docker run" in stage.consumers:
                stage.forget_images()


# --- Versions ---


_VERSIONS: dict[str, Sequence[str | Path]] = {
    "docker": ["docker", "version", "--format", "{{.Client.Version}}"],
    "docker run": ["docker", "version", "--format", "{{.Server.Version}}"],
    "podman run": ["podman", "--version"],
    "buildah": ["buildah", "--version"],
    "umoci": ["umoci", "--version"],
    "skopeo": ["skopeo", "--version"],
    "crane": [CRANE, "version"],
    "distribution-2": ["docker-registry", "--version"],
    "distribution-3": [DISTRIBUTION.program, "--version"],
    "ociregistry": ["go", "version", "-m", OCIREGISTRY.program],
    "Kontext": ["git", "-C", ROOT, "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty"],
    "kernel": ["uname", "-r"],
}
"""The command that prints the version of a program. `docker run` is that of the daemon."""

_VERSION = re.compile(r"\bv?(\d+\.\d+[\w.+~-]*|[0-9a-f]{10}(?:-dirty)?)")
_MODULE = re.compile(r"cuelabs\.dev/go/oci/ociregistry\s+(\S+)")


def _is_there(program: str) -> bool:
    return bool(version(program))


def version(program: str) -> str:
    """Ask a program for its version. Return an empty string if it is missing or does not answer."""
    if program == "gitea":  # a build from source calls itself "development"
        return GITEA.version.removeprefix("v") if GITEA.program.exists() else ""
    try:
        done = subprocess.run(_VERSIONS[program], capture_output=True, text=True)
    except OSError:
        return ""
    pattern = _MODULE if program == "ociregistry" else _VERSION
    found = pattern.search(done.stdout)
    return found[1] if found and not done.returncode else ""


def versions() -> dict[str, str]:
    """Return the versions of all programs that are there, and the machine's processors and date."""
    found = {name: version(name) for name in (*_VERSIONS, "gitea")}
    return {name: text for name, text in found.items() if text} | {
        "processors": str(len(os.sched_getaffinity(0))),
        "date": datetime.date.today().isoformat(),
    }
