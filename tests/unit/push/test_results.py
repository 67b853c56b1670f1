"""The result of a push: the line on standard output, and the files that scripts read."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.models import ARM, SPEC, described, published
from support.models import plan_on as plan_on_image
from support.trees import Directory, File, Link, Tree

from kontext_plugin.cache import PushRecord
from kontext_plugin.errors import USAGE, KontextError
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.image.spec import REVISION
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import Candidate, Origin, StartFresh
from kontext_plugin.push.plan import Plan, counted_since, make_plan
from kontext_plugin.push.provenance import statement
from kontext_plugin.push.results import (
    Pushed,
    metadata,
    records_of,
    remove_stale_results,
    write_results,
)
from kontext_plugin.registry.fetch import KontextImage

NOTHING = StartFresh("there is no image to build on")
TAGS = (parse_reference("host.io/r1:t"), parse_reference("host.io/r2:u"))
TREE: Tree = {
    "ballast": File(b"b" * 10_000),
    "a": File(b"a"),
    "d": Directory(),
    "d/l": Link("../a"),
}


def push(plan: Plan, uploaded: int = 7, written: tuple[Reference, ...] = TAGS) -> Pushed:
    """Return the result of carrying a plan out."""
    return Pushed(published(plan), TAGS, plan, written, uploaded)


def plan_on(tag_image: KontextImage | StartFresh, **changed: File) -> Plan:
    spec = replace(SPEC, always_reuse=False)
    return plan_on_image(tag_image, spec, described({**TREE, **changed}))


def facts(pushed: Pushed) -> dict[str, Any]:
    found: dict[str, Any] = dict(metadata(pushed)["kontext.push"])
    return found


FIRST = plan_on(NOTHING)
IMAGE = published(FIRST)
SAME = {
    "tags": ["host.io/r1:t", "host.io/r2:u"],
    "up_to_date": False,
    "built_on": None,
    "built_on_name": None,
    "built_on_reason": None,
    "fresh": None,
    "platforms": ["linux/amd64"],
    "generation": 0,
    "layers": 2,
    "files": 3,
    "size": 10_001,
    "uploaded": 7,
}


def test_the_metadata_of_a_fresh_start_has_its_reason() -> None:
    pushed = push(FIRST)
    assert metadata(pushed) == {
        "containerimage.digest": pushed.image.digest,
        "image.name": "host.io/r1:t,host.io/r2:u",
        "kontext.push": SAME | {"fresh": "there is no image to build on"},
    }


def test_the_metadata_of_a_delta_names_its_parent() -> None:
    pushed = push(plan_on(IMAGE, b=File(b"22")))
    assert facts(pushed) == SAME | {
        "built_on": IMAGE.digest,
        "built_on_name": "host.io/repo:t",
        "built_on_reason": "the tag",
        "generation": 1,
        "layers": 3,
        "files": 4,
        "size": 10_003,
    }


def test_the_metadata_of_a_delta_on_an_ancestor_names_the_ancestor() -> None:
    second = published(plan_on(IMAGE, b=File(b"22")))
    pushed = push(plan_on(second, b=File(b"33")))
    assert facts(pushed) == SAME | {
        "built_on": IMAGE.digest,
        "built_on_name": "host.io/repo:t",
        "built_on_reason": "the tag",
        "generation": 2,
        "layers": 3,
        "files": 4,
        "size": 10_003,
    }


def test_the_metadata_of_an_image_that_is_up_to_date_is_that_of_the_tag() -> None:
    second = published(plan_on(IMAGE, b=File(b"22")))
    plan = plan_on(second, b=File(b"22"))
    assert plan.sources
    pushed = push(plan, 0, ())
    assert metadata(pushed)["containerimage.digest"] == second.digest
    assert facts(pushed) == SAME | {
        "up_to_date": True,
        "generation": 1,
        "layers": 3,
        "files": 4,
        "size": 10_003,
        "uploaded": 0,
    }


def test_the_metadata_names_the_image_of_another_tag_that_was_built_on() -> None:
    """Also if another tag shows it now, without a new layer."""
    main = Candidate(IMAGE, parse_reference("host.io/r1:main"), Origin.BRANCH)
    pushed = push(make_plan([main], NOTHING, SPEC, described(TREE)))
    assert facts(pushed) == SAME | {
        "built_on": IMAGE.digest,
        "built_on_name": "host.io/r1:main",
        "built_on_reason": "a branch",
    }


def test_the_layers_in_the_metadata_are_those_of_the_image() -> None:
    large: Tree = {f"f{number:03}": File(b"x") for number in range(3)}
    tree = described(large)
    tree = replace(tree, sizes=dict.fromkeys(tree.sizes, 40_000_000))
    pushed = push(plan_on_image(NOTHING, SPEC, tree))
    assert facts(pushed)["layers"] == len(pushed.image.image.layers) > 3


def test_the_metadata_of_several_platforms_has_the_digest_of_the_index() -> None:
    spec = replace(SPEC, bases=(*SPEC.bases, ARM))
    pushed = push(plan_on_image(NOTHING, spec, described(TREE)))
    assert metadata(pushed)["containerimage.digest"] == pushed.image.digest
    assert pushed.image.digest != pushed.image.image.digest
    assert facts(pushed)["platforms"] == ["linux/amd64", "linux/arm64"]


# What this machine remembers


def test_each_tag_has_a_record_with_the_facts_of_the_push() -> None:
    spec = replace(SPEC, git_labels={REVISION: "c" * 40})
    plan = plan_on_image(IMAGE, spec, described(TREE | {"a": File(b"aa"), "n": File(b"")}))
    pushed = push(plan)
    one, two = records_of("/d", pushed)
    assert abs(one.time - time.time()) < 60
    assert one == PushRecord(
        directory="/d",
        reference="host.io/r1:t",
        digest=pushed.image.digest,
        time=one.time,
        generation=1,
        revision="c" * 40,
        parent="host.io/repo:t",
        added=1,
        changed=1,
        removed=0,
        uploaded=7,
    )
    assert replace(two, reference=one.reference, time=one.time) == one
    assert two.reference == "host.io/r2:u"


def test_the_record_of_a_fresh_start_names_no_parent() -> None:
    (one, _) = records_of("/d", push(FIRST))
    assert (one.parent, one.generation, one.revision) == ("", 0, "")
    assert (one.added, one.changed, one.removed) == (3, 0, 0)


def test_a_record_counts_since_the_image_under_the_tag() -> None:
    """Also where the push has built on another image."""
    tag_tree: Tree = {"a": File(b"other"), "gone": File(b"")}
    plan = counted_since(plan_on(IMAGE), described(tag_tree))
    (one, _) = records_of("/d", push(plan))
    assert (one.added, one.changed, one.removed) == (2, 1, 1)


# Standard output


def test_the_line_on_standard_output_names_the_image_by_its_digest() -> None:
    assert str(push(FIRST)) == f"host.io/r1@{IMAGE.digest}"


# The files


@pytest.fixture
def options(tmp_path: Path) -> PushOptions:
    iid, meta, made_of = (str(tmp_path / name) for name in ("iid", "meta", "made-of"))
    return PushOptions(TAGS, iidfile=iid, metadata_file=meta, provenance=made_of)


def test_the_files_hold_the_digest_the_metadata_and_the_statement(
    options: PushOptions, tmp_path: Path
) -> None:
    pushed = push(FIRST)
    before = os.umask(0o077)
    try:
        write_results(options, pushed)
    finally:
        os.umask(before)
    assert (tmp_path / "iid").read_text() == pushed.image.digest
    text = (tmp_path / "meta").read_text()
    assert json.loads(text) == metadata(pushed)
    stated = (tmp_path / "made-of").read_text()
    assert json.loads(stated) == statement(options, pushed)
    assert text.endswith("}\n") and stated.endswith("}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"iid", "meta", "made-of"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_without_options_no_file_is_written_or_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    options = PushOptions(TAGS)
    remove_stale_results(options)
    write_results(options, push(FIRST))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_files_of_an_earlier_push_are_removed(options: PushOptions, tmp_path: Path) -> None:
    """A failed push must leave no digest."""
    for name in ("iid", "meta", "made-of"):
        (tmp_path / name).write_text("old")
    remove_stale_results(options)
    assert not [*tmp_path.iterdir()]
    remove_stale_results(options)


def test_a_link_is_followed_and_stays(options: PushOptions, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/iid").write_text("old")
    (tmp_path / "iid").symlink_to("there/iid")
    remove_stale_results(options)
    assert not (tmp_path / "there/iid").exists()
    write_results(options, push(FIRST))
    assert (tmp_path / "iid").is_symlink()
    assert (tmp_path / "there/iid").read_text() == push(FIRST).image.digest


@pytest.mark.parametrize("name", ["iid", "./iid", "there/../iid"])
def test_one_file_cannot_hold_both_results(name: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "iid").write_text("old")
    options = PushOptions(TAGS, iidfile=str(tmp_path / "iid"), metadata_file=f"{tmp_path}/{name}")
    with pytest.raises(KontextError, match="name the same file") as raised:
        remove_stale_results(options)
    assert raised.value.exit_code == USAGE
    assert (tmp_path / "iid").read_text() == "old"


def make_directory(path: Path) -> None:
    path.mkdir()


UNWRITABLE = {
    "a directory": (make_directory, "is not a regular file"),
    "a FIFO": (os.mkfifo, "is not a regular file"),
    "in no directory": (lambda path: path.parent.rmdir(), "cannot be written: No such file"),
}


@pytest.mark.parametrize(("make", "reason"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_file_that_cannot_be_written_is_found_before_anything_is_removed(
    make: Any, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "iid").write_text("old")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "meta"
    make(path)
    options = PushOptions(TAGS, iidfile=str(tmp_path / "iid"), metadata_file=str(path))
    with pytest.raises(KontextError, match=reason) as raised:
        remove_stale_results(options)
    assert raised.value.hint
    assert str(path) in raised.value.message
    assert (tmp_path / "iid").read_text() == "old"


def test_a_standard_stream_is_not_removed(tmp_path: Path) -> None:
    """/dev/stdout may lead to a file, to which the shell has redirected it."""
    output = tmp_path / "output"
    output.touch()
    saved = os.dup(0)
    try:
        with output.open() as file:
            os.dup2(file.fileno(), 0)
            options = PushOptions(TAGS, iidfile=str(output))
            with pytest.raises(KontextError, match="is a standard stream of this command"):
                remove_stale_results(options)
    finally:
        os.dup2(saved, 0)
        os.close(saved)
    assert output.exists()


def test_a_file_that_cannot_be_written_after_the_push_does_not_hide_the_push(
    options: PushOptions, tmp_path: Path
) -> None:
    tmp_path.joinpath("iid").mkdir()
    pushed = push(FIRST)
    with pytest.raises(KontextError) as raised:
        write_results(options, pushed)
    assert raised.value.message.startswith(f"{pushed} is published, but '{tmp_path}/iid'")
    assert "Push again" in raised.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["iid"], "no temporary file is left"
