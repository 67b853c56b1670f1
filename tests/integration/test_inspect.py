"""ls and inspect: what they say of images in a real registry, hostile ones among them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import edits
from support.images import layers, own_base
from support.services import Docker, Registry

Crane = Callable[..., bytes]

TREE = edits.BEFORE


# ls


# inspect


def inspected(docker: Docker, name: str) -> Any:
    return docker("kontext", "inspect", "--format", "json", name).json


def test_inspect_describes_the_image_and_its_layers(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source, "--label", "a=b,c\x1b[2J").image
    edits.edit(source)
    second = docker.push(tag, source, "--label", "a=b,c\x1b[2J").image
    document = inspected(docker, tag)
    blobs = layers(crane, tag)
    roles = ("sources", "delta", "extractor")
    assert document["layers"] == [
        {"digest": digest, "size": registry.blob_size(digest), "role": role}
        for digest, role in zip(blobs, roles, strict=True)
    ]
    assert document["size"] == sum(map(registry.blob_size, blobs))
    assert document["parent"] == first.partition("@")[2]
    assert document["parent_found_at"] == tag
    old = len(b"hello\n" + b"#!/bin/sh\n" + b"old")
    # A header for each of the four that changed, the two that are gone, and the one whiteout.
    assert document["shadowed"] == old + 512 * (4 + 2 + 1)
    expected = {
        "reference": tag,
        "digest": second.partition("@")[2],
        "version": 3,
        "intact": True,
        "generation": 1,
        "platforms": ["linux/amd64"],
        "base": None,
        "base_name": None,
        "extractor": blobs[-1],
        "labels": {"a": "b,c\x1b[2J"},
        "files": 5,
        "links": 2,
        "directories": 2,
        "bytes": 20_000 + 12 + 10 + 29 + 3,
    }
    assert {key: document[key] for key in expected} == expected
    (ancestor,) = document["ancestors"]
    expected = {"digest": first.partition("@")[2], "generation": 0, "layers": 1}
    assert {key: ancestor[key] for key in expected} == expected
    annotations = json.loads(crane("manifest", tag))["annotations"]
    assert document["manifest"] == annotations["dev.kontext.manifest"]

    said = docker("kontext", "inspect", tag)
    assert (said.code, said.stderr) == (0, "")
    said.assert_printable()
    shown = said.stdout
    for text in (tag, *blobs, first.partition("@")[2], "sources", "delta", r"a=b,c\x1b[2J"):
        assert text in shown
    assert "Generation:   1" in shown


def test_inspect_shows_the_layers_of_a_users_base(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    base, tag = own_base(crane, registry, tmp_path), registry.repository()
    docker.push(tag, source, "--base", base)
    document = inspected(docker, tag)
    assert [layer["role"] for layer in document["layers"]] == ["base", "sources", "extractor"]
    assert document["base"] == crane("digest", base).decode().strip()
    assert document["base_name"] == base


def test_inspect_shows_a_single_layer(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository()
    docker.push(tag, source, "--single-layer")
    assert [layer["role"] for layer in inspected(docker, tag)["layers"]] == ["sources"]


# Images of others


def test_inspect_says_if_another_tool_changed_the_layers(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    (source / "new").write_text("new")
    docker.push(tag, source)
    value = json.loads(crane("manifest", tag))["annotations"]["dev.kontext.manifest"]
    paths = []
    for name, digest in (("extractor", layers(crane, tag)[-1]), ("top", layers(crane, tag)[-2])):
        paths += ["-f", str(tmp_path / f"{name}.tar.gz")]
        Path(paths[-1]).write_bytes(crane("blob", f"{tag.removesuffix(':v1')}@{digest}"))
    crane("append", "--oci-empty-base", *paths, "-t", tag)
    settings = ["--set-platform", "linux/amd64", "--annotation", f"dev.kontext.manifest={value}"]
    crane("mutate", tag, *settings, "-t", tag)
    document = inspected(docker, tag)
    assert document["intact"] is False
    assert [layer["role"] for layer in document["layers"]] == [None, None]
    assert "another tool changed the layers" in docker("kontext", "inspect", tag).stdout
