"""Manifests that lie about their parts: a push starts fresh, and says why."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.images import exported
from support.layers import NO_FILES
from support.services import Docker
from support.trees import File, Tree, on_disk

Crane = Callable[..., bytes]

TREE: Tree = {f"f{number:03}": File(b"%d" % number) for number in range(100)}


def document(**changes: Any) -> bytes:
    return json.dumps(NO_FILES | changes).encode()


def part(**files: str) -> bytes:
    listed = {"files": files, "sizes": [1 for _ in files], "executable": [], "links": {}}
    return json.dumps(listed, sort_keys=True, separators=(",", ":")).encode()


def hexed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def layer(**documents: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in documents.items():
            folder = "parts/" if name != "manifest" else ""
            entry = tarfile.TarInfo(f"var/lib/kontext/{folder}{name.removeprefix('_')}.json")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        archive.addfile(tarfile.TarInfo("end"))
    return stream.getvalue()


def lying(listed: bytes, number: int = 0) -> bytes:
    """A layer with a manifest of one part, and that part."""
    name = hexed(listed)
    root = document(parts=[name], partLayers=[number])
    return layer(manifest=root, **{f"_{name}": listed})


CLIMBS = part(**{"../a": "0" * 64})


LIES = {
    "no such part": (layer(manifest=document(parts=["a" * 64], partLayers=[0])), "is missing"),
    "another layer": (lying(part(a="0" * 64), 1), "a layer that it does not have"),
    "far above": (lying(part(a="0" * 64), 2**62), "a layer that it does not have"),
    "of other content": (
        layer(manifest=document(parts=["a" * 64], partLayers=[0]), **{"_" + "a" * 64: b"{}"}),
        "a part of its manifest is damaged",
    ),
    "no JSON": (lying(b"{"), "not JSON"),
    "no listing": (lying(b"{}"), "required property"),
    "nested deeply": (lying(b"[" * 100_000), "not JSON"),
    "columns of another shape": (
        lying(b'{"files":[],"sizes":0,"executable":0,"links":0}'),
        "files",
    ),
    "a path above": (lying(CLIMBS), "it lists the path '../a'"),
    "cut elsewhere": (lying(part(a="0" * 64)), "not those of its tree"),
    "not canonical": (lying(part(a="0" * 64) + b" "), "is not canonical"),
    "another key": (lying(part().replace(b"{", b'{"Files":{},', 1)), "Additional properties"),
    "twice": (layer(manifest=document(parts=["a" * 64] * 2, partLayers=[0, 0])), "a part twice"),
    "a name that climbs": (
        layer(manifest=document(parts=["../" + "a" * 61], partLayers=[0])),
        "does not match",
    ),
}


@pytest.mark.parametrize(("blob", "why"), LIES.values(), ids=LIES)
def test_false_parts_start_fresh(
    docker: Docker,
    crane: Crane,
    source: Path,
    publish_layer: Callable[[bytes], str],
    blob: bytes,
    why: str,
) -> None:
    tag = publish_layer(blob)
    pushed = docker.push(tag, source)
    assert "Starting fresh: " in pushed.stderr and why in pushed.stderr, pushed.stderr
    assert exported(crane, tag) == on_disk(source)
