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
an early upload, and saving the stat cache."""


@dataclass(frozen=True)
class PushSession:
    """The tools of one push."""

    crane: Crane
    requests: Executor  # for one request each; a request waits for nothing on either pool
    jobs: Executor  # for work that may wait for requests
    workers: Workers
    cache: Cache
    report: Report


@contextmanager
def open_session(
    report: Report, cache: Cache, *, insecure: bool, timeout: float
) -> Iterator[PushSession]:
    """Yield a session. Nothing that it has started goes on after the block.

    `timeout` is in seconds without progress, 0 for none. Raises KontextError.
    """
    link = connect(report.debug, insecure=insecure, timeout=timeout)
    with link as (crane, requests), thread_pool(_JOBS) as jobs, Workers() as workers:
        yield PushSession(crane, requests, jobs, workers, cache, report)
