"""Pushing a git work tree: what git ignores, and the labels that say where the sources are from."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import exported, layers
from support.services import Docker, Registry
from support.trees import File, Tree

Crane = Callable[..., bytes]

TREE: Tree = {"a": File(b"a"), ".gitignore": File(b"*.o\n"), "a.o": File(b"o")}
REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"
URL = "https://example.com/me/app.git"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "c")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def work_tree(source: Path) -> Path:
    git(source, "init", "-q")
    git(source, "remote", "add", "origin", "https://me:s3cret@example.com/me/app.git")
    commit(source)
    return source


@pytest.fixture
def labels(crane: Crane) -> Callable[[str], dict[str, str]]:
    def read(image: str) -> dict[str, str]:
        return dict(json.loads(crane("config", image))["config"].get("Labels") or {})

    return read


Labels = Callable[[str], dict[str, str]]


def test_gitignore_skips_what_git_ignores(
    docker: Docker, registry: Registry, crane: Crane, work_tree: Path
) -> None:
    tag = registry.repository() + ":v1"
    assert docker.push(tag, work_tree).code == 0
    assert exported(crane, tag) == TREE
    pushed = docker.push(tag, work_tree, "--gitignore")
    assert "1 removed" in pushed.stderr
    assert exported(crane, tag) == {path: TREE[path] for path in ("a", ".gitignore")}
    again = docker.push(tag, work_tree, "--gitignore")
    assert "Nothing changed" in again.stderr
    (work_tree / "a").write_text("changed")
    assert docker.push(tag, work_tree).code == 0
    assert exported(crane, tag) == TREE | {"a": File(b"changed")}


def test_gitignore_without_git(docker: Docker, registry: Registry, source: Path) -> None:
    failed = docker.push(registry.repository() + ":v1", source, "--gitignore")
    assert (failed.code, failed.stdout) == (1, "")
    assert str(source) in failed.stderr and "not a git repository" in failed.stderr


def test_labels(docker: Docker, registry: Registry, labels: Labels, work_tree: Path) -> None:
    """Through the life of a work tree, no push starts fresh for the labels' sake."""
    tag = registry.repository() + ":v1"
    here = git(work_tree, "rev-parse", "HEAD")
    first = docker.push(tag, work_tree)
    assert labels(tag) == {REVISION: here, SOURCE: URL}

    commit(work_tree)  # of the same sources
    assert docker.push(tag, work_tree).image == first.image

    (work_tree / "a").write_text("b")
    edited = docker.push(tag, work_tree)
    assert labels(tag)[REVISION] == git(work_tree, "rev-parse", "HEAD") + "-dirty"

    committed = commit(work_tree)
    relabelled = docker.push(tag, work_tree)
    assert "no file changed" in relabelled.stderr
    assert labels(tag) == {REVISION: committed, SOURCE: URL}

    git(work_tree, "remote", "remove", "origin")
    assert docker.push(tag, work_tree).image == relabelled.image
    (work_tree / "a").write_text("c")
    commit(work_tree)
    moved = docker.push(tag, work_tree)
    assert SOURCE not in labels(tag)

    (work_tree / ".git").rename(work_tree.parent / "git")
    assert docker.push(tag, work_tree).image == moved.image
    (work_tree / "a").write_text("d")
    last = docker.push(tag, work_tree)
    assert labels(tag) == {}
    for pushed in (edited, relabelled, moved, last):
        assert pushed.code == 0 and "Starting fresh" not in pushed.stderr


def test_the_users_labels_win(
    docker: Docker, registry: Registry, labels: Labels, work_tree: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, work_tree, "--label", f"{REVISION}=mine", "--label", "k=v")
    assert labels(tag) == {REVISION: "mine", SOURCE: URL, "k": "v"}


def test_git_is_asked_only_where_it_can_make_a_difference(
    docker: Docker, registry: Registry, work_tree: Path
) -> None:
    """On a large tree it takes as long as the rest of a push that uploads nothing."""
    tag = registry.repository() + ":v1"
    time.sleep(2.1)  # until no file is so new that its status says nothing (scan._RACY)
    asked = [
        "git status" in docker.push(tag, work_tree, "--timings").stderr for _ in ("first", "again")
    ]
    (work_tree / "a").write_text("b")
    asked.append("git status" in docker.push(tag, work_tree, "--timings").stderr)
    asked.append("git status" in docker.push(f"{tag}-2", work_tree, "--timings").stderr)
    assert asked == [True, False, True, True]


def test_no_labels_when_told(
    docker: Docker, registry: Registry, labels: Labels, work_tree: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, work_tree, "--no-git-labels")
    assert labels(tag) == {}


def test_a_broken_repository_does_not_stop_a_push(
    docker: Docker, registry: Registry, labels: Labels, work_tree: Path
) -> None:
    tag = registry.repository() + ":v1"
    (work_tree / ".git/HEAD").write_text("junk")
    pushed = docker("-D", "kontext", "push", "-t", tag, str(work_tree))
    assert pushed.code == 0
    assert "no labels from git" in pushed.stderr
    assert labels(tag) == {}


def test_secrets_of_the_remote_are_not_shown(
    docker: Docker, registry: Registry, work_tree: Path
) -> None:
    pushed = docker("-D", "kontext", "push", "-t", registry.repository() + ":v1", str(work_tree))
    assert pushed.code == 0
    assert "s3cret" not in pushed.stderr


def test_a_base_with_labels_of_its_own(
    docker: Docker, registry: Registry, crane: Crane, labels: Labels, work_tree: Path
) -> None:
    """Git's labels replace the base's. Without them, the base's stay, as in a docker build."""
    base = registry.repository() + ":base"
    crane("append", "--oci-empty-base", "-f", "/dev/null", "-t", base)
    settings = ["--label", f"{REVISION}=of-the-base", "--set-platform", "linux/amd64"]
    crane("mutate", base, *settings, "-t", base)
    tag = registry.repository() + ":v1"
    assert docker.push(tag, work_tree, "--base", base).code == 0
    assert labels(tag)[REVISION] == git(work_tree, "rev-parse", "HEAD")
    *before, extractor = layers(crane, tag)
    (work_tree / "a").write_text("b")
    assert docker.push(tag, work_tree, "--base", base, "--no-git-labels").code == 0
    assert layers(crane, tag)[: len(before)] == before
    assert layers(crane, tag)[-1] == extractor
    assert labels(tag)[REVISION] == "of-the-base", "as for any image on that base"
