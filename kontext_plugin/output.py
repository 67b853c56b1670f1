"""What a command answers on stdout: lines, aligned columns, JSON; nothing raw from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from kontext_plugin.errors import KontextError
from kontext_plugin.text import printable


def write(lines: Iterable[str]) -> None:
    """Writes the lines as they come, and flushes. Raises as `put`."""
    put(f"{line}\n" for line in lines)


def put(pieces: Iterable[str]) -> None:
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


def name(text: str) -> str:
    """A path, a link's target or a label, escaped so that it is one harmless piece of a line."""
    if text.isprintable():
        return text
    return printable(text).replace("\n", "\\n")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as docker prints tables: each column as wide as it must be, three spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def document(value: object) -> str:
    """A JSON document for people and programs, its keys in the order given."""
    import json  # here and below: 1 ms that no --help needs

    return _ascii(json.dumps(value, indent=2))


def array(items: Iterable[object]) -> Iterator[str]:
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
