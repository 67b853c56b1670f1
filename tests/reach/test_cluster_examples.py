"""The examples for clusters in docs/consumers.md and integrations/ run, by programs of a cluster.

Tekton's and Knative Build's own controllers make the pods, and containerd runs their containers.
There is no kubelet: support/kubelet.py makes its calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.controllers import Knative, Tekton
from support.documents import Examples, parse_yaml
from support.kubelet import Kubelet, Spec
from support.services import Docker, Registry
from support.trees import Directory, File, Link, Tree, on_disk

TREE: Tree = {
    "README": File(b"hello\n"),
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "src": Directory(),
    "src/a file.c": File(b"int main;\n"),
    "src/link": Link("../README"),
}
LISTING = "./README\n./run.sh\n./src/a file.c\n"
"""What the examples' `find . -type f | sort` prints of TREE."""


@pytest.fixture
def examples(
    docker: Docker, registry: Registry, source: Path, toolbox: str, root: Path
) -> Examples:
    image = docker.push(registry.repository(), source).image
    return Examples(root / "docs" / "consumers.md", image, toolbox)


def objects(examples: Examples, heading: str) -> list[Spec]:
    return [parse_yaml(text) for text in examples.examples(heading, "yaml")]


def test_kubernetes_init_container(examples: Examples, kubelet: Kubelet) -> None:
    (pod,) = objects(examples, "Kubernetes init container")
    ended = kubelet.run(pod)
    assert ended.succeeded, ended.output
    assert ended.containers["build"].output == LISTING
    workspace = ended.volumes["workspace"]
    assert on_disk(workspace) == TREE
    assert {(workspace / name).lstat().st_uid for name in TREE} == {65532}


def test_kubernetes_image_volume(examples: Examples, kubelet: Kubelet) -> None:
    (pod,) = objects(examples, "Kubernetes image volume")
    ended = kubelet.run(pod)
    assert ended.succeeded, ended.output
    assert ended.output == LISTING


def pod_of_a_job(job: Spec) -> Spec:
    return {"metadata": {"name": "build"}, "spec": job["spec"]["template"]["spec"]}


def pod_of_a_workflow(workflow: Spec) -> Spec:
    """Return the pod without the containers that Argo adds for its own messages and results."""
    spec = workflow["spec"]
    (parameter,) = spec["arguments"]["parameters"]
    reference = f"{{{{workflow.parameters.{parameter['name']}}}}}"
    (template,) = json.loads(json.dumps(spec["templates"]).replace(reference, parameter["value"]))
    assert template["name"] == spec["entrypoint"]
    return {
        "metadata": {"name": "build"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": spec["securityContext"],
            "initContainers": template["initContainers"],
            "containers": [{"name": "main"} | template["container"]],
            "volumes": template["volumes"],
        },
    }


@pytest.mark.parametrize(
    ("path", "pod"),
    [
        ("integrations/kubernetes/job.yaml", pod_of_a_job),
        ("integrations/argo/workflow.yaml", pod_of_a_workflow),
    ],
    ids=["job", "workflow"],
)
def test_a_command_on_the_sources(
    path: str, pod: Callable[[Spec], Spec], examples: Examples, kubelet: Kubelet
) -> None:
    ended = kubelet.run(pod(parse_yaml(examples.file(path))))
    assert ended.succeeded, ended.output
    assert ended.output.endswith(LISTING)  # after what the extractor prints
    assert on_disk(ended.volumes["workspace"]) == TREE


@pytest.fixture
def tekton(
    kubelet: Kubelet, crane: Callable[..., bytes], registry: Registry, tmp_path: Path
) -> Tekton:
    return Tekton.install(kubelet, crane, registry.repository() + ":tekton", tmp_path)


def test_tekton_pipeline(examples: Examples, tekton: Tekton) -> None:
    fetch_task = parse_yaml(examples.file("integrations/tekton/fetch.yaml"))
    pipeline, run, _ = objects(examples, "Tekton")
    ended, pods = tekton.run([fetch_task, pipeline, run])
    assert condition(ended) == "True", ended["status"]
    fetch, build = pods
    assert build.containers["step-build"].output == LISTING
    (shared,) = {*fetch.volumes.values()} & {*build.volumes.values()}
    assert on_disk(shared) == TREE
    assert {(shared / name).lstat().st_uid for name in TREE} == {65532}


def test_tekton_task_run(examples: Examples, tekton: Tekton) -> None:
    *_, run = objects(examples, "Tekton")
    ended, (pod,) = tekton.run([run])
    assert condition(ended) == "True", ended["status"]
    assert pod.containers["step-build"].output == LISTING


def condition(run: Spec) -> str:
    (found,) = run["status"]["conditions"]
    return str(found["status"])


def test_knative_build(
    examples: Examples,
    kubelet: Kubelet,
    crane: Callable[..., bytes],
    registry: Registry,
    tmp_path: Path,
) -> None:
    (build,) = objects(examples, "Knative Build")
    knative = Knative.install(kubelet, crane, registry.repository() + ":knative", tmp_path)
    ended = knative.run(build)
    assert ended.succeeded, ended.output
    assert ended.containers["build-step-build"].output == LISTING
    assert on_disk(ended.volumes["workspace"]) == TREE
