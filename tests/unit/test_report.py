"""What a person sees: nothing that commands the terminal, and numbers as docker prints them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.report import Doing, Report, diverted, doing, emit, emit_step, show, speak
from kontext_plugin.steps import Amount, Step
from kontext_plugin.text import duration, number, printable, redact, size

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
def test_nothing_but_line_ends_and_what_prints_comes_through(text: str) -> None:
    shown = printable(redact(text))
    assert all(character == "\n" or character.isprintable() for character in shown)
    shown.encode()


@pytest.mark.parametrize("category", ["Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"])
def test_no_character_of_a_dangerous_category_comes_through(category: str) -> None:
    """Controls, formats (which turn text round or hide in it), unknown ones, line separators."""
    characters = [chr(code) for code in range(0x110000) if chr(code) != "\n"]
    some = [character for character in characters if unicodedata.category(character) == category]
    assert some
    assert not set(some) & set(printable("".join(some)))


def test_everything_goes_to_stderr_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(debug=True)
    for tell in (report.say, report.warn, report.trace, show):
        tell("\x1b]0;x\a")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "".join(
        f"{before}\\x1b]0;x\\x07\n" for before in ("", "WARNING: ", "", "")
    )


@pytest.mark.parametrize(
    ("report", "shown"),
    [
        (Report(), "said\nWARNING: warned\n"),
        (Report(debug=True), "said\nWARNING: warned\ntraced\n"),
        (Report(quiet=True), ""),
        (Report(quiet=True, debug=True), "traced\n"),
    ],
    ids=["plain", "debug", "quiet", "quiet debug"],
)
def test_who_sees_what(report: Report, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    report.say("said")
    report.warn("warned")
    report.trace("traced")
    assert capsys.readouterr().err == shown


@pytest.fixture
def as_json() -> Iterator[None]:
    speak(as_json=True)
    yield
    speak(as_json=False)


@pytest.mark.usefixtures("as_json")
def test_a_program_gets_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(debug=True)
    report.say("said\nin two lines \x1b[2J \udcff")
    report.alert("warned")
    report.trace("asked https://u:secret@host/?key=secret")
    show("failed", "error", hint="with u:secret@host", exit_code=1)
    emit("result", image="r@sha256:x", upToDate=False, uploadedBytes=0)
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"type": "message", "text": "said\nin two lines \\x1b[2J \\udcff"},
        {"type": "warning", "text": "warned"},
        {"type": "debug", "text": "asked https://…host/?key=secret".replace("key=secret", "…")},
        {"type": "error", "text": "failed", "hint": "with …host", "exitCode": 1},
        {"type": "result", "image": "r@sha256:x", "upToDate": False, "uploadedBytes": 0},
    ]


STEPS: dict[str, tuple[Step, dict[str, object]]] = {
    "begins": (Step("a", 0.0), {"state": "running"}),
    "has counts": (
        Step("a", 0.0, Amount(files=1, bytes=2, total_files=3, total_bytes=4)),
        {"state": "running", "files": 1, "bytes": 2, "totalFiles": 3, "totalBytes": 4},
    ),
    "is done": (Step("a", 1.0, ended=3.25), {"state": "done", "seconds": 2.25}),
    "failed": (Step("a", 1.0, ended=3.25, failed=True), {"state": "failed", "seconds": 2.25}),
}


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize(("step", "expected"), STEPS.values(), ids=STEPS)
def test_a_program_hears_of_steps(
    step: Step, expected: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    emit_step(step)
    told = json.loads(capsys.readouterr().err)
    assert told.keys() == {"type", "step", "seconds"} | expected.keys()
    assert told == told | {"type": "step", "step": "a"} | expected


def test_a_person_is_told_of_errors_with_their_hints(capsys: pytest.CaptureFixture[str]) -> None:
    show("failed", "error", hint="try \x1b", exit_code=1)
    emit("result", image="x")
    assert capsys.readouterr().err == "ERROR: failed\ntry \\x1b\n"


def test_who_keeps_the_terminal_gets_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    got: list[str] = []
    with diverted(got.append):
        show("a\x1b")
    show("b")
    assert got == ["a\\x1b"]
    assert capsys.readouterr().err == "b\n"


def taking(seconds: float, name: str, **counts: int) -> Step:
    return Step(name, 100.0, Amount(**counts), ended=100.0 + seconds)


DOINGS: dict[str, tuple[Step, Doing | None]] = {
    "short": (taking(9, "plan"), None),
    "nothing known": (
        taking(65, "wait for the registry"),
        Doing("Waiting for the registry", None, "1m05s"),
    ),
    "files": (taking(0.5, "scan", files=1234), Doing("Scanning", None, "1,234 files, 0s")),
    "bytes": (
        taking(2, "write layers", bytes=3_000_000),
        Doing("Writing layers", None, "3MB, 1.5MB/s, 2s"),
    ),
    "files and bytes": (
        taking(2, "hash", files=1, bytes=999, total_files=2, total_bytes=1000),
        Doing("Hashing", 99, "1 of 2 files, 999B of 1kB, 500B/s, 2s"),
    ),
    "files alone": (
        taking(2, "hash", files=1, total_files=2),
        Doing("Hashing", 50, "1 of 2 files, 2s"),
    ),
    "all": (
        taking(2, "crane mutate", bytes=10, total_bytes=10),
        Doing("Uploading", 100, "10B of 10B, 5B/s, 2s"),
    ),
    "nothing to send": (taking(2, "crane push"), Doing("Uploading", None, "2s")),
}


@pytest.mark.parametrize(("step", "expected"), DOINGS.values(), ids=DOINGS)
def test_what_it_is_at(step: Step, expected: Doing | None) -> None:
    assert doing(step) == expected


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
def test_a_size_is_short_and_near(count: int) -> None:
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
