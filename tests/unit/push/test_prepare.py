"""Preparing a push: the directory, the plan on what was found, git, and the background."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_registry import FakeRegistry, gzip_layer, image_document, index_document
from support.models import NOTHING, described, plan_on, published
from support.trees import Directory, File, Tree, plant

from kontext_plugin import crane as crane_module
from kontext_plugin import manifest
from kontext_plugin.cache import Cache, PushRecord
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import REVISION
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import Ancestor, Lineage, Manifest, Part
from kontext_plugin.push import prepare as prepare_module
from kontext_plugin.push import session as session_module
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import BuildOn, Origin, StartFresh
from kontext_plugin.push.partition import manifest_bytes, partition
from kontext_plugin.push.plan import plan_fresh
from kontext_plugin.push.prepare import Prepared, image_spec, prepare, start_fresh
from kontext_plugin.push.session import PushSession, open_session
from kontext_plugin.registry.base_image import shipped_base
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import scan
from kontext_plugin.terminal.messages import Report

TAG = parse_reference("host.io/repo:t")
BASE = Digest("sha256:" + "b" * 64)
ABSENT = {"manifest_error": b"Error: MANIFEST_UNKNOWN", "ls": b""}


@pytest.fixture(autouse=True)
def _no_scan_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a busy machine asks the registry whether it accepts a large push."""
    monkeypatch.setattr(prepare_module, "_SOON", 60)


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
        yield PushSession(crane, requests, jobs, jobs, workers, cache, Report())


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


def image_after(*history: Tree, options: PushOptions = OPTIONS) -> KontextImage:
    """Return the image after a push of each tree, with the extractor of this installation."""
    platforms = options.platforms or ("linux/amd64",)
    spec = image_spec(tuple(map(shipped_base, platforms)), options, Cache(None))
    image: KontextImage | StartFresh = NOTHING
    for tree in history:
        image = published(plan_on(image, spec, described(tree)))
    assert isinstance(image, KontextImage)
    return image


def put_under_tag(registry: FakeRegistry, cache: Cache, *history: Tree) -> KontextImage:
    """Let a tag show the image after a push of each tree. This machine's cache has it."""
    image = replace(image_after(*history), is_cached=True)
    return put_image(registry, cache, image)


def put_image(registry: FakeRegistry, cache: Cache, image: KontextImage) -> KontextImage:
    """Let the tag show a document that only the cache can tell the content of."""
    document = b'{"an image": "%s"}' % image.digest.encode()
    registry.answer(manifest=document)
    image = replace(image, digest=digest_of(document), is_cached=True)
    cache.save_published(str(TAG), image)
    return image


def test_a_first_push_is_planned_fresh(registry: FakeRegistry, cache: Cache, source: Path) -> None:
    registry.answer(**ABSENT)
    made = prepared(registry, cache, source)
    assert made.plan.parent == made.found.fresh
    assert "there is no image to build on" in made.found.fresh.reason
    assert made.plan.tree == made.scan.tree == described(BALLAST | {"a": File(b"3")})
    assert made.partition == partition(made.plan)
    assert made.assembly is None and not made.is_up_to_date
    assert made.source.root == str(source)


