"""Credential helpers, as docker and crane run them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.services import PASSWORD, USER, Docker, Registry


def install_helper(docker: Docker, folder: Path, script: str) -> None:
    """Put `docker-credential-test` into `folder`, and `folder` first on PATH.

    The helper is a shell script. `$server` is the server that it is asked for.
    """
    write_helper(folder, script)
    docker.environment["PATH"] = f"{folder}:{os.environ['PATH']}"


def write_helper(folder: Path, script: str) -> None:
    """As `install_helper`, but PATH stays as it is."""
    folder.mkdir(exist_ok=True)
    path = folder / "docker-credential-test"
    path.write_text(f"#!/bin/sh\nread server\n{script}\n")
    path.chmod(0o755)


def answer(registry: Registry, user: str = USER, secret: str = PASSWORD) -> str:
    """Return the line of a helper's script that answers with a user and a password."""
    document = {"ServerURL": registry.host, "Username": user, "Secret": secret}
    return f"echo '{json.dumps(document)}'"
