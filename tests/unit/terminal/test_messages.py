"""Messages on stderr, as text and as JSON, and answers on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext_plugin.errors import KontextError
from kontext_plugin.terminal.messages import (
    Report,
    emit,
    redirect_messages,
    set_format,
    show,
    write_stdout,
)


def test_all_messages_are_escaped_and_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(show_debug=True)
    for write in (report.info, report.notice, report.warning, report.important, report.debug, show):
        write("\x1b]0;x\a")
    captured = capsys.readouterr()
    assert captured.out == ""
    prefixes = ("", "", "WARNING: ", "WARNING: ", "", "")
    assert captured.err == "".join(f"{prefix}\\x1b]0;x\\x07\n" for prefix in prefixes)


SHOWN: dict[str, tuple[Report, list[str]]] = {
    "plain": (Report(), ["info", "notice", "WARNING: warning", "WARNING: important"]),
    "debug": (
        Report(show_debug=True),
        ["info", "notice", "WARNING: warning", "WARNING: important", "debug"],
    ),
    "quiet": (Report(quiet=True), ["notice", "WARNING: important"]),
    "quiet debug": (
        Report(quiet=True, show_debug=True),
        ["notice", "WARNING: important", "debug"],
    ),
}


@pytest.mark.parametrize(("report", "shown"), SHOWN.values(), ids=SHOWN)
def test_which_messages_are_shown(
    report: Report, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    report.info("info")
    report.notice("notice")
    report.warning("warning")
    report.important("important")
    report.debug("debug")
    assert capsys.readouterr().err.splitlines() == shown


@pytest.fixture
def as_json() -> Iterator[None]:
    set_format(as_json=True)
    yield
    set_format(as_json=False)


@pytest.mark.usefixtures("as_json")
def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(show_debug=True)
    report.info("said\nin two lines \x1b[2J \udcff")
    report.important("warned")
    report.debug("asked https://u:secret@host/?key=secret")
    show("failed", "error", hint="with u:secret@host", exit_code=1)
    emit("result", image="r@sha256:x", upToDate=False, uploadedBytes=0)
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"type": "message", "text": "said\nin two lines \\x1b[2J \\udcff"},
        {"type": "warning", "text": "warned"},
        {"type": "debug", "text": "asked https://…host/?…"},
        {"type": "error", "text": "failed", "hint": "with …host", "exitCode": 1},
        {"type": "result", "image": "r@sha256:x", "upToDate": False, "uploadedBytes": 0},
    ]


def test_an_error_as_text_has_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    show("failed", "error", hint="try \x1b", exit_code=1)
    emit("result", image="x")
    assert capsys.readouterr().err == "ERROR: failed\ntry \\x1b\n"


def test_redirected_messages_do_not_reach_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    redirected: list[str] = []
    with redirect_messages(redirected.append):
        show("a\x1b")
    show("b")
    assert redirected == ["a\\x1b"]
    assert capsys.readouterr().err == "b\n"


def test_a_closed_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys.stderr, "write", fail)
    show("message")


# stdout


def test_lines_are_written_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write_stdout(line for line in ("one", "two"))
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # Closing /dev/full flushes again, and fails again.
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(
            KontextError, match="cannot write to standard output: No space left on device"
        ):
            write_stdout("line" for _ in range(100_000))


def test_a_reader_that_has_gone_is_a_broken_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(BrokenPipeError):
            write_stdout(["line"])
