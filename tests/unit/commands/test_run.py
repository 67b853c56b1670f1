"""Where `docker kontext run` lets an image write, and as whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kontext_plugin.commands.run import (
    Identity,
    check_entrypoint,
    check_removal,
    identity,
    make,
    workspace_of,
)
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest, Image
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.tree import DIRECTORY, Tree
from kontext_plugin.manifest import Manifest
from kontext_plugin.registry.fetch import KontextImage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "to new").symlink_to("new")
    (tmp_path / "to the root").symlink_to("/")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "real"),
    {
        ".": "there",
        "../there/": "there",
        "../link": "there",
        "../new": "new",
        "../to new": "new",
    }.items(),
)
def test_a_workspace(folder: Path, given: str, real: str) -> None:
    assert workspace_of(given) == os.path.realpath(folder / real)


@pytest.mark.parametrize(
    ("given", "message"),
    {
        "/": "is '/'",
        "//": "is '/'",
        "/tmp/..": "is '/'",
        "../to the root": "is '/'",
        "../file": "not a directory",
        "../no/where": "the directory above it does not exist",
        "../file/below": "the directory above it does not exist",
    }.items(),
)
def test_what_cannot_be_a_workspace(folder: Path, given: str, message: str) -> None:
    with pytest.raises(KontextError, match=message):
        workspace_of(given)


@pytest.mark.parametrize("option", ["--mirror", "-mirror", "--mirror=true", "-mirror=1"])
@pytest.mark.parametrize(
    ("workspace", "message"),
    {".": "the home directory", "..": "the home directory", "app": "remove '.*/app/.git'"}.items(),
)
def test_what_the_extractor_may_not_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: str, message: str, option: str
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / ".git").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = workspace_of(str(tmp_path / workspace))
    with pytest.raises(KontextError, match=message):
        check_removal(["--quiet", option], folder, Tree())


def test_what_the_extractor_may_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app" / ".git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    check_removal(["--mirror"], str(tmp_path / "new"), Tree())
    check_removal(["--verify"], str(tmp_path), Tree())
    check_removal(["--mirror"], str(tmp_path / "app"), Tree(files={".git": DIRECTORY}))


def test_making_one(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make(str(tmp_path / "new"))
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755
    (tmp_path / "new").chmod(0o700)
    make(str(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700, "what is there stays as it is"


def test_one_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KontextError, match="cannot be made: Not a directory"):
        make(str(tmp_path / "file/new"))


ROOT = ("DAC_OVERRIDE", "FOWNER")
US = f"{os.geteuid()}:{os.getegid()}"
IDENTITIES: dict[str, tuple[str, frozenset[str], str, tuple[str, ...]]] = {
    "chosen": ("4321:1", frozenset(), "4321:1", ()),
    "chosen, without a group": ("4321", frozenset({"rootless"}), "4321", ()),
    "root, chosen": ("0", frozenset(), "0", ROOT),
    "whoever calls": ("", frozenset({"seccomp"}), US, ROOT if os.geteuid() == 0 else ()),
    "rootless": ("", frozenset({"rootless"}), "0:0", ROOT),
}


@pytest.mark.parametrize(
    ("chosen", "security", "user", "capabilities"), IDENTITIES.values(), ids=IDENTITIES
)
def test_identity(
    chosen: str, security: frozenset[str], user: str, capabilities: tuple[str, ...]
) -> None:
    found = identity(chosen, security)
    assert (found.user, found.capabilities) == (user, capabilities)


def test_whoever_calls_has_their_groups() -> None:
    assert identity("", frozenset()) == Identity(US, tuple(os.getgroups()))


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({"Entrypoint": ["/kontext-extractor"]}, True),
        ({"Entrypoint": ["/kontext-extractor", "--mirror"]}, False),
        ({"Entrypoint": ["/bin/sh"]}, False),
        ({}, False),
        (None, False),
    ],
)
def test_only_the_extractor_is_run(settings: dict[str, Any] | None, runs: bool) -> None:
    digest = Digest("sha256:" + "a" * 64)
    found = KontextImage(Image(digest, (), None), Manifest(Tree(files={}), None), settings)
    if runs:
        check_entrypoint(parse_reference("r/r"), found)
    else:
        with pytest.raises(KontextError, match="does not run Kontext's extractor"):
            check_entrypoint(parse_reference("r/r"), found)
