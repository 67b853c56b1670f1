"""Lines that fit a terminal: tables, cut texts, folded texts.

All functions are pure. Widths are in cells: a wide character takes two, a combining one none. Texts
are escaped before (`text.line_safe`). Nothing is cut where the room is not limited.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_DIGITS = 12
"""Of a digest or a commit: enough to name it, as docker has it."""


_INDENT = 2
"""Of a text that stands below its label."""


@dataclass(frozen=True)
class Room:
    """The room of a line on standard output."""

    cells: int | None = None  # None: not a terminal, or one that does not know its width
    is_utf8: bool = True

    @property
    def ellipsis(self) -> str:
        """What stands in the place of text that was cut."""
        return "…" if self.is_utf8 else "..."


UNLIMITED = Room()


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str = ""
    least: int = 0  # cells that it may shrink to; 0: it does not shrink
    drop: int = 0  # the table loses the column with the highest number first; 0: it stays
    is_right: bool = False  # aligned


def cells(text: str) -> int:
    """Return the cells that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # 15 ms

    return cell_len(text)


def cut(text: str, width: int, room: Room = UNLIMITED) -> str:
    """Return at most `width` cells of a text: its beginning, an ellipsis, and more of its end.

    The end of a path says more than its beginning.
    """
    if cells(text) <= width:
        return text
    left = width - len(room.ellipsis)
    if left < 1:
        return _head(text, width)
    head = _head(text, left // 3)
    return head + room.ellipsis + _tail(text, left - cells(head))


def fit(text: str, room: Room) -> str:
    """Return a text cut to the room of a line."""
    return text if room.cells is None else cut(text, room.cells, room)


def short(digits: str, room: Room) -> str:
    """Return the first 12 digits of a digest or a commit on a terminal, all of it elsewhere."""
    return digits if room.cells is None else digits.removeprefix("sha256:")[:_DIGITS]


def fold(text: str, width: int | None) -> list[str]:
    """Return the lines of a text, each of at most `width` cells, folded between words.

    A longer word continues on the next line.
    """
    if width is None or cells(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        if line and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while cells(line) > width:
            head = _head(line, width) or line[:1]
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line] if line else lines


def indented(label: str, text: str, room: Room) -> list[str]:
    """Return the lines of a label and a text that is folded beside it.

    If one of its words, a path for example, has no room beside the label, the text is below it.
    """
    if room.cells is None:
        return [f"{label}{text}"]
    beside = room.cells - cells(label)
    if max(map(cells, text.split(" "))) <= beside:
        first, *others = fold(text, beside)
        return [f"{label}{first}", *(" " * cells(label) + line for line in others)]
    below = [" " * _INDENT + line for line in fold(text, max(1, room.cells - _INDENT))]
    return [label.rstrip(), *below] if label.strip() else below


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], room: Room, gap: int = 3
) -> Iterator[str]:
    """Yield the lines of a table as docker prints it, its titles first if it has any.

    Columns shrink first. Then the least important ones are dropped, one after the other.
    """
    if any(column.title for column in columns):
        rows = [[column.title for column in columns], *rows]
    natural = [max(map(cells, texts), default=0) for texts in zip(*rows, strict=True)]
    shown = _shown_columns(columns, natural, room.cells, gap)
    widths = _shrunk(columns, natural, shown, room.cells, gap)
    for row in rows:
        line = (" " * gap).join(
            _padded(cut(row[place], widths[place], room), widths[place], columns[place].is_right)
            for place in shown
        )
        yield fit(line.rstrip(), room)


def _shown_columns(
    columns: Sequence[Column], natural: Sequence[int], width: int | None, gap: int
) -> list[int]:
    """Return the places of the columns that the room is enough for, once they have shrunk."""
    shown = list(range(len(natural)))

    def least(place: int) -> int:
        return min(natural[place], columns[place].least or natural[place])

    while width is not None and sum(map(least, shown)) + gap * (len(shown) - 1) > width:
        place = max(shown, key=lambda place: columns[place].drop)
        if not columns[place].drop:
            break
        shown.remove(place)
    return shown


def _shrunk(
    columns: Sequence[Column],
    natural: Sequence[int],
    shown: Sequence[int],
    width: int | None,
    gap: int,
) -> list[int]:
    """Return the widths of all columns; the widest of those that shrink gives the most."""
    widths = list(natural)
    if width is None:
        return widths
    excess = sum(natural[place] for place in shown) + gap * (len(shown) - 1) - width
    elastic = [place for place in shown if columns[place].least]
    for place in sorted(elastic, key=lambda place: natural[place], reverse=True):
        given = max(0, min(excess, natural[place] - columns[place].least))
        widths[place] -= given
        excess -= given
    return widths


def _padded(text: str, width: int, is_right: bool) -> str:
    blank = " " * (width - cells(text))
    return blank + text if is_right else text + blank


def _head(text: str, width: int) -> str:
    """Return the longest beginning of a text that takes at most `width` cells."""
    if text.isascii():
        return text[:width]
    return text[: _longest(len(text), lambda count: cells(text[:count]), width)]


def _tail(text: str, width: int) -> str:
    """Return the longest end of a text that takes at most `width` cells."""
    size = len(text)
    if text.isascii():
        return text[size - width :]
    start = size - _longest(size, lambda count: cells(text[size - count :]), width)
    while start < size and not cells(text[start]):  # it belongs to the character before
        start += 1
    return text[start:]


def _longest(limit: int, width_of: Callable[[int], int], width: int) -> int:
    """Return the largest count up to `limit` whose characters take at most `width` cells."""
    return bisect_right(range(limit + 1), width, key=width_of) - 1
