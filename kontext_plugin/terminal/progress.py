"""What a push is at: its steps, how long each takes, and how far it has come.

Whoever works says so where it costs nothing, once a directory or a batch of files; or names a
measure, which is asked only when somebody looks.

How a command that may take its time is told of: on a terminal, in lines, or as JSON.

What takes less than half a second is told as ever: nothing is drawn for it, nor imported.

The lines of a terminal that show what a push is at: the only import of rich, 60 ms.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kontext_plugin.errors import UsageError
from kontext_plugin.terminal.messages import Report, diverted, emit, set_format, show, write_stderr
from kontext_plugin.terminal.steps import Step, Steps
from kontext_plugin.terminal.text import duration, number, size

if TYPE_CHECKING:
    from kontext_plugin.terminal.display import Display

_STEP_WORDS = {
    "git ls-files": "Asking git",
    "scan": "Scanning",
    "hash": "Hashing",
    "wait for the registry": "Waiting for the registry",
    "write layers": "Writing layers",
    "crane push": "Uploading",
    "crane mutate": "Uploading",
}
"""The steps that take their time."""


def emit_step(step: Step) -> None:
    amount = step.look()
    state = "running" if step.ended is None else "failed" if step.failed else "done"
    counts = {
        "files": amount.files,
        "totalFiles": amount.total_files,
        "bytes": amount.bytes,
        "totalBytes": amount.total_bytes,
    }
    known = {key: count for key, count in counts.items() if count}
    emit("step", step=step.name, state=state, seconds=round(step.seconds, 3), **known)


@dataclass(frozen=True)
class StepLine:
    """What a step looks like on its way."""

    what: str
    percent: int | None  # 0 to 100; 100 is reached at the end only
    counts: str


def step_line(step: Step) -> StepLine | None:
    """None for a step that takes no time worth telling of."""
    if step.name not in _STEP_WORDS:
        return None
    amount, seconds = step.look(), step.seconds
    done, total = (amount.files, amount.total_files)
    if amount.total_bytes:
        done, total = amount.bytes, amount.total_bytes
    parts = []
    if amount.total_files:
        parts.append(f"{amount.files:,} of {number(amount.total_files, 'file')}")
    elif amount.files:
        parts.append(number(amount.files, "file"))
    if amount.total_bytes:
        parts.append(f"{size(amount.bytes)} of {size(amount.total_bytes)}")
    elif amount.bytes:
        parts.append(size(amount.bytes))
    if amount.bytes and seconds >= 1:
        parts.append(f"{size(round(amount.bytes / seconds))}/s")
    parts.append(duration(seconds))
    return StepLine(
        _STEP_WORDS[step.name], done * 100 // total if total else None, ", ".join(parts)
    )


PROGRESS_MODES = ("auto", "tty", "plain", "json", "quiet")
"""What --progress takes."""

PROGRESS_VARIABLE = "KONTEXT_PROGRESS"

_FIRST = 0.5  # seconds

_DRAWS = 0.1

_LINES = 5.0

_EVENTS = 1.0


def choose_mode(wanted: str | None, quiet: bool) -> str:
    """Which of PROGRESS it is, `auto` decided: an option's, else the environment's.

    Raises UsageError.
    """
    if quiet:
        if wanted not in (None, "auto", "quiet"):
            raise UsageError(f"--progress {wanted} and --quiet cannot be given together")
        return "quiet"
    mode, source = (
        (wanted, "--progress") if wanted else (os.environ.get(PROGRESS_VARIABLE), PROGRESS_VARIABLE)
    )
    mode, terminal = mode or "auto", _is_terminal()
    if mode not in PROGRESS_MODES:
        raise UsageError(f"{source} is {mode!r}, and must be one of {', '.join(PROGRESS_MODES)}")
    if mode == "tty" and not terminal:
        raise UsageError(f"{source} is 'tty', and standard error is no terminal to draw on")
    return ("tty" if terminal else "plain") if mode == "auto" else mode


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


@contextlib.contextmanager
def reporting(mode: str, debug: bool) -> Iterator[Report]:
    """What to report to in the block. `mode` is one that `chosen` returned."""
    set_format(as_json=mode == "json")
    steps = Steps(emit_step) if mode == "json" else Steps()
    with _TELLING[mode](steps):
        yield Report(mode == "quiet", debug, steps)


@contextlib.contextmanager
def _silently(_: Steps) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _in_lines(steps: Steps) -> Iterator[None]:
    def tell() -> None:
        for it in _doings(steps):
            percent = "" if it.percent is None else f"{it.percent} %, "
            show(f"{it.what}: {percent}{it.counts}")

    with _repeat(_LINES, _LINES, tell):
        yield


@contextlib.contextmanager
def _as_json(steps: Steps) -> Iterator[None]:
    def tell() -> None:
        for step in steps.running():
            emit_step(step)

    with _repeat(_EVENTS, _EVENTS, tell):
        yield


@contextlib.contextmanager
def _drawn(steps: Steps) -> Iterator[None]:
    drawing = _Drawing()
    with diverted(drawing.say):
        try:
            with _repeat(_FIRST, _DRAWS, lambda: drawing.draw(_doings(steps))):
                yield
        finally:
            drawing.close()


_TELLING = {"quiet": _silently, "plain": _in_lines, "json": _as_json, "tty": _drawn}


class _Drawing:
    """A display, once there is one: shared by the thread that draws and those that say things."""

    def __init__(self) -> None:
        self._display: Display | None = None
        self._over = False
        self._lock = threading.Lock()

    def draw(self, current: Sequence[StepLine]) -> None:
        from kontext_plugin.terminal.display import Display

        with self._lock:
            if not self._over:
                self._display = self._display or Display()
                self._display.draw(current)

    def say(self, text: str) -> None:
        with self._lock:
            (self._display.say if self._display else write_stderr)(text)

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._over = True
            if self._display:
                self._display.close()


@contextlib.contextmanager
def _repeat(first: float, then: float, tell: Callable[[], None]) -> Iterator[None]:
    """Calls `tell` after `first` seconds in the block, and each `then` seconds from there on."""
    left = threading.Event()

    def tick() -> None:
        wait = first
        with contextlib.suppress(OSError):  # nobody is there to see it any more
            while not left.wait(wait):
                tell()
                wait = then

    threading.Thread(target=tick, daemon=True).start()
    try:
        yield
    finally:
        left.set()


def _doings(steps: Steps) -> list[StepLine]:
    return [now for step in steps.running() if (now := step_line(step))]
