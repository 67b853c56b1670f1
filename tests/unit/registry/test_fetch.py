"""What the registry holds is built on only if all of it fits together."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.models import described
from support.trees import Directory, File

from kontext_plugin.cache.store import Cache
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.crane_driver.process import CraneRunner
from kontext_plugin.delta import Changes
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import MANIFEST_ANNOTATION, Digest, Image, Layer, digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import MANIFEST_PATH, Ancestor, Lineage, Manifest, encode
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.prepare import ancestor_problem, find_parent
from kontext_plugin.registry.base_image import custom_base
from kontext_plugin.registry.fetch import KontextImage

TAG = parse_reference("host.io/repo:t")
BASE = Digest("sha256:" + "b" * 64)
STATE = Manifest(
    described({"d": Directory(), "d/f": File(b"x")}),
    Lineage(BASE, BASE, "linux/amd64", layers=(BASE,)),
)
CONTENT = encode(STATE)


def layer(content: bytes, name: str = MANIFEST_PATH) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def document(blob: bytes, **changes: Any) -> bytes:
    """An image manifest that has `blob` as its top layer, with changes."""
    top = {"digest": digest_of(blob), "size": len(blob)}
    image = {
        "schemaVersion": 2,
        "config": {"digest": BASE, "size": 2},
        "layers": [{"digest": BASE, "size": 1}, top],
        "annotations": {MANIFEST_ANNOTATION: digest_of(CONTENT)},
    }
    return json.dumps(image | changes).encode()


class Registry:
    """A folder with an answer a verb, and a shell script for a crane that reads it out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "crane"
        program.write_text(
            f'#!/bin/sh\ncd "{folder}"; echo "$*" >> asked\n'
            'if [ -e "$1.error" ]; then cat "$1.error" >&2; exit 1; fi\nexec cat "$1"\n'
        )
        program.chmod(0o755)
        config = b'{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/e"],"Cmd":null}}'
        self.answers(config=config)
        self.crane = Crane(CraneRunner(str(program)))

    def answers(self, **answers: bytes) -> None:
        for verb, answer in answers.items():
            (self.folder / verb.replace("_error", ".error")).write_bytes(answer)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "registry").mkdir()
    return Registry(tmp_path / "registry")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def previous(registry: Registry, cache: Cache) -> KontextImage | StartFresh:
    with registry.crane as crane, ThreadPoolExecutor(1) as threads:
        return find_parent(crane, threads, cache, TAG)


def test_the_image_under_the_tag(registry: Registry, cache: Cache) -> None:
    blob = layer(CONTENT)
    registry.answers(manifest=document(blob), blob=blob)
    image = Image(
        digest_of(document(blob)),
        (Layer(BASE, 1), Layer(digest_of(blob), len(blob))),
        digest_of(CONTENT),
    )
    settings = {"Entrypoint": ["/e"], "platform": "linux/amd64"}
    assert previous(registry, cache) == KontextImage(image, STATE, settings)
    asked = [
        "manifest host.io/repo:t",
        f"blob host.io/repo@{digest_of(blob)}",
        f"config host.io/repo@{image.digest}",
    ]
    assert registry.asked == asked
    cache.save_published(str(TAG), image, STATE)
    assert previous(registry, cache) == KontextImage(image, STATE), "known, and so known to be ours"
    assert registry.asked == [*asked, asked[0]]


def test_a_moved_tag_is_read_again(registry: Registry, cache: Cache) -> None:
    blob = layer(CONTENT)
    registry.answers(manifest=document(blob), blob=blob)
    found = previous(registry, cache)
    assert isinstance(found, KontextImage)
    cache.save_published(str(TAG), found.image, STATE)
    registry.answers(manifest=document(blob, annotations={}), blob=blob)
    assert isinstance(previous(registry, cache), StartFresh)


def test_an_image_of_the_prototype(registry: Registry, cache: Cache) -> None:
    blob = layer(b'{"files":{"f":"' + b"0" * 64 + b'"}}', name="/" + MANIFEST_PATH)
    registry.answers(manifest=document(blob, annotations=None), blob=blob)
    found = previous(registry, cache)
    assert isinstance(found, KontextImage)
    assert found.manifest.lineage is None
    assert found.manifest.tree.paths() == {"f"}


