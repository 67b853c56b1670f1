"""What docker's config.json says of credentials."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kontext_plugin.engine.config import load_config
from kontext_plugin.errors import KontextError

HUB = "https://index.docker.io/v1/"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


# config.json, a registry, and who answers for it.
SOURCES: dict[str, tuple[object, str, tuple[str, str], bool]] = {
    "nobody": ({}, "r:5000", ("", ""), False),
    "auths": ({"auths": {"r:5000": {}}}, "r:5000", ("", ""), True),
    "auths, another port": ({"auths": {"r:5000": {}}}, "r", ("", ""), False),
    "auths, as a URL": ({"auths": {"https://r:5000/v1/": {}}}, "r:5000", ("", ""), True),
    "auths, with a path": ({"auths": {"r:5000/v2": {}}}, "r:5000", ("", ""), True),
    "auths of Docker Hub": ({"auths": {HUB: {}}}, "index.docker.io", ("", ""), True),
    "a store": ({"credsStore": "s"}, "r", ("s", "credsStore"), False),
    "a helper before the store": (
        {"credsStore": "s", "credHelpers": {"r": "h"}}, "r", ("h", "credHelpers"), False,
    ),
    "another's helper": (
        {"credsStore": "s", "credHelpers": {"q": "h"}}, "r", ("s", "credsStore"), False,
    ),
    "a helper of Docker Hub": (
        {"credHelpers": {HUB: "h"}}, "docker.io", ("h", "credHelpers"), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "registry", "helper", "login"), SOURCES.values(), ids=SOURCES)
def test_who_answers(
    config: Path, content: object, registry: str, helper: tuple[str, str], login: bool
) -> None:
    config.write_text(json.dumps(content))
    found = load_config()
    assert found.there
    assert found.credential_helper(registry) == helper
    assert found.has_login(registry) == login


def test_no_config(config: Path) -> None:
    assert not load_config().there


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"credsStore": 1}', '{"auths": []}', '{"credHelpers": {"r": 1}}']
)
def test_a_broken_config(config: Path, content: str) -> None:
    config.write_text(content)
    with pytest.raises(KontextError) as caught:
        load_config()
    assert str(config) in caught.value.message


def test_a_config_that_would_hold_whoever_reads_it(config: Path) -> None:
    os.mkfifo(config)
    with pytest.raises(KontextError, match="not a regular file"):
        load_config()


def test_a_config_that_is_a_link(config: Path, tmp_path: Path) -> None:
    """As whoever keeps it with other dotfiles has it."""
    (tmp_path / "dotfile").write_text('{"currentContext": "c"}')
    config.symlink_to("dotfile")
    assert load_config().context == "c"
