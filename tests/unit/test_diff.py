"""What a delta holds: a table of changes, and random histories seen as engines and crane do."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from models import Layer, crane_export, described, overlay, parents, trees
from trees import Directory, File, Link, Tree

from kontext_plugin import manifest
from kontext_plugin.diff import Changes, diff, replaced_directories

DIR, X, Y = Directory(), File(b"x"), File(b"y")
RUN = File(b"x", executable=True)

# before, after; what the layer writes of the added, of the changed; what it hides
TABLE: dict[str, tuple[Tree, Tree, list[str], list[str], list[str]]] = {
    "nothing": ({"a": X}, {"a": X}, [], [], []),
    "first push": ({}, {"d": DIR, "d/f": X, "l": Link("d")}, ["d", "d/f", "l"], [], []),
    "content": ({"a": X, "b": X}, {"a": Y, "b": X}, [], ["a"], []),
    "executable now": ({"a": X}, {"a": RUN}, [], ["a"], []),
    "executable no more": ({"a": RUN}, {"a": X}, [], ["a"], []),
    "content and mode": ({"a": RUN}, {"a": Y}, [], ["a"], []),
    "link's target": ({"l": Link("a")}, {"l": Link("b")}, [], ["l"], []),
    "new file": ({"d": DIR}, {"d": DIR, "d/f": X}, ["d/f"], [], []),
    "new empty directory": ({}, {"d": DIR}, ["d"], [], []),
    "file gone": ({"a": X, "b": X}, {"b": X}, [], [], ["a"]),
    "link gone": ({"l": Link("a")}, {}, [], [], ["l"]),
    "file gone below": ({"d": DIR, "d/f": X}, {"d": DIR}, [], [], ["d/f"]),
    "tree gone": ({"d": DIR, "d/e": DIR, "d/e/f": X, "d/g": X}, {}, [], [], ["d"]),
    "two trees gone": ({"d": DIR, "d/f": X, "e": DIR, "e/f": X}, {}, [], [], ["d", "e"]),
    "renamed": ({"a": X}, {"b": X}, ["b"], [], ["a"]),
    "file to directory": ({"a": X}, {"a": DIR, "a/f": X}, ["a/f"], ["a"], []),
    "file to link": ({"a": X}, {"a": Link("x")}, [], ["a"], []),
    "runnable to link": ({"a": RUN}, {"a": Link("x")}, [], ["a"], []),
    "link to file": ({"a": Link("x")}, {"a": X}, [], ["a"], []),
    "link to directory": ({"a": Link("x")}, {"a": DIR, "a/f": X}, ["a/f"], ["a"], []),
    "directory to file": ({"a": DIR, "a/f": X}, {"a": X}, [], ["a"], []),
    "directory to link": ({"a": DIR, "a/f": X}, {"a": Link("x")}, [], ["a"], []),
    "tree to file": ({"a": DIR, "a/b": DIR, "a/b/c": X}, {"a": X}, [], ["a"], []),
    "inner directory to file": (
        {"a": DIR, "a/b": DIR, "a/b/c": X, "a/d": X},
        {"a": DIR, "a/b": X},
        [],
        ["a/b"],
        ["a/d"],
    ),
    "names that share a beginning": (
        {"a": DIR, "a/b": X, "a-b": X, "ab": X},
        {"a": DIR},
        [],
        [],
        ["a-b", "a/b", "ab"],
    ),
}


@pytest.mark.parametrize(("old", "new", "added", "changed", "whiteouts"), TABLE.values(), ids=TABLE)
def test_changes(
    old: Tree, new: Tree, added: list[str], changed: list[str], whiteouts: list[str]
) -> None:
    assert diff(described(old), described(new)) == Changes(
        added=tuple(added),
        changed=tuple(changed),
        removed=tuple(sorted(old.keys() - new.keys())),
        whiteouts=tuple(whiteouts),
    )


def layer(old: Tree, new: Tree) -> Layer:
    """The entries that a delta from `old` to `new` has."""
    changes = diff(described(old), described(new))
    above = {up for path in (*changes.written, *changes.whiteouts) for up in parents(path)}
    entries = [(path, new[path]) for path in sorted(above | {*changes.written})]
    return [*entries, *((path, None) for path in changes.whiteouts)]


@given(trees(), trees())
def test_the_delta_over_the_old_tree_is_the_new_one(old: Tree, new: Tree) -> None:
    assert overlay([layer({}, old), layer(old, new)]) == new


@given(trees(), trees())
def test_a_delta_is_small(old: Tree, new: Tree) -> None:
    changes = diff(described(old), described(new))
    assert all(old.get(path) != new[path] for path in changes.written)
    assert not new.keys() & {*changes.whiteouts}
    for path in changes.whiteouts:
        assert not {*parents(path)} & {*changes.removed}, "a whiteout below a whiteout"
    assert bool(changes) == (old != new)


@given(trees())
def test_no_change_is_no_delta(tree: Tree) -> None:
    assert diff(described(tree), described(tree)) == Changes()


def chain(history: list[Tree], replaced: Callable[..., frozenset[str]]) -> list[Layer]:
    """The layers of a history's last image, with base_choice's rule for starting afresh."""
    layers: list[Layer] = []
    before: Tree = {}
    hidden: frozenset[str] = frozenset()
    for tree in history:
        if not layers or any(isinstance(tree.get(path), Directory) for path in hidden):
            layers, before, hidden = [], {}, frozenset()
        else:
            hidden = replaced(described(before), described(tree), hidden)
        layers.append(layer(before, tree))
        before = tree
    return layers


@given(st.lists(trees(), min_size=2, max_size=6))
def test_every_consumer_sees_the_last_tree_of_a_history(history: list[Tree]) -> None:
    layers = chain(history, replaced_directories)
    event(f"{len(layers)} layers")
    assert overlay(layers) == history[-1]
    assert crane_export(layers) == history[-1]


def test_without_the_rule_crane_shows_what_is_gone() -> None:
    """The model of `crane export` has the flaw that the rule is for."""
    history: list[Tree] = [{"d": DIR, "d/old": X}, {"d": X}, {"d": DIR, "d/new": X}]
    layers = chain(history, lambda *_: frozenset())
    assert overlay(layers) == history[-1]
    assert crane_export(layers) == history[-1] | {"d/old": X}


REPLACED: dict[str, tuple[list[Tree], set[str]]] = {
    "nothing": ([{"d": DIR}, {"d": DIR}], set()),
    "by a file": ([{"d": DIR}, {"d": X}], {"d"}),
    "by a link": ([{"d": DIR}, {"d": Link("x")}], {"d"}),
    "and stays so": ([{"d": DIR}, {"d": X}, {"d": Link("x")}, {"d": Y}], {"d"}),
    "removed: the whiteout hides": ([{"d": DIR, "d/f": X}, {}], set()),
    "removed after": ([{"d": DIR}, {"d": X}, {}], set()),
    "the one above removed": ([{"a": DIR, "a/d": DIR}, {"a": DIR, "a/d": X}, {}], set()),
    "the one above replaced": ([{"a": DIR, "a/d": DIR}, {"a": DIR, "a/d": X}, {"a": X}], {"a"}),
    "inner and outer": ([{"a": DIR, "a/d": DIR}, {"a": X}], {"a"}),
}


@pytest.mark.parametrize(("history", "expected"), REPLACED.values(), ids=REPLACED)
def test_replaced_directories(history: list[Tree], expected: set[str]) -> None:
    replaced: frozenset[str] = frozenset()
    for old, new in itertools.pairwise(history):
        replaced = replaced_directories(described(old), described(new), replaced)
    assert replaced == expected


def test_a_version_1_tree_can_be_compared() -> None:
    old = manifest.decode({"files": {"a": "0" * 64, "d": ""}}).tree
    assert diff(old, manifest.Tree()).whiteouts == ("a", "d")
