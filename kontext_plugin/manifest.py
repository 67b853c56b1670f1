"""The manifest of an image's sources: what /var/run/kontext holds, and what it was built on.

Version 1 is the 2018 prototype's `{"files": {PATH: SHA-256 or ""}}`; version 2 keeps that map and
adds the rest. A large tree's listing is in parts, files of their own, so that a delta carries only
those that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from kontext_plugin.image import Digest
from kontext_plugin.listing import (
    InvalidManifest,
    canonical,
    check_counts,
    check_paths,
    check_tree,
    columns,
    former_of,
    joined,
    paths_of,
    tree_of,
)
from kontext_plugin.tree import DIRECTORY, Tree, Undo, is_utf8

SOURCES = "var/run/kontext"
MANIFEST = "var/lib/kontext/manifest.json"
"""Where an image has its sources and their manifest, below its root."""

_PARTS = "var/lib/kontext/parts/"

VERSION = 2
MAX_BYTES = 64 * 1024 * 1024
"""Of the manifest and all its parts together: some 400,000 files."""

MAX_READ = 2 * MAX_BYTES
"""With the parts that are out of date, and lie before the others."""

MAX_VALUES = 4 * 1024 * 1024
"""In all that is read: 400,000 files make some 1,200,000."""


@dataclass(frozen=True)
class Part:
    """A piece of the manifest in a file of its own: of the listing, or an ancestor's undo."""

    begin: str  # of the paths that it lists: up to the next part's
    digest: Digest
    layer: int  # which layer has it; 0 is the image's lowest

    @property
    def name(self) -> str:
        """The file's, below the image's root."""
        return part_name(self.digest)


def part_name(digest: Digest) -> str:
    return f"{_PARTS}{digest.removeprefix('sha256:')}.json"


def is_document(name: str) -> bool:
    """Whether a file of an image is a manifest or a part of one."""
    return name == MANIFEST or name.startswith(_PARTS)


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
    stored: Part | None = None  # what has the undo, if manifest.json does not


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
    parts: tuple[Part, ...] = ()  # in the order of their paths; none: manifest.json lists the tree


