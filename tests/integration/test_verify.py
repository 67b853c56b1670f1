"""`docker kontext verify`: what differs between an image, its manifest and a directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from support.services import Docker, Registry
from support.trees import EVERY_KIND

Crane = Callable[..., bytes]

TREE = EVERY_KIND


def test_verify_lists_what_differs(docker: Docker, tag: str, source: Path) -> None:
    verified = docker("kontext", "verify", tag)
    assert (verified.code, verified.stdout) == (0, "The image and its manifest match: 4 files\n")
    assert re.fullmatch(rf"Reading {re.escape(tag)}: 2 layers, [0-9.]+kB\n", verified.stderr)
    (source / "file").write_text("changed")
    (source / "run.sh").chmod(0o644)
    (source / "dir/below").unlink()
    (source / "new\n").touch()
    (source / "left-out").touch()
    (source / ".kontextignore").write_text("left-out\n.kontextignore\n")
    verified = docker("kontext", "verify", tag, str(source))
    assert verified.code == 1
    assert verified.stdout.splitlines() == [
        "missing in DIR: dir/below",
        "other content in DIR: file",
        r"only in DIR: new\n",
        "other mode in DIR: run.sh",
    ]
    verified = docker("kontext", "verify", "--format", "json", tag, str(source))
    assert verified.code == 1
    document = json.loads(verified.stdout)
    assert document["count"] == 4
    assert document["differences"][0] == {"path": "dir/below", "place": "DIR", "what": "missing"}


def test_verify_reads_every_byte(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    (source / "own").write_bytes(os.urandom(500_000))
    image = docker.push(registry.repository(), source).image
    sources = json.loads(crane("manifest", image))["layers"][0]["digest"]
    blob = registry.blob(sources)  # other tests share the extractor's
    content = bytearray(blob.read_bytes())
    content[-50_000] ^= 1
    blob.write_bytes(content)
    assert docker("kontext", "verify", image).code == 1
    assert docker("kontext", "pull", image, str(source / "new")).code == 1
