"""Whatever a registry holds, reading it ends in an image for which all holds, or in one error.

Starts from a good image and does harm to it: to the JSON at any place, to bytes of a document, of
an archive, of a gzip stream. Digests are mended afterwards, mostly, so that the harm is not found
at the door. KONTEXT_TEST_EXAMPLES (4) makes it a hunt, with 100 examples for each.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import described
from support.trees import Directory, File, Link

from kontext_plugin import manifest
from kontext_plugin.cache.records import decode_image, encode_image
from kontext_plugin.crane_driver.errors import NotFound
from kontext_plugin.errors import KontextError
from kontext_plugin.image.chunking import boundaries, is_small, segments, split_segment
from kontext_plugin.image.oci import MANIFEST_ANNOTATION, Digest, digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import (
    MANIFEST_PATH,
    Ancestor,
    Lineage,
    Manifest,
    Part,
    canonical,
    columns,
)
from kontext_plugin.push.parent import choose
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.runtime.schema import load_manifest

EXAMPLES = 100 * int(os.environ.get("KONTEXT_TEST_EXAMPLES", "4"))
NAME = parse_reference("host.io/repo:t")
BASE, LOWER = (Digest("sha256:" + letter * 64) for letter in "be")


@dataclass
class Kept:
    """An image in the making: documents as JSON, or as bytes once harm was done to them."""

    state: Any
    parts: list[Any] = field(default_factory=list)
    undos: list[Any] = field(default_factory=list)
    config: Any = None
    image: Any = None

    @property
    def documents(self) -> list[tuple[str, Any]]:
        several = [("parts", index) for index in range(len(self.parts))]
        several += [("undos", index) for index in range(len(self.undos))]
        return [("state", None), ("config", None), ("image", None), *several]

    def change(self, place: tuple[str, Any], harm: Callable[[Any], Any]) -> None:
        name, index = place
        if index is None:
            setattr(self, name, harm(self.at(place)))
        else:
            getattr(self, name)[index] = harm(self.at(place))

    def at(self, place: tuple[str, Any]) -> Any:
        name, index = place
        return getattr(self, name) if index is None else getattr(self, name)[index]


def encoded(document: Any) -> bytes:
    if isinstance(document, bytes):
        return document
    # Unlike `listing.canonical` this takes lone surrogates, NaN and whatever else there is.
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def archive(documents: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name, content in documents:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
        made.addfile(tarfile.TarInfo("var/run/kontext/file"))
    return stream.getvalue()


@dataclass
class Registry:
    """Stands for crane: answers at once and from memory, for thousands of examples."""

    documents: dict[str, bytes]

    def manifest(self, name: str) -> bytes:
        return self.documents["image"]

    def config(self, name: str) -> bytes:
        return self.documents["config"]

    @contextlib.contextmanager
    def blob(self, name: str) -> Iterator[IO[bytes]]:
        digest = name.rpartition("@")[2]
        if digest not in self.documents:
            raise NotFound(f"{name} was not found")
        yield io.BytesIO(self.documents[digest])


def stored(
    kept: Kept,
    mend: bool = True,
    harm_tar: Callable[[bytes], bytes] = bytes,
    harm_gzip: Callable[[bytes], bytes] = bytes,
) -> Registry:
    """What a registry has of it; if it is to `mend`, the digests are those of what is there."""
    kept = copy.deepcopy(kept)
    parts, undos = ([*map(encoded, some)] for some in (kept.parts, kept.undos))
    if mend and isinstance(kept.state, dict):
        own = {"parts": [digest_of(part)[7:] for part in parts]} if parts else {}
        kept.state |= {key: value for key, value in own.items() if key in kept.state}
        ancestors = kept.state.get("ancestors")
        for ancestor in ancestors if isinstance(ancestors, list) else ():
            if isinstance(ancestor, dict) and "undoPart" in ancestor and undos:
                ancestor["undoPart"] = digest_of(undos[0])[7:]
    state = encoded(kept.state)
    lower = [(manifest.part_name(digest_of(part)), part) for part in (*parts[1:], *undos)]
    upper = [(manifest.part_name(digest_of(part)), part) for part in parts[:1]]
    blobs = [
        harm_gzip(gzip.compress(harm_tar(archive(some)), 1))
        for some in ([(MANIFEST_PATH, b"old"), *lower], [(MANIFEST_PATH, state), *upper])
    ]
    if isinstance(kept.image, dict):
        layers = kept.image.get("layers")
        if isinstance(layers, list) and len(layers) == 3:
            for layer, blob in zip(layers[1:], blobs, strict=True):
                if isinstance(layer, dict):
                    layer["digest"] = digest_of(blob)
        notes = kept.image.get("annotations")
        if mend and isinstance(notes, dict) and MANIFEST_ANNOTATION in notes:
            notes[MANIFEST_ANNOTATION] = digest_of(state)
    documents = {"image": encoded(kept.image), "config": encoded(kept.config)}
    return Registry(documents | {digest_of(blob): blob for blob in blobs})


def good(count: int, ancestors: bool) -> Kept:
    """An image of `count` files or, where these are many, of parts in two layers."""
    nodes = {"d": Directory(), "d/l": Link("../x"), "ä": File(b"x", executable=True)}
    nodes |= {f"d/{number}": File(b"%d" % number) for number in range(count)}
    tree = described(nodes)
    former = described({"ä": File(b"y"), "gone": Directory(), "gone/l": Link("z")})
    undo = ReverseDelta(former.without_sizes(), frozenset({"d/0", "d/l"}))
    lineage = Lineage(
        BASE, BASE, "linux/amd64", 2, 5000, (LOWER, LOWER), labels={"k": "v"},
        replaced_directories=frozenset({"ä"}),
    )  # fmt: skip
    if ancestors:
        undo_part = Part("", digest_of(canonical(manifest.reverse_columns(undo))), 1)
        first = Ancestor(BASE, 1, 0, 100, frozenset({"d"}), undo, undo_part)
        lineage = replace(lineage, ancestors=(first, replace(first, layers=2, stored=None)))
    pieces = []
    if not is_small(tree):
        starts = boundaries(tree)
        stretches = segments(tree, starts, range(len(starts)))
        pieces = [
            columns(tree.only(set(paths)))
            for start, stretch in zip(starts, stretches, strict=True)
            for _, paths in split_segment(start, stretch)
        ]
    parts = tuple(
        Part("", digest_of(canonical(piece)), 1 if index else 2)
        for index, piece in enumerate(pieces)
    )
    layer = {"digest": LOWER, "size": 9}
    return Kept(
        state=json.loads(manifest.encode(Manifest(tree, lineage, parts))),
        parts=pieces,
        undos=[manifest.reverse_columns(undo)] if ancestors else [],
        config={"os": "linux", "architecture": "amd64", "config": {"Labels": {"k": "v"}}},
        image={
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"digest": BASE, "size": 2},
            "layers": [copy.copy(layer) for _ in range(3)],
            "annotations": {MANIFEST_ANNOTATION: ""},
        },
    )


GOOD = {
    "small": good(3, ancestors=False),
    "with ancestors": good(3, ancestors=True),
    "in parts": good(700, ancestors=False),
    "in parts, with ancestors": good(700, ancestors=True),
}


def read(registry: Any) -> KontextImage:
    with ThreadPoolExecutor(2) as threads:
        return fetch(registry, threads, NAME)


@pytest.mark.parametrize("kept", GOOD.values(), ids=GOOD)
def test_without_harm_it_is_read(kept: Kept) -> None:
    registry = stored(kept)
    assert (
        digest_of(manifest.encode(read(registry).manifest))
        == json.loads(registry.documents["image"])["annotations"][MANIFEST_ANNOTATION]
    )


def hold_to_all(registry: Registry) -> None:
    """Reads it, and asks of the result all that the rest of Kontext takes for granted."""
    try:
        found = read(registry)
    except KontextError as error:
        assert len(error.message) < 600, "it repeats what came"
        assert "\n" not in error.message
        assert type(error.__cause__) is not RuntimeError
        return
    held = found.manifest
    hold_tree(held.tree)
    if held.lineage is None:
        return
    lineage = held.lineage
    below = 0
    for path in lineage.replaced_directories:
        assert is_safe(path)
    for ancestor in lineage.ancestors:
        former, absent = ancestor.undo.former, ancestor.undo.absent
        assert all(map(is_safe, ancestor.undo.paths() | ancestor.replaced_directories))
        assert not (former.files.keys() & former.links.keys() or former.paths() & absent)
        assert below < ancestor.layers <= len(lineage.layers)
        below = ancestor.layers
    assert all(0 <= part.layer < len(found.image.layers) for part in held.parts)
    assert all(type(layer.size) is int for layer in found.image.layers)
    content = manifest.encode(held)
    document = load_manifest(content)
    columns = [json.loads(piece) for piece in pieces_of(held)]
    undos = {
        ancestor.stored.digest: manifest.reverse_columns(ancestor.undo)
        for ancestor in lineage.ancestors
        if ancestor.stored
    }
    assert manifest.decode(document, columns, undos) == held, "encode and decode are one another's"
    record, packed = encode_image(found.image, held, ())
    listed = memoryview(b"".join(packed))
    again = decode_image(json.loads(json.dumps(record)), listed, found.image.digest)
    assert again is not None
    assert again.manifest.lineage == lineage
    wanted = ImageSpec(
        lineage.base, (), lineage.extractor, lineage.platform, lineage.labels,
        lambda labels: found.settings or {}, always_reuse=True,
    )  # fmt: skip
    choose(found, wanted, held.tree)
    choose(found, wanted, Tree())


def pieces_of(held: Manifest) -> list[bytes]:
    starts = [part.begin for part in held.parts]
    if not starts:
        return []
    paths = segments(held.tree, starts, range(len(starts)))
    return [canonical(columns(held.tree.only(set(some)))) for some in paths]


def is_safe(path: str) -> bool:
    path.encode()  # or it is no UTF-8
    names = path.split("/")
    return "\0" not in path and not any(
        name in ("", ".", "..") or name.startswith(".wh.") for name in names
    )


def hold_tree(tree: Tree) -> None:
    regular = {path for path, digest in tree.files.items() if digest}
    assert all(map(is_safe, tree.paths()))
    assert not tree.files.keys() & tree.links.keys()
    assert tree.executable <= regular
    assert tree.sizes.keys() == regular
    assert all(type(size) is int and 0 <= size < 2**63 for size in tree.sizes.values())
    assert all(len(bytes.fromhex(tree.files[path])) == 32 for path in regular)
    for path in tree.paths():
        parent = path.rpartition("/")[0]
        assert not parent or tree.files[parent] == ""
    for target in tree.links.values():
        assert target.encode()


# Harm

NASTY: list[Any] = [
    None, True, False, 0, -1, 1.0, 1.5, 2**63, 2**63 - 1, 10**400, float("nan"), float("inf"),
    "", ".", "..", "../x", "/x", "a/../b", "a//b", "d", "d/0", "gone", "\0", "\ud800", "\x1b[2J",
    ".wh.x", "d/.wh..wh..opq", "n" * 5000, "sha256:" + "a" * 64, "a" * 64, "A" * 64,
    "linux/amd64\n", [], {}, [[]], [{}], {"": ""}, [None], ["a", "a"], {"a": None}, [0] * 1001,
    {"a": {"b": []}},
]  # fmt: skip
NASTY_TOKENS = [
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"\\u0000", b"\\ud800",
    b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"-Infinity", b"1e999", b"-0", b"1.0", b"9" * 5000,
    b"../", b"/", b"\x1b[2J", b"\n", b"true", b"null", b"\xe2\x80\xae", b"[" * 2000, b'{"a":' * 990,
]  # fmt: skip

JSON = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below),
    max_leaves=5,
)
CHOICES = st.lists(st.integers(0, 2**16), min_size=8, max_size=8)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with every key in it."""
    found: list[tuple[Any, Any]] = []
    if isinstance(document, (dict, list)):
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        found += [(document, key) for key in keys]
        for key in keys:
            found += places(document[key])
    return found


