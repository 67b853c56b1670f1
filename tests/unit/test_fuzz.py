"""Whatever a registry holds, reading it ends in a valid image or in one error.

Each test starts from a good image and damages it: the JSON at any place, or bytes of a document, of
an archive, of a gzip stream. Mostly the digests are corrected afterwards, so that they do not give
the damage away. KONTEXT_TEST_EXAMPLES (3) sets the number of examples, in hundreds.
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
from support.models import SPEC, content_of, described, plan_on
from support.trees import Directory, File, Link

from kontext_plugin import manifest
from kontext_plugin.cache import decode_image, encode_image
from kontext_plugin.crane_driver.errors import NotFound
from kontext_plugin.errors import KontextError
from kontext_plugin.image.assembly import assemble
from kontext_plugin.image.chunking import SMALL, cut
from kontext_plugin.image.listing import canonical, columns, list_tree
from kontext_plugin.image.oci import (
    EXTRACTOR_ANNOTATION,
    GZIP_LAYER,
    MANIFEST_ANNOTATION,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
    digest_of,
)
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.manifest import (
    MANIFEST_PATH,
    Ancestor,
    Lineage,
    Manifest,
    Part,
)
from kontext_plugin.push.parent import candidates_of
from kontext_plugin.push.partition import manifest_on, partition
from kontext_plugin.registry.fetch import KontextImage, fetch

EXAMPLES = 100 * int(os.environ.get("KONTEXT_TEST_EXAMPLES", "3"))
NAME = parse_reference("host.io/repo:t")
BASE, LOWER = (Digest("sha256:" + letter * 64) for letter in "be")


@dataclass
class Documents:
    """The documents of an image: as JSON, or as bytes where they were damaged."""

    root: Any  # manifest.json
    parts: list[Any] = field(default_factory=list)  # of the listing
    steps: list[Any] = field(default_factory=list)  # reverse deltas
    config: Any = None
    image: Any = None
    index: Any = None  # None: the tag shows the image

    @property
    def places(self) -> list[tuple[str, Any]]:
        several = [("parts", index) for index in range(len(self.parts))]
        several += [("steps", index) for index in range(len(self.steps))]
        several += [("index", None)] if self.index is not None else []
        return [("root", None), ("config", None), ("image", None), *several]

    def change(self, place: tuple[str, Any], damage: Callable[[Any], Any]) -> None:
        name, index = place
        if index is None:
            setattr(self, name, damage(self.at(place)))
        else:
            getattr(self, name)[index] = damage(self.at(place))

    def at(self, place: tuple[str, Any]) -> Any:
        name, index = place
        return getattr(self, name) if index is None else getattr(self, name)[index]


def encoded(document: Any) -> bytes:
    if isinstance(document, bytes):
        return document
    # Unlike `canonical` this accepts lone surrogates, NaN and everything else.
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
    """A registry in the place of crane. It answers from memory, fast enough for many examples."""

    documents: dict[str, bytes]

    def manifest(self, name: str) -> bytes:
        return self.documents["image" if "@" in name else "tag"]

    def config(self, name: str) -> bytes:
        return self.documents["config"]

    @contextlib.contextmanager
    def blob(self, name: str) -> Iterator[IO[bytes]]:
        digest = name.rpartition("@")[2]
        if digest not in self.documents:
            raise NotFound(f"{name} was not found")
        yield io.BytesIO(self.documents[digest])


def stored(
    image: Documents,
    fix_digests: bool = True,
    damage_tar: Callable[[bytes], bytes] = bytes,
    damage_gzip: Callable[[bytes], bytes] = bytes,
) -> Registry:
    """Return a registry with an image. With `fix_digests`, digests are those of what is there."""
    image = copy.deepcopy(image)
    parts, steps = ([*map(encoded, some)] for some in (image.parts, image.steps))
    if fix_digests and isinstance(image.root, dict):
        own = {"parts": [digest_of(part)[7:] for part in parts]} if parts else {}
        image.root |= {key: value for key, value in own.items() if key in image.root}
        ancestors = image.root.get("ancestors")
        for ancestor in ancestors if isinstance(ancestors, list) else ():
            if isinstance(ancestor, dict) and "undoPart" in ancestor and steps:
                ancestor["undoPart"] = digest_of(steps[0])[7:]
    root = encoded(image.root)
    lower = [(manifest.part_name(digest_of(part)), part) for part in (*parts[1:], *steps)]
    upper = [(manifest.part_name(digest_of(part)), part) for part in parts[:1]]
    blobs = [
        damage_gzip(gzip.compress(damage_tar(archive(some)), 1))
        for some in (
            [(MANIFEST_PATH, b"old"), *lower],
            [(MANIFEST_PATH, root), *upper],
            [("kontext-extractor", b"ELF")],
        )
    ]
    if isinstance(image.image, dict):
        layers = image.image.get("layers")
        if isinstance(layers, list) and len(layers) == 4:
            # Sources, an unread layer of sources, sources; the extractor above or, in version 2,
            # below.
            is_old = isinstance(image.root, dict) and image.root.get("version") == 2
            for number, blob in zip((1, 3, 0) if is_old else (0, 2, 3), blobs, strict=True):
                if isinstance(layers[number], dict):
                    layers[number]["digest"] = digest_of(blob)
        notes = image.image.get("annotations")
        if fix_digests and isinstance(notes, dict) and MANIFEST_ANNOTATION in notes:
            notes[MANIFEST_ANNOTATION] = digest_of(root)
            if EXTRACTOR_ANNOTATION in notes:
                notes[EXTRACTOR_ANNOTATION] = digest_of(blobs[2])
    documents = {"image": encoded(image.image), "config": encoded(image.config)}
    documents["tag"] = documents["image"] if image.index is None else encoded(image.index)
    return Registry(documents | {digest_of(blob): blob for blob in blobs})


def good(count: int, ancestors: bool, version: int = 3, is_index: bool = False) -> Documents:
    """Return an image of some files. If there are many, their listing is in parts in two layers."""
    below = 1 if version == 2 else 0  # layers of the base that the manifest counts
    nodes = {"d": Directory(), "d/l": Link("../x"), "ä": File(b"x", executable=True)}
    nodes |= {f"d/{number}": File(b"%d" % number) for number in range(count)}
    tree = described(nodes)
    former = described({"ä": File(b"y"), "gone": Directory(), "gone/l": Link("z")})
    step = ReverseDelta(former.without_sizes(), frozenset({"d/0", "d/l"}))
    lineage = Lineage(2, 5000, (LOWER,) * (2 + below), replaced_directories=frozenset({"ä"}))
    if ancestors:
        step_part = Part("", digest_of(canonical(manifest.reverse_columns(step))), below)
        first = Ancestor(BASE, 1 + below, 0, 100, frozenset({"d"}), step, step_part, "2026", "abc")
        lineage = replace(lineage, ancestors=(first, replace(first, layers=2 + below, part=None)))
    pieces = []
    if len(tree.paths()) > SMALL:
        pieces = [columns(tree.only(set(some))) for _, some in cut(sorted(tree.paths()))]
    parts = tuple(
        Part("", digest_of(canonical(piece)), below if index else below + 2)
        for index, piece in enumerate(pieces)
    )
    layer = {"mediaType": GZIP_LAYER, "digest": LOWER, "size": 9}
    settings = {"Entrypoint": ["/e"], "WorkingDir": "/w", "Labels": {"k": "v"}, "Env": ["A=b"]}
    root = json.loads(manifest.encode(Manifest(tree, lineage, parts)))
    notes = {MANIFEST_ANNOTATION: ""}
    if version == 2:
        named = {"base": LOWER, "extractor": BASE, "platform": "linux/amd64", "labels": {"k": "v"}}
        root |= {"version": 2} | named
    else:
        notes[EXTRACTOR_ANNOTATION] = ""
    platform = {"os": "linux", "architecture": "amd64"}
    entry = {"mediaType": OCI_MANIFEST, "digest": LOWER, "size": 9, "platform": platform}
    return Documents(
        root=root,
        parts=pieces,
        steps=[manifest.reverse_columns(step)] if ancestors else [],
        config={
            "os": "linux",
            "architecture": "amd64",
            "created": "2026-01-02T03:04:05Z",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [LOWER] * 4},
        },
        image={
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"digest": BASE, "size": 2},
            "layers": [copy.copy(layer) for _ in range(4)],
            "annotations": notes,
        },
        index={"mediaType": OCI_INDEX, "manifests": [entry]} if is_index else None,
    )


GOOD = {
    "small": good(3, ancestors=False),
    "with ancestors": good(3, ancestors=True),
    "in parts": good(700, ancestors=False),
    "in parts, with ancestors": good(700, ancestors=True),
    "in an index": good(3, ancestors=True, is_index=True),
    "version 2": good(3, ancestors=True, version=2),
    "version 2, in parts": good(700, ancestors=True, version=2),
}


def read(registry: Any, *, with_history: bool = True) -> KontextImage:
    with ThreadPoolExecutor(2) as threads:
        return fetch(registry, threads, NAME, with_history=with_history)


@pytest.mark.parametrize("image", GOOD.values(), ids=GOOD)
def test_a_good_image_is_read(image: Documents) -> None:
    registry = stored(image)
    annotations = json.loads(registry.documents["image"])["annotations"]
    for with_history in (True, False):
        found = read(registry, with_history=with_history)
        assert len(found.sources) == 3 and found.height == (found.manifest.version == 2)
        if found.manifest.version == 3:
            digest = digest_of(manifest.encode(found.manifest))
            assert digest == annotations[MANIFEST_ANNOTATION]


def check_all(registry: Registry) -> None:
    """Read the image with its history and without, and check what comes of it."""
    found = check_read(registry, with_history=True)
    other = check_read(registry, with_history=False)
    if found is not None:
        assert other is not None, "less was read, and more was wrong"
        assert other.manifest.tree == found.manifest.tree
        check_history(found)


def check_read(registry: Registry, *, with_history: bool) -> KontextImage | None:
    """Return the image if it can be read. Check all that the rest of Kontext relies on."""
    try:
        found = read(registry, with_history=with_history)
    except KontextError as error:
        assert len(error.message) < 600, "the message repeats the document"
        assert "\n" not in error.message
        assert type(error.__cause__) is not RuntimeError
        return None
    held = found.manifest
    check_tree(held.tree)
    if held.lineage is None:
        return found
    lineage = held.lineage
    lowest = 0
    for path in lineage.replaced_directories:
        assert is_safe(path)
    for ancestor in lineage.ancestors:
        if with_history:
            assert ancestor.reverse_delta is not None
        step = ancestor.reverse_delta or ReverseDelta()
        former, absent = step.former, step.absent
        assert all(map(is_safe, step.paths() | ancestor.replaced_directories))
        assert not (former.files.keys() & former.links.keys() or former.paths() & absent)
        assert lowest < ancestor.layers <= len(lineage.layers)
        lowest = ancestor.layers
    assert all(0 <= part.layer < len(found.image.layers) for part in held.parts)
    assert all(type(layer.size) is int for layer in found.image.layers)
    return found


def check_history(found: KontextImage) -> None:
    """Check that an image with its history survives its encodings, and can be planned with."""
    held, lineage = replace(found.manifest, version=manifest.VERSION), found.manifest.lineage
    if lineage is None:
        return
    config = found.config
    assert config is not None
    assert all(isinstance(word, str) for word in (*config.entrypoint, config.working_directory))
    assert all(isinstance(text, str) for pair in config.labels.items() for text in pair)
    root = manifest.read_root(manifest.encode(held))
    steps = {
        ancestor.part.digest: manifest.reverse_columns(ancestor.reverse_delta)
        for ancestor in lineage.ancestors
        if ancestor.part and ancestor.reverse_delta is not None
    }
    tree = list_tree(held.tree) if held.parts else None
    assert manifest.restore(root.document, steps, tree) == held
    listing = manifest.decode(root, {digest_of(piece): piece for piece in pieces_of(held)})
    assert (listing.tree, listing.parts) == (held.tree, held.parts)
    record, packed = encode_image(found)
    listed = content_of(packed)
    again = decode_image(json.loads(json.dumps(record)), listed, found.digest)
    assert again is not None
    assert again.manifest.lineage == lineage
    assert (again.image, again.config) == (found.image, config)
    for tree in (held.tree, Tree()):
        plan = plan_on(found, replace(SPEC, labels={"k": "w"}), tree)
        if plan.sources:
            assemble(plan.spec, plan.sources, plan.labels)
        else:
            divided = partition(plan)
            layers = (layer.digest for layer in plan.parent_layers)
            manifest.encode(manifest_on(plan, divided, layers))
        assert len(plan.parent_layers) == len(plan.parent_diff_ids)
    for tree in (held.tree, Tree()):
        assert len(list(candidates_of(found, tree))) == len(lineage.ancestors) + 1


def pieces_of(held: Manifest) -> list[bytes]:
    if not held.parts:
        return []
    return [canonical(columns(held.tree.only(some))) for _, some in cut(sorted(held.tree.paths()))]


def is_safe(path: str) -> bool:
    path.encode()  # raises for what is not UTF-8
    names = path.split("/")
    return "\0" not in path and not any(
        name in ("", ".", "..") or name.startswith(".wh.") for name in names
    )


def check_tree(tree: Tree) -> None:
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


# Damage

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
    """Return every container of a document with every key in it."""
    found: list[tuple[Any, Any]] = []
    if isinstance(document, (dict, list)):
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        found += [(document, key) for key in keys]
        for key in keys:
            found += places(document[key])
    return found


def damage_json(choices: list[int], value: Any) -> Callable[[Any], Any]:
    """Replace, remove, copy or rename something at one place."""

    def damage(document: Any) -> Any:
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

    return damage


def damage_bytes(choices: list[int], token: bytes) -> Callable[[bytes], bytes]:
    def damage(document: Any) -> bytes:
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

    return damage


DAMAGE_JSON = st.builds(damage_json, CHOICES, JSON)
DAMAGE_BYTES = st.builds(
    damage_bytes, CHOICES, st.sampled_from(NASTY_TOKENS) | st.binary(max_size=9)
)

many_examples = settings(
    max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None
)


@pytest.mark.slow
@many_examples
@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(st.integers(0, 99), DAMAGE_JSON | DAMAGE_JSON | DAMAGE_BYTES), max_size=3),
    st.sampled_from([True, True, True, False]),
)
def test_damaged_documents_end_in_a_valid_image_or_in_one_error(
    name: str, damages: list[Any], fix_digests: bool
) -> None:
    image = copy.deepcopy(GOOD[name])
    for where, damage in damages:
        image.change(image.places[where % len(image.places)], damage)
    check_all(stored(image, fix_digests))


@pytest.mark.slow
@many_examples
@given(st.sampled_from(sorted(GOOD)), st.sampled_from(["tar", "gzip"]), DAMAGE_BYTES, CHOICES)
def test_damaged_layers_end_in_a_valid_image_or_in_one_error(
    name: str, where: str, damage: Any, choices: list[int]
) -> None:
    def damage_header(content: bytes) -> bytes:
        """Most of an archive is content, which the other test damages already."""
        start = choices[0] % 3 * 512
        return content[:start] + damage(content[start : start + 512]) + content[start + 512 :]

    chosen = damage_header if choices[1] % 4 else damage
    damages = {"tar": {"damage_tar": chosen}, "gzip": {"damage_gzip": damage}}[where]
    check_all(stored(GOOD[name], **damages))


CONFIG_KEYS = ["Entrypoint", "WorkingDir", "Labels", "Cmd", "Env", "User"]
OTHER_KEYS = ["os", "architecture", "config", "rootfs", "created", "history"]


@pytest.mark.parametrize("key", [*CONFIG_KEYS, *OTHER_KEYS])
def test_any_value_in_a_configuration_ends_in_a_valid_image_or_in_one_error(key: str) -> None:
    for value in NASTY:
        image = copy.deepcopy(GOOD["small"])
        (image.config["config"] if key in CONFIG_KEYS else image.config)[key] = value
        check_all(stored(image))


DOCUMENTS = {
    "manifest": ("small", ("root", None)),
    "image": ("small", ("image", None)),
    "configuration": ("small", ("config", None)),
    "part": ("in parts, with ancestors", ("parts", 0)),
    "reverse delta": ("in parts, with ancestors", ("steps", 0)),
    "index": ("in an index", ("index", None)),
    "manifest of version 2": ("version 2", ("root", None)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "place"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_json_of_any_depth_ends_in_a_valid_image_or_in_one_error(
    name: str, place: tuple[str, Any]
) -> None:
    """Some JSON can just be parsed, and is too deep for everything else."""
    for depth in range(deepest() - 60, deepest() + 2):
        deep = b"[" * depth + b"]" * depth
        for key in (*json.loads(encoded(GOOD[name].at(place))), "other"):

            def damage(document: Any, key: str = key, deep: bytes = deep) -> bytes:
                return encoded(document | {key: "@"}).replace(b'"@"', deep)

            image = copy.deepcopy(GOOD[name])
            image.change(place, damage)
            check_all(stored(image))


def deepest() -> int:
    """Return how deep JSON may be nested to be parsed here."""
    for depth in range(1, 100_000):
        try:
            json.loads("[" * depth + "]" * depth)
        except RecursionError:
            return depth
    return depth
