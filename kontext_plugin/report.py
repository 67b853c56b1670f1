"""What a person sees: messages on stderr, numbers made readable, nothing raw from outside."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Timings:
    """How long each step took, in seconds."""

    _started: float = field(default_factory=time.perf_counter)
    _steps: list[tuple[float, float, str]] = field(default_factory=list)  # begin, end, name

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._steps.append((begun, time.perf_counter(), name))

    def __str__(self) -> str:
        """A line a step, in the order of their beginnings; some run at the same time."""
        now = time.perf_counter()
        lines = [
            f"  {begun - self._started:7.3f} s + {end - begun:7.3f} s  {name}"
            for begun, end, name in sorted(self._steps)
        ]
        return "\n".join([*lines, f"  {now - self._started:7.3f} s in all"])


@dataclass(frozen=True)
class Report:
    quiet: bool = False
    debug: bool = False

    def say(self, text: str) -> None:
        """How the work goes; not with --quiet."""
        if not self.quiet:
            show(text)

    def tell(self, text: str) -> None:
        """What was asked for, also with --quiet."""
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


# What may be a secret: userinfo and queries of URLs and names, authorization headers, docker's
# and OAuth's JSON (also within JSON), what a credential helper printed. Each pattern begins with
# something rare, and a word is looked at once: whatever the text, the time grows as its length.
_SECRETS = re.compile(
    r"(?P<key>(?i:\bauthorization[\\\"']{0,4}[:=] ?[\[\\\"']{0,4}))"
    r"(?:[\w-]{1,20} )?[^\s\"'\]\\]+"
    r"|(?i:\b(?:basic|bearer) [^\s\"']+)"
    r"|(?P<name>(?i:\"(?:auth|password|secret|(?:identity|registry|access_|refresh_|id_)?token)"
    r"\\{0,4}\" ?: ?\\{0,4}\"))[^\"\\]+"
    r"|(?P<helper>out: `)[^`]*"
)
_WORD = re.compile(r"[^\s\"'`]+")
_QUERY = re.compile("[?&]")


def redact(text: str) -> str:
    """`text` without what may be a secret."""
    text = _SECRETS.sub(
        lambda found: (found[found.lastgroup] if found.lastgroup else "") + "…", text
    )
    return _WORD.sub(lambda found: _redacted_word(found[0]), text)


def _redacted_word(word: str) -> str:
    """Of what may be a URL or an image's name."""
    if query := _QUERY.search(word):
        pairs = word[query.end() :].split("&")
        word = word[: query.end()] + "&".join("…" if "=" in pair else pair for pair in pairs)
    if "@" not in word:
        return word
    pieces = word.split("/")
    for index, piece in enumerate(pieces):
        name, digest, rest = piece.partition("@sha256:")
        user, at, host = name.rpartition("@")
        if at and (":" in user or (index >= 2 and not pieces[index - 1])):
            pieces[index] = f"…{host}{digest}{rest}"
    return "/".join(pieces)


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
