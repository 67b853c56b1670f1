"""The manifest: what an image holds and what it was built on, encoded, decoded, checked.

`/var/lib/kontext/manifest.json` describes all sources of an image (docs/format.md). The listing of
a large tree is in parts, files of their own, so a delta carries only the parts that changed.
Version 1 is the 2018 prototype's `{"files": {PATH: SHA-256 or ""}}`. Version 2 also says which
base, extractor, platform and labels the image has, and counts the base's layers. These two are
only read.
Version 3 says nothing that depends on these, so all platforms share the layer that holds it.

One function judges whether bytes from outside are a valid manifest: `decode`, upon what
`read_root` has read. Both raise InvalidManifest and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from kontext_plugin.errors import brief
from kontext_plugin.image.chunking import SMALL, cut, is_boundary
from kontext_plugin.image.listing import (
    Chunk,
    ListedTree,
    canonical,
    chunk_of,
    columns,
    tree_of,
    tree_of_chunks,
)
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.tree import DIRECTORY, WHITEOUT, ReverseDelta, Tree, is_utf8
from kontext_plugin.runtime.schema import (
    MANIFEST_PART,
    MANIFEST_REVERSE_DELTA,
    InvalidDocument,
    load_document,
    load_manifest,
)

MANIFEST_PATH = "var/lib/kontext/manifest.json"
"""Where an image has their manifest, below its root."""

_PARTS_PATH = "var/lib/kontext/parts/"

VERSION = 3

MAX_BYTES = 320 * 1024 * 1024
"""Bytes of the manifest and all its parts together: some 2,000,000 files."""

MAX_DOCUMENT = 64 * 1024 * 1024
"""Bytes of manifest.json, or of a part."""

MAX_READ = 2 * MAX_BYTES
"""Bytes that are read of an image: obsolete parts lie before the current ones."""

_MAX_VALUES = 4 * 1024 * 1024
"""JSON values of manifest.json, of all reverse deltas together, and of a chunk of the listing."""

_MAX_PATHS = 4_000_000
"""Paths of a listing in parts: their parents are held in memory."""

_MAX_COUNT = 2**63 - 1
_MAX_PATH, _MAX_NAME = 4095, 255  # bytes
_CHECKED_AT_ONCE = 1024  # paths: as text of one piece they are checked five times as fast

_HEX = re.compile(r"[0-9a-f]*")

_SEPARATOR = "/\0/"  # no path has a NUL

_UNSAFE = ("//", "/./", "/../", f"/{WHITEOUT}")
"""No path, with a slash before and after it, contains one of these: `//` has an empty name."""


class InvalidManifest(ValueError):
    """A manifest that cannot be trusted; the text says why."""


# --- What a manifest says ---


@dataclass(frozen=True)
class Part:
    """A piece of the manifest in a file of its own: a chunk of the listing, or a reverse delta."""

    start: str  # the first path of its chunk, which ends where the next part's starts
    digest: Digest
    layer: int  # the layer of sources that has the file; 0 is the lowest

    @property
    def name(self) -> str:
        """The name of the file, below the image's root."""
        return part_name(self.digest)


def part_name(digest: Digest) -> str:
    """Return the name of the part with this digest, below the image's root."""
    return f"{_PARTS_PATH}{digest.removeprefix('sha256:')}.json"


def is_document(name: str) -> bool:
    """Whether a file of an image is manifest.json or a part."""
    return name == MANIFEST_PATH or name.startswith(_PARTS_PATH)


@dataclass(frozen=True)
class Ancestor:
    """An earlier image with the lowest layers of sources of this one. A push may build on it.

    The manifest says how its tree differs, so nobody has to read the ancestor's own manifest.
    """

    image: Digest  # of the image, or of the index that it was in
    layers: int  # the number of layers of sources that it has
    generation: int
    content: int  # as in Lineage
    replaced_directories: frozenset[str]  # as in Lineage
    # Leads to its tree from that of the next ancestor, or from this image's. None: not fetched.
    reverse_delta: ReverseDelta | None
    part: Part | None = None  # the part that has the reverse delta; None: manifest.json has it
    created: str = ""  # as its configuration says (RFC 3339)
    revision: str = ""  # the git commit that its label names


