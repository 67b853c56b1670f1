"""Run a pod's containers with `docker run`: the same user, rights, command and mounts.

What a container asks for that is not known here fails, instead of being left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.services import Docker

Spec = dict[str, Any]


@dataclass
class Kubelet:
    docker: Docker
    volumes: dict[str, Path]  # the pod's, by their names
    pod: Mapping[str, Any] = field(default_factory=dict)  # its securityContext
    everywhere: dict[str, Path] = field(default_factory=dict)  # mounted in all, by their paths

    def __post_init__(self) -> None:
        for folder in {*self.volumes.values(), *self.everywhere.values()}:
            if group := self.pod.get("fsGroup"):
                os.chown(folder, -1, group)
                folder.chmod(0o2775)
            else:
                folder.chmod(0o777)

    def run(self, container: Spec) -> str:
        """Return what the container prints. Assert that it ends with 0."""
        spec = dict(container)
        del spec["name"]
        options = self._security(dict(self.pod) | spec.pop("securityContext", {}))
        for mount in spec.pop("volumeMounts", []):
            options += self._mount(**mount)
        for path, folder in self.everywhere.items():
            options += ["--mount", f"type=bind,source={folder},target={path}"]
        if directory := spec.pop("workingDir", ""):
            options += ["--workdir", directory]
        program, arguments = spec.pop("command", []), spec.pop("args", [])
        if program:
            options += ["--entrypoint", program[0]]
        words = [spec.pop("image"), *program[1:], *arguments]
        assert not spec, f"not imitated: {spec}"
        ran = self.docker("run", "--rm", "--network=none", *options, *words)
        assert ran.code == 0, ran.stderr
        return ran.stdout

    def _security(self, wanted: Spec) -> list[str]:
        options = []
        user, group = wanted.pop("runAsUser", None), wanted.pop("runAsGroup", None)
        if user is not None:
            options += ["--user", f"{user}:{group}" if group is not None else f"{user}"]
        assert not wanted.pop("runAsNonRoot", False) or user, "runAsNonRoot needs a runAsUser here"
        if fs_group := wanted.pop("fsGroup", None):
            options += ["--group-add", f"{fs_group}"]
        if wanted.pop("readOnlyRootFilesystem", False):
            options += ["--read-only"]
        if not wanted.pop("allowPrivilegeEscalation", True):
            options += ["--security-opt", "no-new-privileges"]
        for capability in wanted.pop("capabilities", {"drop": []})["drop"]:
            options += ["--cap-drop", capability]
        profile = wanted.pop("seccompProfile", {"type": "RuntimeDefault"})
        assert profile == {"type": "RuntimeDefault"}, "docker has its own, as runtimes do"
        assert not wanted, f"not imitated: {wanted}"
        return options

    def _mount(
        self,
        name: str,
        mountPath: str,
        subPath: str = "",
        readOnly: bool = False,
    ) -> list[str]:
        source = self.volumes[name] / subPath
        assert source.is_dir(), "a subPath of an image must be there"
        mount = f"type=bind,source={source},target={mountPath}"
        return ["--mount", mount + (",readonly" if readOnly else "")]


def substituted(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace Tekton's variables, such as `$(params.image)`. Raises KeyError for an unknown one."""
    if isinstance(value, str):
        return re.sub(r"\$\(([\w.]+)\)", lambda found: variables[found[1]], value)
    if isinstance(value, list):
        return [substituted(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: substituted(item, variables) for key, item in value.items()}
    return value


@dataclass
class Tekton:
    """Runs tasks step by step. Each task has its own /workspace."""

    docker: Docker
    folder: Path
    pod: Mapping[str, Any] = field(default_factory=dict)  # the podTemplate's securityContext

    def task(self, task: Spec, params: Mapping[str, str], workspaces: Mapping[str, Path]) -> str:
        """Return what the steps print."""
        assert {item["name"] for item in task.get("params", [])} == {*params}
        assert {item["name"] for item in task.get("workspaces", [])} == {*workspaces}
        variables = {f"params.{name}": value for name, value in params.items()}
        paths = {name: f"/workspace/{name}" for name in workspaces}
        variables |= {f"workspaces.{name}.path": path for name, path in paths.items()}
        own = self.folder / f"workspace{len([*self.folder.iterdir()])}"
        own.mkdir()
        mounts = {"/workspace": own} | {paths[name]: at for name, at in workspaces.items()}
        kubelet = Kubelet(self.docker, {}, self.pod, everywhere=mounts)
        return "".join(kubelet.run(substituted(step, variables)) for step in task["steps"])

    def pipeline(
        self,
        pipeline: Spec,
        tasks: Mapping[str, Spec],
        params: Mapping[str, str],
        workspaces: Mapping[str, Path],
    ) -> str:
        """Return what the tasks print. Assert that each comes after those in its `runAfter`."""
        variables = {f"params.{name}": value for name, value in params.items()}
        done: list[str] = []
        printed = ""
        for task in pipeline["tasks"]:
            assert {*task.get("runAfter", [])} <= {*done}, "a task before what it runs after"
            done.append(task["name"])
            printed += self.task(
                task.get("taskSpec") or tasks[task["taskRef"]["name"]],
                {
                    param["name"]: substituted(param["value"], variables)
                    for param in task.get("params", [])
                },
                {item["name"]: workspaces[item["workspace"]] for item in task["workspaces"]},
            )
        return printed
