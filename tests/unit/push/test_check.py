"""Checking a parent: each lie in its layers is found, and each honest image passes."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.models import (
    NOTHING,
    SPEC,
    STRANGE_NAMES,
    TAG,
    crane_export,
    described,
    histories,
    plan_on,
    published,
    trees,
)
from support.models import layer as layer_of
from support.trees import Directory, File, Link, Node, Tree

from kontext_plugin.cache import Cache
from kontext_plugin.crane_driver.errors import NotFound, RegistryError
from kontext_plugin.delta import diff
from kontext_plugin.image.listing import list_tree
from kontext_plugin.image.oci import Digest, ImageConfig, Layer, digest_of
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import SOURCES_PATH
from kontext_plugin.layer.reader import ExportReader
from kontext_plugin.manifest import MANIFEST_PATH, part_name
from kontext_plugin.push.check import _Unpacked, check_parent
from kontext_plugin.push.find import Found
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.plan import Plan
from kontext_plugin.push.prepare import Prepared
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source.directory import open_source
from kontext_plugin.source.scan import Scan
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.messages import Report

Entry = tuple[tarfile.TarInfo, bytes]
DIR, X = Directory(), File(b"x")


# --- Layers as a push writes them ---


def entry(name: str, node: Node) -> Entry:
    header, content = tarfile.TarInfo(name), b""
    if isinstance(node, Directory):
        header.type, header.mode = tarfile.DIRTYPE, 0o755
    elif isinstance(node, Link):
        header.type, header.linkname, header.mode = tarfile.SYMTYPE, node.target, 0o777
    else:
        header.mode, content = 0o755 if node.executable else 0o644, node.content
    header.size = len(content)
    return header, content


def whiteout(path: str) -> Entry:
    directory, _, name = f"{SOURCES_PATH}/{path}".rpartition("/")
    return entry(f"{directory}/.wh.{name}", File(b""))


ABOVE = ["var", "var/lib", "var/lib/kontext", "var/lib/kontext/parts", "var/run", SOURCES_PATH]
DOCUMENTS = [
    entry(MANIFEST_PATH, File(b"{}")),
    entry(part_name(digest_of(b"{}")), File(b"{}")),
    *(entry(path, DIR) for path in ABOVE),
]


def delta(old: Tree, new: Tree) -> list[Entry]:
    """Return the entries of the layer that turns one tree into another."""
    listed = layer_of(diff(described(old), described(new)), new)
    return [
        *DOCUMENTS,
        *(
            whiteout(path) if node is None else entry(f"{SOURCES_PATH}/{path}", node)
            for path, node in listed
        ),
    ]


def archive_of(entries: list[Entry]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for header, content in entries:
            archive.addfile(header, io.BytesIO(content))
    return stream.getvalue()


# --- A registry in memory ---


@dataclass
class FakeCrane:
    blobs: dict[str, bytes] = field(default_factory=dict)
    error: RegistryError | None = None
    requests: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def blob(self, name: str, *, whole: bool) -> Iterator[IO[bytes]]:
        assert whole, "crane compares the digest at the end"
        self.requests.append(name)
        if self.error:
            raise self.error
        yield io.BytesIO(self.blobs[name.rpartition("@")[2]])


class Registry:
    """A registry with one image, whose layers can be exchanged for others."""

    def __init__(self, history: list[Tree]) -> None:
        self.crane = FakeCrane()
        self.archives: list[list[Entry]] = []
        image: KontextImage | StartFresh = NOTHING
        former: Tree = {}
        for tree in history:
            # As models.published, but every push leaves a layer of its own.
            plan = plan_on(image, SPEC, described(tree))
            if plan.sources:
                continue
            base = self._base(plan, history)
            self.archives = [*self.archives[: len(plan.parent_layers)], delta(base, tree)]
            image = published(plan)
            former = tree
        assert isinstance(image, KontextImage)
        self.image, self.tree = image, former

    def _base(self, plan: Plan, history: list[Tree]) -> Tree:
        """Return the tree of the parent."""
        if isinstance(plan.parent, StartFresh):
            return {}
        return overlay(self.archives[: len(plan.parent_layers)])

    def found(self, *, bad: dict[int, bytes] | None = None) -> KontextImage:
        """Return the image with the layers that there are now. `bad` replaces blobs."""
        blobs = [gzip.compress(archive_of(entries), 1, mtime=0) for entries in self.archives]
        diff_ids = [digest_of(archive_of(entries)) for entries in self.archives]
        for number, blob in (bad or {}).items():
            blobs[number] = blob
        self.crane.blobs = {digest_of(blob): blob for blob in blobs}
        layers = tuple(Layer(digest_of(blob), len(blob)) for blob in blobs)
        image, config = self.image.image, self.image.config
        assert config is not None
        lineage = replace(self.image.lineage, layers=tuple(layer.digest for layer in layers[:-1]))
        return replace(
            self.image,
            image=replace(image, layers=(*layers, *image.layers[-1:])),
            config=replace(config, diff_ids=(*diff_ids, *config.diff_ids[-1:])),
            manifest=replace(self.image.manifest, lineage=lineage),
        )


def overlay(layers: list[list[Entry]]) -> Tree:
    """Return the tree that these layers make."""
    shown: Tree = {}
    for entries in layers:
        for header, content in entries:
            if not header.name.startswith(f"{SOURCES_PATH}/"):
                continue
            path = header.name[len(SOURCES_PATH) + 1 :]
            directory, _, name = path.rpartition("/")
            hides = name.startswith(".wh.")
            path = f"{directory}/{name[4:]}".lstrip("/") if hides else path
            if hides or not (header.isdir() and isinstance(shown.get(path), Directory)):
                shown = {
                    other: node
                    for other, node in shown.items()
                    if other != path and not other.startswith(f"{path}/")
                }
            if hides:
                continue
            if header.isdir():
                shown[path] = Directory()
            elif header.issym():
                shown[path] = Link(header.linkname)
            else:
                shown[path] = File(content, bool(header.mode & 0o100))
    return shown


def check(
    registry: Registry,
    found: KontextImage,
    cache: Cache,
    tree: Tree | None = None,
    spec: ImageSpec = SPEC,
) -> Prepared:
    """Check the image as the parent of a push of `tree`."""
    new = registry.tree | {"zzz": File(b"new")} if tree is None else tree
    plan = plan_on(found, spec, described(new))
    with ThreadPoolExecutor(1) as threads:
        session = PushSession(registry.crane, threads, threads, threads, None, cache, Report())  # type: ignore[arg-type]
        prepared = Prepared(
            source=open_source("/"),
            scan=Scan(Snapshot(list_tree(plan.tree)), (), (), 0),
            found=Found(NOTHING, {TAG: found.digest}, (), found),
            plan=plan,
            partition=None,
            assembly=None,
        )
        return check_parent(session, prepared)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


# --- Honest images ---

BEFORE: Tree = {
    "ballast": File(b"b" * 100_000),
    "file": File(b"content"),
    "run": File(b"#!", executable=True),
    "link": Link("file"),
    "dir": DIR,
    "dir/a": X,
    "dir/deep": DIR,
    "dir/deep/b": X,
    "gone": X,
}
AFTER: Tree = {path: node for path, node in BEFORE.items() if path != "gone"} | {
    "file": File(b"other content" * 300),
    "new": File(b"new" * 1000),
}


@pytest.fixture
def registry() -> Registry:
    registry = Registry([BEFORE, AFTER])
    assert len(registry.archives) == 2
    return registry


def test_an_honest_parent_is_built_on(
    registry: Registry, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    found = registry.found()
    prepared = check(registry, found, cache)
    assert isinstance(prepared.plan.parent, BuildOn)
    assert prepared.plan.found_image is found
    size = sum(layer.size for layer in found.sources)
    assert size > 0
    assert capsys.readouterr().err.startswith(f"Checking {TAG}: 2 layers, ")
    assert registry.crane.requests == [TAG.at(layer.digest) for layer in found.sources]


def test_a_layer_that_was_checked_is_not_read_again(registry: Registry, cache: Cache) -> None:
    found = registry.found()
    check(registry, found, cache)
    assert cache.layers("checked") == {found.sources_key}
    registry.crane.requests.clear()
    assert isinstance(check(registry, found, cache).plan.parent, BuildOn)
    assert registry.crane.requests == []


def test_a_layer_that_this_machine_has_written_is_not_read(
    registry: Registry, cache: Cache
) -> None:
    found = registry.found()
    cache.save_layers("written", [found.sources_key])
    assert isinstance(check(registry, found, cache).plan.parent, BuildOn)
    assert registry.crane.requests == []


def test_the_top_layer_alone_being_known_is_enough_and_a_lower_one_is_not(
    registry: Registry, cache: Cache
) -> None:
    """A known top layer names the layers below it; a lower one knows nothing of those above."""
    found = registry.found()
    cache.save_layers("checked", [found.sources[0].digest])
    check(registry, found, cache)
    assert len(registry.crane.requests) == 2


def test_a_fresh_start_reads_nothing(registry: Registry, cache: Cache) -> None:
    found = replace(registry.found(), config=None)
    prepared = check(registry, found, cache)
    assert isinstance(prepared.plan.parent, StartFresh)
    assert registry.crane.requests == []


@pytest.mark.slow
@settings(max_examples=50)
@given(st.one_of(histories(), st.lists(trees(STRANGE_NAMES), min_size=1, max_size=4)))
def test_every_honest_history_passes(history: list[Tree]) -> None:
    """A check that takes an honest image for a lie uploads everything again."""
    registry = Registry(history)
    found = registry.found()
    for tree in (registry.tree | {"zzz": X}, history[0], {}):
        planned = plan_on(found, SPEC, described(tree)).parent
        prepared = check(registry, found, Cache(None), tree)
        assert type(prepared.plan.parent) is type(planned)


def test_a_directory_may_come_back_after_a_whiteout(cache: Cache) -> None:
    """A whiteout hides its old files from every consumer."""
    ballast: Tree = {"ballast": File(b"b" * 200_000)}
    trees_: list[Tree] = [
        ballast | {"d": DIR, "d/old": X},
        ballast | {"d": X, "n": File(b"n" * 60_000)},
        ballast | {"n": File(b"n" * 60_000), "m": File(b"m" * 20_000)},
    ]
    last = trees_[-1] | {"d": DIR, "d/new": X, "o": File(b"o" * 5000)}
    registry = Registry([*trees_, last])
    assert len(registry.archives) == 4
    assert isinstance(check(registry, registry.found(), cache).plan.parent, BuildOn)


CONTENTS = {
    "zeros": {"f": File(bytes(30_000_000))},
    "many empty files": {f"{'n' * 80}{number}": File(b"") for number in range(3000)},
    "long names": {"ä" * 120: File(b""), "l": Link("x" * 4000)}
    | {"/".join(["d" * 50] * depth): DIR for depth in range(1, 30)},
}


@pytest.mark.parametrize("tree", CONTENTS.values(), ids=CONTENTS)
def test_what_is_packed_well_is_no_lie(tree: Tree, cache: Cache) -> None:
    """Layers of zeros or of empty files have less than a hundredth of their bytes."""
    registry = Registry([tree])
    found = registry.found()
    assert isinstance(check(registry, found, cache, tree | {"n": X}).plan.parent, BuildOn)


def test_a_single_layer_is_written_again(cache: Cache) -> None:
    """It has the extractor in it, and is never built on. The same files give the same layer."""
    spec = replace(SPEC, single_layer=True)
    found = published(plan_on(NOTHING, spec, described(BEFORE)))
    registry = Registry([BEFORE])
    prepared = check(registry, found, cache, BEFORE, spec)
    assert isinstance(prepared.plan.parent, StartFresh)
    assert published(prepared.plan) == found
    assert registry.crane.requests == []


# --- Lies ---


def place(entries: list[Entry], path: str) -> int:
    return [header.name for header, _ in entries].index(f"{SOURCES_PATH}/{path}")


def exchange(registry: Registry, number: int, path: str, node: Node) -> None:
    """Put something else in the place of a path of a layer."""
    entries = registry.archives[number]
    entries[place(entries, path)] = entry(f"{SOURCES_PATH}/{path}", node)


def add(registry: Registry, number: int, *more: Entry) -> None:
    registry.archives[number] += more


def below(path: str, node: Node) -> Entry:
    return entry(f"{SOURCES_PATH}/{path}", node)


def drop(registry: Registry, number: int, path: str) -> None:
    del registry.archives[number][place(registry.archives[number], path)]


def special(path: str, kind: bytes, target: str = "") -> Entry:
    header, _ = below(path, File(b""))
    header.type, header.linkname = kind, target
    return header, b""


EVIL = File(b"evil")
LIES = {
    "other content": (lambda r: exchange(r, 0, "dir/a", EVIL), "'dir/a': other content"),
    "other content of the same size": (
        lambda r: exchange(r, 0, "dir/a", File(b"y")),
        "'dir/a': other content",
    ),
    "other content in the top layer": (
        lambda r: exchange(r, 1, "new", EVIL),
        "'new': other content",
    ),
    "the content of an earlier image": (
        lambda r: exchange(r, 1, "file", File(b"content")),
        "'file': other content",
    ),
    "executable": (lambda r: exchange(r, 0, "dir/a", File(b"x", True)), "'dir/a': other mode"),
    "not executable": (lambda r: exchange(r, 0, "run", File(b"#!")), "'run': other mode"),
    "another target": (lambda r: exchange(r, 0, "link", Link("/etc")), "'link': other content"),
    "a link for a file": (lambda r: exchange(r, 0, "dir/a", Link("x")), "'dir/a': other kind"),
    "a file for a link": (lambda r: exchange(r, 0, "link", X), "'link': other kind"),
    "a link for an empty directory": (
        lambda r: (drop(r, 0, "dir/deep/b"), exchange(r, 0, "dir/deep", Link("/etc"))),
        "'dir/deep': other kind",
    ),
    "an extra file": (lambda r: add(r, 0, below("extra", EVIL)), "'extra': only"),
    "an extra file in the top layer": (lambda r: add(r, 1, below("extra", EVIL)), "'extra': only"),
    "an extra directory": (lambda r: add(r, 1, below("extra", DIR)), "'extra': only"),
    "a missing file": (lambda r: drop(r, 0, "dir/a"), "'dir/a': missing"),
    "a missing change": (lambda r: drop(r, 1, "new"), "'new': missing"),
    "a missing whiteout": (lambda r: drop(r, 1, ".wh.gone"), "'gone': only"),
    "a whiteout too many": (lambda r: add(r, 1, whiteout("dir/a")), "'dir/a': missing"),
    "a whiteout of a directory": (lambda r: add(r, 1, whiteout("dir")), "'dir': missing"),
    "a file over a directory": (lambda r: add(r, 1, below("dir", EVIL)), "'dir': other kind"),
    "a file twice": (lambda r: add(r, 0, below("dir/a", EVIL)), "it has 'dir/a' twice"),
    "a file twice, the same": (lambda r: add(r, 0, below("dir/a", X)), "it has 'dir/a' twice"),
    "a directory twice": (lambda r: add(r, 0, below("dir", DIR)), "it has 'dir' twice"),
    "a file beside its whiteout": (
        lambda r: add(r, 1, whiteout("new")),
        "it has 'new' twice",
    ),
    "a file below a whiteout": (
        lambda r: add(r, 1, below("dir/deep/evil", EVIL), whiteout("dir/deep")),
        "something below 'dir/deep', and hides it",
    ),
    "a file below a file": (
        lambda r: add(r, 1, below("dir/deep/evil", EVIL), below("dir/deep", X)),
        "something below 'dir/deep', and hides it",
    ),
    "a whiteout of nothing": (
        lambda r: add(r, 1, whiteout("nothing")),
        "it hides 'nothing', which no layer below has",
    ),
    "a whiteout in the lowest layer": (
        lambda r: add(r, 0, whiteout("nothing")),
        "it hides 'nothing', which no layer below has",
    ),
    "an opaque directory": (
        lambda r: add(r, 1, below("dir", DIR), below("dir/.wh..wh..opq", File(b""))),
        "it hides 'dir/.wh..opq', which no layer below has",
    ),
    "a file in a link": (
        lambda r: add(r, 1, below("link/evil", EVIL)),
        "'link/evil' in something that is not a directory",
    ),
    "a file in a file": (
        lambda r: add(r, 1, below("file/evil", EVIL)),
        "'file/evil' in something that is not a directory",
    ),
    "a file without its directory": (
        lambda r: add(r, 1, below("no/where", EVIL)),
        "'no/where' in something that is not a directory",
    ),
    "a path that climbs": (
        lambda r: add(r, 1, below("dir/../../evil", EVIL)),
        "it has the unsafe path 'var/run/kontext/dir/../../evil'",
    ),
    "an absolute path": (
        lambda r: add(r, 1, entry(f"/{SOURCES_PATH}/extra", EVIL)),
        "'extra': only",
    ),
    "a device": (lambda r: add(r, 1, special("null", tarfile.CHRTYPE)), "it has 'null', a device"),
    "a FIFO": (lambda r: add(r, 1, special("fifo", tarfile.FIFOTYPE)), "it has 'fifo', a FIFO"),
    "a hard link": (
        lambda r: add(r, 1, special("hard", tarfile.LNKTYPE, f"{SOURCES_PATH}/run")),
        "it has 'hard', a hard link",
    ),
    "a program beside the sources": (
        lambda r: add(r, 1, entry("kontext-extractor", EVIL)),
        "it has /kontext-extractor beside the sources",
    ),
    "a library beside the sources": (
        lambda r: add(r, 0, entry("etc", DIR), entry("etc/ld.so.preload", EVIL)),
        "it has /etc beside the sources",
    ),
    "something beside the manifest": (
        lambda r: add(r, 0, entry("var/lib/kontext/x", EVIL)),
        "it has /var/lib/kontext/x beside the sources",
    ),
    "something in the place of a part": (
        lambda r: add(r, 0, entry("var/lib/kontext/parts/../../../../etc/x", EVIL)),
        "it has the unsafe path 'var/lib/kontext/parts/../../../../etc/x'",
    ),
    "a link in the place of a part": (
        lambda r: add(r, 0, entry("var/lib/kontext/parts/x.json", Link("/etc"))),
        "it has /var/lib/kontext/parts/x.json beside the sources",
    ),
    "a whiteout of a part": (
        lambda r: add(r, 1, entry("var/lib/kontext/parts/.wh.x.json", File(b""))),
        "it has /var/lib/kontext/parts/.wh.x.json beside the sources",
    ),
    "a directory in the place of the manifest": (
        lambda r: add(r, 1, entry(MANIFEST_PATH, DIR)),
        f"it has /{MANIFEST_PATH} beside the sources",
    ),
    "a whiteout of the sources": (
        lambda r: add(r, 1, entry("var/run/.wh.kontext", File(b""))),
        "/var/run/.wh.kontext hides the sources",
    ),
    "a whiteout of what is above": (
        lambda r: add(r, 1, entry(".wh.var", File(b""))),
        "/.wh.var hides the sources",
    ),
    "a name that begins like that of the sources": (
        lambda r: add(r, 1, entry(f"{SOURCES_PATH}-evil", EVIL)),
        f"it has /{SOURCES_PATH}-evil beside the sources",
    ),
    "a link in the place of the sources": (
        lambda r: r.archives[1].insert(0, entry(SOURCES_PATH, Link("/etc"))),
        f"/{SOURCES_PATH} is not a directory",
    ),
    "a link above the sources": (
        lambda r: r.archives[1].insert(0, entry("var/run", Link("/etc"))),
        "/var/run is not a directory",
    ),
    "a link above the manifest": (
        lambda r: r.archives[1].insert(0, entry("var/lib", Link("/etc"))),
        "/var/lib",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lie", "reason"), LIES.values(), ids=LIES)
def test_a_lie_is_told_and_nothing_is_built_on_it(
    lie: object,
    reason: str,
    registry: Registry,
    cache: Cache,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lie(registry)  # type: ignore[operator]
    prepared = check(registry, registry.found(), cache)
    assert prepared.plan.parent == StartFresh("the image to build on is not as it says")
    assert prepared.partition is not None, "the push goes on"
    error = capsys.readouterr().err
    assert f"WARNING: {TAG} is not what its manifest says: " in error
    assert reason in error
    assert cache.layers("checked") == frozenset()


def test_a_lie_about_an_ancestor_that_is_built_on_is_found(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    """The top layer hides it: only the ancestor's tree shows it, and that is the parent."""
    small: Tree = BEFORE | {"file": File(b"c" * 30_000)}
    registry = Registry([small, small | {"file": File(b"d" * 30_000)}])
    assert len(registry.archives) == 2
    exchange(registry, 0, "file", EVIL)
    found = registry.found()
    again = small | {"file": File(b"c" * 30_000), "x": X}
    plan = plan_on(found, SPEC, described(again))
    assert isinstance(plan.parent, BuildOn) and len(plan.parent.layers) == 1
    prepared = check(registry, found, cache, again)
    assert isinstance(prepared.plan.parent, StartFresh)
    assert "'file': other content" in capsys.readouterr().err


