"""`docker run` of an image: the workspace becomes the source tree, or the run fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.services import Docker, Registry, Result
from support.trees import EVERY_KIND, File, on_disk, plant

Run = Callable[..., Result]

TREE = EVERY_KIND


@pytest.fixture
def image(docker: Docker, registry: Registry, source: Path) -> str:
    return docker.push(registry.repository(), source).image


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    directory.chmod(0o777)
    for folder in tmp_path.parents:
        if folder == Path("/tmp"):
            break
        folder.chmod(0o755)
    return directory


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_the_workspace_becomes_the_sources(
    run_image: Run, image: str, workspace: Path, user: str
) -> None:
    options = ["--user", user, "--read-only"]
    for expected in ("4 files: 4 written", "4 files: 0 written"):
        ran = run_image(image, workspace, "--verify", options=options)
        assert ran.code == 0, ran.stderr
        assert expected in ran.stdout
        assert on_disk(workspace) == TREE
    owner = int(user.partition(":")[0])
    assert {path.lstat().st_uid for path in workspace.rglob("*")} == {owner}


def test_only_mirror_removes_other_files(run_image: Run, image: str, workspace: Path) -> None:
    plant(workspace, {"mine": File(b"mine"), "file": File(b"a longer content than ours\n")})
    (workspace / "dir").symlink_to("/etc")
    assert run_image(image, workspace).code == 0
    assert on_disk(workspace) == TREE | {"mine": File(b"mine")}
    assert run_image(image, workspace, "--mirror", "--verify").code == 0
    assert on_disk(workspace) == TREE


def test_files_that_are_right_are_not_written(run_image: Run, image: str, workspace: Path) -> None:
    run_image(image, workspace)
    os.utime(workspace / "file", (1, 1))
    (workspace / "run.sh").write_text("other")
    assert run_image(image, workspace).code == 0
    assert (workspace / "file").stat().st_mtime == 1
    assert (workspace / "run.sh").read_bytes() == b"#!/bin/sh\n"


def test_any_user_may_write_a_new_volume(docker: Docker, daemon: str, image: str) -> None:
    """A new volume gets the mode of the image's /workspace: any user may write there."""
    mount = ["--mount", "type=volume,target=/workspace", "--user", "1000:1000"]
    assert docker("run", "--rm", *mount, image, "--verify").code == 0


def test_the_workspace_may_be_another_directory(
    docker: Docker, daemon: str, image: str, workspace: Path
) -> None:
    mount = ["--mount", f"type=bind,source={workspace},target=/elsewhere"]
    assert docker("run", "--rm", *mount, image, "/elsewhere/new").code == 0
    assert on_disk(workspace / "new") == TREE


def test_a_read_only_workspace_is_an_error(
    docker: Docker, daemon: str, image: str, workspace: Path
) -> None:
    mount = ["--mount", f"type=bind,source={workspace},target=/workspace,readonly"]
    ran = docker("run", "--rm", *mount, image)
    assert ran.code == 1
    assert "/workspace/" in ran.stderr
    assert "read-only file system" in ran.stderr


def test_a_full_disk_is_an_error(
    docker: Docker, registry: Registry, daemon: str, tmp_path: Path
) -> None:
    source = tmp_path / "large"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(3 << 20))
    image = docker.push(registry.repository(), source).image
    mount = ["--mount", "type=tmpfs,target=/workspace,tmpfs-size=1m"]
    ran = docker("run", "--rm", *mount, image)
    assert ran.code == 1
    assert "/workspace/large" in ran.stderr
    assert "no space left on device" in ran.stderr
