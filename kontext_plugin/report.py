"""What a person sees: messages on stderr, numbers made readable, nothing raw from outside."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    quiet: bool = False
    debug: bool = False

    def say(self, text: str) -> None:
        """How the work goes; not with --quiet."""
        if not self.quiet:
            show(text)

    def warn(self, text: str) -> None:
        self.say(f"WARNING: {text}")

    def alert(self, text: str) -> None:
        """What must be known even with --quiet."""
        show(f"WARNING: {text}")

    def trace(self, text: str) -> None:
        """For `docker -D`."""
        if self.debug:
            show(text)


def show(text: str) -> None:
    """A message that cannot be shown stops nothing."""
    with contextlib.suppress(OSError):
        print(printable(redact(text)), file=sys.stderr, flush=True)


# What may be a secret: userinfo and queries of URLs and names, authorization headers, what a
# credential helper printed.
_SECRETS = re.compile(
    r"(?<=://)[^\s/'\"]+@|[^\s/@:'\"]*:[^\s/'\"]+@(?!sha256:)"
    r"|(?<=[?&])[^=&\s]*=[^&\s\"]+"
    r"|(?i:\b(?:basic|bearer) [^\s\"]+)"
    r"|(?<=out: `)[^`]*"
)


def redact(text: str) -> str:
    return _SECRETS.sub("…", text)


def printable(text: str) -> str:
    """`text` with all control and unprintable characters but line ends escaped: names from a tree
    or a registry must not command the terminal."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def size(count: int) -> str:
    """Bytes as docker prints them: decimal units, three digits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"


def number(count: int, noun: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
