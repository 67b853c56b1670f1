"""What fits a line: cells, cut and folded texts, tables of every width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.terminal.table import (
    UNLIMITED,
    Column,
    Room,
    cells,
    cut,
    fit,
    fold,
    indented,
    short,
    table,
)

CELLS = {
    "ASCII": ("a b", 3),
    "no text": ("", 0),
    "CJK": ("漢字", 4),
    "half-width": ("ｱ", 1),
    "an emoji": ("a😀", 3),
    "a combining accent": ("e\u0301", 1),
}


@pytest.mark.parametrize(("text", "width"), CELLS.values(), ids=CELLS)
def test_cells(text: str, width: int) -> None:
    assert cells(text) == width


CUT = {
    "it fits": ("src/main.c", 10, "src/main.c"),
    "one too many": ("src/main.c", 9, "sr…main.c"),
    "wide characters are not halved": ("漢字漢字", 6, "…漢字"),
    "a wide one fits": ("漢字漢字", 7, "漢…漢字"),
    "a combining character stays with its own": ("aaaaae\u0301xx", 4, "a…xx"),
    "an ellipsis alone": ("src/main.c", 1, "s"),
    "nothing": ("src/main.c", 0, ""),
}


@pytest.mark.parametrize(("text", "width", "shown"), CUT.values(), ids=CUT)
def test_cut(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


def test_a_terminal_without_utf_8_gets_three_dots() -> None:
    assert fit("src/package/main.c", Room(12, is_utf8=False)) == "src...main.c"


@given(st.text("ab/漢😀\u0301ｱ", max_size=40), st.integers(0, 40))
def test_a_cut_text_has_its_beginning_and_its_end(text: str, width: int) -> None:
    shown = cut(text, width)
    assert cells(shown) <= width
    if shown != text and "…" in shown:
        head, _, tail = shown.partition("…")
        assert text.startswith(head) and text.endswith(tail)
        assert cells(shown) >= width - 2, "no more is lost than a wide character at each side"


def test_what_is_no_terminal_gets_everything() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    assert short(digest, UNLIMITED) == digest
    assert short(digest, Room(50)) == "0123456789ab"
    assert fit("x" * 500, UNLIMITED) == "x" * 500
    assert fold("x y", None) == ["x y"]
    assert indented("a: ", "x " * 90, UNLIMITED) == ["a: " + "x " * 90]


FOLDED = {
    "it fits": ("one two", 7, ["one two"]),
    "between words": ("one two three", 8, ["one two", "three"]),
    "a long word": ("to /a/very/long/path", 8, ["to", "/a/very/", "long/pat", "h"]),
    "wide characters": ("漢字漢字 漢", 5, ["漢字", "漢字", "漢"]),
    "no room": ("漢a", 1, ["漢", "a"]),
}


@pytest.mark.parametrize(("text", "width", "lines"), FOLDED.values(), ids=FOLDED)
def test_fold(text: str, width: int, lines: list[str]) -> None:
    assert fold(text, width) == lines


@given(st.text("ab 漢", max_size=60), st.integers(2, 30))
def test_a_folded_text_loses_nothing_but_spaces(text: str, width: int) -> None:
    lines = fold(text, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_indented() -> None:
    text = "version 3 of the manifest"
    assert indented("Manifest: ", text, Room(22)) == [
        "Manifest: version 3 of",
        "          the manifest",
    ]
    below = ["Manifest:", "  version 3 of", "  the manifest"]
    assert indented("Manifest: ", text, Room(17)) == below, "a word has no room beside the label"
    assert indented("          ", "/a/long/path", Room(17)) == ["  /a/long/path"]


COLUMNS = (
    Column("NAME", least=6),
    Column("NUMBER", drop=1, is_right=True),
    Column("WHEN", drop=2),
)
ROWS = [("registry/app:dev", "5", "today"), ("~1", "12", "a day ago")]

TABLES: dict[str, tuple[int | None, list[str]]] = {
    "a pipe": (
        None,
        [
            "NAME               NUMBER   WHEN",
            "registry/app:dev        5   today",
            "~1                     12   a day ago",
        ],
    ),
    "room for everything": (
        37,
        [
            "NAME               NUMBER   WHEN",
            "registry/app:dev        5   today",
            "~1                     12   a day ago",
        ],
    ),
    "a column shrinks": (
        30,
        [
            "NAME        NUMBER   WHEN",
            "re…pp:dev        5   today",
            "~1              12   a day ago",
        ],
    ),
    "the least important is dropped, and the first one grows again": (
        26,
        ["NAME               NUMBER", "registry/app:dev        5", "~1                     12"],
    ),
    "only the name": (14, ["NAME", "regi…y/app:dev", "~1"]),
    "less than the name may shrink to": (4, ["NAME", "r…ev", "~1"]),
}


@pytest.mark.parametrize(("width", "lines"), TABLES.values(), ids=TABLES)
def test_table(width: int | None, lines: list[str]) -> None:
    assert list(table(COLUMNS, ROWS, Room(width))) == lines


def test_a_table_without_titles_or_rows() -> None:
    assert list(table((Column(), Column()), [("漢", "a"), ("b", "c")], UNLIMITED, gap=1)) == [
        "漢 a",
        "b  c",
    ]
    assert list(table((Column(),), [], Room(50))) == []
    assert list(table((Column("X"),), [], Room(50))) == ["X"]


@given(st.lists(st.tuples(*[st.text("ab漢😀", max_size=30)] * 3), max_size=4), st.integers(1, 120))
def test_no_line_of_a_table_is_longer_than_the_room(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    for line in table(COLUMNS, rows, Room(width)):
        assert cells(line) <= width
