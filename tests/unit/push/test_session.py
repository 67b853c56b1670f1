"""The end of a session: what has begun to write ends before its directory is removed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.fake_registry import FakeRegistry

from kontext_plugin.cache import Cache
from kontext_plugin.errors import KontextError
from kontext_plugin.push.session import open_session
from kontext_plugin.runtime.workers import Advance
from kontext_plugin.terminal.messages import Report


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _crane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_CRANE", FakeRegistry(tmp_path / "registry").crane.program)


def test_a_session_that_fails_still_saves(cache: Cache, tmp_path: Path) -> None:
    saved = tmp_path / "saved"

    def save() -> None:
        time.sleep(0.2)
        saved.touch()

    with (
        pytest.raises(KontextError),
        open_session(Report(), cache, insecure=False, timeout=0) as session,
    ):
        session.saves.submit(save)
        session.saves.submit(save)
        raise KontextError("no room")
    assert saved.exists()


def write_for_ever(directory: str, advance: Advance) -> None:
    """Make one file after another."""
    for number in range(10**9):
        Path(directory, str(number)).touch()
        advance(1)


def test_a_scratch_directory_goes_while_workers_write_there(cache: Cache) -> None:
    def fail(_: int) -> None:
        raise KontextError("refused")

    with (
        pytest.raises(KontextError, match="refused"),
        open_session(Report(), cache, insecure=False, timeout=0) as session,
        session.scratch() as directory,
    ):
        list(session.workers.map(write_for_ever, [directory] * 4, fail))
    assert not list(Path(str(cache.root)).iterdir())
