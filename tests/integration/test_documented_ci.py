"""docs/ci.md does what it says: its YAML is read by its tool, and a shell runs its commands.

Each example pushes two commits, each from a new clone and with an empty cache.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support.documents import blocks
from support.services import PASSWORD, USER, Docker, Registry, missing
from support.trees import Directory, File, Tree, on_disk

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "ci.md"

LARGE = 200_000
TREE: Tree = {
    "README": File(b"hello\n"),
    "large": File(random.Random(7).randbytes(LARGE)),
    "src": Directory(),
    "src/a file.c": File(b"int main;\n"),
}
LISTING = "./README\n./large\n./src/a file.c\n"
"""What the examples' `find . -type f | sort` prints."""

# What stands in the document, and is something else here.
CLONE = "https://git.example.com/me/app.git"
REGISTRY = "registry.example.com"
JOB_IMAGE = f"{REGISTRY}/me/kontext-ci:1"

NO_CODE_TO_RUN = {"Pushing from CI", "When a push finds no parent"}
"""Headings over what is printed."""


def test_each_example_has_its_test() -> None:
    for heading in {block.heading for block in blocks(DOCUMENT)} - NO_CODE_TO_RUN:
        name = re.sub(r"\W+", "_", f"test {heading}").lower()
        assert name in globals(), name


def examples(heading: str, language: str) -> list[str]:
    found = [block for block in blocks(DOCUMENT) if block.heading == heading]
    assert {block.language for block in found} == {language}
    return [block.text for block in found]


def parsed(text: str) -> dict[str, Any]:
    document: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return document


@dataclass
class Service:
    """A CI service: each job has a new directory, and a cache of its own."""

    docker: Docker
    registry: Registry
    repository: str
    crane: str
    origin: Path
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    jobs: int = 0

    def job(self) -> Path:
        """Return a new directory, and forget what earlier jobs cached."""
        self.jobs += 1
        folder = self.folder / f"job{self.jobs}"
        folder.mkdir(parents=True)
        self.variables["KONTEXT_CACHE_DIR"] = str(folder / "cache")
        work = folder / "work"
        work.mkdir()
        return work

    def check_out(self, depth: int) -> Path:
        """Return a clone that is as deep as the service makes it, at the commit alone."""
        work = self.job() / "app"
        self.git("clone", "--depth", f"{depth}", f"file://{self.origin}", f"{work}")
        self.git("-C", f"{work}", "checkout", "--detach")
        return work

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments],
            cwd=self.origin,
            env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, text: str) -> str:
        (self.origin / "README").write_text(text)
        self.git("add", "--all")
        self.git("commit", "-m", "a change")
        return self.git("rev-parse", "HEAD")

    def here(self, script: str) -> str:
        """Return an example that names this registry, this repository and this origin."""
        own = self.repository.partition("/")[2]
        script = script.replace(f"{REGISTRY}/me/app", self.repository)
        script = script.replace(f"{REGISTRY}/fork/app", f"{self.registry.host}/fork/{own}")
        return script.replace(CLONE, f"file://{self.origin}").replace(REGISTRY, self.registry.host)

    def run(self, script: str, folder: Path, **variables: str) -> str:
        """Return what a script prints; it runs as the services run it."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(script)],
            cwd=folder,
            env=os.environ
            | {
                "DOCKER_CONFIG": str(self.docker.config),
                "PATH": f"{Path(self.crane).parent}:{os.environ['PATH']}",
            }
            | self.variables
            | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log_out(self) -> None:
        self.docker.configure({})

    def uploaded(self) -> int:
        """Return the bytes of the blobs that were uploaded since the last call."""
        digests = {request.uploaded for request in self.registry.requests()} - {None}
        return sum(self.registry.blob_size(digest) for digest in digests if digest)

    def assert_incremental(self, push: Callable[[], str]) -> str:
        """Push two commits. Assert that the second push uploads only the change. Return its image.

        The message of a push never says it as clearly as the registry's own log.
        """
        self.registry.requests()  # earlier ones, also of other tests
        self.commit("hello\n")
        first = push()
        assert self.uploaded() > LARGE
        commit = self.commit("hello again\n")
        second = push()
        assert 0 < self.uploaded() < LARGE / 10
        assert first != second
        digest = self.run('crane digest "$TAG"', self.folder, TAG=f"{self.repository}:{commit}")
        assert second == f"{self.repository}@{digest.strip()}"
        return second


@pytest.fixture
def service(
    docker: Docker, source: Path, crane_path: str, registry: Registry, tmp_path: Path
) -> Service:
    folder = tmp_path / "ci"
    folder.mkdir()
    made = Service(docker, registry, registry.repository(), crane_path, source, folder)
    made.git("init", "--initial-branch", "main")
    return made


def changed(text: str) -> Tree:
    return TREE | {"README": File(text.encode())}


# --- The services, in the document's order ---


def test_plain_shell(service: Service) -> None:
    pushing, pulling = examples("Plain shell", "sh")

    def push() -> str:
        work = service.job()
        service.run(pushing, work)
        return (work / "image").read_text().strip()

    service.assert_incremental(push)
    work = service.folder / f"job{service.jobs}" / "work"
    service.run(pulling, work)
    assert on_disk(work / "src") == changed("hello again\n")


def expressions(values: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return variables of a workflow, with their `${{ … }}` replaced."""
    return {
        name: re.sub(r"\$\{\{ (\S+) \}\}", lambda found: known[found[1]], value)
        for name, value in values.items()
    }


