"""What a registry has of an image, and what was asked of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

from support.services import Request
from support.trees import Tree, in_archive

Crane = Callable[..., bytes]

NO_FILES: dict[str, object] = {
    "version": 2,
    "files": {},
    "sizes": [],
    "executable": [],
    "links": {},
    "base": "sha256:" + "0" * 64,
    "extractor": "sha256:" + "0" * 64,
    "platform": "linux/amd64",
    "generation": 0,
    "content": 0,
    "layers": [],
    "ancestors": [],
    "labels": {},
    "replacedDirectories": [],
}
"""A manifest that lists nothing."""


def exported(crane: Crane, image: str) -> Tree:
    return in_archive(io.BytesIO(crane("export", image, "-")))


def layers(crane: Crane, image: str) -> list[str]:
    return [layer["digest"] for layer in json.loads(crane("manifest", image))["layers"]]


def uploaded(requests: list[Request]) -> set[str]:
    return {digest for request in requests if (digest := request.uploaded)}


def writes(requests: list[Request]) -> list[Request]:
    return [request for request in requests if request.method not in ("GET", "HEAD")]
