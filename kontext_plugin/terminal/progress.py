"""How the running steps are shown: drawn on a terminal, in lines, or as JSON events.

A terminal shows nothing in the first half second. rich is not imported before that.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kontext_plugin.errors import UsageError
from kontext_plugin.terminal import PROGRESS_MODES
from kontext_plugin.terminal.messages import (
    Report,
    emit,
    redirect_messages,
    set_format,
    show,
    write_stderr,
)
from kontext_plugin.terminal.steps import Progress, Step, StepName, Steps
from kontext_plugin.terminal.text import duration, number, shows_utf8, size

PROGRESS_VARIABLE = "KONTEXT_PROGRESS"

# Seconds.
_FIRST_DRAW = 0.5
_DRAW_INTERVAL = 0.1
_LINE_INTERVAL = 5.0
_EVENT_INTERVAL = 1.0

_STEP_WORDS = {
    StepName.GIT_LS_FILES: "Asking git",
    StepName.SCAN: "Scanning",
    StepName.HASH: "Hashing",
    StepName.WAIT_FOR_REGISTRY: "Waiting for the registry",
    StepName.WRITE_LAYERS: "Writing layers",
    StepName.CRANE_PUSH: "Uploading",
    StepName.CRANE_MUTATE: "Uploading",
    StepName.CHECK_PARENT: "Checking the parent",
    StepName.UNPACK: "Pulling",
    StepName.VERIFY: "Verifying",
}
"""What a person reads. The other steps are short and have no line."""


_UNLIMITED = 1000
"""Columns: more than any line has."""


# What a step says


@dataclass(frozen=True)
class StepLine:
    """The parts of a step's line."""

    what: str
    percent: int | None  # 0 to 100, rounded down; None if the total is unknown
    counts: str = ""  # bytes if they are known, else files
    rate: str = ""
    elapsed: str = ""
    left: str = ""  # "" if it is unknown

    def text(self, width: int = _UNLIMITED) -> str:
        """Return what follows the percentage: the most important parts that fit."""
        for parts in (
            (self.counts, self.rate, self.elapsed, self.left),
            (self.counts, self.rate, self.left),
            (self.counts, self.left or self.elapsed),
            (self.left or self.elapsed,),
        ):
            text = ", ".join(filter(None, parts))
            if len(text) <= width:
                return text
        return ""


def step_line(step: Step) -> StepLine | None:
    """Return a step's line, or None for a step that has no line."""
    if step.name not in _STEP_WORDS:
        return None
    progress, seconds = step.current_progress(), step.seconds
    done, total = progress.done
    left = step.seconds_left()
    return StepLine(
        _STEP_WORDS[step.name],
        done * 100 // total if total else None,
        _counts(progress),
        f"{size(round(progress.bytes / seconds))}/s" if progress.bytes and seconds >= 1 else "",
        duration(seconds),
        "" if left is None else f"{duration(left)} left",
    )


def _counts(progress: Progress) -> str:
    if progress.total_bytes:
        return f"{size(progress.bytes)} of {size(progress.total_bytes)}"
    if progress.bytes:
        return size(progress.bytes)
    if progress.total_files:
        return f"{progress.files:,} of {number(progress.total_files, 'file')}"
    return number(progress.files, "file") if progress.files else ""


def emit_step(step: Step) -> None:
    """Write a step's JSON event, in JSON mode only."""
    progress = step.current_progress()
    state = "running" if step.ended is None else "failed" if step.failed else "done"
    counts = {
        "files": progress.files,
        "totalFiles": progress.total_files,
        "bytes": progress.bytes,
        "totalBytes": progress.total_bytes,
    }
    known = {key: count for key, count in counts.items() if count}
    emit("step", step=step.name.value, state=state, seconds=round(step.seconds, 3), **known)


# The modes


def choose_mode(option: str | None, quiet: bool) -> str:
    """Return one of PROGRESS_MODES, but not `auto`: the option's, else the environment's.

    Raises UsageError.
    """
    if quiet:
        if option not in (None, "auto", "quiet"):
            raise UsageError(f"--progress {option} and --quiet cannot be given together")
        return "quiet"
    source, mode = (
        ("--progress", option) if option else (PROGRESS_VARIABLE, os.environ.get(PROGRESS_VARIABLE))
    )
    mode, terminal = mode or "auto", _can_draw()
    if mode not in PROGRESS_MODES:
        raise UsageError(f"{source} is {mode!r}; it must be one of {', '.join(PROGRESS_MODES)}")
    if mode == "tty" and not terminal:
        raise UsageError(
            f"{source} is 'tty', but standard error is not a terminal to draw on",
            hint="Use --progress plain.",
        )
    return ("tty" if terminal else "plain") if mode == "auto" else mode


def _can_draw() -> bool:
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    # Without a width it is a log: of `script` or `ssh -tt` in CI, where each drawing would stay.
    return os.get_terminal_size(sys.stderr.fileno()).columns > 0


@contextlib.contextmanager
def reporting(mode: str, debug: bool) -> Iterator[Report]:
    """Show the steps of the block in a mode that `choose_mode` returned."""
    set_format(as_json=mode == "json")
    steps = Steps(emit_step) if mode == "json" else Steps()
    with _SHOWING[mode](steps):
        yield Report(mode == "quiet", debug, steps)


