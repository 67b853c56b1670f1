"""Consumers agree: whoever takes the image sees the directory that was pushed, whatever its past.

KONTEXT_TEST_EXAMPLES is the number of random histories (5). More of them are a hunt: each takes
some ten seconds, and without CI=true they are other ones each time.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Docker, Registry, missing
from consumers import Buildah, Consumer, Containerd, Crane, Export, Run, Umoci
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from models import PLAIN_NAMES, STRANGE, STRANGE_NAMES, trees
from trees import Directory, File, Link, Node, Tree, on_disk, plant, remove

EXAMPLES = int(os.environ.get("KONTEXT_TEST_EXAMPLES", "5"))
STEPS = 7

PROGRAMS = {"buildah": "buildah", "umoci": "umoci", "containerd": "containerd", "ctr": "containerd"}


@pytest.fixture(scope="module")
def consumers(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, daemon: str, crane_path: str
) -> Iterator[dict[str, Consumer]]:
    """All that need no workspace of their own, each started once."""
    if lacking := {package for name, package in PROGRAMS.items() if not shutil.which(name)}:
        missing(f"{', '.join(sorted(lacking))} (Debian's packages)")
    if os.geteuid():
        missing("root, to mount images")
    docker = Docker(tmp_path_factory.mktemp("docker-config"))
    docker.log_in(registry.host)
    crane = Crane(crane_path, docker.config)
    with Containerd(tmp_path_factory.mktemp("containerd"), registry.host) as containerd:
        yield {
            "crane export": crane,
            "docker run": Run(docker, ["--verify"]),
            "docker export": Export(docker),
            "buildah": Buildah(tmp_path_factory.mktemp("buildah"), docker.config),
            "umoci": Umoci(crane, tmp_path_factory.mktemp("umoci") / "layout"),
            "containerd": containerd,
        }


@dataclass
class Stage:
    """One directory, its tag, and a workspace that lives as long."""

    docker: Docker
    consumers: dict[str, Consumer]
    tag: str
    folder: Path

    def __post_init__(self) -> None:
        self.source, self.workspace = self.folder / "source", self.folder / "workspace"
        for directory in (self.source, self.workspace):
            directory.mkdir(parents=True)

    def push(self, machine: str = "one") -> None:
        """Pushes, and holds all consumers to what lies in the directory."""
        self.docker.environment["KONTEXT_CACHE_DIR"] = str(self.folder / machine)
        image = self.docker.push(self.tag, self.source).image
        used = Run(self.docker, ["--mirror", "--verify"], self.workspace)
        consumers = {**self.consumers, "docker run --mirror": used}
        with ThreadPoolExecutor() as threads:
            shown = {name: threads.submit(show, image) for name, show in consumers.items()}
        want = on_disk(self.source)
        wrong = {name: differing(want, tree.result()) for name, tree in shown.items()}
        assert not any(wrong.values()), {name: paths for name, paths in wrong.items() if paths}


def differing(want: Tree, shown: Tree) -> dict[str, tuple[Node | None, Node | None]]:
    """What was wanted and what was shown, where it is not the same."""
    return {
        path: (want.get(path), shown.get(path))
        for path in sorted(want.keys() | shown.keys())
        if want.get(path) != shown.get(path)
    }


# Histories by chance

BALLAST = "ballast"
"""So large that all else is a small share of the bytes: a push has few reasons to start afresh."""

START: Tree = {
    "a": Directory(),
    "a/a": File(b"x"),
    "a/b": Directory(),
    "a/b/a": File(b"y", executable=True),
    "a/b/c": Link("../a"),
    "a/c": Directory(),
    "b": Directory(),
    "b/a": Directory(),
    "b/a/b": Directory(),
    "b/a/b/c": File(b""),
    "b/b": Link("a"),
    "c": Link("/var/run/kontext/b"),
}
"""Of PLAIN_NAMES, so that the first edits meet something."""


class Plant(NamedTuple):
    """Puts a small tree into a directory; what it meets there is replaced."""

    folder: int
    tree: Tree

    def on(self, root: Path) -> None:
        plant(root / chosen(self.folder, folders(root)), self.tree)


class Replace(NamedTuple):
    """Makes something else of what is there, perhaps with something below it."""

    what: int
    node: Node | Tree

    def on(self, root: Path) -> None:
        if paths := entries(root):
            path = chosen(self.what, paths)
            remove(root / path)
            if isinstance(self.node, dict):
                (root / path).mkdir()
                plant(root / path, self.node)
            else:
                plant(root, {path: self.node})


class Remove(NamedTuple):
    what: int

    def on(self, root: Path) -> None:
        if paths := entries(root):
            remove(root / chosen(self.what, paths))


class Rename(NamedTuple):
    """Moves a file or a whole directory, and keeps its times and inode."""

    what: int
    folder: int
    name: str

    def on(self, root: Path) -> None:
        if not (paths := entries(root)):
            return
        old = chosen(self.what, paths)
        new = os.path.join(chosen(self.folder, folders(root)), self.name)
        if f"{new}/".startswith(f"{old}/") or f"{old}/".startswith(f"{new}/"):
            return  # a directory cannot go below itself, nor replace the one that it lies in
        if os.path.lexists(root / new):
            remove(root / new)
        (root / old).rename(root / new)


class Flip(NamedTuple):
    """Makes a file executable, or no longer."""

    what: int

    def on(self, root: Path) -> None:
        files = [path for path in entries(root) if not (root / path).is_symlink()]
        files = [path for path in files if (root / path).is_file()]
        if files:
            file = root / chosen(self.what, files)
            file.chmod(file.stat().st_mode ^ 0o111)


class Refill(NamedTuple):
    """Changes most of the bytes; few enough that an earlier state comes back."""

    seed: int

    def on(self, root: Path) -> None:
        plant(root, {BALLAST: File(random.Random(self.seed).randbytes(200_000))})


def chosen(number: int, among: list[str]) -> str:
    return among[number % len(among)]


def entries(root: Path) -> list[str]:
    return sorted(on_disk(root).keys() - {BALLAST})


def folders(root: Path) -> list[str]:
    found = on_disk(root)
    return ["", *sorted(path for path, node in found.items() if isinstance(node, Directory))]


TARGETS = [
    "a", "b/a", "../a", ".", "..", "/", "gone", "/etc", "../../../etc", "/var/run/kontext/a",
    "//", "a/", "./a//b/.", "x" * 1000, *STRANGE,
]  # fmt: skip
NAMES = st.one_of(PLAIN_NAMES, PLAIN_NAMES, STRANGE_NAMES).filter(lambda name: name != BALLAST)
NODES = st.one_of(
    st.builds(File, st.sampled_from([b"", b"x", b"y"]), st.booleans()),
    st.builds(Link, st.sampled_from(TARGETS)),
)
Edit = Plant | Replace | Remove | Rename | Flip | Refill
NUMBERS = st.integers(0, 40)
EDITS = st.one_of(
    st.builds(Flip, NUMBERS),
    st.builds(Remove, NUMBERS),
    st.builds(Rename, NUMBERS, NUMBERS, NAMES),
    st.builds(Replace, NUMBERS, NODES),
    st.builds(Replace, NUMBERS, trees()),
    st.builds(Plant, NUMBERS, trees(NAMES)),
    st.builds(Refill, st.integers(0, 1)),
)


class History(RuleBasedStateMachine):
    """Somebody edits a directory and pushes it, now from one machine, now from another."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        plant(stage.source, START)
        Refill(0).on(stage.source)

    @rule(
        edits=st.lists(EDITS, min_size=1, max_size=8), machine=st.sampled_from(["one", "another"])
    )
    def push(self, edits: list[Edit], machine: str) -> None:
        for edit in edits:
            edit.on(self.stage.source)
        self.stage.push(machine)


def test_a_random_history_is_right_after_every_push(
    docker: Docker, registry: Registry, consumers: dict[str, Consumer], tmp_path: Path
) -> None:
    def start() -> History:
        tag = registry.repository() + ":v1"
        return History(Stage(docker, consumers, tag, tmp_path / tag.replace("/", " ")))

    run_state_machine_as_test(
        start,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            suppress_health_check=list(HealthCheck),
        ),
    )
