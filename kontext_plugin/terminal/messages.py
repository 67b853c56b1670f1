"""Messages on stderr, as text or as JSON, and answers on stdout.

Messages are redacted and escaped here: no secret and no control character reaches stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kontext_plugin.errors import KontextError

if TYPE_CHECKING:
    from kontext_plugin.terminal.steps import Steps
    from kontext_plugin.terminal.table import Room

_PREFIXES = {"error": "ERROR: ", "warning": "WARNING: "}


def _new_steps() -> Steps:
    from kontext_plugin.terminal.steps import Steps  # here and below: 6 ms that no help needs

    return Steps()


@dataclass(frozen=True)
class Report:
    """Where a command reports its messages and steps."""

    quiet: bool = False
    show_debug: bool = False
    steps: Steps = field(default_factory=_new_steps)

    def info(self, text: str) -> None:
        """Show how the work goes. --quiet hides it."""
        if not self.quiet:
            self.say(text)

    def result(self, text: str) -> None:
        """Show what was done. --quiet hides it."""
        if not self.quiet:
            show(text)

    def notice(self, text: str) -> None:
        """Show what the user asked for, also with --quiet."""
        self.say(text)

    def warning(self, text: str) -> None:
        """Show a warning. --quiet hides it."""
        if not self.quiet:
            self.important(text)

    def important(self, text: str) -> None:
        """Show a warning, also with --quiet."""
        self.say(text, "warning")

    def debug(self, text: str) -> None:
        """Show a detail if docker runs with -D."""
        if self.show_debug:
            show(text, "debug")

    def say(self, text: str, kind: str = "message") -> None:
        """Show a message of a `kind` as in `show`."""
        show(text, kind)


def write_stderr(text: str) -> None:
    """Write a line as it is. Raises OSError."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@dataclass
class _Stderr:
    """How messages are written: global, since a process has one stderr."""

    as_json: bool = False
    write: Callable[[str], None] = write_stderr
    lock: threading.Lock = field(default_factory=threading.Lock)


_stderr = _Stderr()


def set_format(*, as_json: bool) -> None:
    """Write each message from now on as a JSON object on one line, or as text."""
    _stderr.as_json = as_json


@contextlib.contextmanager
def redirect_messages(write: Callable[[str], None]) -> Iterator[None]:
    """Pass each message in the block to `write`, which may draw on the terminal too."""
    before, _stderr.write = _stderr.write, write
    try:
        yield
    finally:
        _stderr.write = before


def show(text: str, kind: str = "message", *, hint: str = "", exit_code: int = 0) -> None:
    """Write a message. A stderr that cannot be written is no error.

    `kind` is the `type` in JSON: message, warning, debug, error or interrupted.
    """
    if _stderr.as_json:
        facts: dict[str, str | int] = {"text": text, "hint": hint, "exitCode": exit_code}
        emit(kind, **{key: value for key, value in facts.items() if value})
    else:
        _write(_PREFIXES.get(kind, "") + _safe(text) + (f"\n{_safe(hint)}" if hint else ""))


def emit(kind: str, /, **facts: str | int | float) -> None:
    """Write a JSON object of that `type`, in JSON mode only."""
    if _stderr.as_json:
        import json

        safe = {key: _safe(fact) if isinstance(fact, str) else fact for key, fact in facts.items()}
        _write(json.dumps({"type": kind, **safe}))


def _write(text: str) -> None:
    with contextlib.suppress(OSError), _stderr.lock:
        _stderr.write(text)


def _safe(text: str) -> str:
    from kontext_plugin.terminal.text import printable, redact

    return printable(redact(text))


def stdout_room() -> Room:
    """Return the room of a line on standard output, which is limited on a terminal."""
    from kontext_plugin.terminal.table import Room
    from kontext_plugin.terminal.text import shows_utf8

    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):  # a pipe or a file; a test's own stream
        width = 0
    return Room(width or None, shows_utf8(os.environ))


def write_stdout(lines: Iterable[str]) -> None:
    """Write lines as they come, and flush. Raises the errors of `put_stdout`."""
    put_stdout(f"{line}\n" for line in lines)


def put_stdout(pieces: Iterable[str]) -> None:
    """Write text as it comes, and flush. The caller escapes it (`text.line_safe`).

    Raises BrokenPipeError if the reader has gone, and KontextError for other failures.
    """
    try:
        sys.stdout.writelines(pieces)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise KontextError(f"cannot write to standard output: {error.strerror}") from error
