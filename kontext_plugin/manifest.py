"""A tree as the columns of a JSON document, and where a large tree's listing is cut. Pure.

It is cut before each path whose hash says so. So the cuts depend on the paths alone, an edit
changes one piece, and paths of one directory mostly share it. Between two such paths, the anchors,
lies a stretch, which is cut further where it is long.

The manifest of an image's sources: what /var/run/kontext holds, and what it was built on.

Version 1 is the 2018 prototype's `{"files": {PATH: SHA-256 or ""}}`; version 2 keeps that map and
adds the rest. A large tree's listing is in parts, files of their own, so that a delta carries only
those that changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from kontext_plugin.errors import brief
from kontext_plugin.image.chunking import boundaries, is_small, segments, split_segment
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.tree import DIRECTORY, ReverseDelta, Tree, is_utf8

_LARGEST = 2**63 - 1

_HEX = re.compile(r"[0-9a-f]*")

# An empty, `.` or `..` component (so a leading, trailing or double slash too), a NUL, a
# whiteout's name, or what is no Unicode.
_UNSAFE = re.compile(r"(?:\A|/)(?:\.{0,2}(?:/|\Z)|\.wh\.)|\0|[\ud800-\udfff]")


class InvalidManifest(ValueError):
    """A manifest that cannot be trusted; the text says why."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, in UTF-8, without spaces: one state, one digest."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def columns(tree: Tree) -> dict[str, Any]:
    return {
        "files": dict(tree.files),
        # In the order of the sorted paths of the regular files: a second map of paths would
        # make the listing half as large again.
        "sizes": [tree.sizes[path] for path in sorted(tree.sizes)],
        "executable": sorted(tree.executable),
        "links": dict(tree.links),
    }


def exceeds(tree: Tree, limit: int) -> bool:
    """Whether the whole listing takes more bytes; a quick bound mostly spares making it."""
    text = "".join((*tree.files, *tree.links, *tree.links.values(), *tree.executable))
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    entries = len(tree.files) + len(tree.links) + len(tree.executable)
    most = len(text) * (1 if plain else 6) + 100 * entries  # a digest, a size, punctuation
    return most > limit and len(canonical(columns(tree))) > limit


def tree_of(listed: Mapping[str, Any]) -> Tree:
    """The tree that has these columns, which are of the schema's outer shape.

    Raises InvalidManifest where a value is not of the schema: jsonschema takes tens of
    microseconds for each. The paths remain unchecked: `check_tree` does that.
    """
    files, links, sizes = listed["files"], listed["links"], listed["sizes"]
    executable = paths_of(listed["executable"])
    _check_digests(files.values())
    _check_targets(links.values())
    check_counts(sizes)
    if not all(files.get(path) for path in executable):
        raise InvalidManifest("it lists as executable what is no file")
    regular = sorted(path for path, digest in files.items() if digest != DIRECTORY)
    if len(regular) != len(sizes):
        raise InvalidManifest("it lists another number of sizes than of files")
    return Tree(files, dict(zip(regular, sizes, strict=True)), executable, links)


def former_of(listed: Mapping[str, Any]) -> Tree:
    """`tree_of` for what a tree was, of which no sizes are listed."""
    some = [0 for digest in listed["files"].values() if digest != DIRECTORY]
    return tree_of({**listed, "sizes": some}).without_sizes()


def paths_of(listed: Sequence[Any]) -> frozenset[str]:
    """A list of different strings as a set. Raises InvalidManifest for anything else."""
    if not set(map(type, listed)) <= {str} or len(found := frozenset(listed)) != len(listed):
        raise InvalidManifest("it lists a path twice, or what is no path")
    return found


def check_counts(values: Collection[Any]) -> None:
    """Raises InvalidManifest. 1.0 is an integer to JSON Schema, and to nobody else."""
    if not set(map(type, values)) <= {int} or (
        values and not 0 <= min(values) <= max(values) <= _LARGEST
    ):
        raise InvalidManifest("it lists a number that is no integer")


