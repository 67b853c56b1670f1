"""Processes that work beside this one, since Python's threads take turns.

A worker is a Python of its own with two pipes. It lives in a session of its own, so that no Ctrl-C
reaches it, and ends when we do, however that comes about: then its standard input ends.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.environment import of_workers

if TYPE_CHECKING:
    import subprocess
    from concurrent.futures import ThreadPoolExecutor


_Item = TypeVar("_Item")

_Result = TypeVar("_Result")

_MOST = 8
"""Workers: a container may have a small share of its machine's processors."""

_PROGRAM = """
import sys
sys.path[:] = sys.argv[1:]
from kontext_plugin.runtime.workers import work
work()"""


class Workers:
    """At most one worker for each processor, started when they are needed.

    When the context ends, so do they, whatever they are at.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count or min(_processors(), _MOST)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None  # each waits for a worker

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def map(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item]
    ) -> Iterator[_Result]:
        """The results, in the order of the items; all of these are taken at once.

        The function is one of a module; items and results can be pickled. Raises what it raises,
        and KontextError for a worker that dies. This process works where none can be started, and
        where another one would gain nothing, upon a single item.
        """
        items = list(items)
        if len(items) < 2:
            return map(function, items)
        while len(self._processes) < min(self.count, len(items)):
            try:
                process = _start()
            except OSError:
                break
            self._processes.append(process)
            self._idle.put(process)
        if not self._processes:
            return map(function, items)
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(self.count)

        def ask(item: _Item) -> _Result:
            process = self._idle.get()
            try:
                result: _Result = _ask(process, (function, item))
                return result
            finally:
                self._idle.put(process)

        return self._threads.map(ask, items)


def _processors() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start() -> subprocess.Popen[bytes]:
    import subprocess

    return subprocess.Popen(
        # The path that is handed over leaves nothing to look for (-S), and names stay bytes (utf8).
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=of_workers(os.environ),
        start_new_session=True,
    )


def _ask(process: subprocess.Popen[bytes], task: object) -> Any:
    assert process.stdin and process.stdout
    message = pickle.dumps(task)
    try:
        process.stdin.write(message)
        process.stdin.flush()
        done, result = pickle.load(process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise KontextError(
            "a process that worked for Kontext has ended",
            hint="The machine may be short of memory, or the installation damaged.",
        ) from error
    if not done:
        raise result
    return result


def work() -> None:
    """The program of a worker."""
    import threading

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is no answer
    tasks: SimpleQueue[tuple[Callable[[Any], Any], Any]] = SimpleQueue()
    threading.Thread(target=_receive, args=(tasks,), daemon=True).start()
    while True:
        function, item = tasks.get()
        try:
            answer = True, function(item)
        except Exception as error:
            answer = False, error
        message = pickle.dumps(answer)
        answers.write(message)
        answers.flush()


def _receive(tasks: SimpleQueue[tuple[Callable[[Any], Any], Any]]) -> None:
    try:
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(1)  # even in the midst of a task: whoever wanted it is gone
