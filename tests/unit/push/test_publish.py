"""Publishing a plan: the layers as they are written, and the requests, the tag's the last."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.layouts import check_layout, write_layout
from support.models import BASE, SPEC, described, published
from support.trees import Directory, File, Tree, in_archive, plant

from kontext_plugin.cache import Cache
from kontext_plugin.crane import Published as CranePublished
from kontext_plugin.crane_driver.errors import NotFound, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.layout import read_documents
from kontext_plugin.image.oci import MANIFEST_ANNOTATION, Digest, Image, Layer, digest_of
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.image.spec import BaseImage, ImageSpec
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.layer import tar
from kontext_plugin.manifest import MANIFEST_PATH, Ancestor, encode
from kontext_plugin.push import partition as partition_module
from kontext_plugin.push import publish as publish_module
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import Plan, make_plan
from kontext_plugin.push.prepare import PushSession
from kontext_plugin.push.publish import (
    Published,
    StagedLayers,
    add_tags,
    check_lost_update,
    publish,
    stage_layers,
)
from kontext_plugin.registry.base_image import ENTRYPOINT, WORKDIR
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.terminal.messages import Report

TAG = parse_reference("host.io/r1:t")
NEW = Digest("sha256:" + "e" * 64)
NOTHING = StartFresh("there is nothing")
TREE: Tree = {
    "ballast": File(b"b" * 10_000),
    "d": Directory(),
    "d/key": File(b"AKIA" + b"Q7RT2VWXK3MLNP4Z" + b"\n"),
}


@dataclass
class FakeCrane:
    """A crane that notes its requests, and has uploaded the blobs that are named here."""

    uploaded: frozenset[Digest] = frozenset()
    error: RegistryError | None = None
    shown: Digest = NEW  # under the tag
    requests: list[tuple[str, ...]] = field(default_factory=list)
    appended: dict[str, Any] = field(default_factory=dict)

    def push_layout(self, layout: str, name: str, progress: object) -> CranePublished:
        self.requests.append(("push", layout, name))
        return CranePublished(Digest(name.rpartition("@")[2]), self.uploaded)

    def append(
        self, base: str, layers: Sequence[str], tag: str, *, progress: Any, **settings: Any
    ) -> CranePublished:
        self.requests.append(("append", base, *layers, tag))
        self.appended = settings
        if self.error:
            raise self.error
        return CranePublished(NEW, self.uploaded)

    def tag(self, image: str, tag: str) -> None:
        self.requests.append(("tag", image, tag))
        if self.error:
            raise self.error

    def copy(self, image: str, name: str) -> None:
        self.requests.append(("copy", image, name))

    def digest(self, name: str, *, timeout: float) -> Digest:
        self.requests.append(("digest", name))
        if self.error:
            raise self.error
        return self.shown


@pytest.fixture
def crane() -> FakeCrane:
    return FakeCrane()


@pytest.fixture
def session(crane: FakeCrane, tmp_path: Path) -> Iterator[PushSession]:
    cache = Cache(str(tmp_path / "cache"))
    with ThreadPoolExecutor(1) as threads, Workers(2) as workers:
        yield PushSession(crane, threads, threads, workers, cache, Report())  # type: ignore[arg-type]


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    (tmp_path / "scratch").mkdir()
    return str(tmp_path / "scratch")


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "source").mkdir()
    plant(tmp_path / "source", TREE)
    return str(tmp_path / "source")


def plan_on(
    tag_image: KontextImage | StartFresh, spec: ImageSpec = SPEC, tree: Tree = TREE
) -> Plan:
    return make_plan(tag_image, spec, described(tree))


def stage(
    session: PushSession, root: str, plan: Plan, directory: str, *, scan_secrets: bool = False
) -> StagedLayers:
    return stage_layers(session, root, plan, partition(plan), directory, scan_secrets=scan_secrets)


# The layers


def test_the_top_layer_has_the_manifest_and_the_sources(
    session: PushSession, root: str, scratch: str
) -> None:
    plan = plan_on(NOTHING)
    layers = stage(session, root, plan, scratch)
    assert (layers.lower, layers.all) == ((), (layers.top,))
    content = Path(layers.top.path).read_bytes()
    assert layers.top.layer == Layer(digest_of(content), len(content))
    assert layers.top.diff_id == digest_of(gzip.decompress(content))
    assert layers.sizes == (len(content),)
    assert in_archive(io.BytesIO(gzip.decompress(content))) == TREE
    assert layers.root == encode(layers.manifest) == first_file(content)
    assert layers.manifest.tree == described(TREE)
    assert layers.manifest.lineage == replace(plan.lineage, layers=(BASE,))
    assert layers.findings == ()


def first_file(layer: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(layer), mode="r:gz") as archive:
        first = archive.next()
        assert first is not None and first.name == MANIFEST_PATH
        file = archive.extractfile(first)
        assert file is not None
        return file.read()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the test's tree into several layers."""
    monkeypatch.setattr(partition_module, "CHUNK_BYTES", 5000)