@dataclass(frozen=True)
class Lineage:
    """How an image came about: what a later push must know to build on it."""

    generation: int = 0  # the number of pushes since the first layer of sources
    content: int = 0  # uncompressed bytes of sources in all its layers (delta.layer_bytes)
    layers: tuple[Digest, ...] = ()  # layers of sources below the one that holds this manifest
    ancestors: tuple[Ancestor, ...] = ()  # from the fewest layers to the most
    # Directories of lower layers that a file or link has replaced since. `crane export` shows
    # their old children again if they come back as directories, so they must not.
    replaced_directories: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Manifest:
    """All that a manifest and its parts say."""

    tree: Tree
    lineage: Lineage | None  # None: version 1
    parts: tuple[Part, ...] = ()  # sorted by path; (): manifest.json lists the tree itself
    version: int = VERSION


# --- Encoding ---


def reverse_columns(reverse_delta: ReverseDelta) -> dict[str, Any]:
    """Return a reverse delta as the columns of the manifest's `undo`."""
    former = columns(reverse_delta.former)
    del former["sizes"]
    return former | {"absent": sorted(reverse_delta.absent)}


def encode(manifest: Manifest) -> bytes:
    """Return manifest.json, version 3, as canonical JSON. The manifest must have a lineage."""
    lineage, parts = manifest.lineage, manifest.parts
    if lineage is None:
        raise ValueError("a version 1 manifest is only read")
    document: dict[str, Any] = {
        "version": VERSION,
        **columns(Tree() if parts else manifest.tree),
        "generation": lineage.generation,
        "content": lineage.content,
        "layers": list(lineage.layers),
        "ancestors": [_encode_ancestor(ancestor) for ancestor in lineage.ancestors],
        "replacedDirectories": sorted(lineage.replaced_directories),
    }
    if parts:
        document["parts"] = [part.digest.removeprefix("sha256:") for part in parts]
        document["partLayers"] = [part.layer for part in parts]
    return canonical(document)


def _encode_ancestor(ancestor: Ancestor) -> dict[str, Any]:
    if part := ancestor.part:
        reverse = {"undoPart": part.digest.removeprefix("sha256:"), "undoLayer": part.layer}
    else:
        reverse = {"undo": reverse_columns(ancestor.reverse_delta or ReverseDelta())}
    named = {"created": ancestor.created, "revision": ancestor.revision}
    return {
        **reverse,
        **{key: value for key, value in named.items() if value},
        "image": ancestor.image,
        "layers": ancestor.layers,
        "generation": ancestor.generation,
        "content": ancestor.content,
        "replacedDirectories": sorted(ancestor.replaced_directories),
    }


# --- Decoding ---


@dataclass(frozen=True)
class Root:
    """manifest.json itself, and the parts that it names."""

    document: Mapping[str, Any]
    listing: tuple[Part, ...]  # chunks of the listing, in order; their `start` is not known yet
    reverse_deltas: tuple[Part, ...]

    @property
    def version(self) -> int:
        """The version of the format."""
        return int(self.document.get("version", 1))


def read_root(content: bytes) -> Root:
    """Read manifest.json by the schema of its version. Raises InvalidManifest."""
    _check_values(content)
    try:
        document = load_manifest(content)
    except InvalidDocument as error:
        raise InvalidManifest(str(error)) from error
    parts = (_ancestor_part(ancestor) for ancestor in document.get("ancestors", ()))
    return Root(document, _listing_parts(document), tuple(part for part in parts if part))


