"""The containerd of today's clusters runs, mounts and pulls an image as docs/consumers.md says.

There is no kubelet: crictl makes the calls that it makes for such a pod.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import ARCHITECTURE, layers
from support.kubelet import Kubelet, Spec
from support.node import Node
from support.services import Docker, Registry, Request
from support.trees import Directory, File, Link, Tree, on_disk

TREE: Tree = {
    "README": File(b"hello\n"),
    "run.sh": File(b"#!/bin/sh\necho a script runs\n", executable=True),
    "src": Directory(),
    "src/a file.c": File(b"int main;\n"),
    "src/link": Link("../README"),
}

LARGE = 200_000
"""Bytes of a file that does not change."""

USERS: dict[str, Spec] = {
    "root": {},
    "uid 1000": {"runAsUser": 1000},
    "uid 1000, no rights": {
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "root, read-only": {"readOnlyRootFilesystem": True},
}


def pod(*, first: list[Spec], last: Spec, volumes: list[Spec]) -> Spec:
    spec = {"initContainers": first, "containers": [last], "volumes": volumes}
    return {"metadata": {"name": "it"}, "spec": {"restartPolicy": "Never", **spec}}


@pytest.mark.parametrize("security", USERS.values(), ids=USERS)
def test_an_init_container_fills_the_workspace(
    docker: Docker,
    registry: Registry,
    source: Path,
    kubelet: Kubelet,
    toolbox: str,
    security: Spec,
) -> None:
    image = docker.push(registry.repository(), source).image
    workspace = [{"name": "workspace", "mountPath": "/workspace"}]
    copy = {"name": "sources", "image": image, "args": ["--verify"], "volumeMounts": workspace}
    build = {
        "name": "build",
        "image": toolbox,
        "command": ["sh", "-c", "./run.sh"],
        "workingDir": "/workspace",
        "volumeMounts": workspace,
    }
    ended = kubelet.run(
        pod(
            first=[copy | {"securityContext": security}],
            last=build,
            volumes=[{"name": "workspace", "emptyDir": {}}],
        )
    )
    assert ended.succeeded, ended.output
    assert ended.containers["build"].output == "a script runs\n"
    folder = ended.volumes["workspace"]
    assert on_disk(folder) == TREE
    owner = security.get("runAsUser", 0)
    assert {(folder / name).lstat().st_uid for name in TREE} == {owner}


def test_programs_run_from_an_image_volume_and_nothing_is_written_to_it(
    docker: Docker,
    registry: Registry,
    source: Path,
    kubelet: Kubelet,
    toolbox: str,
    busybox: Path,
) -> None:
    (source / "busybox").write_bytes(busybox.read_bytes())
    (source / "busybox").chmod(0o755)
    image = docker.push(registry.repository(), source).image
    script = """
        exec 2>&1
        find . | sort
        ./run.sh
        ./busybox echo a static program runs
        sh -c 'echo >new' || echo nothing is written
    """
    read = {
        "name": "read",
        "image": toolbox,
        "command": ["sh", "-c", script],
        "workingDir": "/src",
        "volumeMounts": [
            {
                "name": "sources",
                "mountPath": "/src",
                "subPath": "var/run/kontext",
                "readOnly": True,
            }
        ],
    }
    ended = kubelet.run(
        pod(first=[], last=read, volumes=[{"name": "sources", "image": {"reference": image}}])
    )
    assert ended.succeeded, ended.output
    paths = sorted(["busybox", *TREE])
    assert ended.output.splitlines() == [
        ".",
        *(f"./{path}" for path in paths),
        "a script runs",
        "a static program runs",
        "sh: can't create new: Read-only file system",
        "nothing is written",
    ]


# --- What is pulled ---


def fetched(requests: list[Request]) -> dict[str, list[str]]:
    """Return the digests of the manifests and blobs that were sent to the node."""
    sent: dict[str, list[str]] = {"manifests": [], "blobs": []}
    for request in requests:
        if request.method == "GET" and request.status == 200:
            if found := re.search(r"/(manifests|blobs)/(sha256:[0-9a-f]{64})$", request.path):
                sent[found[1]].append(found[2])
            else:
                assert request.path == "/v2/", request
    return sent


def test_a_pull_after_an_edit_fetches_the_delta_alone(
    docker: Docker, registry: Registry, source: Path, node: Node, crane: Callable[..., bytes]
) -> None:
    repository = registry.repository()
    (source / "large").write_bytes(random.Random(7).randbytes(LARGE))
    first = docker.push(repository, source).image
    node.pull(first)
    (source / "README").write_text("hello again\n")
    second = docker.push(repository, source).image
    config = json.loads(crane("manifest", second))["config"]["digest"]
    (delta,) = {*layers(crane, second)} - {*layers(crane, first)}
    assert registry.blob_size(delta) < LARGE / 10
    registry.requests()

    node.pull(second)
    sent = fetched(registry.requests())
    assert sent["manifests"] == [second.partition("@")[2]]
    assert sorted(sent["blobs"]) == sorted([config, delta])

    node.pull(second)
    assert fetched(registry.requests())["blobs"] == []


def test_a_node_pulls_the_image_of_its_platform_and_runs_it(
    docker: Docker,
    registry: Registry,
    source: Path,
    node: Node,
    kubelet: Kubelet,
    crane: Callable[..., bytes],
) -> None:
    (source / "README").write_text("the node has no image of this\n")
    index = docker.push(registry.repository(), source, "--platform", "all").image
    children = {
        entry["platform"]["architecture"]: entry["digest"]
        for entry in json.loads(crane("manifest", index))["manifests"]
    }
    assert children.keys() == {"amd64", "arm64"}
    registry.requests()

    node.pull(index)
    sent = fetched(registry.requests())
    assert sent["manifests"] == [index.partition("@")[2], children[ARCHITECTURE]]

    workspace = [{"name": "workspace", "mountPath": "/workspace"}]
    copy = {"name": "sources", "image": index, "volumeMounts": workspace}
    volumes = [{"name": "workspace", "emptyDir": {}}]
    ended = kubelet.run(pod(first=[], last=copy, volumes=volumes))
    assert ended.succeeded, ended.output
    assert on_disk(ended.volumes["workspace"]) == on_disk(source)
