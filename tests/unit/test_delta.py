"""Layers: what was written is the tree, byte for byte the same; what is read is the manifest."""

from __future__ import annotations

import contextlib
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
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import (
    PLAIN_NAMES,
    STRANGE,
    STRANGE_NAMES,
    Layer,
    crane_export,
    described,
    overlay,
    trees,
)
from support.trees import Directory, File, Link, Node, Tree, plant, remove

from kontext_plugin import delta
from kontext_plugin.delta import LayerContent, diff, write_layer
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import digest_of
from kontext_plugin.layer import compression, tar
from kontext_plugin.layer.compression import compress_layer
from kontext_plugin.layer.reader import Budget, manifest_of, read_documents
from kontext_plugin.manifest import MANIFEST_PATH, MAX_BYTES, SOURCES_PATH

BLOCK = 4 * 1024 * 1024
JSON = b'{"files":{}}'
TEXT = b"".join(b"line %d\n" % number for number in range(200_000))
NOISE = random.Random(1).randbytes(2 * BLOCK)
"""What compresses well and what does not at all; together more than one block."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def written(root: Path, new: Tree, old: Tree | None = None, json: bytes = JSON) -> bytes:
    """The gzip bytes of the layer from `old` to `new`; `root` has the files of `new`."""
    sink = io.BytesIO()
    tree = described(new)
    layer = write_layer(sink, str(root), tree, made(tree, old, json)).layer
    content = sink.getvalue()
    assert (layer.digest, layer.size) == (digest_of(content), len(content))
    return content


def made(tree: delta.Tree, old: Tree | None = None, json: bytes = JSON) -> LayerContent:
    changes = diff(described(old or {}), tree)
    return LayerContent({MANIFEST_PATH: json}, changes.written, changes.whiteouts)


def read_manifest(layer: IO[bytes]) -> bytes:
    return manifest_of(read_documents(layer, Budget(MAX_BYTES)))


def read_back(content: bytes) -> Layer:
    """A layer's entries below the sources. Holds it to what all layers have in common."""
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


@given(st.lists(trees(st.one_of(PLAIN_NAMES, STRANGE_NAMES)), min_size=1, max_size=3))
def test_the_layers_of_a_history_are_its_last_tree(history: list[Tree]) -> None:
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
            "5c5e1d11f76c6741c9e3f69b5138f5b6f75ec7e44885392d012ba0bba67ccee0",
            id="small",
        ),
        pytest.param(
            LARGE,
            "6fe334f9987952d485bccf1635a76ced12e49ff8e16cf606261b31653a174061",
            "ba6282eb91ceabddb7a61c0563afc12054cc4ab33a2c3840f1be075dc343b124",
            id="large",
        ),
    ],
)
def test_golden_digests(tree: Tree, archive: str, layer: str, tmp_path: Path) -> None:
    """Other bytes cost each user one upload of everything; a new zlib-ng may bring them."""
    plant(tmp_path, tree)
    content = written(tmp_path, tree, OLD)
    assert hashlib.sha256(gzip.decompress(content)).hexdigest() == archive
    assert hashlib.sha256(content).hexdigest() == layer


PROGRAM = """
import io, os, sys
from kontext_plugin import delta
from kontext_plugin.image.tree import Tree
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.ignore_rules import IgnoreRules
from kontext_plugin.source.scan import scan
from kontext_plugin.terminal.steps import Steps
os.umask(int(sys.argv[2], 8))
scanned = scan(sys.argv[1], IgnoreRules(), {}, Workers(), Steps()).tree
changes = delta.diff(Tree(), scanned)
content = delta.LayerContent({"var/lib/kontext/manifest.json": b"{}"}, changes.written)
print(delta.write_layer(io.BytesIO(), sys.argv[1], scanned, content).layer.digest)
"""


def test_the_bytes_depend_on_the_tree_alone(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "another place"]
    plant(roots[0], LARGE)
    plant(roots[1], dict(reversed(LARGE.items())))
    for path in roots[1].rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
    surroundings = [
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
        for root, umask, environment in surroundings
    }
    assert len(digests) == 1


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1])
def test_the_bytes_do_not_depend_on_the_pieces(size: int) -> None:
    content = (NOISE[:1000] + TEXT + NOISE)[:size]
    outcomes = set()
    for piece in (1000, BLOCK - 1, BLOCK, 3 * BLOCK):
        sink = io.BytesIO()
        compress_layer(sink, (content[at : at + piece] for at in range(0, size, piece)))
        outcomes.add(sink.getvalue())
    (compressed,) = outcomes
    assert compressed[:8] == b"\x1f\x8b\x08\0\0\0\0\0", "a name or a time"
    assert gzip.decompress(compressed) == content
    subprocess.run(["gzip", "-t"], input=compressed, check=True)


