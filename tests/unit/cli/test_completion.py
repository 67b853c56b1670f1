"""What is offered in the place of a word that is not typed yet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kontext_plugin.cache.store import open_cache
from kontext_plugin.cli import options
from kontext_plugin.cli.completion import complete
from kontext_plugin.engine.config import known_registries


def offered(*words: str) -> list[str]:
    *lines, directive = complete(words).split("\n")
    assert directive == ":4"
    return [line.partition("\t")[0] for line in lines]


@pytest.fixture
def pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two directories, of which the second is the current one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    cache = open_cache()
    cache.save_pushed(str(here), ["r/here:old"])
    cache.save_pushed(str(here), ["r/here:new", "r/here:both"])
    cache.save_pushed("/else\x1b\n\twhere", ["r/else:1", "r/here:both"])


@pytest.mark.usefixtures("pushed")
@pytest.mark.parametrize("words", [("push", "-t", ""), ("push", "-q", "--tag", "")])
def test_tags_of_this_directory_come_first(words: tuple[str, ...]) -> None:
    assert offered(*words) == ["r/here:new", "r/here:both", "r/here:old", "r/else:1"]


@pytest.mark.usefixtures("pushed")
def test_only_what_begins_like_the_word() -> None:
    assert offered("push", "-t", "r/e") == ["r/else:1"]
    assert offered("push", "--tag=r/e") == ["--tag=r/else:1"]


@pytest.mark.usefixtures("pushed")
def test_a_directory_cannot_command_the_terminal() -> None:
    assert complete(["push", "-t", "r/e"]) == "r/else:1\tfrom /else\\x1b\\n\\twhere\n:4"


def test_nothing_was_pushed_yet() -> None:
    assert offered("push", "-t", "") == []


@pytest.mark.usefixtures("pushed")
def test_a_current_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "r/else:1" in offered("push", "-t", "")


@pytest.mark.usefixtures("pushed")
def test_arguments_that_name_images_or_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(options.COMMANDS, "pull", options.PULL)
    monkeypatch.setitem(options.COMMANDS, "doctor", options.DOCTOR)
    configure({"auths": {"r.example.com": {}}})
    assert offered("pull", "r/h") == ["r/here:new", "r/here:both", "r/here:old"]
    assert offered("doctor", "r.") == ["r.example.com"]
    assert offered("doctor", "r/here:o") == ["r/here:old"]


def configure(content: object) -> None:
    folder = Path(os.environ["DOCKER_CONFIG"])
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


CONFIGS = {
    "both sections": (
        {"auths": {"b.example.com": {}}, "credHelpers": {"a.example.com:5000": "x"}},
        ["a.example.com:5000", "b.example.com"],
    ),
    "Docker Hub": ({"auths": {"https://index.docker.io/v1/": {}}}, ["docker.io"]),
    "URL": ({"auths": {"https://r.example.com/v2/": {}}}, ["r.example.com"]),
    "twice": ({"auths": {"r": {}}, "credHelpers": {"r": "x"}}, ["r"]),
    "no hosts": ({"auths": {"": {}, "https:///": {}}}, []),
    "sections of another kind": ({"auths": ["a"], "credHelpers": 7}, []),
    "not an object": ([], []),
    "not JSON": ("{", []),
    "deep": ("[" * 100_000, []),
}


@pytest.mark.parametrize(("content", "hosts"), CONFIGS.values(), ids=CONFIGS)
def test_registries_of_dockers_configuration(content: object, hosts: list[str]) -> None:
    configure(content)
    assert known_registries() == hosts


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def too_large(path: Path) -> None:
    path.write_bytes(b" " * 2_000_000)


@pytest.mark.parametrize("make", [a_fifo, too_large, Path.mkdir])
def test_a_configuration_that_cannot_be_read(make: Callable[[Path], None]) -> None:
    folder = Path(os.environ["DOCKER_CONFIG"])
    folder.mkdir()
    make(folder / "config.json")
    assert known_registries() == []
