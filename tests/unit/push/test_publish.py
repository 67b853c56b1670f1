"""Publishing a plan: the layers as they are written, and what crane is asked to do with them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import pytest
from support.models import ARM, NOTHING, SPEC, described, published
from support.models import plan_on as plan_on_image
from support.trees import Directory, File, Tree, in_archive, plant

from kontext_plugin.cache import Cache
from kontext_plugin.crane import Published as CranePublished
from kontext_plugin.crane_driver.errors import NotFound, Refused, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.assembly import Assembly, assemble
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import OCI_INDEX, Digest, Layer, digest_of
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.image.spec import BaseImage, ImageSpec
from kontext_plugin.layer import tar
from kontext_plugin.manifest import MANIFEST_PATH, encode
from kontext_plugin.push import layers as layers_module
from kontext_plugin.push import partition as partition_module
from kontext_plugin.push.find import Found
from kontext_plugin.push.layers import StagedLayers, WriteOptions, write_layers
from kontext_plugin.push.parent import Candidate, Origin, StartFresh
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import Plan, make_plan
from kontext_plugin.push.publish import (
    Published,
    assemble_undamaged,
    count_upload,
    find_damage,
    missing_blobs,
    publish,
)
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.steps import Progress, Step, Steps

TAG = parse_reference("host.io/r1:t")
SECOND, OTHER = parse_reference("host.io/r1:u"), parse_reference("host.io/r2:t")
BEFORE = Digest("sha256:" + "7" * 64)
TREE: Tree = {
    "ballast": File(b"b" * 10_000),
    "d": Directory(),
    "d/key": File(b"AKIA" + b"Q7RT2VWXK3MLNP4Z" + b"\n"),
}
EARLIER: Tree = {"ballast": File(b"b" * 10_000)}


@dataclass
class FakeCrane:
    """A crane that notes its requests, and that knows which blobs each repository has."""

    blobs: dict[str, set[str]] = field(default_factory=dict)  # by repository
    images: set[str] = field(default_factory=set)  # REPO@sha256:…
    contents: dict[str, set[str]] = field(default_factory=dict)  # layers of images to bring
    errors: dict[str, RegistryError] = field(default_factory=dict)  # by name
    requests: list[tuple[str, ...]] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)  # of the last layout
    layout: set[str] = field(default_factory=set)  # the names of all its blobs

    def push_layout(
        self, layout: str, name: str, *, is_index: bool, progress: object
    ) -> CranePublished:
        self.requests.append(("push", name, *(["index"] if is_index else [])))
        if name in self.errors:
            raise self.errors[name]
        index = (Path(layout) / "index.json").read_bytes()
        there = {f"sha256:{path.name}": path for path in (Path(layout) / "blobs/sha256").iterdir()}
        self.layout = set(there)
        digests = [entry["digest"] for entry in json.loads(index)["manifests"]]
        held = self.blobs.setdefault(name.rpartition(":")[0], set())
        uploaded = set()
        for document in (json.loads(there[digest].read_bytes()) for digest in digests):
            for blob in [document["config"], *document["layers"]]:
                if blob["digest"] in held:
                    continue
                if blob["digest"] not in there:
                    raise NotFound(f"the registry has lost {blob['digest']}")
                uploaded.add(Digest(blob["digest"]))
        held |= uploaded
        digest = digest_of(index) if is_index else Digest(digests[0])
        self.images.add(f"{name.rpartition(':')[0]}@{digest}")
        return CranePublished(digest, frozenset(uploaded))

    def tag(self, image: str, tag: str) -> None:
        self.requests.append(("tag", image, tag))

    def bring(
        self, image: str, repository: str, annotations: Mapping[str, str]
    ) -> frozenset[Digest]:
        self.requests.append(("bring", image, repository))
        assert annotations, "crane sends nothing if the very manifest is there"
        if image in self.errors:
            raise self.errors[image]
        new = self.contents[image] - self.blobs.setdefault(repository, set())
        self.blobs[repository] |= new
        return frozenset(map(Digest, new))

    def digest(self, name: str) -> Digest:
        self.requests.append(("digest", name))
        if name not in self.images:
            raise NotFound(f"{name} was not found")
        return Digest(name.rpartition("@")[2])

    @contextlib.contextmanager
    def blob(self, name: str) -> Iterator[IO[bytes]]:
        self.requests.append(("blob", name))
        if name in self.errors:
            raise self.errors[name]
        repository, _, digest = name.partition("@")
        if digest not in self.blobs.get(repository, ()):
            raise NotFound(f"{name} was not found")
        yield io.BytesIO(b"x")


@pytest.fixture
def crane() -> FakeCrane:
    return FakeCrane()


@pytest.fixture
def session(crane: FakeCrane, tmp_path: Path) -> Iterator[PushSession]:
    cache = Cache(str(tmp_path / "cache"))
    with ThreadPoolExecutor(1) as threads, Workers(2) as workers:
        yield PushSession(crane, threads, threads, threads, workers, cache, Report())  # type: ignore[arg-type]


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    (tmp_path / "scratch").mkdir()
    return str(tmp_path / "scratch")


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "source").mkdir()
    plant(tmp_path / "source", TREE)
    return str(tmp_path / "source")


@pytest.fixture
def spec(tmp_path: Path) -> ImageSpec:
    """What a push asks for, with an extractor whose layer is a file."""
    path = tmp_path / "extractor.tar.gz"
    path.write_bytes(b"the extractor")
    layer = Layer(digest_of(b"the extractor"), 13)
    extractor = StagedLayer(str(path), layer, digest_of(b"its archive"))
    return replace(SPEC, bases=(replace(SPEC.bases[0], extractor=extractor),))


def plan_on(
    tag_image: KontextImage | StartFresh,
    spec: ImageSpec = SPEC,
    tree: Tree = TREE,
    reference: Reference = TAG,
) -> Plan:
    if isinstance(tag_image, StartFresh):
        return plan_on_image(tag_image, spec, described(tree))
    return make_plan([Candidate(tag_image, reference, Origin.TAG)], NOTHING, spec, described(tree))


def stage(
    session: PushSession, root: str, plan: Plan, directory: str, *, scan_secrets: bool = False
) -> StagedLayers:
    return write_layers(session, plan, partition(plan), WriteOptions(root, directory, scan_secrets))


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
    assert in_archive(io.BytesIO(gzip.decompress(content))) == TREE
    assert layers.root == encode(layers.manifest) == first_file(content)
    assert layers.manifest.tree == described(TREE)
    assert layers.manifest.lineage == plan.lineage
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
    assert layers.manifest.lineage.layers == tuple(s.layer.digest for s in layers.lower)


@pytest.mark.usefixtures("small_chunks")
def test_layers_that_are_written_nowhere_make_the_same_image(
    session: PushSession, root: str, scratch: str
) -> None:
    plan = plan_on(NOTHING)
    written, measured = (stage(session, root, plan, directory) for directory in (scratch, ""))
    assert measured.root == written.root
    assert measured.sources(plan) == written.sources(plan)
    assert {staged.path for staged in measured.all} == {os.devnull}


@pytest.mark.parametrize("scan_secrets", [True, False])
@pytest.mark.parametrize("chunk", [5000, 10**9], ids=["by workers", "in one process"])
def test_the_bytes_of_files_are_counted_while_layers_are_written(
    session: PushSession,
    root: str,
    chunk: int,
    scan_secrets: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partition_module, "CHUNK_BYTES", chunk)
    ended: list[Step] = []
    session = replace(session, report=Report(steps=Steps(ended.append)))
    large = b"large" * 200_000
    tree = TREE | {"large": File(large)}
    plant(Path(root), tree)
    plan = plan_on(NOTHING, tree=tree)
    sizes: list[int] = []
    advance = Step.advance

    def note(step: Step, files: int, size: int) -> None:
        sizes.append(size)
        advance(step, files, size)

    monkeypatch.setattr(Step, "advance", note)
    stage(session, root, plan, "", scan_secrets=scan_secrets)
    total = described(tree).size
    assert ended[-1].progress == Progress(bytes=total, total_bytes=total)
    if chunk > total:
        assert max(sizes) < len(large), "within a file"


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


# The publication


@dataclass(frozen=True)
class Pushed:
    done: Published
    layers: StagedLayers
    assembly: Assembly


def push(
    session: PushSession,
    plan: Plan,
    root: str,
    directory: str,
    tags: Sequence[Reference] = (TAG,),
    shown: Mapping[Reference, Digest | None] | None = None,
    unsettled: frozenset[Reference] = frozenset(),
) -> Pushed:
    """Write the layers of a plan, and publish it under tags that show nothing yet."""
    layers = stage(session, root, plan, directory)
    assembly = assemble(plan.spec, layers.sources(plan), plan.labels)
    shown = dict.fromkeys(tags) if shown is None else shown
    found = Found(NOTHING, shown, unsettled=unsettled)
    done = publish(session, plan, layers.manifest, assembly, layers.all, found, directory)
    return Pushed(done, layers, assembly)


def hold(crane: FakeCrane, image: KontextImage, reference: Reference = TAG) -> set[str]:
    """Let a repository have all layers of an image."""
    layers = {layer.digest for layer in image.image.layers}
    crane.blobs.setdefault(reference.repository, set()).update(layers)
    crane.contents[reference.at(image.image.digest)] = set(layers)
    return set(layers)


def test_a_first_push_publishes_the_layers_and_the_extractor_with_one_request(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    pushed = push(session, plan_on(NOTHING, replace(spec, labels={"k": "v"})), root, scratch)
    assert crane.requests == [("push", str(TAG))]
    new = {staged.layer.digest for staged in (*pushed.layers.all, spec.bases[0].extractor)}
    assert crane.layout == new | pushed.assembly.documents.keys()
    assert pushed.done.written == (TAG,)
    assert pushed.done.uploaded == sum(pushed.assembly.blobs.values())
    image = pushed.done.image
    assert (image.digest, image.image) == (pushed.assembly.digest, pushed.assembly.images[0])
    assert image.manifest == pushed.layers.manifest
    assert image.config is not None and image.config.labels == {"k": "v"}


def test_a_delta_publishes_its_layer_and_nothing_of_the_parent(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    """The parent's layers are in the registry. Its manifest may be gone."""
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent)
    pushed = push(session, plan_on(parent, spec), root, scratch)
    assert crane.requests == [("push", str(TAG))]
    assert not crane.layout & {layer.digest for layer in parent.sources}
    (image,) = pushed.assembly.images
    assert image.layers == (
        *parent.sources,
        pushed.layers.top.layer,
        spec.bases[0].extractor.layer,
    )
    config = next(digest for digest in pushed.assembly.documents if digest != image.digest)
    assert pushed.done.uploaded == (
        pushed.layers.top.layer.size + len(pushed.assembly.documents[config])
    )


