"""Pushes that are killed while they wait for the registry. tests/integration/test_reliability.py
kills them at any moment."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import proxy
from support.machine import change, ends_within, new_machine
from support.proxy import Rule, serve_proxy
from support.services import Registry

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
