"""What counts as progress, seen on processes that do exactly one thing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kontext_plugin.crane_driver import watchdog
from kontext_plugin.crane_driver.watchdog import Look, is_visible, take_look, watch

STILL = Look(1000, frozenset({("1", "0:0")}))
WAITS = Look(1000, STILL.queues, waits_for_us=True)
CHANGES = {
    "nothing": (STILL, 60, False),
    "a runtime's reading": (Look(1033, STILL.queues), 60, False),
    "a runtime's reading for long": (Look(1440, STILL.queues), 1200, False),
    "some bytes a second": (Look(1180, STILL.queues), 60, True),
    "some bytes a second for long": (Look(4600, STILL.queues), 1200, True),
    "the kernel sends on": (Look(1000, frozenset({("1", "5:0")})), 1, True),
    "another connection": (Look(1000, frozenset({("2", "0:0")})), 1, True),
    "waits for us": (WAITS, 60, True),
}


@pytest.mark.parametrize(("now", "seconds", "expected"), CHANGES.values(), ids=CHANGES)
def test_progress(now: Look, seconds: float, expected: bool) -> None:
    assert now.is_beyond(STILL, seconds) == expected


def moving(count: int) -> list[Look]:
    return [Look(1000 * number) for number in range(count)]


COURSES: dict[str, tuple[list[Look], int | None]] = {
    "still at once": ([STILL] * 20, 9),
    "still later": ([*moving(5), *[Look(4000)] * 20], 13),
    "moves in time": ([*[STILL] * 8, *moving(3), *[Look(2000)] * 20], 19),
    "creeps": ([Look(10 * number) for number in range(40)], None),
    "moves all the time": (moving(40), None),
    "waits for us": ([WAITS] * 40, None),
    "waits for us first": ([*[WAITS] * 20, *[STILL] * 20], 28),
}


@pytest.mark.parametrize(("course", "looks"), COURSES.values(), ids=COURSES)
def test_the_end_comes_eight_looks_after_the_last_progress(
    course: list[Look], looks: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in looks, no clock decides: this machine may be slow, or asleep."""
    taken: list[Look] = []
    over = threading.Event()

    def seen(_: object) -> Look:
        if len(taken) < len(course):
            taken.append(course[len(taken)])
        else:
            over.set()
        return taken[-1]

    monkeypatch.setattr(watchdog, "take_look", seen)
    process = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    with process, watch(process, 0.008, over.set) as silent:
        assert over.wait(20)
    assert silent.is_set() == (looks is not None)
    assert len(taken) == (looks or len(course))


def test_a_short_run_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "take_look", lambda _: pytest.fail("it was"))
    for limit in (60, 0):
        started = time.monotonic()
        process = subprocess.Popen(["true"], stdout=subprocess.PIPE)
        with process, watch(process, limit, lambda: None) as silent:
            process.wait()
        assert not silent.is_set()
        assert time.monotonic() - started < 5


# What a process shows


@contextlib.contextmanager
def python(program: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A process that waits for a line on stdin, runs the program, and waits again; and the other
    end of its connection `s`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os, socket, subprocess, sys\n"
                f"s = socket.create_connection(({host!r}, {port}))\n"
                f"sys.stdin.buffer.raw.readline()\n{program}\nsys.stdin.buffer.raw.readline()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            connection, _ = server.accept()
            with connection:
                assert settles(process)
                yield process, connection
        finally:
            process.kill()
            process.communicate()


def settles(process: subprocess.Popen[bytes]) -> bool:
    """Whether it comes to wait, as its standing still shows."""

    def still() -> bool:
        before = take_look(process)
        time.sleep(0.1)
        return take_look(process) == before

    return within(20, still)


def go_on(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()


def within(seconds: float, done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# As Go does it: read, write and sendfile count, Python's own recv and send do not.
TRANSFERS = {
    "sends": "os.write(s.fileno(), bytes(1000))",
    "receives": "os.read(s.fileno(), 1000)",
    "sends a file": "os.sendfile(s.fileno(), os.open('/proc/self/exe', os.O_RDONLY), 0, 1000)",
    "reads a file": "os.read(os.open('/proc/self/exe', os.O_RDONLY), 1000)",
}


@pytest.mark.parametrize("program", TRANSFERS.values(), ids=TRANSFERS)
def test_transferring_is_progress(program: str) -> None:
    with python(program) as (process, connection):
        connection.sendall(bytes(1000))
        before = take_look(process)
        go_on(process)
        assert within(20, lambda: take_look(process).transferred >= before.transferred + 1000)


def test_who_has_ended_shows_nothing() -> None:
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        assert is_visible(process.pid)
        process.communicate()
        assert take_look(process) == Look()
        assert not is_visible(process.pid)


def test_what_the_kernel_sends_is_progress() -> None:
    """The program has written all of it, and waits."""
    with python("s.setblocking(False); os.write(s.fileno(), bytes(8_000_000))") as (
        process,
        connection,
    ):
        go_on(process)
        assert settles(process)
        before = take_look(process)
        assert not take_look(process).is_beyond(before, 60), "nobody reads, and nothing is sent"
        assert connection.recv(1_000_000, socket.MSG_WAITALL)
        assert within(20, lambda: take_look(process).is_beyond(before, 60))
        assert take_look(process).transferred == before.transferred


WAITING = {
    "output that nobody took": ("os.write(1, b'x')", True),
    "a child": ("subprocess.Popen(['sleep', '20'], stdout=2)", True),
    "nothing": ("", False),
}


@pytest.mark.parametrize(("program", "expected"), WAITING.values(), ids=WAITING)
def test_waiting_for_us(program: str, expected: bool) -> None:
    with python(program) as (process, _):
        assert not take_look(process).waits_for_us
        go_on(process)
        assert settles(process)
        assert take_look(process).waits_for_us == expected
