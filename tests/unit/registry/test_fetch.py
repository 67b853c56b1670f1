"""Reading an image from a registry: only valid images, and no more requests than needed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_registry import FakeRegistry, gzip_layer, image_document, index_document
from support.models import described
from support.trees import Directory, File

from kontext_plugin.crane_driver.errors import NotFound, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.chunking import cut
from kontext_plugin.image.listing import canonical, columns
from kontext_plugin.image.oci import (
    MANIFEST_ANNOTATION,
    Digest,
    Image,
    ImageConfig,
    Layer,
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
    encode,
    reverse_columns,
)
from kontext_plugin.registry.fetch import (
    InvalidImage,
    KontextImage,
    fetch,
    fetch_by_document,
    fetch_config,
    fetch_layers,
    parse_image,
)
from kontext_plugin.runtime.schema import InvalidDocument

NAME = parse_reference("host.io/repo:t")
BASE, EXTRACTOR, LOWER = (Digest("sha256:" + letter * 64) for letter in "bec")
LINEAGE = Lineage(layers=(LOWER,))
SMALL = Manifest(described({"d": Directory(), "d/f": File(b"x")}), LINEAGE)
ROOT = encode(SMALL)
BLOB = gzip_layer(ROOT)
CONFIG = b'{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/e"],"Cmd":null}}'
GZIP_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry(tmp_path / "registry")
    registry.answer(config=CONFIG)
    return registry


def read(registry: FakeRegistry, *, with_history: bool = False) -> KontextImage:
    with registry.crane as crane, ThreadPoolExecutor(1) as requests:
        return fetch(crane, requests, NAME, with_history=with_history)


# A small image

DOCUMENT = image_document(BASE, LOWER, BLOB, manifest=ROOT, extractor=EXTRACTOR)
SOURCES = (Layer(LOWER, 1), Layer(digest_of(BLOB), len(BLOB)))
IMAGE = Image(
    digest_of(DOCUMENT),
    (Layer(BASE, 1), *SOURCES, Layer(EXTRACTOR, 1)),
    digest_of(ROOT),
    EXTRACTOR,
)
WITHOUT_HISTORY = KontextImage(IMAGE.digest, IMAGE, SMALL)
READ_CONFIG = ImageConfig("linux/amd64", ("/e",))
MANIFEST_REQUEST = "manifest host.io/repo:t"
TOP_REQUEST = f"blob host.io/repo@{digest_of(BLOB)}"
CONFIG_REQUEST = f"config host.io/repo@{IMAGE.digest}"


def test_an_image_is_read_with_two_requests(registry: FakeRegistry) -> None:
    registry.answer(manifest=DOCUMENT, blob=BLOB)
    image = read(registry)
    assert image == WITHOUT_HISTORY
    assert registry.requests == [MANIFEST_REQUEST, TOP_REQUEST]
    assert (image.height, image.sources) == (1, SOURCES)
    assert image.is_intact and not image.is_single_layer


def test_an_image_with_history_has_its_configuration(registry: FakeRegistry) -> None:
    registry.answer(manifest=DOCUMENT, blob=BLOB)
    image = read(registry, with_history=True)
    assert image == replace(WITHOUT_HISTORY, config=READ_CONFIG)
    assert image.all_platforms == ("linux/amd64",)
    assert registry.requests == [MANIFEST_REQUEST, TOP_REQUEST, CONFIG_REQUEST]


def test_a_document_that_is_known_is_not_asked_for_again(registry: FakeRegistry) -> None:
    registry.answer(blob=BLOB)
    with registry.crane as crane, ThreadPoolExecutor(1) as requests:
        assert fetch_by_document(crane, requests, NAME, DOCUMENT) == WITHOUT_HISTORY
    assert registry.requests == [TOP_REQUEST]


@pytest.mark.parametrize("with_history", [False, True])
def test_an_image_of_the_prototype_has_no_lineage_and_no_configuration(
    with_history: bool, registry: FakeRegistry
) -> None:
    root = b'{"files":{"f":"' + b"0" * 64 + b'"}}'
    blob = gzip_layer((f"/{MANIFEST_PATH}", root))
    registry.answer(manifest=image_document(BASE, blob, annotations=None), blob=blob)
    image = read(registry, with_history=with_history)
    assert image.manifest.lineage is None
    assert image.config is None
    assert image.manifest.tree.paths() == {"f"}
    assert len(registry.requests) == 2


# An index

ARM = image_document(LOWER, BLOB, manifest=ROOT, extractor=BASE)
INDEX = index_document(arm64=ARM, amd64=DOCUMENT)


@pytest.mark.parametrize("with_history", [False, True])
def test_of_an_index_one_image_is_read_under_the_digest_of_the_index(
    with_history: bool, registry: FakeRegistry
) -> None:
    """Its images have the same sources. The index is what the tag shows."""
    registry.answer("repo:t", manifest=INDEX)
    registry.answer(digest_of(DOCUMENT), manifest=DOCUMENT)
    registry.answer(blob=BLOB)
    image = read(registry, with_history=with_history)
    assert (image.digest, image.image) == (digest_of(INDEX), IMAGE)
    assert image.platforms == image.all_platforms == ("linux/amd64", "linux/arm64")
    child = f"host.io/repo@{IMAGE.digest}"
    requests = [MANIFEST_REQUEST, f"manifest {child}", TOP_REQUEST]
    assert registry.requests == requests + [f"config {child}"] * with_history


def test_a_child_that_the_registry_has_lost_is_not_found(registry: FakeRegistry) -> None:
    registry.answer("repo:t", manifest=INDEX)
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN")
    with pytest.raises(NotFound):
        read(registry)


BAD_INDEXES: dict[str, tuple[bytes, bytes, str]] = {
    "without images": (index_document(), b"", "it is an index without images"),
    "with an attestation alone": (
        index_document(unknown=DOCUMENT),
        b"",
        "it is an index without images",
    ),
    "in an index": (
        index_document(amd64=index_document(amd64=DOCUMENT)),
        index_document(amd64=DOCUMENT),
        "it is an index of several platforms",
    ),
    "of another shape": (b'{"manifests":[7]}', b"", "manifests/0"),
}


@pytest.mark.parametrize(("index", "child", "reason"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_a_bad_index_is_refused_with_a_reason(
    index: bytes, child: bytes, reason: str, registry: FakeRegistry
) -> None:
    registry.answer("repo:t", manifest=index)
    registry.answer(manifest=child)
    with pytest.raises(InvalidImage) as raised:
        read(registry)
    assert reason in raised.value.reason


# Where the sources lie


def test_an_image_without_layers_below_its_sources(registry: FakeRegistry) -> None:
    document = image_document(LOWER, BLOB, manifest=ROOT, extractor=EXTRACTOR)
    registry.answer(manifest=document, blob=BLOB)
    image = read(registry)
    assert (image.height, image.sources, image.is_intact) == (0, SOURCES, True)


def test_a_single_layer_has_the_sources_and_the_extractor(registry: FakeRegistry) -> None:
    root = encode(replace(SMALL, lineage=Lineage()))
    blob = gzip_layer(root)
    registry.answer(manifest=image_document(blob, manifest=root), blob=blob)
    image = read(registry)
    assert image.is_single_layer and image.is_intact
    assert (image.height, [layer.digest for layer in image.sources]) == (0, [digest_of(blob)])


CHANGED: dict[str, list[bytes | Digest]] = {
    "a layer less": [BLOB],
    "another layer": [BASE, BLOB],
    "a layer in between": [LOWER, BASE, BLOB],
}


@pytest.mark.parametrize("layers", CHANGED.values(), ids=CHANGED)
def test_an_image_whose_layers_another_tool_changed_is_not_intact(
    layers: list[bytes | Digest], registry: FakeRegistry
) -> None:
    """It can still be read: what runs it says what is wrong."""
    document = image_document(*layers, manifest=ROOT, extractor=EXTRACTOR)
    registry.answer(manifest=document, blob=BLOB)
    image = read(registry)
    assert not image.is_intact
    assert image.manifest == SMALL


# Version 2, which lies on the extractor and numbers the layers of the base


def version_2(held: Manifest, base: Digest = BASE, extractor: Digest = BASE) -> bytes:
    """Return the version 2 document of a manifest whose lineage has the base's layers."""
    more = {"base": base, "extractor": extractor, "platform": "linux/amd64", "labels": {}}
    return canonical(json.loads(encode(held)) | {"version": 2} | more)


