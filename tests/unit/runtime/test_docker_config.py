"""docker's config.json, and where it lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import unprivileged

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.docker_config import (
    DockerConfig,
    config_path,
    home_directory,
    load_docker_config,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of docker's config.json, which does not exist yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def test_what_is_read_of_it(config: Path) -> None:
    config.write_text('{"currentContext": "c", "cliPluginsExtraDirs": ["/d"], "auths": {}}')
    assert load_docker_config() == DockerConfig("c", ("/d",))


def test_no_config(config: Path) -> None:
    assert load_docker_config() == DockerConfig()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"currentContext": 1}'])
def test_a_broken_config(config: Path, content: str) -> None:
    config.write_text(content)
    with pytest.raises(KontextError) as caught:
        load_docker_config()
    assert str(config) in caught.value.message


def test_a_config_that_would_block_its_reader(config: Path) -> None:
    os.mkfifo(config)
    with pytest.raises(KontextError, match="not a regular file"):
        load_docker_config()


def test_a_config_that_is_a_link(config: Path, tmp_path: Path) -> None:
    """As for users who keep their dotfiles in one place."""
    (tmp_path / "dotfile").write_text('{"currentContext": "c"}')
    config.symlink_to("dotfile")
    assert load_docker_config().context == "c"


def test_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert config_path() == "/home/me/.docker/config.json"
    monkeypatch.setenv("DOCKER_CONFIG", "/d")
    assert config_path() == "/d/config.json"


def test_an_empty_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for Go: os.path.expanduser would return the root directory."""
    monkeypatch.setenv("HOME", "")
    assert home_directory() not in ("", "/", "~")


def test_a_user_that_the_system_does_not_know_has_no_home() -> None:
    """As in a container with a random uid. os.path.expanduser would return `~`, a relative path."""
    said = unprivileged.run(
        """
os.environ.pop("HOME", None)
os.environ.pop("DOCKER_CONFIG", None)
import tempfile
with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    os.makedirs("~/.docker")
    open("~/.docker/config.json", "w").write('{"currentContext": "of the tree"}')
    print(docker_config.home_directory(), docker_config.config_path())
    print(docker_config.load_docker_config() == docker_config.DockerConfig())
""",
        user=54321,
    )
    assert said == "None None\nTrue\n"
