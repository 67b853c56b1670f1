"""Publish the images that an older Kontext made (tests/data/old_images)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kontext_plugin.image.oci import digest_of

Crane = Callable[..., bytes]

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


def rewrite(crane: Crane, tag: str, folder: Path, base: str = "") -> list[str]:
    """Make the image under a tag of version 2, and return its layers of sources, lowest first.

    Kontext at commit 236e661 would have made it: the extractor lies below the sources, and the
    manifest numbers all layers. `base` is the user's base, REPOSITORY@DIGEST. `folder` is empty.
    """
    repository = tag.rpartition(":")[0]
    image, config = json.loads(crane("manifest", tag)), json.loads(crane("config", tag))
    extractor = _layers(digest(EXTRACTOR_IMAGE))[0]
    count = len(json.loads(crane("manifest", base))["layers"]) if base else 0
    digests = [layer["digest"] for layer in image["layers"]]
    below, sources = [*digests[:count], extractor], digests[count:-1]
    blobs = [crane("blob", f"{repository}@{one}") for one in (*digests[:count], *sources)]
    blobs.insert(count, (_LAYOUT / "blobs" / extractor.replace(":", "/")).read_bytes())

    def lowered(document: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest with its layers counted from the base's."""
        height = len(below)
        for ancestor in document["ancestors"]:
            ancestor["layers"] += height
            if "undoLayer" in ancestor:
                ancestor["undoLayer"] += height
        if "partLayers" in document:
            document["partLayers"] = [layer + height for layer in document["partLayers"]]
        return document | {
            "version": 2,
            "base": base.partition("@")[2] or digest(EXTRACTOR_IMAGE),
            "extractor": digest(EXTRACTOR_IMAGE),
            "platform": "linux/amd64",
            "labels": config["config"].get("Labels") or {},
            "layers": [*below, *document["layers"]],
        }

    archive, content = io.BytesIO(), b""
    with (
        tarfile.open(fileobj=io.BytesIO(blobs[-1])) as old,
        tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for entry in old:
            file = old.extractfile(entry)
            data = file.read() if file else b""
            if entry.name.endswith("kontext/manifest.json"):
                document = lowered(json.loads(data))
                data = content = json.dumps(
                    document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
                ).encode()
                entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    blobs[-1] = gzip.compress(archive.getvalue(), 1, mtime=0)

    files = []
    for number, blob in enumerate(blobs):
        (folder / f"{number}.tar.gz").write_bytes(blob)
        files += ["-f", str(folder / f"{number}.tar.gz")]
    crane("append", "--oci-empty-base", *files, "-t", tag)
    settings = ["--entrypoint", "/kontext-extractor", "--workdir", "/workspace"]
    settings += ["--set-platform", "linux/amd64"]
    settings += [f"--annotation=dev.kontext.manifest={digest_of(content)}"]
    crane("mutate", tag, *settings, "-t", tag)
    return [digest_of(blob) for blob in blobs[len(below) :]]


def _layers(image: str) -> list[str]:
    """Return the layers of an image of the layout."""
    document = json.loads((_LAYOUT / "blobs" / image.replace(":", "/")).read_text("utf-8"))
    return [layer["digest"] for layer in document["layers"]]


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
