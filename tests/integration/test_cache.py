"""The cache: `cache ls` and `cache prune`, and caches that are damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.machine import Machine, new_machine
from support.services import Docker, Registry, Result
from support.trees import File, plant

TREE = {"file": File(b"content\n")}


def rewritten(path: Path, new: Callable[[bytes], bytes]) -> None:
    """With a checksum that is right."""
    content = new(path.read_bytes()[64:])
    path.write_bytes(hashlib.sha256(content).hexdigest().encode() + content)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


BAD: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "emptied": lambda path: path.write_bytes(b""),
    "another byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x00"),
    "of a newer version": lambda path: rewritten(path, lambda old: old.replace(b" 1", b" 2", 1)),
    "of nonsense": lambda path: rewritten(path, lambda old: b"\xff\x00{}\n" * 5),
    "a directory": replaced(lambda path: (path / "x").mkdir(parents=True)),
    "a FIFO": replaced(os.mkfifo),
    "a link to an endless device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "without rights": lambda path: path.chmod(0),
}


def settle(*pushing: Machine) -> None:
    """What was changed in the last two seconds is not remembered."""
    for one in pushing:
        own = File(bytes(str(one.folder), "utf-8") * 100)
        plant(one.source, {"file": File(b"0"), "other": own})
    time.sleep(2.1)


@pytest.fixture(scope="module")
def settled(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, crane_path: str
) -> Machine:
    pushing = new_machine(tmp_path_factory.mktemp("settled") / "machine", registry, crane_path)
    settle(pushing)
    return pushing


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_a_damaged_cache_costs_only_time(spoil: Callable[[Path], object], settled: Machine) -> None:
    settled.forget()
    assert settled.push().image
    remembered = [path for path in settled.cache.rglob("*") if path.is_file()]
    kinds = {path.parent.name for path in remembered}
    assert kinds - {"layers"} == {"stats", "published", "pushed"}
    for path in remembered:
        spoil(path)
    changed = {"file": File(settled.cache.name.encode())}
    plant(settled.source, changed)
    pushed = settled.push(debug=True)
    assert pushed.image
    assert "Traceback" not in pushed.stderr
    assert "Building on" in pushed.stderr, "the registry has all that is needed"
    assert settled.published() == settled.tree()
    settled.assert_clean()


def test_the_cache_of_another_directory_changes_nothing(
    registry: Registry, crane_path: str, tmp_path: Path
) -> None:
    """Every file is in another's place, each of them whole."""
    two = [new_machine(tmp_path / name, registry, crane_path) for name in ("one", "two")]
    settle(*two)
    for one in two:
        assert one.push().image
    for folder in ("stats", "published"):
        (mine,), (theirs,) = ([*(one.cache / folder).iterdir()] for one in two)
        shutil.copyfile(theirs, mine)
    assert two[0].push().image
    assert two[0].published() == two[0].tree()


def test_cache_ls_lists_every_file_and_prune_removes_them(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag = f"{registry.repository()}:v1"
    image = docker.push(tag, source).image
    root = Path(os.environ["KONTEXT_CACHE_DIR"])
    listed = docker("kontext", "cache", "ls")
    assert listed.code == 0
    header, *rows = listed.stdout.splitlines()
    assert header.split() == ["KIND", "SIZE", "SAVED", "OF"]
    assert {(row.split()[0], row.split()[-1]) for row in rows} >= {
        ("image", f"{tag}@{image.partition('@')[2]}")
    }
    shown = json.loads(docker("kontext", "cache", "ls", "--format", "json").stdout)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert shown["folder"] == str(root)
    assert sum(entry["bytes"] for entry in shown["entries"]) == sum(
        file.stat().st_size for file in files
    )

    pruned = docker("kontext", "cache", "prune")
    assert (pruned.code, pruned.stdout) == (0, "")
    assert pruned.stderr.startswith("Freed ")
    assert not [path for path in root.rglob("*") if path.is_file()]
    assert docker("kontext", "cache", "ls").stdout == ""
    assert "Nothing changed" in docker.push(tag, source).stderr


WRONG = {
    "nothing": ([], "requires 1 argument"),
    "another": (["clear"], "expects ls or prune"),
    "format of prune": (["prune", "--format", "json"], "unknown flag: --format"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_cache_commands_are_usage_errors(
    docker: Docker, arguments: list[str], message: str
) -> None:
    said: Result = docker("kontext", "cache", *arguments)
    assert said.code == 125
    assert message in said.stderr
