"""Ignore files: what they keep out of an image, and the errors in them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import exported
from support.services import Docker, Registry
from support.trees import PROGRAM, remove

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


EMPTY: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "a star": (lambda root: (root / ".kontextignore").write_text("*\n"), [], "'.kontextignore'"),
    "a star in UTF-16": (
        lambda root: (root / ".dockerignore").write_text("*\r\n", "utf-16"), [], "'.dockerignore'"
    ),
    "a chosen ignore file": (
        lambda root: (root.parent / "all").write_text("**"), ["--ignore-file", "{}/all"], "/all'"
    ),
    "an empty directory": (lambda root: [remove(path) for path in root.iterdir()], [], ""),
    "directories alone": (
        lambda root: ([remove(path) for path in root.iterdir()], (root / "d").mkdir()), [], ""
    ),
    "all that git tracks is deleted": (
        lambda root: (
            git_init(root), [remove(path) for path in root.iterdir() if path.name != ".git"]
        ), ["--gitignore"], "",
    ),
    "what git does not ignore is excluded": (
        lambda root: (git_init(root), (root / ".dockerignore").write_text("*")),
        ["--gitignore"], "'.dockerignore'",
    ),
}  # fmt: skip


def git_init(root: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)


@pytest.mark.parametrize("progress", ["plain", "quiet", "json"])
@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_image_is_told_however_it_came_about(
    docker: Docker, registry: Registry, source: Path, case: str, progress: str
) -> None:
    """Also a dry run tells it, and a push of an image that is up to date."""
    tag = registry.repository() + ":v1"
    empty_it, options, where = EMPTY[case]
    empty_it(source)
    chosen = [option.format(source.parent) for option in options]
    for more in (["--dry-run"], [], []):
        pushed = docker.push(tag, source, *chosen, *more, "--progress", progress)
        assert pushed.code == 0, pushed.stderr
        assert f"{str(source)!r} has no file to push: the image is empty" in pushed.stderr
        assert where in pushed.stderr


def test_a_directory_that_git_ignores_completely_is_an_error(
    docker: Docker, registry: Registry, source: Path
) -> None:
    git_init(source)
    (source / "out").mkdir()
    (source / "out/a").touch()
    (source / ".gitignore").write_text("out\n")
    pushed = docker.push(registry.repository(), source / "out", "--gitignore", "-q")
    assert (pushed.code, pushed.stdout) == (1, "")
    assert "--gitignore leaves nothing of" in pushed.stderr


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
