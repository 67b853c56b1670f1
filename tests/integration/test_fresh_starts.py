"""Wrong arguments, and images that cannot be built on: a message, and nothing lost."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.layers import MANIFEST, layer, manifest_layer
from support.services import Docker, Registry
from support.trees import File, Tree, in_archive, on_disk

Crane = Callable[..., bytes]
TREE: Tree = {"file": File(b"content\n")}


def huge() -> bytes:
    """Claims a manifest of 8 GiB, and goes on with zeros."""
    entry = tarfile.TarInfo(MANIFEST)
    entry.size = 8**11 - 1
    return gzip.compress(entry.tobuf() + bytes(1 << 20), mtime=0)


ANCESTOR = {
    "image": "sha256:" + "0" * 64,
    "layers": 1,
    "generation": 0,
    "content": 0,
    "replacedDirectories": [],
    "undo": {"files": {}, "executable": [], "links": {}, "absent": ["../file"]},
}

IMAGES = {
    "of somebody else": (layer("etc/motd", b"hello"), "does not start with a manifest"),
    "no gzip": (b"plain bytes, and no layer at all" * 100, "damaged"),
    "empty layer": (gzip.compress(b""), "damaged"),
    "broken JSON": (layer(MANIFEST, b'{"version": 2,'), "not JSON"),
    "no object": (layer(MANIFEST, b"[]"), "no JSON object"),
    "nested deeply": (layer(MANIFEST, b"[" * 200_000), "not JSON"),
    "unknown version": (manifest_layer(version=3), "unknown version 3"),
    "version of another type": (manifest_layer(version="2"), "unknown version 2"),
    "keys missing": (layer(MANIFEST, b'{"version": 2}'), "required property"),
    "wrong type": (manifest_layer(files=[]), "files"),
    "hash of another kind": (
        manifest_layer(files={"file": "0" * 63}),
        "a hash that is not a SHA-256",
    ),
    "path above": (manifest_layer(files={"../file": "0" * 64}), "'../file'"),
    "path above, within": (manifest_layer(files={"a/../../file": "0" * 64}), "'a/../../file'"),
    "absolute path": (manifest_layer(files={"/etc/passwd": "0" * 64}), "'/etc/passwd'"),
    "whiteout": (manifest_layer(files={".wh.file": "0" * 64}), "'.wh.file'"),
    "link above": (manifest_layer(files={}, sizes=[], links={"../l": "t"}), "'../l'"),
    "ancestor's path above": (
        manifest_layer(layers=["sha256:" + "0" * 64], ancestors=[ANCESTOR]),
        "'../file'",
    ),
    "ancestor of other layers": (
        manifest_layer(ancestors=[ANCESTOR | {"undo": ANCESTOR["undo"] | {"absent": []}}]),
        "an ancestor that does not have its layers",
    ),
    "parent missing": (manifest_layer(files={"a/b": "0" * 64}), "'a' has entries below it"),
    "sizes missing": (manifest_layer(sizes=[]), "number of sizes"),
    "escape sequences": (manifest_layer(version="\x1b[31mred\x07"), "unknown version"),
    "huge": (huge(), "too large to be read"),
    "version 1": (layer("/" + MANIFEST, b'{"files": {"file": ""}}'), "2018 prototype"),
    "valid, without the annotation": (manifest_layer(), "lost the annotation"),
}


@pytest.mark.parametrize(("blob", "why"), IMAGES.values(), ids=IMAGES)
def test_an_invalid_manifest_starts_fresh(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    tmp_path: Path,
    blob: bytes,
    why: str,
) -> None:
    tag = registry.repository() + ":v1"
    path = tmp_path / "layer.tar.gz"
    path.write_bytes(blob)
    crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
    pushed = docker.push(tag, source)
    assert pushed.image
    assert "Starting fresh: " in pushed.stderr
    assert why in pushed.stderr
    assert "Traceback" not in pushed.stderr
    assert "\x1b" not in pushed.stderr
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == TREE


def test_a_manifest_that_the_annotation_does_not_name_starts_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    path = tmp_path / "layer.tar.gz"
    path.write_bytes(manifest_layer())
    crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
    crane("mutate", tag, "--annotation", f"dev.kontext.manifest=sha256:{'1' * 64}", "-t", tag)
    pushed = docker.push(tag, source)
    assert "not the one that the image names" in pushed.stderr
    assert pushed.image


def test_layers_changed_by_another_tool_start_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """Its manifest tells of layers that are not the image's: it may not be believed."""
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    top = json.loads(crane("manifest", tag))
    blob = crane("blob", f"{tag}@{top['layers'][-1]['digest']}".replace(":v1@", "@"))
    path = tmp_path / "top.tar.gz"
    path.write_bytes(blob)
    annotation = next(iter(top["annotations"].items()))
    crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
    crane("mutate", tag, "--annotation", "=".join(annotation), "-t", tag)
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    pushed = docker.push(tag, source)
    assert "another tool changed the image's layers" in pushed.stderr
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == TREE


def test_an_index_under_the_tag_starts_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    repository = registry.repository()
    images = [
        docker.push(f"{repository}:{name}", source, "--platform", f"linux/{name}").image
        for name in ("amd64", "arm64")
    ]
    crane("index", "append", "-m", images[0], "-m", images[1], "-t", f"{repository}:all")
    pushed = docker.push(f"{repository}:all", source)
    assert "index of several platforms" in pushed.stderr
    assert pushed.image == images[0]


def test_layers_gone_from_the_registry_start_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    (source / "own").write_text(tag)  # all repositories of a registry share their blobs
    docker.push(tag, source)
    digest = json.loads(crane("manifest", tag))["layers"][-1]["digest"]
    registry.blob(digest).unlink()
    repository = tag.partition("/")[2].partition(":")[0]
    layers = registry.data / f"docker/registry/v2/repositories/{repository}/_layers"
    (layers / digest.replace(":", "/") / "link").unlink()
    (source / "new").write_text("new\n")
    pushed = docker.push(tag, source)
    assert pushed.image
    assert "gone from the registry" in pushed.stderr
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == on_disk(source)


CHANGES = {
    "entrypoint": ["--entrypoint", "/bin/false"],
    "command": ["--cmd", "/elsewhere"],
    "user": ["--user", "4711"],
    "environment": ["--env", "A=b"],
    "working directory": ["--workdir", "/nowhere"],
    "label": ["--label", "x=y"],
    "platform": ["--set-platform", "linux/arm64"],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_configuration_changed_by_another_tool_starts_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path, change: list[str]
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    crane("mutate", tag, *change, "-t", tag)
    pushed = docker.push(tag, source)
    assert "another tool changed the image's configuration" in pushed.stderr
    assert pushed.image == first.image


def test_a_damaged_top_layer_starts_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    (source / "own").write_text(tag)  # all repositories of a registry share their blobs
    docker.push(tag, source)
    digest = json.loads(crane("manifest", tag))["layers"][-1]["digest"]
    blob = registry.blob(digest)
    blob.write_bytes(blob.read_bytes()[:60])
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    pushed = docker.push(tag, source)
    assert "Starting fresh: a part of the image is damaged in the registry" in pushed.stderr
