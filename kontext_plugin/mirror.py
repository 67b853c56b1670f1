"""What a mirror, which removes all that an image does not have, must not remove."""

from __future__ import annotations

import contextlib
import os

from kontext_plugin.errors import KontextError

GIT = ".git"
"""Stays, wherever it lies: what was never pushed is nowhere else."""


def check_mirror(directory: str, home: str) -> None:
    """Raises KontextError where a mirror would remove what nobody means to lose.

    That is the home directory and all above it, by whatever links they are named.
    """
    above = os.path.realpath(home)
    while True:
        with contextlib.suppress(OSError):
            if os.path.samefile(directory, above):
                raise KontextError(
                    f"refusing --mirror: {directory!r} is the home directory, or contains it",
                    hint="Name a directory of its own.",
                )
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)
