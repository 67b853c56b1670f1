"""Tekton's and Knative Build's own controllers: they make the pods that a kubelet runs.

scripts/build-programs builds them, and what runs in their pods.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.images import Crane, publish_programs
from support.kubelet import Finished, Kubelet, Spec
from support.program_builds import KNATIVE, TEKTON
from support.services import built


@dataclass(frozen=True)
class Tekton:
    """Tekton's controllers, with an API server in memory."""

    kubelet: Kubelet
    image: str  # with /ko-app, of Tekton's release

    @classmethod
    def install(cls, kubelet: Kubelet, crane: Crane, tag: str, folder: Path) -> Tekton:
        built(TEKTON)
        programs = {
            f"ko-app/{name}": TEKTON.folder / name for name in ("entrypoint", "workingdirinit")
        }
        return cls(kubelet, publish_programs(crane, tag, programs, folder))

    def run(self, objects: Sequence[Spec]) -> tuple[Spec, list[Finished]]:
        """Return a run as it is in the end, and its pods in the order in which they ran.

        The last of the objects is the run.
        """
        command = [
            built(TEKTON),
            f"-entrypoint-image={self.image}",
            f"-workingdirinit-image={self.image}",
        ]
        pods: list[Finished] = []
        with subprocess.Popen(
            command,
            env=os.environ | {"SYSTEM_NAMESPACE": "tekton-pipelines"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin and process.stdout and process.stderr
            log: list[str] = []
            reader = threading.Thread(target=log.extend, args=(process.stderr,))
            reader.start()
            deadline = threading.Timer(120, process.kill)
            deadline.start()
            try:
                for one in objects:
                    print(json.dumps(one), file=process.stdin, flush=True)
                for line in process.stdout:
                    shown: dict[str, Any] = json.loads(line)
                    if shown.get("kind", "").endswith("Run"):
                        return shown, pods
                    pods.append(self.kubelet.run(shown))
                    told = shown | {"kind": "Pod", "status": pods[-1].status}
                    print(json.dumps(told), file=process.stdin, flush=True)
            finally:
                deadline.cancel()
                process.kill()
                reader.join()
        raise AssertionError("".join(log)[-5000:])


@dataclass(frozen=True)
class Knative:
    """The controller of Knative Build."""

    kubelet: Kubelet
    credentials_image: str
    nop_image: str

    @classmethod
    def install(cls, kubelet: Kubelet, crane: Crane, tag: str, folder: Path) -> Knative:
        built(KNATIVE)
        images = [
            publish_programs(
                crane,
                f"{tag}-{name}",
                {name: KNATIVE.folder / name},
                folder,
                *("--entrypoint", f"/{name}"),
            )
            for name in ("creds-init", "nop")
        ]
        return cls(kubelet, *images)

    def run(self, build: Spec) -> Finished:
        """Run the pod of a Build."""
        done = subprocess.run(
            [
                built(KNATIVE),
                f"-creds-image={self.credentials_image}",
                f"-nop-image={self.nop_image}",
            ],
            input=json.dumps(build),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return self.kubelet.run(json.loads(done.stdout))
