"""What `install` makes, what `uninstall` removes, and that nothing of the user's is touched."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kontext_plugin import installation
from kontext_plugin.errors import KontextError
from kontext_plugin.installation import Record, cache_of, missing_directories, parse_record

CRANE = b"#!/bin/sh\necho v0.21.9\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the link belongs."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker/cli-plugins/docker-kontext"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kontext's data directory, which does not exist yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "share/kontext"


def program(path: Path, content: bytes = CRANE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def everything(folder: Path) -> dict[str, str]:
    """Each path below a directory, with the target of a link or the content of a file."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_text()
        if path.is_file()
        else "directory"
        for path in folder.rglob("*")
    }


# --- The link ---


@pytest.mark.parametrize(
    "target",
    ["/gone/site-packages/kontext_plugin/docker-kontext", "../kontext_plugin/docker-kontext"],
)
def test_a_link_to_another_installation_is_replaced(place: Path, target: str) -> None:
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    assert installation.link()
    assert installation.is_ours(str(place))


def test_anything_else_stays(place: Path, tmp_path: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(KontextError, match="exists and is not a link"):
        installation.link()
    assert place.read_text() == "mine"
    place.unlink()
    place.symlink_to(tmp_path / "mine")
    with pytest.raises(KontextError, match="which is not Kontext"):
        installation.link()
    assert os.readlink(place) == str(tmp_path / "mine")


def test_a_directory_that_cannot_be_made(place: Path) -> None:
    place.parent.parent.write_text("a file")
    with pytest.raises(KontextError, match=f"cannot make {place}: Not a directory"):
        installation.link()


def test_a_link_needs_no_data_directory(place: Path, data: Path) -> None:
    data.parent.write_text("a file")
    assert installation.link()
    assert installation.unlink() == str(place)


LINKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda path: path.write_text("mine"), "is not a link, so 'install' did not make it"),
    "a link of the user's": (lambda path: path.symlink_to("/etc/passwd"), "to another program"),
    "a dangling link of the user's": (lambda path: path.symlink_to("/gone"), "to another program"),
    "another installation": (
        lambda path: path.symlink_to(
            program(path.parents[1] / "other/kontext_plugin/docker-kontext")
        ),
        "to another program",
    ),
}


@pytest.mark.parametrize(("make", "message"), LINKS.values(), ids=LINKS)
def test_a_foreign_plugin_stays(make: Callable[[Path], object], message: str, place: Path) -> None:
    place.parent.mkdir(parents=True)
    make(place)
    before = everything(place.parent)
    with pytest.raises(KontextError, match=message) as raised:
        installation.unlink()
    assert raised.value.hint
    assert everything(place.parent) == before


def test_a_link_to_an_installation_that_is_gone_is_removed(place: Path) -> None:
    """docker warns of it in `docker info`."""
    place.parent.mkdir(parents=True)
    place.symlink_to("/gone/kontext_plugin/docker-kontext")
    assert installation.unlink() == str(place)
    assert not place.is_symlink()
    assert installation.unlink() == ""


# --- crane ---


def test_a_crane_is_put_into_its_place_and_removed(data: Path) -> None:
    assert installation.write_crane(CRANE) == str(data / "crane")
    assert (data / "crane").stat().st_mode & 0o7777 == 0o755
    assert sorted(os.listdir(data)) == ["crane", "install.json"]
    newer = CRANE + b"# newer\n"
    installation.write_crane(newer)
    assert (data / "crane").read_bytes() == newer
    assert installation.remove_crane() == str(data / "crane")
    installation.remove_record()
    assert not data.parent.exists()
    assert installation.remove_crane() == ""


def test_a_crane_is_linked(data: Path, tmp_path: Path) -> None:
    own = program(tmp_path / "bin/crane")
    installation.write_crane(CRANE)
    for _ in range(2):
        assert installation.link_crane(str(own)) == str(data / "crane")
        assert os.readlink(data / "crane") == str(own)
    installation.link_crane(str(data / "crane"))  # not to itself
    assert os.readlink(data / "crane") == str(own)
    installation.remove_crane()
    installation.remove_record()
    assert not data.parent.exists()
    assert own.read_bytes() == CRANE


UNUSABLE = {
    "old": (b"#!/bin/sh\necho v0.21.8\n", "crane v0.21.8 is too old"),
    "fails": (b"#!/bin/sh\nexit 3\n", "crane version"),
    "another machine": (b"\x7fELF of another machine", "cannot be run"),
}


