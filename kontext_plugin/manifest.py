"""The manifest of an image's sources: what /var/run/kontext holds, and what it was built on.

Version 1 is the 2018 prototype's `{"files": {PATH: SHA-256 or ""}}`; version 2 keeps that map and
adds the rest. The JSON is canonical (sorted keys, UTF-8, no spaces): one state, one digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kontext_plugin.image import Digest

SOURCES = "var/run/kontext"
MANIFEST = "var/lib/kontext/manifest.json"
"""Where an image has its sources and their manifest, below its root."""

VERSION = 2
MAX_BYTES = 64 * 1024 * 1024
"""Neither written nor read above this size: some 400,000 files."""

DIRECTORY = ""
"""Stands in `files` where a regular file has its SHA-256."""

Kind = Literal["file", "directory", "link"]

WHITEOUT = ".wh."
"""Begins the name that hides a lower layer's entry (OCI image specification, layer.md)."""

# An empty, `.` or `..` component (so a leading, trailing or double slash too), a NUL, a
# whiteout's name, or what is no Unicode.
_UNSAFE = re.compile(r"(?:\A|/)(?:\.{0,2}(?:/|\Z)|\.wh\.)|\0|[\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """One path of a tree, put together for whoever looks at a single one."""

    path: str
    kind: Kind
    digest: str = ""  # of a regular file: lower-case hex SHA-256
    size: int = 0  # of a regular file, in bytes
    executable: bool = False
    target: str = ""  # of a symbolic link, as it is stored


@dataclass(frozen=True)
class Tree:
    """A directory's content, in columns: sets and maps compare 100,000 paths at C's speed.

    Paths are relative, `/`-separated, and every parent directory is listed.
    """

    files: Mapping[str, str] = field(default_factory=dict)  # hex SHA-256, or DIRECTORY
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the regular files, in bytes
    executable: frozenset[str] = frozenset()
    links: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, path: object) -> bool:
        return path in self.files or path in self.links

    def paths(self) -> set[str]:
        return self.files.keys() | self.links.keys()

    def is_directory(self, path: str) -> bool:
        return self.files.get(path) == DIRECTORY

    def directories(self) -> set[str]:
        return {path for path, digest in self.files.items() if digest == DIRECTORY}

    def entry(self, path: str) -> Entry:
        """Raises KeyError where there is no such path."""
        if path in self.links:
            return Entry(path, "link", target=self.links[path])
        digest = self.files[path]
        if digest == DIRECTORY:
            return Entry(path, "directory")
        return Entry(path, "file", digest, self.sizes.get(path, 0), path in self.executable)

    @property
    def file_count(self) -> int:
        """How many regular files and links there are: what a person calls files."""
        return len(self.sizes) + len(self.links)

    @property
    def size(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Lineage:
    """How an image came to be: what a later push must know to build on it."""

    base: Digest  # the image below every layer of ours
    extractor: Digest  # the shipped base image whose extractor runs
    platform: str
    generation: int = 0  # how many deltas lie above the first layer
    layers: tuple[Digest, ...] = ()  # all the layers below the one that holds this manifest
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


def is_utf8(name: str) -> bool:
    """Whether a name from the system was UTF-8 (elsewhere Python puts in lone surrogates)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
        "layers": list(lineage.layers),
        "labels": dict(lineage.labels),
        "replacedDirectories": sorted(lineage.replaced_directories),
    }
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def decode(document: Mapping[str, Any]) -> Manifest:
    """The manifest of a document that has passed its version's schema.

    Raises InvalidManifest for what a schema cannot say: unsafe paths and contradictions.
    """
    decoded = restore(document)
    _check(decoded.tree)
    if decoded.lineage is not None:
        _check_paths(decoded.lineage.replaced_directories)
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
        layers=tuple(Digest(layer) for layer in document["layers"]),
        labels=document["labels"],
        replaced_directories=frozenset(document["replacedDirectories"]),
    )
    return Manifest(tree, lineage)


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
    # What JSON Schema lets pass: 1.0 is an integer to it, and its $ allows a line end.
    if {type(size) for size in tree.sizes.values()} - {int} or "\n" in tree.files.values():
        raise InvalidManifest("it lists a size or a hash that is none")
    if not tree.executable <= tree.sizes.keys():
        raise InvalidManifest("it lists as executable what is no file")
    for parent in {path.rpartition("/")[0] for path in paths}:
        if parent and not tree.is_directory(parent):
            raise InvalidManifest(f"{parent!r} has entries below it and is no directory")


def _check_paths(paths: Iterable[str]) -> None:
    for path in paths:
        if _UNSAFE.search(path):
            raise InvalidManifest(f"it lists the path {path!r}")
