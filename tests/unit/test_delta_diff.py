"""What a delta holds: a table of changes, and how undos join."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import STRANGE_NAMES, described, layer, overlay, parents, trees
from support.trees import Directory, File, Link, Tree

from kontext_plugin import manifest
from kontext_plugin.commands.diff import lines as lines_of
from kontext_plugin.delta import (
    Changes,
    changes_of,
    compose,
    diff,
    layer_bytes,
    replaced_directories,
    reverse_delta,
    tree_bytes,
)
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.image.tree import Tree as Described

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


@given(trees(), trees())
def test_the_delta_over_the_old_tree_is_the_new_one(old: Tree, new: Tree) -> None:
    first, second = diff(Described(), described(old)), diff(described(old), described(new))
    assert overlay([layer(first, old), layer(second, new)]) == new


@given(trees(), trees())
def test_a_delta_is_small(old: Tree, new: Tree) -> None:
    made = diff(described(old), described(new))
    assert all(old.get(path) != new[path] for path in made.written)
    assert not new.keys() & {*made.whiteouts}
    for path in made.whiteouts:
        assert not {*parents(path)} & {*made.removed}, "a whiteout below a whiteout"
    assert bool(made) == (old != new)


@given(trees())
def test_no_change_is_no_delta(tree: Tree) -> None:
    assert diff(described(tree), described(tree)) == Changes()


def back(tree: Tree, way: ReverseDelta, earlier: Tree) -> bool:
    """Whether `way` leads from `tree` to `earlier`, and touches nothing else."""
    want = described(earlier)
    touched = way.paths()
    return (
        touched
        == {path for path in tree.keys() | earlier.keys() if tree.get(path) != earlier.get(path)}
        and way.former == want.only(touched).without_sizes()
        and way.absent == {path for path in touched if path not in earlier}
    )


@given(trees(), trees())
def test_an_undo_leads_back(old: Tree, new: Tree) -> None:
    way = reverse_delta(described(old), described(new))
    assert back(new, way, old)
    assert bool(way) == (old != new)


@given(st.lists(trees(), min_size=2, max_size=5))
def test_undos_lead_on(history: list[Tree]) -> None:
    *earlier, last = history
    way, after = ReverseDelta(), last
    for tree in reversed(earlier):
        way = compose(way, reverse_delta(described(tree), described(after)), described(last))
        assert back(last, way, tree)
        assert changes_of(way, described(last)) == diff(described(tree), described(last))
        after = tree


@pytest.mark.parametrize(
    ("old", "new", "size"),
    [
        pytest.param({}, {"a": File(b"12345"), "d": DIR, "l": Link("a")}, 5 + 3 * 512, id="first"),
        pytest.param({"a": X}, {"a": RUN}, 1 + 512, id="mode"),
        pytest.param({"d": DIR, "d/f": X, "d/g": X}, {}, 512, id="one whiteout"),
        pytest.param({"a": X}, {"a": X}, 0, id="nothing"),
    ],
)
def test_layer_bytes(old: Tree, new: Tree, size: int) -> None:
    tree = described(new)
    assert layer_bytes(diff(described(old), tree), tree) == size
    if not old:
        assert tree_bytes(tree) == size


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
        way = reverse_delta(described(old), described(new))
        replaced = replaced_directories(way, described(new), replaced)
    assert replaced == expected


def test_a_version_1_tree_can_be_compared() -> None:
    old = manifest.decode({"files": {"a": "0" * 64, "d": ""}}).tree
    assert diff(old, Described()).whiteouts == ("a", "d")


# What the command says of it


@given(trees(), trees())
def test_what_diff_says_turns_the_old_listing_into_the_new_one(old: Tree, new: Tree) -> None:
    lines = lines_of(diff(described(old), described(new)))
    paths = [line[2:] for line in lines]
    assert paths == sorted(set(paths))
    listing = dict(old)
    for kind, path in (line.split(" ", 1) for line in lines):
        if kind == "D":
            del listing[path]
        else:
            assert (path in old) == (kind == "C")
            assert old.get(path) != new[path], "said to differ, and does not"
            listing[path] = new[path]
    assert listing == new


@given(trees(STRANGE_NAMES))
def test_each_path_of_diff_is_a_line(tree: Tree) -> None:
    lines = lines_of(diff(described({}), described(tree)))
    assert len(lines) == len(tree)
    assert all(line.startswith("A ") and line.isprintable() for line in lines)
