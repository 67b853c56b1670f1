"""A release: refused if it would be wrong, the same in each clone, tried, published by GitHub."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.documents import parse_yaml
from support.schemas import assert_actionlint, assert_schema
from support.scripts import COMMIT_TIME

from kontext_plugin import read_version

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: path for path in (ROOT / ".github/workflows").iterdir()}
TAG = f"v{read_version()}"

RELEASED = (
    *(".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.cfg"),
    *("extractor", "kontext_plugin", "scripts"),
)
"""All that a release is made of."""


def workflow(name: str) -> dict[str, Any]:
    return parse_yaml(WORKFLOWS[name].read_text("utf-8"))


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    names = {f"GIT_{who}_NAME": "A" for who in ("AUTHOR", "COMMITTER")}
    emails = {f"GIT_{who}_EMAIL": "a@b.example" for who in ("AUTHOR", "COMMITTER")}
    dates = {f"GIT_{who}_DATE": f"{COMMIT_TIME} +0000" for who in ("AUTHOR", "COMMITTER")}
    own = {"PYTHON": sys.executable, "TMPDIR": str(folder.parent)}
    environment = os.environ | names | emails | dates | own
    return subprocess.run(
        command, cwd=folder, env=environment, umask=0o077, capture_output=True, text=True
    )


def git(folder: Path, *arguments: str | Path) -> str:
    done = run(folder, "git", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of this checkout, as one commit. It uses the environment of this checkout."""
    origin, clone = tmp_path / "origin", tmp_path / "a clone"
    origin.mkdir()
    for name in RELEASED:
        subprocess.run(["cp", "-RP", ROOT / name, origin], check=True)
    (origin / "scripts/setup").write_text("#!/bin/sh\n")
    git(origin, "init", "--quiet")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message", "all")
    git(origin, "clone", "--quiet", origin, clone)
    shutil.copytree(ROOT / "kontext_plugin/base", clone / "kontext_plugin/base")
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / ".git/info/exclude").write_text(".venv\n")
    return clone


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_release_is_the_same_in_each_clone_and_is_tried(clone: Path, distributions: Path) -> None:
    done = run(clone, "scripts/release")
    assert done.returncode == 0, done.stderr
    names = [f"docker_kontext-{read_version()}{end}" for end in ("-py3-none-any.whl", ".tar.gz")]
    assert sorted(digests(clone / "dist")) == names
    assert digests(clone / "dist") == digests(distributions)
    for name in names:
        assert f"release: dist/{name} installs, and pushes\n" in done.stderr
    *_, tag, push = done.stderr.splitlines()
    for line in (tag, push):
        typed = run(clone, "sh", "-c", line)
        assert typed.returncode == 0, typed.stderr
    commit = git(clone, "rev-parse", "HEAD")
    assert git(clone.parent / "origin", "rev-parse", f"refs/tags/{TAG}^{{commit}}") == commit


def set_version(clone: Path) -> None:
    metadata = clone / "kontext_plugin/plugin.json"
    metadata.write_text(metadata.read_text().replace(read_version(), "99.0.0"))
    git(clone, "commit", "--quiet", "--all", "--message", "a version")


def tag_before(clone: Path) -> None:
    git(clone, "tag", TAG)
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "more")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no changelog": (set_version, "CHANGELOG.md has no section '## [99.0.0] - YYYY-MM-DD'"),
    "already tagged": (tag_before, f"{TAG} is commit "),
    "a changed file": (
        lambda clone: (clone / "setup.cfg").write_text(""),
        "the work tree has changes. Commit them, or run 'git stash --include-untracked':\n"
        " M setup.cfg\n",
    ),
    "a new file": (lambda clone: (clone / "new").touch(), "?? new\n"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_release_is_refused(
    clone: Path, change: Callable[[Path], object], message: str
) -> None:
    change(clone)
    done = run(clone, "scripts/release")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (clone / "dist").exists()


def test_the_workflow_refuses_a_tag_of_another_version(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = workflow("release")["jobs"]["build"]["steps"]
    (step,) = [step for step in steps if "scripts/release" in step.get("run", "")]
    assert step["env"] == {"TAG": "${{ github.ref_name }}"}
    monkeypatch.setenv("TAG", "v99.0.0")
    done = run(clone, "bash", "-euo", "pipefail", "-c", step["run"])
    assert done.returncode == 1
    assert done.stderr.startswith("release: the tag v99.0.0 does not name version ")


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_github_reads_a_workflow(path: Path, tmp_path: Path) -> None:
    text = path.read_text("utf-8")
    assert_schema("github-workflows", text, tmp_path)
    assert_actionlint(text, tmp_path)


def test_dependabot_reads_its_file(tmp_path: Path) -> None:
    assert_schema("dependabot", (ROOT / ".github/dependabot.yml").read_text("utf-8"), tmp_path)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_do_what_it_needs(name: str) -> None:
    """No step keeps a token that it does not need, and each action has a version."""
    content = workflow(name)
    assert content["permissions"] in ({}, {"contents": "read"})
    for job in content["jobs"].values():
        for step in job["steps"]:
            action, _, version = step.get("uses", "").partition("@")
            assert not action or re.fullmatch(r"v\d+\.\d+\.\d+|[0-9a-f]{40}", version), action
            if action == "actions/checkout":
                assert step["with"]["persist-credentials"] is False
            for script in re.findall(r"(?:scripts|\.ci)/[\w-]+", step.get("run", "")):
                assert os.access(ROOT / script, os.X_OK)


def test_only_the_jobs_that_publish_may_write() -> None:
    jobs = workflow("release")["jobs"]
    writes = {
        name: {what for what, right in job["permissions"].items() if right == "write"}
        for name, job in jobs.items()
    }
    assert writes == {
        "build": set(),
        "pypi": {"id-token"},
        "github": {"contents", "id-token", "attestations"},
    }
    assert not any("permissions" in job for job in workflow("ci")["jobs"].values())