def _check_digests(values: Collection[Any]) -> None:
    if not set(map(type, values)) <= {str} or not (
        set(map(len, values)) <= {0, 64} and _HEX.fullmatch("".join(values))
    ):
        raise InvalidManifest("it lists a hash that is none")


def _check_targets(values: Collection[Any]) -> None:
    if not set(map(type, values)) <= {str} or "" in values:
        raise InvalidManifest("it lists a link to nothing")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise InvalidManifest("it lists a link to what is no UTF-8") from None


def check_tree(tree: Tree) -> None:
    """Raises InvalidManifest unless every path is safe, has its parents, and is one thing only."""
    paths = tree.paths()
    check_paths(paths)
    if len(paths) != len(tree.files) + len(tree.links):
        raise InvalidManifest("it lists a path both as a file and as a link")
    for parent in {path.rpartition("/")[0] for path in paths}:
        if parent and not tree.is_directory(parent):
            raise InvalidManifest(f"{brief(repr(parent))} has entries below it and is no directory")


def check_paths(paths: Iterable[str]) -> None:
    """Raises InvalidManifest unless they lie where they seem to."""
    for path in paths:
        if _UNSAFE.search(path):
            raise InvalidManifest(f"it lists the path {brief(repr(path))}")


def join_parts(trees: Sequence[Tree]) -> tuple[Tree, list[str]]:
    """The whole of a tree's pieces, and where each begins.

    Raises InvalidManifest if the tree is cut elsewhere.
    """
    whole = Tree(
        files={path: digest for tree in trees for path, digest in tree.files.items()},
        sizes={path: size for tree in trees for path, size in tree.sizes.items()},
        executable=frozenset().union(*(tree.executable for tree in trees)),
        links={path: target for tree in trees for path, target in tree.links.items()},
    )
    starts = boundaries(whole)
    pieces = [
        piece
        for start, paths in zip(starts, segments(whole, starts, range(len(starts))), strict=True)
        for piece in split_segment(start, paths)
    ]
    if is_small(whole) or [set(paths) for _, paths in pieces] != [tree.paths() for tree in trees]:
        raise InvalidManifest("its parts are not those of its tree")
    return whole, [begin for begin, _ in pieces]


SOURCES_PATH = "var/run/kontext"

MANIFEST_PATH = "var/lib/kontext/manifest.json"
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
    return name == MANIFEST_PATH or name.startswith(_PARTS)


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
    undo: ReverseDelta  # leads to its tree from the next ancestor's, or from ours
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
        undo = {"undo": reverse_columns(ancestor.undo)}
    return undo | {
        "image": ancestor.image,
        "layers": ancestor.layers,
        "generation": ancestor.generation,
        "content": ancestor.content,
        "replacedDirectories": sorted(ancestor.replaced_directories),
    }


def reverse_columns(undo: ReverseDelta) -> dict[str, Any]:
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


def reverse_parts_of(document: Mapping[str, Any]) -> tuple[Part, ...]:
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
        tree, begun = join_parts([tree_of(part) for part in parts])
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
        ancestors=tuple(_decode_ancestor(ancestor, undos) for ancestor in document["ancestors"]),
        labels=document["labels"],
        replaced_directories=paths_of(document["replacedDirectories"]),
    )
    parts = tuple(
        replace(part, begin=begin) for part, begin in zip(parts_of(document), begun, strict=True)
    )
    return Manifest(tree_of(document) if tree is None else tree, lineage, parts)


def _decode_ancestor(
    document: Mapping[str, Any], undos: Mapping[Digest, Mapping[str, Any]]
) -> Ancestor:
    stored = _stored(document)
    undo = undos[stored.digest] if stored else document["undo"]
    return Ancestor(
        image=Digest(document["image"]),
        layers=document["layers"],
        generation=document["generation"],
        content=document["content"],
        replaced_directories=paths_of(document["replacedDirectories"]),
        undo=ReverseDelta(former_of(undo), paths_of(undo["absent"])),
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
