"""What a person, or a program with --progress json, sees on stderr.

Nothing raw from outside gets there, and no secret.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from kontext_plugin.errors import KontextError
from kontext_plugin.terminal.steps import Steps
from kontext_plugin.terminal.text import printable, redact

_PREFIXES = {"error": "ERROR: ", "warning": "WARNING: "}


@dataclass(frozen=True)
class Report:
    quiet: bool = False
    show_debug: bool = False
    steps: Steps = field(default_factory=Steps)

    def info(self, text: str) -> None:
        """How the work goes; not with --quiet."""
        if not self.quiet:
            show(text)

    def notice(self, text: str) -> None:
        """What was asked for, also with --quiet."""
        show(text)

    def warning(self, text: str) -> None:
        if not self.quiet:
            self.important(text)

    def important(self, text: str) -> None:
        """What must be known even with --quiet."""
        show(text, "warning")

    def debug(self, text: str) -> None:
        """For `docker -D`."""
        if self.show_debug:
            show(text, "debug")


def write_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@dataclass
class _Stderr:
    """How this process talks: it has one stderr, so there is one voice."""

    as_json: bool = False
    write: Callable[[str], None] = write_stderr
    lock: threading.Lock = field(default_factory=threading.Lock)


_stderr = _Stderr()


def set_format(*, as_json: bool) -> None:
    """From now on a message is a JSON object on a line, or the text itself."""
    _stderr.as_json = as_json


@contextlib.contextmanager
def diverted(write: Callable[[str], None]) -> Iterator[None]:
    """Has another one write messages in the block: whoever keeps lines of the terminal."""
    before, _stderr.write = _stderr.write, write
    try:
        yield
    finally:
        _stderr.write = before


def show(text: str, kind: str = "message", *, hint: str = "", exit_code: int = 0) -> None:
    """A message that cannot be shown stops nothing."""
    if _stderr.as_json:
        facts: dict[str, str | int] = {"text": text, "hint": hint, "exitCode": exit_code}
        emit(kind, **{key: value for key, value in facts.items() if value})
    else:
        _send(_PREFIXES.get(kind, "") + _safe(text) + (f"\n{_safe(hint)}" if hint else ""))


def emit(kind: str, /, **facts: str | int | float) -> None:
    """What a program alone wants to know, if one listens."""
    if _stderr.as_json:
        import json

        safe = {key: _safe(it) if isinstance(it, str) else it for key, it in facts.items()}
        _send(json.dumps({"type": kind, **safe}))


def _send(text: str) -> None:
    with contextlib.suppress(OSError), _stderr.lock:
        _stderr.write(text)


def _safe(text: str) -> str:
    return printable(redact(text))


def write_stdout(lines: Iterable[str]) -> None:
    """Writes the lines as they come, and flushes. Raises as `put`."""
    put_stdout(f"{line}\n" for line in lines)


def put_stdout(pieces: Iterable[str]) -> None:
    """Writes text as it comes, and flushes.

    Raises BrokenPipeError where the reader has gone, and KontextError.
    """
    try:
        sys.stdout.writelines(pieces)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise KontextError(f"standard output cannot be written: {error.strerror}") from error
