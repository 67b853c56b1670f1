"""`ls` and `inspect` of images that this version of Kontext did not make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
from support.layers import MANIFEST, layer, manifest_layer
from support.services import Docker

Crane = Callable[..., bytes]


def test_images_of_the_prototype_are_shown(
    docker: Docker, publish_layer: Callable[[bytes], str]
) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    files = {".": "", "d": "", "d/\x1b[2J": digest}
    tag = publish_layer(layer("/" + MANIFEST, json.dumps({"files": files}).encode()))
    said = docker("kontext", "ls", "-lR", tag)
    assert said.stdout == "drwxr-xr-x - d/\n-rwxr-xr-x - d/\\x1b[2J\n"
    document = docker("kontext", "inspect", "--format", "json", tag).json
    assert document["version"] == 1
    assert (document["files"], document["directories"], document["bytes"]) == (1, 1, None)
    assert [layer["role"] for layer in document["layers"]] == [None]
    said = docker("kontext", "inspect", tag)
    assert "2018 prototype" in said.stdout and "1 file, 1 directory" in said.stdout


NOT_OURS = {
    "of somebody else": (layer("etc/motd", b"hello"), "has no manifest of Kontext's"),
    "escape sequences": (manifest_layer(version="\x1b[31mred\x07"), "unknown version"),
    "a path above": (manifest_layer(files={"../file\x1b[2J": "0" * 64}), r"../file\x1b[2J"),
    "nothing vouches": (manifest_layer(), "lost the annotation"),
}


@pytest.mark.parametrize(("blob", "why"), NOT_OURS.values(), ids=NOT_OURS)
@pytest.mark.parametrize("command", ["ls", "inspect"])
def test_an_image_without_a_valid_manifest_is_an_error(
    docker: Docker, publish_layer: Callable[[bytes], str], command: str, blob: bytes, why: str
) -> None:
    tag = publish_layer(blob)
    said = docker("kontext", command, tag)
    assert (said.code, said.stdout) == (1, "")
    assert f"{tag} is not an image of Kontext's" in said.stderr
    assert why in said.stderr
    said.assert_printable()
