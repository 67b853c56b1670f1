"""Ignore files: what they keep out of an image, and the errors in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from support.images import exported
from support.services import Docker, Registry
from support.trees import PROGRAM

Crane = Callable[..., bytes]

TREE = PROGRAM


def test_a_missing_ignore_file_is_an_error(
    docker: Docker, registry: Registry, source: Path
) -> None:
    pushed = docker.push(registry.repository(), source, "--ignore-file", "nowhere")
    assert pushed.code == 1
    assert "'nowhere' does not exist" in pushed.stderr


def test_a_malformed_pattern_is_an_error(docker: Docker, registry: Registry, source: Path) -> None:
    (source / ".dockerignore").write_text("fine\n[\n")
    pushed = docker.push(registry.repository(), source)
    assert pushed.code == 1
    assert ".dockerignore:2: malformed pattern '['" in pushed.stderr


def test_an_ignore_file_must_be_a_small_regular_file(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    """Nothing waits for a FIFO or reads an endless device."""
    rules = source / ".dockerignore"
    os.mkfifo(rules)
    assert "not a regular file" in docker.push(registry.repository(), source).stderr
    rules.unlink()
    rules.symlink_to("/dev/zero")
    assert "not a regular file" in docker.push(registry.repository(), source).stderr
    rules.unlink()
    with rules.open("wb") as large:
        large.truncate(1 << 30)
    assert "larger than" in docker.push(registry.repository(), source).stderr


def test_the_rules_of_one_ignore_file_apply(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (source / ".dockerignore").write_text("src\n")
    pushed = docker.push(tag, source)
    assert set(exported(crane, tag)) == (
        {path for path in TREE if not path.startswith("src")} | {".dockerignore"}
    )
    assert "'.git'" in pushed.stderr
    (source / ".kontextignore").write_text("*\n!src/main.c\n")
    docker.push(tag, source)
    assert set(exported(crane, tag)) == {"src", "src/main.c"}
    rules = tmp_path / "rules"
    rules.write_text("*\n!README\n!.git\n")
    docker.push(tag, source, "--ignore-file", str(rules), "--git")
    assert set(exported(crane, tag)) == {"README", ".git", ".git/HEAD"}
