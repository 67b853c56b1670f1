"""A disk that has no room for what a push writes."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import change, new_machine
from support.services import Registry, missing
from support.trees import File, plant

from kontext_plugin.registry.base_image import shipped_base


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        missing("root, to mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        missing("the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_push_without_room_for_the_layer_is_an_error(
    registry: Registry, crane_path: str, tmp_path: Path, small_disk: Path
) -> None:
    pushing = new_machine(tmp_path / "machine", registry, crane_path)
    pushing.environment["KONTEXT_CACHE_DIR"] = str(small_disk / "cache")
    plant(pushing.source, {"file": File(b"old")})
    assert pushing.push().image
    before = pushing.tree()
    change(pushing, random.Random(5))
    pushed = pushing.push()
    pushing.assert_failed(pushed, "No space left on device")
    assert "KONTEXT_CACHE_DIR" in pushed.stderr
    assert pushing.published() == before
    pushing.assert_clean()
    (pushing.source / "large").unlink()
    assert pushing.push().image
    assert pushing.published() == pushing.tree()


def test_a_push_works_until_the_layer_has_no_room(
    registry: Registry, crane_path: str, tmp_path: Path, small_disk: Path
) -> None:
    """First what is remembered has no room, which costs time alone, then the layer has none."""
    pushing = new_machine(tmp_path / "machine", registry, crane_path)
    pushing.environment["KONTEXT_CACHE_DIR"] = str(small_disk / "cache")
    plant(pushing.source, {f"{number:0100}": File(b"") for number in range(1000)})
    before, codes = None, []
    # The disk is not that of the installation, so a push has a copy of the extractor there.
    extractor = shipped_base("linux/amd64").extractor.layer.size
    for room in (400_000, 200_000, 100_000, 50_000, 20_000, -extractor):
        ballast = small_disk / "ballast"
        ballast.unlink(missing_ok=True)
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - extractor - room))
        plant(pushing.source, {"file": File(b"%d" % room)})
        pushed = pushing.push()
        codes.append(pushed.code)
        if pushed.code:
            pushing.assert_failed(pushed, "No space left on device")
            assert pushing.published() == before
        else:
            before = pushing.tree()
            assert pushing.published() == before
        pushing.assert_clean()
    assert codes[0] == 0
    assert codes[-1] == 1