def test_github_actions(service: Service) -> None:
    (text,) = examples("GitHub Actions", "yaml")
    assert_schema("github-workflows", text, service.folder)
    jobs = parsed(text)["jobs"]
    assert jobs["push"]["container"] == jobs["build"]["container"] == JOB_IMAGE
    check_out, log_in, pushing = jobs["push"]["steps"]
    known = {"vars.REGISTRY_USERNAME": USER, "secrets.REGISTRY_PASSWORD": PASSWORD}
    outputs = service.folder / "outputs"

    def push() -> str:
        work = service.check_out(check_out["with"]["fetch-depth"])
        service.log_out()
        service.run(log_in["run"], work, **expressions(log_in["env"], known))
        outputs.write_text("")
        commit = service.git("rev-parse", "HEAD")
        service.run(pushing["run"], work, GITHUB_SHA=commit, GITHUB_OUTPUT=str(outputs))
        name, _, value = outputs.read_text().strip().partition("=")
        known[f"steps.{pushing['id']}.outputs.{name}"] = value
        return value

    service.assert_incremental(push)
    passed = expressions(jobs["push"]["outputs"], known)
    fetch, build = jobs["build"]["steps"]
    known |= {f"needs.{jobs['build']['needs']}.outputs.{name}": passed[name] for name in passed}
    work = service.job()
    service.run(fetch["run"], work, **expressions(fetch["env"], known))
    assert on_disk(work / "src") == changed("hello again\n")
    assert service.run(build["run"], work / build["working-directory"]) == LISTING


GITLAB_DEPTH = 20
"""GIT_DEPTH, unless a project sets it."""


def test_gitlab_ci(service: Service) -> None:
    (text,) = examples("GitLab CI", "yaml")
    assert_schema("gitlab-ci", text, service.folder)
    sources, build = (parsed(text)[name] for name in ("sources", "build"))
    assert sources["image"] == build["image"] == JOB_IMAGE
    variables = {
        "CI_REGISTRY": service.registry.host,
        "CI_REGISTRY_USER": USER,
        "CI_REGISTRY_PASSWORD": PASSWORD,
        "CI_REGISTRY_IMAGE": service.repository,
    }
    passed: dict[str, str] = {}

    def push() -> str:
        work = service.check_out(GITLAB_DEPTH)
        service.log_out()
        commit = service.git("rev-parse", "HEAD")
        service.run("\n".join(sources["script"]), work, CI_COMMIT_SHA=commit, **variables)
        report = (work / sources["artifacts"]["reports"]["dotenv"]).read_text()
        passed.update([report.strip().split("=", 1)])
        return passed["IMAGE"]

    service.assert_incremental(push)
    service.log_out()
    assert build["variables"] == {"GIT_STRATEGY": "none"}
    work = service.job()
    said = service.run("\n".join(build["script"]), work, **variables, **passed)
    assert said.endswith(LISTING)  # after what docker login prints
    assert on_disk(work / "src") == changed("hello again\n")


