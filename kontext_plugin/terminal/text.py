"""What a command answers on stdout: lines, aligned columns, JSON; nothing raw from outside.

Text as it may be shown: without secrets, and nothing in it that commands a terminal. Pure.

Numbers are as docker prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence


def line_safe(text: str) -> str:
    """A path, a link's target or a label, escaped so that it is one harmless piece of a line."""
    if text.isprintable():
        return text
    return printable(text).replace("\n", "\\n")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as docker prints tables: each column as wide as it must be, three spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def json_document(value: object) -> str:
    """A JSON document for people and programs, its keys in the order given."""
    import json  # here and below: 1 ms that no --help needs

    return _ascii(json.dumps(value, indent=2))


def json_array(items: Iterable[object]) -> Iterator[str]:
    """The lines of a JSON array, one an item, however many there are."""
    import json

    yield "["
    pending = ""
    for item in items:
        if pending:
            yield f"  {pending},"
        pending = _ascii(json.dumps(item))
    if pending:
        yield f"  {pending}"
    yield "]"


def _ascii(encoded: str) -> str:
    # The one control character that json leaves as it is.
    return encoded.replace("\x7f", "\\u007f")


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


def duration(seconds: float) -> str:
    """Whole seconds as docker prints them: `5s`, `1m05s`, `1h02m05s`."""
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m{rest:02}s" if hours else f"{minutes}m{rest:02}s"


def number(count: int, noun: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
