"""How the figures grow with the number of files."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import bench_tree
import peers
from bench_others import MEMORY, MEMORY_TEXT, memory_row
from bench_pushes import (
    SCAN,
    Runs,
    compared,
    duration,
    edited_beside_append,
    edited_runs,
    git_status,
    unchanged_runs,
)
from bench_report import Row, Topic
from bench_stage import PUSH, Stage
from measuring import disk_registry
from plot import Line, Panel, drawn
from processes import Run, seconds, shown

SIZES = (1_000, 10_000, 100_000, 1_000_000)
APPEND_MOST = 100_000  # files that tar | crane append pushes in less than minutes
# The targets, by the number of files.
EDIT_TIMES = {1_000_000: 2.5}  # of git status
EDIT_MEMORY = {1_000_000: 400e6}  # bytes
FIRST_MEMORY = {100_000: MEMORY}
EACH_FILE = "Python's work for each file: a status, a digest, a search for secrets, a tar header"
PICTURE = "growth.svg"
APPEND = peers.append()


@dataclass(frozen=True)
class Size:
    """What was measured of a tree. The appends are empty if it is large."""

    files: int
    first: Runs
    first_append: Runs
    unchanged: Runs
    unchanged_status: Runs
    edited: Runs
    edited_status: Runs
    beside_append: Runs
    edited_append: Runs
    # These are watched, which takes time of its own.
    first_memory: Run
    edited_memory: Run
    status_memory: Run
    append_memory: Run | None


def growth(stage: Stage) -> Topic:
    sizes = [_measured(stage, files) for files in stage.sizes]
    return Topic(
        "Growth",
        [row for size in sizes for row in _rows(size)],
        f"The files are small sources, 1 KB on average, {bench_tree.IN_A_DIRECTORY} in a "
        "directory, three levels deep, in a git work tree with an ignore file. `tar | crane "
        f"append` pushes trees of at most {APPEND_MOST:,} files. `--sizes` takes other "
        f"numbers. {MEMORY_TEXT}",
        [shown(PUSH), shown(peers.GIT_STATUS), shown(APPEND.template)],
        f"![The same figures as lines over the number of files]({PICTURE})",
        {PICTURE: _picture(sizes)},
    )


def _measured(stage: Stage, files: int) -> Size:
    print(f"growth: {files:,} files", file=sys.stderr)
    name = f"growth-{files}"
    folder = stage.work / name
    edited = bench_tree.make_small_files(folder / "tree", files)
    bench_tree.add_to_git(folder / "tree", folder / "git")
    edits = bench_tree.Edits(folder / "tree", [edited])
    try:
        own = replace(stage, work=folder, tree=folder / "tree", edits=edits, name=name)
        return _measured_tree(own, files)
    finally:
        shutil.rmtree(folder)


def _measured_tree(stage: Stage, files: int) -> Size:
    has_append = files <= APPEND_MOST
    first, first_append = _first_pushes(stage, has_append)
    append_memory = (
        APPEND.push(stage.tree, stage.host, stage.work, watch_memory=True) if has_append else None
    )
    stage.forget()
    first_memory = stage.push(watch_memory=True)  # of a repository that has nothing
    unchanged, unchanged_status = unchanged_runs(stage)
    edited, edited_status = edited_runs(stage)
    beside, edited_append = edited_beside_append(stage) if has_append else ((), ())
    return Size(
        files,
        first,
        first_append,
        unchanged,
        unchanged_status,
        edited,
        edited_status,
        beside,
        edited_append,
        first_memory,
        stage.edited(lambda: stage.push(watch_memory=True)),
        stage.edited(lambda: git_status(stage, watch_memory=True)),
        append_memory,
    )


def _first_pushes(stage: Stage, has_append: bool) -> tuple[Runs, Runs]:
    """Each push goes to a registry of its own."""
    ours, appends = [], []
    for _ in range(stage.slow_runs):
        stage.forget()
        with disk_registry() as host:
            ours.append(stage.push(host))
        if has_append:
            with disk_registry() as host:
                appends.append(APPEND.push(stage.tree, host, stage.work))
    return ours, appends


def _rows(size: Size) -> list[Row]:
    files = f"{size.files:,} files"
    first = f"{files}: first push"
    rows = [
        compared(
            f"{files}: no change",
            size.unchanged,
            "git status",
            size.unchanged_status,
            bound=SCAN,
        ),
        compared(
            f"{files}: one file edited",
            size.edited,
            "git status",
            size.edited_status,
            most=EDIT_TIMES.get(size.files),
            bound=SCAN,
        ),
        memory_row(
            f"{files}: one file edited, memory",
            size.edited_memory,
            "git status",
            size.status_memory,
            EDIT_MEMORY.get(size.files),
        ),
        memory_row(
            f"{first}, memory",
            size.first_memory,
            APPEND.name,
            size.append_memory,
            FIRST_MEMORY.get(size.files),
        ),
    ]
    if not size.first_append:
        return [*rows, Row(first, duration(seconds(size.first)), bound=EACH_FILE)]
    return [
        *rows,
        compared(
            f"{files}: one file edited",
            size.beside_append,
            APPEND.name,
            size.edited_append,
            faster=True,
            bound=SCAN,
        ),
        compared(first, size.first, APPEND.name, size.first_append, faster=True, bound=EACH_FILE),
    ]


def _picture(sizes: Sequence[Size]) -> str:
    def times(name: str, runs: Callable[[Size], Runs], is_peer: bool = False) -> Line:
        points = [(size.files, seconds(runs(size))) for size in sizes if runs(size)]
        return Line(name, points, is_peer)

    def memory(name: str, run: Callable[[Size], Run | None], is_peer: bool = False) -> Line:
        runs = [(size.files, run(size)) for size in sizes]
        return Line(
            name, [(files, run.memory) for files, run in runs if run and run.memory], is_peer
        )

    return drawn(
        [
            Panel(
                "Time",
                [
                    times("no change", lambda size: size.unchanged),
                    times("one file edited", lambda size: size.edited),
                    times("first push", lambda size: size.first),
                    times("git status after an edit", lambda size: size.edited_status, True),
                    times("tar | crane append", lambda size: size.first_append, True),
                ],
                lambda value: f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms",
            ),
            Panel(
                "Memory of all processes",
                [
                    memory("one file edited", lambda size: size.edited_memory),
                    memory("first push", lambda size: size.first_memory),
                    memory("git status after an edit", lambda size: size.status_memory, True),
                    memory("tar | crane append", lambda size: size.append_memory, True),
                ],
                lambda value: f"{value / 1e6:g} MB",
            ),
        ],
        "files",
    )