STEP = ReverseDelta(absent=frozenset({"d/f"}))
OWN_EXTRACTOR = gzip_layer(("kontext-extractor", b"ELF"), ("etc/motd", b"hi"))
OTHER_LAYER = gzip_layer(("etc/passwd", b""), ("kontext-extractor", b"ELF"))
ZSTD = Digest("sha256:" + "9" * 64)

# The layers below the top one, the digest of the base, the height, and which of them are read
HEIGHTS: dict[str, tuple[list[bytes | Digest], Digest, int, list[int]]] = {
    "a single layer": ([], BASE, 0, []),
    "the shipped base": ([EXTRACTOR], BASE, 1, []),
    "the shipped base and a delta": ([EXTRACTOR, LOWER], BASE, 1, []),
    "a base of one layer": ([OTHER_LAYER, OWN_EXTRACTOR, LOWER], ZSTD, 2, [0, 1]),
    "a base of three layers": (
        [OTHER_LAYER, OTHER_LAYER, OTHER_LAYER, OWN_EXTRACTOR],
        ZSTD,
        4,
        [0, 1, 2, 3],
    ),
    "a base without layers": ([OWN_EXTRACTOR, LOWER], ZSTD, 1, [0]),
    "a base with a layer of another kind": ([b"not gzip", OWN_EXTRACTOR], ZSTD, 2, [0, 1]),
}


