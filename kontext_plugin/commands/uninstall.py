"""`docker kontext uninstall`: take back what `install` did."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence

from kontext_plugin import installation
from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import UNINSTALL
from kontext_plugin.errors import FAILED, KontextError
from kontext_plugin.terminal.messages import Report


def main(arguments: Sequence[str], flags: Globals) -> int:
    parse(UNINSTALL, arguments)
    report = Report(show_debug=flags.debug)
    done = [_remove(step, report) for step in (installation.unlink, installation.remove_crane)]
    if not all(done):
        return FAILED
    installation.remove_record()
    if first := installation.first_candidate():
        report.important(f"docker still finds Kontext: {first}")
    cache = open_cache(read_only=True).root
    if cache and os.path.isdir(cache):
        report.info(f"The cache is still there. Remove it with: rm -r {shlex.quote(cache)}")
    report.info(f"The package is still there. Remove it with: {package_removal(sys.prefix)}")
    return 0


def _remove(step: Callable[[], str], report: Report) -> bool:
    """Run a step; return whether it succeeded. Steps do not depend on each other."""
    try:
        if removed := step():
            report.info(f"Removed {removed}")
    except KontextError as error:
        report.important(f"{error.message}\n{error.hint}".rstrip())
        return False
    return True


def package_removal(prefix: str) -> str:
    """Return the command that removes the package from an environment: that of its installer."""
    if os.path.exists(os.path.join(prefix, "pipx_metadata.json")):
        return "pipx uninstall docker-kontext"
    if os.path.exists(os.path.join(prefix, "uv-receipt.toml")):
        return "uv tool uninstall docker-kontext"
    return f"{shlex.quote(sys.executable)} -m pip uninstall docker-kontext"