def _show_lines(steps: Steps) -> contextlib.AbstractContextManager[None]:
    def show_running() -> None:
        for line in _running_lines(steps):
            percent = "" if line.percent is None else f"{line.percent} %, "
            show(f"{line.what}: {percent}{line.text()}")

    return _repeating(show_running, _LINE_INTERVAL, _LINE_INTERVAL)


def _emit_events(steps: Steps) -> contextlib.AbstractContextManager[None]:
    def emit_running() -> None:
        for step in steps.running():
            emit_step(step)

    return _repeating(emit_running, _EVENT_INTERVAL, _EVENT_INTERVAL)


@contextlib.contextmanager
def _draw(steps: Steps) -> Iterator[None]:
    display = Display()
    with redirect_messages(display.show):
        try:
            with _repeating(
                lambda: display.draw(_running_lines(steps)), _FIRST_DRAW, _DRAW_INTERVAL
            ):
                yield
        finally:
            display.close()


_SHOWING: dict[str, Callable[[Steps], contextlib.AbstractContextManager[None]]] = {
    "tty": _draw,
    "plain": _show_lines,
    "json": _emit_events,
    "quiet": lambda steps: contextlib.nullcontext(),
}


def _running_lines(steps: Steps) -> list[StepLine]:
    return [line for step in steps.running() if (line := step_line(step))]


@contextlib.contextmanager
def _repeating(action: Callable[[], None], first: float, interval: float) -> Iterator[None]:
    """Call `action` in a thread while the block runs: after `first` seconds, then at intervals."""
    left = threading.Event()

    def repeat() -> None:
        wait = first
        with contextlib.suppress(OSError):  # the terminal is gone
            while not left.wait(wait):
                action()
                wait = interval

    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        left.set()


# The drawing

_DEFAULT_SIZE = (80, 25)  # columns and lines, if the terminal does not know
_BAR_WIDTH = 24
_WIDTH_WITH_BAR = 80  # a narrower terminal has no room for a bar

_ERASE = "\r\x1b[J"
"""Erases from the start of the line to the end of the screen (ECMA-48, ED)."""


class Display:
    """Lines at the bottom of the terminal, which disappear at the end, below the messages.

    One thread draws. Any thread shows messages.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._screen: _Screen | None = None
        self._closed = False

    def draw(self, lines: Sequence[StepLine]) -> None:
        """Replace the lines. Raises OSError if the terminal is gone."""
        with self._lock:
            if not self._closed:
                self._screen = self._screen or _Screen()
                self._screen.draw(lines)

    def show(self, message: str) -> None:
        """Show a message above the lines. Raises OSError if the terminal is gone."""
        with self._lock:
            (self._screen.show if self._screen else write_stderr)(message)

    def close(self) -> None:
        """Remove the lines."""
        with self._lock, contextlib.suppress(OSError):
            self._closed = True
            if self._screen:
                self._screen.close()


class _Screen:
    """The lines on stderr, as rich's columns draw them. Making one imports rich: 50 ms.

    Between two drawings the cursor is at the start of the first line. Wherever a terminal that
    changes its width moves the lines to, the next drawing begins there and erases all of them.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn

        class PlainConsole(Console):
            @property
            def encoding(self) -> str:
                return "utf-8" if shows_utf8(os.environ) else "ascii"

        self._console = PlainConsole(
            file=io.StringIO(), width=_UNLIMITED, color_system=None, force_terminal=True
        )
        self._drawn = ""
        self._spinner = SpinnerColumn("line")
        self._what = TextColumn("{task.description}", markup=False)
        self._percent = TaskProgressColumn("{task.percentage:3.0f} %", markup=False)
        self._bar = BarColumn(_BAR_WIDTH)
        self._counts = TextColumn("{task.fields[counts]}", markup=False)

    def draw(self, lines: Sequence[StepLine]) -> None:
        # COLUMNS stays the same when the terminal changes.
        width, height = os.get_terminal_size(sys.stderr.fileno())
        width, height = width or _DEFAULT_SIZE[0], height or _DEFAULT_SIZE[1]
        rows = self._render(lines[: height - 1], width) if lines else []
        back = f"\x1b[{len(rows) - 1}A" if len(rows) > 1 else ""
        self._drawn = "\n".join(rows) + back + "\r" if rows else ""
        self._write(_ERASE + self._drawn)

    def _render(self, lines: Sequence[StepLine], width: int) -> list[str]:
        """Return the rows, each shorter than the terminal: a full one may wrap."""
        from rich.progress import Progress as Table

        bar = [self._bar] if width >= _WIDTH_WITH_BAR else []
        columns = (self._spinner, self._what, self._percent, *bar, self._counts)
        before = len("- ") + max(len(line.what) for line in lines) + len(" 100 % ")
        room = width - 1 - before - (_BAR_WIDTH + 1 if bar else 0)
        table = Table(*columns, console=self._console)
        for line in lines:
            total = None if line.percent is None else 100
            table.add_task(
                line.what, total=total, completed=line.percent or 0, counts=line.text(room)
            )
        with self._console.capture() as capture:
            self._console.print(table)
        return [row[: width - 1].rstrip() for row in capture.get().splitlines()]

    def show(self, message: str) -> None:
        # The terminal wraps long lines, so a copied message has no extra line ends.
        self._write(f"{_ERASE}{message}\n{self._drawn}")

    def close(self) -> None:
        self._drawn = ""
        self._write(_ERASE)

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
