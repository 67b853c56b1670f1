"""Run Python code as a user without root's rights, even if the tests run as root."""

from __future__ import annotations

import os
import subprocess
import sys

_PRELUDE = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from kontext_plugin import manifest, workspace
from kontext_plugin import cache as store
from kontext_plugin.crane_driver import credentials
from kontext_plugin.runtime import docker_config, workers
from kontext_plugin.source import filters, ignore_rules, scan, snapshot
from kontext_plugin.terminal import steps
from kontext_plugin.errors import KontextError
if os.geteuid() == 0:
    user = int(sys.argv.pop(1))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
else:
    del sys.argv[1]
"""

_NOBODY = 65534


def run(program: str, *arguments: str, user: int = _NOBODY) -> str:
    """Return what the program prints. It has the names that the prelude imports.

    If the tests run as root, the program runs as `user`, which the system need not know.
    """
    ended = subprocess.run(
        # The interpreter may lie where that user may not go: everything is imported before.
        [sys.executable, "-B", "-c", _PRELUDE + program, str(user), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout
