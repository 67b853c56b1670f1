"""Deltas: what changed between two trees, and the layer that says so, byte for byte the same."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import itertools
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import (
    PLAIN_NAMES,
    STRANGE,
    STRANGE_NAMES,
    Layer,
    crane_export,
    described,
    layer,
    overlay,
    parents,
    trees,
)
from support.trees import Directory, File, Link, Node, Tree, plant, remove

from kontext_plugin import manifest
from kontext_plugin.delta import (
    Changes,
    Difference,
    DifferenceKind,
    LayerContent,
    Place,
    changes_from,
    compose,
    diff,
    differences,
    layer_bytes,
    renames,
    replaced_directories,
    reverse_delta,
    tree_bytes,
    write_layer,
)
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Layer as ImageLayer
from kontext_plugin.image.oci import digest_of
from kontext_plugin.image.tree import SOURCES_PATH, ReverseDelta
from kontext_plugin.image.tree import Tree as Described
from kontext_plugin.layer import tar
from kontext_plugin.layer.compression import Compressed, Sink, Source
from kontext_plugin.layer.reader import Budget, read_documents
from kontext_plugin.manifest import MANIFEST_PATH

# What changed

DIR, X, Y = Directory(), File(b"x"), File(b"y")
RUN = File(b"x", executable=True)

# The old and the new tree; the paths added, changed, and hidden by whiteouts.
TABLE: dict[str, tuple[Tree, Tree, list[str], list[str], list[str]]] = {
    "nothing": ({"a": X}, {"a": X}, [], [], []),
    "first push": ({}, {"d": DIR, "d/f": X, "l": Link("d")}, ["d", "d/f", "l"], [], []),
    "content": ({"a": X, "b": X}, {"a": Y, "b": X}, [], ["a"], []),
    "executable now": ({"a": X}, {"a": RUN}, [], ["a"], []),
    "executable no more": ({"a": RUN}, {"a": X}, [], ["a"], []),
    "content and mode": ({"a": RUN}, {"a": Y}, [], ["a"], []),
    "link's target": ({"l": Link("a")}, {"l": Link("b")}, [], ["l"], []),
    "new file": ({"d": DIR}, {"d": DIR, "d/f": X}, ["d/f"], [], []),
    "new empty directory": ({}, {"d": DIR}, ["d"], [], []),
    "file gone": ({"a": X, "b": X}, {"b": X}, [], [], ["a"]),
    "link gone": ({"l": Link("a")}, {}, [], [], ["l"]),
    "file gone below": ({"d": DIR, "d/f": X}, {"d": DIR}, [], [], ["d/f"]),
    "tree gone": ({"d": DIR, "d/e": DIR, "d/e/f": X, "d/g": X}, {}, [], [], ["d"]),
    "two trees gone": ({"d": DIR, "d/f": X, "e": DIR, "e/f": X}, {}, [], [], ["d", "e"]),
    "renamed": ({"a": X}, {"b": X}, ["b"], [], ["a"]),
    "file to directory": ({"a": X}, {"a": DIR, "a/f": X}, ["a/f"], ["a"], []),
    "file to link": ({"a": X}, {"a": Link("x")}, [], ["a"], []),
    "runnable to link": ({"a": RUN}, {"a": Link("x")}, [], ["a"], []),
    "link to file": ({"a": Link("x")}, {"a": X}, [], ["a"], []),
    "link to directory": ({"a": Link("x")}, {"a": DIR, "a/f": X}, ["a/f"], ["a"], []),
    "directory to file": ({"a": DIR, "a/f": X}, {"a": X}, [], ["a"], []),
    "directory to link": ({"a": DIR, "a/f": X}, {"a": Link("x")}, [], ["a"], []),
    "tree to file": ({"a": DIR, "a/b": DIR, "a/b/c": X}, {"a": X}, [], ["a"], []),
    "inner directory to file": (
        {"a": DIR, "a/b": DIR, "a/b/c": X, "a/d": X},
        {"a": DIR, "a/b": X},
        [],
        ["a/b"],
        ["a/d"],
    ),
    "names that share a beginning": (
        {"a": DIR, "a/b": X, "a-b": X, "ab": X},
        {"a": DIR},
        [],
        [],
        ["a-b", "a/b", "ab"],
    ),
}


@pytest.mark.parametrize(("old", "new", "added", "changed", "whiteouts"), TABLE.values(), ids=TABLE)
def test_the_changes_between_two_trees(
    old: Tree, new: Tree, added: list[str], changed: list[str], whiteouts: list[str]
) -> None:
    assert diff(described(old), described(new)) == Changes(
        added=tuple(added),
        changed=tuple(changed),
        removed=tuple(sorted(old.keys() - new.keys())),
        whiteouts=tuple(whiteouts),
    )


@given(trees(), trees())
def test_a_delta_turns_the_old_tree_into_the_new_one(old: Tree, new: Tree) -> None:
    first, second = diff(Described(), described(old)), diff(described(old), described(new))
    assert overlay([layer(first, old), layer(second, new)]) == new


@given(trees(), trees())
def test_a_delta_holds_nothing_that_is_not_needed(old: Tree, new: Tree) -> None:
    made = diff(described(old), described(new))
    assert all(old.get(path) != new[path] for path in made.written)
    assert not new.keys() & {*made.whiteouts}
    for path in made.whiteouts:
        assert not {*parents(path)} & {*made.removed}, "a whiteout below a whiteout"
    assert bool(made) == (old != new)


@given(trees())
def test_equal_trees_have_no_changes(tree: Tree) -> None:
    assert diff(described(tree), described(tree)) == Changes()


def leads_back(reverse: ReverseDelta, tree: Tree, earlier: Tree) -> bool:
    """Whether `reverse` leads from `tree` to `earlier`, and touches nothing else."""
    want = described(earlier)
    touched = reverse.paths()
    return (
        touched
        == {path for path in tree.keys() | earlier.keys() if tree.get(path) != earlier.get(path)}
        and reverse.former == want.only(touched).without_sizes()
        and reverse.absent == {path for path in touched if path not in earlier}
    )


@given(trees(), trees())
def test_a_reverse_delta_leads_back(old: Tree, new: Tree) -> None:
    reverse = reverse_delta(described(old), described(new))
    assert leads_back(reverse, new, old)
    assert bool(reverse) == (old != new)


@given(st.lists(trees(), min_size=2, max_size=5))
def test_composed_reverse_deltas_lead_back_to_each_earlier_tree(history: list[Tree]) -> None:
    *earlier, last = history
    reverse, after = ReverseDelta(), last
    for tree in reversed(earlier):
        step = reverse_delta(described(tree), described(after))
        reverse = compose(reverse, step, described(last))
        assert leads_back(reverse, last, tree)
        assert changes_from(reverse, described(last)) == diff(described(tree), described(last))
        after = tree


@pytest.mark.parametrize(
    ("old", "new", "size"),
    [
        pytest.param({}, {"a": File(b"12345"), "d": DIR, "l": Link("a")}, 5 + 3 * 512, id="first"),
        pytest.param({"a": X}, {"a": RUN}, 1 + 512, id="mode"),
        pytest.param({"d": DIR, "d/f": X, "d/g": X}, {}, 512, id="one whiteout"),
        pytest.param({"a": X}, {"a": X}, 0, id="nothing"),
    ],
)
def test_the_bytes_of_a_layer_are_those_of_its_contents_and_paths(
    old: Tree, new: Tree, size: int
) -> None:
    tree = described(new)
    assert layer_bytes(diff(described(old), tree), tree) == size
    if not old:
        assert tree_bytes(tree) == size


REPLACED: dict[str, tuple[list[Tree], set[str]]] = {
    "nothing": ([{"d": DIR}, {"d": DIR}], set()),
    "by a file": ([{"d": DIR}, {"d": X}], {"d"}),
    "by a link": ([{"d": DIR}, {"d": Link("x")}], {"d"}),
    "and stays so": ([{"d": DIR}, {"d": X}, {"d": Link("x")}, {"d": Y}], {"d"}),
    "removed: the whiteout hides": ([{"d": DIR, "d/f": X}, {}], set()),
    "removed after": ([{"d": DIR}, {"d": X}, {}], set()),
    "the one above removed": ([{"a": DIR, "a/d": DIR}, {"a": DIR, "a/d": X}, {}], set()),
    "the one above replaced": ([{"a": DIR, "a/d": DIR}, {"a": DIR, "a/d": X}, {"a": X}], {"a"}),
    "inner and outer": ([{"a": DIR, "a/d": DIR}, {"a": X}], {"a"}),
}


@pytest.mark.parametrize(("history", "expected"), REPLACED.values(), ids=REPLACED)
def test_directories_that_a_file_or_link_has_replaced(
    history: list[Tree], expected: set[str]
) -> None:
    replaced: frozenset[str] = frozenset()
    for old, new in itertools.pairwise(history):
        reverse = reverse_delta(described(old), described(new))
        replaced = replaced_directories(reverse, described(new), replaced)
    assert replaced == expected


def test_a_version_1_tree_can_be_compared() -> None:
    content = b'{"files":{"a":"%s","d":""}}' % (b"0" * 64)
    old = manifest.decode(manifest.read_root(content), {}).tree
    assert diff(old, Described()).whiteouts == ("a", "d")


# How two trees differ

ENTRIES: dict[str, tuple[Node, Node, DifferenceKind | None]] = {
    "content": (File(b"x"), File(b"y"), DifferenceKind.OTHER_CONTENT),
    "mode": (File(b"x"), File(b"x", executable=True), DifferenceKind.OTHER_MODE),
    "content and mode": (File(b"x"), File(b"y", executable=True), DifferenceKind.OTHER_CONTENT),
    "target": (Link("a"), Link("b"), DifferenceKind.OTHER_CONTENT),
    "a link for a file": (File(b"x"), Link("x"), DifferenceKind.OTHER_KIND),
    "a directory for an empty file": (File(b""), Directory(), DifferenceKind.OTHER_KIND),
    "nothing": (File(b"x"), File(b"x"), None),
}


@pytest.mark.parametrize(("expected", "actual", "kind"), ENTRIES.values(), ids=ENTRIES)
def test_two_entries_differ_in_kind_content_or_mode(
    expected: Node, actual: Node, kind: DifferenceKind | None
) -> None:
    found = list(differences(described({"a": expected}), described({"a": actual}), Place.DIRECTORY))
    assert [one.kind for one in found] == ([kind] if kind else [])


def test_modes_that_are_not_known_are_not_compared() -> None:
    one, other = described({"a": File(b"x")}), described({"a": File(b"x", executable=True)})
    assert not list(differences(one, other, Place.DIRECTORY, modes=False))
    assert list(differences(one, other, Place.DIRECTORY)) == [
        Difference("a", Place.DIRECTORY, DifferenceKind.OTHER_MODE)
    ]


@given(trees(), trees())
def test_each_path_that_differs_is_listed_once_and_in_order(one: Tree, other: Tree) -> None:
    found = list(differences(described(one), described(other), Place.IMAGE))
    differing = [
        path for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)
    ]
    assert [difference.path for difference in found] == differing
    assert {d.path for d in found if d.kind == DifferenceKind.MISSING} == one.keys() - other.keys()
    assert {d.path for d in found if d.kind == DifferenceKind.ONLY} == other.keys() - one.keys()


# The layer

BLOCK = 4 * 1024 * 1024
JSON = b'{"files":{}}'
TEXT = b"".join(b"line %d\n" % number for number in range(200_000))
NOISE = random.Random(1).randbytes(2 * BLOCK)
"""TEXT compresses well, NOISE does not at all. Together they are more than one block."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def written(root: Path, new: Tree, old: Tree | None = None, json: bytes = JSON) -> bytes:
    """Return the layer that turns `old` into `new`. `root` has the files of `new`."""
    sink = io.BytesIO()
    tree = described(new)
    layer = write_layer(sink, str(root), tree, content_of(tree, old, json)).layer
    content = sink.getvalue()
    assert (layer.digest, layer.size) == (digest_of(content), len(content))
    return content


