"""What the doctor makes of what it finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kontext_plugin.cache.store import Cache
from kontext_plugin.commands import doctor
from kontext_plugin.commands.doctor import BROKEN, NOTE, OK, subject
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.process import CraneRunner
from kontext_plugin.errors import UsageError

VERSIONS = {
    "the least": ("echo v0.21.9", OK),
    "later": ("echo 0.22.0", OK),
    "much later": ("echo v1.0.0+dirty", NOTE),
    "earlier": ("echo v0.21.8", BROKEN),
    "a candidate": ("echo v0.21.9-rc.1", BROKEN),
    "unknown": ("echo '(devel)'", NOTE),
    "failing": ("exit 1", BROKEN),
}


@pytest.mark.parametrize(("body", "state"), VERSIONS.values(), ids=VERSIONS)
def test_crane(tmp_path: Path, body: str, state: str) -> None:
    program = tmp_path / "crane"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    found = doctor.crane_version(Crane(CraneRunner(str(program))))
    assert found.state == state
    assert bool(found.hint) == (state != OK)


def test_a_crane_that_is_gone(tmp_path: Path) -> None:
    found = doctor.crane_version(Crane(CraneRunner(str(tmp_path / "gone"))))
    assert (found.state, "KONTEXT_CRANE" in found.hint) == (BROKEN, True)


def test_a_private_cache(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"))
    assert doctor.cache(cache).message.endswith("not made yet")
    cache.save_stats("/one", {"": b""})
    assert (doctor.cache(cache).state, doctor.cache(cache).message[-7:]) == (OK, "private")


@pytest.mark.parametrize("place", ["", "stats", "stats/file"])
def test_a_cache_that_others_may_read(tmp_path: Path, place: str) -> None:
    cache = Cache(str(tmp_path / "cache"))
    cache.save_stats("/one", {"": b""})
    file = next((tmp_path / "cache/stats").iterdir())
    exposed = file if place == "stats/file" else tmp_path / "cache" / place
    exposed.chmod(exposed.stat().st_mode | 0o040)
    found = doctor.cache(cache)
    assert found.state == NOTE
    assert found.message == f"{exposed} can be read by others"
    assert os.system(found.hint.partition(": ")[2]) == 0
    assert doctor.cache(cache).state == OK


def test_no_cache() -> None:
    assert doctor.cache(Cache(None)).state == NOTE


def test_a_crane_without_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The plugin can be run by itself, so nothing is broken."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.docker_cli().state == NOTE


SUBJECTS = {
    "host and port": ("localhost:5000", "localhost:5000", None),
    "host": ("registry.example.com", "registry.example.com", None),
    "Docker Hub": ("docker.io", "docker.io", None),
    "image": ("localhost:5000/a/b:t", "localhost:5000", "localhost:5000/a/b:t"),
    "image on Docker Hub": ("me/app", "docker.io", "me/app:latest"),
}


@pytest.mark.parametrize(("text", "registry", "name"), SUBJECTS.values(), ids=SUBJECTS)
def test_subject(text: str, registry: str, name: str | None) -> None:
    found = subject(text)
    assert (found[0], found[1] and str(found[1])) == (registry, name)


@pytest.mark.parametrize("text", ["app", "app:v1", "", "-x", "a b.c", "host:99999", "x@y"])
def test_no_subject(text: str) -> None:
    with pytest.raises(UsageError):
        subject(text)