def test_a_lie_about_an_ancestor_below_the_parent_is_found(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later push may build on it, and nobody checks an image again that was checked."""
    large: Tree = BEFORE | {"file": File(b"c" * 40_000), "other": File(b"o" * 10_000)}
    second = large | {"file": File(b"d" * 40_000)}
    registry = Registry([large, second, second | {"other": File(b"p" * 10_000)}])
    assert len(registry.archives) == 3
    exchange(registry, 0, "file", EVIL)
    found = registry.found()
    prepared = check(registry, found, cache)
    assert isinstance(prepared.plan.parent, StartFresh)
    assert "'file': other content" in capsys.readouterr().err


REPLACED: Tree = BEFORE | {"d": DIR, "d/old": EVIL}
RETURNED = [REPLACED, BEFORE | {"d": X, "n": File(b"n" * 60_000)}]


def test_a_directory_that_comes_back_is_a_lie(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    """`crane export` shows its old files, the other consumers do not."""
    registry = Registry(RETURNED)
    assert len(registry.archives) == 2
    tree = RETURNED[1] | {"d": DIR}
    registry.archives.append([*DOCUMENTS, below("d", DIR)])
    registry.tree = tree
    lineage = replace(registry.image.lineage, ancestors=(), replaced_directories=frozenset())
    manifest = replace(registry.image.manifest, tree=described(tree), lineage=lineage)
    registry.image = replace(registry.image, manifest=manifest)
    assert overlay(registry.archives) == tree
    assert isinstance(check(registry, registry.found(), cache).plan.parent, StartFresh)
    assert "'d', which was a directory once, as a directory" in capsys.readouterr().err


def test_a_replaced_directory_that_is_kept_secret_is_a_lie(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next push would let it come back."""
    registry = Registry(RETURNED)
    found = registry.found()
    assert found.lineage.replaced_directories == {"d"}
    assert isinstance(check(registry, found, Cache(None)).plan.parent, BuildOn)
    lineage = replace(found.lineage, replaced_directories=frozenset())
    found = replace(found, manifest=replace(found.manifest, lineage=lineage))
    assert isinstance(check(registry, found, cache).plan.parent, StartFresh)
    assert "'d': it has replaced a directory" in capsys.readouterr().err


# --- Whatever passes is the same for every consumer ---

NODES = st.sampled_from([DIR, DIR, X, EVIL, Link("a"), None, None])


def entry_of(listed: tuple[str, Node | None]) -> Entry:
    path, node = listed
    return whiteout(path) if node is None else below(path, node)


Stack = list[list[tuple[str, Node | None]]]


def unpacked(stack: Stack) -> _Unpacked:
    """Apply layers. Raises ValueError for a lie."""
    made = _Unpacked()
    for listed in stack:
        archive = archive_of([*map(entry_of, listed)])
        made.apply(ExportReader(io.BytesIO(archive), 10**6))
    return made


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    """Return layers without the entries that the check refuses."""
    stack: Stack = []
    for _ in range(draw(st.integers(1, 4))):
        stack.append([])
        for _ in range(draw(st.integers(0, 6))):
            there = overlay([[*map(entry_of, listed)] for listed in stack])
            folders = ["", *(f"{path}/" for path, node in there.items() if node == DIR)]
            names = [*there, *(f"{folder}{name}" for folder in folders for name in "ab")]
            new = draw(st.sampled_from(sorted(names))), draw(NODES)
            with contextlib.suppress(ValueError):
                unpacked([*stack[:-1], [*stack[-1], new]])
                stack[-1].append(new)
    return stack


@pytest.mark.slow
@settings(max_examples=500)
@given(stacks())
def test_layers_that_pass_show_the_same_to_every_consumer(stack: Stack) -> None:
    event(f"{sum(map(len, stack))} entries")
    made, shown = unpacked(stack), crane_export(stack)
    tree = described(shown)
    assert (made._files, made._links) == (tree.files, tree.links)
    assert made._executable == tree.executable
    assert overlay([[*map(entry_of, listed)] for listed in stack]) == shown


BLOBS = {
    "no gzip": b"x" * 999,
    "empty": b"",
    "cut off": gzip.compress(archive_of(delta(BEFORE, AFTER)))[:200],
    "cut off between entries": gzip.compress(archive_of(delta(BEFORE, AFTER))[:512]),
    "no archive": gzip.compress(b"x" * 2000),
    "a bomb": gzip.compress(bytes(512) + bytes(100_000_000), 9),
    "a bomb in a file": gzip.compress(
        archive_of([*delta(BEFORE, AFTER), below("bomb", File(bytes(50_000_000)))]), 9
    ),
}


@pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS)
def test_a_damaged_layer_is_a_lie(
    blob: bytes, registry: Registry, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    found = registry.found(bad={1: blob})
    prepared = check(registry, found, cache)
    assert isinstance(prepared.plan.parent, StartFresh)
    assert f"is not what its manifest says: {digest_of(blob)}" in capsys.readouterr().err


def test_another_diff_id_is_a_lie(
    registry: Registry, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    """docker refuses such an image, and each later push takes the diff ID over."""
    found = registry.found()
    assert found.config is not None
    wrong = (Digest("sha256:" + "0" * 64), *found.config.diff_ids[1:])
    found = replace(found, config=replace(found.config, diff_ids=wrong))
    assert isinstance(check(registry, found, cache).plan.parent, StartFresh)
    assert "diff ID" in capsys.readouterr().err


def test_what_follows_the_archive_is_a_part_of_the_diff_id(
    registry: Registry, cache: Cache
) -> None:
    """Other readers go on behind the end of the archive that Kontext sees."""
    evil = archive_of([below("dir/a", EVIL)])
    longer = gzip.compress(archive_of(registry.archives[1]) + evil)
    found = registry.found(bad={1: longer})
    assert isinstance(check(registry, found, cache).plan.parent, StartFresh)


def test_a_layer_that_is_gone_starts_fresh(registry: Registry, cache: Cache) -> None:
    registry.crane.error = NotFound("gone")
    assert isinstance(check(registry, registry.found(), cache).plan.parent, StartFresh)


def test_a_registry_that_fails_is_no_lie(registry: Registry, cache: Cache) -> None:
    registry.crane.error = RegistryError("connection refused")
    with pytest.raises(RegistryError, match="connection refused"):
        check(registry, registry.found(), cache)


def test_a_lie_cannot_command_a_terminal(
    registry: Registry, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    add(registry, 1, below("\x1b[2J\nok", EVIL))
    check(registry, registry.found(), cache)
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())


KEPT: dict[str, Callable[[KontextImage], KontextImage]] = {
    "a diff ID": lambda image: replace(
        image,
        config=replace(
            image.config or ImageConfig(""),
            diff_ids=(digest_of(b""), *(image.config or ImageConfig("")).diff_ids[1:]),
        ),
    ),
    "the size of a layer": lambda image: replace(
        image,
        image=replace(
            image.image,
            layers=(replace(image.sources[0], size=7), *image.image.layers[1:]),
        ),
    ),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_was_checked_includes_all_that_a_push_takes_over(
    change: Callable[[KontextImage], KontextImage], registry: Registry, cache: Cache
) -> None:
    """The layers' digests alone do not cover it."""
    found = registry.found()
    cache.save_layers("checked", [found.sources_key])
    assert change(found).sources_key != found.sources_key
    assert isinstance(check(registry, change(found), cache).plan.parent, StartFresh)
