"""The base images: the shipped ones, built again to the same bytes, and a user's own."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import own_base
from support.services import Docker, Registry, Result
from support.trees import File, Tree, in_archive, on_disk

TREE: Tree = {"file": File(b"content\n"), "run": File(b"#!/bin/sh\n", executable=True)}


def test_building_again_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("[!.]*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    subprocess.run([sys.executable, root / "scripts" / "build-base", tmp_path / "base"], check=True)
    assert content(tmp_path / "base") == content(root / "kontext_plugin" / "base")


def test_push_and_run_work_on_a_users_base(
    docker: Docker,
    registry: Registry,
    crane: Callable[..., bytes],
    run_image: Callable[..., Result],
    source: Path,
    tmp_path: Path,
) -> None:
    base = own_base(crane, registry, tmp_path)
    tag = registry.repository() + ":v1"
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    workspace.chmod(0o777)
    for step in ("first", "delta"):
        (source / step).write_text(step)
        pushed = docker.push(tag, source, "--base", base, debug=True)
        image = crane("export", tag, "-")
        assert in_archive(io.BytesIO(image)) == on_disk(source)
        assert in_archive(io.BytesIO(image), "etc")["motd"] == File(b"hello")
        ran = run_image(pushed.image, workspace, "--verify")
        assert ran.code == 0, ran.stderr
        assert on_disk(workspace) == on_disk(source)
    assert "Building on" in pushed.stderr
    config = json.loads(crane("config", tag))["config"]
    assert config["Entrypoint"] == ["/kontext-extractor"]
    assert config.get("Cmd") is None
    assert len(json.loads(crane("manifest", tag))["layers"]) == 4
    # Without it, the base is the extractor alone.
    docker.push(tag, source)
    image = crane("export", tag, "-")
    assert in_archive(io.BytesIO(image)) == on_disk(source)
    assert in_archive(io.BytesIO(image), "etc") == {}
    assert "User" not in json.loads(crane("config", tag))["config"]


@pytest.mark.parametrize("built_upon", [False, True])
def test_a_base_with_sources_is_rejected(
    docker: Docker,
    registry: Registry,
    crane: Callable[..., bytes],
    source: Path,
    tmp_path: Path,
    built_upon: bool,
) -> None:
    """Its files would be among those of the directory, for whoever reads the image."""
    base = docker.push(registry.repository(), source).image
    if built_upon:
        path, name = tmp_path / "image.tar", registry.repository() + ":upon"
        crane("pull", "--format", "legacy", base, str(path))  # as docker's, it has no annotations
        crane("push", str(path), name)
        base = name
    tag = registry.repository()
    for command in (["push", "-t", tag, str(source)], ["diff", "-t", tag, str(source)]):
        done = docker("kontext", *command, "--base", base)
        assert done.code == 1
        assert "sources of its own" in done.stderr


def test_a_base_for_another_platform_is_rejected(
    docker: Docker, registry: Registry, crane: Callable[..., bytes], source: Path, tmp_path: Path
) -> None:
    base = own_base(crane, registry, tmp_path)
    tag = registry.repository()
    pushed = docker.push(tag, source, "--base", base, "--platform", "linux/arm64")
    assert pushed.code == 1
    assert "is for linux/amd64, not linux/arm64" in pushed.stderr


def test_a_base_without_a_platform_is_rejected_with_a_hint_that_works(
    docker: Docker, registry: Registry, crane: Callable[..., bytes], source: Path, tmp_path: Path
) -> None:
    layer, base, tag = tmp_path / "layer.tar", registry.repository() + ":b", registry.repository()
    with tarfile.open(layer, "w") as archive:
        archive.add(source, "tool")
    crane("append", "--oci-empty-base", "-f", str(layer), "-t", base)
    pushed = docker.push(tag, source, "--base", base)
    assert pushed.code == 1
    assert "does not name its platform" in pushed.stderr
    (advice,) = re.findall("'crane (mutate .*?)'", pushed.stderr)
    crane(*advice.split())
    assert docker.push(tag, source, "--base", base).image


def test_a_missing_base_is_an_error(docker: Docker, registry: Registry, source: Path) -> None:
    pushed = docker.push(registry.repository(), source, "--base", f"{registry.host}/no/such:base")
    assert pushed.code == 1
    assert "no/such:base was not found" in pushed.stderr