@pytest.mark.parametrize(("lower", "base", "height", "opened"), HEIGHTS.values(), ids=HEIGHTS)
def test_a_version_2_image_is_read_whatever_its_base_is(
    lower: list[bytes | Digest], base: Digest, height: int, opened: list[int],
    registry: FakeRegistry,
) -> None:  # fmt: skip
    digests = [layer if isinstance(layer, str) else digest_of(layer) for layer in lower]
    count = len(digests) - height
    ancestors = tuple(
        Ancestor(BASE, height + number, 0, 0, frozenset(), STEP) for number in range(1, count + 1)
    )
    lineage = Lineage(generation=3, layers=tuple(digests), ancestors=ancestors)
    root = version_2(replace(SMALL, lineage=lineage), base)
    top = gzip_layer(root)
    registry.answer(manifest=image_document(*lower, top, manifest=root))
    registry.store(*(layer for layer in lower if isinstance(layer, bytes)), top)
    image = read(registry, with_history=True)
    assert image.height == height
    assert [layer.digest for layer in image.sources] == [*digests[height:], digest_of(top)]
    assert image.is_intact
    assert image.image.extractor is None
    assert image.lineage.layers == tuple(digests[height:])
    assert [ancestor.layers for ancestor in image.lineage.ancestors] == [*range(1, count + 1)]
    read_ = [f"blob host.io/repo@{digests[number]}" for number in opened]
    assert registry.requests[2:-1] == read_, "no layer is opened that tells nothing"


def test_a_version_2_image_without_an_extractor_is_refused(registry: FakeRegistry) -> None:
    lineage = Lineage(layers=(digest_of(OTHER_LAYER),))
    root = version_2(replace(SMALL, lineage=lineage), ZSTD)
    top = gzip_layer(root)
    registry.answer(manifest=image_document(OTHER_LAYER, top, manifest=root))
    registry.store(OTHER_LAYER, top)
    with pytest.raises(InvalidImage, match="none of its layers has the extractor"):
        read(registry)


def test_a_version_2_image_with_a_part_in_its_base_is_refused(registry: FakeRegistry) -> None:
    """The layers of a base are not of a push of Kontext's."""
    held = replace(LARGE.manifest, lineage=replace(LARGE.manifest.lineage, ancestors=()))
    parts = {layer: [] for layer in range(4)}
    for part, (name, document) in zip(held.parts, LARGE.listed, strict=True):
        parts[part.layer].append((name, document))
    lower = [gzip_layer(b"old", *parts[layer]) for layer in range(3)]
    lineage = Lineage(layers=tuple(map(digest_of, lower)))
    root = version_2(replace(held, lineage=lineage), BASE)
    top = gzip_layer(root, *parts[3])
    registry.answer(manifest=image_document(*lower, top, manifest=root))
    registry.store(*lower, top)
    with pytest.raises(InvalidImage, match="a part in a layer of its base"):
        read(registry)


# Media types

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def typed(media_type: str) -> bytes:
    layers = [
        {"digest": LOWER, "size": 1, "mediaType": DOCKER_LAYER},
        {"digest": digest_of(BLOB), "size": len(BLOB), "mediaType": media_type},
    ]
    return image_document(manifest=ROOT, layers=layers)


@pytest.mark.parametrize("media_type", [GZIP_TYPE, DOCKER_LAYER], ids=["OCI", "docker"])
def test_each_layer_keeps_its_media_type(media_type: str, registry: FakeRegistry) -> None:
    registry.answer(manifest=typed(media_type), blob=BLOB)
    layers = read(registry, with_history=True).image.layers
    assert [layer.media_type for layer in layers] == [DOCKER_LAYER, media_type]


