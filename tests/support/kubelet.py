"""What a kubelet does with a pod: its volumes, its init containers one by one, its containers.

What a pod asks for that is not known here fails, instead of being left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.node import NODE, Ended, Node

Spec = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A pod that has ended."""

    containers: Mapping[str, Ended]  # those that ran, init containers too
    volumes: Mapping[str, Path]  # those that are directories of the node
    status: Spec  # what the API server is told

    @property
    def succeeded(self) -> bool:
        return bool(self.status["phase"] == "Succeeded")

    @property
    def output(self) -> str:
        """What all containers printed, in the order of the pod."""
        return "".join(ended.output for ended in self.containers.values())


@dataclass
class Kubelet:
    """The kubelet of a node. It keeps the volumes of claims: they outlive a pod."""

    node: Node
    folder: Path
    _pods: int = 0

    def run(self, pod: Spec) -> Finished:
        """Run a pod to its end. It is never restarted."""
        spec = dict(pod["spec"])
        assert spec.pop("restartPolicy") == "Never"
        for elsewhere in ("serviceAccountName", "activeDeadlineSeconds", "affinity"):
            spec.pop(elsewhere, None)  # of the API server, the clock and the scheduler
        self._pods += 1
        folder = self.folder / f"pod{self._pods}"
        folder.mkdir(parents=True)
        security = spec.pop("securityContext", {})
        declared = {volume.pop("name"): volume for volume in map(dict, spec.pop("volumes", []))}
        volumes = {
            name: path
            for name, volume in declared.items()
            if (path := self._volume(folder, name, volume, security.get("fsGroup"))) is not None
        }
        images = {n: volume["image"] for n, volume in declared.items() if n not in volumes}
        for image in images.values():
            self.node.pull(image["reference"])
        ended: dict[str, Ended] = {}
        first, last = spec.pop("initContainers", []), spec.pop("containers")
        assert not spec, f"not imitated: {spec}"
        made = _Containers(folder, security, volumes, images)
        for container in (*first, *last):
            self.node.pull(container["image"])
        with self.node.sandbox(pod["metadata"]["name"]) as sandbox:
            for container in first:
                name = container["name"]
                ended[name] = sandbox.wait(sandbox.start(made.config(container)))
                if ended[name].code:
                    break
            else:
                started = {one["name"]: sandbox.start(made.config(one)) for one in last}
                ended |= {name: sandbox.wait(container) for name, container in started.items()}
        return Finished(ended, volumes, _status(made, first, last, ended))

    def _volume(self, folder: Path, name: str, volume: Spec, group: int | None) -> Path | None:
        """Return the directory of a volume, or None for one that is an image."""
        ((kind, source),) = volume.items()
        if kind == "image":
            assert source.keys() <= {"reference", "pullPolicy"}
            return None
        if kind == "emptyDir":
            assert source.keys() <= {"medium"}
            path = folder / name
            path.mkdir()
            path.chmod(0o777)
        else:
            assert kind == "persistentVolumeClaim", f"not imitated: {kind}"
            path = self.folder / "claims" / source["claimName"]
            if not path.exists():
                # As on a new ext4.
                (path / "lost+found").mkdir(parents=True)
                (path / "lost+found").chmod(0o700)
        if group is not None:
            _give(path, group)
        return path


def _give(path: Path, group: int) -> None:
    """Give a volume to a group, as fsGroup says."""
    for directory, names, files in os.walk(path):
        for one in (directory, *(f"{directory}/{name}" for name in (*names, *files))):
            mode = os.lstat(one).st_mode
            os.lchown(one, -1, group)
            if stat.S_ISDIR(mode):
                Path(one).chmod(stat.S_IMODE(mode) | 0o2770)
            elif stat.S_ISREG(mode):
                Path(one).chmod(stat.S_IMODE(mode) | 0o660)


@dataclass(frozen=True)
class _Containers:
    """Turns the containers of a pod into those of CRI."""

    folder: Path
    security: Spec  # the pod's
    volumes: Mapping[str, Path]
    images: Mapping[str, Spec]

    def message(self, name: str) -> Path:
        """Return the file that a container writes its termination message to."""
        return self.folder / f"{name}.termination"

    def config(self, container: Spec) -> Spec:
        spec = dict(container)
        name, image = spec.pop("name"), spec.pop("image")
        mounts = [self._mount(**mount) for mount in spec.pop("volumeMounts", [])]
        if path := spec.pop("terminationMessagePath", ""):
            self.message(name).touch()
            self.message(name).chmod(0o666)
            mounts.append({"container_path": path, "host_path": str(self.message(name))})
        config = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": spec.pop("command", []),
            "args": spec.pop("args", []),
            "working_dir": spec.pop("workingDir", ""),
            "envs": [{"key": one["name"], "value": one["value"]} for one in spec.pop("env", [])],
            "mounts": mounts,
            "linux": {"security_context": self._security(spec.pop("securityContext", {}))},
        }
        assert "$(" not in str(config["args"]), "a variable that nobody replaced"
        assert not spec.pop("resources", {}), "no limits are imitated"
        assert not spec, f"not imitated: {spec}"
        return config

    def _mount(self, name: str, mountPath: str, subPath: str = "", readOnly: bool = False) -> Spec:
        if name in self.images:
            image = {"image": self.images[name]["reference"]}
            found = {"container_path": mountPath, "image": image, "readonly": True}
            return found | ({"image_sub_path": subPath} if subPath else {})
        path = str(self.volumes[name] / subPath)
        return {"container_path": mountPath, "host_path": path, "readonly": readOnly}

    def _security(self, own: Spec) -> Spec:
        wanted = dict(self.security) | own
        found: Spec = {"namespace_options": {"network": NODE}}
        user, group = wanted.pop("runAsUser", None), wanted.pop("runAsGroup", None)
        assert not wanted.pop("runAsNonRoot", False) or user, "it needs a runAsUser here"
        if user is not None:
            found["run_as_user"] = {"value": user}
        if group is not None:
            found["run_as_group"] = {"value": group}
        if fs_group := wanted.pop("fsGroup", None):
            found["supplemental_groups"] = [fs_group]
        found["readonly_rootfs"] = wanted.pop("readOnlyRootFilesystem", False)
        found["no_new_privs"] = not wanted.pop("allowPrivilegeEscalation", True)
        if capabilities := wanted.pop("capabilities", None):
            assert capabilities.keys() == {"drop"}
            found["capabilities"] = {"drop_capabilities": capabilities["drop"]}
        unconfined = {"type": "Unconfined"}
        profile = wanted.pop("seccompProfile", unconfined)
        assert profile in ({"type": "RuntimeDefault"}, unconfined)
        found["seccomp"] = {"profile_type": int(profile == unconfined)}
        assert not wanted, f"not imitated: {wanted}"
        return found


def _status(
    made: _Containers, first: list[Spec], last: list[Spec], ended: Mapping[str, Ended]
) -> Spec:
    def statuses(containers: list[Spec]) -> list[Spec]:
        return [
            {"name": one["name"], "image": one["image"], "state": {"terminated": state}}
            for one in containers
            if (state := terminated(one["name"]))
        ]

    def terminated(name: str) -> Spec:
        if name not in ended:
            return {}
        message = made.message(name)
        return {
            "exitCode": ended[name].code,
            "message": message.read_text() if message.exists() else "",
            "startedAt": ended[name].status["startedAt"],
            "finishedAt": ended[name].status["finishedAt"],
        }

    failed = any(container.code for container in ended.values())
    return {
        "phase": "Failed" if failed else "Succeeded",
        "initContainerStatuses": statuses(first),
        "containerStatuses": statuses(last),
    }