def content_of(tree: Described, old: Tree | None = None, json: bytes = JSON) -> LayerContent:
    changes = diff(described(old or {}), tree)
    return LayerContent({MANIFEST_PATH: json}, changes.written, changes.whiteouts)


def read_back(content: bytes) -> Layer:
    """Return a layer's entries below the sources. Check what all layers have in common."""
    entries: list[tuple[str, Node | None]] = []
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        members = archive.getmembers()
        assert members[0].name == MANIFEST_PATH
        assert {member.name for member in members} >= {
            "var",
            "var/lib",
            "var/lib/kontext",
            "var/run",
        }
        for member in members:
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert member.mtime == tar.MTIME
            path = member.name.removeprefix(f"{SOURCES_PATH}/")
            if path == member.name:
                assert member.isdir() or member.name == MANIFEST_PATH
                continue
            folder, slash, name = path.rpartition("/")
            if member.isdir():
                assert member.mode == 0o755
                entries.append((path, Directory()))
            elif member.issym():
                entries.append((path, Link(member.linkname)))
            elif name.startswith(".wh."):
                assert (member.isreg(), member.size) == (True, 0)
                entries.append((folder + slash + name.removeprefix(".wh."), None))
            else:
                assert member.isreg() and member.mode in (0o755, 0o644)
                file = archive.extractfile(member)
                assert file is not None
                entries.append((path, File(file.read(), member.mode == 0o755)))
    return entries


