"""Digests, image manifests and configurations as the OCI image specification defines them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.image.oci import (
    BASE_DIGEST_ANNOTATION,
    BASE_NAME_ANNOTATION,
    EXTRACTOR_ANNOTATION,
    GZIP_LAYER,
    MANIFEST_ANNOTATION,
    OCI_INDEX,
    OCI_MANIFEST,
    REPLACES_ANNOTATION,
    Digest,
    Image,
    ImageConfig,
    Layer,
    children_of,
    config_from_document,
    digest_of,
    image_from_document,
    is_index,
    parse_digest,
)

A, B = (Digest("sha256:" + letter * 64) for letter in "ab")

# Digests


@given(st.binary())
def test_the_digest_of_content_is_its_sha_256(content: bytes) -> None:
    digest = digest_of(content)
    assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert parse_digest(digest) == digest


BAD_DIGESTS = {
    "empty": "",
    "no algorithm": "a" * 64,
    "another algorithm": "sha512:" + "a" * 128,
    "too short": "sha256:" + "a" * 63,
    "too long": "sha256:" + "a" * 65,
    "upper case": "sha256:" + "A" * 64,
    "no hex digit": "sha256:" + "g" * 64,
    "line end": A + "\n",
    "other digits": "sha256:" + "٣" * 64,
}


@pytest.mark.parametrize("text", BAD_DIGESTS.values(), ids=BAD_DIGESTS)
def test_only_a_sha_256_digest_is_parsed(text: str) -> None:
    with pytest.raises(ValueError, match="not a sha256 digest"):
        parse_digest(text)


# Images

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"


def document(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": {"digest": B, "size": 2}, "layers": [*layers], **more}


@pytest.mark.parametrize("media_type", [GZIP_LAYER, DOCKER_LAYER, ZSTD_LAYER])
def test_a_layer_keeps_its_media_type(media_type: str) -> None:
    read = image_from_document(B, document({"digest": A, "size": 5, "mediaType": media_type}))
    assert read == Image(B, (Layer(A, 5, media_type),), None)


@pytest.mark.parametrize("layer", [{}, {"mediaType": ""}], ids=["absent", "empty"])
def test_a_layer_without_a_media_type_is_gzip(layer: dict[str, Any]) -> None:
    read = image_from_document(B, document({"digest": A, "size": 5, **layer}))
    assert read.layers == (Layer(A, 5, GZIP_LAYER),)


ANNOTATIONS: dict[str, tuple[dict[str, Any], Digest | None]] = {
    "a digest": ({"annotations": {MANIFEST_ANNOTATION: A}}, A),
    "no annotations": ({}, None),
    "null": ({"annotations": None}, None),
    "others": ({"annotations": {"k": A}}, None),
    "no digest": ({"annotations": {MANIFEST_ANNOTATION: "x"}}, None),
    "empty": ({"annotations": {MANIFEST_ANNOTATION: ""}}, None),
}


@pytest.mark.parametrize(("more", "manifest"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_the_annotation_names_the_manifest(more: dict[str, Any], manifest: Digest | None) -> None:
    assert image_from_document(B, document(**more)).manifest == manifest


@pytest.mark.parametrize("key", ["extractor", "base", "replaces"])
@pytest.mark.parametrize("value", ["x", "", A + "\n"], ids=["text", "empty", "line end"])
def test_an_annotation_that_is_no_digest_counts_as_absent(key: str, value: str) -> None:
    name = {
        "extractor": EXTRACTOR_ANNOTATION,
        "base": BASE_DIGEST_ANNOTATION,
        "replaces": REPLACES_ANNOTATION,
    }[key]
    read = image_from_document(B, document({"digest": A, "size": 5}, annotations={name: value}))
    assert read == Image(B, (Layer(A, 5),), None)


def test_the_base_and_what_an_image_replaces_are_read() -> None:
    annotations = {
        BASE_DIGEST_ANNOTATION: A,
        BASE_NAME_ANNOTATION: "alpine:3",
        REPLACES_ANNOTATION: B,
    }
    read = image_from_document(B, document(annotations=annotations))
    assert (read.base, read.base_name, read.replaces) == (A, "alpine:3", B)


EXTRACTORS: dict[str, tuple[list[Digest], Digest | None]] = {
    "on top": ([B, A], A),
    "alone": ([A], A),
    "at the bottom": ([A, B], None),
    "nowhere": ([B], None),
    "no layers": ([], None),
}


@pytest.mark.parametrize(("layers", "extractor"), EXTRACTORS.values(), ids=EXTRACTORS)
def test_only_the_top_layer_can_be_the_extractors(
    layers: list[Digest], extractor: Digest | None
) -> None:
    """An image built from one of Kontext's may keep the annotation, below layers of its own."""
    listed = [{"digest": layer, "size": 5} for layer in layers]
    read = image_from_document(B, document(*listed, annotations={EXTRACTOR_ANNOTATION: A}))
    assert read.extractor == extractor


def test_the_size_of_an_image_is_that_of_its_layers() -> None:
    assert Image(A, (), None).size == 0
    assert Image(A, (Layer(A, 5), Layer(B, 7)), None).size == 12