BLOB = layer(CONTENT)
EVIL = CONTENT.replace(b'"d/f"', b'"../f"')
OTHER = encode(Manifest(STATE.tree, Lineage(BASE, BASE, "linux/arm64")))

FRESH: dict[str, tuple[dict[str, bytes], str]] = {
    "no tag": ({"manifest_error": b"Error: MANIFEST_UNKNOWN"}, "no image under the tag yet"),
    "no access": ({"manifest_error": b"Error: UNAUTHORIZED"}, "host.io refuses"),
    "no JSON": ({"manifest": b"<html>"}, "not JSON"),
    "no image": ({"manifest": b"{}"}, "'schemaVersion'"),
    "index": ({"manifest": b'{"schemaVersion":2,"manifests":[]}'}, "several platforms"),
    "no layers": ({"manifest": document(BLOB, layers=[])}, "no layers"),
    "layer gone": (
        {"manifest": document(BLOB), "blob_error": b"Error: BLOB_UNKNOWN"},
        "gone from the registry",
    ),
    "no gzip": ({"manifest": document(BLOB), "blob": b"x" * 99}, "damaged"),
    "layer of another tool": (
        {"manifest": document(BLOB), "blob": layer(CONTENT, "etc/passwd")},
        "does not begin with a manifest",
    ),
    "manifest of another image": (
        {"manifest": document(BLOB), "blob": layer(OTHER)},
        "not the one that the image names",
    ),
    "annotation lost": ({"manifest": document(BLOB, annotations={}), "blob": BLOB}, "annotation"),
    "annotation no digest": (
        {"manifest": document(BLOB, annotations={MANIFEST_ANNOTATION: "x"}), "blob": BLOB},
        "annotation",
    ),
    "a path that climbs": (
        {
            "manifest": document(BLOB, annotations={MANIFEST_ANNOTATION: digest_of(EVIL)}),
            "blob": layer(EVIL),
        },
        "'../f'",
    ),
    "broken manifest": (
        {"manifest": document(BLOB, annotations=None), "blob": layer(b"{")},
        "not JSON",
    ),
    "manifest of the future": (
        {"manifest": document(BLOB, annotations=None), "blob": layer(b'{"version":3}')},
        "unknown version 3",
    ),
}


@pytest.mark.parametrize(("answers", "reason"), FRESH.values(), ids=FRESH)
def test_reasons_not_to_build_on_it(
    answers: dict[str, bytes], reason: str, registry: Registry, cache: Cache
) -> None:
    registry.answers(**answers)
    for _ in range(2):  # and none of it is remembered as good
        found = previous(registry, cache)
        assert isinstance(found, StartFresh)
        assert reason in found.reason


DOWN: dict[str, dict[str, bytes]] = {
    "at once": {"manifest_error": b"Error: dial tcp: connection refused"},
    "at the layer": {"manifest": document(BLOB), "blob_error": b"Error: connection refused"},
    "refused the layer": {"manifest": document(BLOB), "blob_error": b"Error: DENIED"},
}


@pytest.mark.parametrize("answers", DOWN.values(), ids=DOWN)
def test_a_registry_that_fails_is_no_empty_one(
    answers: dict[str, bytes], registry: Registry, cache: Cache
) -> None:
    registry.answers(**answers)
    with pytest.raises(RegistryError):
        previous(registry, cache)


CONFIG = b'{"os":"linux","architecture":"amd64"}'
BASES: dict[str, tuple[dict[str, bytes], str]] = {
    "index in an index": ({"manifest": b'{"manifests":[]}', "config": CONFIG}, "several platforms"),
    "no JSON": ({"manifest": b"x", "config": CONFIG}, "cannot be a base"),
    "no configuration": (
        {"manifest": document(BLOB), "config": b"{}"},
        "cannot be a base: it: 'os'",
    ),
    "other platform": (
        {"manifest": document(BLOB), "config": CONFIG.replace(b"amd64", b"s390x")},
        "is for linux/s390x, not linux/amd64",
    ),
}