@pytest.mark.slow
@given(st.lists(trees(st.one_of(PLAIN_NAMES, STRANGE_NAMES)), min_size=1, max_size=3))
def test_the_layers_of_a_history_show_its_last_tree(history: list[Tree]) -> None:
    layers: list[Layer] = []
    for old, new in itertools.pairwise([{}, *history]):
        with tempfile.TemporaryDirectory() as root:
            plant(Path(root), new)
            layers.append(read_back(written(Path(root), new, old)))
        assert overlay(layers) == new
    assert crane_export(layers[:2]) == history[:2][-1]


ODD: Tree = {name: File(name.encode()) for name in STRANGE}
ODD |= {"d" * 200: Directory(), "d" * 200 + "/" + "ö" * 100: Link("x" * 300 + "ß")}


def test_gnu_tar_and_gzip_read_strange_names(tmp_path: Path) -> None:
    plant(tmp_path / "root", ODD)
    layer = written(tmp_path / "root", ODD)
    subprocess.run(["gzip", "-t"], input=layer, check=True)
    listed = subprocess.run(
        ["tar", "tz", "--quoting-style=literal"], input=layer, capture_output=True, check=True
    )
    assert listed.stderr == b""
    names = [path + "/" * isinstance(node, Directory) for path, node in sorted(ODD.items())]
    below = listed.stdout.decode().partition(f"\n{SOURCES_PATH}/\n")[2]
    assert below == "".join(f"{SOURCES_PATH}/{name}\n" for name in names)


