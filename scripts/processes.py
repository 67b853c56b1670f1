"""Runs command lines and measures them: time, and the memory of all processes."""

from __future__ import annotations

import os
import re
import shlex
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SOON, SAMPLE = 0.001, 0.01  # seconds before the first look at the memory, and between two


class Failed(Exception):
    """A command that was to be measured did not end well."""


@dataclass(frozen=True)
class Run:
    seconds: float
    memory: int = 0  # bytes of all processes together, at their peak; if it was asked for


def filled(template: str, **values: object) -> str:
    """A command line: `{name}` stands for a value, quoted for the shell."""
    return template.format_map({name: shlex.quote(str(value)) for name, value in values.items()})


def shown(template: str) -> str:
    """A command line for a document."""
    return re.sub(r"\{(\w+)\}", lambda name: name[1].upper(), template)


def timed(command: str, watch_memory: bool = False) -> Run:
    """Runs a command line of bash. Raises Failed. Watching the memory takes time of its own."""
    started = time.perf_counter()
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    watcher = Watcher(process.pid)
    if watch_memory:
        watcher.start()
    assert process.stderr is not None
    messages = process.stderr.read()
    if watch_memory:
        watcher.over.set()  # while its number is still the process's
        watcher.join()
    process.stderr.close()
    code = process.wait()
    seconds = time.perf_counter() - started
    if code:
        said = messages.decode(errors="replace")
        raise Failed(f"`{command}` ended with {code}:\n{said}")
    return Run(seconds, watcher.memory)


class Watcher(threading.Thread):
    """Looks again and again what a process and those below it hold.

    The kernel's ru_maxrss would not do: a process begins with that of the one that started it.
    """

    def __init__(self, root: int) -> None:
        super().__init__()
        self.root, self.over = root, threading.Event()
        self.memory = 0  # bytes

    def run(self) -> None:
        pause = SOON
        while not self.over.wait(pause):
            self.memory = max(self.memory, sum(map(_share, family(self.root))))
            pause = min(2 * pause, SAMPLE)


def family(root: int) -> list[int]:
    """The process and all below it that run a program of their own.

    One that has just been started still shows the memory and the command line of its parent.
    """
    found, running = [(root, "")], []
    for process, above in found:  # it grows meanwhile
        command = _content(Path(f"/proc/{process}/cmdline"))
        if command != above:
            running.append(process)
        for thread in _threads(process):
            children = _content(Path(f"/proc/{process}/task/{thread}/children"))
            found += [(int(child), command) for child in children.split()]
    return running


def _threads(process: int) -> list[str]:
    """Its threads; none if it has ended."""
    try:
        return os.listdir(f"/proc/{process}/task")
    except OSError:
        return []


def _content(path: Path) -> str:
    """A file of a process; empty if the process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _share(process: int) -> int:
    """The proportional set size in bytes; 0 for a process that has ended."""
    content = _content(Path(f"/proc/{process}/smaps_rollup"))
    found = re.search(r"^Pss:\s+(\d+) kB", content, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def in_turn(runs: int, *actions: Callable[[], Run]) -> list[tuple[Run, ...]]:
    """What each action gave, one round after the other."""
    return [tuple(action() for action in actions) for _ in range(runs)]


def seconds(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def ratio(some: Sequence[Run], others: Sequence[Run]) -> float:
    """How many times as long some took as their neighbours: steadier than a ratio of medians."""
    return statistics.median(
        one.seconds / other.seconds for one, other in zip(some, others, strict=False)
    )
