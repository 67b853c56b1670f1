"""`docker kontext install`: link this installation into docker's plugins."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import INSTALL
from kontext_plugin.engine.config import config_directory, load_docker_config
from kontext_plugin.errors import KontextError
from kontext_plugin.terminal.messages import Report

PLUGIN_NAME = "docker-kontext"

_SYSTEM = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
"""docker looks there last, in `docker/cli-plugins` (docker/cli, cli-plugins/manager)."""


def main(arguments: Sequence[str], flags: Globals) -> int:
    parse(INSTALL, arguments)
    report = Report(show_debug=flags.debug)
    made = link()
    path = link_path()
    report.info(f"{path} leads to {shim()}" + ("" if made else ", as before"))
    taken = first_candidate()
    if taken and taken != path:
        report.important(f"docker takes {taken} before it: remove that one")
    else:
        report.info("'docker kontext --help' shows what it can do")
    return 0


def shim() -> str:
    """What docker has to start: this installation's."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), PLUGIN_NAME)


def link_path() -> str:
    """Where the user's own link belongs."""
    return os.path.join(config_directory(), "cli-plugins", PLUGIN_NAME)


def first_candidate() -> str | None:
    """What docker takes: of several the first one, also if it does not work. Raises KontextError.

    Links that lead nowhere do not count (docker/cli, cli-plugins/manager, PluginRunCommand).
    """
    folders = [
        *load_docker_config().plugin_directories,
        os.path.dirname(link_path()),
        *(os.path.join(folder, "docker/cli-plugins") for folder in _SYSTEM),
    ]
    candidates = (os.path.join(folder, PLUGIN_NAME) for folder in folders)
    return next(filter(os.path.exists, candidates), None)


def is_ours(candidate: str) -> bool:
    """Whether it leads to this installation."""
    return os.path.realpath(candidate) == shim()


def link() -> bool:
    """Makes the user's link lead here; False if it does so already.

    Raises KontextError rather than replace what is not Kontext's.
    """
    path = link_path()
    if os.path.lexists(path):
        if not os.path.islink(path):
            raise KontextError(
                f"{path} is there and is no link", hint="Move it away, then run this again."
            )
        target = os.readlink(path)
        if os.path.join(os.path.dirname(path), target) == shim():
            return False
        if not target.endswith(f"kontext_plugin/{PLUGIN_NAME}"):  # also where a checkout has moved
            raise KontextError(
                f"{path} leads to {target}, which is not Kontext's",
                hint="Remove it if nobody needs it, then run this again.",
            )
    new = f"{path}.{secrets.token_hex(4)}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(shim(), new)
        os.replace(new, path)
    except OSError as error:
        raise KontextError(f"{path} cannot be made: {error.strerror}") from error
    return True
