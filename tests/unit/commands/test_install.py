"""The link that lets docker find the plugin."""

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
    target = str(root / "kontext_plugin/docker-kontext")
    for message in (f"Linked {place} to {target}", f"{place} already links to {target}"):
        assert main.run(["install"]) == 0
        assert os.readlink(place) == target
        assert os.access(place, os.X_OK)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.splitlines() == [
            message,
            "Run 'docker kontext --help' to see the commands",
        ]
    assert os.listdir(place.parent) == [place.name]


def test_config_flag(tmp_path: Path, place: Path) -> None:
    assert main.run(["--config", str(tmp_path / "other"), "kontext", "install"]) == 0
    assert (tmp_path / "other/cli-plugins/docker-kontext").is_symlink()
    assert not place.exists()


@pytest.mark.parametrize(
    "target",
    ["/gone/site-packages/kontext_plugin/docker-kontext", "../kontext_plugin/docker-kontext"],
)
def test_a_link_to_another_installation_is_replaced(place: Path, target: str) -> None:
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    assert install.link()
    assert install.is_ours(str(place))


def test_anything_else_stays(place: Path, tmp_path: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(KontextError, match="exists and is not a link"):
        install.link()
    assert place.read_text() == "mine"
    place.unlink()
    place.symlink_to(tmp_path / "mine")
    with pytest.raises(KontextError, match="which is not Kontext"):
        install.link()
    assert os.readlink(place) == str(tmp_path / "mine")


def test_a_directory_that_cannot_be_made(place: Path) -> None:
    place.parent.parent.write_text("a file")
    with pytest.raises(KontextError, match=f"cannot make {place}: Not a directory"):
        install.link()


def test_docker_takes_the_first_plugin_that_exists(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "docker-kontext").write_text("not a program")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/docker-kontext").symlink_to("nowhere")
    place.parent.parent.mkdir()
    directories = [str(tmp_path / "none"), str(tmp_path / "dangling"), str(extra)]
    config = {"cliPluginsExtraDirs": directories}
    (place.parent.parent / "config.json").write_text(json.dumps(config))
    assert main.run(["install"]) == 0
    assert install.first_candidate() == str(extra / "docker-kontext")
    warning = f"WARNING: docker uses {extra}/docker-kontext first: remove it\n"
    assert warning in capsys.readouterr().err
