"""`docker kontext uninstall`: what it says, and what it leaves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kontext_plugin.cli import main
from kontext_plugin.commands.uninstall import package_removal


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the link belongs."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "docker/cli-plugins/docker-kontext"


@pytest.fixture
def crane(tmp_path: Path) -> Path:
    path = tmp_path / "bin/crane"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho v0.21.9\n")
    path.chmod(0o755)
    return path


def test_nothing_is_left(
    place: Path, crane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main.run(["install", "--crane", str(crane)]) == 0
    capsys.readouterr()
    assert main.run(["uninstall"]) == 0
    removal = f"{sys.executable} -m pip uninstall docker-kontext"
    assert capsys.readouterr().err.splitlines() == [
        f"Removed {place}",
        f"Removed {tmp_path}/share/kontext/crane",
        f"The package is still there. Remove it with: {removal}",
    ]
    assert sorted(tmp_path.rglob("*")) == before
    assert main.run(["uninstall"]) == 0
    assert "Removed" not in capsys.readouterr().err


def test_the_cache_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    cache = os.environ["KONTEXT_CACHE_DIR"]
    os.mkdir(cache)
    assert main.run(["uninstall"]) == 0
    assert f"rm -r {os.path.realpath(cache)}" in capsys.readouterr().err
    assert os.path.isdir(cache)


def test_what_is_foreign_stays_and_the_rest_goes(
    place: Path, crane: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main.run(["install", "--crane", str(crane)])
    place.unlink()
    place.write_text("mine")
    assert main.run(["uninstall"]) == 1
    assert f"WARNING: {place} is not a link" in capsys.readouterr().err
    assert place.read_text() == "mine"
    assert not (tmp_path / "share/kontext/crane").is_symlink()


def test_another_plugin_that_docker_finds_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main.run(["install", "--crane", "none"])
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/docker-kontext").write_text("another")
    (tmp_path / "docker/config.json").write_text(f'{{"cliPluginsExtraDirs": ["{tmp_path}/extra"]}}')
    assert main.run(["uninstall"]) == 0
    shown = capsys.readouterr().err
    assert f"WARNING: docker still finds Kontext: {tmp_path}/extra/docker-kontext" in shown


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("pipx_metadata.json", "pipx uninstall docker-kontext"),
        ("uv-receipt.toml", "uv tool uninstall docker-kontext"),
        ("pyvenv.cfg", f"{sys.executable} -m pip uninstall docker-kontext"),
    ],
)
def test_the_package_is_removed_by_its_installer(file: str, command: str, tmp_path: Path) -> None:
    (tmp_path / file).touch()
    assert package_removal(str(tmp_path)) == command
