"""The steps of a push: their names, how long each one takes, and how far it is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum


class StepName(Enum):
    """A step of a push.

    The values are public: `step` events and --timings show them (docs/progress.md).
    """

    READ_STAT_CACHE = "read the stat cache"
    GIT_LS_FILES = "git ls-files"
    SCAN = "scan"
    HASH = "hash"
    GIT_STATUS = "git status"
    ASK_REGISTRY = "ask the registry"
    WAIT_FOR_REGISTRY = "wait for the registry"
    PLAN = "plan"
    WRITE_LAYERS = "write layers"
    CRANE_PUSH = "crane push"
    CRANE_MUTATE = "crane mutate"  # of a base, or of a parent in another repository
    REMEMBER = "remember"
    CHECK_PARENT = "check the parent"
    UNPACK = "unpack layers"  # of an image, to pull or to purge it
    VERIFY = "verify"


@dataclass(frozen=True)
class Progress:
    """How far a step is. A total of 0 is unknown."""

    files: int = 0
    bytes: int = 0
    total_files: int = 0
    total_bytes: int = 0

    @property
    def done(self) -> tuple[int, int]:
        """How much is done, and of how much: bytes where their total is known, else files."""
        if self.total_bytes:
            return min(self.bytes, self.total_bytes), self.total_bytes
        return min(self.files, self.total_files), self.total_files


Measure = Callable[[], Progress]
"""Finds out how far a step is. Called only when somebody looks, so it may cost something."""


# Seconds.
_FIRST_ESTIMATE = 2.0
_LEAST_LEFT = 1.0

_TOLERANCE = 0.1
"""Of the time left. An estimate that differs by less does not replace the one that is shown."""


@dataclass(eq=False)
class Step:
    """A step that runs or has ended.

    Any thread may call `advance`. The thread that does the step writes the rest; threads that show
    the step read it.
    """

    name: StepName
    started: float  # time.perf_counter()
    progress: Progress = field(default_factory=Progress)
    measure: Measure | None = None
    ended: float | None = None
    failed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _end: float | None = None  # time.perf_counter(): the estimate that is shown

    @property
    def seconds(self) -> float:
        """How long the step took, or has taken so far."""
        return (self.ended or time.perf_counter()) - self.started

    def advance(self, files: int, size: int) -> None:
        """Add `files` files and `size` bytes to what is done."""
        with self._lock:
            done = self.progress
            self.progress = Progress(
                done.files + files, done.bytes + size, done.total_files, done.total_bytes
            )

    def seconds_left(self) -> float | None:
        """Return how long the step will still take; None if that is unknown or under a second.

        The average speed since the start decides. The result counts down steadily.
        """
        (done, total), seconds = self.progress.done, self.seconds
        if self.ended is not None or seconds < _FIRST_ESTIMATE or not 0 < done < total:
            return None
        now, left = self.started + seconds, seconds * (total - done) / done
        if self._end is None or abs(now + left - self._end) > max(_LEAST_LEFT, _TOLERANCE * left):
            self._end = now + left
        return self._end - now if self._end - now >= _LEAST_LEFT else None

    def count(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces of a file, and add their bytes to what is done."""
        for piece in pieces:
            yield piece
            self.advance(0, len(piece))

    def current_progress(self) -> Progress:
        """Return how far the step is, as its measure says while the step runs."""
        if self.measure and self.ended is None:
            self.progress = self.measure()
        return self.progress


@dataclass(frozen=True)
class Steps:
    """The steps of one push.

    The thread that does a step calls `on_change` when the step starts and when it ends.
    """

    on_change: Callable[[Step], None] = lambda step: None
    _created: float = field(default_factory=time.perf_counter)
    _steps: list[Step] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: StepName, measure: Measure | None = None) -> Iterator[Step]:
        """Time the block as a step. The step has failed if the block raises."""
        step = Step(name, time.perf_counter(), measure=measure)
        self._steps.append(step)
        self.on_change(step)
        try:
            yield step
        except BaseException:
            step.failed = True
            raise
        finally:
            step.current_progress()
            step.ended = time.perf_counter()
            self.on_change(step)

    def running(self) -> list[Step]:
        """Return the steps that have not ended, in the order in which they started."""
        return [step for step in self._steps if step.ended is None]

    def __str__(self) -> str:
        """Return the text of --timings: a line for each step that has ended, and the total."""
        lines = [
            f"  {step.started - self._created:7.3f} s + {step.seconds:7.3f} s  {step.name.value}"
            for step in self._steps
            if step.ended is not None
        ]
        return "\n".join([*lines, f"  {time.perf_counter() - self._created:7.3f} s in total"])
