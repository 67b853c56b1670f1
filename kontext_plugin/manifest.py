"""The manifest of an image's sources: what /var/run/kontext holds, and what it was built on.

Version 1 is the 2018 prototype's `{"files": {PATH: SHA-256 or ""}}`; version 2 keeps that map and
adds the rest. The JSON is canonical (sorted keys, UTF-8, no spaces): one state, one digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kontext_plugin.image import Digest
from kontext_plugin.tree import DIRECTORY, Tree, Undo, is_utf8

SOURCES = "var/run/kontext"
MANIFEST = "var/lib/kontext/manifest.json"
"""Where an image has its sources and their manifest, below its root."""

VERSION = 2
MAX_BYTES = 64 * 1024 * 1024
"""Neither written nor read above this size: some 400,000 files."""

# An empty, `.` or `..` component (so a leading, trailing or double slash too), a NUL, a
# whiteout's name, or what is no Unicode.
_UNSAFE = re.compile(r"(?:\A|/)(?:\.{0,2}(?:/|\Z)|\.wh\.)|\0|[\ud800-\udfff]")


@dataclass(frozen=True)
class Ancestor:
    """An earlier image that has the lower layers of ours: a push may build on it instead.

    How its tree differs is written down here, so that no machine has to read its manifest.
    """

    image: Digest
    layers: int  # how many of our lowest layers it has, the base's among them
    generation: int
    content: int  # as in Lineage
    replaced_directories: frozenset[str]  # as in Lineage
    undo: Undo  # the way back to its tree, from that of the next ancestor or, at last, from ours


@dataclass(frozen=True)
class Lineage:
    """How an image came to be: what a later push must know to build on it."""

    base: Digest  # the image below every layer of ours
    extractor: Digest  # the shipped base image whose extractor runs
    platform: str
    generation: int = 0  # how many pushes there were since the first layer was written
    content: int = 0  # uncompressed bytes that all its layers hold of sources (diff.layer_bytes)
    layers: tuple[Digest, ...] = ()  # all the layers below the one that holds this manifest
    ancestors: tuple[Ancestor, ...] = ()  # from the fewest layers to the most
    labels: Mapping[str, str] = field(default_factory=dict)
    # Directories of lower layers that a file or link has replaced since. `crane export` shows
    # their old children again if they come back as directories, so they must not.
    replaced_directories: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Manifest:
    tree: Tree
    lineage: Lineage | None  # None: version 1


class InvalidManifest(ValueError):
    """A manifest that cannot be trusted; the text says why."""


def encode(manifest: Manifest) -> bytes:
    """Version 2 as canonical JSON. Needs a lineage."""
    tree, lineage = manifest.tree, manifest.lineage
    if lineage is None:
        raise ValueError("a version 1 manifest is only ever read")
    document = {
        "version": VERSION,
        "files": dict(tree.files),
        # In the order of the sorted paths of the regular files: a second map of paths would
        # make the manifest half as large again.
        "sizes": [tree.sizes[path] for path in sorted(tree.sizes)],
        "executable": sorted(tree.executable),
        "links": dict(tree.links),
        "base": lineage.base,
        "extractor": lineage.extractor,
        "platform": lineage.platform,
        "generation": lineage.generation,
        "content": lineage.content,
        "layers": list(lineage.layers),
        "ancestors": [_encode_ancestor(ancestor) for ancestor in lineage.ancestors],
        "labels": dict(lineage.labels),
        "replacedDirectories": sorted(lineage.replaced_directories),
    }
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _encode_ancestor(ancestor: Ancestor) -> dict[str, Any]:
    former = ancestor.undo.former
    return {
        "image": ancestor.image,
        "layers": ancestor.layers,
        "generation": ancestor.generation,
        "content": ancestor.content,
        "replacedDirectories": sorted(ancestor.replaced_directories),
        "undo": {
            "files": dict(former.files),
            "executable": sorted(former.executable),
            "links": dict(former.links),
            "absent": sorted(ancestor.undo.absent),
        },
    }


def decode(document: Mapping[str, Any]) -> Manifest:
    """The manifest of a document that has passed its version's schema.

    Raises InvalidManifest for what a schema cannot say: unsafe paths and contradictions.
    """
    decoded = restore(document)
    _check(decoded.tree)
    if decoded.lineage is not None:
        _check_lineage(decoded.lineage)
    return decoded


def restore(document: Mapping[str, Any]) -> Manifest:
    """`decode` for a document that was decoded once before and has stayed in our own hands."""
    if "version" not in document:
        return _version_1(document)
    files: dict[str, str] = document["files"]
    links: dict[str, str] = document["links"]
    regular = sorted(path for path, digest in files.items() if digest != DIRECTORY)
    if len(regular) != len(document["sizes"]):
        raise InvalidManifest("it lists another number of sizes than of files")
    tree = Tree(
        files=files,
        sizes=dict(zip(regular, document["sizes"], strict=True)),
        executable=frozenset(document["executable"]),
        links=links,
    )
    lineage = Lineage(
        base=Digest(document["base"]),
        extractor=Digest(document["extractor"]),
        platform=document["platform"],
        generation=document["generation"],
        content=document["content"],
        layers=tuple(Digest(layer) for layer in document["layers"]),
        ancestors=tuple(_ancestor(ancestor) for ancestor in document["ancestors"]),
        labels=document["labels"],
        replaced_directories=frozenset(document["replacedDirectories"]),
    )
    return Manifest(tree, lineage)


def _ancestor(document: Mapping[str, Any]) -> Ancestor:
    undo = document["undo"]
    former = Tree(undo["files"], {}, frozenset(undo["executable"]), undo["links"])
    return Ancestor(
        image=Digest(document["image"]),
        layers=document["layers"],
        generation=document["generation"],
        content=document["content"],
        replaced_directories=frozenset(document["replacedDirectories"]),
        undo=Undo(former, frozenset(undo["absent"])),
    )


def _version_1(document: Mapping[str, Any]) -> Manifest:
    # The prototype lists the directory itself as "."; every mode it wrote is 0555.
    files = {path: digest for path, digest in document.get("files", {}).items() if path != "."}
    executable = frozenset(path for path, digest in files.items() if digest != DIRECTORY)
    return Manifest(Tree(files, dict.fromkeys(executable, 0), executable), None)


def _check(tree: Tree) -> None:
    """Raises InvalidManifest unless every path is safe, has its parents, and is one thing only."""
    paths = tree.paths()
    _check_paths(paths)
    if len(paths) != len(tree.files) + len(tree.links):
        raise InvalidManifest("it lists a path both as a file and as a link")
    _check_integers(0, *tree.sizes.values())
    _check_values(tree)
    for parent in {path.rpartition("/")[0] for path in paths}:
        if parent and not tree.is_directory(parent):
            raise InvalidManifest(f"{parent!r} has entries below it and is no directory")


def _check_values(tree: Tree) -> None:
    if "\n" in tree.files.values():  # which JSON Schema's $ allows
        raise InvalidManifest("it lists a hash that is none")
    if not all(tree.files.get(path) for path in tree.executable):
        raise InvalidManifest("it lists as executable what is no file")
    if not is_utf8("".join(tree.links.values())):
        raise InvalidManifest("it lists a link to what is no UTF-8")


def _check_lineage(lineage: Lineage) -> None:
    """Raises InvalidManifest for unsafe paths, and for ancestors that are none of this image."""
    _check_paths(lineage.replaced_directories)
    _check_integers(lineage.generation, lineage.content)
    below = 0
    for ancestor in lineage.ancestors:
        former, absent = ancestor.undo.former, ancestor.undo.absent
        paths = ancestor.undo.paths()
        _check_paths(ancestor.replaced_directories | paths)
        _check_integers(ancestor.layers, ancestor.generation, ancestor.content)
        _check_values(former)
        if len(paths) != len(former.files) + len(former.links) + len(absent):
            raise InvalidManifest("it says two things of what a path was")
        if not below < ancestor.layers <= len(lineage.layers):
            raise InvalidManifest("it lists ancestors that have not its layers")
        below = ancestor.layers


def _check_integers(*values: object) -> None:
    # 1.0 is an integer to JSON Schema.
    if {type(value) for value in values} != {int}:
        raise InvalidManifest("it lists a number that is no integer")


def _check_paths(paths: Iterable[str]) -> None:
    for path in paths:
        if _UNSAFE.search(path):
            raise InvalidManifest(f"it lists the path {path!r}")
