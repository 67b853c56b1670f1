"""docs/consumers.md does what it says: each of its examples is checked by its tool, and run.

Kubernetes, Tekton and the CI services are not here. Their YAML is read by their own types or
schemas, and then its containers are run by docker, its shell lines by a shell.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.consumers import PRIVATE, container_settings
from support.documents import Block, blocks
from support.pods import Kubelet, Spec, Tekton
from support.services import PASSWORD, USER, Docker, Registry, missing
from support.trees import Directory, File, Link, Tree, in_archive, on_disk

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "consumers.md"
CLUSTERS = ROOT / "tests" / "clusters"

TREE: Tree = {
    "README": File(b"hello\n"),
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "src": Directory(),
    "src/a file.c": File(b"int main;\n"),
    "src/link": Link("../README"),
}
LISTING = "./README\n./run.sh\n./src/a file.c\n"
"""What the examples' `find . -type f | sort` prints of TREE."""

# What stands in the document, and is another here.
IMAGE = re.compile(r"registry\.example\.com/me/app@sha256:[0-9a-f]{64}")
TAG = "registry.example.com/me/app:dev"
TOOLBOX = "alpine:3.22"


def test_each_example_has_its_test() -> None:
    for heading in {block.heading for block in blocks(DOCUMENT)}:
        name = re.sub(r"\W+", "_", f"test {heading}").lower()
        assert name in globals(), name


