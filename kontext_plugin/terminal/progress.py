"""How the running steps are shown: drawn on a terminal, in lines, or as JSON events.

A terminal shows nothing in the first half second. rich is not imported before that.
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
from kontext_plugin.terminal.messages import (
    Report,
    emit,
    redirect_messages,
    set_format,
    show,
    write_stderr,
)
from kontext_plugin.terminal.steps import Step, StepName, Steps
from kontext_plugin.terminal.text import duration, number, shows_utf8, size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.progress import Progress as RichProgress

PROGRESS_MODES = ("auto", "tty", "plain", "json", "quiet")
"""The values of --progress."""

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
}
"""What a person reads. The other steps are short and have no line."""


# What a step says


@dataclass(frozen=True)
class StepLine:
    """The parts of a step's line."""

    what: str
    percent: int | None  # 0 to 100, rounded down; None if the total is unknown
    counts: str


def step_line(step: Step) -> StepLine | None:
    """Return a step's line, or None for a step that has no line."""
    if step.name not in _STEP_WORDS:
        return None
    progress, seconds = step.current_progress(), step.seconds
    done, total = progress.files, progress.total_files
    if progress.total_bytes:
        done, total = progress.bytes, progress.total_bytes
    parts = []
    if progress.total_files:
        parts.append(f"{progress.files:,} of {number(progress.total_files, 'file')}")
    elif progress.files:
        parts.append(number(progress.files, "file"))
    if progress.total_bytes:
        parts.append(f"{size(progress.bytes)} of {size(progress.total_bytes)}")
    elif progress.bytes:
        parts.append(size(progress.bytes))
    if progress.bytes and seconds >= 1:
        parts.append(f"{size(round(progress.bytes / seconds))}/s")
    parts.append(duration(seconds))
    return StepLine(
        _STEP_WORDS[step.name], done * 100 // total if total else None, ", ".join(parts)
    )


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
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


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
            show(f"{line.what}: {percent}{line.counts}")

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
_UNLIMITED = 1000


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
    """rich's live display on stderr. Making one imports rich, which takes 50 ms."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn

        class PlainConsole(Console):
            def show_cursor(self, show: bool = True) -> bool:
                return False  # a push that is killed would leave the cursor hidden

            @property
            def encoding(self) -> str:
                return "utf-8" if shows_utf8(os.environ) else "ascii"

        self._console = PlainConsole(
            file=sys.stderr,
            force_terminal=True,
            force_interactive=True,
            color_system=None,
            no_color=True,
            highlight=False,
            markup=False,  # [red] in a name is no colour
            emoji=False,
        )
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._spinner = SpinnerColumn("line")
        self._what = TextColumn("{task.description}", markup=False)
        self._percent = TaskProgressColumn("{task.percentage:3.0f} %", markup=False)
        self._bar = BarColumn(_BAR_WIDTH)
        self._counts = TextColumn("{task.fields[counts]}", markup=False)

    def draw(self, lines: Sequence[StepLine]) -> None:
        # rich believes COLUMNS, which stays the same when the terminal changes.
        width, height = os.get_terminal_size(sys.stderr.fileno())
        self._console.size = (width or _DEFAULT_SIZE[0], height or _DEFAULT_SIZE[1])
        self._live.start()  # only the first call counts
        # rich 13 leaves an empty line behind after a table without rows.
        self._live.update(_Cropped(self._table(lines)) if lines else "", refresh=True)

    def _table(self, lines: Sequence[StepLine]) -> RichProgress:
        from rich.progress import Progress

        bar = [self._bar] if self._console.width >= _WIDTH_WITH_BAR else []
        columns = (self._spinner, self._what, self._percent, *bar, self._counts)
        table = Progress(*columns, console=self._console)
        for line in lines:
            total = None if line.percent is None else 100
            table.add_task(line.what, total=total, completed=line.percent or 0, counts=line.counts)
        return table

    def show(self, message: str) -> None:
        from rich.text import Text

        # soft_wrap: the terminal wraps long lines, so a copied message has no extra line ends.
        self._console.print(Text(message), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


@dataclass(frozen=True)
class _Cropped:
    """A table whose columns do not shrink: a narrow terminal loses the columns on the right.

    rich itself would shrink all columns alike.
    """

    table: RichProgress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update(max_width=_UNLIMITED))
