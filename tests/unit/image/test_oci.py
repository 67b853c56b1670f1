"""Digests, image manifests and configurations as the OCI image specification defines them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.image.oci import (
    GZIP_LAYER,
    MANIFEST_ANNOTATION,
    Digest,
    Image,
    ImageConfig,
    Layer,
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


# Configurations

TEXT = st.text(min_size=1, max_size=8)
NAMES = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
JSON = st.recursive(
    st.booleans() | st.integers() | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=5,
)
CONFIGS = st.builds(
    ImageConfig,
    platform=st.builds("{}/{}".format, NAMES, NAMES),
    entrypoint=st.lists(TEXT, max_size=3).map(tuple),
    working_directory=st.text(max_size=8),
    labels=st.dictionaries(TEXT, st.text(max_size=8), max_size=3),
    other=st.dictionaries(TEXT.map("X{}".format), JSON.filter(bool), max_size=3),
)


@given(CONFIGS)
def test_a_configuration_is_read_back_as_it_was_written(config: ImageConfig) -> None:
    assert config_from_document(json.loads(json.dumps(config.document()))) == config


@given(CONFIGS, st.dictionaries(TEXT, TEXT, max_size=3))
def test_labels_are_added_and_replace_those_of_the_same_name(
    config: ImageConfig, labels: dict[str, str]
) -> None:
    both = config.with_labels(labels)
    assert both.labels == {**config.labels, **labels}
    assert both.document() == config.document() | {
        "config": config.document()["config"] | {"Labels": both.labels}
    }


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
    }
    assert config_from_document(parsed) == ImageConfig(
        "linux/arm64", ("/e", "x"), "/w", {"k": "v"}, {"Env": ["A=b"], "Cmd": ["c"]}
    )
