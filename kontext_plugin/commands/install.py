"""`docker kontext install`: link this installation into docker's plugins, and get crane."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from enum import Enum

from kontext_plugin import installation
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import INSTALL
from kontext_plugin.crane_driver.process import installed_crane, locate_crane
from kontext_plugin.errors import KontextError
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import size


class Way(Enum):
    """How Kontext gets its crane."""

    KEEP = "keep"  # the one that it finds
    FETCH = "fetch"  # the pinned release
    LINK = "link"  # the one that the user names
    NONE = "none"


def choose_way(crane: str | None, is_usable: bool) -> Way:
    """Return the way for a value of --crane. `is_usable`: Kontext finds a crane that it can use."""
    if crane is None:
        return Way.KEEP if is_usable else Way.FETCH
    return {"release": Way.FETCH, "none": Way.NONE}.get(crane, Way.LINK)


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, _ = parse(INSTALL, arguments)
    report = Report(show_debug=flags.debug)
    _refuse_cache()
    if choose_way(parsed.crane, is_usable=False) is Way.LINK:  # before anything is made
        installation.check_crane(os.path.abspath(parsed.crane))
    _link(report)
    _get_crane(parsed.crane, report)
    _say_what_is_first(report)
    return 0


def _refuse_cache() -> None:
    """Raise KontextError if this installation would vanish with a cache, and leave a dead link."""
    cache = installation.cache_of(installation.plugin_file(), sys.prefix)
    if not cache:
        return
    tool = "pipx" if "pipx" in installation.plugin_file().split(os.sep) else "uv tool"
    raise KontextError(
        f"Kontext runs from the cache {cache}, which is cleaned from time to time",
        hint=f"Run '{tool} install docker-kontext', and then 'docker-kontext install'.",
    )


def _link(report: Report) -> None:
    path, target = installation.link_path(), installation.plugin_file()
    if installation.link():
        report.info(f"Linked {path} to {target}")
    else:
        report.info(f"{path} already links to {target}")


def _get_crane(option: str | None, report: Report) -> None:
    try:
        found = locate_crane()
        problem = installation.crane_problem(found)
    except KontextError as error:
        found, problem = "", error
    way = choose_way(option, problem is None)
    if way is Way.NONE:
        return
    if way is Way.KEEP:
        report.info(f"Found crane: {found}")
        return
    if way is Way.LINK:
        target = os.path.abspath(option or "")
        report.info(f"Linked {installation.link_crane(target)} to {target}")
        return
    if problem and found:
        report.info(problem.message)
    _fetch(report)


def _fetch(report: Report) -> None:
    from kontext_plugin.crane_driver import release  # 60 ms

    installation.check_place_for_crane()
    mirror = os.environ.get(release.MIRROR_VARIABLE, "")
    pinned = release.release_for(platform.system(), platform.machine(), mirror)
    report.info(f"Downloading crane {release.VERSION} from {pinned.url}")
    program = release.download(pinned)
    path = installation.write_crane(program)
    report.info(f"Installed {path}, {size(len(program))}, from the archive sha256:{pinned.sha256}")


def _say_what_is_first(report: Report) -> None:
    """Say what docker and Kontext take in place of what was installed, if anything."""
    path, crane = installation.link_path(), installed_crane()
    first = installation.first_candidate()
    if first and first != path:
        report.important(f"docker uses {first} first: remove it")
    if crane and os.path.lexists(crane) and (located := locate_crane()) != crane:
        way_out = "unset KONTEXT_CRANE" if os.environ.get("KONTEXT_CRANE") else "remove it"
        report.important(f"Kontext uses {located} first: {way_out}")
    if not first or first == path:
        report.info("Run 'docker kontext --help' to see the commands")
