"""The errors that Kontext raises on purpose, and the exit codes (docs/exit-codes.md)."""

from __future__ import annotations

FAILED = 1

DIFFERENT = 1

USAGE = 125

TROUBLE = 128

INTERRUPTED = 130

CLOSED_PIPE = 141


class KontextError(Exception):
    """A failure that the user can understand and act on.

    `message` says what failed, and on which file or registry. `hint` says what to do.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageError(KontextError):
    """A wrong command line. As with docker, the exit code is 125."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=USAGE)


def reason_of(error: Exception) -> str:
    """Return why something failed: the system's own words, if the system refused it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def brief(value: object, limit: int = 120) -> str:
    """Return the first `limit` characters of a text from outside, on one line for a message."""
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= limit else text[:limit] + "…"
