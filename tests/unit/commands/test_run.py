"""Where `docker kontext run` lets an image write, and as which user."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.models import EXTRACTOR, NOTHING, SHIPPED, SPEC, described, plan_on, published
from support.trees import Directory, Tree

from kontext_plugin.cli.flags import Globals
from kontext_plugin.commands import run
from kontext_plugin.commands.run import (
    Identity,
    check_entrypoint,
    check_mirror_target,
    choose_identity,
    make_workspace,
    workspace_of,
)
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import Digest, ImageConfig, Layer
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.registry import base_image
from kontext_plugin.registry.fetch import KontextImage

# The command line


@pytest.mark.parametrize("flag", ["--mirror", "-m"])
def test_a_flag_of_the_extractor_goes_after_two_dashes(flag: str) -> None:
    with pytest.raises(UsageError) as raised:
        run.main(["r/r", flag], Globals())
    assert raised.value.hint == "Put arguments of the extractor after '--'."


def test_an_unknown_flag_before_two_dashes_keeps_its_own_hint() -> None:
    with pytest.raises(UsageError, match="unknown flag: --quite") as raised:
        run.main(["--quite", "r/r", "--", "--mirror"], Globals())
    assert raised.value.hint == "Did you mean --quiet?"


@pytest.mark.parametrize("user", ["root", "1:", ":1", "-1", "1:2:3", "12345678901", "1\n"])
def test_a_user_is_a_number(user: str) -> None:
    with pytest.raises(UsageError, match="it must be UID or UID:GID"):
        run.main([f"--user={user}", "r/r"], Globals())


# The workspace


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of the current directory, with some things that may be named as the workspace."""
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("here")
    (tmp_path / "to new").symlink_to("new")
    (tmp_path / "to the root").symlink_to("/")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "real"),
    {
        ".": "here",
        "../here/": "here",
        "../link": "here",
        "../new": "new",
        "../to new": "new",
    }.items(),
)
def test_a_workspace(parent: Path, given: str, real: str) -> None:
    assert workspace_of(given) == os.path.realpath(parent / real)


@pytest.mark.parametrize(
    ("given", "message"),
    {
        "/": "is '/'",
        "//": "is '/'",
        "/tmp/..": "is '/'",
        "../to the root": "is '/'",
        "../file": "is not a directory",
        "../no/where": "its parent directory does not exist",
        "../file/below": "its parent directory does not exist",
    }.items(),
)
def test_no_workspace(parent: Path, given: str, message: str) -> None:
    with pytest.raises(KontextError, match=message):
        workspace_of(given)


def test_a_new_workspace_has_mode_0755_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make_workspace(str(tmp_path / "new"))
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


def test_a_workspace_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    make_workspace(str(tmp_path))
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_workspace_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KontextError, match=r"cannot make the workspace .*: Not a directory"):
        make_workspace(str(tmp_path / "file/new"))


# --mirror

EMPTY: Tree = {}


def image_with(tree: Tree = EMPTY, extractor: StagedLayer = EXTRACTOR) -> KontextImage:
    spec = replace(SPEC, bases=(replace(SHIPPED, extractor=extractor),))
    return published(plan_on(NOTHING, spec, described(tree)))


OTHER = StagedLayer("/other", Layer(Digest("sha256:" + "a" * 64), 5), EXTRACTOR.diff_id)
OLD = image_with(extractor=OTHER)
PLATFORM = "linux/amd64"


@pytest.fixture
def own_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation whose extractor is EXTRACTOR."""
    monkeypatch.setattr(base_image, "shipped_base", lambda platform: SHIPPED)


@pytest.mark.usefixtures("own_extractor")
@pytest.mark.parametrize("option", ["--mirror", "-mirror", "--mirror=true", "-mirror=1"])
@pytest.mark.parametrize(
    ("workspace", "message"),
    {
        ".": "the home directory",
        "..": "the home directory",
        "app": "another version, which may remove '.*/app/.git'",
    }.items(),
)
def test_a_mirror_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: str, message: str, option: str
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / ".git").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = workspace_of(str(tmp_path / workspace))
    with pytest.raises(KontextError, match=message):
        check_mirror_target(["--quiet", option], directory, OLD, PLATFORM)


@pytest.mark.usefixtures("own_extractor")
def test_a_mirror_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app" / ".git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    app = str(tmp_path / "app")
    check_mirror_target(["--mirror"], str(tmp_path / "new"), OLD, PLATFORM)
    check_mirror_target(["--verify"], app, OLD, PLATFORM)
    check_mirror_target(["--verify"], str(tmp_path), OLD, PLATFORM)
    with_git = image_with({".git": Directory()}, OTHER)
    check_mirror_target(["--mirror"], app, with_git, PLATFORM)
    # The extractor of this version keeps .git.
    check_mirror_target(["--mirror"], app, image_with(), PLATFORM)


NO_EXTRACTOR = replace(OLD, image=replace(OLD.image, extractor=None))
UNKNOWN: dict[str, tuple[KontextImage, str]] = {
    "of another version": (OLD, PLATFORM),
    "below the sources": (NO_EXTRACTOR, PLATFORM),
    "of an unknown platform": (image_with(), "linux/s390x"),
}


@pytest.mark.usefixtures("own_extractor")
@pytest.mark.parametrize(("image", "platform"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_extractor_may_not_mirror_over_git(
    tmp_path: Path, image: KontextImage, platform: str
) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(KontextError, match="refusing --mirror"):
        check_mirror_target(["--mirror"], str(tmp_path), image, platform)


# The user

ROOT = ("DAC_OVERRIDE", "FOWNER")
CALLER = f"{os.geteuid()}:{os.getegid()}"
IDENTITIES: dict[str, tuple[str, frozenset[str], str, tuple[str, ...]]] = {
    "chosen": ("4321:1", frozenset(), "4321:1", ()),
    "chosen, without a group": ("4321", frozenset({"rootless"}), "4321", ()),
    "root, chosen": ("0", frozenset(), "0", ROOT),
    "the caller": ("", frozenset({"seccomp"}), CALLER, ROOT if os.geteuid() == 0 else ()),
    "rootless": ("", frozenset({"rootless"}), "0:0", ROOT),
}


@pytest.mark.parametrize(
    ("chosen", "security_options", "user", "capabilities"), IDENTITIES.values(), ids=IDENTITIES
)
def test_identities(
    chosen: str, security_options: frozenset[str], user: str, capabilities: tuple[str, ...]
) -> None:
    identity = choose_identity(chosen, security_options)
    assert (identity.user, identity.capabilities) == (user, capabilities)


def test_the_caller_has_all_of_their_groups() -> None:
    assert choose_identity("", frozenset()) == Identity(CALLER, tuple(os.getgroups()))


# The entrypoint


@pytest.mark.parametrize(
    ("entrypoint", "runs"),
    [
        (("/kontext-extractor",), True),
        (("/kontext-extractor", "--mirror"), False),
        (("/bin/sh",), False),
        ((), False),
    ],
)
def test_only_the_extractor_is_run(entrypoint: tuple[str, ...], runs: bool) -> None:
    config = ImageConfig("linux/amd64", entrypoint)
    if runs:
        check_entrypoint(parse_reference("r/r"), config)
    else:
        with pytest.raises(KontextError, match="entrypoint of r/r:latest is not Kontext's"):
            check_entrypoint(parse_reference("r/r"), config)
