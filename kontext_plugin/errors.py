"""The root of what Kontext raises on purpose; cli.py turns it into a message and exit code."""

from __future__ import annotations

FAILED = 1

DIFFERENT = 1

USAGE = 125

TROUBLE = 128

INTERRUPTED = 130


class KontextError(Exception):
    """Something went wrong in a way that the user can understand and act on.

    `message` says what happened and to which file or registry; `hint` says what to do.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageError(KontextError):
    """The command line is wrong; docker's convention is exit code 125."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=USAGE)


def reason_of(error: Exception) -> str:
    """Why something failed: in the system's words where the system refused it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def brief(value: object, limit: int = 120) -> str:
    """The beginning of a text, on one line, for messages that repeat what came from outside."""
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= limit else text[:limit] + "…"