@pytest.mark.usefixtures("small_chunks")
def test_the_sources_of_a_large_fresh_start_lie_in_lower_layers(
    session: PushSession, root: str, scratch: str
) -> None:
    layers = stage(session, root, plan_on(NOTHING), scratch)
    assert len(layers.lower) > 1
    assert layers.all == (*layers.lower, layers.top)
    below: Tree = {}
    for staged in layers.lower:
        content = Path(staged.path).read_bytes()
        assert staged.layer == Layer(digest_of(content), len(content))
        below |= in_archive(io.BytesIO(gzip.decompress(content)))
    assert below == TREE
    top = Path(layers.top.path).read_bytes()
    assert in_archive(io.BytesIO(gzip.decompress(top))) == {}
    assert layers.manifest.lineage is not None
    assert layers.manifest.lineage.layers == (BASE, *(s.layer.digest for s in layers.lower))


@pytest.mark.usefixtures("small_chunks")
def test_layers_that_are_written_nowhere_have_the_same_sizes(
    session: PushSession, root: str, scratch: str
) -> None:
    plan = plan_on(NOTHING)
    written, measured = (stage(session, root, plan, directory) for directory in (scratch, ""))
    assert measured.sizes == written.sizes
    assert measured.root == written.root
    assert {staged.path for staged in measured.all} == {os.devnull}


@pytest.mark.usefixtures("small_chunks")
def test_secrets_are_found_in_each_layer_if_they_are_searched_for(
    session: PushSession, root: str, scratch: str
) -> None:
    plan = plan_on(NOTHING)
    findings = stage(session, root, plan, scratch, scan_secrets=True).findings
    assert [(finding.path, finding.line) for finding in findings] == [("d/key", 1)]
    assert stage(session, root, plan, scratch).findings == ()


def test_a_layer_that_cannot_be_written_is_an_error_with_a_hint(
    session: PushSession, root: str, tmp_path: Path
) -> None:
    with pytest.raises(KontextError, match="the layer cannot be written to") as raised:
        stage(session, root, plan_on(NOTHING), str(tmp_path / "nowhere"))
    assert "KONTEXT_CACHE_DIR" in raised.value.hint


# The publication on an earlier image


def publish_staged(
    session: PushSession,
    plan: Plan,
    root: str,
    directory: str,
    tags: Sequence[Reference] = (TAG,),
) -> tuple[Published, StagedLayers]:
    layers = stage(session, root, plan, directory)
    return publish(session, plan.parent, layers, plan.spec, tags, directory), layers


EARLIER: Tree = {"ballast": File(b"b" * 10_000)}


def test_a_delta_is_one_expectedfor_one_layer(
    session: PushSession, crane: FakeCrane, root: str, scratch: str
) -> None:
    tag_image = published(plan_on(NOTHING, tree=EARLIER))
    plan = plan_on(tag_image, replace(SPEC, labels={"k": "v"}))
    done, layers = publish_staged(session, plan, root, scratch)
    assert crane.requests == [("append", TAG.at(tag_image.image.digest), layers.top.path, str(TAG))]
    assert crane.appended == {
        "labels": {"k": "v"},
        "annotations": {MANIFEST_ANNOTATION: digest_of(layers.root)},
        "entrypoint": ENTRYPOINT,
        "workdir": WORKDIR,
    }
    assert done.image == Image(
        NEW, (*tag_image.image.layers, layers.top.layer), digest_of(layers.root)
    )


def test_the_published_image_is_in_the_cache(session: PushSession, root: str, scratch: str) -> None:
    tag_image = published(plan_on(NOTHING, tree=EARLIER))
    plan = plan_on(tag_image, replace(SPEC, labels={"k": "v"}))
    done, layers = publish_staged(session, plan, root, scratch)
    cached = session.cache.published(str(TAG), NEW)
    assert cached == KontextImage(
        done.image,
        layers.manifest,
        SPEC.config.with_labels({"k": "v"}),
        known=frozenset({tag_image.image.digest}),
        is_cached=True,
    )


