"""Keep every test away from the home, cache and docker configuration of its user."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")

TOGETHER = {
    "tests/integration/test_cache.py": "one directory that has settled",
    "tests/integration/test_consumers.py": "one containerd",
    "tests/integration/test_documented_consumers.py": "one build of the clusters' types",
    "tests/integration/test_install.py": "one wheel",
    "tests/integration/test_network_faults.py": "the first test starts all cases",
    "tests/integration/test_run_and_load.py": "one build of a hostile extractor",
    "tests/unit/source/test_ignore_rules.py": "one oracle",
}
"""The files whose tests run in one process, and what they share."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute the tests one by one, but for those that run TOGETHER."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return Scheduler(config, log)


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Names for homes: mktemp would list all earlier ones each time."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _private_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (("GOPATH", "go"), ("GOCACHE", ".cache/go-build")):
        monkeypatch.setenv(name, os.environ.get(name) or str(Path.home() / folder))
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KONTEXT_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    for name in (
        *("XDG_CACHE_HOME", "XDG_DATA_HOME"),
        *("KONTEXT_CRANE", "KONTEXT_CRANE_RELEASES", "KONTEXT_PROGRESS", "KONTEXT_PYTHON"),
        *("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE"),
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).parents[1]
