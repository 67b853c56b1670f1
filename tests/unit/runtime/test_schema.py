"""JSON from outside is a document of a known shape, or one error with its place."""

from __future__ import annotations

import contextlib
import json
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin import manifest
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.tree import ReverseDelta, Tree
from kontext_plugin.runtime.schema import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    InvalidDocument,
    load_document,
    load_manifest,
    parse_json,
)

DIGEST = "sha256:" + "a" * 64
DEEP = 100_000

GOOD = json.loads(
    manifest.encode(
        manifest.Manifest(
            Tree({"a": "b" * 64}, {"a": 1}),
            manifest.Lineage(
                layers=(Digest(DIGEST),),
                ancestors=(
                    manifest.Ancestor(
                        Digest(DIGEST), 1, 0, 0, frozenset(), ReverseDelta(), None, "2026", "abc"
                    ),
                ),
            ),
        )
    )
)
VERSION_2 = GOOD | {
    "version": 2,
    "base": DIGEST,
    "extractor": DIGEST,
    "platform": "linux/amd64",
    "labels": {"k": "v"},
}
IMAGE = {
    "schemaVersion": 2,
    "config": {"digest": DIGEST, "size": 1},
    "layers": [{"digest": DIGEST, "size": 1}],
}


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


BROKEN = {
    "nothing": b"",
    "cut off": b'{"files":{',
    "no JSON": b"files",
    "two documents": b"{}{}",
    "not UTF-8": b'{"files":{"\xff":""}}',
    "NUL": b"\0",
    "list": b"[]",
    "string": b'"files"',
    "number": b"1",
    "null": b"null",
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep and closed": b'{"files":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "huge number": b'{"version":' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("load", [parse_json, load_manifest], ids=["parse", "manifest"])
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_all_but_a_json_object_is_rejected(load: Any, content: bytes) -> None:
    with pytest.raises(InvalidDocument, match=r"not JSON|no JSON object|too deep") as raised:
        load(content)
    assert len(str(raised.value)) < 300, "the message repeats the input"


# The JSON decoder allows this depth; the validator does not.
@pytest.mark.parametrize("depth", [100, 300, 500, 900])
def test_deep_nesting_is_rejected_under_every_key(depth: int) -> None:
    deep: Any = []
    for _ in range(depth):
        deep = [deep]
    for key in GOOD:
        with pytest.raises(manifest.InvalidManifest):
            manifest.decode(manifest.read_root(encoded(GOOD | {key: deep})), {})


VERSIONS = ["4", "0", "-1", '"2"', "true", "false", "null", "1e9", "3.0", "2.0", "1.0"]
VERSIONS += ["[2]", "{}", '"' + "2" * 1000 + '"', "9" * 4000]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version[:20])
def test_an_unknown_version_is_named(version: str) -> None:
    content = encoded(GOOD).replace(b'"version": 3', b'"version": ' + version.encode())
    with pytest.raises(InvalidDocument, match="unknown version") as raised:
        load_manifest(content)
    assert len(str(raised.value)) < 300


WRONG_IN_BOTH = {
    "files list": ("files", [], "files"),
    "files null": ("files", None, "files"),
    "sizes object": ("sizes", {"a": 1}, "sizes"),
    "executable text": ("executable", "a", "executable"),
    "generation negative": ("generation", -1, "generation"),
    "generation text": ("generation", "1", "generation"),
    "layers short": ("layers", ["sha256:abc"], "layers/0"),
    "layers many": ("layers", [DIGEST] * 1001, "layers"),
    "layers and newline": ("layers", [DIGEST + "\n"], "layers/0"),
    "layers sha512": ("layers", ["sha512:" + "a" * 128], "layers/0"),
    "replaced object": ("replacedDirectories", {}, "replacedDirectories"),
}

WRONG_ANCESTORS: dict[str, tuple[dict[str, Any], str]] = {
    "image null": ({"image": None}, "image"),
    "created number": ({"created": 7}, "created"),
    "created long": ({"created": "2" * 65}, "created"),
    "revision null": ({"revision": None}, "revision"),
    "revision long": ({"revision": "a" * 101}, "revision"),
}

WRONG_IN_VERSION_2 = {
    "base no digest": ("base", "sha256:", "base"),
    "base and newline": ("base", DIGEST + "\n", "base"),
    "base sha512": ("base", "sha512:" + "a" * 128, "base"),
    "extractor null": ("extractor", None, "extractor"),
    "platform upper": ("platform", "Linux/amd64", "platform"),
    "platform long": ("platform", "linux/" + "a" * 99, "platform"),
    "label number": ("labels", {"k": 1}, "labels/k"),
}

WRONG: dict[str, tuple[dict[str, Any], str, Any, str]] = {
    **{name: (GOOD, *wrong) for name, wrong in WRONG_IN_BOTH.items()},
    **{
        name: (GOOD, "ancestors", [GOOD["ancestors"][0] | changes], f"ancestors/0/{place}")
        for name, (changes, place) in WRONG_ANCESTORS.items()
    },
    **{
        f"version 2, {name}": (VERSION_2, *wrong)
        for name, wrong in (WRONG_IN_BOTH | WRONG_IN_VERSION_2).items()
    },
}


