"""How the cache encodes its records: what was encoded comes back, and all else is as if absent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support.models import described
from support.trees import Directory, File, Link

from kontext_plugin.cache.records import decode_image, decode_stats, encode_image, encode_stats
from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer, digest_of
from kontext_plugin.manifest import Lineage, Manifest, encode
from kontext_plugin.registry.fetch import KontextImage

A, B = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
STATS = {"d/é\n": b"/\n1\0", "f": b"\xff", "": b""}
MANIFEST = Manifest(
    described({"d": Directory(), "d/f": File(b"x", executable=True), "l": Link("é\n")}),
    Lineage(A, B, "linux/amd64", generation=2, layers=(A, B), labels={"k": "v"}),
)
IMAGE = KontextImage(
    Image(A, (Layer(B, 5), Layer(A, 7, "application/x")), digest_of(encode(MANIFEST))),
    MANIFEST,
    ImageConfig("linux/amd64", ("/e",), "/w", {"k": "v"}, {"Env": ["A=b"]}),
    known=frozenset({B}),
)


def encoded_image() -> tuple[dict[str, Any], memoryview]:
    """Return the record and the listing of IMAGE, as they come back from a file."""
    record, listing = encode_image(IMAGE)
    return json.loads(json.dumps(record)), memoryview(b"".join(listing))


def test_an_image_comes_back() -> None:
    assert decode_image(*encoded_image(), A) == replace(IMAGE, is_cached=True)


def test_an_image_of_another_digest_is_as_if_absent() -> None:
    assert decode_image(*encoded_image(), B) is None


WRONG_IMAGES: dict[str, dict[str, Any]] = {
    "of another version": {"version": "kontext published 2"},
    "layers of another shape": {"layers": [1]},
    "no layers": {"layers": None},
    "no document": {"document": None},
    "a document of another shape": {"document": []},
    "no configuration": {"config": None},
    "a configuration of another shape": {"config": {"os": "linux"}},
    "parts of another shape": {"starts": 7},
}


@pytest.mark.parametrize("changes", WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_an_image_of_another_shape_is_as_if_absent(changes: dict[str, Any]) -> None:
    record, listing = encoded_image()
    assert decode_image(record | changes, listing, A) is None


@pytest.mark.parametrize("key", sorted(encoded_image()[0].keys()))
def test_an_image_without_a_key_is_as_if_absent(key: str) -> None:
    record, listing = encoded_image()
    del record[key]
    assert decode_image(record, listing, A) is None


def test_no_image() -> None:
    assert decode_image({}, memoryview(b""), A) is None


@pytest.mark.parametrize("stats", [STATS, {}], ids=["some", "none"])
def test_a_stat_cache_comes_back(stats: dict[str, bytes]) -> None:
    index, records = encode_stats(stats)
    content = memoryview(b"".join(records))
    assert decode_stats(json.loads(json.dumps(index)), content) == stats


WRONG_STATS: dict[str, dict[str, Any]] = {
    "of another version": {"version": "kontext stats 1"},
    "fewer lengths": {"lengths": [4, 1]},
    "lengths of another shape": {"lengths": ["4", "1", "0"]},
    "folders of another shape": {"folders": 7},
    "no folders": {"folders": []},
}


@pytest.mark.parametrize("changes", WRONG_STATS.values(), ids=WRONG_STATS)
def test_a_stat_cache_of_another_shape_is_as_if_absent(changes: dict[str, Any]) -> None:
    index, records = encode_stats(STATS)
    assert decode_stats(index | changes, memoryview(b"".join(records))) == {}


def test_no_stat_cache() -> None:
    assert decode_stats({}, memoryview(b"")) == {}
