"""Wrong arguments, and images that cannot be built on: a message, and nothing lost."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import documents, exported, layers, sources, uploaded
from support.layers import MANIFEST, OLD, layer, manifest_layer
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
    "of somebody else": (layer("etc/motd", b"hello"), "has no manifest of Kontext's"),
    "no gzip": (b"plain bytes, and no layer at all" * 100, "damaged"),
    "empty layer": (gzip.compress(b""), "damaged"),
    "broken JSON": (layer(MANIFEST, b'{"version": 2,'), "not JSON"),
    "no object": (layer(MANIFEST, b"[]"), "no JSON object"),
    "nested deeply": (layer(MANIFEST, b"[" * 200_000), "not JSON"),
    "unknown version": (manifest_layer(version=4), "unknown version 4"),
    "version of another type": (manifest_layer(version="2"), "unknown version 2"),
    "keys missing": (layer(MANIFEST, b'{"version": 3}'), "required property"),
    "keys of version 2 missing": (manifest_layer(version=2), "required property"),
    "wrong type": (manifest_layer(files=[]), "files"),
    "hash of another kind": (
        manifest_layer(files={"file": "0" * 63}),
        "a hash that is not a SHA-256",
    ),
    "path above": (manifest_layer(files={"../file": "0" * 64}), "'../file'"),
    "path above, in version 2": (
        manifest_layer(**OLD, files={"../file": "0" * 64}),
        "'../file'",
    ),
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


@pytest.fixture
def tag(docker: Docker, registry: Registry, source: Path) -> str:
    """A tag that shows the source directory, in blobs that no other repository has."""
    name = registry.repository() + ":v1"
    (source / "own").write_text(name)
    assert docker.push(name, source).image
    return name


def set_aside(tag: str, crane: Crane, folder: Path) -> str:
    """Write the layer with the manifest into a file; return its path."""
    blob = crane("blob", f"{tag.rpartition(':')[0]}@{sources(crane, tag)[-1]}")
    path = folder / "top.tar.gz"
    path.write_bytes(blob)
    return str(path)


def test_layers_changed_by_another_tool_start_fresh(
    docker: Docker, crane: Crane, source: Path, tag: str, tmp_path: Path
) -> None:
    """The manifest names layers that the image does not have."""
    (source / "new").write_text("new\n")
    docker.push(tag, source)
    top = set_aside(tag, crane, tmp_path)
    (tmp_path / "other.tar.gz").write_bytes(layer("etc/motd", b"hello"))
    value = json.loads(crane("manifest", tag))["annotations"]["dev.kontext.manifest"]
    files = ["-f", str(tmp_path / "other.tar.gz"), "-f", top]
    crane("append", "--oci-empty-base", *files, "-t", tag)
    crane("mutate", tag, "--annotation", f"dev.kontext.manifest={value}", "-t", tag)
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    pushed = docker.push(tag, source)
    assert "Starting fresh: another tool changed the image's layers" in pushed.stderr
    assert exported(crane, tag) == on_disk(source)


def test_a_layer_on_top_of_the_extractor_starts_fresh(
    docker: Docker, crane: Crane, source: Path, tag: str, tmp_path: Path
) -> None:
    (tmp_path / "other.tar.gz").write_bytes(layer("var/run/kontext/file", b"theirs"))
    crane("mutate", tag, "--append", str(tmp_path / "other.tar.gz"), "-t", tag)
    pushed = docker.push(tag, source)
    assert "has no manifest of Kontext's" in pushed.stderr
    assert exported(crane, tag) == on_disk(source)


def test_layers_of_sources_gone_from_the_registry_start_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str
) -> None:
    lose(registry, tag, sources(crane, tag)[-1])
    (source / "new").write_text("new\n")
    pushed = docker.push(tag, source)
    assert pushed.image
    assert "Starting fresh: layers of the image are gone from the registry" in pushed.stderr
    assert exported(crane, tag) == on_disk(source)


def test_an_extractor_that_is_gone_from_the_registry_is_uploaded_again(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str
) -> None:
    *below, extractor = layers(crane, tag)
    lose(registry, tag, extractor)
    (source / "new").write_text("new\n")
    registry.requests()
    pushed = docker.push(tag, source)
    assert pushed.image
    assert "Starting fresh" not in pushed.stderr
    *after, new, top = layers(crane, tag)
    assert (after, top) == (below, extractor)
    assert uploaded(registry.requests()) == {new, extractor, *documents(crane, tag)}
    assert exported(crane, tag) == on_disk(source)


def lose(registry: Registry, tag: str, digest: str) -> None:
    """Remove a blob from the registry's files, and its link in the tag's repository."""
    registry.blob(digest).unlink(missing_ok=True)
    repository = tag.partition("/")[2].partition(":")[0]
    links = registry.data / f"docker/registry/v2/repositories/{repository}/_layers"
    (links / digest.replace(":", "/") / "link").unlink()


CHANGES = {
    "entrypoint": ["--entrypoint", "/bin/false"],
    "command": ["--cmd", "/elsewhere"],
    "user": ["--user", "4711"],
    "environment": ["--env", "A=b"],
    "working directory": ["--workdir", "/nowhere"],
    "label": ["--label", "x=y"],
    "annotation": ["--annotation", "a=b"],
    "platform": ["--set-platform", "linux/arm64"],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_configuration_changed_by_another_tool_is_put_right(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str, change: list[str]
) -> None:
    """Nothing of a configuration is taken over, and no sources are uploaded again."""
    first, before = crane("digest", tag), sources(crane, tag)
    crane("mutate", tag, *change, "-t", tag)
    registry.requests()
    pushed = docker.push(tag, source, "--platform", "linux/amd64")
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    assert crane("digest", tag) == first
    assert not uploaded(registry.requests()) & set(before)


def test_a_damaged_top_layer_starts_fresh(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str, tmp_path: Path
) -> None:
    blob = registry.blob(sources(crane, tag)[-1])
    blob.write_bytes(blob.read_bytes()[:60])
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    pushed = docker.push(tag, source)
    assert "Starting fresh: a part of the image is damaged in the registry" in pushed.stderr
