"""What a person sees, or a program: what was said, and what a push is at."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kontext_plugin.terminal.messages import Report, diverted, emit, set_format, show
from kontext_plugin.terminal.progress import StepLine, emit_step, step_line
from kontext_plugin.terminal.steps import Progress, Step


def test_everything_goes_to_stderr_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(show_debug=True)
    for tell in (report.info, report.warning, report.debug, show):
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
        (Report(show_debug=True), "said\nWARNING: warned\ntraced\n"),
        (Report(quiet=True), ""),
        (Report(quiet=True, show_debug=True), "traced\n"),
    ],
    ids=["plain", "debug", "quiet", "quiet debug"],
)
def test_who_sees_what(report: Report, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    report.info("said")
    report.warning("warned")
    report.debug("traced")
    assert capsys.readouterr().err == shown


@pytest.fixture
def as_json() -> Iterator[None]:
    set_format(as_json=True)
    yield
    set_format(as_json=False)


@pytest.mark.usefixtures("as_json")
def test_a_program_gets_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
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
        {"type": "debug", "text": "asked https://…host/?key=secret".replace("key=secret", "…")},
        {"type": "error", "text": "failed", "hint": "with …host", "exitCode": 1},
        {"type": "result", "image": "r@sha256:x", "upToDate": False, "uploadedBytes": 0},
    ]


STEPS: dict[str, tuple[Step, dict[str, object]]] = {
    "begins": (Step("a", 0.0), {"state": "running"}),
    "has counts": (
        Step("a", 0.0, Progress(files=1, bytes=2, total_files=3, total_bytes=4)),
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
    return Step(name, 100.0, Progress(**counts), ended=100.0 + seconds)


DOINGS: dict[str, tuple[Step, StepLine | None]] = {
    "short": (taking(9, "plan"), None),
    "nothing known": (
        taking(65, "wait for the registry"),
        StepLine("Waiting for the registry", None, "1m05s"),
    ),
    "files": (taking(0.5, "scan", files=1234), StepLine("Scanning", None, "1,234 files, 0s")),
    "bytes": (
        taking(2, "write layers", bytes=3_000_000),
        StepLine("Writing layers", None, "3MB, 1.5MB/s, 2s"),
    ),
    "files and bytes": (
        taking(2, "hash", files=1, bytes=999, total_files=2, total_bytes=1000),
        StepLine("Hashing", 99, "1 of 2 files, 999B of 1kB, 500B/s, 2s"),
    ),
    "files alone": (
        taking(2, "hash", files=1, total_files=2),
        StepLine("Hashing", 50, "1 of 2 files, 2s"),
    ),
    "all": (
        taking(2, "crane mutate", bytes=10, total_bytes=10),
        StepLine("Uploading", 100, "10B of 10B, 5B/s, 2s"),
    ),
    "nothing to send": (taking(2, "crane push"), StepLine("Uploading", None, "2s")),
}


@pytest.mark.parametrize(("step", "expected"), DOINGS.values(), ids=DOINGS)
def test_what_it_is_at(step: Step, expected: StepLine | None) -> None:
    assert step_line(step) == expected
