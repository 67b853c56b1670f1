"""A shell script in the place of crane: it writes down its arguments and its process, then obeys.

Each function takes the test's own temporary directory.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def fake_crane(directory: Path, body: str) -> str:
    """Write a crane that runs the shell code `body`, and return its path."""
    program = directory / "fake crane"
    program.write_text(
        "#!/bin/sh\n"
        f"exec 3>'{directory}/arguments'; printf '%s\\0' \"$@\" >&3; exec 3>&-\n"
        f"echo $$ >> '{directory}/pids'\n{body}\n"
    )
    program.chmod(0o755)
    return str(program)


def last_arguments(directory: Path) -> list[str]:
    """Return the arguments of the last crane."""
    return (directory / "arguments").read_text().split("\0")[:-1]


def running(directory: Path) -> list[int]:
    """Return the processes that still run in the sessions of the cranes."""
    pids = directory / "pids"
    sessions = {int(pid) for pid in pids.read_text().split()} if pids.exists() else set()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            found.append(int(pid))
    return found


def all_ended(directory: Path) -> bool:
    """Return whether all cranes have ended. A killed process may take a moment to go."""
    deadline = time.monotonic() + 5
    while running(directory):
        if time.monotonic() > deadline:
            return False
    return True
