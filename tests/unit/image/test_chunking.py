"""Content-defined chunking: paths decide where a listing is cut, and an edit moves little."""

from __future__ import annotations

import zlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.image.chunking import (
    boundary_hash,
    cut,
    is_boundary,
)

MANY = sorted(f"d{number % 7}/f{number:05}" for number in range(4000))


def chunks(paths: list[str]) -> list[tuple[str, list[str]]]:
    return [(start, [*some]) for start, some in cut(paths)]


def test_the_boundary_hash_is_a_crc_32() -> None:
    """Another hash would make each manifest's parts new at once: one large push for all users."""
    assert boundary_hash("d/ä") == zlib.crc32("d/ä".encode())
    assert [path for path in MANY if is_boundary(path)][:3] == [
        path for path in MANY if zlib.crc32(path.encode()) % 256 == 0
    ][:3]
    assert is_boundary("")


@given(st.sets(st.sampled_from(MANY), max_size=1500))
def test_the_chunks_hold_each_path_once_and_in_order(paths: set[str]) -> None:
    made = chunks(sorted(paths))
    assert [path for _, chunk in made for path in chunk] == sorted(paths)
    starts = [start for start, _ in made]
    assert starts[0] == "" and starts == sorted(set(starts))
    for (start, chunk), (following, _) in pairwise([*made, ("\U0010ffff", [])]):
        assert all(start <= path < following for path in chunk)


@given(st.sets(st.sampled_from(MANY), max_size=900))
def test_from_a_boundary_on_paths_are_cut_as_in_the_whole(paths: set[str]) -> None:
    whole = chunks(sorted(paths))
    for start, _ in whole:
        if start and is_boundary(start):
            rest = sorted(path for path in paths if path >= start)
            expected = [chunk for chunk in whole if chunk[0] >= start]
            assert [(first, [*some]) for first, some in cut(rest, start)] == expected


@given(st.sampled_from(MANY), st.booleans())
def test_an_edit_changes_at_most_the_chunks_beside_it(path: str, added: bool) -> None:
    path = f"{path}x" if added else path
    after = sorted({*MANY, path} if added else {*MANY} - {path})
    before = {tuple(chunk) for _, chunk in chunks(MANY)}
    assert len({tuple(chunk) for _, chunk in chunks(after)} - before) <= 3


def test_a_long_segment_is_cut_until_no_chunk_is_long() -> None:
    paths = [f"p{number:06}" for number in range(20_000)]
    made = chunks(paths)
    assert max(len(chunk) for _, chunk in made) <= 512
    assert len(made) < 200
    assert made[0][0] == ""
    assert all(start == chunk[0] for start, chunk in made[1:])


def test_a_short_segment_is_not_cut() -> None:
    short = [path for path in MANY if not is_boundary(path)][:512]
    assert chunks(short) == [("", short)]


def test_paths_with_chosen_hashes_are_cut_one_by_one() -> None:
    """Somebody may choose paths whose hashes cut nothing. The split ends, and no chunk is long."""
    paths = [
        path for path in (f"x{number:05}" for number in range(9000)) if boundary_hash(path) % 2
    ]
    paths = paths[:600]
    assert [chunk for _, chunk in chunks(paths)] == [[path] for path in paths]
