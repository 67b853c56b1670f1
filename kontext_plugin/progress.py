"""How a command that may take its time is told of: on a terminal, in lines, or as JSON.

What takes less than half a second is told as ever: nothing is drawn for it, nor imported.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from kontext_plugin import report
from kontext_plugin.commands.table import PROGRESS
from kontext_plugin.errors import UsageError
from kontext_plugin.report import Doing, Report, doing
from kontext_plugin.steps import Steps

if TYPE_CHECKING:  # with rich, which takes 60 ms
    from kontext_plugin.display import Display

VARIABLE = "KONTEXT_PROGRESS"

_FIRST = 0.5  # seconds
_DRAWS = 0.1
_LINES = 5.0
_EVENTS = 1.0


def chosen(wanted: str | None, quiet: bool) -> str:
    """Which of PROGRESS it is, `auto` decided: an option's, else the environment's.

    Raises UsageError.
    """
    if quiet:
        if wanted not in (None, "auto", "quiet"):
            raise UsageError(f"--progress {wanted} and --quiet cannot be given together")
        return "quiet"
    mode, source = (wanted, "--progress") if wanted else (os.environ.get(VARIABLE), VARIABLE)
    mode, terminal = mode or "auto", _is_terminal()
    if mode not in PROGRESS:
        raise UsageError(f"{source} is {mode!r}, and must be one of {', '.join(PROGRESS)}")
    if mode == "tty" and not terminal:
        raise UsageError(f"{source} is 'tty', and standard error is no terminal to draw on")
    return ("tty" if terminal else "plain") if mode == "auto" else mode


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


@contextlib.contextmanager
def told(mode: str, debug: bool) -> Iterator[Report]:
    """What to report to in the block. `mode` is one that `chosen` returned."""
    report.speak(as_json=mode == "json")
    steps = Steps(report.emit_step) if mode == "json" else Steps()
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
            report.show(f"{it.what}: {percent}{it.counts}")

    with _every(_LINES, _LINES, tell):
        yield


@contextlib.contextmanager
def _as_json(steps: Steps) -> Iterator[None]:
    def tell() -> None:
        for step in steps.running():
            report.emit_step(step)

    with _every(_EVENTS, _EVENTS, tell):
        yield


@contextlib.contextmanager
def _drawn(steps: Steps) -> Iterator[None]:
    drawing = _Drawing()
    with report.diverted(drawing.say):
        try:
            with _every(_FIRST, _DRAWS, lambda: drawing.draw(_doings(steps))):
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

    def draw(self, current: Sequence[Doing]) -> None:
        from kontext_plugin.display import Display

        with self._lock:
            if not self._over:
                self._display = self._display or Display()
                self._display.draw(current)

    def say(self, text: str) -> None:
        with self._lock:
            (self._display.say if self._display else report.write)(text)

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._over = True
            if self._display:
                self._display.close()


@contextlib.contextmanager
def _every(first: float, then: float, tell: Callable[[], None]) -> Iterator[None]:
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


def _doings(steps: Steps) -> list[Doing]:
    return [now for step in steps.running() if (now := doing(step))]
