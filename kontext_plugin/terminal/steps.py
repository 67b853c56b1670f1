"""The steps of a push: what each is called, how long it takes, and how far it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Progress:
    """How far a step has come; 0 of a total is not known."""

    files: int = 0
    bytes: int = 0
    total_files: int = 0
    total_bytes: int = 0


Measure = Callable[[], Progress]


@dataclass(eq=False)
class Step:
    """Written by the thread that does it, and read by whoever shows it."""

    name: str
    begun: float  # time.perf_counter()
    amount: Progress = field(default_factory=Progress)
    measure: Measure | None = None
    ended: float | None = None
    failed: bool = False

    @property
    def seconds(self) -> float:
        """That it has taken, or takes already."""
        return (self.ended or time.perf_counter()) - self.begun

    def advance(self, files: int, size: int) -> None:
        """So many files and bytes more are done."""
        amount = self.amount
        self.amount = replace(amount, files=amount.files + files, bytes=amount.bytes + size)

    def look(self) -> Progress:
        if self.measure and self.ended is None:
            self.amount = self.measure()
        return self.amount


@dataclass(frozen=True)
class Steps:
    """`heard` is told when a step begins and when it ends, by the thread that does it."""

    heard: Callable[[Step], None] = lambda step: None
    _started: float = field(default_factory=time.perf_counter)
    _steps: list[Step] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str, measure: Measure | None = None) -> Iterator[Step]:
        step = Step(name, time.perf_counter(), measure=measure)
        self._steps.append(step)
        self.heard(step)
        try:
            yield step
        except BaseException:
            step.failed = True
            raise
        finally:
            step.look()
            step.ended = time.perf_counter()
            self.heard(step)

    def running(self) -> list[Step]:
        return [step for step in self._steps if step.ended is None]

    def __str__(self) -> str:
        """A line a step, in the order of their beginnings; some run at the same time."""
        lines = [
            f"  {step.begun - self._started:7.3f} s + {step.seconds:7.3f} s  {step.name}"
            for step in self._steps
            if step.ended is not None
        ]
        now = time.perf_counter()
        return "\n".join([*lines, f"  {now - self._started:7.3f} s in all"])
