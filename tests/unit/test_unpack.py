"""The wanted files of an image are unpacked, and only those that the image shows."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from posixpath import normpath
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import models
from support.fake_registry import FakeRegistry
from support.models import PLAIN_NAMES, described
from support.trees import SOURCES, Directory, File, Link, Node, Tree, on_disk

from kontext_plugin.crane import Crane
from kontext_plugin.delta import diff
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import GZIP_LAYER, ZSTD_LAYER, Image, Layer, digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.tree import OPAQUE
from kontext_plugin.layer.compression import GZIP, ZSTD
from kontext_plugin.manifest import Lineage, Manifest
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.terminal.steps import Steps
from kontext_plugin.unpack import files_of, write_files
from kontext_plugin.workspace import File as Wanted
from kontext_plugin.workspace import Workspace

NAME = parse_reference("host.io/repo:t")

LINEAGE = Lineage()

FILES: Tree = {
    "a": File(b"first"),
    "d": Directory(),
    "d/b": File(b"second", executable=True),
    "l": Link("a"),
}

Entries = Sequence[tuple[str, Node | None]]
"""The entries of a layer, lowest first. None is a whiteout of the path."""


def archive_of(entries: Entries) -> bytes:
    """Return the archive of a layer with these sources."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, node in entries:
            whole = f"{SOURCES}/{path}"
            above, _, name = (normpath(whole) if path.startswith("../") else whole).rpartition("/")
            name = name if node is not None else f".wh.{name}"
            info = tarfile.TarInfo(f"{above}/{name}" if above else name)
            if isinstance(node, File):
                info.size = len(node.content)
            elif node is not None:
                info.type = tarfile.SYMTYPE if isinstance(node, Link) else tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(node.content) if isinstance(node, File) else None)
    return stream.getvalue()


def packed(archive: bytes) -> bytes:
    blob = io.BytesIO()
    GZIP.compress(blob, [archive])
    return blob.getvalue()


def image_of(
    tree: Tree, *blobs: bytes, lineage: Lineage | None = LINEAGE, media_type: str = GZIP_LAYER
) -> KontextImage:
    """Return an image of these layers of sources, lowest first, whose manifest lists the tree."""
    layers = tuple(Layer(digest_of(blob), len(blob), media_type) for blob in blobs)
    listed = described(tree)
    if lineage is None:
        listed = replace(listed, sizes=dict.fromkeys(listed.sizes, 0))
    else:
        lineage = replace(lineage, layers=tuple(layer.digest for layer in layers[:-1]))
    image = Image(layers[-1].digest, layers, None)
    return KontextImage(image.digest, image, Manifest(listed, lineage))


@dataclass
class Blobs:
    """A crane that has blobs, and notes which were read."""

    blobs: dict[str, bytes | io.BytesIO]
    read: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def blob(self, name: str, *, whole: bool) -> Iterator[io.BytesIO]:
        assert whole, "its digest would not be compared"
        self.read.append(name)
        blob = self.blobs[name]
        yield io.BytesIO(blob) if isinstance(blob, bytes) else blob