def test_only_ancestors_of_the_new_image_stay_known(
    session: PushSession, root: str, scratch: str
) -> None:
    tag_image = published(plan_on(NOTHING, tree=EARLIER))
    kept, other = (Digest("sha256:" + letter * 64) for letter in "12")
    plan = plan_on(replace(tag_image, known=frozenset({kept, other})))
    assert isinstance(plan.parent, BuildOn)
    older = Ancestor(kept, 1, 0, 0, frozenset(), ReverseDelta())
    parent = replace(plan.parent, ancestors=(older, *plan.parent.ancestors))
    publish_staged(session, replace(plan, parent=parent), root, scratch)
    cached = session.cache.published(str(TAG), NEW)
    assert cached is not None
    assert cached.known == {kept, tag_image.image.digest}


def test_the_uploaded_bytes_are_those_of_new_blobs_of_the_image(
    session: PushSession, crane: FakeCrane, root: str, scratch: str
) -> None:
    plan = plan_on(published(plan_on(NOTHING, tree=EARLIER)))
    layers = stage(session, root, plan, scratch)
    other = Digest("sha256:" + "9" * 64)  # the configuration is a blob, too
    for uploaded, expected in (
        ({layers.top.layer.digest, other}, layers.top.layer.size),
        ({other}, 0),
    ):
        crane.uploaded = frozenset(uploaded)
        done = publish(session, plan.parent, layers, plan.spec, [TAG], scratch)
        assert done.uploaded == expected


def test_a_parent_that_is_gone_is_not_found(
    session: PushSession, crane: FakeCrane, root: str, scratch: str
) -> None:
    plan = plan_on(published(plan_on(NOTHING, tree=EARLIER)))
    crane.error = NotFound("gone")
    with pytest.raises(NotFound):
        publish_staged(session, plan, root, scratch, [TAG, parse_reference("host.io/r1:u")])
    assert [request[0] for request in crane.requests] == ["append"], "the other tag is not written"
    assert session.cache.published(str(TAG), NEW) is None


# A fresh start


@pytest.fixture
def shipped(tmp_path: Path) -> BaseImage:
    layout = tmp_path / "base"
    image = write_layout(layout, [tar.END], SPEC.config)
    return BaseImage(image, SPEC.config, image.digest, layout=str(layout))


def test_a_small_fresh_start_pushes_the_shipped_base_by_its_digest_first(
    session: PushSession, crane: FakeCrane, shipped: BaseImage, root: str, scratch: str
) -> None:
    plan = plan_on(NOTHING, replace(SPEC, base=shipped))
    crane.uploaded = frozenset({shipped.image.layers[0].digest})
    done, layers = publish_staged(session, plan, root, scratch)
    base = TAG.at(shipped.image.digest)
    assert crane.requests == [
        ("push", shipped.layout, base),
        ("append", base, layers.top.path, str(TAG)),
    ]
    assert done.image.layers == (*shipped.image.layers, layers.top.layer)
    assert done.uploaded == shipped.image.layers[0].size
    cached = session.cache.published(str(TAG), NEW)
    assert cached is not None and cached.known == frozenset()


@pytest.mark.usefixtures("small_chunks")
def test_a_large_fresh_start_pushes_the_lower_layers_with_the_base(
    session: PushSession, crane: FakeCrane, shipped: BaseImage, root: str, scratch: str
) -> None:
    plan = plan_on(NOTHING, replace(SPEC, base=shipped))
    done, layers = publish_staged(session, plan, root, scratch)
    (_, layout, name), append = crane.requests
    assert layout == os.path.join(scratch, "layout")
    index, document, _ = read_documents(layout)
    digest = index["manifests"][0]["digest"]
    assert name == TAG.at(digest)
    assert append == ("append", TAG.at(digest), layers.top.path, str(TAG))
    lower = [staged.layer.digest for staged in layers.lower]
    in_layout = [layer["digest"] for layer in document["layers"]]
    assert in_layout == [shipped.image.layers[0].digest, *lower]
    check_layout(Path(layout))
    assert [layer.digest for layer in done.image.layers] == [*in_layout, layers.top.layer.digest]


