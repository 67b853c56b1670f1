"""A node of a cluster: containerd, driven through CRI as a kubelet drives it.

scripts/build-programs builds containerd and crictl. runc is Debian's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.program_builds import CONTAINERD, CRICTL
from support.services import PASSWORD, USER, built, missing

NODE = 2
"""The namespace mode of CRI in which a pod has the node's network: it needs no CNI plugin."""

_APART = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
"""All processes and mounts of the node end with the tests, however these end."""

_START = 'mount -t tmpfs none /run; exec "$1" --config "$2"'


@dataclass(frozen=True)
class Ended:
    """A container that has ended."""

    code: int
    output: str  # standard output and error
    status: Any  # what CRI says of it


class Node:
    """A private containerd. It pulls without TLS, and has the user's password for each pull."""

    def __init__(self, folder: Path, host: str, sandbox_image: str) -> None:
        self.folder = folder
        self._socket = folder / "containerd.sock"
        self._files = 0
        hosts = folder / "hosts" / host
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'[host."http://{host}"]\n')
        self._sandbox_image = sandbox_image
        # A container of this machine may not lower its OOM score; NRI has a socket of the machine.
        (folder / "config.toml").write_text(
            f"""version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = "{self._socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{sandbox_image}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{folder}/hosts"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
"""
        )

    def __enter__(self) -> Node:
        if os.geteuid():
            missing("root, to run containerd")
        path = f"{os.environ['PATH']}:/usr/sbin"
        if not shutil.which("runc", path=path):
            missing("runc (Debian: runc)")
        containerd = built(CONTAINERD)
        self._crictl_program = built(CRICTL)
        command = [*_APART, "sh", "-euc", _START, "sh", containerd, f"{self.folder}/config.toml"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | {"PATH": f"{CONTAINERD.folder}:{path}"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait()
            self.pull(self._sandbox_image)
        except BaseException:
            self._end()
            raise
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while self._run("version").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        try:
            self.crictl("rmp", "--all", "--force")  # its control groups would stay
        finally:
            self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        endpoint = f"unix://{self._socket}"
        options = ["--config", "/dev/null", "--runtime-endpoint", endpoint, "--timeout", "60s"]
        return subprocess.run(
            [self._crictl_program, *options, "--image-endpoint", endpoint, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def crictl(self, *arguments: str) -> str:
        """Return what crictl prints. Assert that it ends with 0."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pull(self, image: str) -> None:
        """Pull an image with the password that a kubelet would take from an imagePullSecret."""
        self.crictl("pull", "--creds", f"{USER}:{PASSWORD}", image)

    @contextmanager
    def sandbox(self, name: str) -> Iterator[Sandbox]:
        """Run the sandbox of a pod until the block ends."""
        self._files += 1
        logs = self.folder / f"logs{self._files}"
        logs.mkdir()
        config = {
            "metadata": {"name": name, "namespace": "default", "uid": f"pod-{self._files}"},
            "log_directory": str(logs),
            "linux": {"security_context": {"namespace_options": {"network": NODE}}},
        }
        file = self._write(config)
        pod = self.crictl("runp", str(file))
        try:
            yield Sandbox(self, pod, file, logs)
        finally:
            self.crictl("rmp", "--force", pod)

    def _write(self, config: object) -> Path:
        self._files += 1
        file = self.folder / f"{self._files}.json"
        file.write_text(json.dumps(config))
        return file


@dataclass(frozen=True)
class Sandbox:
    """Where the containers of a pod run."""

    node: Node
    pod: str
    config: Path
    logs: Path

    def start(self, config: dict[str, Any]) -> str:
        """Start a container of CRI's ContainerConfig, and return its identifier."""
        name = config["metadata"]["name"]
        file = self.node._write(config | {"log_path": f"{name}.log"})
        container = self.node.crictl("create", self.pod, str(file), str(self.config))
        self.node.crictl("start", container)
        return container

    def wait(self, container: str) -> Ended:
        """Wait until a container ends."""
        deadline = time.monotonic() + 120
        while True:
            status = json.loads(self.node.crictl("inspect", container))["status"]
            if status["state"] == "CONTAINER_EXITED":
                return Ended(status["exitCode"], _output(Path(status["logPath"])), status)
            assert time.monotonic() < deadline, f"it still runs: {status}"
            time.sleep(0.05)


def _output(log: Path) -> str:
    """Read a log in CRI's format: the time, the stream, P for a part of a line or F, the text."""
    text = ""
    for line in log.read_text().splitlines():
        _, _, kind, content = line.split(" ", 3)
        text += content + ("\n" if kind == "F" else "")
    return text