@pytest.mark.parametrize(("answers", "message"), BASES.values(), ids=BASES)
def test_what_cannot_be_a_base(answers: dict[str, bytes], message: str, registry: Registry) -> None:
    registry.answers(digest=BASE.encode(), **answers)
    with registry.crane as crane, pytest.raises(KontextError, match="alpine") as raised:
        custom_base(crane, "host.io:5000/alpine:3", "linux/amd64", 64)
    assert message in raised.value.message
    assert registry.asked[0] == "digest --platform linux/amd64 host.io:5000/alpine:3"
    assert registry.asked[1] == f"manifest host.io:5000/alpine@{BASE}", "the digest that was found"


def reuse(known: bool) -> tuple[BuildOn, ImageSpec]:
    """To build on an ancestor with one layer of sources, of an image with two."""
    first, second = (Layer(Digest("sha256:" + letter * 64), 5) for letter in "12")
    image = Image(BASE, (Layer(BASE, 1), first, second), None)
    lineage = Lineage(BASE, BASE, "linux/amd64", labels={"k": "v", "n": "new"})
    held = frozenset({BASE}) if known else frozenset()
    before = KontextImage(image, Manifest(described({}), lineage), known=held)
    ancestor = Ancestor(BASE, 2, 0, 0, frozenset(), ReverseDelta())
    choice = BuildOn((ancestor,), image.layers[:2], Changes(), 0, 1, ReverseDelta(), before)

    def settings(labels: Mapping[str, str]) -> dict[str, Any]:
        return {"Entrypoint": ["/e"], "platform": "linux/amd64", "Labels": {"b": "x", **labels}}

    return choice, ImageSpec(BASE, (), BASE, "linux/amd64", lineage.labels, settings)


def config_with(**changes: Any) -> bytes:
    config = {"Entrypoint": ["/e"], "Labels": {"b": "x", "k": "old"}} | changes
    return json.dumps({"os": "linux", "architecture": "amd64", "config": config}).encode()


LAYERS = [{"digest": BASE, "size": 1}, {"digest": "sha256:" + "1" * 64, "size": 5}]
WRONG = "it is not what a later image says of it"
ANCESTORS: dict[str, tuple[dict[str, bytes], str]] = {
    "as it should be": ({}, ""),
    "without the label": ({"config": config_with(Labels={"b": "x"})}, ""),
    "with a label of its own": ({"config": config_with(Labels={"b": "x", "by": "me"})}, WRONG),
    "without the base's label": ({"config": config_with(Labels=None)}, WRONG),
    "with an environment": ({"config": config_with(Env=["LD_PRELOAD=/x"])}, WRONG),
    "with fewer layers": ({"manifest": document(b"", layers=LAYERS[:1])}, WRONG),
    "with other layers": ({"manifest": document(b"")}, WRONG),
    "an index": ({"manifest": b'{"manifests": []}'}, "something else in its place"),
    "no JSON": ({"config": b"no"}, "something else in its place"),
    "gone": ({"manifest_error": b"Error: MANIFEST_UNKNOWN: x"}, "does not have it"),
    "damaged": ({"config_error": b"Error: error verifying sha256"}, "something else in its place"),
}


@pytest.mark.parametrize(("answers", "problem"), ANCESTORS.values(), ids=ANCESTORS)
def test_an_ancestor_is_looked_at(
    answers: dict[str, bytes], problem: str, registry: Registry
) -> None:
    registry.answers(manifest=document(b"", layers=LAYERS), config=config_with())
    registry.answers(**answers)
    choice, wanted = reuse(known=False)
    with ThreadPoolExecutor(1) as threads, registry.crane as crane:
        found = ancestor_problem(crane, threads, TAG, choice, wanted)
    assert bool(found) == bool(problem)
    assert problem in found


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param({"digest": BASE.encode()}, "", id="there"),
        pytest.param(
            {"digest_error": b"Error: MANIFEST_UNKNOWN"},
            "the registry does not have it",
            id="gone",
        ),
    ],
)
def test_a_known_ancestor_must_only_be_there(
    answer: dict[str, bytes], problem: str, registry: Registry
) -> None:
    registry.answers(**answer)
    choice, wanted = reuse(known=True)
    with ThreadPoolExecutor(1) as threads, registry.crane as crane:
        found = ancestor_problem(crane, threads, TAG, choice, wanted)
    assert found == problem
    assert registry.asked == [f"digest host.io/repo@{BASE}"]
