"""A registry that fails in many ways, at every request: the tag shows the old image or the new one.

The cases wait more than they work, so they run at once, each with a machine and a proxy of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from support import proxy
from support.machine import Machine
from support.proxy import ALWAYS, Fault, Proxy, Rule, corrupted, serve_proxy, status, trickles
from support.services import Registry, serve_registry
from support.trees import Directory, File, Link, Tree, plant

OLD: Tree = {
    "README": File(b"hello\n"),
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "src": Directory(),
    "src/link": Link("../README"),
    "src/large": File(os.urandom(300_000)),
}
CHANGE: Tree = {"README": File(b"changed\n"), "src/new": File(os.urandom(200_000))}
NEW = OLD | CHANGE

REQUESTS = {
    "ping": ("GET", r"^/v2/$"),
    "tag read": ("GET", r"/manifests/v1$"),
    "manifest read": ("GET", r"/manifests/sha256:"),
    "blob read": ("GET", r"/blobs/sha256:"),
    "tag asked": ("HEAD", r"/manifests/v1$"),
    "tags listed": ("GET", r"/tags/list"),
    "blob asked": ("HEAD", r"/blobs/sha256:"),
    "upload begun": ("POST", r"/blobs/uploads/"),
    "upload": ("PATCH", r"/blobs/uploads/"),
    "upload ended": ("PUT", r"/blobs/uploads/"),
    "tag written": ("PUT", r"/manifests/v1$"),
}

PATIENCE = 6
"""Seconds: more than the 3 that crane waits before its last try."""

SILENT = f"has not answered for {PATIENCE} s"
BROKEN = "closed the connection"
NO_HTTP = "does not speak HTTP"
LIMITED = "accepts no more requests"


class Case(NamedTuple):
    request: str
    fault: Fault
    message: str = ""  # "": the push gets over it
    count: int = 1  # requests that the fault strikes


# What a push does to a repository where nothing is.
FIRST = {
    "ping, cut": Case("ping", proxy.cut, BROKEN, ALWAYS),
    "ping, refused once": Case("ping", status(503)),
    "ping, silent": Case("ping", proxy.silent, SILENT),
    "tag read, garbage": Case("tag read", proxy.garbage, NO_HTTP),
    "tag read, failing": Case("tag read", status(503), "failed with status 503", ALWAYS),
    "tags listed, failing": Case("tags listed", status(503), count=ALWAYS),
    "tags listed, garbage": Case("tags listed", proxy.garbage),
    "tags listed, silent": Case("tags listed", proxy.silent),
    "blob asked, closed": Case("blob asked", proxy.closed),
    "tag asked, closed": Case("tag asked", proxy.closed),
    "upload begun, cut": Case("upload begun", proxy.cut),
    "upload begun, limited": Case("upload begun", status(429), LIMITED, ALWAYS),
    "upload, cut in the body": Case("upload", proxy.cut_in_the_body),
    "upload, always cut in the body": Case("upload", proxy.cut_in_the_body, BROKEN, ALWAYS),
    "upload, not read": Case("upload", proxy.stops_reading, SILENT),
    "upload, slow": Case("upload", trickles(PATIENCE * 1.5), count=ALWAYS),
    "upload, answer lost": Case("upload", proxy.lost_answer),
    "upload ended, failing once": Case("upload ended", status(500)),
    "upload ended, silent": Case("upload ended", proxy.silent_after_all, SILENT),
    "tag written, cut": Case("tag written", proxy.cut, BROKEN, ALWAYS),
    "tag written, answer lost": Case("tag written", proxy.lost_answer),
    "tag written, silent": Case("tag written", proxy.silent_after_all, SILENT),
}

# What it does to one that it knows.
LATER = {
    "ping, garbage": Case("ping", proxy.garbage, NO_HTTP),
    "tag read, closed": Case("tag read", proxy.closed),
    "tag read, silent": Case("tag read", proxy.silent, SILENT),
    "tag read, slow": Case("tag read", trickles(PATIENCE * 1.5)),
    "tag read, stopped": Case("tag read", proxy.stops_sending, SILENT),
    "tag read, truncated": Case("tag read", proxy.truncated, BROKEN),
    "tag read, shortened": Case("tag read", proxy.shortened),
    "tag read, corrupted": Case("tag read", corrupted(0.5)),
    "tag asked, failing": Case("tag asked", status(500), "failed with status 500", ALWAYS),
    "blob asked, silent": Case("blob asked", proxy.silent, SILENT),
    "blob asked, limited once": Case("blob asked", status(429)),
    "upload, cut in the body": Case("upload", proxy.cut_in_the_body),
    "upload, not read": Case("upload", proxy.stops_reading, SILENT),
    "upload ended, answer lost": Case("upload ended", proxy.lost_answer),
    "tag written, cut": Case("tag written", proxy.cut, BROKEN, ALWAYS),
    "tag written, cut in the body": Case("tag written", proxy.cut_in_the_body),
    "tag written, answer lost": Case("tag written", proxy.lost_answer),
    "tag written, each answer lost": Case("tag written", proxy.lost_answer, BROKEN, ALWAYS),
    "tag written, unheard": Case("tag written", proxy.silent, SILENT),
    "tag written, silent": Case("tag written", proxy.silent_after_all, SILENT),
    "tag written, limited": Case("tag written", status(429), LIMITED, ALWAYS),
    "tag written, garbage": Case("tag written", proxy.garbage, NO_HTTP),
}

# What it does to one that another machine has pushed.
COLD = {
    "blob read, cut": Case("blob read", proxy.cut),
    "blob read, silent": Case("blob read", proxy.silent, SILENT),
    "blob read, slow": Case("blob read", trickles(PATIENCE * 1.5)),
    "blob read, stopped behind its head": Case("blob read", proxy.stops_sending),
    "blob read, truncated": Case("blob read", proxy.truncated),
    "blob read, shortened": Case("blob read", proxy.shortened),
    "blob read, corrupted at once": Case("blob read", corrupted(0.01)),
    "blob read, garbage": Case("blob read", proxy.garbage, NO_HTTP),
    "manifest read, failing": Case("manifest read", status(500), "status 500", ALWAYS),
    "manifest read, corrupted": Case("manifest read", corrupted(0.5)),
}

CASES = {
    f"{state}: {name}": (state, case)
    for state, cases in (("first", FIRST), ("later", LATER), ("cold", COLD))
    for name, case in cases.items()
}


@contextlib.contextmanager
def between(registry: Registry, crane: str, folder: Path) -> Iterator[tuple[Machine, Proxy]]:
    """A machine that knows the registry by the name of a proxy."""
    with serve_proxy(registry.host) as way:
        repository = "test/" + re.sub(r"\W+", "-", folder.name)
        yield Machine(folder, way.host, registry.host, crane, repository), way


def suffer(state: str, case: Case, machine: Machine, way: Proxy) -> None:
    """One push among faults, and one after them."""
    plant(machine.source, OLD)
    if state != "first":
        assert machine.push().image
    if state == "cold":
        machine.forget()
    plant(machine.source, CHANGE)
    rule = Rule(*REQUESTS[case.request], case.fault, last=case.count)
    way.rules.append(rule)
    pushed = machine.push("--timeout", f"{PATIENCE}s")
    assert rule.struck, "there was no such request"
    shown = machine.published()
    if case.message:
        machine.assert_failed(pushed, case.message)
        assert shown in (None if state == "first" else OLD, NEW)
    else:
        assert pushed.image
        assert shown == NEW
    machine.assert_clean()
    way.rules.clear()
    assert machine.push().image
    assert machine.published() == NEW
    machine.assert_clean()


@pytest.fixture(scope="module")
def sufferings(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    registry: Registry,
    crane_path: str,
) -> Iterator[dict[str, Future[None]]]:
    """All cases that were asked for, begun."""

    def run(name: str, folder: Path) -> None:
        with between(registry, crane_path, folder) as (machine, way):
            suffer(*CASES[name], machine, way)

    wanted = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.function is test_a_fault_leaves_the_old_image_or_the_new_one
    ]
    with ThreadPoolExecutor(6) as threads:
        folder = tmp_path_factory.mktemp("faults")
        yield {
            name: threads.submit(run, name, folder / f"{number} {name}")
            for number, name in enumerate(wanted)
        }


@pytest.mark.parametrize("name", CASES)
def test_a_fault_leaves_the_old_image_or_the_new_one(
    name: str, sufferings: dict[str, Future[None]]
) -> None:
    sufferings[name].result()


DEATHS: dict[str, tuple[str, Fault, Tree]] = {
    "in an upload": ("upload", proxy.cut_in_the_body, OLD),
    "before it writes the tag": ("tag written", proxy.cut, OLD),
    "after it wrote the tag": ("tag written", proxy.lost_answer, NEW),
}


@pytest.mark.parametrize(("request_kind", "fault", "shown"), DEATHS.values(), ids=DEATHS)
def test_the_tag_is_right_after_the_registry_died(
    request_kind: str, fault: Fault, shown: Tree, tmp_path: Path, crane_path: str
) -> None:
    (tmp_path / "registry").mkdir()
    serving = serve_registry(tmp_path / "registry")
    with (
        serving as registry,
        between(registry, crane_path, tmp_path / "machine") as (machine, way),
    ):
        plant(machine.source, OLD)
        assert machine.push().image
        plant(machine.source, CHANGE)

        def die(exchange: proxy.Exchange) -> None:
            fault(exchange)
            serving.process.kill()
            serving.process.wait()

        way.rules.append(Rule(*REQUESTS[request_kind], die))
        machine.assert_failed(machine.push(), BROKEN)
        machine.assert_clean()
        with serve_registry(tmp_path / "registry") as again:
            way.registry = machine.direct = again.host
            assert machine.published() == shown
            assert machine.push().image
            assert machine.published() == NEW
        machine.assert_clean()
