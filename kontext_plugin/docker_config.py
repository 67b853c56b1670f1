"""Reads docker's configuration, for completion; crane reads it for what it needs by itself."""

from __future__ import annotations

import json
import os

from kontext_plugin.sources import read_file

_MOST = 1024 * 1024  # bytes

_HUB = "https://index.docker.io/v1/"
"""What docker calls its own registry there."""


def registries() -> list[str]:
    """The hosts that docker has credentials or a credential helper for; none if it cannot tell."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        settings = json.loads(read_file(os.path.join(folder, "config.json"), _MOST))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(settings, dict):
        return []
    sections = (settings.get(name) for name in ("auths", "credHelpers"))
    names = {name for section in sections if isinstance(section, dict) for name in section}
    return sorted({_host(name) for name in names} - {""})


def _host(name: str) -> str:
    if name == _HUB:
        return "docker.io"
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]
