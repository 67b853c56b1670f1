"""Layers that Kontext did not write: of another tool, damaged, or made to do harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

MANIFEST = "var/lib/kontext/manifest.json"
"""The path of the manifest in a layer."""

NO_DIGEST = "sha256:" + "0" * 64

NO_FILES: dict[str, Any] = {
    "version": 3,
    "files": {},
    "sizes": [],
    "executable": [],
    "links": {},
    "generation": 0,
    "content": 0,
    "layers": [],
    "ancestors": [],
    "replacedDirectories": [],
}
"""A manifest that lists nothing."""

OLD: dict[str, Any] = {
    "version": 2,
    "base": NO_DIGEST,
    "extractor": NO_DIGEST,
    "platform": "linux/amd64",
    "labels": {},
}
"""What version 2 of the manifest has in addition."""

ONE_FILE = NO_FILES | {"files": {"file": hashlib.sha256(b"other").hexdigest()}, "sizes": [5]}
"""A manifest that lists one file of 5 bytes."""


def layer(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a gzip layer with one entry."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(archive.getvalue(), mtime=0)


def manifest_layer(**changes: object) -> bytes:
    """Return a gzip layer that holds ONE_FILE with some keys changed, and nothing else."""
    return layer(MANIFEST, json.dumps(ONE_FILE | changes).encode())