@settings(max_examples=30)
@given(st.lists(st.sampled_from([1, 500, 4097, 65_537, 300_000, BLOCK - 1]), min_size=1), st.data())
def test_the_bytes_do_not_depend_on_how_they_come(sizes: list[int], data: st.DataObject) -> None:
    """However the system cuts its answers, and so the blocks that are compressed."""
    content = TEXT[: 2 * BLOCK] + NOISE[: BLOCK // 2] + TEXT
    whole, cut = io.BytesIO(), io.BytesIO()
    compress_layer(whole, [content])
    pieces, start = [], 0
    while start < len(content):
        pieces.append(content[start : start + data.draw(st.sampled_from(sizes))])
        start += len(pieces[-1])
        if len(pieces) > 40:
            pieces.append(content[start:])
            break
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "_BLOCK", data.draw(st.sampled_from([1, 10_000, BLOCK])))
        compress_layer(cut, pieces)
    assert cut.getvalue() == whole.getvalue()


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
def test_a_file_that_changes_ends_the_push(change: Change, before: int, tmp_path: Path) -> None:
    tree: Tree = {"a": File(bytes(before)), "d": Directory(), "d/f": File(b"content!")}
    plant(tmp_path / "root", tree)
    change(tmp_path / "root/d/f")
    with pytest.raises(KontextError, match=r"'d/f' .*nothing was published") as raised:
        written(tmp_path / "root", tree)
    assert raised.value.hint


def test_an_empty_file_that_becomes_a_link_ends_the_push(tmp_path: Path) -> None:
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
    """Takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999, 1], ids=lambda share: f"at {share:.1%}")
@pytest.mark.parametrize("name", TREES)
def test_a_full_disk_is_told(name: str, share: float, tmp_path: Path) -> None:
    tree = described(TREES[name])
    plant(tmp_path, TREES[name])
    size = len(written(tmp_path, TREES[name]))
    room = int(size * share) if share < 1 else size - 1
    outcome: list[BaseException | None] = []

    def write() -> None:
        try:
            write_layer(Full(room), str(tmp_path), tree, made(tree))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it hangs"
    (error,) = outcome
    assert isinstance(error, OSError) and error.errno == errno.ENOSPC


def test_a_file_over_8_gib_has_its_size_in_the_layer(tmp_path: Path) -> None:
    """The head of the layer alone: all of it takes more than a minute."""
    size = 8 * 1024**3 + 1
    digest = "b47800cd5a0c0bd2a7d6c2ac9402cc117bbe89363299bdc51f8a72aef8543693"  # of so many zeros
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", size)
    tree = delta.Tree({"sparse": digest}, {"sparse": size})
    head = io.BytesIO()

    class Head(Full):
        def write(self, data: bytes) -> int:
            head.write(data)
            return super().write(data)

    with pytest.raises(OSError, match="No space"):
        write_layer(Head(20_000), str(tmp_path), tree, made(tree))
    listed = subprocess.run(["tar", "tvz"], input=head.getvalue(), capture_output=True)
    line = next(line for line in listed.stdout.decode().splitlines() if "sparse" in line)
    assert line.split()[2] == str(size)


# Reading the manifest back


@pytest.mark.parametrize("json", [b"", b"{}", TEXT], ids=["empty", "short", "long"])
def test_the_manifest_is_read_from_the_head(json: bytes, tmp_path: Path) -> None:
    plant(tmp_path, LARGE)
    stream = io.BytesIO(written(tmp_path, LARGE, json=json))
    assert read_manifest(stream) == json
    # Python 3.13 reads ahead in pieces of 128 KiB.
    assert stream.tell() < len(json) + 200_000 < len(stream.getvalue()), "more than the head"


def entry(
    name: str = MANIFEST_PATH, kind: bytes = tarfile.REGTYPE, size: int = 2, **more: Any
) -> bytes:
    """The tar header of one entry, as tarfile writes it."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT)