class Watcher:
    """Notes what it sees."""

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}
        self.path = ""

    def begin(self, path: str) -> None:
        assert not self.path, "the last one has ended"
        self.path, self.seen[path] = path, b""

    def add(self, piece: bytes) -> None:
        self.seen[self.path] += piece

    def end(self) -> None:
        self.path = ""


def test_a_watcher_sees_the_content_of_each_file(tmp_path: Path) -> None:
    plant(tmp_path, SMALL)
    plain, watched, tree, watcher = io.BytesIO(), io.BytesIO(), described(SMALL), Watcher()
    write_layer(plain, str(tmp_path), tree, content_of(tree))
    write_layer(watched, str(tmp_path), tree, content_of(tree), watcher)
    assert watched.getvalue() == plain.getvalue()
    contents = {path: node.content for path, node in SMALL.items() if isinstance(node, File)}
    assert watcher.seen == contents


def test_the_documents_are_read_back_from_the_head_of_the_layer(tmp_path: Path) -> None:
    plant(tmp_path, LARGE)
    documents = {MANIFEST_PATH: TEXT, manifest.part_name(digest_of(JSON)): JSON}
    sink, tree = io.BytesIO(), described(LARGE)
    written = tuple(sorted(tree.paths()))
    made = write_layer(sink, str(tmp_path), tree, LayerContent(documents, written))
    stream = io.BytesIO(sink.getvalue())
    budget = Budget(sum(512 + len(document) for document in documents.values()))
    assert dict(read_documents(stream, made.layer, budget)) == documents
    assert budget.left == 0
    assert stream.tell() < len(TEXT) + 200_000 < made.layer.size, "more than the head was read"


