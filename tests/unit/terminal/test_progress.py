"""How running steps are shown: the choice of the mode, lines, JSON events, and the drawing."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.cli import main
from kontext_plugin.errors import UsageError
from kontext_plugin.terminal import progress
from kontext_plugin.terminal.messages import set_format
from kontext_plugin.terminal.progress import (
    PROGRESS_VARIABLE,
    Display,
    StepLine,
    choose_mode,
    emit_step,
    reporting,
    step_line,
)
from kontext_plugin.terminal.steps import Progress, Step, StepName

# What a step says


def took(seconds: float, name: StepName, **counts: int) -> Step:
    return Step(name, 100.0, Progress(**counts), ended=100.0 + seconds)


LINES: dict[str, tuple[Step, StepLine | None]] = {
    "a short step": (took(9, StepName.PLAN), None),
    "no counts": (
        took(65, StepName.WAIT_FOR_REGISTRY),
        StepLine("Waiting for the registry", None, elapsed="1m05s"),
    ),
    "files": (
        took(0.5, StepName.SCAN, files=1234),
        StepLine("Scanning", None, "1,234 files", elapsed="0s"),
    ),
    "bytes": (
        took(2, StepName.WRITE_LAYERS, bytes=3_000_000),
        StepLine("Writing layers", None, "3MB", "1.5MB/s", "2s"),
    ),
    "files and bytes": (
        took(2, StepName.HASH, files=1, bytes=999, total_files=2, total_bytes=1000),
        StepLine("Hashing", 99, "999B of 1kB", "500B/s", "2s"),
    ),
    "files of a total": (
        took(2, StepName.HASH, files=1, total_files=2),
        StepLine("Hashing", 50, "1 of 2 files", elapsed="2s"),
    ),
    "everything": (
        took(2, StepName.CRANE_MUTATE, bytes=10, total_bytes=10),
        StepLine("Uploading", 100, "10B of 10B", "5B/s", "2s"),
    ),
    "nothing to send": (took(2, StepName.CRANE_PUSH), StepLine("Uploading", None, elapsed="2s")),
}


@pytest.mark.parametrize(("step", "expected"), LINES.values(), ids=LINES)
def test_step_line(step: Step, expected: StepLine | None) -> None:
    assert step_line(step) == expected


FULL = StepLine("Writing layers", 50, "12.3GB of 45.6GB", "500MB/s", "1m05s", "2m05s left")

WIDTHS = {
    100: "12.3GB of 45.6GB, 500MB/s, 1m05s, 2m05s left",
    43: "12.3GB of 45.6GB, 500MB/s, 2m05s left",
    36: "12.3GB of 45.6GB, 2m05s left",
    27: "2m05s left",
    9: "",
}


@pytest.mark.parametrize(("width", "text"), WIDTHS.items())
def test_a_narrow_line_loses_the_least_important_parts(width: int, text: str) -> None:
    assert FULL.text(width) == text


@pytest.fixture
def as_json() -> Iterator[None]:
    set_format(as_json=True)
    yield
    set_format(as_json=False)


EVENTS: dict[str, tuple[Step, dict[str, object]]] = {
    "starts": (Step(StepName.SCAN, 0.0), {"state": "running"}),
    "has counts": (
        Step(StepName.SCAN, 0.0, Progress(files=1, bytes=2, total_files=3, total_bytes=4)),
        {"state": "running", "files": 1, "bytes": 2, "totalFiles": 3, "totalBytes": 4},
    ),
    "is done": (Step(StepName.SCAN, 1.0, ended=3.25), {"state": "done", "seconds": 2.25}),
    "failed": (
        Step(StepName.SCAN, 1.0, ended=3.25, failed=True),
        {"state": "failed", "seconds": 2.25},
    ),
}


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize(("step", "expected"), EVENTS.values(), ids=EVENTS)
def test_the_event_of_a_step(
    step: Step, expected: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    emit_step(step)
    event = json.loads(capsys.readouterr().err)
    assert event.keys() == {"type", "step", "seconds"} | expected.keys()
    assert event == event | {"type": "step", "step": "scan"} | expected


# The modes

MODES: dict[str, tuple[str | None, str | None, bool, str]] = {
    "by default, on a terminal": (None, None, True, "tty"),
    "by default, in a file": (None, None, False, "plain"),
    "auto": ("auto", None, True, "tty"),
    "json on a terminal": ("json", None, True, "json"),
    "tty": ("tty", None, True, "tty"),
    "plain on a terminal": ("plain", None, True, "plain"),
    "the environment's": (None, "json", True, "json"),
    "an option overrules the environment": ("auto", "json", False, "plain"),
    "an empty variable": (None, "", False, "plain"),
}


@pytest.mark.parametrize(("option", "variable", "terminal", "expected"), MODES.values(), ids=MODES)
def test_choose_mode(
    option: str | None,
    variable: str | None,
    terminal: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 25)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(PROGRESS_VARIABLE, variable)
    assert choose_mode(option, False) == expected
    assert choose_mode(None, True) == choose_mode("quiet", True) == "quiet"


@pytest.mark.parametrize("term", ["dumb", "", None], ids=repr)
def test_a_dumb_terminal_is_not_drawn_on(term: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert choose_mode(None, False) == "plain"
    with pytest.raises(UsageError, match="not a terminal to draw on"):
        choose_mode("tty", False)


def test_a_terminal_without_a_width_is_not_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a terminal is a log (chzyer/readline#29, dCache/dcache#1465)."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    assert choose_mode(None, False) == "plain"


WRONG = {
    "unknown": (["--progress", "fancy"], "", 'invalid argument "fancy" for "--progress" flag'),
    "both": (["--progress=json", "-q"], "", "--progress json and --quiet cannot be given"),
    "no terminal": (
        ["--progress=tty"],
        "",
        "--progress is 'tty', but standard error is not a terminal to draw on\n"
        "Use --progress plain.\n",
    ),
    "the environment": ([], "fancy", "KONTEXT_PROGRESS is 'fancy'; it must be one of auto, tty"),
}


@pytest.mark.parametrize(("arguments", "variable", "message"), WRONG.values(), ids=WRONG)
def test_wrong_modes(
    arguments: list[str],
    variable: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, variable)
    assert main.run(["kontext", "push", "-t", "r/r", *arguments]) == 125
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["tty", "plain", "json", "quiet"])
def test_a_short_step_draws_nothing_and_leaves_no_thread(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    with reporting(mode, False) as report, report.steps.step(StepName.SCAN):
        pass
    assert threading.active_count() <= before + 1  # it may still be ending
    assert (capsys.readouterr().err != "") == (mode == "json")


def test_rich_is_not_imported_for_a_short_step() -> None:
    program = (
        "import sys\n"
        "from kontext_plugin.terminal.progress import reporting\n"
        "from kontext_plugin.terminal.steps import StepName\n"
        "with reporting('tty', False) as report, report.steps.step(StepName.SCAN):\n"
        "    report.info('said')\n"
        "print('rich' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("False\n", "said\n")


def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def fail(_: str) -> None:
        tried.set()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(progress, "_FIRST_DRAW", 0.0)
    monkeypatch.setattr(sys.stderr, "write", fail)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: (80, 25))
    with reporting("tty", False) as report, report.steps.step(StepName.SCAN):
        assert tried.wait(20)
        report.info("whatever")


# The drawing


class Screen:
    """A terminal of a given width in place of stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, width: int, locale: str = "C.UTF-8"):
        self.screen = pyte.Screen(width, 25)
        self.screen.set_mode(pyte.modes.LNM)
        self.stream = pyte.Stream(self.screen)
        self.file = io.StringIO()
        monkeypatch.setattr(self.file, "fileno", lambda: 2)
        monkeypatch.setattr(sys, "stderr", self.file)
        monkeypatch.setattr(os, "get_terminal_size", lambda _: (self.screen.columns, 25))
        monkeypatch.setenv("LC_ALL", locale)
        monkeypatch.setenv("COLUMNS", "200")

    def lines(self) -> list[str]:
        self.stream.feed(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()
        lines = [line.rstrip() for line in self.screen.display if line.strip()]
        return [re.sub(r"^[|/\\-] ", "- ", line) for line in lines]  # the spinner turns


HASHING = StepLine("Hashing", 50, "1 of 2 files", elapsed="1m05s")
SCANNING = StepLine("Scanning", None, "1,234 files", elapsed="0s")

DRAWN: dict[str, tuple[StepLine, int, str, str]] = {
    "wide": (
        HASHING,
        80,
        "C.UTF-8",
        "- Hashing  50 % ━━━━━━━━━━━━             1 of 2 files, 1m05s",
    ),
    "start": (
        StepLine("Hashing", 0, "x"),
        80,
        "C.UTF-8",
        "- Hashing   0 %                          x",
    ),
    "end": (
        StepLine("Hashing", 100, "x"),
        80,
        "C.UTF-8",
        "- Hashing 100 % ━━━━━━━━━━━━━━━━━━━━━━━━ x",
    ),
    "ASCII": (HASHING, 80, "C", "- Hashing  50 % ------------             1 of 2 files, 1m05s"),
    "no room for a bar": (HASHING, 79, "C.UTF-8", "- Hashing  50 % 1 of 2 files, 1m05s"),
    "50 columns": (FULL, 50, "C.UTF-8", "- Writing layers  50 % 2m05s left"),
    "60 columns": (FULL, 60, "C.UTF-8", "- Writing layers  50 % 12.3GB of 45.6GB, 2m05s left"),
    "no room for all counts": (HASHING, 29, "C.UTF-8", "- Hashing  50 % 1 of 2 files"),
    "no room for counts": (HASHING, 17, "C.UTF-8", "- Hashing  50 %"),
    "no room": (HASHING, 7, "C.UTF-8", "- Hash"),
    "no total": (SCANNING, 79, "C.UTF-8", "- Scanning  1,234 files, 0s"),
}


@pytest.mark.parametrize(("line", "width", "locale", "expected"), DRAWN.values(), ids=DRAWN)
def test_a_line_is_as_wide_as_the_terminal_at_most(
    line: StepLine, width: int, locale: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch, width, locale)
    Display().draw([line])
    assert screen.lines() == [expected]


def test_each_step_has_a_line_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, display = Screen(monkeypatch, 79), Display()
    display.draw([SCANNING, HASHING])
    assert screen.lines() == [
        "- Scanning       1,234 files, 0s",
        "- Hashing   50 % 1 of 2 files, 1m05s",
    ]
    display.draw([HASHING])
    assert screen.lines() == ["- Hashing  50 % 1 of 2 files, 1m05s"]
    display.draw([])
    assert screen.lines() == []
    display.close()
    assert (screen.lines(), screen.screen.cursor.y) == ([], 0)


def test_messages_stay_above_the_lines_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, display = Screen(monkeypatch, 20), Display()
    message = "[red]WARNING[/red] :smile: skipped 'a': it is a FIFO"
    display.show("first")
    display.draw([HASHING])
    display.show(message)
    assert message in screen.file.getvalue(), "rich adds no line ends"
    lines = screen.lines()
    assert lines[0] == "first"
    assert lines[-1] == "- Hashing  50 %"
    display.close()
    assert screen.lines() == lines[:-1]


def test_nothing_is_drawn_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, display = Screen(monkeypatch, 80), Display()
    display.draw([HASHING])
    display.close()
    display.draw([HASHING])
    display.show("message")
    assert screen.lines() == ["message"]


def test_the_width_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, display = Screen(monkeypatch, 120), Display()
    for width in (120, 20, 200, 79):
        screen.screen.resize(25, width)
        display.draw([HASHING])
        (line,) = screen.lines()
        assert line.startswith("- Hashing  50 %")
        assert len(line) <= width


@given(percents=st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_the_counts_do_not_move(percents: list[int]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        screen, display = Screen(monkeypatch, 80), Display()
        for percent in percents:
            display.draw([StepLine("x", percent, "y")])
            (line,) = screen.lines()
            assert line.index("y") == 35
