"""The link by which docker finds the plugin."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kontext_plugin.cli import main
from kontext_plugin.commands import install
from kontext_plugin.errors import KontextError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker/cli-plugins/docker-kontext"


def test_install(place: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ("", ", as before"):
        assert main.run(["install"]) == 0
        assert os.readlink(place) == str(root / "kontext_plugin/docker-kontext")
        assert os.access(place, os.X_OK)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.splitlines()[0] == f"{place} leads to {os.readlink(place)}{more}"
    assert os.listdir(place.parent) == [place.name]


def test_config_flag(tmp_path: Path, place: Path) -> None:
    assert main.run(["--config", str(tmp_path / "other"), "kontext", "install"]) == 0
    assert (tmp_path / "other/cli-plugins/docker-kontext").is_symlink()
    assert not place.exists()


@pytest.mark.parametrize(
    "target",
    ["/gone/site-packages/kontext_plugin/docker-kontext", "../kontext_plugin/docker-kontext"],
)
def test_another_installations_link_is_replaced(place: Path, target: str) -> None:
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    assert install.link()
    assert install.is_ours(str(place))


def test_what_is_not_kontexts_stays(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(KontextError, match="is no link"):
        install.link()
    assert place.read_text() == "mine"
    place.unlink()
    place.symlink_to(tmp_path / "mine")
    with pytest.raises(KontextError, match="not Kontext's"):
        install.link()
    assert os.readlink(place) == str(tmp_path / "mine")


def test_a_folder_that_cannot_be_made(place: Path) -> None:
    place.parent.parent.write_text("a file")
    with pytest.raises(KontextError, match="cannot be made: Not a directory"):
        install.link()


def test_docker_takes_the_first_that_is_there(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "docker-kontext").write_text("no program")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/docker-kontext").symlink_to("nowhere")
    place.parent.parent.mkdir()
    settings = {
        "cliPluginsExtraDirs": [*map(str, (tmp_path / "none", tmp_path / "dangling", extra))]
    }
    (place.parent.parent / "config.json").write_text(json.dumps(settings))
    assert main.run(["install"]) == 0
    assert install.first_candidate() == str(extra / "docker-kontext")
    assert f"docker takes {extra}/docker-kontext before it" in capsys.readouterr().err
