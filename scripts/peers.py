"""The other tools: what each does with a tree, and whether it is here."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from processes import Run, filled, timed

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from support.program_builds import ORAS as ORAS_BUILD

GIT_STATUS = "git -C {tree} status --porcelain"
HASH_ALL = "cd {tree} && git ls-files -z | xargs -0 sha256sum"
CRANE_APPEND = "tar -C {tree} -cf - . | crane append --oci-empty-base -f - -t {image}"
DOCKER = (
    "docker build --quiet --no-cache -f {dockerfile} -t {image} {tree} "
    "&& docker push --quiet {image}"
)
BUILDAH = (
    "buildah bud --quiet -f {dockerfile} -t {image} {tree} "
    "&& buildah push --quiet --tls-verify=false {image}"
)
ORAS = (
    "tar -C {tree} -czf {archive} . "
    "&& oras push --plain-http --disable-path-validation {image} {archive}"
)
DOCKERFILE = "FROM scratch\nCOPY . /src\n"


@dataclass
class Pusher:
    """A tool that pushes a tree to a registry, all of it each time."""

    name: str
    template: str
    lacking: str = ""  # why it cannot be measured
    own_storage: bool = False  # of containers/storage
    after: str = ""  # clears up

    def push(self, tree: Path, host: str, work: Path, watch_memory: bool = False) -> Run:
        """Leaves nothing behind but in the registry. The memory is that of all its processes."""
        image = f"{host}/bench/theirs:main"
        dockerfile, archive = work / "Dockerfile", work / "tree.tar.gz"
        dockerfile.write_text(DOCKERFILE)
        command = filled(
            self.template, tree=tree, image=image, dockerfile=dockerfile, archive=archive
        )
        push = _in_own_storage(command, work) if self.own_storage else timed(command, watch_memory)
        if self.after:
            timed(filled(self.after, image=image, archive=archive))
        return push


def append() -> Pusher:
    return Pusher("tar | crane append", CRANE_APPEND)


def pushers(daemon: str) -> list[Pusher]:
    """All of them. `daemon` says why there is no Docker daemon, if there is none."""
    return [
        append(),
        Pusher("docker build, docker push", DOCKER, daemon, after="docker image rm -f {image}"),
        Pusher(
            "buildah bud, buildah push",
            BUILDAH,
            lacking("buildah") or _no_root(),
            own_storage=True,
        ),
        Pusher("tar.gz, oras push", ORAS, lacking("oras"), after="rm {archive}"),
    ]


def _in_own_storage(command: str, work: Path) -> Run:
    """buildah with storage and mounts that end with it; it keeps a cache in /var/lib as well."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        storage = Path(folder) / "storage.conf"
        storage.write_text(
            '[storage]\ndriver = "overlay"\n'
            f'graphroot = "{folder}/root"\nrunroot = "{folder}/run"\n'
        )
        inside = f"mount -t tmpfs none /var/lib && {command}"
        template = "CONTAINERS_STORAGE_CONF={storage} unshare --mount bash -c {inside}"
        return timed(filled(template, storage=storage, inside=inside))


def lacking(program: str) -> str:
    return "" if shutil.which(program) else f"{program} is not installed"


def _no_root() -> str:
    return "needs root" if os.geteuid() else ""


def install_oras() -> None:
    """Builds it with Go, unless it is on PATH; what hinders it is said, and then it is not here."""
    if not shutil.which("oras"):
        subprocess.run([Path(__file__).with_name("build-programs"), ORAS_BUILD.name], stdout=2)
        os.environ["PATH"] += f":{ORAS_BUILD.folder}"


@contextlib.contextmanager
def docker_daemon(folder: Path) -> Iterator[str]:
    """A daemon of our own for as long as the block lasts, or why there is none.

    It touches neither networks nor folders of another daemon; `docker` finds it by DOCKER_HOST.
    """
    missing = lacking("dockerd") or lacking("docker") or lacking("ip") or _no_root()
    if missing:
        yield missing
        return
    folder.mkdir()
    with _bridge() as bridge:
        yield from _serve(folder, bridge)


@contextlib.contextmanager
def _bridge() -> Iterator[str]:
    """A bridge that nobody else has. Without one dockerd deletes docker0, whoever uses it."""
    name = f"kontext{os.getpid() % 10**7}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        # Of a range for documentation (RFC 5737), so that dockerd looks for none.
        subprocess.run(["ip", "address", "add", "192.0.2.1/24", "dev", name], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


def _serve(folder: Path, bridge: str) -> Iterator[str]:
    address = f"unix://{folder}/socket"
    command = ["dockerd", "--host", address, "--data-root", f"{folder}/data"]
    command += ["--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
    command += ["--bridge", bridge, "--iptables=false", "--ip6tables=false"]
    log = folder / "log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as daemon:
        os.environ["DOCKER_HOST"] = address
        try:
            yield "" if _answers(daemon) else f"dockerd did not start: {log.read_text()[-300:]}"
        finally:
            del os.environ["DOCKER_HOST"]
            daemon.terminate()  # and it ends its containerd


def _answers(daemon: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 60
    while daemon.poll() is None and time.monotonic() < deadline:
        if not subprocess.run(["docker", "info"], capture_output=True).returncode:
            return True
        time.sleep(0.2)
    return False


def run(*command: str | Path) -> None:
    """What is not measured; it may fail."""
    subprocess.run(command, capture_output=True)


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
