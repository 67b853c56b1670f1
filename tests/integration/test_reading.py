"""ls and inspect: what they say of images in a real registry, hostile ones among them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.images import layers
from support.services import Docker, Registry, Result
from support.trees import PROGRAM, Directory, File, Link, Tree, on_disk, plant, remove
from test_bad_input import MANIFEST, layer, manifest
from test_base import own_base

Crane = Callable[..., bytes]

HOSTILE = "\x1b[2J\x1b[31mred\nD everything"
TREE: Tree = PROGRAM | {
    "old": Directory(),
    "old/file": File(b"old"),
    HOSTILE: File(b""),
    "ballast": File(os.urandom(20_000)),
}


def edit(source: Path) -> None:
    """One of each kind: content, mode, target, kind; added and removed."""
    plant(
        source,
        {
            "README": File(b"hello again\n"),
            "run.sh": File(b"#!/bin/sh\n"),
            "src/link.c": Link("elsewhere"),
            "new/file": File(b"new"),
            HOSTILE: Link("README"),
        },
    )
    remove(source / "old")


def harmless(said: Result) -> None:
    assert said.stdout.replace("\n", "").isprintable()
    assert said.stderr.replace("\n", "").isprintable()
    assert "Traceback" not in said.stderr


def as_json(said: Result) -> Any:
    assert said.code == 0, said.stderr
    return json.loads(said.stdout)


# ls


def listed(tree: Tree) -> list[dict[str, Any]]:
    """What `ls --format json` must say of a tree."""
    items = []
    for path, node in sorted(tree.items()):
        item = {"path": path, "kind": type(node).__name__.lower()}
        item |= dict.fromkeys(("size", "executable", "target", "digest"))
        if isinstance(node, File):
            digest = hashlib.sha256(node.content).hexdigest()
            item |= {"size": len(node.content), "executable": node.executable}
            item |= {"digest": f"sha256:{digest}"}
        elif isinstance(node, Link):
            item |= {"target": node.target}
        items.append(item)
    return items


def test_ls_lists_what_was_pushed(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    edit(source)
    image = docker.push(tag, source).image
    tree = on_disk(source)
    for name in (tag, image):
        said = docker("kontext", "ls", "--format", "json", name)
        assert as_json(said) == listed(tree)
        harmless(said)
    said = docker("kontext", "ls", tag)
    harmless(said)
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout == (
        "lrwxrwxrwx     - \\x1b[2J\\x1b[31mred\\nD everything -> README\n"
        "-rw-r--r--    12 README\n"
        "-rw-r--r-- 20000 ballast\n"
        "drwxr-xr-x     - new\n"
        "-rw-r--r--     3 new/file\n"
        "-rw-r--r--    10 run.sh\n"
        "drwxr-xr-x     - src\n"
        "lrwxrwxrwx     - src/link.c -> elsewhere\n"
        "-rw-r--r--    29 src/main.c\n"
    )
    assert docker("kontext", "ls", tag, "new/").stdout == "-rw-r--r-- 3 new/file\n"
    assert as_json(docker("kontext", "ls", tag, "README", "--format=json")) == listed(
        {"README": tree["README"]}
    )


def test_ls_of_what_is_not_there(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    said = docker("kontext", "ls", tag, "no\x1b[2J/such")
    assert (said.code, said.stdout) == (1, "")
    assert f"{tag} has no 'no\\x1b[2J/such'" in said.stderr
    harmless(said)
    said = docker("kontext", "ls", registry.repository())
    assert (said.code, said.stdout) == (1, "")
    assert "was not found" in said.stderr
    assert docker("kontext", "ls").code == 125
    assert docker("kontext", "ls", tag + "@sha256:beef").code == 125


def test_a_reader_of_ls_may_leave(
    docker: Docker, registry: Registry, root: Path, tmp_path: Path
) -> None:
    plant(tmp_path / "many", {f"{name:050}": File(b"") for name in range(4000)})
    tag = registry.repository()
    docker.push(tag, tmp_path / "many")
    process = subprocess.Popen(
        [root / "kontext_plugin" / "docker-kontext", "kontext", "ls", tag],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().endswith(b"0000\n")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


# inspect


def inspected(docker: Docker, name: str) -> Any:
    return as_json(docker("kontext", "inspect", "--format", "json", name))


def test_inspect(docker: Docker, registry: Registry, crane: Crane, source: Path) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source, "--label", "a=b,c\x1b[2J").image
    edit(source)
    second = docker.push(tag, source, "--label", "a=b,c\x1b[2J").image
    document = inspected(docker, tag)
    blobs = layers(crane, tag)
    roles = ("base", "sources", "delta")
    assert document["layers"] == [
        {"digest": digest, "size": registry.blob_size(digest), "role": role}
        for digest, role in zip(blobs, roles, strict=True)
    ]
    assert document["size"] == sum(map(registry.blob_size, blobs))
    old = len(b"hello\n" + b"#!/bin/sh\n" + b"old")
    # A header for each of the four that changed, the two that are gone, and the one whiteout.
    assert document["shadowed"] == old + 512 * (4 + 2 + 1)
    expected = {
        "reference": tag,
        "digest": second.partition("@")[2],
        "version": 2,
        "intact": True,
        "generation": 1,
        "platform": "linux/amd64",
        "base": document["extractor"],
        "labels": {"a": "b,c\x1b[2J"},
        "files": 5,
        "links": 2,
        "directories": 2,
        "bytes": 20_000 + 12 + 10 + 29 + 3,
        "ancestors": [{"digest": first.partition("@")[2], "generation": 0, "layers": 2}],
    }
    assert {key: document[key] for key in expected} == expected
    annotations = json.loads(crane("manifest", tag))["annotations"]
    assert document["manifest"] == annotations["dev.kontext.manifest"]

    said = docker("kontext", "inspect", tag)
    assert (said.code, said.stderr) == (0, "")
    harmless(said)
    shown = said.stdout
    for text in (tag, *blobs, first.partition("@")[2], "sources", "delta", r"a=b,c\x1b[2J"):
        assert text in shown
    assert "Generation:    1" in shown


def test_inspect_upon_a_users_base(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    base, tag = own_base(crane, registry, tmp_path), registry.repository()
    docker.push(tag, source, "--base", base)
    document = inspected(docker, tag)
    assert [layer["role"] for layer in document["layers"]] == ["base", "base", "sources"]
    assert document["base"] == crane("digest", base).decode().strip()


def test_inspect_a_single_layer(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository()
    docker.push(tag, source, "--single-layer")
    assert [layer["role"] for layer in inspected(docker, tag)["layers"]] == ["sources"]


# Images of others


@pytest.fixture
def put(docker: Docker, registry: Registry, crane: Crane, tmp_path: Path) -> Callable[..., str]:
    """Publishes an image of one layer, that nothing vouches for."""

    def put(blob: bytes) -> str:
        tag = registry.repository() + ":v1"
        (tmp_path / "layer.tar.gz").write_bytes(blob)
        crane("append", "--oci-empty-base", "-f", str(tmp_path / "layer.tar.gz"), "-t", tag)
        return tag

    return put


def test_the_prototypes_images(docker: Docker, put: Callable[..., str]) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    files = {".": "", "d": "", "d/\x1b[2J": digest}
    tag = put(layer("/" + MANIFEST, json.dumps({"files": files}).encode()))
    said = docker("kontext", "ls", tag)
    assert said.stdout == "drwxr-xr-x - d\n-rwxr-xr-x - d/\\x1b[2J\n"
    document = inspected(docker, tag)
    assert document["version"] == 1
    assert (document["files"], document["directories"], document["bytes"]) == (1, 1, None)
    assert [layer["role"] for layer in document["layers"]] == [None]
    said = docker("kontext", "inspect", tag)
    assert "2018 prototype" in said.stdout and "1 file, 1 directory" in said.stdout


NOT_OURS = {
    "of somebody else": (layer("etc/motd", b"hello"), "does not begin with a manifest"),
    "escape sequences": (manifest(version="\x1b[31mred\x07"), "unknown version"),
    "a path above": (manifest(files={"../file\x1b[2J": "0" * 64}), r"../file\x1b[2J"),
    "nothing vouches": (manifest(), "lost the annotation"),
}


@pytest.mark.parametrize(("blob", "why"), NOT_OURS.values(), ids=NOT_OURS)
@pytest.mark.parametrize("command", ["ls", "inspect"])
def test_an_image_that_is_not_ours(
    docker: Docker, put: Callable[..., str], command: str, blob: bytes, why: str
) -> None:
    tag = put(blob)
    said = docker("kontext", command, tag)
    assert (said.code, said.stdout) == (1, "")
    assert f"{tag} is not an image of Kontext's" in said.stderr
    assert why in said.stderr
    harmless(said)


def test_inspect_tells_of_layers_that_another_tool_has_changed(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    top = json.loads(crane("manifest", tag))
    (tmp_path / "top.tar.gz").write_bytes(
        crane("blob", f"{tag.removesuffix(':v1')}@{top['layers'][-1]['digest']}")
    )
    crane("append", "--oci-empty-base", "-f", str(tmp_path / "top.tar.gz"), "-t", tag)
    annotation = "=".join(next(iter(top["annotations"].items())))
    settings = ["--set-platform", "linux/amd64", "--annotation", annotation]
    crane("mutate", tag, *settings, "-t", tag)
    document = inspected(docker, tag)
    assert document["intact"] is False
    assert [layer["role"] for layer in document["layers"]] == [None]
    assert "another tool has changed the layers" in docker("kontext", "inspect", tag).stdout
