"""Trees as columns, and how an earlier tree differed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import PLAIN_NAMES, STRANGE_NAMES, described, trees
from support.models import parents as parents_of
from support.trees import Directory, File, Link, Tree

from kontext_plugin.image.tree import Entry, ReverseDelta, is_utf8, parents
from kontext_plugin.image.tree import Tree as Described

RUN = b"#!"
TREE: Tree = {
    "é": Directory(),
    "é/run": File(RUN, executable=True),
    "a b": File(b""),
    'q"': Link("../\n"),
}


def test_an_entry_says_what_is_at_a_path() -> None:
    tree = described(TREE)
    digest = hashlib.sha256(RUN).hexdigest()
    assert tree.entry("é") == Entry("é", "directory")
    assert tree.entry('q"') == Entry('q"', "link", target="../\n")
    assert tree.entry("é/run") == Entry("é/run", "file", digest, 2, executable=True)
    assert tree.entry("a b").size == 0 and not tree.entry("a b").executable
    assert (tree.size, tree.file_count) == (2, 3)
    with pytest.raises(KeyError):
        tree.entry("gone")


@given(trees(st.one_of(PLAIN_NAMES, STRANGE_NAMES)))
def test_the_columns_agree_with_the_nodes(tree: Tree) -> None:
    columns = described(tree)
    assert columns.paths() == tree.keys()
    assert all(path in columns for path in tree)
    assert "no/such/path" not in columns
    directories = {path for path, node in tree.items() if isinstance(node, Directory)}
    assert columns.directories() == directories
    assert all(columns.is_directory(path) == (path in directories) for path in tree)
    assert columns.file_count == len(tree) - len(directories)
    assert columns.size == sum(len(n.content) for n in tree.values() if isinstance(n, File))


@given(trees(), st.sets(st.sampled_from(["a", "b", "a/b", "c", "nowhere"])), st.booleans())
def test_a_selection_has_the_entries_at_its_paths(
    tree: Tree, chosen: set[str], as_list: bool
) -> None:
    whole = described(tree)
    some = whole.only(sorted(chosen) if as_list else chosen)
    assert some.paths() == whole.paths() & chosen
    assert all(some.entry(path) == whole.entry(path) for path in some.paths())
    assert some.sizes.keys() <= chosen and some.executable <= chosen


@given(trees())
def test_a_tree_without_sizes_is_otherwise_the_same(tree: Tree) -> None:
    bare = described(tree).without_sizes()
    assert not bare.sizes
    assert Described(bare.files, described(tree).sizes, bare.executable, bare.links) == described(
        tree
    )


def test_a_reverse_delta_is_empty_if_nothing_differs() -> None:
    assert not ReverseDelta()
    assert not ReverseDelta().paths()
    for former in ({"f": File(b"")}, {"l": Link("x")}, {"d": Directory()}):
        delta = ReverseDelta(described(former).without_sizes(), frozenset({"gone"}))
        assert delta
        assert delta.paths() == {*former, "gone"}
    assert ReverseDelta(absent=frozenset({"gone"}))


@given(st.lists(st.lists(PLAIN_NAMES, min_size=1, max_size=4).map("/".join)))
def test_parents_are_all_directories_above_the_paths_in_order(paths: list[str]) -> None:
    assert parents(paths) == sorted({parent for path in paths for parent in parents_of(path)})


@pytest.mark.parametrize(
    ("name", "expected"), [("ä😀", True), ("", True), ("a\udcff", False), ("\ud800", False)]
)
def test_a_lone_surrogate_is_not_utf_8(name: str, expected: bool) -> None:
    assert is_utf8(name) is expected


def test_files_are_counted_without_their_sizes() -> None:
    """The cache keeps no sizes of a large tree."""
    tree = described({"d": Directory(), "d/f": File(b"x"), "g": File(b"y"), "l": Link("g")})
    assert tree.without_sizes().file_count == tree.file_count == 3
