"""The watchdog, on processes that do exactly one thing, and the progress of an upload."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.crane_driver import watchdog
from kontext_plugin.crane_driver.watchdog import (
    Snapshot,
    UploadProgress,
    is_visible,
    pushed_blobs,
    take_snapshot,
    watch,
)
from kontext_plugin.image.oci import Digest
from kontext_plugin.terminal.steps import Progress

# --- What is progress ---

STILL = Snapshot(1000, frozenset({("1", "0:0")}))
WAITS = Snapshot(1000, STILL.queues, waits_for_us=True)
CHANGES = {
    "nothing": (STILL, 60, False),
    "a runtime reads its limits": (Snapshot(1033, STILL.queues), 60, False),
    "a runtime reads its limits for long": (Snapshot(1440, STILL.queues), 1200, False),
    "some bytes a second": (Snapshot(1180, STILL.queues), 60, True),
    "some bytes a second for long": (Snapshot(4600, STILL.queues), 1200, True),
    "the kernel sends on": (Snapshot(1000, frozenset({("1", "5:0")})), 1, True),
    "another connection": (Snapshot(1000, frozenset({("2", "0:0")})), 1, True),
    "waits for us": (WAITS, 60, True),
}


@pytest.mark.parametrize(("now", "seconds", "expected"), CHANGES.values(), ids=CHANGES)
def test_progress(now: Snapshot, seconds: float, expected: bool) -> None:
    assert now.shows_progress(STILL, seconds) == expected


def moving(count: int) -> list[Snapshot]:
    return [Snapshot(1000 * number) for number in range(count)]


COURSES: dict[str, tuple[list[Snapshot], int | None]] = {
    "still at once": ([STILL] * 20, 9),
    "still later": ([*moving(5), *[Snapshot(4000)] * 20], 13),
    "moves in time": ([*[STILL] * 8, *moving(3), *[Snapshot(2000)] * 20], 19),
    "creeps": ([Snapshot(10 * number) for number in range(40)], None),
    "moves all the time": (moving(40), None),
    "waits for us": ([WAITS] * 40, None),
    "waits for us first": ([*[WAITS] * 20, *[STILL] * 20], 28),
}


@pytest.mark.parametrize(("course", "snapshots"), COURSES.values(), ids=COURSES)
def test_the_end_comes_eight_snapshots_after_the_last_progress(
    course: list[Snapshot], snapshots: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots count, and no clock: this machine may be slow, or asleep."""
    taken: list[Snapshot] = []
    over = threading.Event()

    def seen(_: object) -> Snapshot:
        if len(taken) < len(course):
            taken.append(course[len(taken)])
        else:
            over.set()
        return taken[-1]

    monkeypatch.setattr(watchdog, "take_snapshot", seen)
    process = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    with process, watch(process, 0.008, over.set) as stalled:
        assert over.wait(20)
    assert stalled.is_set() == (snapshots is not None)
    assert len(taken) == (snapshots or len(course))


def test_a_short_run_costs_no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "take_snapshot", lambda _: pytest.fail("took one"))
    for limit in (60, 0):
        started = time.monotonic()
        process = subprocess.Popen(["true"], stdout=subprocess.PIPE)
        with process, watch(process, limit, lambda: None) as stalled:
            process.wait()
        assert not stalled.is_set()
        assert time.monotonic() - started < 5


# --- What a process shows ---


