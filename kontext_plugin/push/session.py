"""What a push works with: tools, and no decisions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from kontext_plugin.cache import Cache
from kontext_plugin.crane import Crane, connect
from kontext_plugin.runtime.workers import Workers, thread_pool
from kontext_plugin.terminal.messages import Report

_JOBS = 4
"""Background jobs: questions to the registry, the scan, git's labels, the start of workers; later
an early upload."""


@dataclass(frozen=True)
class PushSession:
    """The tools of one push."""

    crane: Crane
    requests: Executor  # for one request each; a request waits for nothing on either pool
    jobs: Executor  # for work that may wait for requests
    saves: Executor  # for what the cache keeps: a push that fails keeps it, too
    workers: Workers
    cache: Cache
    report: Report

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """Yield a private directory, as `Cache.scratch`. No worker writes there while it goes."""
        with self.cache.scratch() as directory:
            try:
                yield directory
            except BaseException:
                self.workers.end()
                raise


@contextmanager
def open_session(
    report: Report, cache: Cache, *, insecure: bool, timeout: float
) -> Iterator[PushSession]:
    """Yield a session. Nothing that it has started goes on after the block.

    `timeout` is in seconds without progress, 0 for none. Raises KontextError.
    """
    from concurrent.futures import ThreadPoolExecutor  # 10 ms, as in `thread_pool`

    link = connect(report.debug, insecure=insecure, timeout=timeout)
    with (
        ThreadPoolExecutor(1) as saves,  # waited for, also after an error
        link as (crane, requests),
        thread_pool(_JOBS) as jobs,
        Workers() as workers,
    ):
        yield PushSession(crane, requests, jobs, saves, workers, cache, report)
