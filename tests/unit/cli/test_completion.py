"""The candidates for the last word of a command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kontext_plugin.cache import PushRecord, open_cache
from kontext_plugin.cli import options
from kontext_plugin.cli.completion import complete, without_descriptions
from kontext_plugin.image.oci import Digest


def offered(*words: str) -> list[str]:
    """Return the candidates for the last word, without their descriptions."""
    *lines, directive = complete(words).split("\n")
    assert directive == ":4"
    return [line.partition("\t")[0] for line in lines]


@pytest.fixture
def pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pushed directories; the first is the current one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    cache = open_cache()
    one, two, three = (Digest(f"sha256:{letter * 64}") for letter in "123")
    elsewhere = "/else\x1b\n\twhere"
    cache.save_pushed([PushRecord("", "r/else:purged", one)])
    cache.save_pushed([PushRecord(str(here), "r/here:old", one)])
    cache.save_pushed([PushRecord(str(here), f"r/here:{tag}", two) for tag in ("new", "both")])
    cache.save_pushed([PushRecord(elsewhere, tag, three) for tag in ("r/else:1", "r/here:both")])


@pytest.mark.usefixtures("pushed")
@pytest.mark.parametrize("words", [("push", "-t", ""), ("push", "-q", "--tag", "")])
def test_tags_of_this_directory_come_first(words: tuple[str, ...]) -> None:
    here = ["r/here:new", "r/here:both", "r/here:old"]
    assert offered(*words) == [*here, "r/else:1", "r/else:purged"]


@pytest.mark.usefixtures("pushed")
def test_only_names_that_begin_with_the_word() -> None:
    assert offered("push", "-t", "r/else:1") == ["r/else:1"]
    assert offered("push", "--tag=r/e") == ["--tag=r/else:1", "--tag=r/else:purged"]
    assert offered("push", "--from", "r/h") == ["r/here:new", "r/here:both", "r/here:old"]


@pytest.mark.usefixtures("pushed")
def test_the_name_of_a_directory_is_escaped() -> None:
    assert complete(["push", "-t", "r/else:1"]) == "r/else:1\tfrom /else\\x1b\\n\\twhere\n:4"


@pytest.mark.usefixtures("pushed")
def test_a_purge_is_of_no_directory() -> None:
    assert complete(["push", "-t", "r/else:p"]) == "r/else:purged\n:4"


def test_before_the_first_push() -> None:
    assert offered("push", "-t", "") == []


@pytest.mark.usefixtures("pushed")
def test_in_a_current_directory_that_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "r/else:1" in offered("push", "-t", "")


@pytest.mark.usefixtures("pushed")
def test_arguments_that_name_images_or_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(options.COMMANDS, "pull", options.PULL)
    monkeypatch.setitem(options.COMMANDS, "doctor", options.DOCTOR)
    config = Path(os.environ["DOCKER_CONFIG"]) / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {"r.example.com": {}}}))
    assert offered("pull", "r/h") == ["r/here:new", "r/here:both", "r/here:old"]
    assert offered("doctor", "r.") == ["r.example.com"]
    assert offered("doctor", "r/here:o") == ["r/here:old"]


def test_without_descriptions() -> None:
    assert without_descriptions("push\tUpload\nls\n:4") == "push\nls\n:4"
