"""Consumers agree: whoever takes the image sees the directory that was pushed, whatever its past.

Without CI=true, the random histories are other ones each time. scripts/reliability makes more.
"""

from __future__ import annotations

import functools
import operator
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from support.consumers import (
    Buildah,
    Consumer,
    Containerd,
    Crane,
    Export,
    Pull,
    Run,
    Umoci,
    container_settings,
)
from support.forgery import added, forge_image, left_out, replaced
from support.models import PLAIN_NAMES, STRANGE, STRANGE_NAMES, parents, trees
from support.services import Docker, Registry, missing
from support.trees import SOURCES, Directory, File, Link, Node, Tree, on_disk, plant, remove

from kontext_plugin.source.entries import MAX_PATH

EXAMPLES = 3
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
            "buildah": Buildah(
                container_settings(tmp_path_factory.mktemp("buildah") / "it", docker.config)
            ),
            "umoci": Umoci(crane, tmp_path_factory.mktemp("umoci") / "layout"),
            "containerd": containerd,
        }
    forget_images(docker, registry.host)


def forget_images(docker: Docker, host: str) -> None:
    """A hunt leaves a thousand of them in the daemon. By name: others may have the same images."""
    found = docker("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}")
    if images := [name for name in found.stdout.split() if name.startswith(f"{host}/")]:
        docker("image", "rm", *images)


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

    def push(self, machine: str = "one", *options: str) -> None:
        """Pushes, and holds all consumers to what lies in the directory."""
        self.docker.environment["KONTEXT_CACHE_DIR"] = str(self.folder / machine)
        image = self.docker.push(self.tag, self.source, *options).image
        used = Run(self.docker, ["--mirror", "--verify"], self.workspace)
        consumers: dict[str, Consumer] = {
            **self.consumers,
            "docker run --mirror": used,
            "docker kontext pull --mirror": Pull(self.docker, self.folder / "pulled"),
        }
        want = on_disk(self.source)
        with ThreadPoolExecutor() as threads:
            verdicts = {
                name: threads.submit(verdict, show, image, want) for name, show in consumers.items()
            }
        wrong = {name: why.result() for name, why in verdicts.items() if why.result()}
        assert not wrong, "\n".join(f"{name}: {why!s:.3000}" for name, why in wrong.items())


def verdict(show: Consumer, image: str, want: Tree) -> object:
    """What is wrong with what a consumer shows, if anything is; it may also fail."""
    try:
        return differing(want, show(image))
    except AssertionError as error:
        return str(error)


@pytest.fixture
def stage(
    docker: Docker, registry: Registry, consumers: dict[str, Consumer], tmp_path: Path
) -> Stage:
    return Stage(docker, consumers, registry.repository() + ":v1", tmp_path / "stage")


def differing(want: Tree, shown: Tree) -> dict[str, tuple[Node | None, Node | None]]:
    """What was wanted and what was shown, where it is not the same."""
    return {
        path: (want.get(path), shown.get(path))
        for path in sorted(want.keys() | shown.keys())
        if want.get(path) != shown.get(path)
    }


BALLAST = "ballast"
"""So large that all else is a small share of the bytes: a push has few reasons to start fresh."""
NOISE = [File(random.Random(seed).randbytes(200_000)) for seed in range(2)]


# Special histories


def below(folder: str, tree: Tree) -> Tree:
    """The tree in a folder, with all directories that lead to it."""
    paths = {f"{folder}/{path}": node for path, node in tree.items()}
    leading = {parent for path in paths for parent in parents(path)} | {folder}
    return dict.fromkeys(leading, Directory()) | paths


def named(*names: str) -> Tree:
    return {name: File(name.encode()) for name in names}


def path_of(length: int) -> str:
    """A path of so many bytes."""
    return "/".join(["n" * 99] * 50)[: length - 1].rstrip("/").ljust(length, "n")


CONTROLS = [chr(code) for code in (*range(1, 32), 127, 128, 0x2028, 0xFEFF, 0xFFFF, 0x10FFFF)]
TARGETS = [
    ".", "..", "/", "//", "a/", "./a//b/.", "gone", "/etc", "../../../etc", "/../../../../../../x",
    "/var/run/kontext", "/proc/self/root", " ", "\n", "-rf", "%s", "/C:/x", "/a\\b",
    "a\\..\\b", "x" * 1000, *STRANGE,
]  # fmt: skip
OTHER: Tree = {"other": Directory(), "other/d": Directory(), "other/d/f": File(b"other")}
"""What links of a history lead to: whoever writes through one changes it."""
UNDER: Tree = {"l": Directory(), "l/d": Directory(), "l/d/f": File(b"new")}

