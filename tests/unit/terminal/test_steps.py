"""Steps: their times, their states, and when a measure is called."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from kontext_plugin.terminal.steps import Progress, Step, StepName, Steps


def test_timings_list_the_finished_steps_in_the_order_of_their_starts() -> None:
    steps = Steps()
    with steps.step(StepName.WRITE_LAYERS), steps.step(StepName.CRANE_PUSH):
        pass
    with steps.step(StepName.REMEMBER):
        lines = str(steps).splitlines()
    assert [line.split("s  ")[-1] for line in lines[:-1]] == ["write layers", "crane push"]
    number = r" +\d+\.\d{3} s"
    assert all(re.fullmatch(rf"{number} \+{number}  [\w ]+", line) for line in lines[:-1])
    assert re.fullmatch(rf"{number} in total", lines[-1])


def test_a_listener_is_called_at_each_start_and_end() -> None:
    calls: list[tuple[StepName, bool, bool]] = []
    steps = Steps(lambda step: calls.append((step.name, step.ended is None, step.failed)))
    with pytest.raises(ValueError), steps.step(StepName.SCAN), steps.step(StepName.HASH):
        assert [step.name for step in steps.running()] == [StepName.SCAN, StepName.HASH]
        raise ValueError
    assert calls == [
        (StepName.SCAN, True, False),
        (StepName.HASH, True, False),
        (StepName.HASH, False, True),
        (StepName.SCAN, False, True),
    ]
    assert steps.running() == []


def test_a_measure_is_called_when_somebody_looks_and_at_the_end() -> None:
    calls: list[int] = []

    def measure() -> Progress:
        calls.append(1)
        return Progress(bytes=len(calls))

    steps = Steps()
    with steps.step(StepName.CRANE_PUSH, measure) as step:
        assert not calls
        assert step.current_progress() == Progress(bytes=1)
    assert step.current_progress() == Progress(bytes=2)
    assert len(calls) == 2


def test_a_step_counts_files_and_bytes() -> None:
    step = Step(StepName.HASH, started=0.0, progress=Progress(total_files=5, total_bytes=9))
    step.advance(1, 2)
    step.advance(2, 3)
    assert step.current_progress() == Progress(files=3, bytes=5, total_files=5, total_bytes=9)


def test_the_time_of_a_finished_step_stays_the_same() -> None:
    assert Step(StepName.SCAN, started=1.0, ended=3.5).seconds == 2.5


# The time left


def at(seconds: float, done: int, total: int = 1000, **state: Any) -> Step:
    """A step that has run for that time, at the time 0 of the clock."""
    return Step(StepName.HASH, -seconds, Progress(bytes=done, total_bytes=total), **state)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may change."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


LEFT: dict[str, tuple[Step, float | None]] = {
    "half": (at(10, 500), 10),
    "the first seconds": (at(1.9, 500), None),
    "nothing done": (at(10, 0), None),
    "no total": (at(10, 500, 0), None),
    "all done": (at(10, 1000), None),
    "under a second": (at(10, 950), None),
    "ended": (at(10, 500, ended=-1.0), None),
    "files": (Step(StepName.SCAN, -10, Progress(files=1, total_files=4)), 30),
}


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("step", "left"), LEFT.values(), ids=LEFT)
def test_seconds_left(step: Step, left: float | None) -> None:
    assert step.seconds_left() == (None if left is None else pytest.approx(left))


def test_the_time_left_counts_down_without_flicker(clock: list[float]) -> None:
    """The speed varies by some percent, and each second shows a smaller number."""
    step, shown = at(0, 0, 100_000), []
    for second in range(1, 90):
        clock[0] = float(second)
        step.advance(0, 1000 + (40 if second % 2 else -40))
        shown.append(step.seconds_left())
    assert shown[0] is None
    times = [left for left in shown if left is not None]
    assert len(times) > 80
    assert all(before > after for before, after in pairwise(times))


def test_another_speed_shows_another_time(clock: list[float]) -> None:
    step = at(0, 0, 1000)
    clock[0] = 10.0
    step.advance(0, 500)
    assert step.seconds_left() == pytest.approx(10)
    clock[0] = 30.0  # nothing moves
    assert step.seconds_left() == pytest.approx(30)
