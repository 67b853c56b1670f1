"""The listing: in chunks a tree is the same tree, and changed it is the one listed anew."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import described, trees

from kontext_plugin.image import listing
from kontext_plugin.image.chunking import boundary_hash, is_boundary
from kontext_plugin.image.listing import (
    ListedTree,
    differing,
    joined,
    list_tree,
    paths_below,
    tree_of_chunks,
    update,
)
from kontext_plugin.image.oci import digest_of
from kontext_plugin.image.tree import DIRECTORY, Tree

PATHS = [f"d{number % 5}/f{number:04}" for number in range(1500)]
BOUNDARIES = [path for path in PATHS if is_boundary(path)]
DIRECTORIES = [f"d{number}" for number in range(5)]


def tree_with(paths: dict[str, str]) -> Tree:
    """Return a tree whose entries follow from a text: a file, an executable, a link."""
    files = {
        path: hashlib.sha256(text.encode()).hexdigest() for path, text in paths.items() if text
    }
    return Tree(
        files | dict.fromkeys(DIRECTORIES, DIRECTORY),
        {path: len(paths[path]) for path in files},
        frozenset(path for path in files if paths[path].endswith("x")),
        {path: "target" for path, text in paths.items() if not text},
    )


LARGE = dict.fromkeys(PATHS, "content")


def lazy(tree: Tree) -> ListedTree:
    """Return the tree as the cache reads it: nothing of it is decoded."""
    return tree_of_chunks(list_tree(tree).chunks)


@given(trees())
def test_a_tree_of_chunks_is_the_tree(nodes: Any) -> None:
    tree = described(nodes)
    made = lazy(tree)
    assert made == tree and tree == made
    assert (made.file_count, made.size) == (tree.file_count, tree.size)
    assert (made.paths(), made.directories()) == (tree.paths(), tree.directories())
    for column in ("files", "sizes", "executable", "links"):
        assert len(getattr(made, column)) == len(getattr(tree, column))
    for path in (*tree.paths(), "absent", ""):
        assert (path in made) == (path in tree)
        assert (path in made.executable) == (path in tree.executable)
        assert made.files.get(path) == tree.files.get(path)


EDITS = st.dictionaries(
    st.sampled_from([*PATHS[:40], *BOUNDARIES, "new", "d0/f", "zz"]),
    st.none() | st.sampled_from(["", "edited", "x"]),
    max_size=8,
)


@given(st.lists(EDITS, max_size=4), st.sampled_from([0, 300, 510, 513, 1500]))
def test_a_changed_tree_is_the_one_that_is_listed_anew(edits: list[Any], count: int) -> None:
    paths = dict.fromkeys(PATHS[:count], "content")
    tree = lazy(tree_with(paths))
    for edit in edits:
        before = paths
        paths = {path: text for path, text in (paths | edit).items() if text is not None}
        removed = before.keys() - paths.keys()
        new = tree_with({path: text for path, text in edit.items() if text is not None})
        tree = update(tree, new.only(edit.keys()), removed)
        whole = list_tree(tree_with(paths))
        assert tree == whole
        assert [(one.start, one.digest) for one in tree.chunks] == [
            (one.start, one.digest) for one in whole.chunks
        ]
        assert [digest_of(one.read()) for one in tree.chunks] == tree.digests
        assert (tree.file_count, tree.size, tree.length) == (
            whole.file_count, whole.size, whole.length,
        )  # fmt: skip


def test_a_path_before_the_first_one_moves_no_start() -> None:
    """The first chunk of before may list the paths of the second one of now: not its start."""
    names = sorted(f"n{number:06}" for number in range(4000))
    first = next(name for name in names if boundary_hash(name) % 256 == 128)
    paths = [name for name in names if name >= first and not is_boundary(name)][:1500]
    tree = lazy(tree_with(dict.fromkeys(paths, "content")).only(paths))
    assert len(tree.chunks) > 2
    new = update(tree, tree_with({"a": "content"}).only(["a"]), ())
    whole = list_tree(tree_with(dict.fromkeys(["a", *paths], "content")).only(["a", *paths]))
    assert [chunk.start for chunk in new.chunks] == [chunk.start for chunk in whole.chunks]
    assert new == whole and new.entry("a") == whole.entry("a")


def test_an_edit_decodes_only_what_is_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    old = lazy(tree_with(LARGE))
    decoded: list[listing.Chunk] = []
    real = listing._decoded

    def count(chunk: listing.Chunk) -> Tree:
        decoded.append(chunk)
        return real(chunk)

    monkeypatch.setattr(listing, "_decoded", count)
    new = update(old, tree_with({PATHS[7]: "edited"}).only([PATHS[7]]), ())
    [(one, other)] = differing(old, new)
    assert len({chunk.digest for chunk in decoded}) <= 2 < len(old.chunks)
    assert one.only([PATHS[7]]) != other.only([PATHS[7]])
    assert len(one.paths()) < 600


def test_nothing_differs_between_equal_trees() -> None:
    assert not [*differing(lazy(tree_with(LARGE)), list_tree(tree_with(LARGE)))]


@given(EDITS, EDITS)
def test_what_does_not_differ_is_the_same(one: Any, other: Any) -> None:
    trees = [
        tree_with({path: text for path, text in (LARGE | edit).items() if text is not None})
        for edit in (one, other)
    ]
    found = [*differing(*map(lazy, trees))]
    pieces = [joined(side) for side in ([one for one, _ in found], [other for _, other in found])]
    rests = [
        whole.only(whole.paths() - piece.paths())
        for whole, piece in zip(trees, pieces, strict=True)
    ]
    assert rests[0] == rests[1]
    for whole, piece in zip(trees, pieces, strict=True):
        assert whole.only(piece.paths()) == piece


@pytest.mark.parametrize("directory", ["d0", "d3", "d4", "d", "d00", "a", "z", "d0/f0000"])
def test_the_paths_below_a_directory_are_found(directory: str) -> None:
    tree = tree_with(LARGE | dict.fromkeys(("d0-", "d0.x/f", "d00", "d0/g/h", "d", "a"), "content"))
    expected = sorted(path for path in tree.paths() if path.startswith(f"{directory}/"))
    assert [*paths_below(lazy(tree), directory)] == expected
