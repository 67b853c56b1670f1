"""Work beside the main thread: processes that compute, and threads that wait.

`Workers` are processes, since Python's threads take turns. A worker is a Python interpreter with
two pipes. It runs in a session of its own, so no Ctrl-C reaches it. It ends when Kontext ends, in
whatever way, because its standard input ends then.

`thread_pool` is for jobs that wait: for crane, for git, for a disk.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.environment import worker_environment

if TYPE_CHECKING:
    import subprocess
    from concurrent.futures import ThreadPoolExecutor


_Item = TypeVar("_Item")

_Result = TypeVar("_Result")

Advance = Callable[[int], object]
"""Receives how many bytes more are done."""

_MAX_WORKERS = 8
"""A container may have only a small share of the processors that it sees."""

_REPORT_INTERVAL = 0.1
"""Seconds between two reports of a worker: each takes time in the main process."""

# The program of a worker. It imports this module by its name, so that must follow a rename.
_PROGRAM = """
import sys
module, *sys.path[:] = sys.argv[1:]
from kontext_plugin.runtime.workers import work
work(module)"""


@contextlib.contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of at most `count` threads. All its jobs have ended after the block.

    An exception in the block drops the jobs that have not begun, and leaves those that run: they
    end with the process.
    """
    from concurrent.futures import ThreadPoolExecutor  # 10 ms, only for commands that need threads

    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class Workers:
    """Worker processes, started when they are needed, at most one for each processor.

    As a context manager it kills all workers when the block ends.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count or min(_count_processors(), _MAX_WORKERS)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None  # each thread waits for one worker
        self._starting = Lock()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill all workers, which takes back their memory. More work starts other ones."""
        for process in self._processes:
            process.kill()
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()
        self._processes, self._idle, self._threads = [], SimpleQueue(), None

    def start(self, function: Callable[..., object], count: int = 0) -> None:
        """Start workers that will run this function, `count` or one for each processor.

        So they are ready, with all that it needs imported, when there is work for them.
        """
        with self._starting:
            while len(self._processes) < min(self.count, count or self.count):
                try:
                    process = _start(function.__module__)
                except OSError:
                    break
                self._processes.append(process)
                self._idle.put(process)

    def map(
        self,
        function: Callable[..., _Result],
        items: Iterable[_Item],
        advance: Advance | None = None,
    ) -> Iterator[_Result]:
        """Yield the function's results in the order of the items, all of which are read at once.

        The function is at the top level of a module. Items and results can be pickled. A single
        item is computed in this process, and so is everything if no worker can be started. Raises
        what the function raises, and KontextError if a worker dies.

        With `advance`, the function also gets a callable. What it passes to that comes to `advance`
        while it still runs: in this thread or another one, and added up.
        """
        items = list(items)

        def compute(item: _Item) -> _Result:
            return function(item, advance) if advance else function(item)

        if len(items) < 2:
            return map(compute, items)
        self.start(function, len(items))
        if not self._processes:
            return map(compute, items)
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(self.count)
        return self._threads.map(lambda item: self._ask(function, item, advance), items)

    def run(self, function: Callable[[_Item], _Result], item: _Item) -> _Result:
        """Return what the function returns or raises for one item in a worker that was started.

        Any thread may call it, and waits for a worker that is idle. Raises KontextError if there
        is none, or if it dies.
        """
        if not self._processes:
            raise _died()
        return self._ask(function, item, None)

    def _ask(
        self, function: Callable[..., _Result], item: _Item, advance: Advance | None
    ) -> _Result:
        idle = self._idle  # after `end` it is another one
        process = idle.get()
        try:
            result: _Result = _ask(process, (function, item), advance)
            return result
        finally:
            idle.put(process)


def work(module: str) -> None:
    """Run the tasks that come on standard input. This is the whole program of a worker.

    `module` has the first function to run.
    """
    import importlib
    import threading

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints must not mix with the answers
    tasks: SimpleQueue[_Task] = SimpleQueue()
    importlib.import_module(module)
    threading.Thread(target=_receive, args=(tasks,), daemon=True).start()

    def send(message: bytes) -> None:
        answers.write(message)
        answers.flush()

    while True:
        function, item, counts = tasks.get()
        counter = _Counter(lambda count: send(pickle.dumps((_COUNT, count))))
        try:
            answer = _RESULT, function(item, counter.add) if counts else function(item)
        except Exception as error:
            answer = _ERROR, error
        message = pickle.dumps(answer)
        counter.send()
        send(message)


_Task = tuple[Callable[..., Any], Any, bool]
"""What a worker is sent: a function, its item, and whether it counts what it does."""

_RESULT, _ERROR, _COUNT = range(3)
"""What a worker answers with: at last a result or an error, and counts before."""


class _Counter:
    """Adds up counts, and sends the sum now and then."""

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._sum = 0
        self._sent = time.monotonic()

    def add(self, count: int) -> None:
        self._sum += count
        if time.monotonic() - self._sent >= _REPORT_INTERVAL:
            self.send()

    def send(self) -> None:
        if self._sum:
            self._send(self._sum)
        self._sum, self._sent = 0, time.monotonic()


def _receive(tasks: SimpleQueue[_Task]) -> None:
    try:
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(1)  # also in the middle of a task: Kontext has ended, nobody reads the answer


def _start(module: str) -> subprocess.Popen[bytes]:
    import subprocess

    return subprocess.Popen(
        # -S: sys.path is handed over as it is. utf8: file names that are not UTF-8 survive.
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, module, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=worker_environment(os.environ),
        start_new_session=True,
    )


def _ask(
    process: subprocess.Popen[bytes], task: tuple[object, object], advance: Advance | None
) -> Any:
    assert process.stdin and process.stdout
    message = pickle.dumps((*task, advance is not None))
    try:
        process.stdin.write(message)
        process.stdin.flush()
        kind, result = pickle.load(process.stdout)
        while kind == _COUNT:
            assert advance
            advance(result)
            kind, result = pickle.load(process.stdout)
    except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _died() from error
    if kind == _ERROR:
        raise result
    return result


def _died() -> KontextError:
    return KontextError(
        "a worker process of Kontext has ended unexpectedly",
        hint="Check this machine's free memory, and install Kontext again if it is not that.",
    )


def _count_processors() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
