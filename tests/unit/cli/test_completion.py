"""The candidates for the last word of a command line."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from support.models import NOTHING, SPEC, described, plan_on, published
from support.trees import Directory, File, Tree

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


# Paths within an image


def publish(name: str, files: Tree) -> None:
    """Have this machine remember that it pushed these files."""
    image = published(plan_on(NOTHING, SPEC, described(files)))
    cache = open_cache()
    cache.save_published(name, image)
    cache.save_pushed([PushRecord("", name, image.digest)])


DIR, FILE = Directory(), File(b"x")

IMAGE: Tree = {
    "README": FILE,
    "pkg": DIR,
    "pkg/a b": FILE,
    "pkg/deep": DIR,
    "pkg/deep/x": FILE,
    "pkg/[id].tsx": FILE,
    "pkg/$(touch x)": FILE,
    "pkg/`id`": FILE,
    "pkg/a;b": FILE,
    "pkg/new\nline": FILE,
    "pkg/\x1b[2J": FILE,
    "empty": DIR,
}

PATHS: dict[str, tuple[str, list[str], int]] = {
    "the top": ("", ["README", "empty/", "pkg/"], 6),
    "a directory": ("pk", ["pkg/"], 6),
    "a file": ("RE", ["README"], 4),
    "in a directory": ("pkg/", ["pkg/[id].tsx", "pkg/a b", "pkg/deep/"], 6),
    "a space": ("pkg/a", ["pkg/a b"], 4),
    "deeper": ("pkg/deep/", ["pkg/deep/x"], 4),
    "as it was typed": ("./pkg/../pkg/d", ["./pkg/../pkg/deep/"], 6),
    "from the root": ("/pkg/deep/", ["/pkg/deep/x"], 4),
    "an empty directory": ("empty/", [], 4),
    "nothing": ("no", [], 4),
    "below a file": ("README/", [], 4),
}


@pytest.mark.parametrize(("word", "paths", "directive"), PATHS.values(), ids=PATHS)
def test_paths_in_an_image(word: str, paths: list[str], directive: int) -> None:
    """What this machine pushed needs no registry. No name can run a command of the shell."""
    publish("r.invalid/app:v1", IMAGE)
    answer = complete(["ls", "-l", "--timeout", "5s", "r.invalid/app:v1", word])
    assert answer == "\n".join([*paths, f":{directive}"])


def test_paths_by_digest() -> None:
    publish("r.invalid/app:v1", IMAGE)
    digest = open_cache().pushed()[0].digest
    assert complete(["ls", f"r.invalid/app@{digest}", "R"]) == "README\n:4"


@pytest.mark.parametrize(
    "reference", ["r.invalid/app", "r.invalid/app:v1~1", "NO REFERENCE", "127.0.0.1:1/app"]
)
def test_nothing_is_offered_for_an_image_that_cannot_be_read(
    reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complete(["ls", reference, ""]) == ":4"
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_silent_registry_has_two_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port, started = silent.getsockname()[1], time.monotonic()
        assert complete(["ls", f"127.0.0.1:{port}/app", ""]) == ":4"
        assert 1.5 < time.monotonic() - started < 4
    assert capsys.readouterr() == ("", "")
