"""What a person, or a program with --progress json, sees on stderr.

Nothing raw from outside gets there, and no secret.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kontext_plugin.steps import Step, Steps
from kontext_plugin.text import duration, number, printable, redact, size

_PREFIXES = {"error": "ERROR: ", "warning": "WARNING: "}

_DOING = {
    "git ls-files": "Asking git",
    "scan": "Scanning",
    "hash": "Hashing",
    "wait for the registry": "Waiting for the registry",
    "write layers": "Writing layers",
    "crane push": "Uploading",
    "crane mutate": "Uploading",
}
"""The steps that take their time."""


@dataclass(frozen=True)
class Report:
    quiet: bool = False
    debug: bool = False
    steps: Steps = field(default_factory=Steps)

    def say(self, text: str) -> None:
        """How the work goes; not with --quiet."""
        if not self.quiet:
            show(text)

    def tell(self, text: str) -> None:
        """What was asked for, also with --quiet."""
        show(text)

    def warn(self, text: str) -> None:
        if not self.quiet:
            self.alert(text)

    def alert(self, text: str) -> None:
        """What must be known even with --quiet."""
        show(text, "warning")

    def trace(self, text: str) -> None:
        """For `docker -D`."""
        if self.debug:
            show(text, "debug")


def write(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@dataclass
class _Voice:
    """How this process talks: it has one stderr, so there is one voice."""

    as_json: bool = False
    write: Callable[[str], None] = write
    lock: threading.Lock = field(default_factory=threading.Lock)


_voice = _Voice()


def speak(*, as_json: bool) -> None:
    """From now on a message is a JSON object on a line, or the text itself."""
    _voice.as_json = as_json


@contextlib.contextmanager
def diverted(write: Callable[[str], None]) -> Iterator[None]:
    """Has another one write messages in the block: whoever keeps lines of the terminal."""
    before, _voice.write = _voice.write, write
    try:
        yield
    finally:
        _voice.write = before


def show(text: str, kind: str = "message", *, hint: str = "", exit_code: int = 0) -> None:
    """A message that cannot be shown stops nothing."""
    if _voice.as_json:
        facts: dict[str, str | int] = {"text": text, "hint": hint, "exitCode": exit_code}
        emit(kind, **{key: value for key, value in facts.items() if value})
    else:
        _send(_PREFIXES.get(kind, "") + _safe(text) + (f"\n{_safe(hint)}" if hint else ""))


def emit(kind: str, /, **facts: str | int | float) -> None:
    """What a program alone wants to know, if one listens."""
    if _voice.as_json:
        import json

        safe = {key: _safe(it) if isinstance(it, str) else it for key, it in facts.items()}
        _send(json.dumps({"type": kind, **safe}))


def _send(text: str) -> None:
    with contextlib.suppress(OSError), _voice.lock:
        _voice.write(text)


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
class Doing:
    """What a step looks like on its way."""

    what: str
    percent: int | None  # 0 to 100; 100 is reached at the end only
    counts: str


def doing(step: Step) -> Doing | None:
    """None for a step that takes no time worth telling of."""
    if step.name not in _DOING:
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
    return Doing(_DOING[step.name], done * 100 // total if total else None, ", ".join(parts))


def _safe(text: str) -> str:
    return printable(redact(text))
