"""docs/ci.md and integrations/ do what they say: their tools read them, and a shell runs them.

Each example pushes two commits, each from a new clone and with an empty cache.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import pytest
from support.documents import blocks, parse_yaml
from support.schemas import Cluster, assert_actionlint, assert_schema
from support.services import PASSWORD, USER, Docker, Registry
from support.trees import Directory, File, Tree, on_disk

from kontext_plugin import read_version

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


@dataclass
class Job:
    """A job of GitHub Actions: what its steps hand to each other."""

    service: Service
    work: Path
    known: dict[str, str]
    path: list[str] = field(default_factory=list)

    def run(self, step: Mapping[str, Any], **variables: str) -> str:
        """Run a step with a script. Its outputs are known from then on."""
        files = {name: self.service.folder / name for name in ("GITHUB_OUTPUT", "GITHUB_PATH")}
        for file in files.values():
            file.write_text("")
        variables |= {name: str(file) for name, file in files.items()}
        if self.path:
            variables["PATH"] = ":".join([*self.path, os.environ["PATH"]])
        env = expressions(step.get("env", {}), self.known)
        values = {name: self.service.here(value) for name, value in env.items()}
        place = self.work / step.get("working-directory", ".")
        said = self.service.run(step["run"], place, **variables, **values)
        for line in files["GITHUB_OUTPUT"].read_text().splitlines():
            name, _, value = line.partition("=")
            self.known[f"steps.{step['id']}.outputs.{name}"] = value
        self.path = [*files["GITHUB_PATH"].read_text().split("\n")[:-1], *self.path]
        return said


def test_github_actions(
    service: Service, wheel: Path, daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = examples("GitHub Actions", "yaml")
    assert_schema("github-workflows", text, service.folder)
    assert_actionlint(text, service.folder)
    jobs = parse_yaml(text)["jobs"]
    check_out, log_in, pushing = jobs["push"]["steps"]
    place = pushing["uses"].removeprefix("me/kontext/").removesuffix(f"@v{read_version()}")
    definition = (ROOT / place / "action.yml").read_text("utf-8")
    assert_schema("github-actions", definition, service.folder)
    action = parse_yaml(definition)
    install, push_step = action["runs"]["steps"]
    defaults = {name: one.get("default") for name, one in action["inputs"].items()}
    given = defaults | pushing["with"] | {"package": str(wheel)}
    assert None not in given.values(), "a required input is missing"
    known = {"vars.REGISTRY_USERNAME": USER, "secrets.REGISTRY_PASSWORD": PASSWORD}
    monkeypatch.setenv("PATH", f"{Path(service.crane).parent}:{os.environ['PATH']}")
    path: list[str] = []

    def push() -> str:
        job = Job(service, service.check_out(check_out["with"]["fetch-depth"]), dict(known), path)
        service.log_out()
        job.run(log_in)
        job.known["github.sha"] = service.git("rev-parse", "HEAD")
        inputs = expressions(given, job.known)
        job.known |= {f"inputs.{name}": value for name, value in inputs.items()}
        if not path:  # the second job has the same Kontext
            apart = {"RUNNER_TEMP": str(service.folder), "DOCKER_CONFIG": str(service.folder)}
            job.run(install, **apart)
            path.extend(job.path)
        job.run(push_step)
        outputs = {name: one["value"] for name, one in action["outputs"].items()}
        passed = expressions(outputs, job.known)
        assert passed["image"].partition("@")[2] == passed["digest"]
        known.update({f"steps.{pushing['id']}.outputs.{n}": v for n, v in passed.items()})
        return passed["image"]

    image = service.assert_incremental(push)
    assert path == [str(service.folder / "kontext" / "bin")]
    passed = expressions(jobs["push"]["outputs"], known)
    known |= {f"needs.{jobs['build']['needs']}.outputs.{name}": passed[name] for name in passed}
    job = Job(service, service.job(), known)
    service.log_out()
    try:
        *first, build = jobs["build"]["steps"]
        for step in first:
            job.run(step)
    finally:
        service.docker("image", "rm", image)
    assert on_disk(job.work / "src") == changed("hello again\n")
    assert job.run(build) == LISTING


GITLAB_DEPTH = 20
"""GIT_DEPTH, unless a project sets it."""


def filled_in(template: str, inputs: Mapping[str, str]) -> str:
    return re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda found: inputs[found[1]], template)


def test_gitlab_ci(service: Service, wheel: Path) -> None:
    (text,) = examples("GitLab CI", "yaml")
    assert_schema("gitlab-ci", text, service.folder)
    pipeline = parse_yaml(text)
    (include,) = pipeline["include"]
    assert include["component"].endswith(f"/kontext@{read_version()}")
    file = ROOT / "integrations" / "gitlab" / "templates" / "kontext.yml"
    header, template = file.read_text("utf-8").split("\n---\n")
    assert_schema("gitlab-ci", header, service.folder)
    declared = parse_yaml(header)["spec"]["inputs"]
    assert include["inputs"].keys() <= declared.keys()
    defaults = {name: one["default"] for name, one in declared.items()}
    job = filled_in(template, defaults | include["inputs"] | {"package": str(wheel)})
    assert_schema("gitlab-ci", job, service.folder)
    ((name, sources),) = parse_yaml(job).items()
    build = pipeline["build"]
    assert build["needs"] == [name]
    assert build["image"] == JOB_IMAGE
    known = {
        "CI_REGISTRY": service.registry.host,
        "CI_REGISTRY_USER": USER,
        "CI_REGISTRY_PASSWORD": PASSWORD,
        "CI_REGISTRY_IMAGE": service.repository,
    }
    passed: dict[str, str] = {}
    home = service.folder / "home"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    programs = f"{home / 'bin'}:{Path(service.crane).parent}:{os.environ['PATH']}"

    def push() -> str:
        work = service.check_out(GITLAB_DEPTH)
        commit = service.git("rev-parse", "HEAD")
        variables = {n: Template(v).substitute(known) for n, v in sources["variables"].items()}
        variables |= {"CI_COMMIT_SHA": commit, "PATH": programs, "DOCKER_CONFIG": str(home)}
        service.run("\n".join(sources["script"]), work, **known, **variables)
        report = (work / sources["artifacts"]["reports"]["dotenv"]).read_text()
        passed.update(line.split("=", 1) for line in report.splitlines())
        assert passed["IMAGE"].partition("@")[2] == passed["DIGEST"]
        return passed["IMAGE"]

    service.assert_incremental(push)
    service.log_out()
    assert build["variables"] == {"GIT_STRATEGY": "none"}
    work = service.job()
    said = service.run("\n".join(build["script"]), work, **known, **passed)
    assert said.endswith(LISTING)  # after what docker login prints
    assert on_disk(work / "src") == changed("hello again\n")


def test_tekton(service: Service, cluster: Cluster) -> None:
    (text,) = examples("Tekton", "yaml")
    cloning, pushing, fetching = cluster.read(text)["spec"]["tasks"]
    push_task, fetch_task = (
        cluster.read((ROOT / "integrations" / "tekton" / name).read_text("utf-8"))
        for name in ("push.yaml", "fetch.yaml")
    )
    for task, use in ((push_task, pushing), (fetch_task, fetching)):
        assert use["taskRef"]["name"] == task["metadata"]["name"]
        params = {one["name"]: "default" in one for one in task["spec"]["params"]}
        given = {one["name"] for one in use["params"]}
        assert given | {name for name, default in params.items() if default} == params.keys()
        bound = {one["name"] for one in use["workspaces"]}
        assert bound == {one["name"] for one in task["spec"]["workspaces"]}
    assert fetching["params"][0]["value"] == "$(tasks.push.results.image)"
    given = {one["name"]: one["value"] for one in pushing["params"]}
    assert given["kontext"] == cloning["taskSpec"]["steps"][0]["image"] == JOB_IMAGE

    def push() -> str:
        work = service.job()
        results = {name: service.folder / name for name in ("image", "digest")}
        known = {
            "params.url": CLONE,
            "params.revision": "main",
            "params.repository": given["repository"],
            "params.directory": push_task["spec"]["params"][1]["default"],
            "workspaces.output.path": str(work),
            "workspaces.source.path": str(work),
            "workspaces.docker.path": str(service.docker.config),
            **{f"results.{name}.path": str(file) for name, file in results.items()},
        }
        for step in (*cloning["taskSpec"]["steps"], *push_task["spec"]["steps"]):
            env = {
                one["name"]: service.here(substituted(one["value"], known)) for one in step["env"]
            }
            service.run(
                substituted(step["script"], known),
                Path(substituted(step["workingDir"], known)),
                **env,
            )
        image = results["image"].read_text()
        assert image.partition("@")[2] == results["digest"].read_text()
        return image

    service.assert_incremental(push)


def substituted(script: str, known: Mapping[str, str]) -> str:
    """Replace Tekton's variables, and leave a shell's `$(git …)`."""
    return re.sub(r"\$\(([\w.]+)\)", lambda found: known[found[1]], script)


def test_the_image_for_the_jobs(service: Service, wheel: Path, tmp_path: Path) -> None:
    """Its commands install for all users. Debian's packages are not installed here."""
    text = (ROOT / "integrations" / "image" / "Dockerfile").read_text("utf-8")
    packages, install, link, crane, trust = re.findall(r"^RUN (.*)$", text, re.M)
    assert packages.startswith("apt-get update && apt-get install ")
    assert trust == "git config --system --add safe.directory '*'"
    local = tmp_path / "usr" / "local"
    subprocess.run([sys.executable, "-m", "venv", local], check=True)
    programs = f"{local / 'bin'}:{Path(service.crane).parent}:{os.environ['PATH']}"
    link += f" --crane {service.crane}"  # in place of the download
    for line in (install, link, crane):
        script = line.replace("/usr/local", str(local))
        service.run(script, tmp_path, PACKAGE=str(wheel), PATH=programs)
    assert (local / "lib/docker/cli-plugins/docker-kontext").exists()
    service.commit("hello\n")
    said = service.run(
        "docker-kontext push -t registry.example.com/me/app:image .",
        service.check_out(1),
        PATH=f"{local / 'bin'}:/usr/bin:/bin",
    )
    assert said.startswith(f"{service.repository}@sha256:")


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