def decode(root: Root, parts: dict[Digest, bytes]) -> Manifest:
    """Return the manifest of a root and its parts, with everything checked. Empties `parts`.

    `parts` has all of `root.listing`. Ancestors whose reverse delta is in a part that is not there
    get none. Raises InvalidManifest.
    """
    _check_values(
        b"".join(parts[part.digest] for part in root.reverse_deltas if part.digest in parts)
    )
    reverse = {
        part.digest: _load_part(part, parts, MANIFEST_REVERSE_DELTA)[0]
        for part in root.reverse_deltas
        if part.digest in parts
    }
    if "version" not in root.document:
        manifest = _decode_version_1(root.document)
    elif root.listing:
        loaded = (_load_part(part, parts, MANIFEST_PART) for part in root.listing)
        tree = _join_chunks((decode_tree(listing), content) for listing, content in loaded)
        manifest = restore(root.document, reverse, tree)
    else:
        manifest = restore(root.document, reverse)
    if not root.listing:
        _check_tree(manifest.tree)
    if manifest.lineage is not None:
        _check_lineage(manifest.lineage)
    return replace(manifest, version=root.version)


def restore(
    document: Mapping[str, Any],
    reverse: Mapping[Digest, Mapping[str, Any]],
    tree: ListedTree | None = None,
) -> Manifest:
    """Return a manifest of version 2 or 3 that was checked before.

    `reverse` has reverse deltas by the digests of their parts. If the listing is in parts, `tree`
    is what they list: its chunks are the parts.
    """
    lineage = Lineage(
        generation=document["generation"],
        content=document["content"],
        layers=tuple(Digest(layer) for layer in document["layers"]),
        ancestors=tuple(_decode_ancestor(ancestor, reverse) for ancestor in document["ancestors"]),
        replaced_directories=_decode_paths(document["replacedDirectories"]),
    )
    parts = tuple(
        replace(part, start=chunk.start)
        for part, chunk in zip(_listing_parts(document), tree.chunks if tree else (), strict=True)
    )
    return Manifest(decode_tree(document) if tree is None else tree, lineage, parts)


def without_base(manifest: Manifest, height: int) -> Manifest:
    """Return a version 2 manifest in the numbers of version 3: the base has `height` layers.

    Raises InvalidManifest for a part in one of these.
    """
    lineage = manifest.lineage
    if lineage is None or not height:
        return manifest

    def above(part: Part) -> Part:
        if part.layer < height:
            raise InvalidManifest("it lists a part in a layer of its base")
        return replace(part, layer=part.layer - height)

    ancestors = tuple(
        replace(
            ancestor,
            layers=ancestor.layers - height,
            part=above(ancestor.part) if ancestor.part else None,
        )
        for ancestor in lineage.ancestors
        if ancestor.layers > height
    )
    lowered = replace(lineage, layers=lineage.layers[height:], ancestors=ancestors)
    return replace(manifest, lineage=lowered, parts=tuple(map(above, manifest.parts)))


def decode_tree(listing: Mapping[str, Any]) -> Tree:
    """Return the tree of a listing, whose columns have passed the outer shape of their schema.

    Checks the values here: jsonschema takes tens of microseconds for each. The paths remain
    unchecked. Raises InvalidManifest.
    """
    files, links, sizes = listing["files"], listing["links"], listing["sizes"]
    executable = _decode_paths(listing["executable"])
    _check_digests(files.values())
    _check_targets(links.values())
    _check_counts(sizes)
    if not all(files.get(path) for path in executable):
        raise InvalidManifest("it lists as executable what is not a file")
    if sum(digest != DIRECTORY for digest in files.values()) != len(sizes):
        raise InvalidManifest("it lists another number of sizes than of files")
    return tree_of({**listing, "executable": executable})


def _listing_parts(document: Mapping[str, Any]) -> tuple[Part, ...]:
    digests, layers = document.get("parts", ()), document.get("partLayers", ())
    _check_counts(layers)
    if len(digests) != len(layers) or len(digests) != len(set(digests)):
        raise InvalidManifest("it lists a part twice, or not its layer")
    if digests and any(document[column] for column in columns(Tree())):
        raise InvalidManifest("it lists paths beside its parts")
    return tuple(
        Part("", Digest(f"sha256:{digest}"), layer)
        for digest, layer in zip(digests, layers, strict=True)
    )


def _ancestor_part(ancestor: Mapping[str, Any]) -> Part | None:
    if ("undo" in ancestor) == ("undoPart" in ancestor) or (
        ("undoPart" in ancestor) != ("undoLayer" in ancestor)
    ):
        raise InvalidManifest("it does not say, or says twice, how an ancestor differs")
    if "undo" in ancestor:
        return None
    _check_counts((ancestor["undoLayer"],))
    return Part("", Digest(f"sha256:{ancestor['undoPart']}"), ancestor["undoLayer"])


