"""What goes to stdout: lines that stay lines, JSON that stays JSON, whatever the names are."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.errors import KontextError
from kontext_plugin.terminal.messages import write_stdout
from kontext_plugin.terminal.text import aligned, json_array, json_document, line_safe

NAMES = {
    "plain": ("src/main.c", "src/main.c"),
    "not ASCII": ("ä/ß😀", "ä/ß😀"),
    "spaces": (" two words ", " two words "),
    "line ends": ("a\nb\r\n", r"a\nb\r\n"),
    "Unicode's line ends": ("a\u2028b\x85", r"a\u2028b\x85"),
    "escape sequences": ("\x1b[31mred\x9b0m", r"\x1b[31mred\x9b0m"),
    "the other way round": ("\u202egpj.exe", r"\u202egpj.exe"),
    "no Unicode": ("\udcff", r"\udcff"),
}


@pytest.mark.parametrize(("text", "shown"), NAMES.values(), ids=NAMES)
def test_names(text: str, shown: str) -> None:
    assert line_safe(text) == shown


@given(st.text())
def test_a_name_never_leaves_its_line(text: str) -> None:
    assert line_safe(text).isprintable()


def test_columns() -> None:
    rows = [("LAYER", "SIZE", "ROLE"), ("sha256:ab", "1kB", "base"), ("x", "", "")]
    assert aligned(rows) == ["LAYER       SIZE   ROLE", "sha256:ab   1kB    base", "x"]


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none())))
def test_json_is_what_went_in_and_ascii(items: list[dict[str, object]]) -> None:
    lines = list(json_array(items))
    assert len(lines) == len(items) + 2, "a line an item"
    for text in ("\n".join(lines), json_document(items)):
        assert text.isascii()
        assert text.replace("\n", "").isprintable()
        assert json.loads(text) == items


def test_lines_are_written_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    write_stdout(line for line in ("one", "two"))
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # Closing it tries once more to write what is left.
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(KontextError, match="No space left on device"):
            write_stdout("line" for _ in range(100_000))


def test_a_reader_that_is_gone_is_no_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(BrokenPipeError):
            write_stdout(["line"])
