"""Pushes that are killed, collide, or find a bad cache: slower or refused, never a wrong image."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support import proxy
from support.machine import Machine, change, ends_within, new_machine
from support.proxy import Rule, serve_proxy
from support.services import Registry
from support.trees import File, plant

MOMENTS = 16  # of each kind, spread over the time of a push
BALLAST = random.Random(0).randbytes(8_000_000)
"""Stays as it is, so that a later push has reason to build on the last one."""

STAYS = 2.0
"""Seconds after which the last push's image still is under the tag, whoever was killed before."""


def kill_at(pushing: Machine, seconds: float) -> bool:
    """Whether the push still ran then."""
    process = pushing.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    running = process.poll() is None
    process.kill()
    # Not what it said: an orphan would have the pipe.
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    return running


def kill_and_push_again(first: bool, pushing: Machine, new_repository: Callable[[], str]) -> None:
    """Each push that is killed is followed by one that is not."""
    chance = random.Random(first)
    if not first:
        plant(pushing.source, {"ballast": File(BALLAST)})
    change(pushing, chance)
    started = time.monotonic()
    assert pushing.push().image
    seconds, killed = time.monotonic() - started, 0
    while killed < MOMENTS:
        if first:
            pushing.repository = new_repository()
        before = None if first else pushing.tree()
        change(pushing, chance)
        moment = (killed + chance.random()) / MOMENTS * seconds
        if kill_at(pushing, moment):
            killed += 1
        else:
            seconds *= 0.9  # the machine has become faster
        if killed % 2:  # else at once, while an orphan might still be at work
            assert pushing.published() in (before, pushing.tree())
        change(pushing, chance)
        pushed = pushing.push()
        assert pushed.image, moment
        assert pushing.published() == pushing.tree(), moment
        pushing.assert_clean()
    time.sleep(STAYS)
    assert pushing.published() == pushing.tree()


@pytest.fixture(scope="module")
def killings(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, crane_path: str
) -> Iterator[dict[str, Future[None]]]:
    """Both kinds at once: one waits while the other works."""

    def run(kind: str) -> None:
        pushing = new_machine(tmp_path_factory.mktemp("killed") / "machine", registry, crane_path)
        kill_and_push_again(
            kind == "first", pushing, lambda: registry.repository().partition("/")[2]
        )

    with ThreadPoolExecutor(2) as threads:
        yield {kind: threads.submit(run, kind) for kind in ("first", "later")}


@pytest.mark.parametrize("kind", ["first", "later"])
def test_a_killed_push_leaves_the_old_image_or_the_new_one(
    kind: str, killings: dict[str, Future[None]]
) -> None:
    killings[kind].result()


STALLS = {
    "tag read": ("GET", r"/manifests/v1$", proxy.silent),
    "blob asked": ("HEAD", r"/blobs/", proxy.silent),
    "upload": ("PATCH", r"/uploads/", proxy.stops_reading),
    "upload done": ("PUT", r"/uploads/", proxy.silent_after_all),
    "tag written": ("PUT", r"/manifests/v1$", proxy.silent),
}


@pytest.mark.parametrize(("method", "path", "fault"), STALLS.values(), ids=STALLS)
def test_no_crane_outlives_a_killed_push(
    method: str,
    path: str,
    fault: proxy.Fault,
    registry: Registry,
    crane_path: str,
    tmp_path: Path,
) -> None:
    """It would wait there for ever, and then go on with what nobody wants any more."""
    rule = Rule(method, path, fault)
    with serve_proxy(registry.host, rule) as way:
        pushing = new_machine(tmp_path / "machine", registry, crane_path, way.host)
        change(pushing, random.Random(1))
        process = pushing.start()
        assert ends_within(30, lambda: bool(rule.struck))
        assert pushing.cranes()
        process.kill()
        process.communicate()
        assert ends_within(10, lambda: not pushing.cranes()), "an orphan stays"
        change(pushing, random.Random(2))
        assert pushing.push().image
        pushing.assert_clean()
    # And the proxy has let go of all that it held.
    assert pushing.published() == pushing.tree()


# Two at once


# A full disk


# A bad cache