@pytest.mark.parametrize(("good", "key", "value", "place"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_rejected_with_its_place(
    good: dict[str, Any], key: str, value: Any, place: str
) -> None:
    assert load_manifest(encoded(good)) == good
    with pytest.raises(InvalidDocument) as raised:
        load_manifest(encoded(good | {key: value}))
    assert str(raised.value).startswith(f"{place}: ")
    assert len(str(raised.value)) < 300


WRONG_COLUMNS: dict[str, tuple[str, Any]] = {
    "digest short": ("files", {"a": "b" * 63}),
    "digest upper": ("files", {"a": "B" * 64}),
    "digest and newline": ("files", {"a": "b" * 64 + "\n"}),
    "digest null": ("files", {"a": None}),
    "digest number": ("files", {"a": 1}),
    "size negative": ("sizes", [-1]),
    "size text": ("sizes", ["1"]),
    "size true": ("sizes", [True]),
    "size fraction": ("sizes", [1.5]),
    "size NaN": ("sizes", [float("nan")]),
    "size infinite": ("sizes", [float("inf")]),
    "executable twice": ("executable", ["a", "a"]),
    "executable number": ("executable", [1]),
    "link null": ("links", {"l": None}),
    "link empty": ("links", {"l": ""}),
    "replaced number": ("replacedDirectories", [1]),
    "size too large": ("sizes", [2**63]),
    "sizes of two kinds": ("sizes", [1, "1"]),
}


@pytest.mark.parametrize(("key", "value"), WRONG_COLUMNS.values(), ids=WRONG_COLUMNS)
def test_a_wrong_value_in_a_column_is_rejected(key: str, value: Any) -> None:
    """By the published schema, and by manifest.decode without it: jsonschema is slow."""
    for name, good in (("manifest-v3", GOOD), ("manifest-v2", VERSION_2)):
        document = good | {key: value}
        assert published_schema(name).is_valid(good)
        assert not published_schema(name).is_valid(document)
        with pytest.raises(manifest.InvalidManifest):
            manifest.decode(manifest.read_root(encoded(document)), {})


def published_schema(name: str) -> jsonschema.Draft202012Validator:
    path = resources.files("kontext_plugin").joinpath("schemas", f"{name}.json")
    return jsonschema.Draft202012Validator(json.loads(path.read_bytes()))


@pytest.mark.parametrize("key", sorted(GOOD.keys() - {"version"}))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InvalidDocument, match=f"'{key}' is a required property"):
        load_manifest(encoded({k: v for k, v in GOOD.items() if k != key}))


def test_version_1_has_only_files() -> None:
    assert load_manifest(b'{"files":{"a":""}}') == {"files": {"a": ""}}
    with pytest.raises(InvalidDocument, match="sizes"):
        load_manifest(b'{"files":{},"sizes":[]}')


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    content = encoded(GOOD).replace(b'"files":', b'"files": {"../../etc/passwd": ""}, "files":', 1)
    assert b"passwd" in content
    assert load_manifest(content) == GOOD


WRONG_IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "version 1": ({"schemaVersion": 1}, "schemaVersion"),
    "layers object": ({"layers": {}}, "layers"),
    "layer text": ({"layers": ["x"]}, "layers/0"),
    "layer without digest": ({"layers": [{"size": 1}]}, "layers/0"),
    "layer without size": ({"layers": [{"digest": DIGEST}]}, "layers/0"),
    "digest with a path": ({"layers": [{"digest": "../../x", "size": 1}]}, "layers/0/digest"),
    "digest, newline": ({"layers": [{"digest": DIGEST + "\n", "size": 1}]}, "layers/0/digest"),
    "size negative": ({"layers": [{"digest": DIGEST, "size": -1}]}, "layers/0/size"),
    "size text": ({"layers": [{"digest": DIGEST, "size": "1"}]}, "layers/0/size"),
    "many layers": ({"layers": IMAGE["layers"] * 1001}, "layers"),
    "config null": ({"config": None}, "config"),
    "media type list": ({"mediaType": []}, "mediaType"),
    "annotations list": ({"annotations": []}, "annotations"),
    "annotation null": (
        {"annotations": {"dev.kontext.manifest": None}},
        "annotations/dev.kontext.manifest",
    ),
    "size with a fraction": ({"layers": [{"digest": DIGEST, "size": 1.0}]}, "layers/0/size"),
}