INDEXES: dict[str, tuple[dict[str, Any], bool]] = {
    "OCI index": ({"mediaType": "application/vnd.oci.image.index.v1+json"}, True),
    "docker list": (
        {"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json"},
        True,
    ),
    "by its field": ({"manifests": []}, True),
    "image": (document(mediaType="application/vnd.oci.image.manifest.v1+json"), False),
    "no media type": (document(), False),
    "strange media type": ({"mediaType": ["application/vnd.oci.image.index.v1+json"]}, False),
}


@pytest.mark.parametrize(("parsed", "expected"), INDEXES.values(), ids=INDEXES)
def test_an_index_is_told_from_an_image(parsed: dict[str, Any], expected: bool) -> None:
    assert is_index(parsed) is expected


def entry(digest: Digest, platform: object, media_type: str = OCI_MANIFEST) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": 1, "platform": platform}


AMD = {"os": "linux", "architecture": "amd64"}
CHILDREN: dict[str, tuple[list[dict[str, Any]], dict[str, Digest]]] = {
    "none": ([], {}),
    "two": (
        [entry(A, AMD), entry(B, AMD | {"architecture": "arm64"})],
        {"linux/amd64": A, "linux/arm64": B},
    ),
    "the first of two variants": (
        [entry(A, AMD | {"variant": "v1"}), entry(B, AMD | {"variant": "v2"})],
        {"linux/amd64": A},
    ),
    "an attestation of buildx": (
        [entry(A, AMD), entry(B, {"os": "unknown", "architecture": "unknown"})],
        {"linux/amd64": A},
    ),
    "without a platform": (
        [entry(B, None), entry(B, {}), entry(B, {"os": "linux"}), entry(A, AMD)],
        {"linux/amd64": A},
    ),
    "an index in an index": ([entry(A, AMD), entry(B, AMD, OCI_INDEX)], {"linux/amd64": A}),
}


@pytest.mark.parametrize(("entries", "children"), CHILDREN.values(), ids=CHILDREN)
def test_the_children_of_an_index_are_the_images_that_can_run(
    entries: list[dict[str, Any]], children: dict[str, Digest]
) -> None:
    assert children_of({"manifests": entries}) == children


# Configurations

TEXT = st.text(min_size=1, max_size=8)
NAMES = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
DIGESTS = st.sampled_from([A, B])
CONFIGS = st.builds(
    ImageConfig,
    platform=st.builds("{}/{}".format, NAMES, NAMES),
    entrypoint=st.lists(TEXT, max_size=3).map(tuple),
    working_directory=st.text(max_size=8),
    labels=st.dictionaries(TEXT, st.text(max_size=8), max_size=3),
    diff_ids=st.lists(DIGESTS, max_size=3).map(tuple),
    created=st.sampled_from(["", "2026-01-02T03:04:05Z"]),
)


@given(CONFIGS)
def test_a_configuration_is_read_back_as_it_was_written(config: ImageConfig) -> None:
    assert config_from_document(json.loads(json.dumps(config.document()))) == config


EMPTY: dict[str, dict[str, Any]] = {
    "no config": {},
    "null": {"config": None},
    "empty": {"config": {}},
    "empty settings": {
        "config": {"Entrypoint": [], "WorkingDir": "", "Labels": {}, "Env": [], "User": ""}
    },
    "null settings": {
        "config": {"Entrypoint": None, "WorkingDir": None, "Labels": None, "Cmd": None}
    },
    "false": {"config": {"ArgsEscaped": False}},
    "no time": {"created": ""},
    "no time, as crane writes it": {"created": "0001-01-01T00:00:00Z"},
    "null fields": {"rootfs": None, "created": None},
    "no diff IDs": {"rootfs": {"type": "layers", "diff_ids": None}},
}


@pytest.mark.parametrize("config", EMPTY.values(), ids=EMPTY)
def test_empty_settings_mean_the_same_as_none(config: dict[str, Any]) -> None:
    read = config_from_document({"os": "linux", "architecture": "amd64", **config})
    assert read == ImageConfig("linux/amd64")


def test_each_setting_has_its_place() -> None:
    parsed = {
        "os": "linux",
        "architecture": "arm64",
        "config": {
            "Entrypoint": ["/e", "x"],
            "WorkingDir": "/w",
            "Labels": {"k": "v"},
            "Env": ["A=b"],
            "Cmd": ["c"],
        },
        "rootfs": {"type": "layers", "diff_ids": [A, B]},
        "created": "2026-01-02T03:04:05Z",
    }
    assert config_from_document(parsed) == ImageConfig(
        "linux/arm64", ("/e", "x"), "/w", {"k": "v"}, (A, B), "2026-01-02T03:04:05Z"
    )


@pytest.mark.parametrize(
    "created", ["2020\ud800", "\x1b]0;evil\x07", "yesterday", "0001-01-01T00:00:00Z", ""]
)
def test_what_names_no_time_is_no_time(created: str) -> None:
    document = {"os": "linux", "architecture": "amd64", "created": created}
    assert config_from_document(document).created == ""


def test_labels_that_are_not_utf_8_are_left_out() -> None:
    """Later manifests take the label of the commit over."""
    labels = {"a": "b", "c": "\ud800", "\udc00": "d"}
    document = {"os": "linux", "architecture": "amd64", "config": {"Labels": labels}}
    assert config_from_document(document).labels == {"a": "b"}
