"""The checks of `docker kontext doctor`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.fake_crane import fake_crane

from kontext_plugin.cache import Cache
from kontext_plugin.commands import doctor
from kontext_plugin.commands.doctor import Check, State, parse_target
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver import watchdog
from kontext_plugin.crane_driver.process import CraneRunner
from kontext_plugin.errors import UsageError
from kontext_plugin.source.snapshot import Snapshot

VERSIONS = {
    "the oldest that works": ("echo v0.21.9", State.OK),
    "later": ("echo 0.22.0", State.OK),
    "much later": ("echo v1.0.0+dirty", State.NOTE),
    "earlier": ("echo v0.21.8", State.BROKEN),
    "a release candidate": ("echo v0.21.9-rc.1", State.BROKEN),
    "unknown": ("echo '(devel)'", State.NOTE),
    "garbage": (r"printf '\033[2J\377%02000d\nx' 7", State.NOTE),
    "no version": ("true", State.NOTE),
    "failing": ("exit 1", State.BROKEN),
}


@pytest.mark.parametrize(("body", "state"), VERSIONS.values(), ids=VERSIONS)
def test_crane(tmp_path: Path, body: str, state: State) -> None:
    program = tmp_path / "crane"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    check = doctor.check_crane(Crane(CraneRunner(str(program))))
    assert check.state == state
    assert bool(check.hint) == (state != State.OK)
    assert check.message.isprintable()
    assert len(check.message) < 400


def test_a_missing_crane(tmp_path: Path) -> None:
    check = doctor.check_crane(Crane(CraneRunner(str(tmp_path / "gone"))))
    assert (check.state, "KONTEXT_CRANE" in check.hint) == (State.BROKEN, True)


def test_a_helper_that_never_answers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a terminal: a check does not wait for a person."""
    config = Path(os.environ["DOCKER_CONFIG"])
    config.mkdir()
    (config / "config.json").write_text('{"credHelpers": {"r.io": "vault"}}')
    monkeypatch.setattr(doctor, "_HELPER_TIMEOUT", 0.3)
    monkeypatch.setattr(watchdog, "has_person", lambda: True)
    with Crane(CraneRunner(fake_crane(tmp_path, "sleep 1000; echo"))) as crane:
        check = doctor.check_credentials(crane, "r.io/a")
    assert check.state == State.BROKEN
    assert check.message == "docker-credential-vault has not answered for 0.3 s"


def test_a_private_cache(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"))
    assert doctor.check_cache(cache).message.endswith("cache does not exist yet")
    cache.save_snapshot("/one", Snapshot())
    check = doctor.check_cache(cache)
    assert (check.state, check.message[-7:]) == (State.OK, "private")


@pytest.mark.parametrize("place", ["", "stats", "stats/file"])
def test_a_cache_that_others_can_read(tmp_path: Path, place: str) -> None:
    cache = Cache(str(tmp_path / "cache"))
    cache.save_snapshot("/one", Snapshot())
    file = next((tmp_path / "cache/stats").iterdir())
    exposed = file if place == "stats/file" else tmp_path / "cache" / place
    exposed.chmod(exposed.stat().st_mode | 0o040)
    check = doctor.check_cache(cache)
    assert check.state == State.NOTE
    assert check.message == f"{exposed} can be read by others"
    assert os.system(check.hint.partition(": ")[2]) == 0
    assert doctor.check_cache(cache).state == State.OK


def test_no_cache() -> None:
    assert doctor.check_cache(Cache(None)).state == State.NOTE


def test_no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The plugin works without docker, so nothing is broken."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_docker().state == State.NOTE


def test_lines_hide_secrets_and_stay_lines() -> None:
    check = Check("registry", State.BROKEN, "https://me:secret@host/a\nb", "\x1b[2J")
    assert list(doctor.lines(check, {State.BROKEN: "x"})) == [
        "x registry     https://…host/a\\nb",
        "               \\x1b[2J",
    ]


TARGETS = {
    "host and port": ("localhost:5000", "localhost:5000", None),
    "host": ("registry.example.com", "registry.example.com", None),
    "Docker Hub": ("docker.io", "docker.io", None),
    "image": ("localhost:5000/a/b:t", "localhost:5000", "localhost:5000/a/b:t"),
    "image on Docker Hub": ("me/app", "docker.io", "me/app:latest"),
}


@pytest.mark.parametrize(("text", "registry", "image"), TARGETS.values(), ids=TARGETS)
def test_targets(text: str, registry: str, image: str | None) -> None:
    parsed = parse_target(text)
    assert (parsed[0], parsed[1] and str(parsed[1])) == (registry, image)


@pytest.mark.parametrize("text", ["app", "app:v1", "", "-x", "a b.c", "host:99999", "x@y"])
def test_no_target(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)
