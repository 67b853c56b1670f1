"""Random histories on the paths of large directories: the thresholds are so low that all take them.

The pushes run in this process, against a real registry.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import exported
from support.random_edits import edit_at_random, random_seed
from support.services import Docker, Registry
from support.trees import Directory, File, Tree, on_disk

from kontext_plugin.cache import open_cache
from kontext_plugin.commands.push import push
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.push import partition, prepare
from kontext_plugin.push.options import PushOptions
from kontext_plugin.source import entries, hashing, scan
from kontext_plugin.terminal.messages import Report

Crane = Callable[..., bytes]

TREE: Tree = {"many": Directory()} | {
    f"many/{number:03}": File(b"%d\n" % number * 40) for number in range(200)
}

GENERATIONS = 10


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several layers, parts of the listing, processes that scan, hash and write; read once."""
    monkeypatch.setattr(partition, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(partition, "SMALL", 8)
    monkeypatch.setattr(prepare, "READ_ONCE", 0)
    monkeypatch.setattr(prepare, "MANY", 1)
    monkeypatch.setattr(scan, "MANY", 1)
    monkeypatch.setattr(entries, "AT_ONCE", 2)
    monkeypatch.setattr(hashing, "_MANY_FILES", 1)


@pytest.fixture
def in_this_process(docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker.config))
    monkeypatch.setenv("KONTEXT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("history", range(3))
@pytest.mark.usefixtures("low", "in_this_process")
def test_each_generation_is_the_directory(
    registry: Registry,
    crane: Crane,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    history: int,
) -> None:
    chance = random.Random(random_seed(request.node.name))
    repository = registry.repository()
    for generation in range(GENERATIONS):
        if chance.random() < 0.3:  # the first push of a repository reads each file once
            repository = registry.repository()
        if chance.random() < 0.3:
            monkeypatch.setenv("KONTEXT_CACHE_DIR", str(tmp_path / f"machine {generation}"))
        tag = f"{repository}:{chance.choice('ab')}"
        options = PushOptions(
            (parse_reference(tag),),
            directory=str(source),
            fresh=chance.random() < 0.15,
            compression=chance.choice(("", "", "zstd", "gzip")),
            check_parent=chance.random() < 0.2,
        )
        pushed = push(options, Report(), open_cache())
        assert pushed is not None
        assert exported(crane, tag) == on_disk(source), f"generation {generation}"
        image = str(pushed)
        again = push(options, Report(), open_cache())
        assert again is not None
        if not options.fresh:
            assert (str(again), again.written) == (image, ())
        edit_at_random(source, chance)


@pytest.mark.usefixtures("in_this_process")
def test_the_image_is_the_same_whether_files_are_read_once_or_twice(
    registry: Registry, crane: Crane, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(partition, "CHUNK_BYTES", 20_000)
    images = []
    for read_once in (0, 10**9):
        monkeypatch.setattr(prepare, "READ_ONCE", read_once)
        monkeypatch.setenv("KONTEXT_CACHE_DIR", str(tmp_path / f"cache {read_once}"))
        tag = f"{registry.repository()}:a"
        push(PushOptions((parse_reference(tag),), directory=str(source)), Report(), open_cache())
        images.append(json.loads(crane("manifest", tag)))
    assert images[0] == images[1]
    assert len(images[0]["layers"]) > 3