def encode(manifest: Manifest) -> bytes:
    """manifest.json of version 2, as canonical JSON. Needs a lineage."""
    lineage, parts = manifest.lineage, manifest.parts
    if lineage is None:
        raise ValueError("a version 1 manifest is only ever read")
    document: dict[str, Any] = {
        "version": VERSION,
        **columns(Tree() if parts else manifest.tree),
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
    if parts:
        document["parts"] = [part.digest.removeprefix("sha256:") for part in parts]
        document["partLayers"] = [part.layer for part in parts]
    return canonical(document)


def _encode_ancestor(ancestor: Ancestor) -> dict[str, Any]:
    if stored := ancestor.stored:
        undo = {"undoPart": stored.digest.removeprefix("sha256:"), "undoLayer": stored.layer}
    else:
        undo = {"undo": undo_columns(ancestor.undo)}
    return undo | {
        "image": ancestor.image,
        "layers": ancestor.layers,
        "generation": ancestor.generation,
        "content": ancestor.content,
        "replacedDirectories": sorted(ancestor.replaced_directories),
    }


def undo_columns(undo: Undo) -> dict[str, Any]:
    former = columns(undo.former)
    del former["sizes"]
    return former | {"absent": sorted(undo.absent)}


def parts_of(document: Mapping[str, Any]) -> tuple[Part, ...]:
    """The parts that a document names which has passed its schema; where they begin is not said.

    Raises InvalidManifest.
    """
    digests, layers = document.get("parts", ()), document.get("partLayers", ())
    check_counts(layers)
    if len(digests) != len(layers) or len(digests) != len(set(digests)):
        raise InvalidManifest("it lists a part twice, or not where it is")
    if digests and any(document[column] for column in columns(Tree())):
        raise InvalidManifest("it lists paths beside its parts")
    return tuple(
        Part("", Digest(f"sha256:{digest}"), layer)
        for digest, layer in zip(digests, layers, strict=True)
    )


def undo_parts_of(document: Mapping[str, Any]) -> tuple[Part, ...]:
    """As `parts_of`: what has the undos of ancestors that the document does not have itself."""
    stored = [_stored(ancestor) for ancestor in document.get("ancestors", ())]
    return tuple(part for part in stored if part)


def _stored(ancestor: Mapping[str, Any]) -> Part | None:
    if ("undo" in ancestor) == ("undoPart" in ancestor) or (
        ("undoPart" in ancestor) != ("undoLayer" in ancestor)
    ):
        raise InvalidManifest("it does not say, or says twice, what an ancestor was")
    if "undo" in ancestor:
        return None
    check_counts((ancestor["undoLayer"],))
    return Part("", Digest(f"sha256:{ancestor['undoPart']}"), ancestor["undoLayer"])


def decode(
    document: Mapping[str, Any],
    parts: Iterable[Mapping[str, Any]] = (),
    undos: Mapping[Digest, Mapping[str, Any]] = MappingProxyType({}),
) -> Manifest:
    """The manifest of a document that has passed its version's schema, and of its parts.

    These have passed theirs; `undos` has the content of each of `undo_parts_of`.

    Raises InvalidManifest for what a schema cannot say: unsafe paths and contradictions.
    """
    if "version" not in document:
        decoded = _version_1(document)
    elif document.get("parts"):
        tree, begun = joined([tree_of(part) for part in parts])
        decoded = restore(document, undos, tree, begun)
    else:
        decoded = restore(document, undos)
    check_tree(decoded.tree)
    if decoded.lineage is not None:
        _check_lineage(decoded.lineage)
    return decoded


def restore(
    document: Mapping[str, Any],
    undos: Mapping[Digest, Mapping[str, Any]],
    tree: Tree | None = None,
    begun: Sequence[str] = (),
) -> Manifest:
    """`decode` for a version 2 that was decoded before and has stayed in our own hands.

    If it has parts, `tree` is theirs, and `begun` says where each begins.
    """
    lineage = Lineage(
        base=Digest(document["base"]),
        extractor=Digest(document["extractor"]),
        platform=document["platform"],
        generation=document["generation"],
        content=document["content"],
        layers=tuple(Digest(layer) for layer in document["layers"]),
        ancestors=tuple(_ancestor(ancestor, undos) for ancestor in document["ancestors"]),
        labels=document["labels"],
        replaced_directories=paths_of(document["replacedDirectories"]),
    )
    parts = tuple(
        replace(part, begin=begin) for part, begin in zip(parts_of(document), begun, strict=True)
    )
    return Manifest(tree_of(document) if tree is None else tree, lineage, parts)


def _ancestor(document: Mapping[str, Any], undos: Mapping[Digest, Mapping[str, Any]]) -> Ancestor:
    stored = _stored(document)
    undo = undos[stored.digest] if stored else document["undo"]
    return Ancestor(
        image=Digest(document["image"]),
        layers=document["layers"],
        generation=document["generation"],
        content=document["content"],
        replaced_directories=paths_of(document["replacedDirectories"]),
        undo=Undo(former_of(undo), paths_of(undo["absent"])),
        stored=stored,
    )


def _version_1(document: Mapping[str, Any]) -> Manifest:
    # The prototype lists the directory itself as "."; every mode it wrote is 0555.
    files = {path: digest for path, digest in document.get("files", {}).items() if path != "."}
    executable = [path for path, digest in files.items() if digest != DIRECTORY]
    sizes = [0] * len(executable)
    return Manifest(
        tree_of({"files": files, "sizes": sizes, "executable": executable, "links": {}}), None
    )


def _check_lineage(lineage: Lineage) -> None:
    """Raises InvalidManifest for unsafe paths, and for ancestors that are none of this image."""
    check_paths(lineage.replaced_directories)
    check_counts((lineage.generation, lineage.content))
    if not is_utf8("".join((*lineage.labels, *lineage.labels.values()))):
        raise InvalidManifest("it lists a label that is no UTF-8")
    below = 0
    for ancestor in lineage.ancestors:
        former, absent = ancestor.undo.former, ancestor.undo.absent
        paths = ancestor.undo.paths()
        check_paths(ancestor.replaced_directories | paths)
        check_counts((ancestor.layers, ancestor.generation, ancestor.content))
        if len(paths) != len(former.files) + len(former.links) + len(absent):
            raise InvalidManifest("it says two things of what a path was")
        if not below < ancestor.layers <= len(lineage.layers):
            raise InvalidManifest("it lists ancestors that have not its layers")
        below = ancestor.layers
