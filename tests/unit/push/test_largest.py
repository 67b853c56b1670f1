"""Which directories are named: deep enough to tell something, and no byte twice."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.push.messages import Share, largest

PACKAGES = {f"app/node_modules/p{number}/i.js": 10 for number in range(50)}

CASES: dict[str, tuple[dict[str, int], list[Share]]] = {
    "nothing": ({}, []),
    "no directory": ({"a": 5}, []),
    "nothing in it": ({"d/a": 0}, []),
    "one": ({"d/a": 5, "b": 9}, [Share("d", 5, False)]),
    "the deepest with all": ({"a/b/c/f": 5}, [Share("a/b/c", 5, False)]),
    "the deepest with most": ({"src/x/f": 9, "src/f": 1}, [
        Share("src/x", 9, False), Share("src", 1, True),
    ]),
    "half is not most": ({"src/x/f": 5, "src/y/f": 5}, [Share("src", 10, False)]),
    "many small ones below": (PACKAGES | {"app/src/a": 300}, [
        Share("app/node_modules", 500, False), Share("app/src", 300, False),
    ]),
    "not more than asked": ({f"d{n}/f": n for n in range(9)}, [
        Share("d8", 8, False), Share("d7", 7, False), Share("d6", 6, False),
    ]),
    "no prefix of a name": ({"a/f": 9, "ab/f": 5}, [Share("a", 9, False), Share("ab", 5, False)]),
}  # fmt: skip


@pytest.mark.parametrize(("sizes", "expected"), CASES.values(), ids=CASES)
def test_largest(sizes: dict[str, int], expected: list[Share]) -> None:
    assert largest(sizes, 3) == expected


NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
FILES = st.dictionaries(PATHS.map(lambda path: f"{path}.f"), st.integers(0, 1000), max_size=20)


def held(sizes: dict[str, int], folder: str) -> int:
    return sum(size for path, size in sizes.items() if path.startswith(f"{folder}/"))


@given(sizes=FILES, count=st.integers(0, 6))
def test_no_byte_is_counted_twice(sizes: dict[str, int], count: int) -> None:
    shares = largest(sizes, count)
    assert len(shares) <= count
    assert len({share.path for share in shares}) == len(shares)
    assert [share.bytes for share in shares] == sorted((s.bytes for s in shares), reverse=True)
    for share in shares:
        inside = [other.bytes for other in shares if other.path.startswith(f"{share.path}/")]
        assert share.rest == bool(inside)
        assert 0 < share.bytes <= held(sizes, share.path) - sum(inside)


@given(FILES)
def test_all_of_them_together_are_all_that_lies_in_directories(sizes: dict[str, int]) -> None:
    shares = largest(sizes, 10_000)
    in_directories = sum(size for path, size in sizes.items() if "/" in path)
    assert sum(share.bytes for share in shares) == in_directories


@given(FILES)
def test_what_holds_most_is_named_or_something_within(sizes: dict[str, int]) -> None:
    """However deep it is."""
    folders = {path.rpartition("/")[0] for path in sizes} - {""}
    whole = sum(sizes.values())
    most = [folder for folder in folders if held(sizes, folder) > Fraction(whole, 2)]
    if most:
        (share,) = largest(sizes, 1)
        deepest = max(most, key=len)
        assert f"{share.path}/".startswith(f"{deepest}/")
        inside = {path.rpartition("/")[0] for path in sizes if path.startswith(f"{share.path}/")}
        assert all(
            held(sizes, folder) * 2 <= share.bytes for folder in inside if folder != share.path
        )