@pytest.mark.parametrize("with_history", [False, True])
def test_an_unknown_media_type_of_the_top_layer_is_refused_by_its_name(
    with_history: bool, registry: FakeRegistry
) -> None:
    registry.answer(manifest=typed("application/x-\x1b[2J"), blob=BLOB)
    with pytest.raises(InvalidImage) as raised:
        read(registry, with_history=with_history)
    assert raised.value.reason == r"its layer has the media type 'application/x-\x1b[2J'"


def test_an_unknown_media_type_of_a_layer_that_is_not_read_does_not_matter(
    registry: FakeRegistry,
) -> None:
    """The user's own base may have layers of any kind."""
    layers = [
        {"digest": BASE, "size": 1, "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd"},
        {"digest": digest_of(BLOB), "size": len(BLOB)},
    ]
    registry.answer(manifest=image_document(manifest=ROOT, layers=layers), blob=BLOB)
    assert read(registry, with_history=True).manifest == SMALL


# History: which layers are read

MANY = Tree(
    {f"f{number:05}": "a" * 64 for number in range(2000)},
    {f"f{number:05}": 1 for number in range(2000)},
)
STEPS = [
    ReverseDelta(Tree({f"old{number}": "c" * 64}), frozenset({"f00000"})) for number in range(2)
]


def part_of(document: bytes, layer: int) -> tuple[str, bytes]:
    return Part("", digest_of(document), layer).name, document


class Large:
    """An image in several layers. Those of sources have, from the lowest:

    0. chunks of the listing
    1. the reverse delta of the first ancestor
    2. chunks, and the reverse delta of the second ancestor
    3. manifest.json and a chunk
    """

    def __init__(self) -> None:
        chunks = [
            (start, canonical(columns(MANY.only(some))))
            for start, some in cut(sorted(MANY.paths()))
        ]
        assert len(chunks) > 3
        layers = [0, 2, 3, *[0] * (len(chunks) - 3)]
        parts = [
            Part(start, digest_of(chunk), layer)
            for (start, chunk), layer in zip(chunks, layers, strict=True)
        ]
        self.listed = [
            part_of(chunk, part.layer) for (_, chunk), part in zip(chunks, parts, strict=True)
        ]
        steps = [canonical(reverse_columns(step)) for step in STEPS]
        ancestors = tuple(
            Ancestor(BASE, 1 + index, index, 1, frozenset(), STEPS[index], Part("", digest, layer))
            for index, (digest, layer) in enumerate(zip(map(digest_of, steps), (1, 2), strict=True))
        )
        content = {
            layer: [
                document
                for document, part in zip(self.listed, parts, strict=True)
                if part.layer == layer
            ]
            for layer in range(4)
        }
        content[1].append(part_of(steps[0], 1))
        content[2].append(part_of(steps[1], 2))
        self.lower = [gzip_layer(b"old", *content[layer]) for layer in (0, 1, 2)]
        lineage = Lineage(2, layers=tuple(map(digest_of, self.lower)), ancestors=ancestors)
        self.manifest = Manifest(MANY, lineage, tuple(parts))
        root = encode(self.manifest)
        self.top = gzip_layer(root, *content[3])
        self.document = image_document(
            BASE, *self.lower, self.top, manifest=root, extractor=EXTRACTOR
        )

    def blobs(self, *numbers: int) -> set[str]:
        """Return the requests for these layers of sources."""
        blobs = [*self.lower, self.top]
        return {f"blob host.io/repo@{digest_of(blobs[number])}" for number in numbers}


LARGE = Large()


@pytest.fixture
def large(registry: FakeRegistry) -> FakeRegistry:
    registry.answer(manifest=LARGE.document)
    registry.store(*LARGE.lower, LARGE.top)
    return registry


def test_without_history_only_layers_with_chunks_of_the_listing_are_read(
    large: FakeRegistry,
) -> None:
    image = read(large)
    assert (image.manifest.tree, image.manifest.parts) == (MANY, LARGE.manifest.parts)
    assert image.config is None
    assert large.requests[0] == MANIFEST_REQUEST
    assert len(large.requests) == 4
    assert {*large.requests[1:]} == LARGE.blobs(0, 2, 3)


