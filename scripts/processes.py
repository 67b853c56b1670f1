"""Runs command lines and measures them: time, the largest process, the memory of all Python's."""

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

SAMPLE = 0.02  # seconds between two looks at the memory


class Failed(Exception):
    """A command that was to be measured did not end well."""


@dataclass(frozen=True)
class Run:
    seconds: float
    largest: int = 0  # bytes of the largest process, whichever it was; if it was asked for
    python: int = 0  # bytes of all Python processes together, at their peak; likewise


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
    return Run(seconds, watcher.largest, watcher.python)


class Watcher(threading.Thread):
    """Looks again and again what a process and those below it hold.

    The kernel's ru_maxrss would not do: a process begins with that of the one that started it.
    """

    def __init__(self, root: int) -> None:
        super().__init__()
        self.root, self.over = root, threading.Event()
        self.largest = self.python = 0  # bytes

    def run(self) -> None:
        while not self.over.wait(SAMPLE):
            processes = family(self.root)
            python = filter(_is_python, processes)
            self.python = max(self.python, sum(_bytes(of, "smaps_rollup", "Pss") for of in python))
            self.largest = max(self.largest, *(_bytes(of, "status", "VmHWM") for of in processes))


def family(root: int) -> list[int]:
    """The process and all below it."""
    found = [root]
    for process in found:  # it grows meanwhile
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def _is_python(process: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{process}/exe")).startswith("python")
    except OSError:
        return False


def _bytes(process: int, file: str, key: str) -> int:
    """A figure of /proc; 0 for a process that has ended."""
    try:
        content = Path(f"/proc/{process}/{file}").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{key}:\s+(\d+) kB", content, re.MULTILINE)
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
