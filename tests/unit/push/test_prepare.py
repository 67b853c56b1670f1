"""Preparing a push: the image under the tag, an ancestor that may be gone, and the background."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_registry import FakeRegistry, gzip_layer, image_document
from support.models import described, published
from support.trees import Directory, File, Tree, plant

from kontext_plugin import crane as crane_module
from kontext_plugin import manifest
from kontext_plugin.cache import Cache
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.delta import Changes
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer, digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import REVISION, BaseImage, ImageSpec
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import MANIFEST_PATH, Ancestor, Lineage, Manifest, Part
from kontext_plugin.push import prepare as prepare_module
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import BuildOn, StartFresh, lineage_of
from kontext_plugin.push.partition import manifest_bytes, partition
from kontext_plugin.push.plan import make_plan, plan_fresh
from kontext_plugin.push.prepare import (
    Prepared,
    PushSession,
    find_tag_image,
    image_spec,
    open_session,
    prepare,
)
from kontext_plugin.registry.base_image import shipped_base
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import scan
from kontext_plugin.terminal.messages import Report

TAG = parse_reference("host.io/repo:t")
BASE = Digest("sha256:" + "b" * 64)


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    return FakeRegistry(tmp_path / "registry")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


@contextmanager
def session_with(registry: FakeRegistry, cache: Cache) -> Iterator[PushSession]:
    with (
        registry.crane as crane,
        ThreadPoolExecutor(1) as requests,
        ThreadPoolExecutor(1) as jobs,
        Workers(1) as workers,
    ):
        yield PushSession(crane, requests, jobs, workers, cache, Report())


# The image under the tag

SMALL = Manifest(
    described({"d": Directory(), "d/f": File(b"x")}),
    Lineage(BASE, BASE, "linux/amd64", layers=(BASE,)),
)
ROOT = manifest.encode(SMALL)
BLOB = gzip_layer(ROOT)
DOCUMENT = image_document(BASE, BLOB, manifest=ROOT)
CONFIG = b'{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/e"],"Cmd":null}}'
GOOD = {"manifest": DOCUMENT, "blob": BLOB, "config": CONFIG}


def tag_image_of(registry: FakeRegistry, cache: Cache) -> KontextImage | StartFresh:
    with registry.crane as crane, ThreadPoolExecutor(1) as requests:
        return find_tag_image(crane, requests, cache, TAG)


def test_the_image_under_the_tag_is_read_with_its_history(
    registry: FakeRegistry, cache: Cache
) -> None:
    registry.answer(**GOOD)
    image = Image(
        digest_of(DOCUMENT), (Layer(BASE, 1), Layer(digest_of(BLOB), len(BLOB))), digest_of(ROOT)
    )
    found = tag_image_of(registry, cache)
    assert found == KontextImage(image, SMALL, ImageConfig("linux/amd64", ("/e",)))
    assert registry.requests == [
        f"manifest {TAG}",
        f"blob {TAG.at(digest_of(BLOB))}",
        f"config {TAG.at(image.digest)}",
    ]


def test_an_image_in_the_cache_needs_one_request(registry: FakeRegistry, cache: Cache) -> None:
    registry.answer(**GOOD)
    found = tag_image_of(registry, cache)
    assert isinstance(found, KontextImage)
    cache.save_published(str(TAG), replace(found, known=frozenset({BASE})))
    before = len(registry.requests)
    cached = tag_image_of(registry, cache)
    assert cached == replace(found, known=frozenset({BASE}), is_cached=True)
    assert registry.requests[before:] == [f"manifest {TAG}"]


def test_a_tag_that_was_moved_is_read_again(registry: FakeRegistry, cache: Cache) -> None:
    registry.answer(**GOOD)
    found = tag_image_of(registry, cache)
    assert isinstance(found, KontextImage)
    cache.save_published(str(TAG), found)
    registry.answer(manifest=image_document(BASE, BLOB))
    assert isinstance(tag_image_of(registry, cache), StartFresh)


def test_an_image_of_the_prototype_is_found(registry: FakeRegistry, cache: Cache) -> None:
    blob = gzip_layer((f"/{MANIFEST_PATH}", b'{"files":{"f":"' + b"0" * 64 + b'"}}'))
    registry.answer(manifest=image_document(BASE, blob, annotations=None), blob=blob)
    found = tag_image_of(registry, cache)
    assert isinstance(found, KontextImage)
    assert found.manifest.lineage is None
    assert found.manifest.tree.paths() == {"f"}


ORDINARY, REFUSED, STRANGE = "ordinary", "refused", "strange"
EVIL = ROOT.replace(b'"d/f"', b'"../f"')
NO_ANNOTATION = {"manifest": image_document(BASE, BLOB)}

FRESH: dict[str, tuple[dict[str, bytes], str, str]] = {
    "no tag": (
        {"manifest_error": b"Error: MANIFEST_UNKNOWN"},
        "there is no image under the tag yet",
        ORDINARY,
    ),
    "no access": (
        {"manifest_error": b"Error: UNAUTHORIZED"},
        "host.io refuses to show the tag",
        REFUSED,
    ),
    "layer gone": (
        {"blob_error": b"Error: BLOB_UNKNOWN"},
        "a part of the image is gone from the registry",
        STRANGE,
    ),
    "layer damaged": (
        {"blob_error": b"Error: error verifying sha256"},
        "a part of the image is damaged in the registry",
        STRANGE,
    ),
    "no JSON": ({"manifest": b"<html>"}, "not JSON", STRANGE),
    "no image": ({"manifest": b"{}"}, "'schemaVersion'", STRANGE),
    "index": ({"manifest": b'{"schemaVersion":2,"manifests":[]}'}, "several platforms", STRANGE),
    "no layers": ({"manifest": image_document(manifest=ROOT)}, "no layers", STRANGE),
    "no gzip": ({"blob": b"x" * 99}, "its layer is damaged", STRANGE),
    "layer of another tool": (
        {"blob": gzip_layer(("etc/passwd", ROOT))},
        "does not start with a manifest",
        STRANGE,
    ),
    "annotation lost": (NO_ANNOTATION, "annotation", STRANGE),
    "an unsafe path": (
        {"manifest": image_document(BASE, BLOB, manifest=EVIL), "blob": gzip_layer(EVIL)},
        "'../f'",
        STRANGE,
    ),
    "manifest of the future": (
        NO_ANNOTATION | {"blob": gzip_layer(b'{"version":3}')},
        "unknown version 3",
        STRANGE,
    ),
    "configuration of the wrong shape": (
        {"config": CONFIG.replace(b'["/e"]', b"true")},
        "config/Entrypoint",
        STRANGE,
    ),
}


@pytest.mark.parametrize(("answers", "reason", "kind"), FRESH.values(), ids=FRESH)
def test_a_push_starts_fresh_where_it_cannot_build_on_the_image_under_the_tag(
    answers: dict[str, bytes], reason: str, kind: str, registry: FakeRegistry, cache: Cache
) -> None:
    registry.answer(**GOOD | answers)
    for _ in range(2):  # none of it is cached as good
        found = tag_image_of(registry, cache)
        assert isinstance(found, StartFresh)
        assert reason in found.reason
        assert (found.is_ordinary, found.is_refused) == (kind == ORDINARY, kind == REFUSED)


DOWN: dict[str, dict[str, bytes]] = {
    "at the manifest": {"manifest_error": b"Error: dial tcp: connection refused"},
    "at the layer": {"blob_error": b"Error: connection refused"},
    "a refused layer": {"blob_error": b"Error: DENIED"},
}


@pytest.mark.parametrize("answers", DOWN.values(), ids=DOWN)
def test_a_registry_that_fails_is_not_taken_for_an_empty_one(
    answers: dict[str, bytes], registry: FakeRegistry, cache: Cache
) -> None:
    registry.answer(**GOOD | answers)
    with pytest.raises(RegistryError):
        tag_image_of(registry, cache)


# An ancestor: is it still what the image under the tag says?

FIRST = Digest("sha256:" + "1" * 64)
SHARED = ImageConfig("linux/amd64", ("/e",), labels={"b": "x"})


def choice_of_an_ancestor(is_known: bool) -> tuple[BuildOn, ImageSpec]:
    """Return the choice of an ancestor with one layer of sources, of an image with two."""
    layers = (Layer(BASE, 1), Layer(FIRST, 5), Layer(Digest("sha256:" + "2" * 64), 5))
    lineage = Lineage(BASE, BASE, "linux/amd64", labels={"k": "v", "n": "new"})
    tag_image = KontextImage(
        Image(BASE, layers, None),
        Manifest(described({}), lineage),
        known=frozenset({BASE} if is_known else ()),
    )
    ancestor = Ancestor(BASE, 2, 0, 0, frozenset(), ReverseDelta())
    choice = BuildOn(tag_image, (ancestor,), layers[:2], Changes(), 0, 1, ReverseDelta())
    base = BaseImage(Image(BASE, (), None), SHARED, BASE)
    return choice, ImageSpec(frozenset({"linux/amd64"}), base, SHARED, lineage.labels)


def config_with(**changes: Any) -> bytes:
    config = {"Entrypoint": ["/e"], "Labels": {"b": "x", "k": "old"}} | changes
    return json.dumps({"os": "linux", "architecture": "amd64", "config": config}).encode()


def problem_with(registry: FakeRegistry, cache: Cache, *, is_known: bool) -> str:
    choice, spec = choice_of_an_ancestor(is_known)
    with session_with(registry, cache) as session:
        return prepare_module._ancestor_problem(session, TAG, choice, spec)


WRONG = "it does not match what the image under the tag says about it"
ELSE = "the registry has something else in its place"
ANCESTORS: dict[str, tuple[dict[str, bytes], str]] = {
    "as it should be": ({}, ""),
    "without the label": ({"config": config_with(Labels={"b": "x"})}, ""),
    "with a label of its own": ({"config": config_with(Labels={"b": "x", "by": "me"})}, WRONG),
    "without the base's label": ({"config": config_with(Labels=None)}, WRONG),
    "with an environment": ({"config": config_with(Env=["LD_PRELOAD=/x"])}, WRONG),
    "with another entrypoint": ({"config": config_with(Entrypoint=["/x"])}, WRONG),
    "with fewer layers": ({"manifest": image_document(BASE)}, WRONG),
    "with other layers": ({"manifest": image_document(BASE, BASE)}, WRONG),
    "an index": ({"manifest": b'{"manifests": []}'}, ELSE),
    "no JSON": ({"config": b"no"}, ELSE),
    "an entrypoint that is no list": ({"config": config_with(Entrypoint="/e")}, ELSE),
    "gone": ({"manifest_error": b"Error: MANIFEST_UNKNOWN: x"}, "the registry does not have it"),
    "damaged": ({"config_error": b"Error: error verifying sha256"}, ELSE),
}


@pytest.mark.parametrize(("answers", "problem"), ANCESTORS.values(), ids=ANCESTORS)
def test_an_unknown_ancestor_is_compared_with_the_image_under_the_tag(
    answers: dict[str, bytes], problem: str, registry: FakeRegistry, cache: Cache
) -> None:
    registry.answer(manifest=image_document(BASE, FIRST), config=config_with())
    registry.answer(**answers)
    assert problem_with(registry, cache, is_known=False) == problem


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param({"digest": BASE.encode()}, "", id="there"),
        pytest.param(
            {"digest_error": b"Error: MANIFEST_UNKNOWN"}, "the registry does not have it", id="gone"
        ),
    ],
)
def test_a_known_ancestor_must_only_exist(
    answer: dict[str, bytes], problem: str, registry: FakeRegistry, cache: Cache
) -> None:
    registry.answer(**answer)
    assert problem_with(registry, cache, is_known=True) == problem
    assert registry.requests == [f"digest {TAG.at(BASE)}"]


def test_a_registry_that_cannot_be_asked_about_an_ancestor_fails_the_push(
    registry: FakeRegistry, cache: Cache
) -> None:
    registry.answer(digest_error=b"Error: connection refused")
    with pytest.raises(RegistryError):
        problem_with(registry, cache, is_known=True)


# The whole preparation

BALLAST: Tree = {"ballast": File(b"b" * 100_000)}
OPTIONS = PushOptions((TAG,))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    plant(tmp_path / "source", BALLAST | {"a": File(b"3")})
    return tmp_path / "source"


def prepared(
    registry: FakeRegistry, cache: Cache, source: Path, options: PushOptions = OPTIONS
) -> Prepared:
    with session_with(registry, cache) as session:
        return prepare(session, replace(options, directory=str(source)))


def put_under_tag(registry: FakeRegistry, cache: Cache, *history: Tree) -> KontextImage:
    """Publish an image after a push of each tree. This machine's cache has it."""
    spec = image_spec(shipped_base("linux/amd64"), OPTIONS)
    tag_image: KontextImage | StartFresh = StartFresh("there is nothing")
    for tree in history:
        tag_image = published(make_plan(tag_image, spec, described(tree)))
    assert isinstance(tag_image, KontextImage)
    registry.answer(manifest=b"{}")
    tag_image = replace(
        tag_image, image=replace(tag_image.image, digest=digest_of(b"{}")), is_cached=True
    )
    cache.save_published(str(TAG), tag_image)
    return tag_image


