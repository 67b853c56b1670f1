"""Layers in zstd: who can read them sees the directory, and who cannot is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.consumers import Buildah, Consumer, Containerd, Crane, Podman, container_settings
from support.services import Docker, Registry, Result
from support.trees import Directory, File, Link, Tree, on_disk, plant

from kontext_plugin.image.oci import GZIP_LAYER, ZSTD_LAYER

TREE: Tree = {
    "file": File(b"".join(b"%d\n" % number for number in range(500_000))),
    "d": Directory(),
    "d/run": File(b"#!/bin/sh\n", executable=True),
    "d/link": Link("../file"),
}


@pytest.fixture
def tag(registry: Registry) -> str:
    return f"{registry.repository()}:v1"


@pytest.fixture
def media_types(crane: Callable[..., bytes]) -> Callable[[str], list[str]]:
    """The media types of an image's layers, the lowest first."""

    def read(name: str) -> list[str]:
        return [layer["mediaType"] for layer in json.loads(crane("manifest", name))["layers"]]

    return read


def test_a_push_keeps_the_compression_of_the_image_that_it_builds_on(
    docker: Docker, tag: str, source: Path, media_types: Callable[[str], list[str]]
) -> None:
    docker.push(tag, source, "--compression", "zstd")
    assert media_types(tag) == [ZSTD_LAYER, GZIP_LAYER], "the extractor stays as it is"
    plant(source, {"new": File(b"new")})
    docker.push(tag, source)
    assert media_types(tag) == [ZSTD_LAYER, ZSTD_LAYER, GZIP_LAYER]
    verified = docker("kontext", "verify", tag, str(source))
    assert verified.code == 0, verified

    plant(source, {"new": File(b"newer")})
    pushed = docker.push(tag, source, "--compression", "gzip")
    assert "Starting fresh: its layers are not compressed with gzip" in pushed.stderr
    assert set(media_types(tag)) == {GZIP_LAYER}
    plant(source, {"new": File(b"newest")})
    docker.push(tag, source, "--compression", "zstd")
    assert media_types(tag) == [GZIP_LAYER, ZSTD_LAYER, GZIP_LAYER]


def test_a_purge_keeps_the_compression(
    docker: Docker, tag: str, source: Path, media_types: Callable[[str], list[str]]
) -> None:
    docker.push(tag, source, "--compression", "zstd")
    (source / "d" / "run").unlink()
    docker.push(tag, source)
    purged = docker("kontext", "purge", tag)
    assert purged.code == 0, purged
    assert media_types(tag) == [ZSTD_LAYER, GZIP_LAYER]


@pytest.fixture
def consumers(
    tmp_path: Path, docker: Docker, registry: Registry, crane_path: str
) -> Iterator[dict[str, Consumer]]:
    """Those that read zstd."""
    (tmp_path / "containerd").mkdir()
    settings = container_settings(tmp_path / "containers", docker.config)
    with Containerd(tmp_path / "containerd", registry.host) as containerd:
        yield {
            "crane export": Crane(crane_path, docker.config),
            "buildah": Buildah(settings),
            "podman": Podman(settings),
            "containerd": containerd,
        }


def test_consumers_that_read_zstd_see_the_directory(
    docker: Docker, tag: str, source: Path, consumers: dict[str, Consumer]
) -> None:
    docker.push(tag, source, "--compression", "zstd")
    (source / "d" / "link").unlink()
    plant(source, {"new": File(b"new")})
    image = docker.push(tag, source).image
    for name, consumer in consumers.items():
        assert consumer(image) == on_disk(source), name


@pytest.mark.parametrize("command", ["run", "load"])
def test_a_docker_that_cannot_unpack_zstd_is_named_with_its_version(
    daemon: str, docker: Docker, tag: str, source: Path, tmp_path: Path, command: str
) -> None:
    docker.push(tag, source, "--compression", "zstd")
    ran: Result = docker("kontext", command, tag)
    if int(daemon.partition(".")[0]) >= 23:
        assert ran.code == 0, ran
        return
    assert ran.code == 1
    assert f"Docker {daemon} cannot unpack zstd layers" in ran.stderr
    assert "docker kontext pull" in ran.stderr
