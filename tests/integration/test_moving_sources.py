"""Pushes of a directory in which an npm, a compiler and an editor work."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.images import exported
from support.services import Docker, Registry
from support.trees import File, Tree, on_disk
from support.writers import is_whole, working

Crane = Callable[..., bytes]

TREE: Tree = {
    "README": File(b"hello\n"),
    # Large enough for several layers, which worker processes write.
    **{f"data/{number}": File(b"%08d" % number * 1_000_000) for number in range(7)},
}

PUSHES = 10


def test_no_push_fails_however_much_is_written(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """Each image is what its manifest says, and each file a version that was written to its end.

    The npm is that of docker/cli#2305, the rest of gamechanger/dusty#609.
    """
    tag = registry.repository() + ":v1"
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "cache")
    seen = set()
    with working(source, seed=1):
        for number in range(PUSHES):
            options = {3: ["--fresh"], 5: ["--check-parent"], 7: ["--fresh"]}.get(number, [])
            pushed = docker.push(tag, source, *options)
            assert pushed.code == 0, pushed.stderr
            checked = docker("kontext", "verify", pushed.image)
            assert checked.code == 0, checked.stdout + checked.stderr
            tree = exported(crane, pushed.image)
            assert {path: tree[path] for path in TREE} == TREE
            # An object is written in place, so a push may see the first half of one.
            for path, node in tree.items():
                if isinstance(node, File) and path.startswith(("node_modules", "build/program")):
                    assert is_whole(node.content), path
            seen |= tree.keys()
        for command in (["push", "--dry-run"], ["diff"]):
            said = docker("kontext", *command, "-t", tag, str(source))
            assert said.code == 0, said.stderr
    assert {"src", "build", "node_modules"} <= seen
    pushed = docker.push(tag, source)
    assert exported(crane, pushed.image) == on_disk(source), "when all is quiet again"


def test_nothing_that_happens_in_an_ignored_directory_is_an_error(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    """docker/cli#2305: `**/node_modules` was ignored, and the build failed for what npm did there.

    An exception has the push look into the ignored directories.
    """
    tag = registry.repository() + ":v1"
    (source / ".kontextignore").write_text("**/node_modules\n!**/node_modules/keep\ndata\n")
    (source / "node_modules/.staging").mkdir(parents=True)
    (source / "node_modules/keep").write_text("kept")
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            for number in range(20):
                (source / f"node_modules/.staging/{number}").mkdir()
            for number in range(20):
                (source / f"node_modules/.staging/{number}").rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(5):
            pushed = docker.push(tag, source)
            assert pushed.code == 0, pushed.stderr
            assert "scanning again" not in pushed.stderr
    finally:
        done.set()
        thread.join()
    assert exported(crane, tag).keys() == {
        ".kontextignore", "README", "node_modules", "node_modules/keep"
    }  # fmt: skip


def test_a_file_that_never_holds_still_is_named(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag, done = registry.repository() + ":v1", threading.Event()
    (source / "log").write_bytes(bytes(50_000_000))

    def write() -> None:
        with (source / "log").open("r+b", buffering=0) as log:
            for number in itertools.takewhile(lambda _: not done.wait(0.002), itertools.count()):
                log.seek(0)
                log.write(b"line %d\n" % number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        started = time.monotonic()
        pushed = docker.push(tag, source)
        assert time.monotonic() - started < 30
    finally:
        done.set()
        thread.join()
    assert (pushed.code, pushed.stdout) == (1, "")
    assert "ERROR: 'log' changed while it was read twice\n" in pushed.stderr
    assert "Stop what writes it, or leave it out" in pushed.stderr
