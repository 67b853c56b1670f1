"""Steps: what they took, how far they are, and that looking is what costs."""

from __future__ import annotations

import re

import pytest

from kontext_plugin.terminal.steps import Progress, Step, Steps


def test_they_are_listed_as_they_began_with_what_they_took() -> None:
    steps = Steps()
    with steps.step("outer"), steps.step("inner"):
        pass
    with steps.step("unfinished"):
        lines = str(steps).splitlines()
    assert [line.split("s  ")[-1] for line in lines[:-1]] == ["outer", "inner"]
    number = r" +\d+\.\d{3} s"
    assert all(re.fullmatch(rf"{number} \+{number}  \w+", line) for line in lines[:-1])
    assert re.fullmatch(rf"{number} in all", lines[-1])


def test_who_listens_hears_each_begin_and_end() -> None:
    heard: list[tuple[str, bool, bool]] = []
    steps = Steps(lambda step: heard.append((step.name, step.ended is None, step.failed)))
    with pytest.raises(ValueError), steps.step("a"), steps.step("b"):
        assert [step.name for step in steps.running()] == ["a", "b"]
        raise ValueError
    assert heard == [
        ("a", True, False),
        ("b", True, False),
        ("b", False, True),
        ("a", False, True),
    ]
    assert steps.running() == []


def test_a_measure_is_asked_by_whoever_looks_and_for_the_last_time_at_the_end() -> None:
    asked: list[int] = []

    def measure() -> Progress:
        asked.append(1)
        return Progress(bytes=len(asked))

    steps = Steps()
    with steps.step("a", measure) as step:
        assert not asked
        assert step.look() == Progress(bytes=1)
    assert step.look() == Progress(bytes=2)
    assert len(asked) == 2


def test_time_stands_still_at_the_end() -> None:
    assert Step("a", begun=1.0, ended=3.5).seconds == 2.5