@pytest.mark.parametrize("is_large", [False, True])
def test_a_fresh_start_on_the_users_base_appends_all_layers_to_it(
    is_large: bool,
    session: PushSession,
    crane: FakeCrane,
    root: str,
    scratch: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_large:
        monkeypatch.setattr(partition_module, "CHUNK_BYTES", 5000)
    own = Image(Digest("sha256:" + "7" * 64), (Layer(Digest("sha256:" + "8" * 64), 9),), None)
    extractor = Layer(Digest("sha256:" + "6" * 64), 3)
    base = BaseImage(
        own,
        SPEC.config,
        BASE,
        source=f"host.io/own@{own.digest}",
        extractor_layer=extractor,
        extractor_path="/extractor.tar.gz",
    )
    plan = plan_on(NOTHING, replace(SPEC, base=base))
    done, layers = publish_staged(session, plan, root, scratch)
    assert bool(layers.lower) == is_large
    paths = [staged.path for staged in layers.all]
    assert crane.requests == [("append", base.source, "/extractor.tar.gz", *paths, str(TAG))]
    assert done.image.layers == (*own.layers, extractor, *(s.layer for s in layers.all))


def test_a_single_layer_has_the_extractor_in_it(
    session: PushSession,
    crane: FakeCrane,
    root: str,
    scratch: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = write_layout(tmp_path / "empty", [], SPEC.config)
    base = BaseImage(empty, SPEC.config, BASE, layout=str(tmp_path / "empty"), single_layer=True)
    entry = tar.header("kontext-extractor", tar.REGTYPE, 0o755)
    monkeypatch.setattr(publish_module, "extractor_entries", lambda base: entry)
    done, layers = publish_staged(
        session, plan_on(NOTHING, replace(SPEC, base=base)), root, scratch
    )
    assert done.image.layers == (layers.top.layer,)
    content = Path(layers.top.path).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        assert archive.getnames()[:2] == [MANIFEST_PATH, "kontext-extractor"]
    assert in_archive(io.BytesIO(gzip.decompress(content))) == TREE
    assert [request[0] for request in crane.requests] == ["push", "append"]


# Other tags

OTHERS: Mapping[str, tuple[str, ...]] = {
    "host.io/r1:u": ("tag", f"host.io/r1@{NEW}", "u"),
    "host.io/r2:t": ("copy", f"host.io/r1@{NEW}", "host.io/r2:t"),
    "other.io/r1:t": ("copy", f"host.io/r1@{NEW}", "other.io/r1:t"),
}


@pytest.mark.parametrize(("other", "expected"), OTHERS.items(), ids=OTHERS)
def test_another_tag_is_set_by_the_digest_of_the_image(
    other: str, expected: tuple[str, ...], session: PushSession, crane: FakeCrane
) -> None:
    add_tags(session, NEW, [TAG, parse_reference(other)])
    assert crane.requests == [expected]


def test_the_first_tag_is_written_before_the_others(
    session: PushSession, crane: FakeCrane, root: str, scratch: str
) -> None:
    plan = plan_on(published(plan_on(NOTHING, tree=EARLIER)))
    publish_staged(session, plan, root, scratch, [TAG, *map(parse_reference, OTHERS)])
    assert [request[0] for request in crane.requests] == ["append", "tag", "copy", "copy"]


def test_a_tag_that_cannot_be_set_is_named_with_the_image_that_is_published(
    session: PushSession, crane: FakeCrane
) -> None:
    crane.error = NotFound("no such repository", hint="Create it.")
    with pytest.raises(KontextError) as raised:
        add_tags(session, NEW, [TAG, parse_reference("host.io/r1:u")])
    assert not isinstance(raised.value, RegistryError), "a fresh push would not help"
    assert raised.value.message == (
        f"host.io/r1@{NEW} is published as host.io/r1:t, but not as host.io/r1:u: "
        "no such repository"
    )
    assert raised.value.hint == "Create it."


# Lost updates

BEFORE, FOREIGN = (Digest("sha256:" + letter * 64) for letter in "34")
SHOWN = {
    "the new image": (NEW, BEFORE, False),
    "the image before, as some registries answer for a while": (BEFORE, BEFORE, False),
    "the image of another push": (FOREIGN, BEFORE, True),
    "the image of another first push": (FOREIGN, None, True),
}


@pytest.mark.parametrize(("shown", "before", "is_lost"), SHOWN.values(), ids=SHOWN)
def test_a_tag_with_another_push_on_it_is_a_warning(
    shown: Digest,
    before: Digest | None,
    is_lost: bool,
    crane: FakeCrane,
    capsys: pytest.CaptureFixture[str],
) -> None:
    crane.shown = shown
    check_lost_update(crane, TAG, NEW, before, Report(quiet=True))  # type: ignore[arg-type]
    assert capsys.readouterr().err == (
        f"WARNING: another push replaced your image: {TAG} is now {FOREIGN}. "
        f"Your image is still at {TAG.at(NEW)}\n"
        if is_lost
        else ""
    )


def test_a_registry_that_does_not_answer_after_the_push_is_no_error(
    crane: FakeCrane, capsys: pytest.CaptureFixture[str]
) -> None:
    crane.error = RegistryError("connection refused")
    check_lost_update(crane, TAG, NEW, None, Report())  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
    assert crane.requests == [("digest", str(TAG))]
