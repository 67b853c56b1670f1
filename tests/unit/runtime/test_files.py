"""Files below a root: opened without following links, read to a limit, and hashed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import unprivileged
from support.trees import File, plant

from kontext_plugin.runtime import files
from kontext_plugin.runtime.files import DirTree, HashedPieces, hash_file, read_file, read_pieces

MIB = 1024 * 1024
SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[DirTree]:
    plant(
        tmp_path, {"f": File(b"top"), "a/b/f": File(b"below"), "a/g": File(b"g"), "c/f": File(b"c")}
    )
    with DirTree(str(tmp_path)) as tree:
        yield tree


def content(tree: DirTree, path: str) -> bytes:
    with os.fdopen(tree.open_file(path), "rb") as file:
        return file.read()


def test_a_tree_opens_files_in_any_order(tree: DirTree) -> None:
    paths = ["a/b/f", "f", "c/f", "a/g", "a/b/f", "a/b/f"]
    assert [content(tree, path) for path in paths] == [
        b"below",
        b"top",
        b"c",
        b"g",
        b"below",
        b"below",
    ]


def test_a_tree_opens_directories(tree: DirTree, tmp_path: Path) -> None:
    for path in ("", "a", "a/b", "c", ""):
        opened = tree.open_directory(path)
        assert os.path.samestat(os.fstat(opened), os.stat(tmp_path / path))


def test_a_name_is_no_prefix_of_another_one(tmp_path: Path) -> None:
    plant(tmp_path, {"a/f": File(b"a"), "ab/f": File(b"ab")})
    with DirTree(str(tmp_path)) as tree:
        assert [content(tree, path) for path in ("a/f", "ab/f", "a/f")] == [b"a", b"ab", b"a"]


def test_a_deep_tree_holds_few_descriptors(tmp_path: Path) -> None:
    path = "/".join(["d"] * 200)
    (tmp_path / path).mkdir(parents=True)
    before = len(os.listdir("/dev/fd"))
    with DirTree(str(tmp_path)) as tree:
        opened = tree.open_directory(path)
        assert os.path.samestat(os.fstat(opened), os.stat(tmp_path / path))
        assert len(os.listdir("/dev/fd")) - before < 50
        assert os.path.samestat(os.fstat(tree.open_directory("d/d")), os.stat(tmp_path / "d/d"))
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("path", ["link/secret", "a/link/secret", "file"])
def test_no_link_is_followed(path: str, tmp_path: Path) -> None:
    plant(tmp_path, {"outside/secret": File(b"secret"), "root/a/f": File(b"")})
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    (tmp_path / "root/a/link").symlink_to(tmp_path / "outside")
    (tmp_path / "root/file").symlink_to(tmp_path / "outside/secret")
    with DirTree(str(tmp_path / "root")) as tree, pytest.raises(OSError):
        tree.open_file(path)


def test_a_directory_that_was_opened_stays_in_the_tree_when_it_moves(tmp_path: Path) -> None:
    """Its path leads elsewhere meanwhile, but the descriptor does not."""
    plant(tmp_path, {"outside/f": File(b"secret"), "root/a/f": File(b"mine")})
    with DirTree(str(tmp_path / "root")) as tree:
        tree.open_directory("a")
        (tmp_path / "root/a").rename(tmp_path / "moved")
        (tmp_path / "root/a").symlink_to(tmp_path / "outside")
        assert content(tree, "a/f") == b"mine"


def test_a_fifo_is_opened_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with DirTree(str(tmp_path)) as tree:
        assert content(tree, "fifo") == b""


def opened(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


@pytest.mark.parametrize("size", SIZES)
def test_pieces_are_the_content(size: int, tmp_path: Path) -> None:
    whole = (b"line\n" * (size // 5 + 1))[:size]
    file = opened(tmp_path / "f", whole)
    pieces = list(read_pieces(file, size + 1))
    os.close(file)
    assert b"".join(pieces) == whole
    assert all(0 < len(piece) <= MIB for piece in pieces)


def test_pieces_end_at_the_limit_however_fast_a_file_grows(tmp_path: Path) -> None:
    file, count = opened(tmp_path / "log", b"x" * 100), 0
    with (tmp_path / "log").open("ab", buffering=0) as log:
        for piece in read_pieces(file, 1000, 10):
            count += len(piece)
            log.write(b"x" * 20)
    os.close(file)
    assert count == 1000


def test_no_pieces_within_no_limit(tmp_path: Path) -> None:
    file = opened(tmp_path / "f", b"x")
    assert list(read_pieces(file, 0)) == []
    os.close(file)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_the_expected_size_is_hashed(size: int, tmp_path: Path) -> None:
    whole = (b"line\n" * (size // 5 + 1))[:size]
    file = opened(tmp_path / "f", whole)
    assert hash_file(file, size) == hashlib.sha256(whole).hexdigest()
    os.close(file)


@pytest.mark.parametrize("difference", [-1, 1])
@pytest.mark.parametrize("size", [1, 100, MIB - 1, MIB + 1])
def test_a_file_of_another_size_has_no_hash(size: int, difference: int, tmp_path: Path) -> None:
    file = opened(tmp_path / "f", b"x" * (size + difference))
    assert hash_file(file, size) is None
    os.close(file)


def test_one_byte_more_than_expected_is_read_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sizes, read = opened(tmp_path / "f", b"x" * 1000), [], os.read

    def count(file: int, size: int) -> bytes:
        piece = read(file, size)
        sizes.append(len(piece))
        return piece

    monkeypatch.setattr(files.os, "read", count)
    assert hash_file(file, 100) is None
    os.close(file)
    assert sizes == [101]


def test_pieces_are_hashed_while_they_pass() -> None:
    pieces = HashedPieces(iter([b"a", b"", b"bc"]))
    assert list(pieces) == [b"a", b"", b"bc"]
    assert pieces.size == 3
    assert pieces.hexdigest() == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("passed", [0, 1, 3])
def test_the_hash_is_that_of_all_pieces(passed: int) -> None:
    pieces = HashedPieces([b"a", b"b", b"c"])
    for _, _ in zip(range(passed), pieces, strict=False):
        pass
    assert pieces.hexdigest() == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_read_whole(size: int, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * size)
    assert read_file(str(tmp_path / "f"), size) == b"x" * size


def test_a_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "link").symlink_to("f")
    assert read_file(str(tmp_path / "link"), 1) == b"x"


def test_a_file_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"xx")
    with pytest.raises(ValueError, match="larger than 1 bytes"):
        read_file(str(tmp_path / "f"), 1)


def test_a_file_that_claims_to_be_empty_is_read_whole() -> None:
    """As files of /proc do."""
    assert read_file("/proc/self/status", MIB).startswith(b"Name:")


SPECIAL: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "link to a FIFO": lambda path: (os.mkfifo(f"{path}-fifo"), path.symlink_to(f"{path}-fifo")),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "directory": Path.mkdir,
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_no_other_file_is_read(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "f")
    with pytest.raises((ValueError, OSError), match=r"not a regular file|Is a directory"):
        read_file(str(tmp_path / "f"), MIB)


READ_OWN = """
from kontext_plugin.runtime.files import read_file
for name in ("own", "foreign"):
    path = os.path.join(sys.argv[1], name)
    if name == "own":
        open(path, "wb").close()
    try:
        print(name, read_file(path, 10, own=True))
    except ValueError as error:
        print(name, error)
"""


def test_a_file_of_another_user_is_not_read_where_an_own_one_is_wanted() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to have a file of another user")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        (Path(directory) / "foreign").write_bytes(b"x")
        (Path(directory) / "foreign").chmod(0o644)
        printed = unprivileged.run(READ_OWN, directory)
    assert printed.splitlines() == ["own b''", "foreign it belongs to another user"]