# Each below its own name, step by step; the last step stays to the end.
HISTORIES: dict[str, list[Tree]] = {
    "strange names": [named(*STRANGE), {name: Directory() for name in STRANGE}, {}],
    "controls": [named(*CONTROLS, *(f"a{code}b{code}" for code in CONTROLS)), {}],
    "dots and spaces": [named("a.", "a ", " a", ".a", "..a", "..data", "...", ".. ", ". "), {}],
    "like a whiteout": [named(".wh", ".whx", "a.wh.b", "wh.a", ".Wh.a"), {"a": Link(".wh.a")}, {}],
    "case and Unicode forms": [named("a", "A", "ä", "Ä", "a\u0308", "A\u0308", "ﬁ", "fi"), {}],
    "backslashes": [
        named("a\\b", "a/b", "\\", "c\\", "\\d", "..\\x", "e\\..\\f", "f", "C:\\x"),
        named("a", "a\\b", "f\\.wh.a", "\\.wh.a"),
        {},
    ],
    "names of 255 bytes": [named("n" * 255, "ö" * 127, "d" * 255 + "/" + "n" * 255), {}],
    "a path at the limit": [named(path_of(MAX_PATH - len("a path at the limit/"))), {}],
    "100 levels": [named("d/" * 100 + "f"), named("d/" * 50 + "f"), {}],
    "targets": [{str(number): Link(target) for number, target in enumerate(TARGETS)}, {}],
    "a target of 4095 bytes": [{"l": Link("x" * 4095)}, {"l": Link("x/" * 2047 + "x")}, {}],
    "a link to itself": [{"l": Link("l")}, {"l": Directory(), "l/l": Link("../l")}, {}],
    "entries under what was a link": [
        OTHER | {"l": Link("other")},
        OTHER | UNDER,
        OTHER | {"l": Link("other")},
        OTHER,
    ],
    "entries under what was an absolute link": [
        OTHER | {"l": Link(f"/{SOURCES}/entries under what was an absolute link/other")},
        OTHER | UNDER,
        OTHER | {"l": Directory(), "l/d": Link("../other/d")},
    ],
    "entries under what was a link out of the sources": [{"l": Link("/workspace")}, UNDER, {}],
    "a link whose parent is replaced": [
        OTHER | {"d": Directory(), "d/l": Link("../other")},
        OTHER | {"d": Link("other")},
        OTHER,
    ],
    "names of the image's own": [
        named("manifest.json", "var/run/kontext/f", "etc/passwd", ".dockerenv", "dev/null"),
        named("var", "kontext-extractor"),
        {},
    ],
    "sizes around a block": [{str(size): File(b"z" * size) for size in (0, 511, 512, 513)}, {}],
}


# A push that brings a directory again may start fresh, and all histories with it.
AGAIN: dict[str, list[Tree]] = {
    "after a file": [UNDER, named("l"), named("l/new")],
    "after a link": [
        OTHER | UNDER,
        OTHER | {"l": Link("other")},
        OTHER | {"l": Directory(), "l/d": Link("../other/d")},
        OTHER | UNDER,
    ],
    "after nothing": [UNDER, {}, named("l/new")],
    "with a backslash": [named("a\\b", "a/b"), named("a\\b", "a"), named("a\\b", "a/c")],
}


def together(histories: dict[str, list[Tree]]) -> list[Tree]:
    """All of them as one: pushes of each by itself would take minutes."""
    steps: list[Tree] = []
    for number in range(max(map(len, histories.values()))):
        trees = [
            below(name, history[min(number, len(history) - 1)])
            for name, history in histories.items()
        ]
        steps.append(functools.reduce(operator.or_, trees, {BALLAST: NOISE[0]}))
    return steps


MANY = named(*(f"{number % 50}/{number}" for number in range(4950)))
SPECIAL: dict[str, list[Tree]] = {
    "one of each": together(HISTORIES),
    "directories again": together(AGAIN),
    "the empty tree": [{}, named("a"), {}],
    "5,000 entries": [below("many", MANY)],
}


@pytest.mark.parametrize("history", SPECIAL.values(), ids=SPECIAL)
def test_all_consumers_agree_after_every_push_of_a_special_history(
    stage: Stage, history: list[Tree]
) -> None:
    for tree in history:
        become(stage.source, tree)
        stage.push()