def test_an_unchanged_directory_needs_no_layer_and_its_image_is_known(
    registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    """Its digest is that of the image that the tag shows."""
    image = image_after(BALLAST | {"a": File(b"3")})
    put_image(registry, cache, image)
    made = prepared(registry, cache, source)
    assert made.found.tag_image is not None
    assert made.plan.found_image == made.found.tag_image
    assert made.partition is None
    assert made.assembly is not None and made.assembly.digest == image.digest
    assert not made.is_up_to_date, "the tag shows another document here"
    shown = replace(made, found=replace(made.found, shown={TAG: image.digest}))
    assert shown.is_up_to_date
    outdated = replace(shown, found=replace(shown.found, unsettled=frozenset({TAG})))
    assert not outdated.is_up_to_date


def test_an_edit_is_a_delta(registry: FakeRegistry, cache: Cache, source: Path) -> None:
    tag_image = put_under_tag(registry, cache, BALLAST | {"a": File(b"1")})
    made = prepared(registry, cache, source)
    assert isinstance(made.plan.parent, BuildOn)
    assert made.plan.found_image == tag_image
    assert made.partition is not None and made.partition.top == ("a",)
    assert made.assembly is None


def test_an_image_keeps_the_mark_of_the_one_that_it_replaces(
    registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    """Without it the next push would publish the image that has lost a blob."""
    image = image_after(BALLAST | {"a": File(b"3")})
    healed = replace(image, image=replace(image.image, replaces=BASE))
    put_image(registry, cache, healed)
    made = prepared(registry, cache, source)
    assert made.assembly is not None
    assert made.assembly.images[0].replaces == BASE
    assert made.assembly.digest != image.digest


ASKED_FOR = {
    "--fresh": (replace(OPTIONS, fresh=True), "--fresh was given"),
    "--reuse never": (replace(OPTIONS, reuse="never"), "--reuse never was given"),
}


@pytest.mark.parametrize(("options", "reason"), ASKED_FOR.values(), ids=ASKED_FOR)
def test_an_option_starts_fresh(
    options: PushOptions, reason: str, registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    put_under_tag(registry, cache, BALLAST)
    made = prepared(registry, cache, source, options)
    assert made.plan.parent == StartFresh(reason, is_ordinary=True)
    assert made.plan.since.absent == {"a"}, "the counts are since the image under the tag"


def test_changes_are_counted_since_the_image_under_the_tag(
    registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    """Also if this machine's last push is a better parent."""
    shown = put_under_tag(registry, cache, BALLAST | {"b": File(b"2")})
    last = image_after(BALLAST | {"a": File(b"3"), "b": File(b"1")})
    cache.save_published("host.io/repo:last", last)
    cache.save_pushed([PushRecord(str(source), str(TAG), shown.digest)])
    cache.save_pushed([PushRecord(str(source), "host.io/repo:last", last.digest)])
    made = prepared(registry, cache, source)
    assert made.plan.candidate is not None
    assert made.plan.candidate.origin is Origin.OWN_PUSH
    assert made.plan.since.absent == {"a"}, "the tag does not have it"
    assert made.plan.since.former.paths() == {"b"}


@pytest.mark.parametrize("own", [True, False])
def test_reuse_own_takes_what_this_machine_has_written(
    own: bool, registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    tag_image = put_under_tag(registry, cache, BALLAST | {"a": File(b"1")})
    if own:
        cache.save_layers("written", [tag_image.sources_key])
    else:
        cache.save_layers("checked", [tag_image.sources_key])
    made = prepared(registry, cache, source, replace(OPTIONS, reuse="own"))
    assert isinstance(made.plan.parent, BuildOn) == own


def test_start_fresh_plans_without_the_parent(
    registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    tag_image = put_under_tag(registry, cache, BALLAST | {"a": File(b"1")})
    made = prepared(registry, cache, source)
    again = start_fresh(made, StartFresh("it is gone"))
    assert again.plan.parent == StartFresh("it is gone")
    assert again.partition is not None and set(again.partition.top) == {"a", "ballast"}
    assert again.plan.since.former.paths() == {"a"}, "the counts stay those since the tag's image"
    assert again.found.tag_image == tag_image


def test_a_manifest_that_ancestors_make_too_large_starts_fresh(
    registry: FakeRegistry, cache: Cache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_under_tag(registry, cache, BALLAST)
    spec = image_spec((shipped_base("linux/amd64"),), OPTIONS, Cache(None))
    fresh = plan_fresh(StartFresh(""), spec, described(BALLAST | {"a": File(b"3")}))
    monkeypatch.setattr(manifest, "MAX_BYTES", manifest_bytes(fresh, partition(fresh)))
    made = prepared(registry, cache, source)
    reason = "with its ancestors the manifest would be too large"
    assert made.plan.parent == StartFresh(reason)


def test_a_directory_with_too_many_paths_is_an_error(
    registry: FakeRegistry, cache: Cache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.answer(**ABSENT)
    for limit in (300, 10):
        monkeypatch.setattr(manifest, "MAX_BYTES", limit)
        with pytest.raises(KontextError, match="2 paths need a manifest larger than") as raised:
            prepared(registry, cache, source)
        assert "ignore file" in raised.value.hint


# Platforms and the base

BOTH = ("linux/amd64", "linux/arm64")
PLATFORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "none yet": ((), (), BOTH[:1]),
    "those of the tag": (BOTH, (), BOTH),
    "the one of the tag": (BOTH[1:], (), BOTH[1:]),
    "one more": (BOTH[:1], BOTH, BOTH),
    "one less": (BOTH, BOTH[1:], BOTH[1:]),
}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("shown", "given_", "made"), PLATFORMS.values(), ids=PLATFORMS)
def test_a_push_keeps_the_platforms_of_the_tag_unless_told_otherwise(
    shown: tuple[str, ...],
    given_: tuple[str, ...],
    made: tuple[str, ...],
    fresh: bool,
    registry: FakeRegistry,
    cache: Cache,
    source: Path,
) -> None:
    registry.answer(**ABSENT)
    if shown:
        options = replace(OPTIONS, platforms=shown)
        put_image(registry, cache, image_after(BALLAST | {"a": File(b"3")}, options=options))
    options = replace(OPTIONS, platforms=given_, fresh=fresh)
    spec = prepared(registry, cache, source, options).plan.spec
    assert tuple(base.platform for base in spec.bases) == made
    assert [base.config.platform for base in spec.bases] == list(made)


def test_a_base_is_read_for_each_platform(
    registry: FakeRegistry, cache: Cache, source: Path
) -> None:
    document = image_document(BASE)
    rootfs = {"type": "layers", "diff_ids": [BASE]}
    config = {"os": "linux", "architecture": "amd64", "rootfs": rootfs}
    registry.answer("repo:t", manifest_error=b"Error: MANIFEST_UNKNOWN")
    registry.answer(ls=b"", digest=BASE.encode(), manifest=document)
    registry.answer(config=json.dumps(config).encode())
    made = prepared(registry, cache, source, replace(OPTIONS, base="host.io/own:3"))
    (base,) = made.plan.spec.bases
    assert (base.name, base.source) == ("host.io/own:3", f"host.io/own@{BASE}")
    assert "digest --platform linux/amd64 host.io/own:3" in registry.requests


# git


@pytest.fixture
def git_labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer for git, and note each directory that git is asked about."""
    asked: list[str] = []

    def read_labels(root: str, *_: object) -> dict[str, str]:
        asked.append(root)
        return {REVISION: "c" * 40}

    monkeypatch.setattr(prepare_module.git, "read_labels", read_labels)
    return asked


def test_git_is_asked_once(
    registry: FakeRegistry, cache: Cache, source: Path, git_labels: list[str]
) -> None:
    registry.answer(**ABSENT)
    made = prepared(registry, cache, source)
    assert git_labels == [str(source)]
    assert made.plan.labels == {REVISION: "c" * 40}


def test_git_is_not_asked_for_labels_that_are_not_wanted(
    registry: FakeRegistry, cache: Cache, source: Path, git_labels: list[str]
) -> None:
    registry.answer(**ABSENT)
    made = prepared(registry, cache, source, replace(OPTIONS, git_labels=False))
    assert git_labels == []
    assert made.plan.labels == {}


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
    registry.answer(**ABSENT)
    first = prepared(registry, cache, source)
    plan = (
        first.plan
        if names_commit
        else replace(first.plan, spec=replace(first.plan.spec, git_labels={}))
    )
    put_image(registry, cache, published(plan))
    git_labels.clear()

    made = prepared(registry, cache, source)
    assert made.scan.hashed == 0
    assert git_labels == ([] if names_commit else [str(source)])
    assert made.partition is None, "a label needs no layer"
    assert made.plan.labels == {REVISION: "c" * 40}


def test_provenance_needs_git_also_for_an_unchanged_directory(
    registry: FakeRegistry,
    cache: Cache,
    source: Path,
    git_labels: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image may name an earlier commit with the same sources."""
    monkeypatch.setattr(scan, "_RACY", -1)
    for path in source.iterdir():
        os.utime(path, (1, 1))
    registry.answer(**ABSENT)
    put_image(registry, cache, published(prepared(registry, cache, source).plan))
    git_labels.clear()
    made = prepared(registry, cache, source, replace(OPTIONS, provenance="p"))
    assert (made.scan.hashed, made.partition) == (0, None)
    assert git_labels == [str(source)]
    assert made.plan.spec.git_labels == {REVISION: "c" * 40}


# The background jobs


def test_no_thread_waits_for_its_own_pool(
    registry: FakeRegistry, cache: Cache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job waits for requests for two layers: a single pool of one thread would wait for ever."""
    monkeypatch.setattr(crane_module, "_REQUESTS", 1)
    monkeypatch.setattr(session_module, "_JOBS", 1)
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
    found = result[0].found
    assert found.tag_image is not None, found.fresh
    assert found.tag_image.manifest.tree == tree


def publish_in_parts(registry: FakeRegistry) -> object:
    """Publish an index of an image with two ancestors, whose reverse deltas are parts."""
    tree = described({"d": Directory(), "d/file": File(b"x")})
    ancestors, lower = [], []
    for number in range(2):
        step = ReverseDelta(described({f"gone{number}": File(b"y")}).without_sizes(), frozenset())
        document = manifest.canonical(manifest.reverse_columns(step))
        part = Part("", digest_of(document), number)
        lower.append(gzip_layer(b"old", (part.name, document)))
        ancestors.append(Ancestor(BASE, 1 + number, number, 1, frozenset(), step, part))
    lineage = Lineage(2, 9, tuple(map(digest_of, lower)), tuple(ancestors))
    root = manifest.encode(Manifest(tree, lineage))
    top = gzip_layer(root)
    image = image_document(*lower, top, manifest=root, extractor=BASE)
    registry.store(*lower, top)
    registry.answer("repo:t", manifest=index_document(amd64=image, arm64=image))
    registry.answer(manifest=image, config=b'{"os":"linux","architecture":"amd64"}')
    return tree
