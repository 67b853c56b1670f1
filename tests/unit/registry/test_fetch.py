"""Reading an image from a registry: only valid images, and no more requests than needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_registry import FakeRegistry, gzip_layer, image_document
from support.models import described
from support.trees import Directory, File

from kontext_plugin.crane_driver.errors import NotFound, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.chunking import boundaries, segments, split_segment
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
    canonical,
    columns,
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
BASE = Digest("sha256:" + "b" * 64)
LINEAGE = Lineage(BASE, BASE, "linux/amd64", layers=(BASE,))
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

DOCUMENT = image_document(BASE, BLOB, manifest=ROOT)
IMAGE = Image(
    digest_of(DOCUMENT), (Layer(BASE, 1), Layer(digest_of(BLOB), len(BLOB))), digest_of(ROOT)
)
MANIFEST_REQUEST = "manifest host.io/repo:t"
TOP_REQUEST = f"blob host.io/repo@{digest_of(BLOB)}"
CONFIG_REQUEST = f"config host.io/repo@{IMAGE.digest}"


def test_an_image_is_read_with_two_requests(registry: FakeRegistry) -> None:
    registry.answer(manifest=DOCUMENT, blob=BLOB)
    assert read(registry) == KontextImage(IMAGE, SMALL)
    assert registry.requests == [MANIFEST_REQUEST, TOP_REQUEST]


def test_an_image_with_history_has_its_configuration(registry: FakeRegistry) -> None:
    registry.answer(manifest=DOCUMENT, blob=BLOB)
    config = ImageConfig("linux/amd64", ("/e",))
    assert read(registry, with_history=True) == KontextImage(IMAGE, SMALL, config)
    assert registry.requests == [MANIFEST_REQUEST, TOP_REQUEST, CONFIG_REQUEST]


def test_a_document_that_is_known_is_not_asked_for_again(registry: FakeRegistry) -> None:
    registry.answer(blob=BLOB)
    with registry.crane as crane, ThreadPoolExecutor(1) as requests:
        assert fetch_by_document(crane, requests, NAME, DOCUMENT) == KontextImage(IMAGE, SMALL)
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


# Media types

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def typed(media_type: str) -> bytes:
    layers = [
        {"digest": BASE, "size": 1, "mediaType": DOCKER_LAYER},
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
    """An image in several layers, from the lowest: the base; chunks of the listing; the reverse
    delta of the first ancestor; chunks and the reverse delta of the second; manifest.json and a
    chunk."""

    def __init__(self) -> None:
        starts = boundaries(MANY)
        listed = segments(MANY, starts, range(len(starts)))
        chunks = [
            (start, canonical(columns(MANY.only(paths))))
            for boundary, segment in zip(starts, listed, strict=True)
            for start, paths in split_segment(boundary, segment)
        ]
        assert len(chunks) > 3
        layers = [1, 3, 4, *[1] * (len(chunks) - 3)]
        parts = [
            Part(start, digest_of(chunk), layer)
            for (start, chunk), layer in zip(chunks, layers, strict=True)
        ]
        steps = [canonical(reverse_columns(step)) for step in STEPS]
        ancestors = tuple(
            Ancestor(BASE, 2 + index, index, 1, frozenset(), STEPS[index], Part("", digest, layer))
            for index, (digest, layer) in enumerate(zip(map(digest_of, steps), (2, 3), strict=True))
        )
        content = {
            layer: [
                part_of(chunk, layer)
                for (_, chunk), part in zip(chunks, parts, strict=True)
                if part.layer == layer
            ]
            for layer in range(5)
        }
        content[2].append(part_of(steps[0], 2))
        content[3].append(part_of(steps[1], 3))
        self.lower = [gzip_layer(b"old", *content[layer]) for layer in (1, 2, 3)]
        lineage = replace(
            LINEAGE, layers=(BASE, *map(digest_of, self.lower)), ancestors=ancestors, generation=2
        )
        self.manifest = Manifest(MANY, lineage, tuple(parts))
        root = encode(self.manifest)
        self.top = gzip_layer(root, *content[4])
        self.document = image_document(BASE, *self.lower, self.top, manifest=root)

    def blobs(self, *numbers: int) -> set[str]:
        """Return the requests for these layers; 0 is the base."""
        blobs = [b"", *self.lower, self.top]
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
    assert {*large.requests[1:]} == LARGE.blobs(1, 3, 4)


def test_without_history_no_ancestor_has_a_reverse_delta_from_a_part(large: FakeRegistry) -> None:
    lineage = read(large).manifest.lineage
    assert lineage is not None
    assert [ancestor.image for ancestor in lineage.ancestors] == [BASE, BASE]
    assert [ancestor.reverse_delta for ancestor in lineage.ancestors] == [None, None]


def test_with_history_each_layer_with_a_part_is_read_once(large: FakeRegistry) -> None:
    image = read(large, with_history=True)
    assert image.manifest == LARGE.manifest
    assert image.config == ImageConfig("linux/amd64", ("/e",))
    assert len(large.requests) == 6
    assert {*large.requests[1:-1]} == LARGE.blobs(1, 2, 3, 4)
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


def test_a_part_in_a_layer_above_the_top_is_refused(registry: FakeRegistry) -> None:
    parts = tuple(replace(part, layer=5) for part in LARGE.manifest.parts)
    root = encode(replace(LARGE.manifest, parts=parts))
    top = gzip_layer(root)
    registry.answer(manifest=image_document(BASE, *LARGE.lower, top, manifest=root), blob=top)
    with pytest.raises(InvalidImage, match="in a layer that it does not have"):
        read(registry)


# Invalid images

EVIL = ROOT.replace(b'"d/f"', b'"../f"')
OTHER = encode(Manifest(SMALL.tree, Lineage(BASE, BASE, "linux/arm64")))

INVALID: dict[str, tuple[dict[str, bytes], str]] = {
    "no JSON": ({"manifest": b"<html>"}, "it is not JSON"),
    "no image": ({"manifest": b"{}"}, "'schemaVersion'"),
    "index": (
        {"manifest": b'{"schemaVersion":2,"manifests":[]}'},
        "it is an index of several platforms",
    ),
    "no layers": ({"manifest": image_document(manifest=ROOT)}, "it has no layers"),
    "no gzip": ({"blob": b"x" * 99}, "its layer is damaged, or not gzip"),
    "layer of another tool": (
        {"blob": gzip_layer(("etc/passwd", ROOT))},
        "its top layer does not start with a manifest",
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
        {"manifest": image_document(BASE, BLOB), "blob": gzip_layer(b'{"version":3}')},
        "unknown version 3",
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
    assert read(registry) == KontextImage(IMAGE, SMALL)


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


def test_a_configuration_that_is_not_valid_is_an_invalid_document(registry: FakeRegistry) -> None:
    with registry.crane as crane:
        assert fetch_config(crane, "host.io/repo:t") == ImageConfig("linux/amd64", ("/e",))
        registry.answer(config=b"{}")
        with pytest.raises(InvalidDocument, match="'os'"):
            fetch_config(crane, "host.io/repo:t")


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
