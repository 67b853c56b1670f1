"""Keep every test away from the home, cache and docker configuration of its user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


@pytest.fixture(autouse=True)
def _private_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in (("GOPATH", "go"), ("GOCACHE", ".cache/go-build")):
        monkeypatch.setenv(name, os.environ.get(name) or str(Path.home() / folder))
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KONTEXT_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    for name in ("XDG_CACHE_HOME", "KONTEXT_CRANE", "KONTEXT_PROGRESS", "KONTEXT_PYTHON"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).parents[1]