@dataclass
class Stage:
    """The document's examples, and what they stand for here."""

    docker: Docker
    image: str
    toolbox: str
    folder: Path  # where commands are run

    def examples(self, heading: str, language: str) -> list[str]:
        found = [block for block in blocks(DOCUMENT) if block.heading == heading]
        assert {block.language for block in found} == {language}
        return [self._here(block) for block in found]

    def example(self, heading: str, language: str) -> str:
        (found,) = self.examples(heading, language)
        return found

    def _here(self, block: Block) -> str:
        return IMAGE.sub(self.image, block.text).replace(TOOLBOX, self.toolbox)

    def shell(self, script: str, *within: str, **environment: str) -> str:
        """What it prints, as GitHub's `shell: bash` runs it."""
        surroundings = os.environ | {"DOCKER_CONFIG": str(self.docker.config), "LC_ALL": "C"}
        done = subprocess.run(
            [*within, "bash", "-euo", "pipefail", "-c", script],
            env=surroundings | {"IMAGE": self.image} | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def stage(
    docker: Docker, source: Path, toolbox: str, tmp_path: Path, registry: Registry
) -> Iterator[Stage]:
    image = docker.push(registry.repository(), source).image
    folder = tmp_path / "here"
    folder.mkdir()
    yield Stage(docker, image, toolbox, folder)
    docker("image", "rm", image)  # where it was pulled


@pytest.fixture(scope="module")
def toolbox(daemon: str) -> Iterator[str]:
    """An image with a shell in the daemon, in place of one from a registry far away."""
    busybox = shutil.which("busybox")
    if not busybox:
        missing("a static busybox (Debian: busybox-static)")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tar.gettarinfo(busybox, "bin/busybox")
        entry.mode = 0o755
        with open(busybox, "rb") as file:
            tar.addfile(entry, file)
        for name in ("find", "ls", "sh", "sort"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    name = f"kontext-test-toolbox:{uuid.uuid4().hex}"
    setting = ["--change", "ENV PATH=/bin"]
    command = ["docker", "import", *setting, "-", name]
    subprocess.run(command, input=archive.getvalue(), check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], check=True, capture_output=True)


# --- The schemas ---


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Spec]:
    """Reads an object as the cluster of its kind does, and gives it parsed."""
    programs: dict[str, Path] = {}

    def read(text: str) -> Spec:
        spec = parsed(text)
        name = "knative" if "build.knative.dev" in spec["apiVersion"] else "kubernetes"
        if name not in programs:
            programs[name] = built(name, tmp_path_factory.mktemp(name))
        done = subprocess.run([programs[name]], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return spec

    return read


def built(name: str, folder: Path) -> Path:
    go = shutil.which("go")
    if not go:
        missing("Go")
    done = subprocess.run(
        [go, "build", "-o", folder, "."], cwd=CLUSTERS / name, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / name


def parsed(text: str) -> Spec:
    # Through JSON: plain values, and no anchors.
    plain: Spec = json.loads(json.dumps(YAML(typ="safe", pure=True).load(text)))
    return plain


def assert_schema(name: str, text: str, folder: Path) -> None:
    """Holds it to the schema that its makers publish, as check-jsonschema brings it."""
    file = folder / f"{name}.yaml"
    file.write_text(text)
    tool = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [tool, "--builtin-schema", f"vendor.{name}", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


WRONG_OBJECTS = {
    "a field that is not there": ("v1 Pod", "restartPolicy", "restartsPolicy"),
    "a field of another kind": ("v1 Pod", "mountPath: /workspace", "mountPath: [/workspace]"),
    "an unknown workspace": ("tekton.dev/v1 Pipeline", "workspace: sources", "workspace: other"),
    "an unknown parameter": ("tekton.dev/v1 Task", "$(params.image)", "$(params.picture)"),
    "an unknown task": ("tekton.dev/v1 Pipeline", "runAfter: [fetch]", "runAfter: [fetched]"),
    "a step without an image": ("build.knative.dev/v1alpha1 Build", "image: alpine:3.22\n", "\n"),
    "no field of Knative's": ("build.knative.dev/v1alpha1 Build", "custom:", "customs:"),
}


@pytest.mark.parametrize(("kind", "right", "wrong"), WRONG_OBJECTS.values(), ids=WRONG_OBJECTS)
def test_a_cluster_refuses(
    kind: str, right: str, wrong: str, cluster: Callable[[str], Spec]
) -> None:
    """What reads the examples would notice a fault in them."""
    text = next(
        block.text
        for block in blocks(DOCUMENT)
        if kind.split()[0] in block.text and f"kind: {kind.split()[1]}\n" in block.text
    )
    assert right in text
    with pytest.raises(AssertionError):
        cluster(text.replace(right, wrong))


# --- The examples, in the document's order ---


def test_who_uses_an_image_and_how(stage: Stage, source: Path) -> None:
    text = stage.example("Who uses an image, and how", "sh")
    repository = stage.image.partition("@")[0]
    assert TAG in text
    stage.folder = source
    assert stage.shell(text.replace(TAG, repository) + 'echo "$IMAGE"') == f"{stage.image}\n"


def test_docker(stage: Stage) -> None:
    left = stage.folder / "out" / "old"
    left.mkdir(parents=True)
    stage.shell(stage.example("docker", "sh"))
    assert on_disk(stage.folder / "out") == TREE


def test_podman(stage: Stage, containers: dict[str, str]) -> None:
    if not shutil.which("podman"):
        missing("podman")
    stage.shell(stage.example("podman", "sh"), *MOUNTS_APART, **containers)
    assert on_disk(stage.folder / "out") == TREE


def test_docker_compose(stage: Stage) -> None:
    text = stage.example("docker compose", "yaml")
    assert_schema("compose-spec", text, stage.folder)
    if not shutil.which("docker-compose"):
        missing("docker-compose")
    (stage.folder / "compose.yaml").write_text(text)
    project = f"docker-compose --file compose.yaml --project-name k{uuid.uuid4().hex}"
    try:
        said = stage.shell(f"{project} up --no-color")
    finally:
        stage.shell(f"{project} down --volumes")
    assert re.findall(r"^build_1 +\| (\S.*)$", said, re.MULTILINE) == LISTING.splitlines()


def test_dockerfile(stage: Stage) -> None:
    (stage.folder / "Dockerfile").write_text(stage.example("Dockerfile", "dockerfile"))
    name = f"kontext-test-built:{uuid.uuid4().hex}"
    try:
        stage.shell(f"docker build -t {name} .", DOCKER_BUILDKIT="0")
        container = stage.shell(f"docker create {name} nothing").strip()
        archive = subprocess.run(
            ["docker", "export", container], capture_output=True, check=True
        ).stdout
        stage.shell(f"docker rm {container}")
    finally:
        stage.shell(f"docker image rm --force {name}")
    assert in_archive(io.BytesIO(archive), below="src") == TREE


def test_buildah(stage: Stage, containers: dict[str, str]) -> None:
    if not shutil.which("buildah"):
        missing("buildah")
    stage.shell(stage.example("buildah", "sh"), *MOUNTS_APART, **containers)
    assert on_disk(stage.folder / "out") == TREE


def test_kubernetes_init_container(stage: Stage, cluster: Callable[[str], Spec]) -> None:
    spec = cluster(stage.example("Kubernetes init container", "yaml"))["spec"]
    workspace = stage.folder / "workspace"
    workspace.mkdir()
    assert spec["volumes"] == [{"name": "workspace", "emptyDir": {}}]
    kubelet = Kubelet(stage.docker, {"workspace": workspace}, spec["securityContext"])
    (copying,), (building,) = spec["initContainers"], spec["containers"]
    kubelet.run(copying)
    assert on_disk(workspace) == TREE
    assert {(workspace / name).lstat().st_uid for name in TREE} == {65532}
    assert kubelet.run(building) == LISTING
    assert "0 written" in kubelet.run(copying)  # started again


def test_kubernetes_image_volume(
    stage: Stage, cluster: Callable[[str], Spec], crane: Callable[..., bytes]
) -> None:
    spec = cluster(stage.example("Kubernetes image volume", "yaml"))["spec"]
    (volume,), (reading,) = spec["volumes"], spec["containers"]
    mounted = stage.folder / "mounted"
    mounted.mkdir()
    archive = crane("export", volume["image"]["reference"], "-")
    subprocess.run(["tar", "-x", "-C", mounted], input=archive, check=True)
    assert Kubelet(stage.docker, {volume["name"]: mounted}).run(reading) == LISTING


def test_tekton(stage: Stage, cluster: Callable[[str], Spec]) -> None:
    objects = [cluster(text) for text in stage.examples("Tekton", "yaml")]
    assert [thing["kind"] for thing in objects] == ["Task", "Pipeline", "PipelineRun", "TaskRun"]
    task, pipeline, run, single = objects
    shared, pods = stage.folder / "shared", stage.folder / "pods"
    for folder in (shared, pods):
        folder.mkdir()
    (shared / "old").write_text("left from before")
    os.chown(shared / "old", 65532, 65532)

    spec = run["spec"]
    assert spec["pipelineRef"]["name"] == pipeline["metadata"]["name"]
    assert [item["name"] for item in spec["workspaces"]] == ["sources"]
    security = spec["taskRunTemplate"]["podTemplate"]["securityContext"]
    tasks = {task["metadata"]["name"]: task["spec"]}
    params = {param["name"]: param["value"] for param in spec["params"]}
    tekton = Tekton(stage.docker, pods, security)
    said = tekton.pipeline(pipeline["spec"], tasks, params, {"sources": shared})
    assert said.endswith(LISTING)
    assert on_disk(shared) == TREE

    spec = single["spec"]
    params = {param["name"]: param["value"] for param in spec["params"]}
    assert Tekton(stage.docker, pods).task(spec["taskSpec"], params, {}).endswith(LISTING)


def test_knative_build(stage: Stage, cluster: Callable[[str], Spec]) -> None:
    spec = cluster(stage.example("Knative Build", "yaml"))["spec"]
    workspace = stage.folder / "workspace"
    workspace.mkdir()
    kubelet = Kubelet(stage.docker, {}, everywhere={"/workspace": workspace})
    kubelet.run({"name": "custom-source", "workingDir": "/workspace"} | spec["source"]["custom"])
    (step,) = spec["steps"]
    assert kubelet.run({"workingDir": "/workspace"} | step) == LISTING


@pytest.fixture
def crane_on_path(crane_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(crane_path).parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("crane_on_path")
def test_github_actions(stage: Stage) -> None:
    text = stage.example("GitHub Actions", "yaml")
    assert_schema("github-workflows", text, stage.folder)
    action, fetch, build = parsed(text)["jobs"]["build"]["steps"]
    assert action["uses"].startswith("imjasonh/setup-crane@")
    assert fetch["env"] == {"IMAGE": "${{ inputs.image }}"}
    stage.shell(fetch["run"])
    assert on_disk(stage.folder / "src") == TREE
    stage.folder /= build["working-directory"]
    assert stage.shell(build["run"]) == LISTING


@pytest.mark.usefixtures("crane_on_path")
def test_gitlab_ci(stage: Stage, registry: Registry) -> None:
    text = stage.example("GitLab CI", "yaml")
    assert_schema("gitlab-ci", text, stage.folder)
    jobs = parsed(text)
    stage.docker.configure({})
    login = {"CI_REGISTRY": registry.host, "CI_REGISTRY_USER": USER}
    stage.shell("\n".join(jobs["sources"]["script"]), CI_REGISTRY_PASSWORD=PASSWORD, **login)
    assert on_disk(stage.folder / "src") == TREE
    assert stage.shell("\n".join(jobs["build"]["script"])) == LISTING


# --- podman and buildah, with nothing of the machine's own ---

MOUNTS_APART = ("unshare", "--mount", "sh", "-euc", f'{PRIVATE}; exec "$@"', "sh")
"""No mount outlives its test, and what they keep in the machine's folders goes with it."""


@pytest.fixture
def containers(tmp_path: Path, docker: Docker) -> dict[str, str]:
    """The environment in which they keep to a folder, and take the registry as it is."""
    if os.geteuid():
        missing("root, to mount images")
    return container_settings(tmp_path / "containers", docker.config)