class Here:
    """Workers that work in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_ended = False

    def start(self, function: Callable[..., object], count: int) -> None: ...

    def end(self) -> None:
        with self._lock:
            self._is_ended = True

    def run(self, function: Callable[[Any], Any], item: Any) -> Any:
        with self._lock:
            if self._is_ended:
                raise KontextError("a worker process has ended")
            return function(item)


@contextlib.contextmanager
def no_cache() -> Iterator[str]:
    with TemporaryDirectory() as folder:
        yield folder


def written(
    root: Path,
    image: KontextImage,
    *blobs: bytes,
    wanted: Sequence[Wanted] = (),
    workers: Workers | Here | None = None,
    crane: Crane | None = None,
) -> list[int]:
    """Write files of an image, all by default; return the numbers of the layers that were read."""
    cranes = Blobs({f"host.io/repo@{digest_of(blob)}": blob for blob in blobs})
    with Workspace(str(root)) as there:
        for path in sorted(image.manifest.tree.directories()):
            there.make_directory(path)
        chosen = {file.path: file for file in wanted or files_of(image)}
        write_files(
            crane or cranes,  # type: ignore[arg-type]
            workers or Here(),  # type: ignore[arg-type]
            no_cache,
            NAME,
            image,
            there,
            chosen,
            Steps(),
        )
    return [[*cranes.blobs].index(name) for name in cranes.read]


def regular(tree: Tree) -> Tree:
    """Return what is unpacked of a tree: no links."""
    return {path: node for path, node in tree.items() if not isinstance(node, Link)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def test_the_files_of_an_image_are_its_regular_files_in_order() -> None:
    first, second = files_of(image_of(FILES, b""))
    assert (first.path, first.size, first.executable) == ("a", 5, False)
    assert (second.path, second.size, second.executable) == ("d/b", 6, True)


def test_the_sizes_of_a_version_1_image_are_not_known() -> None:
    assert [file.size for file in files_of(image_of(FILES, b"", lineage=None))] == [None, None]


@pytest.mark.parametrize("lineage", [Lineage(), None], ids=["version 2", "version 1"])
def test_the_wanted_files_are_written(lineage: Lineage | None, root: Path) -> None:
    blob = packed(archive_of([*FILES.items()]))
    written(root, image_of(FILES, blob, lineage=lineage), blob)
    assert on_disk(root) == regular(FILES)


def test_zstd_layers_are_unpacked(root: Path) -> None:
    blob = io.BytesIO()
    ZSTD.compress(blob, [archive_of([*FILES.items()])])
    content = blob.getvalue()
    written(root, image_of(FILES, content, media_type=ZSTD_LAYER), content)
    assert on_disk(root) == regular(FILES)


LATER: Tree = FILES | {"a": File(b"third"), "new": File(b"fourth")}
STACK: list[Entries] = [
    [*FILES.items()],
    [("a", File(b"between")), ("new", File(b"fourth"))],
    [("a", File(b"third"))],
]


@pytest.mark.parametrize(
    ("paths", "read"),
    [(["a"], [2]), (["new"], [2, 1]), (["d/b"], [2, 1, 0])],
    ids=["in the top layer", "in the next one", "in the lowest one"],
)
def test_no_layer_below_the_last_wanted_file_is_unpacked(
    paths: list[str], read: list[int], root: Path
) -> None:
    blobs = [packed(archive_of(entries)) for entries in STACK]
    image = image_of(LATER, *blobs)
    chosen = [file for file in files_of(image) if file.path in paths]
    numbers = written(root, image, *blobs, wanted=chosen)
    assert set(read) <= set(numbers)
    assert numbers[0] == 2
    assert paths != ["a"] or numbers == [2], "the layers below may have any size"
    assert {path for path, node in on_disk(root).items() if isinstance(node, File)} == set(paths)


def test_nothing_waits_for_a_layer_that_has_nothing_wanted(root: Path) -> None:
    blobs = [packed(archive_of(entries)) for entries in STACK]
    image = image_of(LATER, *blobs)
    chosen = [file for file in files_of(image) if file.path == "new"]
    waiting = threading.Event()

    class Silent(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            waiting.wait()
            return super().read(size)

    cranes = Blobs({f"host.io/repo@{digest_of(blob)}": blob for blob in blobs})
    cranes.blobs[f"host.io/repo@{digest_of(blobs[0])}"] = Silent(blobs[0])
    try:
        written(root, image, wanted=chosen, crane=cranes)  # type: ignore[arg-type]
    finally:
        waiting.set()
    assert on_disk(root) == {"d": Directory(), "new": LATER["new"]}


WRONG: dict[str, tuple[list[Entries], str]] = {
    "missing": ([[("d/b", FILES["d/b"])]], "'a' is missing"),
    "another size": ([[("a", File(b"fir"))]], "'a' has another size"),
    "other content": ([[("a", File(b"FIRST"))]], "'a' has other content"),
    "a link": ([[("a", Link("d/b"))]], "'a': expected a file, found a link"),
    "a directory": ([[("a", Directory())]], "'a': expected a file, found a directory"),
    "hidden by content": (
        [[("a", File(b"first"))], [("a", File(b"FIRST"))]],
        "'a' has other content",
    ),
    "hidden by a whiteout": ([[("a", File(b"first"))], [("a", None)]], "'a' is missing"),
    "beside its whiteout": ([[("a", None), ("a", File(b"first"))]], "it has 'a' twice"),
    "before its whiteout": ([[("a", File(b"first")), ("a", None)]], "it has 'a' twice"),
    "twice": ([[("a", File(b"first")), ("a", File(b"first"))]], "it has 'a' twice"),
    "a whiteout without a name": (
        [[(".wh.", File(b"")), ("a", File(b"first"))]],
        "it has '.wh.', which hides no name",
    ),
    "a whiteout of its own directory": (
        [[("d/.wh..", File(b"")), ("a", File(b"first"))]],
        "it has 'd/.wh..', which hides no name",
    ),
    "a path that leads up": (
        [[("d/..", Directory()), ("a", File(b"first"))]],
        "it has the unsafe path 'var/run/kontext/d/..'",
    ),
    "the sources are hidden": (
        [[("a", File(b"first"))], [("../.wh.kontext", File(b""))]],
        "/var/run/.wh.kontext hides the sources",
    ),
    "all is hidden": (
        [[("a", File(b"first"))], [("../../../.wh.var", File(b""))]],
        "/.wh.var hides the sources",
    ),
    "the sources are opaque": (
        [[("a", File(b"first"))], [("../.wh..wh..opq", File(b""))]],
        "/var/run/.wh..wh..opq hides the sources",
    ),
}


@pytest.mark.parametrize(("layers", "reason"), WRONG.values(), ids=WRONG)
def test_an_image_that_does_not_match_its_manifest_is_an_error(
    layers: list[Entries], reason: str, root: Path
) -> None:
    blobs = [packed(archive_of(entries)) for entries in layers]
    image = image_of(FILES, *blobs)
    with pytest.raises(KontextError) as raised:
        written(root, image, *blobs, wanted=files_of(image)[:1])
    assert raised.value.message == f"host.io/repo:t does not match its manifest: {reason}"
    assert "docker kontext verify" in raised.value.hint
    assert on_disk(root).get("a") in (None, FILES["a"])


HIDDEN: dict[str, Entries] = {
    "by an opaque directory": [("d", Directory()), ("d/.wh..wh..opq", File(b""))],
    "by an opaque top": [(".wh..wh..opq", File(b""))],
    "by a whiteout": [("d", None)],
    "by a file": [("d", File(b""))],
    "by a link": [("d", Link("a"))],
}


@pytest.mark.parametrize("upper", HIDDEN.values(), ids=HIDDEN)
def test_a_directory_that_the_image_hides_has_no_files(upper: Entries, root: Path) -> None:
    blobs = [packed(archive_of(entries)) for entries in ([*FILES.items()], upper)]
    image = image_of(FILES, *blobs)
    with pytest.raises(KontextError, match="'d/b' is missing"):
        written(root, image, *blobs, wanted=files_of(image)[1:])


def test_an_opaque_directory_shows_what_its_own_layer_has(root: Path) -> None:
    lower = [("d", Directory()), ("d/b", File(b"former"))]
    blobs = [
        packed(archive_of(one)) for one in (lower, [*FILES.items(), (f"d/{OPAQUE}", File(b""))])
    ]
    written(root, image_of(FILES, *blobs), *blobs)
    assert on_disk(root) == regular(FILES)


def test_a_layer_that_hides_what_it_has_is_an_error(root: Path) -> None:
    """Consumers unpack such a layer in different ways."""
    blob = packed(archive_of([*FILES.items(), ("d", None)]))
    with pytest.raises(KontextError, match="it has something below 'd', and hides it"):
        written(root, image_of(FILES, blob), blob)


def test_a_layer_that_is_said_to_be_the_extractors_hides_nothing(root: Path) -> None:
    blobs = [packed(archive_of(one)) for one in ([*FILES.items()], [("a", None)])]
    image = image_of(FILES, *blobs)
    image = replace(image, image=replace(image.image, extractor=digest_of(blobs[1])))
    with pytest.raises(KontextError, match="'a' is missing"):
        written(root, image, *blobs)


def test_long_names_in_the_format_of_gnu_are_read(root: Path) -> None:
    tree: Tree = {"n" * 200: File(b"long")}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(f"{SOURCES}/{'n' * 200}")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"long"))
    blob = packed(stream.getvalue())
    written(root, image_of(tree, blob, lineage=None), blob)
    assert on_disk(root) == tree


@st.composite
def stacks(draw: st.DrawFn) -> tuple[list[models.Layer], Tree]:
    """Return the layers of a history, perhaps without one, and a tree of the history."""
    history = draw(st.lists(models.trees(PLAIN_NAMES), min_size=1, max_size=5))
    before: Tree = {}
    layers = []
    for tree in history:
        layers.append(models.layer(diff(described(before), described(tree)), tree))
        before = tree
    if draw(st.booleans()):
        del layers[draw(st.integers(0, len(layers) - 1))]
    return layers or [()], draw(st.sampled_from(history))


@given(stacks())
def test_files_are_unpacked_exactly_where_the_image_shows_them(
    stack: tuple[list[models.Layer], Tree],
) -> None:
    layers, tree = stack
    blobs = [packed(archive_of(entries)) for entries in layers]
    shown = models.crane_export(layers)
    files = {path: node for path, node in tree.items() if isinstance(node, File)}
    is_shown = all(
        isinstance(node := shown.get(path), File) and node.content == file.content
        for path, file in files.items()
    )
    with TemporaryDirectory() as folder:
        root = Path(folder, "workspace")
        try:
            if files:
                written(root, image_of(tree, *blobs), *blobs)
        except KontextError as error:
            assert not is_shown, error
            return
        assert is_shown
        assert not files or on_disk(root) == regular(tree)


SIZES = {"smaller": (1, "has only"), "larger": (-1, "has more than"), "empty": (0, "has only")}


@pytest.mark.parametrize(("more", "reason"), SIZES.values(), ids=SIZES)
def test_a_blob_of_another_size_is_an_error(
    more: int, reason: str, root: Path, tmp_path: Path
) -> None:
    """The real crane ends with an error if its output is not read."""
    blob = packed(archive_of([*FILES.items()])) + bytes(100_000)
    registry = FakeRegistry(tmp_path / "registry")
    registry.answer(blob=blob if more else b"")
    image = image_of(FILES, blob)
    layers = (replace(image.image.layers[0], size=len(blob) + more),)
    image = replace(image, image=replace(image.image, layers=layers))
    with pytest.raises(KontextError, match=f"does not match its manifest: its layer .* {reason}"):
        written(root, image, crane=registry.crane)
    assert on_disk(root) == {"d": Directory()}


def test_an_empty_layer_is_an_error(root: Path) -> None:
    image = image_of(FILES, b"")
    with pytest.raises(KontextError, match="does not match its manifest"):
        written(root, image, b"")


def test_a_layer_larger_than_the_image_may_be_is_not_fetched(root: Path) -> None:
    blob = packed(archive_of([*FILES.items()]))
    image = image_of(FILES, blob)
    layers = (replace(image.image.layers[0], size=10**12),)
    image = replace(image, image=replace(image.image, layers=layers))
    with pytest.raises(KontextError, match="is too large"):
        written(root, image)


def test_a_blob_without_an_end_does_not_fill_the_disk(root: Path) -> None:
    blob = packed(archive_of([*FILES.items()]))
    endless = io.BytesIO(bytes(50_000_000))
    cranes = Blobs({f"host.io/repo@{digest_of(blob)}": endless})
    with pytest.raises(KontextError, match="has more than"):
        written(root, image_of(FILES, blob), crane=cranes)  # type: ignore[arg-type]
    assert endless.tell() < 2_000_000


def test_an_archive_that_ends_early_is_an_error(root: Path) -> None:
    blob = packed(archive_of([*FILES.items()])[:700])
    with pytest.raises(KontextError, match="ends early"):
        written(root, image_of(FILES, blob), blob)


@pytest.mark.parametrize("lineage", [Lineage(), None], ids=["version 2", "version 1"])
def test_no_archive_is_read_beyond_what_the_image_may_hold(
    lineage: Lineage | None, root: Path
) -> None:
    """257 MiB of zeros take 1 MB."""
    info = tarfile.TarInfo(f"{SOURCES}/x")
    info.size = 8**11 - 1
    zeros = (bytes(1 << 20) for _ in range(280))
    blob = io.BytesIO()
    GZIP.compress(blob, iter([info.tobuf(tarfile.PAX_FORMAT), *zeros]))
    content = blob.getvalue()
    with pytest.raises(KontextError, match="its archive is longer than"):
        written(root, image_of(FILES, content, lineage=lineage), content)
    assert on_disk(root) == {"d": Directory()}


def test_several_processes_unpack_many_layers(root: Path, tmp_path: Path) -> None:
    tree = {f"{number}": File(b"%d" % number * 1000) for number in range(40)}
    blobs = [packed(archive_of([entry])) for entry in tree.items()]
    registry = FakeRegistry(tmp_path / "registry")
    registry.store(*blobs)
    with Workers(3) as workers, registry.crane as crane:
        written(root, image_of(tree, *blobs), workers=workers, crane=crane)
    assert on_disk(root) == tree


def test_nothing_is_left_of_a_process_that_was_killed(root: Path) -> None:
    """A worker that is killed leaves the temporary file that it has just begun."""

    class Killed(Here):
        def run(self, function: object, item: Any) -> object:
            with Workspace(item.root, item.temporary) as there:
                for directory in ("", "d"):
                    (root / directory / there.temporary).touch()
            raise KontextError("a worker process has ended")

    (root / "d").mkdir(parents=True)
    (root / ".kontext-mine").touch()
    blob = packed(archive_of([*FILES.items()]))
    with pytest.raises(KontextError, match="has ended"):
        written(root, image_of(FILES, blob), blob, workers=Killed())
    assert [*os.walk(root)] == [(str(root), ["d"], [".kontext-mine"]), (f"{root}/d", [], [])]
