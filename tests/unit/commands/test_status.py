"""`docker kontext status`: its lines and its JSON, and which push it speaks of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.models import NOTHING, SPEC, described, plan_on, published
from support.trees import Directory, File, Tree, plant

from kontext_plugin.cache import PushRecord, open_cache
from kontext_plugin.cli import main
from kontext_plugin.commands.status import (
    Changes,
    Status,
    as_json,
    compare,
    lines,
    tags_of,
)
from kontext_plugin.delta import FileCounts
from kontext_plugin.image.oci import Digest
from kontext_plugin.terminal.table import UNLIMITED, Room

ONE, TWO = (Digest("sha256:" + digit * 64) for digit in "12")
TAG = "host.io/repo:t"
LAST = PushRecord("/src", TAG, ONE, time=1_000_000_000, generation=3, revision="c0ffee")
X = File(b"x")

BEFORE: Tree = {"a": X, "b": X, "dir": Directory()}

COMPARED: dict[str, tuple[Tree, Changes]] = {
    "the same": (BEFORE, Changes(True, FileCounts())),
    "an edit": (BEFORE | {"a": File(b"y")}, Changes(False, FileCounts(changed=1))),
    "an executable": (BEFORE | {"a": File(b"x", True)}, Changes(False, FileCounts(changed=1))),
    "a new file": (BEFORE | {"c": X}, Changes(False, FileCounts(added=1))),
    "a file less": ({"a": X, "dir": Directory()}, Changes(False, FileCounts(removed=1))),
    "a directory": (BEFORE | {"new": Directory()}, Changes(False, FileCounts())),
}


@pytest.mark.parametrize(("tree", "expected"), COMPARED.values(), ids=COMPARED)
def test_changes(tree: Tree, expected: Changes) -> None:
    image = published(plan_on(NOTHING, SPEC, described(BEFORE)))
    assert compare(image, described(tree)) == expected


def push(reference: str, digest: Digest = ONE, directory: str = "/src") -> PushRecord:
    return PushRecord(directory, reference, digest)


TAGS: dict[str, tuple[list[PushRecord], tuple[str, ...]]] = {
    "one": ([push("r/a:1")], ("r/a:1",)),
    "two of one push": ([push("r/a:1"), push("r/a:2")], ("r/a:1", "r/a:2")),
    "the same image later": (
        [push("r/a:2"), push("r/b:1", TWO), push("r/a:1")],
        ("r/a:2", "r/a:1"),
    ),
    "an earlier image": ([push("r/a:1"), push("r/a:2", TWO)], ("r/a:1",)),
    "moved from another directory": ([push("r/a:1", TWO, "/x"), push("r/a:1")], ()),
}


@pytest.mark.parametrize(("pushed", "expected"), TAGS.values(), ids=TAGS)
def test_tags_that_a_push_has_set(pushed: list[PushRecord], expected: tuple[str, ...]) -> None:
    assert tags_of(push("r/a:1"), pushed) == expected


DONE = Status("/src", LAST, (TAG,), Changes(True, FileCounts()))
FIRST = f"Pushed 5 minutes ago as {TAG}: {ONE}"
SAME = "Unchanged since: a push would upload no file"

LINES: dict[str, tuple[Status, list[str]]] = {
    "never pushed": (Status("/a\nb", None), [r"/a\nb was never pushed from this machine"]),
    "unchanged": (DONE, [FIRST, SAME]),
    "changed": (
        replace(DONE, changes=Changes(False, FileCounts(1, 2000, 0))),
        [FIRST, "Changed since: 1 added, 2,000 changed"],
    ),
    "a directory": (
        replace(DONE, changes=Changes(False, FileCounts())),
        [FIRST, "Changed since: only directories"],
    ),
    "not in the cache": (
        replace(DONE, changes=None),
        [FIRST, "The cache has lost this image. Run 'docker kontext diff' to see what changed."],
    ),
    "no tag is left": (
        replace(DONE, tags=()),
        [f"Pushed 5 minutes ago as {TAG}, which shows a later push: {ONE}", SAME],
    ),
    "the registry agrees": (
        replace(DONE, remote={TAG: ONE}),
        [FIRST, SAME, f"{TAG} shows this image"],
    ),
    "somebody else has pushed": (
        replace(DONE, remote={TAG: TWO}),
        [FIRST, SAME, f"{TAG} shows another image, {TWO}"],
    ),
    "the tag is deleted": (
        replace(DONE, remote={TAG: None}),
        [FIRST, SAME, f"{TAG} is not in the registry"],
    ),
}


@pytest.mark.parametrize(("status", "expected"), LINES.values(), ids=LINES)
def test_lines(status: Status, expected: list[str]) -> None:
    assert [*lines(status, LAST.time + 301, UNLIMITED)] == expected
    for line in lines(status, LAST.time + 301, Room(40)):
        assert len(line) <= 40


def test_json_has_always_all_keys() -> None:
    never = as_json(Status("/src", None))
    assert never.keys() == as_json(replace(DONE, remote={TAG: None})).keys()
    assert {key for key, value in never.items() if value is not None} == {"directory", "tags"}
    assert as_json(replace(DONE, remote={TAG: None})) == {
        "directory": "/src",
        "image": f"host.io/repo@{ONE}",
        "tags": [TAG],
        "time": "2001-09-09T01:46:40+00:00",
        "generation": 3,
        "revision": "c0ffee",
        "unchanged": True,
        "added": 0,
        "changed": 0,
        "removed": 0,
        "remote": {TAG: None},
    }


def test_the_cache_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The image is found under another tag too, as after a second push of the same sources."""
    source = tmp_path / "source"
    source.mkdir()
    plant(source, BEFORE)
    image = published(plan_on(NOTHING, SPEC, described(BEFORE)))
    cache = open_cache()
    cache.save_published("r/a:1", image)
    cache.save_pushed([push("r/a:1", image.digest, str(source))])
    cache.save_pushed([push("r/a:2", image.digest, str(source))])
    (source / "b").unlink()
    assert main.run(["status", "--format", "json", str(source)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["unchanged"], shown["removed"]) == (False, 1)
    assert shown["tags"] == ["r/a:2", "r/a:1"]
    assert shown["remote"] is None


def test_a_status_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["status", str(tmp_path)]) == 0
    assert "was never pushed" in capsys.readouterr().out
    root = open_cache(read_only=True).root
    assert root is not None
    assert not Path(root).exists()