def test_without_history_no_ancestor_has_a_reverse_delta_from_a_part(large: FakeRegistry) -> None:
    lineage = read(large).manifest.lineage
    assert lineage is not None
    assert [ancestor.image for ancestor in lineage.ancestors] == [BASE, BASE]
    assert [ancestor.reverse_delta for ancestor in lineage.ancestors] == [None, None]


def test_with_history_each_layer_with_a_part_is_read_once(large: FakeRegistry) -> None:
    image = read(large, with_history=True)
    assert image.manifest == LARGE.manifest
    assert image.config == READ_CONFIG
    assert len(large.requests) == 6
    assert {*large.requests[1:-1]} == LARGE.blobs(0, 1, 2, 3)
    assert large.requests[-1] == f"config host.io/repo@{image.image.digest}"


def test_a_missing_layer_with_reverse_deltas_fails_only_a_read_with_history(
    registry: FakeRegistry,
) -> None:
    registry.answer(manifest=LARGE.document)
    registry.store(LARGE.lower[0], LARGE.lower[2], LARGE.top)
    assert read(registry).manifest.tree == MANY
    with pytest.raises(RegistryError):
        read(registry, with_history=True)


LOST: dict[str, tuple[int, bytes, str]] = {
    "no part": (1, gzip_layer(b"old", ("end", b"")), "a part of its manifest is missing"),
    "another part": (
        1,
        gzip_layer(b"old", part_of(b"{}", 1), ("end", b"")),
        "a part of its manifest is missing",
    ),
    "no gzip": (1, b"x" * 99, "is damaged, or not gzip"),
    "damaged part": (
        2,
        gzip_layer(b"old", (part_of(canonical(reverse_columns(STEPS[0])), 2)[0], b"{}")),
        "a part of its manifest is damaged",
    ),
}


@pytest.mark.parametrize(("number", "blob", "reason"), LOST.values(), ids=LOST)
def test_a_layer_without_its_part_is_refused(
    number: int, blob: bytes, reason: str, large: FakeRegistry
) -> None:
    large.answer(digest_of(LARGE.lower[number - 1]), blob=blob)
    with pytest.raises(InvalidImage, match=reason):
        read(large, with_history=True)


@pytest.mark.parametrize("layer", [4, 5, 10**18])
def test_a_part_in_a_layer_above_the_top_is_refused(layer: int, registry: FakeRegistry) -> None:
    """The layer above is the extractor's."""
    parts = tuple(replace(part, layer=layer) for part in LARGE.manifest.parts)
    root = encode(replace(LARGE.manifest, parts=parts))
    top = gzip_layer(root)
    document = image_document(BASE, *LARGE.lower, top, manifest=root, extractor=EXTRACTOR)
    registry.answer(manifest=document, blob=top)
    with pytest.raises(InvalidImage, match="in a layer that it does not have"):
        read(registry)


# Invalid images

EVIL = ROOT.replace(b'"d/f"', b'"../f"')
OTHER = encode(Manifest(SMALL.tree, Lineage(generation=7)))

INVALID: dict[str, tuple[dict[str, bytes], str]] = {
    "no JSON": ({"manifest": b"<html>"}, "it is not JSON"),
    "no image": ({"manifest": b"{}"}, "'schemaVersion'"),
    "no layers": ({"manifest": image_document(manifest=ROOT)}, "it has no layers of sources"),
    "the extractor alone": (
        {"manifest": image_document(manifest=ROOT, extractor=EXTRACTOR)},
        "it has no layers of sources",
    ),
    "no gzip": ({"blob": b"x" * 99}, "its layer is damaged, or not gzip"),
    "layer of another tool": (
        {"blob": gzip_layer(("etc/passwd", ROOT))},
        "it has no manifest of Kontext's",
    ),
    "manifest of another image": (
        {"blob": gzip_layer(OTHER)},
        "its manifest is not the one that the image names",
    ),
    "annotation lost": (
        {"manifest": image_document(BASE, BLOB)},
        "it has lost the annotation that vouches for its manifest",
    ),
    "annotation without a digest": (
        {"manifest": image_document(BASE, BLOB, annotations={MANIFEST_ANNOTATION: "x"})},
        "it has lost the annotation that vouches for its manifest",
    ),
    "an unsafe path": (
        {"manifest": image_document(BASE, BLOB, manifest=EVIL), "blob": gzip_layer(EVIL)},
        "it lists the path '../f'",
    ),
    "broken manifest": (
        {"manifest": image_document(BASE, BLOB), "blob": gzip_layer(b"{")},
        "it is not JSON",
    ),
    "manifest of the future": (
        {"manifest": image_document(BASE, BLOB), "blob": gzip_layer(b'{"version":4}')},
        "unknown version 4",
    ),
}