@pytest.mark.parametrize(("changes", "place"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_a_wrong_image_is_rejected_with_its_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidDocument) as raised:
        load_document(encoded(IMAGE | changes), IMAGE_MANIFEST)
    assert str(raised.value).startswith(f"{place}: ")


@pytest.mark.parametrize(
    "changes",
    [{}, {"annotations": None}, {"annotations": {"a": "b"}}, {"layers": []}, {"subject": [1]}],
    ids=str,
)
def test_a_good_image_is_accepted(changes: dict[str, Any]) -> None:
    assert load_document(encoded(IMAGE | changes), IMAGE_MANIFEST) == IMAGE | changes


INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "manifests": [{"digest": DIGEST, "platform": {"os": "linux", "architecture": "amd64"}}],
}
WRONG_INDEXES: dict[str, tuple[dict[str, Any], str]] = {
    "manifests object": ({"manifests": {}}, "manifests"),
    "manifests null": ({"manifests": None}, "manifests"),
    "many manifests": ({"manifests": INDEX["manifests"] * 101}, "manifests"),
    "without a digest": ({"manifests": [{}]}, "manifests/0"),
    "digest with a path": ({"manifests": [{"digest": "../../x"}]}, "manifests/0/digest"),
    "platform text": (
        {"manifests": [{"digest": DIGEST, "platform": "linux/amd64"}]},
        "manifests/0/platform",
    ),
    "system number": (
        {"manifests": [{"digest": DIGEST, "platform": {"os": 1}}]},
        "manifests/0/platform/os",
    ),
    "media type list": (
        {"manifests": [{"digest": DIGEST, "mediaType": []}]},
        "manifests/0/mediaType",
    ),
}


@pytest.mark.parametrize(("changes", "place"), WRONG_INDEXES.values(), ids=WRONG_INDEXES)
def test_a_wrong_index_is_rejected_with_its_place(changes: dict[str, Any], place: str) -> None:
    assert load_document(encoded(INDEX), IMAGE_INDEX) == INDEX
    with pytest.raises(InvalidDocument) as raised:
        load_document(encoded(INDEX | changes), IMAGE_INDEX)
    assert str(raised.value).startswith(f"{place}: ")


PLATFORM = {"os": "linux", "architecture": "amd64"}
WRONG_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "system null": ({"os": None}, "os"),
    "system long": ({"os": "l" * 65}, "os"),
    "created number": ({"created": 7}, "created"),
    "created long": ({"created": "2" * 65}, "created"),
    "rootfs list": ({"rootfs": []}, "rootfs"),
    "diff ID with a path": ({"rootfs": {"diff_ids": ["../../x"]}}, "rootfs/diff_ids/0"),
    "many diff IDs": ({"rootfs": {"diff_ids": [DIGEST] * 1001}}, "rootfs/diff_ids"),
    "history object": ({"history": {}}, "history"),
    "history of texts": ({"history": ["x"]}, "history/0"),
    "environment object": ({"config": {"Env": {"A": "b"}}}, "config/Env"),
    "environment of numbers": ({"config": {"Env": [1]}}, "config/Env/0"),
    "entrypoint text": ({"config": {"Entrypoint": "/e"}}, "config/Entrypoint"),
    "label number": ({"config": {"Labels": {"k": 1}}}, "config/Labels/k"),
}


@pytest.mark.parametrize(("changes", "place"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_a_wrong_configuration_is_rejected_with_its_place(
    changes: dict[str, Any], place: str
) -> None:
    assert load_document(encoded(PLATFORM), IMAGE_CONFIG) == PLATFORM
    with pytest.raises(InvalidDocument) as raised:
        load_document(encoded(PLATFORM | changes), IMAGE_CONFIG)
    assert str(raised.value).startswith(f"{place}: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=6,
)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_value_gives_a_manifest_or_an_error(key: str, value: Any) -> None:
    with contextlib.suppress(manifest.InvalidManifest):
        manifest.decode(manifest.read_root(encoded(GOOD | {key: value})), {})


COLUMNS = {
    "files": st.dictionaries(st.sampled_from(["a", "b"]), JSON | st.sampled_from(["", "b" * 64])),
    "sizes": st.lists(JSON | st.integers(0, 9), max_size=2),
    "executable": st.lists(JSON | st.just("a"), max_size=2),
    "links": st.dictionaries(st.sampled_from(["l", "m"]), JSON | st.just("a")),
    "replacedDirectories": st.lists(JSON | st.just("a"), max_size=2),
}


@given(st.sampled_from(sorted(COLUMNS)).flatmap(lambda key: COLUMNS[key].map(lambda v: {key: v})))
def test_a_manifest_that_the_schema_rejects_is_rejected_without_it(changes: dict[str, Any]) -> None:
    document = json.loads(encoded(GOOD | changes))
    try:
        manifest.decode(manifest.read_root(encoded(document)), {})
    except manifest.InvalidManifest:
        return
    assert published_schema("manifest-v3").is_valid(document)


def test_all_schemas_have_the_same_definitions() -> None:
    names = ("manifest-v3", "manifest-part", "manifest-reverse-delta")
    whole, *parts = (published_schema(name).schema["$defs"] for name in names)
    for part in parts:
        assert {name: whole[name] for name in part} == part


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_give_a_document_or_an_error(content: bytes) -> None:
    with contextlib.suppress(InvalidDocument):
        load_manifest(content)


def test_the_schemas_are_valid() -> None:
    schemas = list(resources.files("kontext_plugin").joinpath("schemas").iterdir())
    assert len(schemas) >= 6
    for path in schemas:
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_bytes()))
