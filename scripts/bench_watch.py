"""`docker kontext watch` measured: from a saved file to a moved tag, and what it takes at rest."""

from __future__ import annotations

import contextlib
import re
import shlex
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench_pushes import duration
from bench_report import Row, Topic, at_most
from bench_stage import Stage
from measuring import human
from processes import filled, shown

WATCH = "docker-kontext kontext watch --timings --tag {image} {tree}"
DEBOUNCE = 0.1  # seconds, as by default
SAVED, OURS, MEMORY = 0.35, 0.1, 150_000_000
REST = 10  # seconds
_STEP = re.compile(r" s \+ +([\d.]+) s  (wait for the registry|crane push)$", re.MULTILINE)


def watch(stage: Stage) -> Topic:
    stage.warm()
    saved: list[float] = []
    ours: list[float] = []
    with _watching(stage) as (process, images, messages):
        time.sleep(REST / 2)
        for _ in range(stage.runs):
            said = messages.stat().st_size
            start = time.perf_counter()
            stage.edits.one()
            images.readline()
            saved.append(time.perf_counter() - start)
            time.sleep(1)  # until it is written how long each step took
            cranes = sum(float(found[1]) for found in _STEP.finditer(messages.read_text()[said:]))
            ours.append(saved[-1] - DEBOUNCE - cranes)
        time.sleep(REST / 2)  # it writes its cache when it comes to rest
        memory, before = _resident(process), _ticks(process)
        time.sleep(REST)
        ticks = _ticks(process) - before
    return Topic(
        "Watch",
        [
            Row(
                "from a saved file to the moved tag",
                duration(statistics.median(saved)),
                target=at_most(statistics.median(saved), SAVED, "at most {:g} s"),
                bound="crane push, and 0.1 s in which changes gather",
            ),
            Row(
                "of it, beside crane and the gathering",
                duration(statistics.median(ours)),
                target=at_most(statistics.median(ours), OURS, "at most {:g} s"),
                bound="the plan, which decodes the parts of the tree that changed",
            ),
            Row(
                "memory at rest",
                human(memory),
                target=at_most(memory, MEMORY, f"at most {human(MEMORY)}"),
                bound="the list of all files",
            ),
            Row(
                "processor time at rest",
                f"{ticks * 10} ms in {REST} s",
                target=at_most(ticks * 10, 10, "at most {:g} ms, the least that is counted"),
            ),
        ],
        "A watch runs. Each edit is as above. Times end when the new image is printed, which is "
        "after the tag has moved.",
        [shown(WATCH)],
    )


@contextlib.contextmanager
def _watching(stage: Stage) -> Iterator[tuple[int, IO[str], Path]]:
    """Yield the ID of a watch that has pushed once, its output, and the file with its messages."""
    messages = stage.work / "watch-messages"
    command = shlex.split(filled(WATCH, image=stage.image(), tree=stage.tree))
    with (
        messages.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield process.pid, process.stdout, messages
        finally:
            process.terminate()


def _ticks(process: int) -> int:
    """Return the processor time of a process, in hundredths of a second (proc_pid_stat(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident(process: int) -> int:
    """Return the bytes of memory that a process has."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024