def test_tekton(service: Service, tmp_path: Path) -> None:
    texts = examples("Tekton", "yaml")
    program = cluster(tmp_path)
    for text in texts:
        done = subprocess.run([program], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    task, pipeline = map(parsed, texts)
    spec, template = task["spec"], task["spec"]["stepTemplate"]
    pushing, fetching = pipeline["spec"]["tasks"]
    assert pushing["taskRef"]["name"] == task["metadata"]["name"]
    assert {param["name"] for param in pushing["params"]} == {one["name"] for one in spec["params"]}
    assert fetching["params"][0]["value"] == "$(tasks.push.results.image)"
    (workspace,) = spec["workspaces"]
    assert template["image"] == JOB_IMAGE

    def push() -> str:
        work = service.job()
        result = work / "result"
        known = {
            "params.url": CLONE,
            "params.revision": "main",
            "params.repository": f"{REGISTRY}/me/app",
            "results.image.path": str(result),
        }
        variables = {
            one["name"]: service.here(substituted(one["value"], known)) for one in template["env"]
        }
        assert variables.pop("DOCKER_CONFIG") == workspace["mountPath"]  # here, that of the fixture
        for step in spec["steps"]:
            place = work / step["workingDir"].removeprefix("/workspace").lstrip("/")
            service.run(substituted(step["script"], known), place, **variables)
        return result.read_text()

    service.assert_incremental(push)


def substituted(script: str, known: Mapping[str, str]) -> str:
    """Replace Tekton's variables, and leave a shell's `$(git …)`."""
    return re.sub(r"\$\(([\w.]+)\)", lambda found: known[found[1]], script)


def test_the_image_for_the_jobs(tmp_path: Path) -> None:
    """The paths are there, and docker looks for plugins where the setup links this one."""
    (text,) = examples("The image for the jobs", "dockerfile")
    assert re.findall("^COPY (kontext .*)$", text, re.M) == ["kontext /opt/kontext"]
    ((config, script),) = re.findall(r"^RUN DOCKER_CONFIG=(\S+) /opt/kontext/(\S+)$", text, re.M)
    assert os.access(ROOT / script, os.X_OK)
    assert "docker-kontext install --crane none" in (ROOT / script).read_text()
    assert config in ("/usr/local/lib/docker", "/usr/lib/docker")  # docker's own, for all users
    subprocess.run(
        [sys.executable, "-m", "kontext_plugin", "install"],
        cwd=ROOT,
        env=os.environ | {"DOCKER_CONFIG": f"{tmp_path}{config}"},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / config[1:] / "cli-plugins" / "docker-kontext").exists()


def test_a_tag_for_each_branch(service: Service) -> None:
    (script,) = examples("A tag for each branch", "sh")

    def push() -> str:
        work = service.check_out(1)  # a shallow clone: the branch's tag must do
        return service.run(script, work, COMMIT=service.git("rev-parse", "HEAD")).strip()

    image = service.assert_incremental(push)
    digest = service.run(f"crane digest {REGISTRY}/me/app:main", service.folder).strip()
    assert image.endswith(digest)


def test_another_image_to_build_on(service: Service) -> None:
    (script,) = examples("Another image to build on", "sh")
    commit = service.commit("hello\n")
    service.run(f"docker kontext push -t {REGISTRY}/me/app:main .", service.check_out(1))
    service.registry.requests()
    work = service.check_out(1)
    (work / "README").write_text("of the fork\n")
    assert service.run(script, work, COMMIT=commit).partition("/")[2].startswith("fork/")
    assert 0 < service.uploaded() < LARGE / 10


# --- What reads the YAML ---


def assert_schema(name: str, text: str, folder: Path) -> None:
    """Hold it to the schema that its makers publish, as check-jsonschema brings it."""
    file = folder / f"{name}.yaml"
    file.write_text(text)
    tool = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [tool, "--builtin-schema", f"vendor.{name}", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def cluster(folder: Path) -> Path:
    """Return a program that reads an object as a cluster with Tekton does."""
    go = shutil.which("go")
    if not go:
        missing("Go")
    done = subprocess.run(
        [go, "build", "-o", folder, "."],
        cwd=ROOT / "tests" / "clusters" / "kubernetes",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "kubernetes"
