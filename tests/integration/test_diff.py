"""diff: what it says of a directory and a tag, and that the next push does just that."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from support.edits import BEFORE as TREE
from support.edits import HOSTILE_NAME, edit
from support.images import uploaded, writes
from support.services import Docker, Registry
from support.trees import on_disk

from kontext_plugin.terminal.text import size

Crane = Callable[..., bytes]

EDITED = """\
C \\x1b[2J\\x1b[31mred\\nD everything
C README
A new
A new/file
D old
D old/file
C run.sh
C src/link.c
"""


def test_diff_says_what_the_next_push_uploads(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "cache")
    tag = registry.repository() + ":v1"
    before = docker.push(tag, source).image
    edit(source)
    cached = on_disk(tmp_path / "cache")
    registry.requests()
    said = docker("kontext", "diff", "-t", tag, str(source))
    document = docker("kontext", "diff", "-t", tag, "--format", "json", str(source)).json
    assert writes(registry.requests()) == []
    assert on_disk(tmp_path / "cache") == cached, "not even the cache"

    assert (said.code, said.stdout) == (0, EDITED)
    said.assert_printable()
    registry.requests()
    pushed = docker.push(tag, source)
    upload = sum(map(registry.blob_size, uploaded(registry.requests())))
    assert "Building on" in said.stderr
    what = "1 added, 4 changed, 1 removed"
    assert f"Would publish {pushed.image} and upload {size(upload)}: {what}" in said.stderr
    assert f"{what}; uploaded {size(upload)}" in pushed.stderr
    assert document == {
        "reference": tag,
        "image": before.partition("@")[2],
        "up_to_date": False,
        "new_image": pushed.image.partition("@")[2],
        "builds_on": before.partition("@")[2],
        "fresh": None,
        "added": ["new", "new/file"],
        "changed": [HOSTILE_NAME, "README", "run.sh", "src/link.c"],
        "removed": ["old", "old/file"],
        "renamed": [],
        "upload": upload,
    }


def test_a_rename_uploads_the_whole_file_again(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag = registry.repository()
    (source / "large").write_bytes(os.urandom(5000))
    docker.push(tag, source)
    (source / "large").rename(source / "src" / "bigger")
    said = docker("kontext", "diff", "-t", tag, str(source))
    assert said.stdout == "R large => src/bigger\n"
    assert "1 added, 1 removed" in said.stderr
    document = docker("kontext", "diff", "-t", tag, "--format=json", str(source)).json
    assert (document["added"], document["removed"]) == (["src/bigger"], ["large"])
    assert document["renamed"] == [{"from": "large", "to": "src/bigger"}]
    assert document["upload"] > 5000
    said = docker("kontext", "diff", "--stat", "-t", tag, str(source))
    assert said.stdout == " large => src/bigger | 0B\n 1 file changed\n"
    assert f"upload {size(document['upload'])}: 1 added, 1 removed" in said.stderr
    docker.push(tag, source)
    said = docker("kontext", "diff", "--stat", f"{tag}~1", tag)
    assert said.stdout == " large => src/bigger | 0B\n 1 file changed\n"
    (document,) = [docker("kontext", "diff", f"{tag}~1", tag, "--format=json").json]
    assert document["renamed"] == [{"from": "large", "to": "src/bigger"}]
    assert docker("kontext", "diff", "--stat", "--format=json", f"{tag}~1", tag).code == 125


def test_without_an_image_under_the_tag_all_is_new(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "cache")
    tag = registry.repository()
    said = docker("kontext", "diff", "-t", tag, cwd=source)
    assert said.stdout.count("\n") == len(TREE)
    assert all(line.startswith("A ") for line in said.stdout.splitlines())
    assert "Starting fresh: there is no image to build on" in said.stderr
    document = docker("kontext", "diff", "-t", tag, "--format=json", str(source)).json
    assert document["added"] == sorted(TREE)
    assert (document["image"], document["builds_on"]) == (None, None)
    assert document["fresh"].startswith("there is no image to build on")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "empty").mkdir()
    said = docker("kontext", "diff", "-t", tag, str(tmp_path / "empty"))
    assert (said.code, said.stdout) == (0, "")
    assert "No path differs" not in said.stderr, "there is nothing that it could differ from"
    assert "Would publish" in said.stderr


def test_diff_compares_with_the_tag_even_if_a_push_would_start_fresh(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag = registry.repository()
    docker.push(tag, source)
    (source / "ballast").write_bytes(os.urandom(20_000))
    said = docker("kontext", "diff", "-t", tag, str(source))
    assert said.stdout == "C ballast\n"
    assert "Starting fresh: a delta would be more than half of the whole" in said.stderr
    assert ": 1 changed\n" in said.stderr, "as the list says"


def test_a_tag_that_the_registry_refuses_to_show_is_an_error(
    docker: Docker, registry: Registry, source: Path
) -> None:
    """Who is not logged in must not read that all files are new."""
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    docker.configure({})
    for options, code in (((), 1), (("--exit-code",), 128)):
        said = docker("kontext", "diff", *options, "-t", tag, str(source))
        assert (said.code, said.stdout) == (code, "")
        assert (
            f"ERROR: {registry.host} refused access to {tag.removesuffix(':v1')}: " in said.stderr
        )
        assert f"'docker login {registry.host}'" in said.stderr
    said = docker.push(tag, source, "--dry-run")
    assert said.code == 0
    refused = f"{registry.host} refused access to {tag.removesuffix(':v1')}: "
    assert f"WARNING: the push may fail: {refused}" in said.stderr


def test_exit_code_1_means_a_difference(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository()

    def code(*arguments: str) -> int:
        return docker("kontext", "diff", *arguments).code

    docker.push(tag, source)
    same = ("-t", tag, str(source))
    assert (code(*same), code("--exit-code", *same)) == (0, 0)
    (source / "README").unlink()
    assert (code(*same), code("--exit-code", *same)) == (0, 1)
    failing = ("-t", "127.0.0.1:1/r/r", str(source))
    assert (code(*failing), code("--exit-code", *failing)) == (1, 128)
    assert (code(str(source)), code("--exit-code", str(source))) == (125, 125)


def test_diff_says_if_only_labels_or_options_differ(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag = registry.repository()
    docker.push(tag, source, "--label", "a=b", "--platform", "linux/arm64")
    options = ("--label", "a=b", "--platform", "linux/arm64")
    said = docker("kontext", "diff", "-t", tag, "--exit-code", *options, str(source))
    assert (said.code, said.stdout) == (0, "")
    assert "Nothing changed" in said.stderr
    for change in (("--label", "a=c"), ("--platform", "all"), ("--platform", "linux/amd64"), ()):
        said = docker("kontext", "diff", "-t", tag, "--exit-code", *change, str(source))
        assert (said.code, said.stdout) == (0, "")
        assert "no file changed, other settings" in said.stderr
        assert f"Building on {tag}:latest, generation 0" in said.stderr
    more = (*options, "--label", "c=d", "--format", "json")
    document = docker("kontext", "diff", "-t", tag, *more, str(source)).json
    assert not document["up_to_date"]
    assert document["changed"] == []
    assert document["upload"] > 0
