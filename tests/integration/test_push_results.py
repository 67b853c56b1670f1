"""The files that a push writes: true after a push, and gone after one that failed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.services import Docker, Registry
from support.trees import File, Tree

from kontext_plugin.push.parent import Origin

Crane = Callable[..., bytes]

TREE: Tree = {"a": File(b"a" * 1000), "b": File(b"b")}


def test_the_files_say_what_was_published(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    repository = registry.repository()
    tags = [f"{repository}:v1", f"{repository}:v2"]
    iid, meta = tmp_path / "iid", tmp_path / "meta"
    options = ["-t", tags[1], "--iidfile", str(iid), "--metadata-file", str(meta)]

    def pushed() -> dict[str, object]:
        done = docker.push(tags[0], source, *options)
        digest = crane("digest", tags[0]).decode().strip()
        assert done.image == f"{repository}@{digest}"
        assert iid.read_text() == digest
        said = json.loads(meta.read_text())
        assert said["containerimage.digest"] == digest
        assert said["image.name"] == ",".join(tags)
        layers = json.loads(crane("manifest", tags[0]))["layers"]
        assert said["kontext.push"].pop("layers") == len(layers)
        assert said["kontext.push"].pop("tags") == tags
        return dict(said["kontext.push"])

    first = pushed()
    before = iid.read_text()
    assert isinstance(first.pop("uploaded"), int)
    same = {
        "up_to_date": False,
        "built_on": None,
        "built_on_name": None,
        "built_on_reason": None,
        "platforms": ["linux/amd64"],
        "generation": 0,
        "files": 2,
        "size": 1001,
    }
    assert first == same | {"fresh": "there is no image to build on; --from can name one"}

    assert pushed() == same | {"up_to_date": True, "fresh": None, "uploaded": 0}

    (source / "c").write_text("c")
    edit = pushed()
    uploaded = edit.pop("uploaded")
    assert isinstance(uploaded, int) and 0 < uploaded < 3000
    assert edit == {
        "up_to_date": False,
        "built_on": before,
        "built_on_name": tags[0],
        "built_on_reason": Origin.TAG.value,
        "fresh": None,
        "platforms": ["linux/amd64"],
        "generation": 1,
        "files": 3,
        "size": 1002,
    }


def test_the_files_may_be_in_the_source_directory(
    docker: Docker, registry: Registry, source: Path
) -> None:
    """They are gone while it is read, and do not become a part of what they tell of."""
    tag = registry.repository() + ":v1"
    options = ["--iidfile", str(source / "iid"), "--metadata-file", str(source / "meta")]
    first = docker.push(tag, source, *options)
    assert docker.push(tag, source, *options).image == first.image
    assert sorted(path.name for path in source.iterdir()) == ["a", "b", "iid", "meta"]
    assert (source / "iid").stat().st_mode & 0o777 == 0o644


def test_a_link_to_the_file_stays(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/iid")
    docker.push(registry.repository() + ":v1", source, "--iidfile", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there/iid").read_text().startswith("sha256:")


def test_a_failed_push_leaves_no_digest(docker: Docker, source: Path, tmp_path: Path) -> None:
    (tmp_path / "iid").write_text("sha256:of-an-earlier-push")
    options = ["--iidfile", str(tmp_path / "iid"), "--metadata-file", str(tmp_path / "meta")]
    failed = docker.push("127.0.0.1:9/nobody/there:v1", source, *options)
    assert failed.code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"docker-config", "source"}


def in_no_directory(tmp_path: Path) -> Path:
    return tmp_path / "no" / "file"


def a_directory(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def a_fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


UNWRITABLE = {
    "in no directory": (in_no_directory, "No such file"),
    "a directory": (a_directory, "not a regular file"),
    "a FIFO": (a_fifo, "not a regular file"),
}


@pytest.mark.parametrize("option", ["--iidfile", "--metadata-file", "--provenance"])
@pytest.mark.parametrize(("make", "why"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_file_that_cannot_be_written_stops_the_push_at_once(
    docker: Docker,
    registry: Registry,
    source: Path,
    tmp_path: Path,
    make: Callable[[Path], Path],
    why: str,
    option: str,
) -> None:
    registry.requests()
    path, kept = make(tmp_path), tmp_path / "kept"
    kept.write_text("of an earlier push")
    other = "--iidfile" if option == "--metadata-file" else "--metadata-file"
    failed = docker.push(registry.repository() + ":v1", source, other, str(kept), option, str(path))
    assert failed.code == 1
    assert why in failed.stderr and str(path) in failed.stderr
    assert registry.requests() == []
    assert kept.read_text() == "of an earlier push"
    assert path.exists() == (path.name != "file")


def test_a_standard_stream_is_rejected(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    """/dev/stdout leads to the file of a redirection, which would be removed."""
    output = tmp_path / "output"
    environment = os.environ | {"DOCKER_CONFIG": str(docker.config)}
    tag = registry.repository() + ":v1"
    with output.open("w") as file:
        done = subprocess.run(
            ["docker", "kontext", "push", "-t", tag, "--iidfile", "/dev/stdout", str(source)],
            env=environment,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "is a standard stream of this command" in done.stderr
    assert output.exists()
