"""The registry, as every command asks it: through crane, and several things at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kontext_plugin import crane, options
from kontext_plugin.crane import Crane
from kontext_plugin.report import Report

if TYPE_CHECKING:
    from kontext_plugin.options import Namespace

_REQUESTS = 6
"""At once, as crane itself does at most."""


@contextmanager
def connected(
    report: Report, *, insecure: bool, timeout: float
) -> Iterator[tuple[Crane, ThreadPoolExecutor]]:
    """crane, and threads that wait for it and write the cache: none goes on after the block.

    `timeout` is in seconds without progress; 0: none. Raises KontextError.
    """
    registry = crane.find(insecure, report.trace, timeout)
    with _idle_threads() as threads, registry:
        yield registry, threads


def timeout_of(parsed: Namespace) -> float:
    """What --timeout says, in seconds. Raises UsageError."""
    return options.seconds("timeout", parsed.timeout) if parsed.timeout else crane.TIMEOUT


@contextmanager
def _idle_threads() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(_REQUESTS)
    try:
        yield threads
    except BaseException:
        # Whoever waits ends with the process.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()
