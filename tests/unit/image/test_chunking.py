"""Content-defined chunking: paths decide where a listing is cut, and an edit moves little."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import described, trees

from kontext_plugin.image.chunking import (
    SMALL,
    boundaries,
    boundary_hash,
    is_boundary,
    is_small,
    segment_of,
    segments,
    split_segment,
)
from kontext_plugin.image.tree import Tree

MANY = sorted(f"d{number % 7}/f{number:05}" for number in range(4000))


def tree_of(paths: list[str]) -> Tree:
    """Return a tree; a third of the paths are links."""
    files = {path: "a" * 64 for path in paths if boundary_hash(path) % 3}
    return Tree(files, dict.fromkeys(files, 1), links={p: "x" for p in paths if p not in files})


def chunks(paths: list[str]) -> list[tuple[str, list[str]]]:
    tree = tree_of(paths)
    starts = boundaries(tree)
    listed = segments(tree, starts, range(len(starts)))
    return [
        chunk
        for start, segment in zip(starts, listed, strict=True)
        for chunk in split_segment(start, segment)
    ]


def test_the_boundary_hash_is_a_crc_32() -> None:
    """Another hash would make each manifest's parts new at once: one large push for all users."""
    assert boundary_hash("d/ä") == zlib.crc32("d/ä".encode())
    assert [path for path in MANY if is_boundary(path)][:3] == [
        path for path in MANY if zlib.crc32(path.encode()) % 256 == 0
    ][:3]
    assert is_boundary("")


@pytest.mark.parametrize(("count", "expected"), [(0, True), (SMALL, True), (SMALL + 1, False)])
def test_a_small_tree_has_at_most_so_many_paths(count: int, expected: bool) -> None:
    assert is_small(tree_of(MANY[:count])) is expected


@given(st.sets(st.sampled_from(MANY), max_size=1500))
def test_the_chunks_hold_each_path_once_and_in_order(paths: set[str]) -> None:
    made = chunks(sorted(paths))
    assert [path for _, chunk in made for path in chunk] == sorted(paths)
    starts = [start for start, _ in made]
    assert starts[0] == "" and starts == sorted(set(starts))
    for (start, chunk), (following, _) in pairwise([*made, ("\U0010ffff", [])]):
        assert all(start <= path < following for path in chunk)


@given(trees())
def test_the_segments_of_any_tree_are_its_paths(tree: dict[str, object]) -> None:
    columns = described(tree)  # type: ignore[arg-type]
    starts = boundaries(columns)
    listed = segments(columns, starts, range(len(starts)))
    assert [path for segment in listed for path in segment] == sorted(tree)


@given(st.sets(st.integers(0, 10_000), max_size=9))
def test_some_segments_are_the_same_as_in_a_list_of_all(numbers: set[int]) -> None:
    tree = tree_of(MANY)
    starts = boundaries(tree)
    wanted = sorted({number % len(starts) for number in numbers})
    everything = segments(tree, starts, range(len(starts)))
    assert segments(tree, starts, wanted) == [everything[index] for index in wanted]
    for index in wanted:
        assert all(segment_of(path, starts) == index for path in everything[index])


@given(st.sampled_from(MANY), st.booleans())
def test_an_edit_changes_at_most_the_chunks_beside_it(path: str, added: bool) -> None:
    path = f"{path}x" if added else path
    after = sorted({*MANY, path} if added else {*MANY} - {path})
    before = {tuple(chunk) for _, chunk in chunks(MANY)}
    assert len({tuple(chunk) for _, chunk in chunks(after)} - before) <= 3


def test_a_long_segment_is_cut_until_no_chunk_is_long() -> None:
    paths = [f"p{number:06}" for number in range(20_000)]
    made = split_segment("", paths)
    assert max(len(chunk) for _, chunk in made) <= 512
    assert len(made) < 200
    assert made[0][0] == ""
    assert all(start == chunk[0] for start, chunk in made[1:])


def test_a_short_segment_is_not_cut() -> None:
    assert split_segment("s", MANY[:512]) == [("s", MANY[:512])]


def test_paths_with_chosen_hashes_are_cut_one_by_one() -> None:
    """Somebody may choose paths whose hashes cut nothing. The split ends, and no chunk is long."""
    paths = [
        path for path in (f"x{number:05}" for number in range(9000)) if boundary_hash(path) % 2
    ]
    paths = paths[:600]
    assert [chunk for _, chunk in split_segment("", paths)] == [[path] for path in paths]
