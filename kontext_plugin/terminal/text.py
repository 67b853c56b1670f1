"""Text for stdout and stderr: no secrets, nothing that controls a terminal, docker's formats.

All functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

# What may be a secret: userinfo and queries of URLs and names, authorization headers, docker's
# and OAuth's JSON (also within JSON), the output of a credential helper. Each pattern starts with
# something rare and looks at a word once, so the time grows only as fast as the text.
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
    """Return `text` with `…` for everything that may be a secret."""
    text = _SECRETS.sub(
        lambda match: (match[match.lastgroup] if match.lastgroup else "") + "…", text
    )
    return _WORD.sub(lambda match: _redact_word(match[0]), text)


def _redact_word(word: str) -> str:
    """Redact a word that may be a URL or the name of an image."""
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
    """Escape all unprintable characters except line ends.

    Names in a directory or a registry could otherwise send commands to the terminal.
    """
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def line_safe(text: str) -> str:
    """Escape a path, a symlink's target or a label, so that it stays within its line."""
    if text.isprintable():
        return text
    return printable(text).replace("\n", "\\n")


def shows_utf8(environment: Mapping[str, str]) -> bool:
    """Return whether the terminal's locale is a UTF-8 one (POSIX: the first variable that is set).

    sys.stderr.encoding does not know: the plugin runs Python with -X utf8.
    """
    locale = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return locale.lower().replace("-", "").endswith("utf8")


def size(count: int) -> str:
    """Return bytes as docker prints them: decimal units, three digits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"


def duration(seconds: float) -> str:
    """Return whole seconds as docker prints them: `5s`, `1m05s`, `1h02m05s`."""
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m{rest:02}s" if hours else f"{minutes}m{rest:02}s"


def ago(seconds: float) -> str:
    """Return an age in docker's words: `5 minutes ago`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{number(int(seconds // length), unit)} ago"
    return "just now"


def number(count: int, noun: str) -> str:
    """Return a count with its noun: `1 file`, `2,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def json_document(value: object) -> str:
    """Return an indented JSON document in ASCII. Keys keep their order."""
    import json  # here and below: 1 ms that --help does not need

    return _escape_delete(json.dumps(value, indent=2))


def json_array(items: Iterable[object]) -> Iterator[str]:
    """Yield the lines of a JSON array in ASCII, one line for each item."""
    import json

    yield "["
    pending = ""
    for item in items:
        if pending:
            yield f"  {pending},"
        pending = _escape_delete(json.dumps(item))
    if pending:
        yield f"  {pending}"
    yield "]"


def _escape_delete(encoded: str) -> str:
    # DEL is the only control character that json.dumps does not escape.
    return encoded.replace("\x7f", "\\u007f")