def test_a_first_push_is_planned_fresh(registry: FakeRegistry, cache: Cache, source: Path) -> None:
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN")
    made = prepared(registry, cache, source)
    assert made.tag_image == StartFresh("there is no image under the tag yet", is_ordinary=True)
    assert made.plan.parent == made.tag_image
    assert made.plan.tree == made.scan.tree == described(BALLAST | {"a": File(b"3")})
    assert made.partition == partition(made.plan)
    assert made.source.root == str(source)


def test_an_unchanged_directory_has_no_partition(
    registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    tag_image = put_under_tag(registry, cache, BALLAST | {"a": File(b"3")})
    made = prepared(registry, cache, source)
    assert made.tag_image == tag_image
    assert made.plan.is_up_to_date
    assert made.partition is None


ASKED_FOR = {
    "--fresh": (replace(OPTIONS, fresh=True), "--fresh was given"),
    "--reuse never": (replace(OPTIONS, reuse="never"), "--reuse never was given"),
}


@pytest.mark.parametrize(("options", "reason"), ASKED_FOR.values(), ids=ASKED_FOR)
def test_an_option_starts_fresh_without_a_request(
    options: PushOptions, reason: str, registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    put_under_tag(registry, cache, BALLAST)
    made = prepared(registry, cache, source, options)
    assert made.tag_image == StartFresh(reason, is_ordinary=True)
    assert registry.requests == []


def test_an_ancestor_that_is_gone_is_named_and_replaced_by_a_nearer_image(
    registry: FakeRegistry, cache: Cache, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag_image = put_under_tag(
        registry, cache, BALLAST | {"a": File(b"1")}, BALLAST | {"a": File(b"2")}
    )
    (ancestor,) = lineage_of(tag_image).ancestors
    error = b"Error: MANIFEST_UNKNOWN"
    registry.answer(ancestor.image, manifest_error=error, config_error=error)
    made = prepared(registry, cache, source)
    assert (
        "Cannot build on generation 0: the registry does not have it\n" in capsys.readouterr().err
    )
    assert isinstance(made.plan.parent, BuildOn)
    assert not made.plan.parent.is_ancestor
    assert made.partition is not None


def test_a_manifest_that_ancestors_make_too_large_starts_fresh(
    registry: FakeRegistry, cache: Cache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_under_tag(registry, cache, BALLAST)
    spec = image_spec(shipped_base("linux/amd64"), OPTIONS)
    fresh = plan_fresh(StartFresh(""), spec, described(BALLAST | {"a": File(b"3")}))
    monkeypatch.setattr(manifest, "MAX_BYTES", manifest_bytes(fresh, partition(fresh)))
    made = prepared(registry, cache, source)
    reason = "with its ancestors the manifest would be too large"
    assert made.plan.parent == StartFresh(reason)


def test_a_directory_with_too_many_paths_is_an_error(
    registry: FakeRegistry, cache: Cache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN")
    for limit in (300, 10):
        monkeypatch.setattr(manifest, "MAX_BYTES", limit)
        with pytest.raises(KontextError, match="2 paths need a manifest larger than") as raised:
            prepared(registry, cache, source)
        assert "ignore file" in raised.value.hint


# git


@pytest.fixture
def git_labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer for git, and note each directory that git is asked about."""
    asked: list[str] = []

    def read_labels(root: str, debug: object) -> dict[str, str]:
        asked.append(root)
        return {REVISION: "c" * 40}

    monkeypatch.setattr(prepare_module.git, "read_labels", read_labels)
    return asked


def test_git_is_asked_once(
    registry: FakeRegistry, cache: Cache, source: Path, git_labels: list[str]
) -> None:
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN")
    made = prepared(registry, cache, source)
    assert git_labels == [str(source)]
    assert made.plan.lineage.labels == {REVISION: "c" * 40}


def test_git_is_not_asked_for_labels_that_are_not_wanted(
    registry: FakeRegistry, cache: Cache, source: Path, git_labels: list[str]
) -> None:
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN")
    made = prepared(registry, cache, source, replace(OPTIONS, git_labels=False))
    assert git_labels == []
    assert made.plan.lineage.labels == {}


@pytest.mark.parametrize("names_commit", [True, False])
def test_an_unchanged_directory_needs_git_only_if_the_image_names_no_commit(
    names_commit: bool,
    registry: FakeRegistry,
    cache: Cache,
    source: Path,
    git_labels: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "_RACY", -1)
    for path in source.iterdir():
        os.utime(path, (1, 1))
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN")
    first = prepared(registry, cache, source)
    lineage = first.plan.lineage if names_commit else replace(first.plan.lineage, labels={})
    plan = replace(first.plan, lineage=lineage)
    image = published(plan)
    image = replace(image, image=replace(image.image, digest=digest_of(b"{}")))
    registry.answer(manifest=b"{}")
    cache.save_published(str(TAG), image)
    git_labels.clear()

    made = prepared(registry, cache, source)
    assert made.scan.hashed == 0
    assert git_labels == ([] if names_commit else [str(source)])
    assert made.plan.is_up_to_date == names_commit, "a commit that is named now is worth an image"


# The background jobs


def test_no_thread_waits_for_its_own_pool(
    registry: FakeRegistry, cache: Cache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job waits for requests for two layers: a single pool of one thread would wait for ever."""
    monkeypatch.setattr(crane_module, "_REQUESTS", 1)
    monkeypatch.setattr(prepare_module, "_JOBS", 1)
    monkeypatch.setenv("KONTEXT_CRANE", registry.crane.program)
    tree = publish_in_parts(registry)
    result: list[Prepared] = []

    def run() -> None:
        with open_session(Report(), cache, insecure=False, timeout=0) as session:
            result.append(prepare(session, replace(OPTIONS, directory=str(source))))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "a pool waits for itself"
    assert isinstance(result[0].tag_image, KontextImage), result[0].tag_image
    assert result[0].tag_image.manifest.tree == tree


def publish_in_parts(registry: FakeRegistry) -> object:
    """Publish an image with two ancestors, whose reverse deltas are parts in two layers."""
    base = shipped_base("linux/amd64")
    tree = described({"d": Directory(), "d/file": File(b"x")})
    lowest = [layer.digest for layer in base.image.layers]
    ancestors, lower = [], []
    for number in range(2):
        step = ReverseDelta(described({f"gone{number}": File(b"y")}).without_sizes(), frozenset())
        document = manifest.canonical(manifest.reverse_columns(step))
        part = Part("", digest_of(document), len(lowest) + number)
        lower.append(gzip_layer(b"old", (part.name, document)))
        count = len(lowest) + 1 + number
        ancestors.append(Ancestor(BASE, count, number, 1, frozenset(), step, part))
    layers = (*lowest, *map(digest_of, lower))
    lineage = Lineage(
        base.image.digest, base.extractor, "linux/amd64", 2, 9, layers, tuple(ancestors)
    )
    root = manifest.encode(Manifest(tree, lineage))
    top = gzip_layer(root)
    registry.store(*lower, top)
    registry.answer(
        manifest=image_document(*lowest, *lower, top, manifest=root),
        config=b'{"os":"linux","architecture":"amd64"}',
    )
    return tree
