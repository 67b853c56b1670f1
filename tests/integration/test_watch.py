"""`docker kontext watch`: the image is what was saved last, whatever happens to the directory."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import proxy
from support.machine import Machine, ends_within, new_machine
from support.proxy import Rule, serve_proxy
from support.random_edits import random_seed
from support.services import Registry
from support.trees import Directory, File, Link, Tree, on_disk, plant, remove

TREE: Tree = {
    "README": File(b"read me\n"),
    "src": Directory(),
    "src/main.py": File(b"print(1)\n"),
    "src/deep": Directory(),
    "src/deep/er": Directory(),
    "src/deep/er/file": File(b"deep\n"),
    "link": Link("README"),
    "node_modules": Directory(),
    "node_modules/package.js": File(b"ignored\n"),
    ".dockerignore": File(b"node_modules\n.dockerignore\n**/*.log\n"),
}

IGNORED = ("node_modules", ".dockerignore")


class Watching:
    """A watch that runs, and what it has printed so far."""

    def __init__(self, machine: Machine, *options: str) -> None:
        self.machine = machine
        self.images: list[str] = []
        self.messages: list[str] = []
        self.process = machine.begin(
            "watch", "-t", machine.tag, *options, machine.source, apart=True
        )
        self._threads = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stdout, self.images), (self.process.stderr, self.messages))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream, lines: list[str]) -> None:  # type: ignore[no-untyped-def]
        for line in stream:
            lines.append(line.decode().rstrip("\n"))

    def says(self, text: str, seconds: float = 30) -> bool:
        return ends_within(seconds, lambda: any(text in line for line in self.messages))

    def pushes(self, count: int, seconds: float = 60) -> bool:
        """Whether so many images have been printed in all."""
        return ends_within(seconds, lambda: len(self.images) >= count)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the watch, and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        for thread in self._threads:
            thread.join()
        return code


def becomes(watching: Watching, tree: Callable[[], Tree], seconds: float = 60) -> bool:
    """Whether the image under the tag gets these files."""
    return ends_within(seconds, lambda: watching.machine.published() == tree(), every=0.1)


def taken(directory: Path) -> Tree:
    """What a push takes of the directory, by the rules of TREE."""
    return {
        path: node
        for path, node in on_disk(directory).items()
        if path.split("/")[0] not in IGNORED and not path.endswith(".log")
    }


@pytest.fixture
def machine(registry: Registry, crane_path: str, tmp_path: Path) -> Machine:
    machine = new_machine(tmp_path / "machine", registry, crane_path)
    plant(machine.source, TREE)
    return machine


@contextlib.contextmanager
def watched(machine: Machine, *options: str) -> Iterator[Watching]:
    """A watch whose first push has ended."""
    watching = Watching(machine, *options)
    try:
        assert watching.pushes(1), watching.messages
        yield watching
    finally:
        watching.end()


def _replace(root: Path) -> None:
    """Put another directory in the place of one, with the same names in it."""
    shutil.copytree(root / "src", root.parent / "new")
    (root.parent / "new/deep/er/file").write_bytes(b"of the new one\n")
    (root / "src").rename(root.parent / "old")
    (root.parent / "new").rename(root / "src")
    shutil.rmtree(root.parent / "old")


def _replace_root(root: Path) -> None:
    root.rename(root.parent / "renamed")
    plant(root, {"other": File(b"another root\n")} if root.mkdir() is None else {})


def _save_as_an_editor(root: Path) -> None:
    (root / "src/.main.py.swp").write_bytes(b"swap")
    (root / "src/4913").touch()
    (root / "src/4913").unlink()
    (root / "src/main.py").rename(root / "src/main.py~")
    (root / "src/main.py").write_bytes(b"print(3)\n")
    (root / "src/main.py~").unlink()
    (root / "src/.main.py.swp").unlink()


CHANGES: dict[str, Callable[[Path], object]] = {
    "edit": lambda root: (root / "src/main.py").write_bytes(b"print(2)\n"),
    "as an editor": _save_as_an_editor,
    "same size and time": lambda root: (
        (root / "README").write_bytes(b"READ ME\n"),
        os.utime(root / "README", ns=(1, 1)),
    ),
    "new file": lambda root: (root / "src/new.py").write_bytes(b"new\n"),
    "new directories": lambda root: plant(
        root,
        {"a": Directory(), "a/b": Directory(), "a/b/c": Directory(), "a/b/c/d": File(b"deep\n")},
    ),
    "removed file": lambda root: (root / "README").unlink(),
    "removed directory": lambda root: shutil.rmtree(root / "src"),
    "renamed file": lambda root: (root / "README").rename(root / "src/README.md"),
    "renamed directory": lambda root: (root / "src/deep").rename(root / "deep"),
    "replaced directory": _replace,
    "file for a directory": lambda root: (
        shutil.rmtree(root / "src/deep"),
        (root / "src/deep").write_bytes(b"a file now\n"),
    ),
    "executable": lambda root: (root / "src/main.py").chmod(0o755),
    "link": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("src")),
    "name that is not ASCII": lambda root: (root / "ünï\tcode").write_bytes(b"1\n"),
    "root replaced": _replace_root,
}


@pytest.mark.parametrize("edit", CHANGES.values(), ids=CHANGES)
def test_each_change_gets_into_the_image(machine: Machine, edit: Callable[[Path], object]) -> None:
    with watched(machine) as watching:
        assert machine.published() == taken(machine.source)
        edit(machine.source)
        assert becomes(watching, lambda: taken(machine.source)), watching.messages
        # And also what comes after it, where it has left something.
        for place in (machine.source, *(path for path in machine.source.rglob("*"))):
            if place.is_dir() and not place.is_symlink() and "node_modules" not in place.parts:
                (place / "after").write_bytes(b"after\n")
        assert becomes(watching, lambda: taken(machine.source)), watching.messages
        assert watching.images == [*dict.fromkeys(watching.images)], "an image is printed once"


def test_ignore_rules_hold_while_they_change(machine: Machine, registry: Registry) -> None:
    """What is ignored wakes nobody. An edited ignore file counts, even if it ignores itself."""
    with watched(machine) as watching:
        time.sleep(0.5)
        registry.requests()
        (machine.source / "node_modules/package.js").write_bytes(b"changed\n")
        (machine.source / "src/build.log").write_bytes(b"log\n")
        (machine.source / "node_modules/more").mkdir()
        time.sleep(1)
        assert not registry.requests()
        (machine.source / ".dockerignore").write_bytes(b"src/deep\n.dockerignore\n")
        assert becomes(
            watching,
            lambda: {
                path: node
                for path, node in machine.tree().items()
                if not f"{path}/".startswith("src/deep/") and path != ".dockerignore"
            },
        ), watching.messages
        (machine.source / "node_modules/more/now.js").write_bytes(b"taken now\n")
        assert ends_within(30, lambda: "node_modules/more/now.js" in (machine.published() or {})), (
            watching.messages
        )


def _exclude_deep(root: Path) -> None:
    (root / ".dockerignore").write_bytes(TREE[".dockerignore"].content + b"src/deep\n")


def _label(root: Path) -> None:
    (root / ".kontext.toml").write_text('[labels]\n"team" = "blue"\n')


@pytest.mark.parametrize("change", [_exclude_deep, _label, _replace_root])
def test_what_changes_while_changes_gather(
    machine: Machine, change: Callable[[Path], object]
) -> None:
    """Rules and options are read before. A push that was begun with others is followed by one."""
    with watched(machine, "--debounce", "1500ms") as watching:
        (machine.source / "README").write_bytes(b"first\n")
        time.sleep(0.7)
        change(machine.source)
        hidden = "src/deep" if change is _exclude_deep else "nothing"
        assert becomes(
            watching,
            lambda: {
                path: node
                for path, node in taken(machine.source).items()
                if not f"{path}/".startswith(f"{hidden}/")
            },
        ), watching.messages
        if change is _label:
            assert ends_within(
                20,
                lambda: "blue" in machine.kontext("inspect", machine.tag).stdout,
                every=0.3,
            ), watching.messages


def test_an_ignore_file_elsewhere(machine: Machine) -> None:
    rules = machine.folder / "rules"
    rules.write_bytes(b"*\n!src\n")
    with watched(machine, "--ignore-file", str(rules)) as watching:
        assert "README" not in (machine.published() or {})
        rules.write_bytes(b"src\n")
        assert ends_within(30, lambda: "README" in (machine.published() or {})), watching.messages


def test_a_link_to_the_directory_that_points_elsewhere(machine: Machine) -> None:
    """A deployment switches `current` to another release."""
    releases = machine.folder / "releases"
    machine.source.rename(machine.folder / "one")
    (machine.folder / "two").mkdir()
    plant(machine.folder / "two", {"file": File(b"two\n")})
    machine.source.symlink_to(machine.folder / "one")
    with watched(machine) as watching:
        (machine.folder / "next").symlink_to(machine.folder / "two")
        (machine.folder / "next").rename(machine.source)
        assert becomes(watching, lambda: {"file": File(b"two\n")}), watching.messages
        (machine.folder / "two/file").write_bytes(b"2\n")
        assert becomes(watching, lambda: {"file": File(b"2\n")}), watching.messages
    assert not releases.exists()


def test_trouble_is_told_once_and_waited_out(machine: Machine) -> None:
    """A secret blocks the push until it is gone. A special file is a warning."""
    token = "ghp_" + "a1B2c3D4e5" * 4
    with watched(machine) as watching:
        os.mkfifo(machine.source / "fifo")
        (machine.source / "src/token.py").write_text(f'token = "{token[:40]}"\n')
        assert watching.says("token.py")
        assert not any(token[:40] in line for line in watching.messages)
        (machine.source / "src/main.py").write_bytes(b"print(5)\n")
        time.sleep(1.5)
        assert sum("ERROR" in line for line in watching.messages) == 1, watching.messages
        assert sum("fifo" in line for line in watching.messages) == 1, watching.messages
        assert watching.process.poll() is None
        (machine.source / "src/token.py").unlink()
        (machine.source / "fifo").unlink()
        assert becomes(watching, lambda: taken(machine.source)), watching.messages


def test_a_name_that_no_image_can_have(machine: Machine) -> None:
    """In a directory that is new, and that no scan has ended with."""
    with watched(machine) as watching:
        (machine.source / "new").mkdir()
        (machine.source / "new/.wh.name").write_bytes(b"")
        assert watching.says(".wh.name")
        (machine.source / "new/.wh.name").rename(machine.source / "new/name")
        assert becomes(watching, lambda: taken(machine.source)), watching.messages


def test_a_registry_that_is_away_comes_back(
    registry: Registry, crane_path: str, tmp_path: Path
) -> None:
    rule = Rule("PUT", r"/manifests/", proxy.status(503), last=proxy.ALWAYS)
    with serve_proxy(registry.host) as way:
        machine = new_machine(tmp_path / "machine", registry, crane_path, way.host)
        plant(machine.source, TREE)
        with watched(machine) as watching:
            way.rules.append(rule)
            (machine.source / "README").write_bytes(b"while it is away\n")
            assert watching.says("ERROR", 60), watching.messages
            way.rules.remove(rule)
            assert becomes(watching, lambda: taken(machine.source), 90), watching.messages


def test_exec_gets_each_image(machine: Machine) -> None:
    """Its output goes to stderr. That it fails ends nothing."""
    command = 'echo "deployed $KONTEXT_IMAGE"; exit 3'
    with watched(machine, "--exec", command) as watching:
        assert watching.says(f"deployed {watching.images[0]}")
        assert watching.says("exit code 3")
        (machine.source / "README").write_bytes(b"again\n")
        assert watching.pushes(2)
        assert watching.says(f"deployed {watching.images[1]}")
        assert len(watching.images) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_ctrl_c_between_pushes(machine: Machine, number: signal.Signals) -> None:
    with watched(machine) as watching:
        time.sleep(0.5)
        started = time.monotonic()
        assert watching.end(number) == 130
        assert time.monotonic() - started < 5
        assert watching.says(f"Interrupted; {watching.images[-1]} is the last push")
        machine.assert_clean()


def test_ctrl_c_in_a_push(registry: Registry, crane_path: str, tmp_path: Path) -> None:
    rule = Rule("PUT", r"/manifests/", proxy.silent)
    with serve_proxy(registry.host) as way:
        machine = new_machine(tmp_path / "machine", registry, crane_path, way.host)
        plant(machine.source, TREE)
        with watched(machine) as watching:
            way.rules.append(rule)
            (machine.source / "README").write_bytes(b"interrupted\n")
            assert ends_within(30, lambda: bool(rule.struck))
            started = time.monotonic()
            assert watching.end(signal.SIGINT) == 130
            assert time.monotonic() - started < 5
            machine.assert_clean()


def test_ctrl_c_in_the_command_of_exec(machine: Machine) -> None:
    with watched(machine, "--exec", "echo begun; sleep 300") as watching:
        assert watching.says("begun")
        assert watching.end(signal.SIGINT) == 130
        machine.assert_clean()


def test_lost_events(machine: Machine) -> None:
    """More changes than the kernel keeps: those that it has dropped count as well."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with watched(machine) as watching:
        watching.process.send_signal(signal.SIGSTOP)
        for number in range(limit // 2 + 1000):  # none is like the one before
            (machine.source / f"noise-{number % 2}").write_bytes(b"")
            (machine.source / "src" / f"noise-{number % 2}").write_bytes(b"")
        (machine.source / "src/deep/er/file").write_bytes(b"dropped\n")
        (machine.source / "src/deep/more").mkdir()
        (machine.source / "src/deep/more/file").write_bytes(b"dropped as well\n")
        watching.process.send_signal(signal.SIGCONT)
        assert becomes(watching, lambda: taken(machine.source)), watching.messages
        (machine.source / "src/deep/more/file").write_bytes(b"watched again\n")
        assert becomes(watching, lambda: taken(machine.source)), watching.messages


def test_polling_needs_no_kernel(machine: Machine, registry: Registry) -> None:
    with watched(machine, "--poll", "200ms") as watching:
        time.sleep(0.5)
        registry.requests()
        time.sleep(1)
        assert not registry.requests(), "a look at the directory asks no registry"
        (machine.source / "src/deep/er/file").write_bytes(b"polled\n")
        assert becomes(watching, lambda: taken(machine.source)), watching.messages


def test_idle_it_takes_no_processor_time(machine: Machine) -> None:
    with watched(machine) as watching:
        time.sleep(1)
        before = _ticks(watching.process.pid)
        time.sleep(3)
        assert _ticks(watching.process.pid) - before <= 1


def _ticks(process: int) -> int:
    """The processor time of a process, in hundredths of a second."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_other_commands_know_the_last_push(machine: Machine) -> None:
    """The watch writes what it knows when it rests."""
    with watched(machine) as watching:
        (machine.source / "README").write_bytes(b"for status\n")
        assert watching.pushes(2)
        (machine.source / "src/new").write_bytes(b"for status, too\n")
        assert watching.pushes(3)
        assert ends_within(
            20,
            lambda: "Unchanged since" in machine.kontext("status", str(machine.source)).stdout,
            every=0.5,
        ), machine.kontext("status", str(machine.source))


def test_the_configuration_file_is_read_again(machine: Machine) -> None:
    with watched(machine) as watching:
        (machine.source / ".kontext.toml").write_text('[labels]\n"team" = "blue"\n')
        assert watching.pushes(2), watching.messages
        told = machine.kontext("inspect", "--format", "json", machine.tag)
        assert "blue" in json.dumps(json.loads(told.stdout))
        (machine.source / ".kontext.toml").write_text("labels = 1\n")
        assert watching.says(".kontext.toml"), watching.messages
        (machine.source / ".kontext.toml").unlink()
        assert becomes(watching, lambda: taken(machine.source)), watching.messages


def test_a_wrong_command_line_ends_it_at_once(machine: Machine, tmp_path: Path) -> None:
    for arguments, code, text in (
        (("-t", machine.tag, str(tmp_path / "gone")), 1, "does not exist"),
        ((str(machine.source),), 125, "requires --tag"),
        (("-t", machine.tag, "--poll", "0", str(machine.source)), 125, "--poll"),
        (("-t", machine.tag, "--debounce", "soon", str(machine.source)), 125, "--debounce"),
        (("-t", machine.tag, "--dry-run", str(machine.source)), 125, "dry-run"),
    ):
        done = machine.kontext("watch", *arguments)
        assert (done.code, done.stdout) == (code, ""), done
        assert text in done.stderr


# --- Ten writers at once ---

WRITERS = 10
EDITS = 100  # of each

_WRITER = """
import random, sys, time
from pathlib import Path
from support.random_edits import edit_at_random
root, seed, edits = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
root.mkdir(exist_ok=True)
chance = random.Random(seed)
for _ in range(edits):
    edit_at_random(root, chance)
    time.sleep(chance.uniform(0, 0.1))
"""


@pytest.mark.slow
def test_ten_writers_and_a_watch_that_is_killed(machine: Machine) -> None:
    """1,000 random edits, each of one to four, end in an image that is the directory."""
    chance = random.Random(random_seed("ten writers"))
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    watching = Watching(machine)
    assert watching.pushes(1), watching.messages
    writers = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", _WRITER),
                *(str(machine.source / f"writer-{number}"), str(chance.random())[2:], str(EDITS)),
            ],
            env=os.environ | {"PYTHONPATH": path},
        )
        for number in range(WRITERS)
    ]
    kills = 0
    try:
        while any(writer.poll() is None for writer in writers):
            time.sleep(chance.uniform(0.5, 1.5))
            watching.end()
            kills += 1
            if chance.random() < 0.5:
                remove(machine.cache) if machine.cache.exists() else None
            watching = Watching(machine)
        assert [writer.wait() for writer in writers] == [0] * WRITERS
        assert becomes(watching, lambda: taken(machine.source)), watching.messages
        assert kills > 2
        assert not any("bug in Kontext" in line for line in watching.messages)
    finally:
        watching.end()
        for writer in writers:
            writer.kill()
            writer.wait()
