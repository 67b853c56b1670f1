"""Images for several platforms run on each of them; arm64 by Debian's qemu-user-static."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.services import Docker, Registry, Result, missing
from support.trees import File, Link, Tree, on_disk

TREE: Tree = {"file": File(b"the same everywhere\n"), "run": File(b"", True), "link": Link("file")}

_EMULATOR = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")


@pytest.mark.parametrize("first", ["linux/amd64", "linux/arm64"])
def test_each_platform_of_an_index_writes_the_same_files(
    docker: Docker,
    registry: Registry,
    source: Path,
    tmp_path: Path,
    run_image: Callable[..., Result],
    first: str,
) -> None:
    if not _EMULATOR.exists():
        missing("qemu-user-static, registered for arm64")
    tag = f"{registry.repository()}:v1"
    image = docker.push(tag, source, "--platform", "all").image
    try:
        for platform in sorted(["linux/amd64", "linux/arm64"], key=lambda one: one != first):
            workspace = tmp_path / platform.replace("/", "-")
            workspace.mkdir()
            ran = run_image(tag, workspace, options=("--platform", platform))
            assert ran.code == 0, ran.stderr
            assert on_disk(workspace) == TREE

        # The daemon has one of them under the index's digest. It must not run the wrong one.
        workspace = tmp_path / "run"
        ran = docker("kontext", "run", "--workspace", str(workspace), tag)
        assert ran.code == 0, ran.stderr
        assert on_disk(workspace) == TREE
    finally:
        docker("image", "rm", "--force", tag, image)
