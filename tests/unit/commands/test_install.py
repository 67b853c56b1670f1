"""`docker kontext install`: what it says, and which crane it takes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mirror import Mirror, archive_of, regular, sends, serve_mirror

from kontext_plugin import installation
from kontext_plugin.cli import main
from kontext_plugin.commands.install import Way, choose_way
from kontext_plugin.crane_driver import release

OWN = "#!/bin/sh\n# of the user\necho v0.22.0\n"
OLD = "#!/bin/sh\necho v0.21.8\n"
RELEASED = b"#!/bin/sh\n# from the release\necho 0.21.9\n"
ARCHIVE = archive_of(regular("crane", RELEASED))
PATH = "/v0.21.9/go-containerregistry_Linux_x86_64.tar.gz"

HELP = "Run 'docker kontext --help' to see the commands"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the link belongs, on a machine without a crane."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "venv/bin/python3"))
    return tmp_path / "docker/cli-plugins/docker-kontext"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "share/kontext"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror with the pinned release."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    monkeypatch.setattr(release, "PINNED", {"Linux_x86_64": digest})
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with serve_mirror() as served:
        served.answers[PATH] = sends(ARCHIVE)
        monkeypatch.setenv("KONTEXT_CRANE_RELEASES", served.url.replace("//", "//me:secret@"))
        yield served


def crane(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


WAYS = {
    "a good crane": (None, True, Way.KEEP),
    "no good crane": (None, False, Way.FETCH),
    "release": ("release", True, Way.FETCH),
    "none": ("none", False, Way.NONE),
    "a path": ("/bin/crane", True, Way.LINK),
    "a file named release": ("./release", False, Way.LINK),
}


@pytest.mark.parametrize(("option", "is_usable", "way"), WAYS.values(), ids=WAYS)
def test_ways(option: str | None, is_usable: bool, way: Way) -> None:
    assert choose_way(option, is_usable) == way


def test_the_link(place: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(root / "kontext_plugin/docker-kontext")
    for message in (f"Linked {place} to {target}", f"{place} already links to {target}"):
        assert main.run(["install", "--crane", "none"]) == 0
        assert os.readlink(place) == target
        assert os.access(place, os.X_OK)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.splitlines() == [message, HELP]
    assert os.listdir(place.parent) == [place.name]


def test_config_flag(tmp_path: Path, place: Path) -> None:
    other = str(tmp_path / "other")
    assert main.run(["--config", other, "kontext", "install", "--crane", "none"]) == 0
    assert (tmp_path / "other/cli-plugins/docker-kontext").is_symlink()
    assert not place.exists()


@pytest.mark.parametrize("found", [None, OLD], ids=["none", "old"])
def test_the_release_is_fetched_if_no_crane_is_usable(
    found: str | None,
    mirror: Mirror,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if found:
        crane(tmp_path / "bin/crane", found)
    assert main.run(["install"]) == 0
    assert (data / "crane").read_bytes() == RELEASED
    lines = capsys.readouterr().err.splitlines()
    url = mirror.url.replace("//", "//…")
    assert f"Downloading crane v0.21.9 from {url}{PATH}" in lines
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    assert f"Installed {data}/crane, {len(RELEASED)}B, from the archive sha256:{digest}" in lines
    assert any("crane v0.21.8 is too old" in line for line in lines) == bool(found)
    assert main.run(["install"]) == 0
    assert f"Found crane: {data}/crane" in capsys.readouterr().err
    assert len(mirror.requests) == 1


def test_a_newer_crane_is_kept(
    mirror: Mirror, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = crane(tmp_path / "bin/crane", OWN)
    assert main.run(["install"]) == 0
    assert f"Found crane: {own}" in capsys.readouterr().err
    assert mirror.requests == []
    assert not (data / "crane").exists()
    assert main.run(["install", "--crane", "release"]) == 0
    assert (data / "crane").read_bytes() == RELEASED
    assert own.read_text() == OWN


def test_a_foreign_crane_is_not_even_fetched_for(
    mirror: Mirror, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crane(data / "crane", OLD)
    assert main.run(["install"]) == 1
    assert "Move it away" in capsys.readouterr().err
    assert (data / "crane").read_text() == OLD
    assert mirror.requests == []


def test_a_release_that_is_refused_leaves_the_link_and_no_crane(
    mirror: Mirror, place: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.answers[PATH] = sends(ARCHIVE[:-1])
    assert main.run(["install"]) == 1
    shown = capsys.readouterr().err
    assert "ERROR: " in shown and "is not the pinned release of crane" in shown
    assert "secret" not in shown
    assert place.is_symlink()
    assert not (data / "crane").exists()


def test_a_crane_that_comes_first_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = crane(tmp_path / "own/crane", OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KONTEXT_CRANE", "/chosen")
    assert main.run(["install", "--crane", "own/crane"]) == 0
    shown = capsys.readouterr().err
    assert f"Linked {tmp_path}/share/kontext/crane to {own}" in shown
    assert "WARNING: Kontext uses /chosen first: unset KONTEXT_CRANE" in shown


@pytest.mark.parametrize(
    ("old", "said"),
    [(False, "bin/crane' does not exist"), (True, "v0.1.0")],
    ids=["missing", "too old"],
)
def test_a_crane_that_cannot_be_used_leaves_nothing(
    old: bool,
    said: str,
    tmp_path: Path,
    place: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bin/crane"
    if old:
        crane(path, "#!/bin/sh\necho v0.1.0\n")
    assert main.run(["install", "--crane", str(path)]) == 1
    shown = capsys.readouterr().err
    assert said in shown and "Errno" not in shown
    assert "Name another crane, or run this without --crane." in shown
    assert not place.parent.exists()
    assert not data.exists()


@pytest.mark.parametrize(
    ("path", "tool"), [("/c/.cache/uv/a/f", "uv tool"), ("/c/.cache/pipx/a/f", "pipx")]
)
def test_an_installation_in_a_cache_is_not_linked(
    path: str,
    tool: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(installation, "plugin_file", lambda: path)
    assert main.run(["install"]) == 1
    shown = capsys.readouterr().err
    assert "Kontext runs from the cache /c/.cache," in shown
    assert f"Run '{tool} install docker-kontext', and then 'docker-kontext install'." in shown
    assert not place.parent.exists()


def test_docker_takes_the_first_plugin_that_exists(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "docker-kontext").write_text("not a program")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling/docker-kontext").symlink_to("nowhere")
    place.parent.parent.mkdir()
    directories = [str(tmp_path / "none"), str(tmp_path / "dangling"), str(extra)]
    config = {"cliPluginsExtraDirs": directories}
    (place.parent.parent / "config.json").write_text(json.dumps(config))
    assert main.run(["install", "--crane", "none"]) == 0
    assert installation.first_candidate() == str(extra / "docker-kontext")
    warning = f"WARNING: docker uses {extra}/docker-kontext first: remove it\n"
    assert warning in capsys.readouterr().err
