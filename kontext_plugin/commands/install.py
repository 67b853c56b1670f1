"""`docker kontext install`: link this installation into docker's plugins.

docker finds a plugin by its file's name (docker/cli, cli-plugins/manager).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import INSTALL
from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.docker_config import config_directory, load_docker_config
from kontext_plugin.terminal.messages import Report

PLUGIN_NAME = "docker-kontext"

_SYSTEM_DIRECTORIES = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
"""docker looks last into `docker/cli-plugins` in these."""


def main(arguments: Sequence[str], flags: Globals) -> int:
    parse(INSTALL, arguments)
    report = Report(show_debug=flags.debug)
    path = link_path()
    if link():
        report.info(f"Linked {path} to {plugin_file()}")
    else:
        report.info(f"{path} already links to {plugin_file()}")
    first = first_candidate()
    if first and first != path:
        report.important(f"docker uses {first} first: remove it")
    else:
        report.info("Run 'docker kontext --help' to see the commands")
    return 0


def link_path() -> str:
    """Return where the user's own link belongs. Raises KontextError if there is no home."""
    directory = config_directory()
    if directory is None:
        raise KontextError(
            "docker's plugins have no directory: HOME is not set, and this user has no home",
            hint="Name docker's configuration directory in DOCKER_CONFIG.",
        )
    return os.path.join(directory, "cli-plugins", PLUGIN_NAME)


def link() -> bool:
    """Make the user's link lead to this installation; return False if it does already.

    An older link of Kontext's is replaced. Raises KontextError if anything else is there.
    """
    path = link_path()
    if os.path.lexists(path):
        if not os.path.islink(path):
            raise KontextError(
                f"{path} exists and is not a link", hint="Move it away, and run this again."
            )
        target = os.readlink(path)
        if os.path.join(os.path.dirname(path), target) == plugin_file():
            return False
        # By its name alone: a checkout may have moved, and then the link dangles.
        if not target.endswith(f"kontext_plugin/{PLUGIN_NAME}"):
            raise KontextError(
                f"{path} links to {target}, which is not Kontext",
                hint="Remove the link if nobody needs it, and run this again.",
            )
    new = f"{path}.{secrets.token_hex(4)}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(plugin_file(), new)
        os.replace(new, path)
    except OSError as error:
        raise KontextError(f"cannot make {path}: {error.strerror}") from error
    return True


def plugin_file() -> str:
    """Return the file of this installation that docker must start."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), PLUGIN_NAME)


def first_candidate() -> str | None:
    """Return the file that docker takes for Kontext, even if it does not work; None without one.

    docker ignores dangling links (PluginRunCommand). Raises KontextError.
    """
    own = config_directory()
    directories = [
        *load_docker_config().plugin_directories,
        *([os.path.join(own, "cli-plugins")] if own else []),
        *(os.path.join(directory, "docker/cli-plugins") for directory in _SYSTEM_DIRECTORIES),
    ]
    candidates = (os.path.join(directory, PLUGIN_NAME) for directory in directories)
    return next(filter(os.path.exists, candidates), None)


def is_ours(candidate: str) -> bool:
    """Return whether a file or link leads to this installation."""
    return os.path.realpath(candidate) == plugin_file()
