"""docs/consumers.md does what it says: each of its examples is checked by its tool, and run.

Kubernetes, Tekton and the CI services are not here. Their YAML is read by their own types or
schemas, and their shell lines by a shell. podman runs the pod that needs nothing else of a cluster.
tests/reach/ runs the pods of all, with the programs of a cluster.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.consumers import PRIVATE, container_settings
from support.documents import Examples, blocks, parse_yaml
from support.schemas import Cluster, assert_schema
from support.services import PASSWORD, USER, Docker, Registry, missing
from support.trees import Directory, File, Link, Tree, in_archive, on_disk

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "consumers.md"

TREE: Tree = {
    "README": File(b"hello\n"),
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "src": Directory(),
    "src/a file.c": File(b"int main;\n"),
    "src/link": Link("../README"),
}
LISTING = "./README\n./run.sh\n./src/a file.c\n"
"""What the examples' `find . -type f | sort` prints of TREE."""

TAG = "registry.example.com/me/app:dev"
"""What stands in the document, and is another here."""


def test_each_example_has_its_test() -> None:
    for heading in {block.heading for block in blocks(DOCUMENT)}:
        name = re.sub(r"\W+", "_", f"test {heading}").lower()
        assert name in globals(), name


@dataclass
class Stage(Examples):
    """The document's examples, and where their commands are run."""

    docker: Docker
    folder: Path

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
    yield Stage(DOCUMENT, image, toolbox, docker, folder)
    docker("image", "rm", image, toolbox)  # where they were pulled


# --- The schemas ---

OBJECTS = {
    **{
        f"{block.heading} {number}": block.text
        for number, block in enumerate(blocks(DOCUMENT))
        if block.text.startswith("apiVersion: ")
    },
    **{
        str(path.relative_to(ROOT)): path.read_text("utf-8")
        for path in sorted(ROOT.glob("integrations/*/*.yaml"))
    },
}
"""What a cluster reads: the examples, and the files that they name."""


@pytest.mark.parametrize("name", OBJECTS)
def test_a_cluster_reads(name: str, cluster: Cluster) -> None:
    cluster.read(OBJECTS[name])


WRONG_OBJECTS = {
    "a field that is not there": ("v1 Pod", "restartPolicy", "restartsPolicy"),
    "a field of another kind": ("v1 Pod", "mountPath: /workspace", "mountPath: [/workspace]"),
    "an unknown workspace": ("tekton.dev/v1 Pipeline", "workspace: sources", "workspace: other"),
    "an unknown parameter": ("tekton.dev/v1 Task", "$(params.image)", "$(params.picture)"),
    "an unknown task": ("tekton.dev/v1 Pipeline", "runAfter: [fetch]", "runAfter: [fetched]"),
    "a step without an image": ("build.knative.dev/v1alpha1 Build", "image: alpine:3.22\n", "\n"),
    "no field of a job": ("batch/v1 Job", "backoffLimit: 0", "backoffsLimit: 0"),
    "no field of Argo's": ("argoproj.io/v1alpha1 Workflow", "initContainers:", "initContainer:"),
    "no field of Knative's": ("build.knative.dev/v1alpha1 Build", "custom:", "customs:"),
}


@pytest.mark.parametrize(("kind", "right", "wrong"), WRONG_OBJECTS.values(), ids=WRONG_OBJECTS)
def test_a_cluster_refuses(kind: str, right: str, wrong: str, cluster: Cluster) -> None:
    """What reads the examples would notice a fault in them."""
    version, _, name = kind.partition(" ")
    start = f"apiVersion: {version}\nkind: {name}\n"
    text = next(text for text in OBJECTS.values() if text.startswith(start) and right in text)
    with pytest.raises(AssertionError):
        cluster.read(text.replace(right, wrong))


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
    stage.shell(stage.example("podman", "sh"), *APART, **containers)
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
    stage.shell(stage.example("buildah", "sh"), *APART, **containers)
    assert on_disk(stage.folder / "out") == TREE


def test_kubernetes_init_container(
    stage: Stage,
    containers: dict[str, str],
    publish: Callable[..., str],
    busybox: Path,
) -> None:
    """podman runs the pod. It ignores fsGroup: its volumes belong to the user of the container."""
    if not shutil.which("podman"):
        missing("podman")
    text = stage.example("Kubernetes init container", "yaml")
    (stage.folder / "pod.yaml").write_text(text)
    pause = publish({"bin/sleep": busybox}, "--entrypoint", "/bin/sleep,infinity")
    settings = Path(containers["CONTAINERS_CONF"])
    with_image = f'[engine]\ninfra_image = "{pause}"'
    settings.write_text(settings.read_text().replace("[engine]", with_image))
    assert stage.shell(PLAY, *APART, **containers) == LISTING
    assert on_disk(stage.folder / "out") == TREE


PLAY = """
podman kube play --network host pod.yaml >&2
podman wait build-build >&2
podman logs build-build
cp -a "$(podman volume inspect workspace --format '{{.Mountpoint}}')" out
podman pod rm --force build >&2
"""


def test_kubernetes_image_volume(stage: Stage, cluster: Cluster) -> None:
    assert cluster.read(stage.example("Kubernetes image volume", "yaml"))["kind"] == "Pod"


def test_tekton(stage: Stage, cluster: Cluster) -> None:
    pipeline, *runs = [cluster.read(text) for text in stage.examples("Tekton", "yaml")]
    assert [thing["kind"] for thing in (pipeline, *runs)] == ["Pipeline", "PipelineRun", "TaskRun"]
    fetch = parse_yaml((ROOT / "integrations/tekton/fetch.yaml").read_text("utf-8"))
    assert pipeline["spec"]["tasks"][0]["taskRef"]["name"] == fetch["metadata"]["name"]


def test_knative_build(stage: Stage, cluster: Cluster) -> None:
    assert cluster.read(stage.example("Knative Build", "yaml"))["kind"] == "Build"


@pytest.fixture
def crane_on_path(crane_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(crane_path).parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("crane_on_path")
def test_github_actions(stage: Stage) -> None:
    text = stage.example("GitHub Actions", "yaml")
    assert_schema("github-workflows", text, stage.folder)
    action, fetch, build = parse_yaml(text)["jobs"]["build"]["steps"]
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
    jobs = parse_yaml(text)
    stage.docker.configure({})
    login = {"CI_REGISTRY": registry.host, "CI_REGISTRY_USER": USER}
    stage.shell("\n".join(jobs["sources"]["script"]), CI_REGISTRY_PASSWORD=PASSWORD, **login)
    assert on_disk(stage.folder / "src") == TREE
    assert stage.shell("\n".join(jobs["build"]["script"])) == LISTING


# --- podman and buildah, with nothing of the machine's own ---

APART = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-euc", f'{PRIVATE}; exec "$@"', "sh"),
)
"""Nothing that is mounted or runs outlives its test; the machine's folders stay as they are."""


@pytest.fixture
def containers(tmp_path: Path, docker: Docker) -> dict[str, str]:
    """The environment in which they keep to a folder, and take the registry as it is."""
    if os.geteuid():
        missing("root, to mount images")
    return container_settings(tmp_path / "containers", docker.config)