def test_extra_entries_come_after_the_documents(tmp_path: Path) -> None:
    extra = tar.header("extractor", tar.REGTYPE, 0o755)
    content = LayerContent({MANIFEST_PATH: JSON}, (), extra=extra)
    sink = io.BytesIO()
    write_layer(sink, str(tmp_path), Described(), content)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue()), mode="r:gz") as archive:
        assert archive.getnames()[:2] == [MANIFEST_PATH, "extractor"]


class Plain:
    """No compression."""

    name = "none"
    media_type = "application/vnd.oci.image.layer.v1.tar"

    def compress(self, sink: Sink, archive: Iterable[bytes]) -> Compressed:
        content = b"".join(archive)
        sink.write(content)
        digest = digest_of(content)
        return Compressed(ImageLayer(digest, len(content), self.media_type), digest)

    def decompress(self, layer: IO[bytes]) -> Source:
        return layer


def test_another_compression_writes_the_same_archive(tmp_path: Path) -> None:
    plant(tmp_path, SMALL)
    sink, tree = io.BytesIO(), described(SMALL)
    made = write_layer(sink, str(tmp_path), tree, content_of(tree), algorithm=Plain())
    assert made.layer.media_type == Plain.media_type
    assert sink.getvalue() == gzip.decompress(written(tmp_path, SMALL))


# The same bytes

OLD: Tree = {"gone": File(b""), "d": Directory(), "d/gone": Link("x"), "kept": File(b"kept")}
SMALL: Tree = {
    "d": Directory(),
    "d/run": File(b"#!/bin/sh\n", executable=True),
    "d/" + "n" * 200: File(b"long name"),
    "kept": File(b"kept"),
    "link": Link("d/ü"),
    "ü\n": File(TEXT[:5000]),
}
LARGE: Tree = SMALL | {"noise": File(NOISE), "text": File(TEXT * 3)}


@pytest.mark.parametrize(
    ("tree", "archive", "layer"),
    [
        pytest.param(
            SMALL,
            "08b5a1b2ee57aa262aa766b80c1b11c4dc2489be3dc959059b37b916a7a1e6fc",
            "2883080562c1834afcf7cdf7170fb660d4277a10c7751c045850135b6f784f02",
            id="small",
        ),
        pytest.param(
            LARGE,
            "6fe334f9987952d485bccf1635a76ced12e49ff8e16cf606261b31653a174061",
            "1531c98bf87cb727b8d8448c5848aff889602d3302422d72b73f6146af5d02b0",
            id="large",
        ),
    ],
)
def test_the_digests_of_layers_do_not_change(
    tree: Tree, archive: str, layer: str, tmp_path: Path
) -> None:
    """Other bytes cost each user one upload of everything; a new libdeflate may bring them."""
    plant(tmp_path, tree)
    content = written(tmp_path, tree, OLD)
    assert hashlib.sha256(gzip.decompress(content)).hexdigest() == archive
    assert hashlib.sha256(content).hexdigest() == layer