@contextlib.contextmanager
def python(program: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Yield a process, and the other end of its connection `s`.

    The process waits for a line on stdin, runs the program, and waits again.
    """
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
    """Return whether the process comes to wait: then two snapshots are equal."""

    def still() -> bool:
        before = take_snapshot(process)
        time.sleep(0.1)
        return take_snapshot(process) == before

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


# As Go does it. Linux counts read, write and sendfile, and not the recv and send of Python.
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
        before = take_snapshot(process)
        go_on(process)
        assert within(20, lambda: take_snapshot(process).transferred >= before.transferred + 1000)


def test_a_process_that_has_ended_shows_nothing() -> None:
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        assert is_visible(process.pid)
        process.communicate()
        assert take_snapshot(process) == Snapshot()
        assert not is_visible(process.pid)


def test_bytes_that_the_kernel_sends_are_progress() -> None:
    """The program has written all of them, and waits."""
    with python("s.setblocking(False); os.write(s.fileno(), bytes(8_000_000))") as (
        process,
        connection,
    ):
        go_on(process)
        assert settles(process)
        before = take_snapshot(process)
        assert not take_snapshot(process).shows_progress(before, 60), (
            "progress, though nobody reads"
        )
        assert connection.recv(1_000_000, socket.MSG_WAITALL)
        assert within(20, lambda: take_snapshot(process).shows_progress(before, 60))
        assert take_snapshot(process).transferred == before.transferred


WAITING = {
    "output that nobody has read": ("os.write(1, b'x')", True),
    "nothing": ("", False),
}


@pytest.mark.parametrize(("program", "expected"), WAITING.values(), ids=WAITING)
def test_waiting_for_us(program: str, expected: bool) -> None:
    with python(program) as (process, _):
        assert not take_snapshot(process).waits_for_us
        go_on(process)
        assert settles(process)
        assert take_snapshot(process).waits_for_us == expected


def test_waiting_for_a_child() -> None:
    with python("subprocess.Popen(['sleep', '20'], stdout=2)") as (process, _):
        assert not take_snapshot(process).waits_for_child
        go_on(process)
        assert settles(process)
        assert take_snapshot(process).waits_for_child


@pytest.mark.parametrize("allows_child", [True, False])
def test_the_time_of_a_child_counts_unless_it_may_ask_a_person(
    monkeypatch: pytest.MonkeyPatch, allows_child: bool
) -> None:
    waits = Snapshot(1000, STILL.queues, waits_for_child=True)
    monkeypatch.setattr(watchdog, "take_snapshot", lambda process: waits)
    over = threading.Event()
    with (
        subprocess.Popen(["true"]) as process,
        watch(process, 0.2, over.set, allows_child=allows_child) as stalled,
    ):
        assert over.wait(1) is not allows_child
    assert stalled.in_child is not allows_child


# --- The progress of an upload ---

A, B = (Digest("sha256:" + letter * 64) for letter in "ab")
SIZES = {A: 1000, B: 10}
NO_PROCESS = 2**22 + 1  # above Linux's largest process id

PRINTED = {
    "nothing yet": ("", Progress(bytes=0, total_bytes=1010)),
    "one is through": (f"pushed blob: {A}\n", Progress(bytes=1000, total_bytes=1010)),
    "one was there": (f"existing blob: {A}\n", Progress(bytes=0, total_bytes=10)),
    "one was mounted": (f"mounted blob: {A}\n", Progress(bytes=0, total_bytes=10)),
    "both": (f"existing blob: {B}\npushed blob: {A}\n", Progress(bytes=1000, total_bytes=1000)),
    "printed twice": (
        f"pushed blob: {A}\npushed blob: {A}\n",
        Progress(bytes=1000, total_bytes=1010),
    ),
    "half a line": (f"pushed blob: {A[:40]}", Progress(bytes=0, total_bytes=1010)),
    "no layer": (f"pushed blob: sha256:{'c' * 64}\n", Progress(bytes=0, total_bytes=1010)),
    "all was there": ("existing manifest: sha256:x\n", Progress(bytes=0, total_bytes=0)),
}


@pytest.mark.parametrize(("messages", "expected"), PRINTED.values(), ids=PRINTED)
def test_without_visible_progress_crane_tells_enough(messages: str, expected: Progress) -> None:
    """A blob counts as soon as crane prints that it is complete."""
    progress = UploadProgress(SIZES)
    progress.follow(NO_PROCESS, bytearray(messages.encode()))
    assert progress.measure() == expected


@given(st.permutations([f"{verb} blob: {it}" for verb in ("pushed", "existing") for it in SIZES]))
def test_the_share_never_falls_and_is_never_above_one(messages: list[str]) -> None:
    progress, printed, before = UploadProgress(SIZES), bytearray(), 0.0
    progress.follow(NO_PROCESS, printed)
    for message in messages:
        printed += f"{message}\n".encode()
        amount = progress.measure()
        share = amount.bytes / amount.total_bytes if amount.total_bytes else 1.0
        assert before <= share <= 1
        before = share


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it")
def test_bytes_in_a_socket_have_not_arrived() -> None:
    """The program writes all that the kernel accepts, and the other side reads slowly."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        # Else the kernel may take all that is sent, and what is not read has arrived.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
        host, port = server.getsockname()
        program = (
            "import os, socket\n"
            f"s = socket.create_connection(({host!r}, {port}))\n"
            "left = 30_000_000\n"
            "while left: left -= os.write(s.fileno(), bytes(min(left, 1_000_000)))\n"
            "os.read(0, 1)"
        )
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            connection, _ = server.accept()
            with connection:
                progress = UploadProgress({A: 30_000_000})
                progress.follow(process.pid, bytearray())
                read, before = 0, 0
                while read < 30_000_000:
                    time.sleep(0.01)
                    arrived = progress.measure().bytes
                    assert before <= arrived
                    # Each of the two sockets may hold some MB.
                    assert read - 7_000_000 <= arrived <= read + 7_000_000
                    read += len(connection.recv(1_000_000, socket.MSG_WAITALL))
                    before = arrived
                deadline = time.monotonic() + 20
                while progress.measure().bytes < 30_000_000 and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert progress.measure() == Progress(bytes=30_000_000, total_bytes=30_000_000)
            assert process.stdin
            os.write(process.stdin.fileno(), b"x")


def test_pushed_blobs() -> None:
    messages = f"2026/01/01 pushed blob: {A}\n2026/01/01 existing blob: {B}\npushed blob: sha256:x"
    assert pushed_blobs(messages.encode()) == {A}
