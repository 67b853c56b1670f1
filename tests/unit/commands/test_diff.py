"""`docker kontext diff`: a line for each path that differs."""

from __future__ import annotations

from hypothesis import given
from support.models import STRANGE_NAMES, described, trees
from support.trees import Tree

from kontext_plugin.commands.diff import lines
from kontext_plugin.delta import diff


@given(trees(), trees())
def test_the_lines_turn_the_old_listing_into_the_new_one(old: Tree, new: Tree) -> None:
    shown = lines(diff(described(old), described(new)))
    paths = [line[2:] for line in shown]
    assert paths == sorted(set(paths))
    listing = dict(old)
    for kind, path in (line.split(" ", 1) for line in shown):
        if kind == "D":
            del listing[path]
        else:
            assert (path in old) == (kind == "C")
            assert old.get(path) != new[path], "a line for a path that does not differ"
            listing[path] = new[path]
    assert listing == new


@given(trees(STRANGE_NAMES))
def test_each_path_is_one_printable_line(tree: Tree) -> None:
    shown = lines(diff(described({}), described(tree)))
    assert len(shown) == len(tree)
    assert all(line.startswith("A ") and line.isprintable() for line in shown)
