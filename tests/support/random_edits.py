"""Random edits of a small directory. They use few names, so that a path changes its kind often."""

from __future__ import annotations

import os
import random
from pathlib import Path

from support.trees import Directory, File, Link, Node, on_disk, plant, remove

NAMES = ("a", "b", "c", "d.txt")
SIZES = (0, 1, 100, 4000, 60_000)  # bytes
TARGETS = ("a", "../b", "c/d.txt", "/etc/hostname", "gone", ".")


def edit_at_random(root: Path, chance: random.Random) -> None:
    """Make one to four edits, each of a kind that is possible."""
    for _ in range(chance.randint(1, 4)):
        chance.choice((_write, _write, _change, _change, _remove, _replace, _switch_mode))(
            root, chance
        )


def _write(root: Path, chance: random.Random) -> None:
    """Add a file, a link or a directory, or replace what stands there."""
    put(root, "/".join(chance.choices(NAMES, k=chance.randint(1, 3))), _node(chance))


def _change(root: Path, chance: random.Random) -> None:
    """Change the content of a file. Its size often stays as it is."""
    if path := _pick(root, chance, File):
        file = root / path
        size = chance.choice((file.stat().st_size, chance.choice(SIZES)))
        file.write_bytes(chance.randbytes(size))


def _remove(root: Path, chance: random.Random) -> None:
    if path := _pick(root, chance, File, Link, Directory):
        remove(root / path)


def _replace(root: Path, chance: random.Random) -> None:
    """Make a directory a file or a link, or the other way round."""
    path = _pick(root, chance, File, Link, Directory)
    if not path:
        return
    if (root / path).is_symlink() or not (root / path).is_dir():
        put(root, path, Directory())
        put(root, f"{path}/{chance.choice(NAMES)}", _file(chance))
    else:
        put(root, path, chance.choice((_file, _link))(chance))


def _switch_mode(root: Path, chance: random.Random) -> None:
    if path := _pick(root, chance, File):
        (root / path).chmod((root / path).stat().st_mode ^ 0o111)


def put(root: Path, path: str, node: Node) -> None:
    """Write one node. What is in the way is removed, also where a parent should be."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        parent = root.joinpath(*parts[:depth])
        if parent.is_symlink() or parent.is_file():
            remove(parent)
    plant(root, {path: node})


def _pick(root: Path, chance: random.Random, *kinds: type[Node]) -> str | None:
    paths = sorted(path for path, node in on_disk(root).items() if isinstance(node, kinds))
    return chance.choice(paths) if paths else None


def _node(chance: random.Random) -> Node:
    return chance.choice((_file, _file, _file, _link, lambda _: Directory()))(chance)


def _file(chance: random.Random) -> File:
    return File(chance.randbytes(chance.choice(SIZES)), executable=chance.random() < 0.3)


def _link(chance: random.Random) -> Link:
    return Link(chance.choice(TARGETS))


def random_seed(name: str) -> int:
    """Return the seed of a test: KONTEXT_TEST_SEED, in CI one of its name, else a new one.

    It is printed, and pytest shows that if the test fails.
    """
    if given := os.environ.get("KONTEXT_TEST_SEED"):
        seed = int(given)
    elif os.environ.get("CI") == "true":
        seed = random.Random(name).randrange(10**6)
    else:
        seed = random.SystemRandom().randrange(10**6)
    print(f"random edits: KONTEXT_TEST_SEED={seed} makes the same ones again")
    return seed