def harm_json(choices: list[int], value: Any) -> Callable[[Any], Any]:
    """Replaces, removes, doubles or renames at one place."""

    def harm(document: Any) -> Any:
        document = copy.deepcopy(document)
        everywhere = places(document)
        if isinstance(document, bytes) or not everywhere:
            return value
        inner = [place for place in everywhere if place[0] is not document]
        if inner and choices[1] % 2:  # else the long columns take nearly all
            everywhere = [place for place in everywhere if place[0] is document]
        container, key = everywhere[choices[0] % len(everywhere)]
        kind = choices[2] % 5
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            name = value if isinstance(value, str) else str(choices[3])
            container[name] = container.pop(key)
        elif kind == 2:
            other = everywhere[choices[4] % len(everywhere)]
            container[key] = copy.deepcopy(other[0][other[1]])
        elif kind == 3 and isinstance(container[key], (list, dict)):
            inside = container[key]
            if isinstance(inside, list):
                inside.insert(choices[5] % (len(inside) + 1), value)
            else:
                inside[value if isinstance(value, str) else str(choices[3])] = value
        else:
            container[key] = value
        return document

    return harm


def harm_bytes(choices: list[int], token: bytes) -> Callable[[bytes], bytes]:
    def harm(document: Any) -> bytes:
        content = encoded(document)
        at = choices[0] * 7919 % (len(content) + 1)
        to = min(at + choices[1] % 600, len(content))
        kind = choices[2] % 6
        if kind == 0:
            return content[:at]
        if kind == 1:
            return content[:at] + token + content[at:]
        if kind == 2:
            return content[:at] + token + content[to:]
        if kind == 3:
            return content[:to] + content[at:]
        if kind == 4:
            return content[:at] + content[to:]
        flipped = bytes(byte ^ (1 << choices[3] % 8) for byte in content[at : at + 1])
        return content[:at] + flipped + content[at + 1 :]

    return harm


