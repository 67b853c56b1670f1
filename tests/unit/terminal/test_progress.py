"""How a command is told of: which way is chosen, and what the display's lines are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.cli import main
from kontext_plugin.errors import UsageError
from kontext_plugin.terminal import progress
from kontext_plugin.terminal.display import line
from kontext_plugin.terminal.progress import (
    PROGRESS_VARIABLE,
    StepLine,
    choose_mode,
    reporting,
)

CHOICES: dict[str, tuple[str | None, str | None, bool, str]] = {
    "nothing said, on a terminal": (None, None, True, "tty"),
    "nothing said, in a file": (None, None, False, "plain"),
    "auto": ("auto", None, True, "tty"),
    "said": ("json", None, True, "json"),
    "tty": ("tty", None, True, "tty"),
    "plain on a terminal": ("plain", None, True, "plain"),
    "the environment's": (None, "json", True, "json"),
    "an option overrules the environment": ("auto", "json", False, "plain"),
    "the environment's, empty": (None, "", False, "plain"),
}


@pytest.mark.parametrize(
    ("option", "variable", "terminal", "expected"), CHOICES.values(), ids=CHOICES
)
def test_which_way(
    option: str | None,
    variable: str | None,
    terminal: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(PROGRESS_VARIABLE, variable)
    assert choose_mode(option, False) == expected
    assert choose_mode(None, True) == choose_mode("quiet", True) == "quiet"


@pytest.mark.parametrize("term", ["dumb", "", None], ids=repr)
def test_a_dumb_terminal_is_none(term: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert choose_mode(None, False) == "plain"
    with pytest.raises(UsageError, match="no terminal"):
        choose_mode("tty", False)


WRONG = {
    "unknown": (["--progress", "fancy"], "", 'invalid argument "fancy" for "--progress" flag'),
    "both": (["--progress=json", "-q"], "", "--progress json and --quiet cannot be given"),
    "no terminal": (
        ["--progress=tty"],
        "",
        "--progress is 'tty', and standard error is no terminal",
    ),
    "the environment": ([], "fancy", "KONTEXT_PROGRESS is 'fancy', and must be one of auto, tty"),
}


@pytest.mark.parametrize(("arguments", "variable", "message"), WRONG.values(), ids=WRONG)
def test_wrong_ways(
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
def test_a_moment_draws_nothing_and_leaves_no_thread(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    with reporting(mode, False) as report, report.steps.step("scan"):
        pass
    assert threading.active_count() <= before + 1  # it may be on its way out
    assert (capsys.readouterr().err != "") == (mode == "json")


def test_rich_is_not_imported_for_a_moment() -> None:
    program = (
        "import sys\n"
        "from kontext_plugin.terminal.progress import reporting\n"
        "with reporting('tty', False) as report, report.steps.step('scan'): report.info('said')\n"
        "print('rich' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("False\n", "said\n")


def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def gone(_: str) -> None:
        tried.set()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(progress, "_FIRST", 0.0)
    monkeypatch.setattr(sys.stderr, "write", gone)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: (80, 25))
    with reporting("tty", False) as report, report.steps.step("scan"):
        assert tried.wait(20)
        report.info("whatever")


LINES = {
    "narrow": (StepLine("Hashing", 7, "x"), 79, "/ Hashing   7 % x"),
    "without a share": (StepLine("Scanning", None, "x"), 200, "/ Scanning x"),
    "begun": (StepLine("Hashing", 0, "x"), 80, "/ Hashing   0 % [>                       ] x"),
    "half": (StepLine("Hashing", 50, "x"), 80, "/ Hashing  50 % [============>           ] x"),
    "done": (StepLine("Hashing", 100, "x"), 80, "/ Hashing 100 % [========================] x"),
}


@pytest.mark.parametrize(("doing", "width", "expected"), LINES.values(), ids=LINES)
def test_lines(doing: StepLine, width: int, expected: str) -> None:
    assert line(doing, "/", width) == expected


@given(percent=st.integers(0, 100))
def test_a_bar_is_as_long_as_any_other(percent: int) -> None:
    assert len(line(StepLine("x", percent, "y"), "/", 80)) == len(
        line(StepLine("x", 0, "y"), "/", 80)
    )