@pytest.mark.parametrize(("content", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_crane_that_cannot_be_used_changes_nothing(
    content: bytes, message: str, data: Path, tmp_path: Path
) -> None:
    own = program(tmp_path / "bin/crane", content)
    before = everything(tmp_path)
    for put in (
        lambda: installation.write_crane(content),
        lambda: installation.link_crane(str(own)),
    ):
        with pytest.raises(KontextError, match=message) as raised:
            put()
        assert raised.value.hint
        assert everything(tmp_path) == before
    installation.write_crane(CRANE)
    with pytest.raises(KontextError, match=message):
        installation.write_crane(content)
    assert (data / "crane").read_bytes() == CRANE


def foreign_file(data: Path) -> None:
    program(data / "crane")


def foreign_link(data: Path) -> None:
    data.mkdir(parents=True)
    (data / "crane").symlink_to("/usr/bin/crane")


def foreign_directory(data: Path) -> None:
    (data / "crane").mkdir(parents=True)


def replaced_by_the_user(data: Path) -> None:
    installation.write_crane(CRANE + b"# of install\n")
    program(data / "crane")


def damaged_record(data: Path) -> None:
    installation.write_crane(CRANE)
    (data / "install.json").write_text("{")


@pytest.mark.parametrize(
    "make",
    [foreign_file, foreign_link, foreign_directory, replaced_by_the_user, damaged_record],
)
def test_a_foreign_crane_stays(make: Callable[[Path], None], data: Path, tmp_path: Path) -> None:
    own = program(tmp_path / "bin/crane")
    make(data)
    before = everything(data)
    for touch in (
        lambda: installation.write_crane(CRANE),
        lambda: installation.link_crane(str(own)),
        installation.remove_crane,
    ):
        with pytest.raises(KontextError, match=f"'install' did not make {data}/crane") as raised:
            touch()
        assert "Move it away" in raised.value.hint
        assert everything(data) == before


def below_a_file(data: Path) -> None:
    data.parent.write_text("a file")


def takes_no_files(data: Path) -> None:
    data.parent.mkdir()
    data.symlink_to("/proc")  # not even root's


@pytest.mark.parametrize("make", [below_a_file, takes_no_files])
def test_a_data_directory_that_cannot_be_written(make: Callable[[Path], None], data: Path) -> None:
    make(data)
    with pytest.raises(KontextError, match=f"cannot write {data}/crane: ") as raised:
        installation.write_crane(CRANE)
    assert "XDG_DATA_HOME" in raised.value.hint


def test_a_full_disk_leaves_what_was_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    installation.write_crane(CRANE)
    before = everything(data)
    with monkeypatch.context() as full:
        full.setattr(os, "replace", fail)
        with pytest.raises(KontextError, match="crane: No space left on device") as raised:
            installation.write_crane(CRANE + b"# newer")
    assert "Make room there" in raised.value.hint
    assert everything(data) == before


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "data_directory", lambda: None)
    with pytest.raises(KontextError, match="no directory for crane") as raised:
        installation.write_crane(CRANE)
    assert "XDG_DATA_HOME" in raised.value.hint
    installation.remove_record()


def test_an_interrupt_leaves_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        installation.write_crane(CRANE)
    assert not data.parent.exists()


def test_what_a_killed_install_leaves_is_removed(data: Path) -> None:
    installation.write_crane(CRANE)
    program(data / ".new-killed/crane")
    installation.remove_crane()
    installation.remove_record()
    assert not data.exists()


# --- Directories ---


def test_directories_that_were_there_stay(place: Path, data: Path, tmp_path: Path) -> None:
    place.parent.mkdir(parents=True)  # and empty
    data.parent.mkdir()
    before = everything(tmp_path)
    installation.link()
    installation.write_crane(CRANE)
    installation.unlink()
    installation.remove_crane()
    installation.remove_record()
    assert everything(tmp_path) == before


def test_a_new_directory_that_somebody_else_uses_stays(place: Path, data: Path) -> None:
    installation.link()
    other = program(place.parent / "docker-other")
    installation.unlink()
    installation.remove_record()
    assert os.listdir(place.parent) == [other.name]
    assert not data.exists()


def test_missing_directories(tmp_path: Path) -> None:
    assert missing_directories(str(tmp_path)) == ()
    assert missing_directories(f"{tmp_path}/a/b") == (f"{tmp_path}/a", f"{tmp_path}/a/b")


# --- The record ---


RECORDS = {
    "whole": (json.dumps({"crane": "link:/a", "directories": ["/b"]}), Record("link:/a", ("/b",))),
    "empty": ("", Record()),
    "cut off": ('{"crane": "link:', Record()),
    "another document": ("[1]", Record()),
    "other types": (json.dumps({"crane": 1, "directories": "/"}), Record()),
    "a key is missing": (json.dumps({"crane": "link:/a"}), Record()),
    "a directory is no text": (json.dumps({"crane": "", "directories": [1]}), Record()),
    "no text": ("\x00\xff", Record()),
    "deep": ("[" * 100_000, Record()),
}


@pytest.mark.parametrize(("content", "record"), RECORDS.values(), ids=RECORDS)
def test_records(content: str, record: Record) -> None:
    assert parse_record(content.encode("latin-1")) == record


# --- Caches ---


PLACES = {
    "uvx": ("cache/uv/archive-v0/abc/lib/site/kontext_plugin/f", "cache/uv/archive-v0/abc", True),
    "pipx run": (".cache/pipx/abc/lib/site/kontext_plugin/f", ".cache/pipx/abc", True),
    "pipx run, earlier": ("pipx/.cache/abc/lib/site/kontext_plugin/f", "pipx/.cache/abc", True),
    "pipx run on macOS": ("Library/Caches/pipx/a/lib/kontext_plugin/f", "x", True),
    "uv tool": ("uv/tools/kontext/lib/site/kontext_plugin/f", "uv/tools/kontext", False),
    "pipx": ("pipx/venvs/docker-kontext/lib/site/kontext_plugin/f", "x", False),
    "checkout": ("kontext/kontext_plugin/f", "kontext/.venv", False),
}  # fmt: skip


@pytest.mark.parametrize(("path", "prefix", "cached"), PLACES.values(), ids=PLACES)
def test_an_installation_in_a_cache(path: str, prefix: str, cached: bool, tmp_path: Path) -> None:
    """uv marks its cache, and also each environment that it makes."""
    (tmp_path / path).parent.mkdir(parents=True)
    for marked in ("cache/uv", "uv/tools/kontext"):
        if (tmp_path / marked).is_dir():
            (tmp_path / marked / "CACHEDIR.TAG").touch()
    assert bool(cache_of(str(tmp_path / path), str(tmp_path / prefix))) == cached
