"""Differences are those of content, kind and mode, and of nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from models import described, trees
from trees import Directory, File, Link, Node, Tree

from kontext_plugin.comparison import between

CASES: dict[str, tuple[Node, Node, str | None]] = {
    "content": (File(b"x"), File(b"y"), "other content"),
    "mode": (File(b"x"), File(b"x", executable=True), "other mode"),
    "content and mode": (File(b"x"), File(b"y", executable=True), "other content"),
    "target": (Link("a"), Link("b"), "other content"),
    "a link for a file": (File(b"x"), Link("x"), "other kind"),
    "a directory for an empty file": (File(b""), Directory(), "other kind"),
    "nothing": (File(b"x"), File(b"x"), None),
}


@pytest.mark.parametrize(("want", "have", "what"), CASES.values(), ids=CASES)
def test_how_an_entry_differs(want: Node, have: Node, what: str | None) -> None:
    found = list(between(described({"a": want}), described({"a": have}), "DIR"))
    assert [one.what for one in found] == ([what] if what else [])


def test_modes_that_are_not_known() -> None:
    one, other = described({"a": File(b"x")}), described({"a": File(b"x", executable=True)})
    assert not list(between(one, other, "DIR", modes=False))


@given(trees(), trees())
def test_all_paths_that_differ_are_told(one: Tree, other: Tree) -> None:
    found = list(between(described(one), described(other), "the image"))
    differing = [
        path for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)
    ]
    assert [difference.path for difference in found] == differing
    assert {d.path for d in found if d.what == "missing"} == one.keys() - other.keys()
    assert {d.path for d in found if d.what == "only"} == other.keys() - one.keys()
