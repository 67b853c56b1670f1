"""A target becomes what is wanted, whatever lies there; nothing outside of it is touched."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import unprivileged
from support.models import described
from support.trees import Directory, File, Link, Tree, on_disk, plant

from kontext_plugin import workspace
from kontext_plugin.errors import KontextError
from kontext_plugin.workspace import Workspace, check_mirror

CONTENT = b"content"
OUTSIDE: Tree = {"file": File(b"outside"), "d": Directory(), "d/file": File(b"outside")}


def wanted(path: str, content: bytes = CONTENT, executable: bool = False) -> workspace.File:
    return workspace.File(path, hashlib.sha256(content).hexdigest(), len(content), executable)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that is as it was when the test has ended."""
    folder = tmp_path / "outside"
    plant(folder, OUTSIDE)
    before = modes(folder)
    yield folder
    assert on_disk(folder) == OUTSIDE
    assert modes(folder) == before


def modes(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mode for path in folder.rglob("*")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def full_directory(path: Path, outside: Path) -> None:
    plant(path, {"a": Directory(), "a/b": File(b"x"), "l": Link(str(outside))})


IN_THE_WAY: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, outside: None,
    "a file": lambda path, outside: path.write_bytes(b"other"),
    "a file without a mode": lambda path, outside: (path.touch(), path.chmod(0)),
    "a link to nothing": lambda path, outside: path.symlink_to("nothing"),
    "a link to itself": lambda path, outside: path.symlink_to(path.name),
    "a link to a file": lambda path, outside: path.symlink_to(outside / "file"),
    "a link to a directory": lambda path, outside: path.symlink_to(outside / "d"),
    "a hard link": lambda path, outside: path.hardlink_to(outside / "file"),
    "an empty directory": lambda path, outside: path.mkdir(),
    "a full directory": full_directory,
    "a FIFO": lambda path, outside: os.mkfifo(path),
    "a socket": lambda path, outside: os.mknod(path, stat.S_IFSOCK | 0o600),
}