PROGRAM = """
import io, os, sys
from kontext_plugin import delta
from kontext_plugin.image.tree import Tree
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.filters import Filters
from kontext_plugin.source.scan import scan
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.steps import Steps
os.umask(int(sys.argv[2], 8))
scanned = scan(sys.argv[1], Filters(), Snapshot(), Workers(), Steps()).tree
changes = delta.diff(Tree(), scanned)
content = delta.LayerContent({"var/lib/kontext/manifest.json": b"{}"}, changes.written)
print(delta.write_layer(io.BytesIO(), sys.argv[1], scanned, content).layer.digest)
"""


def test_the_bytes_of_a_layer_depend_on_the_tree_alone(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "another place"]
    plant(roots[0], LARGE)
    plant(roots[1], dict(reversed(LARGE.items())))
    for path in roots[1].rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
    environments = [
        (roots[0], "022", {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}),
        (roots[1], "077", {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "2"}),
    ]
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(root), umask],
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for root, umask, environment in environments
    }
    assert len(digests) == 1


# Changes while the layer is written

Change = Callable[[Path], object]


def replaced_by(make: Callable[[Path], object]) -> Change:
    def change(path: Path) -> None:
        remove(path)
        make(path)

    return change


def parent_to_link(path: Path) -> None:
    other = path.parents[1] / "outside"
    other.mkdir()
    (other / path.name).write_bytes(b"secret00")
    remove(path.parent)
    path.parent.symlink_to(other)


def same_elsewhere(path: Path) -> Path:
    (path.parent / "same").write_bytes(b"content!")
    return path.parent / "same"


CHANGES: dict[str, Change] = {
    "shrinks": lambda path: path.write_bytes(b"cont"),
    "is emptied": lambda path: path.write_bytes(b""),
    "other content": lambda path: path.write_bytes(b"CONTENT!"),
    "other content, longer": lambda path: path.write_bytes(b"CONTENT! " * 9),
    "vanishes": lambda path: path.unlink(),
    "link to the same content": replaced_by(lambda path: path.symlink_to(same_elsewhere(path))),
    "link to nowhere": replaced_by(lambda path: path.symlink_to("gone")),
    "FIFO": replaced_by(os.mkfifo),
    "directory": replaced_by(Path.mkdir),
    "parent vanishes": lambda path: remove(path.parent),
    "parent becomes a file": lambda path: (remove(path.parent), path.parent.write_bytes(b"")),
    "parent becomes a link": parent_to_link,
}


