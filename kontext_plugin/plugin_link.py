"""Where docker finds its plugins, and the link there that leads it to this installation."""

from __future__ import annotations

import os
import secrets

from kontext_plugin import docker_config
from kontext_plugin.errors import KontextError

NAME = "docker-kontext"

_SYSTEM = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
"""docker looks there last, in `docker/cli-plugins` (docker/cli, cli-plugins/manager)."""


def shim() -> str:
    """What docker has to start: this installation's."""
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), NAME)


def place() -> str:
    """Where the user's own link belongs."""
    return os.path.join(docker_config.folder(), "cli-plugins", NAME)


def first() -> str | None:
    """What docker takes: of several the first one, also if it does not work. Raises KontextError.

    Links that lead nowhere do not count (docker/cli, cli-plugins/manager, PluginRunCommand).
    """
    folders = [
        *docker_config.load().plugin_folders,
        os.path.dirname(place()),
        *(os.path.join(folder, "docker/cli-plugins") for folder in _SYSTEM),
    ]
    candidates = (os.path.join(folder, NAME) for folder in folders)
    return next(filter(os.path.exists, candidates), None)


def is_ours(candidate: str) -> bool:
    """Whether it leads to this installation."""
    return os.path.realpath(candidate) == shim()


def link() -> bool:
    """Makes the user's link lead here; False if it does so already.

    Raises KontextError rather than replace what is not Kontext's.
    """
    path = place()
    if os.path.lexists(path):
        if not os.path.islink(path):
            raise KontextError(
                f"{path} is there and is no link", hint="Move it away, then run this again."
            )
        target = os.readlink(path)
        if os.path.join(os.path.dirname(path), target) == shim():
            return False
        if not target.endswith(f"kontext_plugin/{NAME}"):  # also where a checkout has moved
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
