"""The README's first command, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import Docker


def test_the_demo(root: Path, docker: Docker) -> None:
    done = subprocess.run(
        [root / "scripts" / "demo"],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same") >= 1
    assert "1 changed, 1 removed" in done.stderr
    assert "Nothing changed" in done.stderr