def _load_part(
    part: Part, parts: dict[Digest, bytes], schema: str
) -> tuple[Mapping[str, Any], bytes]:
    """Return a part, parsed and as it is. Later images take it over, so it must be canonical."""
    content = parts.pop(part.digest, None)
    if content is None:
        raise InvalidManifest("a part of its manifest is missing")
    if digest_of(content) != part.digest:
        raise InvalidManifest("a part of its manifest is damaged")
    _check_values(content)
    try:
        document = load_document(content, schema)
    except InvalidDocument as error:
        raise InvalidManifest(str(error)) from error
    if schema == MANIFEST_PART and canonical(document) != content:
        raise InvalidManifest("a part of its manifest is not canonical")
    return document, content


def _join_chunks(loaded: Iterable[tuple[Tree, bytes]]) -> ListedTree:
    """Return the tree of all chunks, each given with its document, and check it as a whole.

    One chunk at a time is decoded. Raises InvalidManifest, also if image.chunking would cut the
    tree elsewhere.
    """
    chunks: list[Chunk] = []
    segment: list[list[str]] = []  # the paths of its chunks
    first, last, count = "", "", 0
    directories: set[str] = set()
    above = {""}  # directories that must be there
    for tree, content in loaded:
        paths = _checked_paths(tree)
        start = paths[0] if paths and chunks else ""
        if chunks and start <= last:
            raise InvalidManifest(_OTHER_PARTS)
        if chunks and is_boundary(start):
            _check_segment(first, segment)
            first, segment = start, []
        segment.append(paths)
        chunks.append(chunk_of(start, tree, content))
        last, count = (paths or [last])[-1], count + len(paths)
        if count > _MAX_PATHS:
            raise InvalidManifest("its manifest is too large to be read")
        directories |= tree.directories()
        above.update(path.rpartition("/")[0] for path in paths)
    _check_segment(first, segment)
    if count <= SMALL:
        raise InvalidManifest(_OTHER_PARTS)
    _check_parents(above, directories)
    return tree_of_chunks(chunks)


_OTHER_PARTS = "its parts are not those of its tree"


def _check_segment(start: str, chunks: list[list[str]]) -> None:
    """Its chunks are those that image.chunking makes of its paths."""
    paths = [path for chunk in chunks for path in chunk]
    if [[*some] for _, some in cut(paths, start)] != chunks:
        raise InvalidManifest(_OTHER_PARTS)


def _decode_ancestor(
    document: Mapping[str, Any], reverse: Mapping[Digest, Mapping[str, Any]]
) -> Ancestor:
    part = _ancestor_part(document)
    columns = reverse.get(part.digest) if part else document["undo"]
    return Ancestor(
        image=Digest(document["image"]),
        layers=document["layers"],
        generation=document["generation"],
        content=document["content"],
        replaced_directories=_decode_paths(document["replacedDirectories"]),
        reverse_delta=None if columns is None else _decode_reverse_delta(columns),
        part=part,
        created=document.get("created", ""),
        revision=document.get("revision", ""),
    )


def _decode_reverse_delta(columns: Mapping[str, Any]) -> ReverseDelta:
    sizes = [0 for digest in columns["files"].values() if digest != DIRECTORY]  # none are listed
    former = decode_tree({**columns, "sizes": sizes}).without_sizes()
    return ReverseDelta(former, _decode_paths(columns["absent"]))


def _decode_paths(listed: Sequence[Any]) -> frozenset[str]:
    """Return a list of different strings as a set. Raises InvalidManifest for anything else."""
    if not set(map(type, listed)) <= {str} or len(paths := frozenset(listed)) != len(listed):
        raise InvalidManifest("it lists a path twice, or something that is not a path")
    return paths


