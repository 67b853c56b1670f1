"""Run a command, and measure the largest of its processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.services import Result

_PROGRAM = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def run_measured(
    command: Sequence[str | Path], environment: Mapping[str, str], seconds: float
) -> tuple[Result, int]:
    """Return what the command came to, and the bytes of its largest process.

    Raises subprocess.TimeoutExpired after so many seconds.
    """
    with tempfile.NamedTemporaryFile("r") as used:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, used.name, *command],
            env=environment,
            capture_output=True,
            timeout=seconds,
        )
        size = int(used.read()) * 1024
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode()), size
