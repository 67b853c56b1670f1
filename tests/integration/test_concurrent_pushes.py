"""Several pushes at once, to one tag, of one directory, or with one cache."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.images import exported
from support.machine import Machine, change, new_machine
from support.services import Docker, Registry, Result
from support.trees import File, Tree, plant

Crane = Callable[..., bytes]

TREE: Tree = {"a": File(b"a"), "b": File(b"b")}


def test_of_several_pushes_at_once_the_last_one_wins(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """From several machines: each image is whole by itself, and the tag shows one of them."""
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    trees: list[Tree] = []
    machines: list[Docker] = []
    for number in range(4):
        own = tmp_path / f"source {number}"
        own.mkdir()
        trees.append(TREE | {"own": File(b"%d" % number), f"only {number}": File(os.urandom(5000))})
        plant(own, trees[-1])
        cache = {"KONTEXT_CACHE_DIR": str(tmp_path / f"cache {number}")}
        machines.append(Docker(docker.config, cache))

    def push(number: int) -> Result:
        return machines[number].push(tag, tmp_path / f"source {number}")

    with ThreadPoolExecutor(4) as threads:
        pushes = list(threads.map(push, range(4)))
    for pushed, tree in zip(pushes, trees, strict=True):
        assert exported(crane, pushed.image) == tree
    shown = crane("digest", tag).decode().strip()
    winners = [number for number, pushed in enumerate(pushes) if pushed.image.endswith(shown)]
    assert len(winners) == 1
    assert exported(crane, tag) == trees[winners[0]]
    # Each machine goes on from what it finds.
    for number in range(4):
        push(number)
        assert exported(crane, tag) == trees[number]


def at_once(*pushing: Machine) -> list[int]:
    """The exit codes. The registry may refuse one of two that write the same: then it is told."""
    codes = []
    for one, process in [(one, one.start()) for one in pushing]:
        output, messages = process.communicate(timeout=120)
        pushed = Result(process.returncode, output.decode(), messages.decode())
        if pushed.code:
            one.assert_failed(pushed, "ERROR: ")
        else:
            assert pushed.image
        codes.append(pushed.code)
    for one in pushing:
        one.assert_clean()
    return codes


@pytest.mark.parametrize("same_tag", [True, False], ids=["one tag", "two tags"])
def test_two_pushes_with_one_cache_publish_whole_images(
    same_tag: bool, registry: Registry, crane_path: str, tmp_path: Path
) -> None:
    chance = random.Random(3)
    two = [new_machine(tmp_path / name, registry, crane_path) for name in ("one", "two")]
    two[1].environment["KONTEXT_CACHE_DIR"] = str(two[0].cache)
    if same_tag:
        two[1].repository = two[0].repository
    for _ in range(4):
        for one in two:
            change(one, chance)
        codes = at_once(*two)
        assert 0 in codes if same_tag else codes == [0, 0]
        trees = [one.tree() for one in two]
        for one in two:
            assert one.published() in (trees if same_tag else [one.tree()])
    for one in two:
        assert one.push().image
        assert one.published() == one.tree()


def test_two_pushes_of_one_directory_publish_whole_images(
    registry: Registry, crane_path: str, tmp_path: Path
) -> None:
    pushing = new_machine(tmp_path / "machine", registry, crane_path)
    chance = random.Random(4)
    for _ in range(3):
        change(pushing, chance)
        assert 0 in at_once(pushing, pushing)
        assert pushing.published() == pushing.tree()
