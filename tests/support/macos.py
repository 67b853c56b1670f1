"""A Python that looks to Kontext as on macOS, as far as that can be imitated on Linux."""

from __future__ import annotations

import sys
from pathlib import Path

_BEFORE = """
import fcntl, os, signal, sys, types
sys.platform = "darwin"
sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxies=dict, _get_proxy_settings=dict)
for module, names in {
    fcntl: "F_SETSIG F_GETSIG F_NOTIFY",
    os: "O_PATH O_TMPFILE O_NOATIME sched_getaffinity pidfd_open memfd_create eventfd splice "
        "copy_file_range getrandom posix_fadvise",
    signal: "SIGRTMIN sigtimedwait sigwaitinfo",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""

_AFTER = """
from kontext_plugin.crane_driver import watchdog
watchdog.PROC = "/no/proc"
main()
"""


def macos_python(directory: Path) -> Path:
    """Write a program for KONTEXT_PYTHON, and return its path.

    The shim gives it `-I -S -X utf8 -c PROGRAM …`. PROGRAM ends with `main()`.
    """
    python = directory / "macos python"
    python.write_text(
        f"""#!/bin/sh
program=$6
shift 6
exec '{sys.executable}' -I -S -X utf8 -c '{_BEFORE}'"${{program%main()}}"'{_AFTER}' "$@"
"""
    )
    python.chmod(0o755)
    return python
