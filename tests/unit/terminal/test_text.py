"""Text that is safe to show: no secrets, nothing that controls a terminal, docker's formats."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokens import MESSAGES_WITH_SECRETS as SECRETS

from kontext_plugin.terminal.text import (
    duration,
    json_array,
    json_document,
    line_safe,
    number,
    printable,
    redact,
    shows_utf8,
    size,
)

PRINTABLE = {
    "plain": ("a b\nc", "a b\nc"),
    "other scripts": ("äß漢字😀", "äß漢字😀"),
    "escape": ("\x1b[2J", r"\x1b[2J"),
    "C1 escape": ("\x9b2J", r"\x9b2J"),
    "carriage return": ("good\rbad", r"good\rbad"),
    "tab": ("a\tb", r"a\tb"),
    "bell, backspace, delete": ("\a\b\x7f", r"\x07\x08\x7f"),
    "NUL": ("\0", r"\x00"),
    "right to left": ("\u202etxt.exe", r"\u202etxt.exe"),
    "invisible": ("a\u200bb", r"a\u200bb"),
    "line separator": ("a\u2028b\x85", r"a\u2028b\x85"),
    "not UTF-8": ("\udcff", r"\udcff"),
}


@pytest.mark.parametrize(("text", "shown"), PRINTABLE.values(), ids=PRINTABLE)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_only_line_ends_and_printable_characters_are_shown(text: str) -> None:
    shown = printable(redact(text))
    assert all(character == "\n" or character.isprintable() for character in shown)
    shown.encode()


@pytest.mark.parametrize("category", ["Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"])
def test_no_character_of_a_dangerous_category_is_shown(category: str) -> None:
    """Controls, formats (which reverse or hide text), unassigned ones, line separators."""
    characters = [chr(code) for code in range(0x110000) if chr(code) != "\n"]
    some = [character for character in characters if unicodedata.category(character) == category]
    assert some
    assert not set(some) & set(printable("".join(some)))


NAMES = {
    "plain": ("src/main.c", "src/main.c"),
    "not ASCII": ("ä/ß😀", "ä/ß😀"),
    "spaces": (" two words ", " two words "),
    "line ends": ("a\nb\r\n", r"a\nb\r\n"),
    "Unicode's line ends": ("a\u2028b\x85", r"a\u2028b\x85"),
    "escape sequences": ("\x1b[31mred\x9b0m", r"\x1b[31mred\x9b0m"),
    "right to left": ("\u202egpj.exe", r"\u202egpj.exe"),
    "not UTF-8": ("\udcff", r"\udcff"),
}


@pytest.mark.parametrize(("text", "shown"), NAMES.values(), ids=NAMES)
def test_line_safe(text: str, shown: str) -> None:
    assert line_safe(text) == shown


@given(st.text())
def test_a_name_stays_within_its_line(text: str) -> None:
    assert line_safe(text).isprintable()


@pytest.mark.parametrize(("text", "stays"), SECRETS.values(), ids=SECRETS)
def test_secrets_are_redacted(text: str, stays: str) -> None:
    assert "S3" not in redact(text)
    assert stays in redact(text)


NO_SECRETS = [
    "host.io:5000/r/r:t@sha256:00", "a@b.c", "'src/a b@c'", "10:20", "what?", "https://host.io/v2/x",
    "https://[::1]:5000/v2/", "Basically fine", "no authorization for it", '"tokens": "many"',
]  # fmt: skip


@pytest.mark.parametrize("text", NO_SECRETS)
def test_other_text_is_not_redacted(text: str) -> None:
    assert redact(f"x {text} y") == f"x {text} y"


@given(
    st.text(st.sampled_from("aA:/@?&=\"'`\\{}[] \n.0…"), max_size=30),
    st.sampled_from(sorted(SECRETS)),
)
def test_secrets_are_redacted_in_any_text(around: str, kind: str) -> None:
    text = SECRETS[kind][0]
    assert "S3" not in redact(f"{around} {text} {around}")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0s"), (59.9, "59s"), (60, "1m00s"), (3725, "1h02m05s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


SIZES = {
    0: "0B", 1: "1B", 999: "999B", 1000: "1kB", 1234: "1.23kB", 99_949: "99.9kB",
    999_499: "999kB", 999_500: "1MB", 999_999: "1MB", 10**6: "1MB", 123_456_789: "123MB",
    10**9: "1GB", 8 * 1024**3: "8.59GB", 10**12: "1TB", 999 * 10**12: "999TB",
}  # fmt: skip


@pytest.mark.parametrize(("count", "text"), SIZES.items())
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 10**14))
def test_a_size_is_short_and_nearly_exact(count: int) -> None:
    text = size(count)
    digits = text.rstrip("BkMGT")
    assert "e" not in digits and len(digits) <= 4
    unit = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[text[len(digits) :]]
    assert abs(float(digits) * unit - count) <= count / 190


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1234567, "1,234,567 files")]
)
def test_number(count: int, text: str) -> None:
    assert number(count, "file") == text


LOCALES = {
    "none": ({}, False),
    "C": ({"LANG": "C"}, False),
    "Latin": ({"LANG": "de_DE.ISO-8859-1"}, False),
    "UTF-8": ({"LANG": "en_US.UTF-8"}, True),
    "utf8": ({"LC_CTYPE": "C.utf8"}, True),
    "the first counts": ({"LC_ALL": "C", "LANG": "C.UTF-8"}, False),
    "empty does not count": ({"LC_ALL": "", "LANG": "C.UTF-8"}, True),
}


@pytest.mark.parametrize(("environment", "utf8"), LOCALES.values(), ids=LOCALES)
def test_shows_utf8(environment: dict[str, str], utf8: bool) -> None:
    assert shows_utf8(environment) == utf8


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none())))
def test_json_is_ascii_and_decodes_to_the_same(items: list[dict[str, object]]) -> None:
    lines = list(json_array(items))
    assert len(lines) == len(items) + 2, "one line for each item"
    for text in ("\n".join(lines), json_document(items)):
        assert text.isascii()
        assert text.replace("\n", "").isprintable()
        assert json.loads(text) == items
