"""`docker kontext purge`: the image keeps its files, and its layers hold nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.images import content_of_layers, exported, own_base, sources
from support.services import Docker, Registry
from support.tokens import LIVE
from support.trees import PROGRAM, File

from kontext_plugin.cache import Cache

Crane = Callable[..., bytes]

TOKEN = LIVE["GitHub token"]
TREE = PROGRAM


def leak(source: Path) -> None:
    (source / "settings.py").write_text(f"TOKEN = '{TOKEN}'\n")


def test_purge_removes_old_files_and_names_what_remains(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    leak(source)
    assert docker.push(tag, source, "--secrets", "off", "--label", "a=b").image
    crane("tag", tag, "other")
    (source / "settings.py").unlink()
    old = docker.push(tag, source, "--label", "a=b").image
    assert TOKEN.encode() in content_of_layers(crane, tag)
    lost = sources(crane, tag)

    purged = docker("kontext", "purge", tag)
    assert purged.image.endswith(crane("digest", tag).decode().strip())
    assert TOKEN.encode() not in content_of_layers(crane, tag)
    assert exported(crane, tag) == TREE
    assert "Nothing changed" in docker.push(tag, source, "--label", "a=b").stderr

    for digest in lost:
        assert digest in purged.stderr
    assert f"crane delete {old}" in purged.stderr
    assert f"{tag.rpartition(':')[0]}:other\n" in purged.stderr


def test_all_that_purge_names_can_be_deleted(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    """No push makes the purged image, so nothing that this machine knows stands for it."""
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source).image
    leak(source)
    assert docker.push(tag, source, "--secrets", "off").image
    (source / "settings.py").unlink()
    old = docker.push(tag, source).image
    purged = docker("kontext", "purge", tag)
    assert purged.image != first
    assert "Nothing changed" in docker.push(tag, source).stderr
    deleted = re.findall("crane delete (.*)", purged.stderr)
    assert old in deleted
    for image in deleted:
        crane("delete", image)
    assert exported(crane, tag) == TREE


def test_purge_of_a_single_layer(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    assert docker.push(tag, source, "--single-layer").image
    image = docker("kontext", "purge", tag)
    assert image.image.endswith(crane("digest", tag).decode().strip())
    assert "held no removed files" in image.stderr
    assert exported(crane, tag) == TREE


def test_purge_finds_the_users_base_and_warns_if_it_gets_another_one(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """The image names its base by digest: that its tag moves changes nothing by itself."""
    base, tag = own_base(crane, registry, tmp_path), registry.repository() + ":v1"
    assert docker.push(tag, source, "--base", base).image
    before = crane("digest", base).decode().strip()
    crane("mutate", base, "--user", "0", "-t", base)
    purged = docker("kontext", "purge", tag)
    assert purged.image and "WARNING" not in purged.stderr
    annotations = json.loads(crane("manifest", tag))["annotations"]
    assert annotations["org.opencontainers.image.base.digest"] == before
    assert annotations["org.opencontainers.image.base.name"] == base
    purged = docker("kontext", "purge", "-q", tag, "--base", base)
    assert purged.image
    assert f"WARNING: {tag} was built on {before}. It will be on what {base} is now" in (
        purged.stderr
    )
    assert "Nothing changed" in docker.push(tag, source, "--base", base).stderr


def test_purge_stops_at_a_secret_that_is_still_there(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    leak(source)
    old = docker.push(tag, source, "--secrets", "off").image
    purged = docker("kontext", "purge", tag)
    assert (purged.code, purged.stdout) == (1, "")
    assert "'settings.py', line 1: GitHub token" in purged.stderr
    assert old.endswith(crane("digest", tag).decode().strip())


@pytest.fixture
def history(docker: Docker, registry: Registry, crane: Crane, source: Path) -> tuple[str, str, str]:
    """A tag, the image that it shows, with a delta, and the one that it showed before."""
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source).image
    (source / "README").write_text("another")
    return tag, docker.push(tag, source).image, first


def test_a_purge_leaves_a_tag_that_has_moved(
    docker: Docker, history: tuple[str, str, str], crane: Crane, tmp_path: Path, crane_path: str
) -> None:
    """A crane that lets another push in when the files are read."""
    tag, _, other = history
    docker.environment["KONTEXT_CRANE"] = wrapper(
        tmp_path,
        f'[ "$1" != blob ] || "{crane_path}" tag {other} v1 >&2\nexec "{crane_path}" "$@"\n',
    )
    purged = docker("kontext", "purge", tag)
    assert (purged.code, purged.stdout) == (1, "")
    assert f"another push replaced {tag} in the meantime; nothing was changed" in purged.stderr
    assert other.endswith(crane("digest", tag).decode().strip())


@pytest.mark.parametrize("verb", ["blob", "push"])
def test_a_killed_purge_leaves_the_image(
    docker: Docker,
    history: tuple[str, str, str],
    crane: Crane,
    tmp_path: Path,
    crane_path: str,
    verb: str,
) -> None:
    """The tag shows its image, and the next purge clears up and succeeds.

    The first blob that is read has the manifest.
    """
    tag, old, _ = history
    cache = tmp_path / "cache"
    docker.environment["KONTEXT_CACHE_DIR"] = str(cache)
    docker.environment["KONTEXT_CRANE"] = wrapper(
        tmp_path,
        f'[ "$1" != {verb} ] || [ {verb} = blob -a ! -e "$0.read" ] || exec kill -9 $PPID\n'
        f'[ "$1" != blob ] || touch "$0.read"\nexec "{crane_path}" "$@"\n',
    )
    assert docker("kontext", "purge", tag).code != 0
    assert old.endswith(crane("digest", tag).decode().strip())
    del docker.environment["KONTEXT_CRANE"]
    assert docker("kontext", "purge", tag).image.endswith(crane("digest", tag).decode().strip())
    assert exported(crane, tag) == TREE | {"README": File(b"another")}
    kinds = {"stats", "published", "pushed", "layers"}
    assert {path.name for path in cache.iterdir()} <= kinds


def wrapper(folder: Path, body: str) -> str:
    """The path of a crane that does more."""
    path = folder / "another-crane"
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
    return str(path)


def test_purge_of_a_missing_image_is_an_error(docker: Docker, registry: Registry) -> None:
    purged = docker("kontext", "purge", registry.repository() + ":none")
    assert purged.code == 1
    assert "was not found" in purged.stderr


def test_a_purge_by_another_machine_is_not_undone_under_the_tag(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """This machine pushed the same files before the secret: that image is not the purged one."""
    tag = registry.repository() + ":v1"
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    docker.environment["KONTEXT_CACHE_DIR"] = ours
    assert docker.push(tag, source).image
    large = bytes(range(256)) * 200
    (source / "large").write_bytes(large)
    leak(source)
    assert docker.push(tag, source, "--secrets", "off").image

    docker.environment["KONTEXT_CACHE_DIR"] = theirs
    (source / "settings.py").unlink()
    (source / "large").unlink()
    assert docker.push(tag, source).image
    assert docker("kontext", "purge", tag).image

    docker.environment["KONTEXT_CACHE_DIR"] = ours
    cache = Cache(ours)  # a registry may answer late for a minute, and this is later
    cache.save_pushed([replace(one, time=one.time - 3600) for one in cache.pushed()])
    (source / "large").write_bytes(large)
    assert docker.push(tag, source).image
    assert TOKEN.encode() not in content_of_layers(crane, tag)