def _decode_version_1(document: Mapping[str, Any]) -> Manifest:
    # The prototype lists the directory itself as "."; every mode it wrote is 0555.
    files = {path: digest for path, digest in document.get("files", {}).items() if path != "."}
    executable = [path for path, digest in files.items() if digest != DIRECTORY]
    sizes = [0] * len(executable)
    return Manifest(
        decode_tree({"files": files, "sizes": sizes, "executable": executable, "links": {}}), None
    )


# --- Checking: each raises InvalidManifest ---


def _check_tree(tree: Tree) -> None:
    """Every path is safe, has its parents, and is one thing only."""
    above = {path.rpartition("/")[0] for path in _checked_paths(tree)}
    _check_parents(above, tree.directories())


def _checked_paths(tree: Tree) -> list[str]:
    """Return the sorted paths of a tree: each is safe, and one thing only."""
    paths = sorted(tree.paths())
    _check_paths(paths)
    if len(paths) != len(tree.files) + len(tree.links):
        raise InvalidManifest("it lists a path both as a file and as a link")
    return paths


def _check_parents(above: Iterable[str], directories: Collection[str]) -> None:
    for parent in above:
        if parent and parent not in directories:
            raise InvalidManifest(
                f"{brief(repr(parent))} has entries below it and is not a directory"
            )


def _check_values(document: bytes) -> None:
    """A document has at most _MAX_VALUES values: Python takes a hundred bytes for one.

    Three bytes can make a value. Commas and brackets in names count as well.
    """
    if sum(map(document.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise InvalidManifest("its manifest is too large to be read")


def _check_lineage(lineage: Lineage) -> None:
    """Paths are safe, and the ancestors have ever more of the image's layers."""
    _check_paths(lineage.replaced_directories)
    _check_counts((lineage.generation, lineage.content))
    fewer = 0
    for ancestor in lineage.ancestors:
        reverse = ancestor.reverse_delta or ReverseDelta()
        paths = reverse.paths()
        _check_paths(ancestor.replaced_directories | paths)
        _check_counts((ancestor.layers, ancestor.generation, ancestor.content))
        former = reverse.former
        if len(paths) != len(former.files) + len(former.links) + len(reverse.absent):
            raise InvalidManifest("it lists a path of an ancestor twice")
        if not is_utf8(ancestor.created + ancestor.revision):
            raise InvalidManifest("it describes an ancestor in something else than UTF-8")
        if not fewer < ancestor.layers <= len(lineage.layers):
            raise InvalidManifest("it lists an ancestor that does not have its layers")
        fewer = ancestor.layers


def _check_paths(paths: Iterable[str]) -> None:
    """No path leads elsewhere than it seems to."""
    left = iter(paths)
    while some := [*islice(left, _CHECKED_AT_ONCE)]:
        if not _are_safe(some):
            path = next(path for path in some if not _are_safe([path]))
            raise InvalidManifest(f"it lists the path {brief(repr(path))}")


def _are_safe(paths: Sequence[str]) -> bool:
    """Whether all names are safe, and some file system has such paths.

    Linux takes 255 bytes for a name, and 4095 for a path.
    """
    text = f"/{_SEPARATOR.join(paths)}/"
    if text.count("\0") != len(paths) - 1 or any(unsafe in text for unsafe in _UNSAFE):
        return False
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    longest = max(map(len, encoded.split(b"\0"))) - len("//")
    return longest <= _MAX_PATH and max(map(len, encoded.split(b"/"))) <= _MAX_NAME


def _check_counts(values: Collection[Any]) -> None:
    """All are non-negative integers. To JSON Schema alone 1.0 is one."""
    if not set(map(type, values)) <= {int} or (
        values and not 0 <= min(values) <= max(values) <= _MAX_COUNT
    ):
        raise InvalidManifest("it lists a number that is not an integer")


def _check_digests(values: Collection[Any]) -> None:
    if not set(map(type, values)) <= {str} or not (
        set(map(len, values)) <= {0, 64} and _HEX.fullmatch("".join(values))
    ):
        raise InvalidManifest("it lists a hash that is not a SHA-256")


def _check_targets(values: Collection[Any]) -> None:
    if not set(map(type, values)) <= {str} or "" in values:
        raise InvalidManifest("it lists a link without a target")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise InvalidManifest("it lists a link whose target is not UTF-8") from None
