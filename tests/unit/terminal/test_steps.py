"""Steps: their times, their states, and when a measure is called."""

from __future__ import annotations

import re

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
