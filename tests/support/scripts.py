"""The scripts of the repository, run by tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMIT_TIME = "1000000000"
"""The time of the commit that the tests release, in seconds."""


def run_script(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `scripts/NAME` in the directory `cwd`."""
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "scripts" / name, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)