def test_no_consumer_follows_a_link_to_this_machine(stage: Stage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    plant(outside, OTHER)
    link: Tree = {"l": Link(f"{outside}/other")}
    for tree in (link, UNDER, link):
        become(stage.source, tree)
        stage.push()
    assert on_disk(outside) == OTHER


def become(root: Path, tree: Tree) -> None:
    """Makes the directory hold the tree and nothing else."""
    for path in sorted(on_disk(root).keys() - tree.keys(), reverse=True):
        remove(root / path)
    plant(root, tree)
    assert on_disk(root) == tree


# Histories by chance

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
    """Changes most of the bytes, to and fro: an earlier image may be near again."""

    which: int

    def on(self, root: Path) -> None:
        plant(root, {BALLAST: NOISE[self.which]})


def chosen(number: int, among: list[str]) -> str:
    return among[number % len(among)]


def entries(root: Path) -> list[str]:
    return sorted(on_disk(root).keys() - {BALLAST})


def folders(root: Path) -> list[str]:
    found = on_disk(root)
    return ["", *sorted(path for path, node in found.items() if isinstance(node, Directory))]


NAMES = st.one_of(PLAIN_NAMES, PLAIN_NAMES, STRANGE_NAMES).filter(lambda name: name != BALLAST)
NODES = st.one_of(
    st.builds(File, st.sampled_from([b"", b"x", b"y"]), st.booleans()),
    st.builds(Link, st.sampled_from(["a", "b/a", "../a", "/var/run/kontext/a", *TARGETS])),
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
    st.builds(Refill, st.integers(0, len(NOISE) - 1)),
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


def test_all_consumers_agree_after_every_push_of_a_random_history(
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


# A forged parent: one layer below an honest push holds something else than its manifest says.

GOOD: Tree = {
    BALLAST: NOISE[0],
    "tool": File(b"#!/bin/sh\necho good\n", executable=True),
    "plain": File(b"good\n"),
    "link": Link("plain"),
}
EVIL = b"#!/bin/sh\necho evil\n"

FORGERIES = {
    "another content": replaced("tool", content=EVIL),
    "a mode": replaced("plain", mode=0o755),
    "a link's target": replaced("link", linkname="/etc/passwd"),
    "a file more": added(f"{SOURCES}/more", EVIL),
    "a file less": left_out("plain"),
    "another extractor": added("kontext-extractor", EVIL),
    "an extractor that is a link": added("kontext-extractor", b"", tarfile.SYMTYPE, "/bin/sh"),
    "a second manifest": added("var/lib/kontext/manifest.json", b"{}"),
    "the workspace as a link": added("workspace", b"", tarfile.SYMTYPE, "/var/run/kontext"),
}

HARMLESS = {"another extractor", "an extractor that is a link", "the workspace as a link"}
"""The extractor's layer on top hides these."""


@pytest.fixture(params=FORGERIES)
def forgery(
    stage: Stage, crane: Callable[..., bytes], tmp_path: Path, request: pytest.FixtureRequest
) -> str:
    """Push GOOD, forge the image under the tag, and add a file for the next push."""
    plant(stage.source, GOOD)
    stage.docker.environment["KONTEXT_CACHE_DIR"] = str(stage.folder / "first")
    assert stage.docker.push(stage.tag, stage.source).image
    forge_image(crane, stage.tag, tmp_path / "forged", FORGERIES[request.param])
    (stage.source / "new").write_text("new")
    stage.docker.environment["KONTEXT_CACHE_DIR"] = str(stage.folder / "second")
    return str(request.param)


def test_a_forged_layer_below_an_honest_push_reaches_no_workspace(
    forgery: str, stage: Stage, tmp_path: Path
) -> None:
    image = stage.docker.push(stage.tag, stage.source).image
    want = on_disk(stage.source)
    (tmp_path / "pulled").mkdir()
    (tmp_path / "ran").mkdir()
    commands = {
        tmp_path / "pulled": ["kontext", "pull", image, str(tmp_path / "pulled")],
        tmp_path / "ran": ["kontext", "run", "--workspace", str(tmp_path / "ran"), image],
        stage.workspace: ["run", "--rm", f"--volume={stage.workspace}:/workspace", image],
    }
    for workspace, command in commands.items():
        done = stage.docker(*command)
        shown = on_disk(workspace)
        # What is there is right, and what is not there is told.
        assert all(node == want[path] for path, node in shown.items()), command
        assert done.code or shown == want, (command, done.stderr)
        if forgery in HARMLESS:
            assert shown == want, done.stderr
    if forgery not in HARMLESS | {"a second manifest"}:
        assert stage.docker("kontext", "verify", image).code == 1


@pytest.mark.parametrize(
    ("forgery", "option"),
    [
        ("another content", "--check-parent"),
        ("a file more", "--check-parent"),
        ("another extractor", "--check-parent"),
        ("another content", "--reuse=own"),
        ("another content", "--fresh"),
    ],
    indirect=["forgery"],
)
def test_no_consumer_shows_a_forged_layer_that_a_push_was_told_to_mistrust(
    forgery: str, stage: Stage, option: str
) -> None:
    stage.push("second", option)
    stage.push("second")  # what was checked or written once is built on