HARM_JSON = st.builds(harm_json, CHOICES, JSON)
HARM_BYTES = st.builds(harm_bytes, CHOICES, st.sampled_from(NASTY_TOKENS) | st.binary(max_size=9))

hunted = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)


@hunted
@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(st.integers(0, 99), HARM_JSON | HARM_JSON | HARM_BYTES), max_size=3),
    st.sampled_from([True, True, True, False]),
)
def test_documents_that_came_to_harm(name: str, harms: list[Any], mend: bool) -> None:
    kept = copy.deepcopy(GOOD[name])
    for where, harm in harms:
        kept.change(kept.documents[where % len(kept.documents)], harm)
    hold_to_all(stored(kept, mend))


@hunted
@given(st.sampled_from(sorted(GOOD)), st.sampled_from(["tar", "gzip"]), HARM_BYTES, CHOICES)
def test_layers_that_came_to_harm(name: str, where: str, harm: Any, choices: list[int]) -> None:
    def at_a_header(content: bytes) -> bytes:
        """Most of an archive is content, which documents that came to harm have already."""
        begin = choices[0] % 3 * 512
        return content[:begin] + harm(content[begin : begin + 512]) + content[begin + 512 :]

    chosen = at_a_header if choices[1] % 4 else harm
    harms = {"tar": {"harm_tar": chosen}, "gzip": {"harm_gzip": harm}}[where]
    hold_to_all(stored(GOOD[name], **harms))


DOCUMENTS = {
    "manifest": ("small", ("state", None)),
    "image": ("small", ("image", None)),
    "configuration": ("small", ("config", None)),
    "part": ("in parts, with ancestors", ("parts", 0)),
    "undo": ("in parts, with ancestors", ("undos", 0)),
}


@pytest.mark.parametrize(("name", "place"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_any_depth(name: str, place: tuple[str, Any]) -> None:
    """Some JSON can just be parsed, and hardly anything else be done with it."""
    for depth in range(deepest() - 60, deepest() + 2):
        deep = b"[" * depth + b"]" * depth
        for key in (*json.loads(encoded(GOOD[name].at(place))), "other"):

            def harm(document: Any, key: str = key, deep: bytes = deep) -> bytes:
                return encoded(document | {key: "@"}).replace(b'"@"', deep)

            kept = copy.deepcopy(GOOD[name])
            kept.change(place, harm)
            hold_to_all(stored(kept))


def deepest() -> int:
    """How deep JSON may be nested to be parsed here."""
    for depth in range(1, 100_000):
        try:
            json.loads("[" * depth + "]" * depth)
        except RecursionError:
            return depth
    return depth
