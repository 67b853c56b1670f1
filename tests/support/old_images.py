"""Publish the images that an older Kontext made (tests/data/old_images)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES = ("first", "generations", "parts", "single", "base")
"""The images of Kontext. tests/data/old_images/README.md says what each one is."""

BASE_IMAGE = "base-image"
"""The image that `base` was pushed with as --base."""

EXTRACTOR_IMAGE = "extractor-image"
"""The base image that the older Kontext shipped for linux/amd64."""

EMPTY_IMAGE = "empty-image"
"""As EXTRACTOR_IMAGE, for --single-layer."""

Node = dict[str, Any]
"""`kind` is file, directory or link. A file has `sha256` and `executable`, a link `target`."""

_DATA = Path(__file__).parents[1] / "data" / "old_images"
_LAYOUT = _DATA / "layout"
_REFERENCE = "org.opencontainers.image.ref.name"


def push_image(
    crane: str,
    name: str,
    repository: str,
    tag: str,
    *,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Publish the image `name` as `repository:tag`, and its ancestors by digest.

    `base` also publishes BASE_IMAGE by digest. `environment` is added to the process's own, for
    example DOCKER_CONFIG.

    Raises subprocess.CalledProcessError if crane fails.
    """
    targets = {
        f"{name}.ancestor.{generation}": f"{repository}@{image}"
        for generation, image in ancestors(name).items()
    }
    if name == "base":
        targets[BASE_IMAGE] = f"{repository}@{digest(BASE_IMAGE)}"
    targets[name] = f"{repository}:{tag}"  # the tag is written last, as by a push
    with tempfile.TemporaryDirectory() as folder:
        for reference, target in targets.items():
            layout = write_layout(reference, Path(folder, reference))
            subprocess.run(
                [crane, "push", str(layout), target],
                env=os.environ | dict(environment or {}),
                stdout=subprocess.DEVNULL,
                check=True,
            )


def tree(name: str) -> dict[str, Node]:
    """Return the sources of the image `name`: a Node for each path."""
    document: dict[str, Node] = json.loads((_DATA / "trees" / f"{name}.json").read_text("utf-8"))
    return document


def tree_on_disk(directory: Path) -> dict[str, Node]:
    """Return what a directory holds, in the form of `tree`."""
    nodes: dict[str, Node] = {}
    for folder, directories, files in os.walk(directory):
        for entry in (*directories, *files):
            path = Path(folder, entry)
            nodes[str(path.relative_to(directory))] = _node(path)
    return nodes


def digest(reference: str) -> str:
    """Return the digest of an image of the layout, as `sha256:…`.

    `reference` is out of NAMES, `NAME.ancestor.GENERATION`, or a constant of this module.
    """
    return str(_descriptors()[reference]["digest"])


def ancestors(name: str) -> dict[int, str]:
    """Return the digests of the image's ancestors by their generation, the oldest first."""
    head = f"{name}.ancestor."
    return {
        int(reference.removeprefix(head)): digest(reference)
        for reference in _descriptors()
        if reference.startswith(head)
    }


def write_layout(reference: str, folder: Path) -> Path:
    """Write an OCI layout of one image, and return its folder, which must not exist.

    The blobs are a link to those of the repository. Do not write there.
    """
    folder.mkdir(parents=True)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [_descriptors()[reference]],
    }
    (folder / "index.json").write_text(json.dumps(index), "utf-8")
    (folder / "oci-layout").write_bytes((_LAYOUT / "oci-layout").read_bytes())
    (folder / "blobs").symlink_to(_LAYOUT / "blobs")
    return folder


def _descriptors() -> dict[str, dict[str, Any]]:
    """Return what index.json says of each image, by its reference."""
    index = json.loads((_LAYOUT / "index.json").read_text("utf-8"))
    return {one["annotations"][_REFERENCE]: one for one in index["manifests"]}


def _node(path: Path) -> Node:
    if path.is_symlink():
        return {"kind": "link", "target": os.readlink(path)}
    if path.is_dir():
        return {"kind": "directory"}
    return {
        "kind": "file",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "executable": bool(path.stat().st_mode & 0o100),
    }