@pytest.mark.parametrize("with_history", [False, True])
@pytest.mark.parametrize(("answers", "reason"), INVALID.values(), ids=INVALID)
def test_an_invalid_image_is_refused_with_a_reason(
    answers: dict[str, bytes], reason: str, with_history: bool, registry: FakeRegistry
) -> None:
    registry.answer(**{"manifest": DOCUMENT, "blob": BLOB} | answers)
    with pytest.raises(InvalidImage) as raised:
        read(registry, with_history=with_history)
    error = raised.value
    assert reason in error.reason
    assert error.message == f"host.io/repo:t is not an image of Kontext's: {error.reason}"
    assert "docker kontext push" in error.hint
    assert isinstance(error, KontextError) and error.exit_code == 1


CONFIGS: dict[str, bytes] = {
    "no JSON": b"no",
    "no platform": b"{}",
    "an entrypoint that is no list": CONFIG.replace(b'["/e"]', b'"/e"'),
    "an entrypoint that is a number": CONFIG.replace(b'["/e"]', b"5"),
    "an entrypoint that is a map": CONFIG.replace(b'["/e"]', b'{"/e":1}'),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_invalid_configuration_is_refused_where_it_is_read(
    config: bytes, registry: FakeRegistry
) -> None:
    registry.answer(manifest=DOCUMENT, blob=BLOB, config=config)
    with pytest.raises(InvalidImage):
        read(registry, with_history=True)
    assert read(registry) == WITHOUT_HISTORY


ERRORS: dict[str, tuple[dict[str, bytes], type[RegistryError]]] = {
    "no tag": ({"manifest_error": b"Error: MANIFEST_UNKNOWN"}, NotFound),
    "layer gone": ({"blob_error": b"Error: BLOB_UNKNOWN"}, NotFound),
    "configuration gone": ({"config_error": b"Error: BLOB_UNKNOWN"}, NotFound),
    "no answer": ({"manifest_error": b"Error: dial tcp: connection refused"}, RegistryError),
    "no answer at the layer": ({"blob_error": b"Error: connection refused"}, RegistryError),
}


@pytest.mark.parametrize(("answers", "error"), ERRORS.values(), ids=ERRORS)
def test_a_registry_that_fails_is_not_taken_for_an_invalid_image(
    answers: dict[str, bytes], error: type[RegistryError], registry: FakeRegistry
) -> None:
    registry.answer(**{"manifest": DOCUMENT, "blob": BLOB} | answers)
    with pytest.raises(error):
        read(registry, with_history=True)


# Single documents


def test_the_layers_of_an_image_are_none_where_it_cannot_be_read(registry: FakeRegistry) -> None:
    answers: list[tuple[dict[str, bytes], set[str]]] = [
        ({"manifest": image_document(BASE, BLOB)}, {BASE, digest_of(BLOB)}),
        ({"manifest": b'{"schemaVersion":2,"manifests":[]}'}, set()),
        ({"manifest": b"<html>"}, set()),
        ({"manifest_error": b"Error: MANIFEST_UNKNOWN"}, set()),
    ]
    with registry.crane as crane:
        for answer, layers in answers:
            registry.answer(**answer)
            assert fetch_layers(crane, "host.io/repo:t") == layers


def test_a_configuration_that_is_not_valid_is_an_invalid_image(registry: FakeRegistry) -> None:
    with registry.crane as crane:
        assert fetch_config(crane, NAME, IMAGE) == ImageConfig("linux/amd64", ("/e",))
        registry.answer(config=b"{}")
        with pytest.raises(InvalidImage, match="its configuration is invalid: 'os'"):
            fetch_config(crane, NAME, IMAGE)


BAD_LAYERS: dict[str, Any] = {
    "another algorithm": {"digest": "sha512:" + "a" * 128, "size": 1},
    "no digest": {"size": 1},
    "negative size": {"digest": BASE, "size": -1},
    "a size that is no integer": {"digest": BASE, "size": 1.0},
    "a media type that is no string": {"digest": BASE, "size": 1, "mediaType": ["x"]},
}


@pytest.mark.parametrize("layer", BAD_LAYERS.values(), ids=BAD_LAYERS)
def test_a_bad_layer_is_an_invalid_document(layer: Any) -> None:
    with pytest.raises(InvalidDocument):
        parse_image(image_document(layers=[layer]))