@pytest.mark.parametrize("before", [0, BLOCK + 1], ids=["small", "large"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_fails_the_push(change: Change, before: int, tmp_path: Path) -> None:
    tree: Tree = {"a": File(bytes(before)), "d": Directory(), "d/f": File(b"content!")}
    plant(tmp_path / "root", tree)
    change(tmp_path / "root/d/f")
    with pytest.raises(KontextError, match=r"'d/f' .*nothing was published") as raised:
        written(tmp_path / "root", tree)
    assert raised.value.hint


def test_an_empty_file_that_becomes_a_link_fails_the_push(tmp_path: Path) -> None:
    tree: Tree = {"empty": File(b"")}
    (tmp_path / "empty").symlink_to("/dev/null")
    with pytest.raises(KontextError, match="'empty'"):
        written(tmp_path, tree)


def test_a_file_that_grows_is_published_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"line 1\n" + TEXT)
    tree: Tree = {"log": File(b"line 1\n")}
    assert read_back(written(tmp_path, tree)) == [*tree.items()]


# Full disks

TREES: dict[str, Tree] = {"small": SMALL, "large": LARGE | {"more": File(NOISE[::-1])}}


class Full:
    """A sink with room for this many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999, 1], ids=lambda share: f"at {share:.1%}")
@pytest.mark.parametrize("name", TREES)
def test_a_full_disk_is_an_error(name: str, share: float, tmp_path: Path) -> None:
    tree = described(TREES[name])
    plant(tmp_path, TREES[name])
    size = len(written(tmp_path, TREES[name]))
    room = int(size * share) if share < 1 else size - 1
    outcome: list[BaseException | None] = []

    def write() -> None:
        try:
            write_layer(Full(room), str(tmp_path), tree, content_of(tree))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the write hangs"
    (error,) = outcome
    assert isinstance(error, OSError) and error.errno == errno.ENOSPC


def test_a_file_over_8_gib_has_its_size_in_the_layer(tmp_path: Path) -> None:
    """Only the head of the layer is written: the whole takes more than a minute."""
    size = 8 * 1024**3 + 1
    digest = (
        "b47800cd5a0c0bd2a7d6c2ac9402cc117bbe89363299bdc51f8a72aef8543693"  # of this many zeros
    )
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", size)
    tree = Described({"sparse": digest}, {"sparse": size})
    head = io.BytesIO()

    class Head(Full):
        def write(self, data: bytes) -> int:
            head.write(data)
            return super().write(data)

    with pytest.raises(OSError, match="No space"):
        write_layer(Head(20_000), str(tmp_path), tree, content_of(tree))
    listed = subprocess.run(["tar", "tvz"], input=head.getvalue(), capture_output=True)
    line = next(line for line in listed.stdout.decode().splitlines() if "sparse" in line)
    assert line.split()[2] == str(size)


# Renames

RENAMED: dict[str, tuple[Tree, Tree, list[tuple[str, str]]]] = {
    "a file": ({"a": File(b"1")}, {"b": File(b"1")}, [("a", "b")]),
    "another mode": ({"a": File(b"1")}, {"b": File(b"1", executable=True)}, [("a", "b")]),
    "another content": ({"a": File(b"1")}, {"b": File(b"2")}, []),
    "a link": ({"a": Link("x")}, {"b": Link("x")}, [("a", "b")]),
    "another kind": ({"a": File(b"x")}, {"b": Link("x")}, []),
    "a copy": ({"a": File(b"1")}, {"a": File(b"1"), "b": File(b"1")}, []),
    "a directory": ({"a": Directory()}, {"b": Directory()}, []),
    "the same name goes first": (
        {"d": Directory(), "d/a": File(b""), "d/b": File(b"")},
        {"e": Directory(), "e/b": File(b""), "e/c": File(b"")},
        [("d/b", "e/b"), ("d/a", "e/c")],
    ),
    "one of two": ({"a": File(b""), "b": File(b"")}, {"c": File(b"")}, [("a", "c")]),
}


@pytest.mark.parametrize(("old", "new", "pairs"), RENAMED.values(), ids=RENAMED)
def test_renames(old: Tree, new: Tree, pairs: list[tuple[str, str]]) -> None:
    trees = described(old), described(new)
    renamed = renames(diff(*trees), *trees)
    assert [(one.old, one.new) for one in renamed] == pairs


@given(trees(), trees())
def test_a_rename_is_of_a_removed_and_an_added_path_with_the_same_content(
    old: Tree, new: Tree
) -> None:
    trees = described(old), described(new)
    changes = diff(*trees)
    renamed = renames(changes, *trees)
    assert len({one.old for one in renamed}) == len({one.new for one in renamed}) == len(renamed)
    for one in renamed:
        assert one.old in changes.removed and one.new in changes.added
        before, after = old[one.old], new[one.new]
        assert type(before) is type(after)
        if isinstance(before, File):
            assert isinstance(after, File) and before.content == after.content
        else:
            assert before == after