GOOD = entry() + b"{}".ljust(512, b"\0")
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no gzip": GOOD,
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
    "gzip of nothing": gzip.compress(b""),
    "header cut off": gzip.compress(GOOD[:511]),
    "no header": gzip.compress(b"x" * 512),
    "header of zeros": gzip.compress(bytes(512)),
    "wrong checksum": gzip.compress(b"x" + GOOD[1:]),
    "size no number": gzip.compress(GOOD[:124] + b"zzzzzzzzzzz\0" + GOOD[136:]),
    "content cut off": gzip.compress(GOOD[:513]),
    "stream cut off": gzip.compress(GOOD)[:30],
    "deflate broken": gzip.compress(GOOD)[:12] + b"\xff" * 50,
    "other file first": gzip.compress(entry("etc/passwd") + GOOD),
    "folder first": gzip.compress(entry("var/", tarfile.DIRTYPE, 0) + GOOD),
    "whiteout first": gzip.compress(entry("var/.wh.lib", size=0) + GOOD),
    "climbing name": gzip.compress(entry("../" + MANIFEST_PATH) + GOOD),
    "longer name": gzip.compress(entry(MANIFEST_PATH + "5") + GOOD),
    "PAX header first": gzip.compress(entry(pax_headers={"comment": "x"}) + GOOD[512:]),
    "global PAX header first": gzip.compress(entry("g", tarfile.XGLTYPE, 0) + GOOD),
    "GNU long name first": gzip.compress(entry("L", tarfile.GNUTYPE_LONGNAME) + GOOD),
    "symbolic link": gzip.compress(entry(kind=tarfile.SYMTYPE, linkname="/etc/passwd") + GOOD),
    "hard link": gzip.compress(entry(kind=tarfile.LNKTYPE, linkname="etc/passwd") + GOOD),
    "directory": gzip.compress(entry(kind=tarfile.DIRTYPE) + GOOD),
    "FIFO": gzip.compress(entry(kind=tarfile.FIFOTYPE) + GOOD),
    "device": gzip.compress(entry(kind=tarfile.CHRTYPE) + GOOD),
    "too large": gzip.compress(entry(size=MAX_BYTES + 1) + bytes(512)),
    "far too large": gzip.compress(entry(size=2**62) + bytes(512)),
    "claims what is not there": gzip.compress(entry(size=MAX_BYTES) + bytes(512)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_layer_without_a_manifest_first_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"its (top layer|layer|manifest) "):
        read_manifest(io.BytesIO(content))


def test_a_good_head_is_read() -> None:
    assert read_manifest(io.BytesIO(gzip.compress(GOOD))) == b"{}"


def test_a_stream_that_ends_early_gives_the_manifest_or_an_error(tmp_path: Path) -> None:
    plant(tmp_path, SMALL)
    layer = written(tmp_path, SMALL)
    answers = []
    for end in range(0, len(layer), 3):
        try:
            answers.append(read_manifest(io.BytesIO(layer[:end])))
        except ValueError:
            answers.append(None)
    assert {*answers} == {None, JSON}


@pytest.mark.parametrize(
    "head",
    [
        b"",
        entry(size=MAX_BYTES + 1),
        entry(size=0, kind=tarfile.DIRTYPE),
        entry("etc/x", size=9**9),
    ],
    ids=["zeros only", "too large", "directory", "other file"],
)
def test_a_gzip_bomb_is_not_unpacked(head: bytes) -> None:
    bomb = io.BytesIO(gzip.compress(head + bytes(25 * BLOCK), 1))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"its (top layer|layer|manifest) "):
            read_manifest(bomb)
        assert tracemalloc.get_traced_memory()[1] < BLOCK
    finally:
        tracemalloc.stop()


def test_what_is_read_is_bounded_over_all_layers() -> None:
    """Also where there is nothing in the documents but their names."""
    name = "var/lib/kontext/parts/a.json"
    layer = gzip.compress(
        entry(name, size=0) * 30 + entry(name, size=9000) + bytes(9216) + entry("end")
    )
    assert len(list(read_documents(io.BytesIO(layer), Budget(30_000)))) == 31
    budget = Budget(40_000)
    list(itertools.islice(read_documents(io.BytesIO(layer), budget), 31))
    with pytest.raises(ValueError, match="too large to be read"):
        list(read_documents(io.BytesIO(layer), budget))


@settings(max_examples=50)
@given(st.binary(max_size=600), st.integers(0, 511))
def test_no_head_does_harm(noise: bytes, at: int) -> None:
    for content in (noise, gzip.compress(GOOD[:at] + noise + GOOD[at + len(noise) :])):
        with contextlib.suppress(ValueError):
            read_manifest(io.BytesIO(content))
