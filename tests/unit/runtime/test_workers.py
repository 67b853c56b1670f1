"""Workers: results in order, exceptions as raised, and no process that outlives Kontext."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

import kontext_plugin
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.runtime import workers
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.hashing import Unreadable


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    with Workers(2) as two:
        yield two


def doubled(seconds: float) -> float:
    time.sleep(seconds)
    return seconds * 2


def process_of(_: object) -> int:
    time.sleep(0.05)
    return os.getpid()


def fails(error: BaseException) -> NoReturn:
    raise error


def prints(text: str) -> str:
    print(text, flush=True)
    os.write(2, text.encode())
    return text


def counts(total: int, advance: Callable[[int], object]) -> int:
    for _ in range(total):
        advance(1)
        time.sleep(0.003)
    return total


def counts_and_fails(total: int, advance: Callable[[int], object]) -> NoReturn:
    advance(total)
    raise ValueError


def dies(_: object) -> NoReturn:
    os._exit(0)


def unsendable(_: object) -> object:
    return lambda: None


def test_the_results_come_in_order(two: Workers) -> None:
    items = [0.2, 0.0, 0.1, 0.0, 0.01, 0.0]
    assert [*two.map(doubled, items)] == [item * 2 for item in items]
    assert [*two.map(doubled, [])] == []


def test_threads_share_the_workers(two: Workers) -> None:
    two.start(process_of)
    with ThreadPoolExecutor(5) as threads:
        found = {*threads.map(lambda number: two.run(process_of, number), range(20))}
    assert len(found) == 2
    assert os.getpid() not in found
    with pytest.raises(ValueError, match="told"):
        two.run(fails, ValueError("told"))


def test_nothing_runs_without_a_worker() -> None:
    with Workers(2) as none, pytest.raises(KontextError, match="worker process"):
        none.run(process_of, 0)


def test_what_waits_for_a_worker_ends_with_all_workers() -> None:
    """No thread waits for ever, and none gets a worker that was started later."""
    with Workers(2) as two, ThreadPoolExecutor(5) as threads:
        two.start(doubled)
        waiting = [threads.submit(two.run, doubled, 60.0) for _ in range(5)]
        time.sleep(0.3)
        two.end()
        assert all(isinstance(one.exception(10), KontextError) for one in waiting)
        assert [*two.map(doubled, [1e-3] * 4)] == [2e-3] * 4


def test_as_many_processes_as_asked_for(two: Workers) -> None:
    found = {*two.map(process_of, range(20))}
    assert len(found) == 2
    assert os.getpid() not in found


@pytest.mark.parametrize("items", [[100], [100, 50, 100]], ids=["in this process", "by workers"])
def test_counts_come_while_the_function_runs(two: Workers, items: list[int]) -> None:
    found: list[int] = []
    results = []
    for result in two.map(counts, items, found.append):
        results.append(result)
        assert sum(found) >= sum(results)
    assert results == items
    assert sum(found) == sum(items)
    assert len(found) > len(items), "not only at the end of each"


def test_counts_come_also_from_a_function_that_fails(two: Workers) -> None:
    found: list[int] = []
    with pytest.raises(ValueError):
        list(two.map(counts_and_fails, [5, 5], found.append))
    assert list(two.map(counts, [1, 1], lambda count: None)) == [1, 1], "the workers go on"
    assert sum(found) in (5, 10)


def test_large_items_and_results(two: Workers) -> None:
    items = [bytes([number]) * 5_000_000 for number in range(8)]
    assert [*two.map(bytes, items)] == items


def test_any_file_name_is_passed(two: Workers, tmp_path: Path) -> None:
    """Also in a locale of ASCII."""
    paths = [tmp_path / name for name in ("é", "\udcff", "a\nb")]
    for path in paths:
        path.touch()
    assert [*two.map(os.path.exists, paths)] == [True] * 3
    assert [*two.map(os.listdir, [tmp_path] * 2)] == [os.listdir(tmp_path)] * 2


ERRORS: dict[str, Exception] = {
    "ours": KontextError("what", hint="do", exit_code=7),
    "usage": UsageError("what", hint="do"),
    "unreadable": Unreadable("a/b", "why"),
    "the system's": FileNotFoundError(2, "No such file", "x"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_an_exception_is_passed(error: Exception, two: Workers) -> None:
    with pytest.raises(type(error)) as raised:
        list(two.map(fails, [error] * 2))
    assert type(raised.value) is type(error)
    assert (raised.value.args, vars(raised.value)) == (error.args, vars(error))
    assert [*two.map(doubled, [1e-3] * 2)] == [2e-3] * 2, "the workers go on"


def test_a_function_may_print(two: Workers, capfd: pytest.CaptureFixture[str]) -> None:
    assert [*two.map(prints, ["one", "two", "three"])] == ["one", "two", "three"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "function", [dies, unsendable], ids=["dies", "result that cannot be pickled"]
)
def test_a_worker_that_dies(function: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(2) as some, pytest.raises(KontextError, match="has ended unexpectedly"):
        list(some.map(function, range(5)))
    assert capfd.readouterr() == ("", "")


def test_a_function_that_workers_cannot_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys,
        "path",
        [
            entry
            for entry in sys.path
            if ("kontext" in entry and "tests" not in entry) or "lib/python" in entry
        ],
    )
    with Workers(1) as one, pytest.raises(KontextError, match="has ended unexpectedly"):
        list(one.map(doubled, [0.0] * 2))


def test_no_worker_starts_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_start", lambda: pytest.fail("started"))
    with Workers() as some:
        assert list(some.map(doubled, [])) == []
        assert list(some.map(doubled, [1.0])) == [2.0]


def test_no_more_workers_start_than_there_are_items() -> None:
    with Workers(4) as some:
        assert list(some.map(doubled, [0.0] * 2)) == [0.0] * 2
        assert len(some._processes) == 2
        assert list(some.map(doubled, [0.0] * 3)) == [0.0] * 3
        assert len(some._processes) == 3


def test_workers_that_were_started_before_do_the_work() -> None:
    with Workers(2) as some:
        some.start(process_of)
        started = {process.pid for process in some._processes}
        assert len(started) == 2
        assert {*some.map(process_of, range(8))} == started


def test_without_workers_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: str) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(workers, "_start", refuse)
    with Workers() as some:
        assert list(some.map(doubled, [0.0, 0.0])) == [0.0, 0.0]


def test_the_end_of_the_block_ends_the_workers() -> None:
    """In the middle of their work."""
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), Workers(2) as some:
        results = some.map(doubled, [0.0, 60.0, 60.0, 60.0])
        assert next(results) == 0.0
        processes = [*some._processes]
        raise ZeroDivisionError
    assert time.monotonic() - started < 30
    assert all(process.returncode is not None for process in processes)


# As docker-kontext starts Python. It prints the process IDs of the workers, and then waits.
PROGRAM = """
import sys
sys.path.append(sys.argv.pop(1))
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent may ignore it
from kontext_plugin.runtime.workers import Workers
try:
    with Workers(2) as some:
        list(some.map(abs, range(4)))
        print(*(process.pid for process in some._processes), flush=True)
        if sys.argv[1] == "busy":
            list(some.map(time.sleep, [60] * 4))
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("state", ["busy", "idle"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_kontext(end: signal.Signals, state: str, tmp_path: Path) -> None:
    site = str(pathlib.Path(kontext_plugin.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", "-c", PROGRAM, site, state],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
        text=True,
    )
    assert process.stdout
    started = [int(pid) for pid in process.stdout.readline().split()]
    assert len(started) == 2
    assert all(map(runs, started))
    os.killpg(process.pid, end)  # as a terminal does
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == (130 if end == signal.SIGINT else -end)
    deadline = time.monotonic() + 20
    while any(map(runs, started)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Return whether a process runs. One whose parent has not waited for it yet is a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
