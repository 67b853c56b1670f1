"""`docker kontext diff`: a line for each path that differs, renames, and `--stat`."""

from __future__ import annotations

import pytest
from hypothesis import given
from support.models import STRANGE_NAMES, described, trees
from support.trees import Directory, File, Link, Tree

from kontext_plugin.commands.diff import lines, rename_text, stat_lines
from kontext_plugin.delta import Rename, diff, renames
from kontext_plugin.terminal.table import Room, cells


@given(trees(), trees())
def test_the_lines_turn_the_old_listing_into_the_new_one(old: Tree, new: Tree) -> None:
    shown = list(lines(diff(described(old), described(new))))
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
    shown = list(lines(diff(described({}), described(tree))))
    assert len(shown) == len(tree)
    assert all(line.startswith("A ") and line.isprintable() for line in shown)


@given(trees(), trees())
def test_renames_are_shown_once(old: Tree, new: Tree) -> None:
    """Each rename takes the place of one added and one removed path."""
    changes = diff(described(old), described(new))
    renamed = renames(changes, described(old), described(new))
    shown = list(lines(changes, renamed))
    assert len(shown) == len(list(lines(changes))) - len(renamed)
    assert [line[2:] for line in shown if line[0] == "R"] == [*map(rename_text, renamed)]
    text = "\n".join(shown)
    for one in renamed:
        assert f"A {one.new}\n" not in text and f"D {one.old}\n" not in text


RENAMES = {
    "the name": ("pkg/a", "pkg/b", "pkg/{a => b}"),
    "a directory": ("pkg/a/x", "pkg/b/x", "pkg/{a => b}/x"),
    "the top directory": ("a/x/y", "b/x/y", "{a => b}/x/y"),
    "into a directory": ("pkg/x", "pkg/sub/x", "pkg/{ => sub}/x"),
    "out of a directory": ("pkg/sub/x", "pkg/x", "pkg/{sub => }/x"),
    "nothing in common": ("a", "b/c", "a => b/c"),
    "from the top": ("x", "sub/x", "x => sub/x"),
    "parts of names": ("src/main.c", "src/mine.c", "src/{main.c => mine.c}"),
    "twice the same": ("a/a/a", "a/a", "a/{a => }/a"),
}


@pytest.mark.parametrize(("old", "new", "text"), RENAMES.values(), ids=RENAMES)
def test_rename_text(old: str, new: str, text: str) -> None:
    """As in git diff --stat."""
    assert rename_text(Rename(old, new)) == text


DIR = Directory()
OLD: Tree = {
    "docs": DIR,
    "docs/old.md": File(b"text"),
    "grown": File(b"1"),
    "link": Link("grown"),
    "same": File(b"22"),
    "gone": File(b"x" * 500),
}
NEW: Tree = {
    "docs": DIR,
    "docs/new.md": File(b"text"),
    "grown": File(b"1" * 1001),
    "link": Link("same"),
    "same": File(b"33"),
    "deep": DIR,
    "deep/\x1bnew": File(b"x" * 2),
}


def stat(old: Tree, new: Tree, room: Room) -> list[str]:
    trees = described(old), described(new)
    changes = diff(*trees)
    return list(stat_lines(changes, renames(changes, *trees), *trees, room))


def test_stat() -> None:
    assert stat(OLD, NEW, Room(50)) == [
        r" deep/\x1bnew            |   +2B +",
        " docs/{old.md => new.md} |    0B",
        " gone                    | -500B ---------",
        " grown                   |  +1kB +++++++++++++++++",
        " link                    |    0B",
        " same                    |    0B",
        " 6 files changed, +1kB, -500B",
    ]
    assert stat(OLD, OLD, Room(50)) == []


def test_stat_of_a_pipe_has_whole_names() -> None:
    name = "x" * 200
    assert stat({}, {name: File(b"1")}, Room())[0] == f" {name} | +1B +"


@given(trees(STRANGE_NAMES), trees(STRANGE_NAMES))
def test_stat_has_a_line_for_each_file_and_fits(old: Tree, new: Tree) -> None:
    shown = stat(old, new, Room(50))
    files = {
        path
        for path in old.keys() | new.keys()
        if old.get(path) != new.get(path)
        and not {type(old.get(path)), type(new.get(path))} <= {Directory, type(None)}
    }
    trees = described(old), described(new)
    count = len(files) - len(renames(diff(*trees), *trees))
    assert len(shown) == (count + 1 if files else 0)
    for line in shown:
        assert line.isprintable() and cells(line) <= 50