@pytest.mark.parametrize("what", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_file_takes_any_place(
    root: Path, outside: Path, what: Callable[[Path, Path], object]
) -> None:
    what(root / "it", outside)
    with Workspace(str(root)) as there:
        assert there.settle(wanted("it")) == "wrong"
        there.write(wanted("it"), [CONTENT[:3], CONTENT[3:]])
        assert there.settle(wanted("it")) == "right"
    assert on_disk(root) == {"it": File(CONTENT)}
    assert stat.S_IMODE((root / "it").lstat().st_mode) == 0o644


@pytest.mark.parametrize("what", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_link_takes_any_place(
    root: Path, outside: Path, what: Callable[[Path, Path], object]
) -> None:
    what(root / "it", outside)
    with Workspace(str(root)) as there:
        assert there.place_link("it", str(outside))
        assert not there.place_link("it", str(outside))
    assert on_disk(root) == {"it": Link(str(outside))}


@pytest.mark.parametrize("what", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_directory_takes_any_place(
    root: Path, outside: Path, what: Callable[[Path, Path], object]
) -> None:
    what(root / "it", outside)
    before = on_disk(root) if (root / "it").is_dir() and not (root / "it").is_symlink() else {}
    with Workspace(str(root)) as there:
        there.make_directory("it")
        there.write(wanted("it/file"), [CONTENT])
    assert on_disk(root) == before | {"it": Directory(), "it/file": File(CONTENT)}
    assert stat.S_IMODE((root / "it").lstat().st_mode) == 0o755


def test_other_content_is_not_written(root: Path) -> None:
    plant(root, {"it": File(b"before")})
    with Workspace(str(root)) as there, pytest.raises(ValueError, match="'it' has other content"):
        there.write(wanted("it"), [b"other"])
    assert on_disk(root) == {"it": File(b"before")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "full"), ValueError])
def test_what_breaks_off_leaves_all_as_it_was(root: Path, error: Exception) -> None:
    def content() -> Iterator[bytes]:
        yield CONTENT[:3]
        raise error

    plant(root, {"it": File(b"before")})
    with (
        Workspace(str(root)) as there,
        pytest.raises((KeyboardInterrupt, KontextError, ValueError)),
    ):
        there.write(wanted("it"), content())
    assert on_disk(root) == {"it": File(b"before")}


def test_a_mode_alone_is_set_right(root: Path, outside: Path) -> None:
    (root / "it").write_bytes(CONTENT)
    os.utime(root / "it", (1, 1))
    with Workspace(str(root)) as there:
        assert there.settle(wanted("it", executable=True)) == "changed"
        assert there.settle(wanted("it", executable=True)) == "right"
        assert (root / "it").stat().st_mtime == 1
        (root / "shared").hardlink_to(outside / "file")
        assert there.settle(wanted("shared", b"outside", executable=True)) == "wrong"


def test_the_umask_has_no_say(root: Path) -> None:
    before = os.umask(0o777)
    try:
        with Workspace(str(root / "a/b")) as there:
            there.make_directory("d")
            there.write(wanted("d/f"), [CONTENT])
            there.write(wanted("d/x", executable=True), [CONTENT])
    finally:
        assert os.umask(before) == 0o777
    found = {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in modes(root)}
    assert found == {"a": 0o755, "a/b": 0o755, "a/b/d": 0o755, "a/b/d/f": 0o644, "a/b/d/x": 0o755}


def test_a_directory_that_is_exchanged_for_a_link(root: Path, outside: Path) -> None:
    """Somebody else may do so at any time: what was opened before is written to, or nothing."""
    (root / "d").mkdir()

    def content() -> Iterator[bytes]:
        (root / "d").rename(root / "away")
        (root / "d").symlink_to(outside / "d")
        yield CONTENT

    with Workspace(str(root)) as there:
        there.write(wanted("d/f"), content())
    away: Tree = {"away": Directory(), "away/f": File(CONTENT), "d": Link(str(outside / "d"))}
    assert on_disk(root) == away
    with Workspace(str(root)) as there:
        with pytest.raises(KontextError, match="d/f' cannot be written"):
            there.write(wanted("d/f"), [CONTENT])
        with pytest.raises(KontextError, match="d/l' cannot be written"):
            there.place_link("d/l", "x")
        assert there.settle(wanted("d/file", b"outside", executable=True)) == "wrong"
    assert on_disk(root) == away


def test_a_mirror_removes_what_the_tree_does_not_have(root: Path, outside: Path) -> None:
    keep: Tree = {"d": Directory(), "d/f": File(b"x"), "l": Link("d")}
    extra: Tree = {
        "new": File(b"x"),
        "d/new": Link(str(outside)),
        "e": Directory(),
        "e/e": Directory(),
        "e/e/f": File(b""),
    }
    plant(root, keep | extra)
    os.mkfifo(root / "fifo")
    with Workspace(str(root)) as there:
        assert there.mirror(described(keep)) == 4
    assert on_disk(root) == keep


def test_a_mirror_keeps_git(root: Path) -> None:
    git: Tree = {
        ".git": Directory(),
        ".git/HEAD": File(b"ref"),
        "sub": Directory(),
        "sub/.git": File(b"gitdir: x"),
        "new": Directory(),
        "new/deep": Directory(),
        "new/deep/.git": Directory(),
        "new/deep/.git/HEAD": File(b"ref"),
    }
    plant(root, git | {"new/f": File(b"x"), "new/deep/f": File(b"x"), "sub/f": File(b"x")})
    with Workspace(str(root)) as there:
        assert there.mirror(described({"sub": Directory()})) == 2
        assert on_disk(root) == git
        assert there.mirror(described({"sub": Directory()})) == 0


def test_a_directory_with_git_is_not_replaced(root: Path) -> None:
    """Nobody else may have what is committed there."""
    before: Tree = {
        "it": Directory(),
        "it/f": File(b"x"),
        "it/a": Directory(),
        "it/a/.git": Directory(),
        "it/a/.git/HEAD": File(b"ref"),
    }
    plant(root, before)
    with Workspace(str(root)) as there:
        with pytest.raises(KontextError, match="it' cannot be written: Is a directory") as told:
            there.write(wanted("it"), [CONTENT])
        with pytest.raises(KontextError):
            there.place_link("it", "a")
    assert "move that away" in told.value.hint
    assert on_disk(root) == before


def test_a_mirror_of_a_tree_with_git_is_exact(root: Path) -> None:
    tree: Tree = {".git": Directory(), ".git/HEAD": File(b"ref")}
    plant(root, tree | {".git/index": File(b"x")})
    with Workspace(str(root)) as there:
        assert there.mirror(described(tree)) == 1
    assert on_disk(root) == tree


def test_a_tree_deeper_than_any_path_is_removed(root: Path) -> None:
    folder = os.open(root, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("deep", dir_fd=folder)
        below = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    with Workspace(str(root)) as there:
        there.write(wanted("deep"), [CONTENT])
    assert on_disk(root) == {"deep": File(CONTENT)}


MIRROR_ONTO = {
    "home": ("home/me", False),
    "above it": ("home", False),
    "a link to it": ("link", False),
    "below it": ("home/me/project", True),
    "beside it": ("elsewhere", True),
    "not there yet": ("new", True),
}


@pytest.mark.parametrize(("name", "allowed"), MIRROR_ONTO.values(), ids=MIRROR_ONTO)
def test_what_may_be_mirrored_onto(tmp_path: Path, name: str, allowed: bool) -> None:
    for folder in ("home/me/project", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("home/me")
    home = str(tmp_path / "home/me")
    if allowed:
        check_mirror(str(tmp_path / name), home)
    else:
        with pytest.raises(KontextError, match="refusing --mirror"):
            check_mirror(str(tmp_path / name), home)


@pytest.mark.parametrize("root_name", ["/", "//", "/..", "/proc/1/../.."])
def test_the_root_may_not_be_mirrored_onto(tmp_path: Path, root_name: str) -> None:
    with pytest.raises(KontextError, match="refusing --mirror"):
        check_mirror(root_name, str(tmp_path))
    with pytest.raises(KontextError, match="refusing --mirror"):
        check_mirror(root_name, "/nonexistent")


NO_TARGET = {"a file": "file", "below a file": "file/d", "a link to nothing": "dangling"}


@pytest.mark.parametrize("name", NO_TARGET.values(), ids=NO_TARGET)
def test_what_is_no_directory(root: Path, name: str) -> None:
    (root / "file").touch()
    (root / "dangling").symlink_to("nothing")
    with pytest.raises(KontextError, match="is not a directory") as raised:
        Workspace(str(root / name))
    assert name in raised.value.message


def test_who_may_not_write(root: Path) -> None:
    """A directory of one's own is opened up; another's gives a message."""
    root.chmod(0o777)
    for folder in root.parents[:-1]:
        if folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (root / "other").mkdir(mode=0o755)
    program = """
import hashlib
from kontext_plugin.workspace import File, Workspace
root, content = sys.argv[1], b"content"
os.mkdir(root + "/own")
os.chmod(root + "/own", 0o000)
with Workspace(root) as there:
    there.make_directory("own")
    for path in ("own/f", "other/f"):
        try:
            there.write(File(path, hashlib.sha256(content).hexdigest(), 7, False), [content])
            print("written")
        except KontextError as error:
            print(error.message, "|", error.hint)
"""
    first, second = unprivileged.run(program, str(root)).splitlines()
    assert first == "written"
    assert stat.S_IMODE((root / "own").stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert f"'{root}/other/f' cannot be written: Permission denied | Name a" in second