@pytest.mark.usefixtures("small_chunks")
def test_a_large_fresh_start_publishes_all_its_layers_at_once(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    pushed = push(session, plan_on(NOTHING, spec), root, scratch)
    assert len(pushed.layers.lower) > 1
    assert crane.requests == [("push", str(TAG))]
    assert {staged.layer.digest for staged in pushed.layers.all} <= crane.layout


def test_several_platforms_are_published_as_an_index(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    both = replace(spec, bases=(*spec.bases, replace(ARM, extractor=spec.bases[0].extractor)))
    pushed = push(session, plan_on(NOTHING, both), root, scratch)
    assert crane.requests == [("push", str(TAG), "index")]
    assert pushed.done.image.digest == digest_of(pushed.assembly.index)
    assert json.loads(pushed.assembly.index)["mediaType"] == OCI_INDEX
    assert pushed.done.image.platforms == ("linux/amd64", "linux/arm64")
    assert session.cache.published(str(TAG), pushed.assembly.digest) == pushed.done.image


def test_a_single_layer_has_the_extractor_in_it(
    session: PushSession,
    crane: FakeCrane,
    root: str,
    scratch: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = tar.header("kontext-extractor", tar.REGTYPE, 0o755)
    monkeypatch.setattr(layers_module, "extractor_entries", lambda base: entry)
    pushed = push(session, plan_on(NOTHING, replace(SPEC, single_layer=True)), root, scratch)
    (image,) = pushed.assembly.images
    assert image.layers == (pushed.layers.top.layer,)
    assert crane.layout == {pushed.layers.top.layer.digest, *pushed.assembly.documents}
    content = Path(pushed.layers.top.path).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        assert archive.getnames()[:2] == [MANIFEST_PATH, "kontext-extractor"]
    assert in_archive(io.BytesIO(gzip.decompress(content))) == TREE


def test_another_label_uploads_a_configuration_alone(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, scratch: str
) -> None:
    parent = published(plan_on(NOTHING, spec))
    hold(crane, parent)
    plan = plan_on(parent, replace(spec, labels={"n": "w"}))
    assert plan.sources is not None
    assembly = assemble(plan.spec, plan.sources, plan.labels)
    found = Found(NOTHING, {TAG: parent.digest})
    done = publish(session, plan, parent.manifest, assembly, (), found, scratch)
    assert crane.requests == [("push", str(TAG))]
    assert 0 < done.uploaded < 1000
    assert done.image.manifest == parent.manifest
    assert session.cache.layers("written") == frozenset(), "no layer was written"


# Which tags are written


def test_a_tag_that_shows_the_image_already_is_not_written(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    """Tags may be immutable."""
    plan = plan_on(NOTHING, spec)
    digest = push(session, plan, root, scratch).assembly.digest
    crane.requests.clear()
    os.rename(f"{scratch}/layout", f"{scratch}/first")
    pushed = push(session, plan, root, scratch, shown={TAG: digest, SECOND: BEFORE})
    assert crane.requests == [("push", str(SECOND))]
    assert (pushed.done.written, pushed.done.uploaded) == ((SECOND,), 0)
    crane.requests.clear()
    pushed = push(session, plan, root, scratch, shown={TAG: digest, SECOND: digest})
    assert crane.requests == []
    assert (pushed.done.written, pushed.done.uploaded) == ((), 0)


def test_a_tag_about_which_the_answer_may_be_outdated_is_written_in_any_case(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    """A slow registry says that the tag shows this image, from before the last push."""
    plan = plan_on(NOTHING, spec)
    digest = push(session, plan, root, scratch).assembly.digest
    crane.requests.clear()
    os.rename(f"{scratch}/layout", f"{scratch}/first")
    shown = {TAG: digest, SECOND: digest}
    pushed = push(session, plan, root, scratch, shown=shown, unsettled=frozenset({SECOND}))
    # crane push sends nothing where the tag seems to show the image.
    assert crane.requests == [("push", str(SECOND)), ("tag", TAG.at(digest), "u")]
    assert pushed.done.written == (SECOND,)


def test_each_tag_is_pushed_to_in_its_order(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    pushed = push(session, plan_on(NOTHING, spec), root, scratch, [TAG, OTHER, SECOND])
    assert crane.requests == [("push", str(tag)) for tag in (TAG, OTHER, SECOND)]
    sizes = pushed.assembly.blobs
    assert pushed.done.uploaded == 2 * sum(sizes.values()), "once for each repository"


@pytest.mark.parametrize(
    "error", [RegistryError("it is full", hint="Make room."), NotFound("gone")]
)
def test_an_error_at_a_later_tag_says_what_is_published(
    error: RegistryError,
    session: PushSession,
    crane: FakeCrane,
    spec: ImageSpec,
    root: str,
    scratch: str,
) -> None:
    crane.errors[str(SECOND)] = error
    with pytest.raises(KontextError) as raised:
        push(session, plan_on(NOTHING, spec), root, scratch, [TAG, SECOND, OTHER])
    (image,) = crane.images
    assert not isinstance(raised.value, NotFound), "another start would not help"
    assert raised.value.message == (
        f"{image} is published as {TAG}, but not as {SECOND}: {error.message}"
    )
    assert raised.value.hint == error.hint
    assert [request[1] for request in crane.requests] == [str(TAG), str(SECOND)]


def test_a_lost_layer_of_the_parent_is_not_found_and_nothing_is_remembered(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    parent = published(plan_on(NOTHING, spec, EARLIER))
    with pytest.raises(NotFound):
        push(session, plan_on(parent, spec), root, scratch, [TAG, SECOND])
    assert crane.requests == [("push", str(TAG))], "the other tag is not written"
    assert session.cache.entries() == []


def test_a_layout_that_cannot_be_written_is_an_error_with_a_hint(
    session: PushSession, spec: ImageSpec, root: str, scratch: str
) -> None:
    Path(scratch, "layout").write_bytes(b"")
    with pytest.raises(KontextError, match="the layer cannot be written to") as raised:
        push(session, plan_on(NOTHING, spec), root, scratch)
    assert "KONTEXT_CACHE_DIR" in raised.value.hint


# Layers that are elsewhere


def test_a_parent_of_another_repository_brings_its_layers_along(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    parent = published(plan_on(NOTHING, spec, EARLIER))
    there = hold(crane, parent, OTHER)
    plan = plan_on(parent, spec, reference=OTHER)
    pushed = push(session, plan, root, scratch)
    source = OTHER.at(parent.image.digest)
    assert crane.requests == [("bring", source, TAG.repository), ("push", str(TAG))], (
        "nothing is uploaded to a new repository that can be mounted"
    )
    sizes = {layer.digest: layer.size for layer in parent.image.layers} | pushed.assembly.blobs
    new = there | pushed.assembly.blobs.keys()
    assert pushed.done.uploaded == sum(sizes[Digest(blob)] for blob in new)


def test_layers_that_are_there_already_are_not_brought(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent, OTHER)
    hold(crane, parent, TAG)
    shown: dict[Reference, Digest | None] = {TAG: digest_of(b"a former push to both")}
    push(session, plan_on(parent, spec, reference=OTHER), root, scratch, shown=shown)
    assert crane.requests == [("push", str(TAG))]


def test_layers_that_are_missing_after_all_are_brought(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent, OTHER)
    shown: dict[Reference, Digest | None] = {TAG: digest_of(b"something else")}
    push(session, plan_on(parent, spec, reference=OTHER), root, scratch, shown=shown)
    assert [verb for verb, *_ in crane.requests] == ["push", "bring", "push"]


def test_a_second_repository_gets_the_layers_of_the_image_in_the_first_one(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    """Gitea deletes the parent where its tag is moved. Found by scripts/reliability."""
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent, TAG)
    plan = plan_on(parent, spec)
    crane.errors[TAG.at(parent.image.digest)] = NotFound("status code 404")
    layers = stage(session, root, plan, scratch)
    new = assemble(plan.spec, layers.sources(plan), plan.labels)
    image = TAG.at(new.images[0].digest)
    crane.contents[image] = {layer.digest for layer in new.images[0].layers}
    pushed = push(session, plan, root, scratch, [TAG, OTHER])
    assert pushed.done.written == (TAG, OTHER)
    assert ("bring", image, OTHER.repository) in crane.requests


def test_an_index_brings_the_image_whose_layers_are_wanted(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    """By the digest of the image: crane would bring the images of all platforms."""
    both = replace(spec, bases=(*spec.bases, replace(ARM, extractor=spec.bases[0].extractor)))
    parent = published(plan_on(NOTHING, both, EARLIER))
    assert parent.digest != parent.image.digest
    hold(crane, parent, OTHER)
    push(session, plan_on(parent, spec, reference=OTHER), root, scratch)
    assert ("bring", OTHER.at(parent.image.digest), TAG.repository) in crane.requests


LOWER = Layer(digest_of(b"of the base"), 9)


def with_base(spec: ImageSpec, *platforms: str) -> ImageSpec:
    """Return the spec on the user's own base of one layer."""
    bases = tuple(
        BaseImage(
            platform,
            dict(zip(("os", "architecture"), platform.split("/"), strict=True))
            | {"rootfs": {"type": "layers", "diff_ids": [BEFORE]}},
            spec.bases[0].extractor,
            layers=(LOWER,),
            source=f"host.io/own@{digest_of(platform.encode())}",
            name="host.io/own:3",
        )
        for platform in platforms or ("linux/amd64",)
    )
    return replace(spec, bases=bases)


@pytest.mark.parametrize("platforms", [("linux/amd64",), ("linux/amd64", "linux/arm64")])
def test_the_layers_of_a_base_are_brought_where_they_are_missing(
    platforms: tuple[str, ...],
    session: PushSession,
    crane: FakeCrane,
    spec: ImageSpec,
    root: str,
    scratch: str,
) -> None:
    on_base = with_base(spec, *platforms)
    for base in on_base.bases:
        crane.contents[base.source] = {LOWER.digest}
    pushed = push(session, plan_on(NOTHING, on_base), root, scratch, [TAG, SECOND])
    again = ("index",) if len(platforms) > 1 else ()
    assert crane.requests == [
        *(("bring", base.source, TAG.repository) for base in on_base.bases),
        ("push", str(TAG), *again),
        ("push", str(SECOND), *again),
    ]
    assert LOWER in pushed.assembly.images[0].layers
    assert pushed.done.uploaded == sum(pushed.assembly.blobs.values())


def test_a_base_that_is_gone_meanwhile_is_told(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    on_base = with_base(spec)
    crane.errors[on_base.bases[0].source] = NotFound("host.io/own was not found")
    with pytest.raises(NotFound, match=r"host\.io/own was not found"):
        push(session, plan_on(NOTHING, on_base), root, scratch)


# The cache


def test_the_published_image_is_in_the_cache(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent)
    pushed = push(session, plan_on(parent, spec), root, scratch, [TAG, SECOND])
    cached = session.cache.published(str(TAG), pushed.assembly.digest)
    assert cached == pushed.done.image
    assert cached is not None and cached.is_cached
    assert session.cache.published(str(SECOND), pushed.assembly.digest) is None, "once is enough"


TRUST: dict[str, tuple[str, str]] = {
    "written here": ("written", "written"),
    "checked": ("checked", "checked"),
    "of another machine": ("", ""),
}


@pytest.mark.parametrize(("of_parent", "expected"), TRUST.values(), ids=TRUST)
def test_a_layer_is_trusted_as_the_parents_are(
    of_parent: str,
    expected: str,
    session: PushSession,
    crane: FakeCrane,
    spec: ImageSpec,
    root: str,
    scratch: str,
) -> None:
    """--reuse own builds on images of which this machine has written all layers."""
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent)
    if of_parent:
        session.cache.save_layers(of_parent, [parent.sources_key])  # type: ignore[arg-type]
    before = {how: session.cache.layers(how) for how in ("written", "checked")}  # type: ignore[arg-type]
    pushed = push(session, plan_on(parent, spec), root, scratch)
    new = {pushed.done.image.sources_key}
    for how in ("written", "checked"):
        added = session.cache.layers(how) - before[how]  # type: ignore[arg-type]
        assert added == (new if how == expected else set())


def test_the_layers_of_a_fresh_start_are_written_here(
    session: PushSession, spec: ImageSpec, root: str, scratch: str
) -> None:
    pushed = push(session, plan_on(NOTHING, spec), root, scratch)
    assert session.cache.layers("written") == {pushed.done.image.sources_key}


# Lost blobs, and what a push would upload


def test_a_blob_is_missing_where_the_repository_cannot_show_it(
    session: PushSession, crane: FakeCrane
) -> None:
    one, two = digest_of(b"1"), digest_of(b"2")
    crane.blobs[TAG.repository] = {one}
    assert missing_blobs(session, [one, two], TAG) == {two}
    crane.errors[TAG.at(one)] = RegistryError("connection refused")
    with pytest.raises(RegistryError):
        missing_blobs(session, [one, two], TAG)


def damaged_push(
    session: PushSession, crane: FakeCrane, plan: Plan, root: str, scratch: str
) -> Assembly:
    """Publish a plan, and let the registry lose a blob of it."""
    assembly = push(session, plan, root, scratch).assembly
    crane.blobs[TAG.repository].remove(assembly.images[0].layers[0].digest)
    crane.requests.clear()
    return assembly


def test_an_image_that_has_lost_a_blob_is_published_with_another_digest(
    session: PushSession,
    crane: FakeCrane,
    spec: ImageSpec,
    root: str,
    scratch: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """crane sends nothing where it finds the manifest, so the image would stay damaged."""
    plan = plan_on(NOTHING, spec)
    assembly = damaged_push(session, crane, plan, root, scratch)
    assert find_damage(session, assembly, TAG)
    sources = stage(session, root, plan, "").sources(plan)
    healed = assemble_undamaged(session, plan, sources, TAG)
    assert healed.digest != assembly.digest
    assert healed.images[0].replaces == assembly.digest
    assert healed.images[0].layers == assembly.images[0].layers
    assert f"{TAG.at(assembly.digest)} has lost a blob" in capsys.readouterr().err
    assert not find_damage(session, healed, TAG)


def test_an_image_that_is_whole_or_not_there_keeps_its_digest(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    plan = plan_on(NOTHING, spec)
    sources = stage(session, root, plan, "").sources(plan)
    wanted = assemble(plan.spec, sources, plan.labels)
    assert assemble_undamaged(session, plan, sources, TAG) == wanted
    assert crane.requests == [("digest", TAG.at(wanted.digest))], "one request for a new image"
    push(session, plan, root, scratch)
    assert assemble_undamaged(session, plan, sources, TAG) == wanted


def test_a_dry_run_counts_the_blobs_that_the_registry_lacks(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str, scratch: str
) -> None:
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent)
    plan = plan_on(parent, spec)
    layers = stage(session, root, plan, "")
    assembly = assemble(plan.spec, layers.sources(plan), plan.labels)
    counted = count_upload(session, plan, assembly, TAG)
    asked = {request[1].partition("@")[2] for request in crane.requests}
    assert not asked & {layer.digest for layer in parent.sources}, "the parent has these"
    assert push(session, plan, root, scratch).done.uploaded == counted


def test_a_dry_run_for_another_repository_asks_for_all_blobs(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str
) -> None:
    parent = published(plan_on(NOTHING, spec, EARLIER))
    hold(crane, parent, OTHER)
    plan = plan_on(parent, spec, reference=OTHER)
    sources = stage(session, root, plan, "").sources(plan)
    assembly = assemble(plan.spec, sources, plan.labels)
    assert count_upload(session, plan, assembly, TAG) == sum(assembly.blobs.values())


def test_a_dry_run_where_the_registry_refuses_counts_everything(
    session: PushSession, crane: FakeCrane, spec: ImageSpec, root: str
) -> None:
    plan = plan_on(NOTHING, spec)
    assembly = assemble(plan.spec, stage(session, root, plan, "").sources(plan), plan.labels)
    crane.errors |= {TAG.at(blob): Refused("no access") for blob in assembly.blobs}
    assert count_upload(session, plan, assembly, TAG) == sum(assembly.blobs.values())
