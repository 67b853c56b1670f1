"""What a push says: one line for each step, and the advice after a large push."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import SPEC, described, published
from support.trees import Directory, File, Tree, plant

from kontext_plugin.image.reference import parse_reference
from kontext_plugin.push.messages import (
    Share,
    advise,
    builds_on,
    candidates,
    counts,
    largest,
    largest_line,
    lines_to_add,
    pushed,
    report_scan,
    scanned,
    would_upload,
)
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import Plan, make_plan
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source.directory import open_source
from kontext_plugin.source.scan import Scan, SpecialFile
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import size

NOTHING = StartFresh("there is nothing")
TAG = parse_reference("host.io/repo:t")
DIR, X = Directory(), File(b"x")


def plan_after(*history: Tree) -> Plan:
    """Return the plan for the last tree, after a push of each earlier one."""
    *earlier, last = history
    return make_plan(image_after(*earlier), SPEC, described(last))


def image_after(*history: Tree) -> KontextImage | StartFresh:
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in history:
        tag_image = published(make_plan(tag_image, SPEC, described(tree)))
    return tag_image


# The directory

SCAN = Scan(described({"a": X, "d": DIR}), (), (), {}, 1)
SCANNED: dict[str, tuple[tuple[str, ...], str]] = {
    "no .git": ((), "Scanned 1 file, 1B"),
    "a .git": ((".git",), "Scanned 1 file, 1B; skipped '.git' (keep it with --git)"),
    "two .git": (
        (".git", "sub/.git"),
        "Scanned 1 file, 1B; skipped '.git' and 1 more .git (keep it with --git)",
    ),
}


@pytest.mark.parametrize(("git_entries", "line"), SCANNED.values(), ids=SCANNED)
def test_the_line_about_the_directory(git_entries: tuple[str, ...], line: str) -> None:
    assert scanned(replace(SCAN, git_entries=git_entries)) == line


def test_each_file_that_no_image_can_hold_has_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    report_scan(replace(SCAN, special_files=(SpecialFile("d/s\n", "socket"),)), Report())
    assert capsys.readouterr().err == (
        "WARNING: skipped 'd/s\\n': it is a socket\nScanned 1 file, 1B\n"
    )


# The parent

BALLAST: Tree = {"ballast": File(b"b" * 100_000)}


def test_the_line_about_the_parent() -> None:
    assert builds_on(TAG, plan_after(BALLAST)) == "Starting fresh: there is nothing"
    plan = plan_after(BALLAST, BALLAST | {"a": X})
    assert isinstance(plan.parent, BuildOn)
    total = size(sum(layer.size for layer in plan.parent.layers))
    assert builds_on(TAG, plan) == f"Building on {TAG}, generation 0: 2 layers, {total}"


ABOVE = {1: "; the new layer replaces the layer above", 2: "; the new layer replaces all 2 layers"}


@pytest.mark.parametrize("above", ABOVE)
def test_the_line_about_the_parent_says_which_layers_are_replaced(above: int) -> None:
    history = [BALLAST]
    for count in (9000, 3000)[:above]:
        history.append(history[-1] | {f"f{count}": File(bytes(count))})
    history.append({path: File(node.content + b"x") for path, node in history[-1].items()})
    history[-1] |= BALLAST
    plan = plan_after(*history)
    assert isinstance(plan.parent, BuildOn)
    assert len(plan.parent.tag_image.image.layers) - len(plan.parent.layers) == above
    assert ABOVE[above] in builds_on(TAG, plan)


def test_all_candidates_are_listed_and_the_choice_has_a_star() -> None:
    history = [BALLAST, BALLAST | {"a": X}]
    tag_image = image_after(*history)
    assert isinstance(tag_image, KontextImage)
    plan = make_plan(tag_image, SPEC, described(BALLAST | {"a": File(b"y"), "b": X}))
    title, *lines = candidates(tag_image, plan).splitlines()
    assert title == "Candidates, with the size of the new layer on each (uncompressed):"
    assert lines == [
        "  generation 1, 3 layers: 1.03kB in 2 paths, 0 whiteouts",
        "* generation 0, 2 layers: 1.03kB in 2 paths, 0 whiteouts",
        "  the base alone: 102kB in 3 paths",
    ]
    full = make_plan(tag_image, replace(SPEC, max_layers=2), described({"a": X}))
    *table, base = candidates(tag_image, full).splitlines()
    assert [line.partition("; ")[2] for line in table[1:]] == [
        "not usable: the image has reached 2 layers"
    ] * 2
    assert base.startswith("* the base alone")


# The counts

COUNTS: dict[str, tuple[Tree, Tree, str]] = {
    "first push": ({}, {"a": X, "d": DIR, "d/b": X}, "2 added"),
    "one of each": (
        {"a": X, "b": X, "c": X},
        {"a": File(b"y"), "b": X, "n": X},
        "1 added, 1 changed, 1 removed",
    ),
    "directories": ({"a": X}, {"a": X, "d": DIR}, "only directories"),
    "a directory removed": ({"a": X, "d": DIR, "d/b": X, "d/c": X}, {"a": X}, "2 removed"),
    "file to directory": ({"a": X, "b": X}, {"a": DIR, "b": X}, "only directories"),
    "nothing at all": ({}, {}, "no files"),
}


@pytest.mark.parametrize(("old", "new", "text"), COUNTS.values(), ids=COUNTS)
def test_the_counts_of_a_push_are_those_of_files(old: Tree, new: Tree, text: str) -> None:
    tag_image = published(make_plan(NOTHING, SPEC, described(old))) if old else NOTHING
    assert counts(make_plan(tag_image, SPEC, described(new))) == text


def test_the_counts_are_since_the_image_under_the_tag_and_not_since_the_parent() -> None:
    tag_image: KontextImage | StartFresh = NOTHING
    for number in range(3):
        tree = BALLAST | {name: File(bytes([number])) for name in ("a", "b")[: number + 1]}
        plan = make_plan(tag_image, SPEC, described(tree))
        tag_image = published(plan)
    assert isinstance(plan.parent, BuildOn) and len(plan.parent.ancestors) == 1
    assert counts(plan) == "2 changed"


# The result


def test_the_line_about_the_publication() -> None:
    tags = [TAG, parse_reference("host.io/repo:u")]
    assert pushed(tags, plan_after({"a": X}), 2500) == (
        "Pushed host.io/repo:t, host.io/repo:u: 1 added; uploaded 2.5kB"
    )


def test_the_line_about_what_a_push_would_upload() -> None:
    first, sizes = plan_after({"a": X, "b": X}), [1000, 2000]
    assert would_upload(TAG, first, sizes) == (
        "Would upload 3kB in 2 layers: everything, 2 files; "
        "and the base image, if the repository does not have it"
    )
    single = replace(first, spec=replace(SPEC, base=replace(SPEC.base, single_layer=True)))
    assert would_upload(TAG, single, sizes[:1]) == (
        "Would upload 1kB in one layer: everything, 2 files"
    )
    edit = plan_after({"a": X}, {"a": File(b"y")})
    assert would_upload(TAG, edit, [500]) == "Would upload 500B in one layer: 1 changed"
    same = plan_after({"a": X}, {"a": X})
    assert would_upload(TAG, same, []) == (
        "Nothing changed: host.io/repo:t is up to date, nothing would be uploaded"
    )


# The largest directories

PACKAGES = {f"app/node_modules/p{number}/i.js": 10 for number in range(50)}

LARGEST: dict[str, tuple[dict[str, int], list[Share]]] = {
    "no files": ({}, []),
    "no directory": ({"a": 5}, []),
    "no bytes": ({"d/a": 0}, []),
    "one": ({"d/a": 5, "b": 9}, [Share("d", 5, False)]),
    "the deepest with all": ({"a/b/c/f": 5}, [Share("a/b/c", 5, False)]),
    "the deepest with most": ({"src/x/f": 9, "src/f": 1}, [
        Share("src/x", 9, False), Share("src", 1, True),
    ]),
    "half is not most": ({"src/x/f": 5, "src/y/f": 5}, [Share("src", 10, False)]),
    "many small ones below": (PACKAGES | {"app/src/a": 300}, [
        Share("app/node_modules", 500, False), Share("app/src", 300, False),
    ]),
    "at most as many as asked for": ({f"d{n}/f": n for n in range(9)}, [
        Share("d8", 8, False), Share("d7", 7, False), Share("d6", 6, False),
    ]),
    "a name and its prefix": ({"a/f": 9, "ab/f": 5}, [Share("a", 9, False), Share("ab", 5, False)]),
}  # fmt: skip


@pytest.mark.parametrize(("sizes", "expected"), LARGEST.values(), ids=LARGEST)
def test_the_largest_directories(sizes: dict[str, int], expected: list[Share]) -> None:
    assert largest(sizes, 3) == expected


NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
FILES = st.dictionaries(PATHS.map(lambda path: f"{path}.f"), st.integers(0, 1000), max_size=20)


def bytes_below(sizes: dict[str, int], directory: str) -> int:
    return sum(size for path, size in sizes.items() if path.startswith(f"{directory}/"))


@given(sizes=FILES, count=st.integers(0, 6))
def test_no_byte_is_counted_twice(sizes: dict[str, int], count: int) -> None:
    shares = largest(sizes, count)
    assert len(shares) <= count
    assert len({share.path for share in shares}) == len(shares)
    assert [share.bytes for share in shares] == sorted((s.bytes for s in shares), reverse=True)
    for share in shares:
        inside = [other.bytes for other in shares if other.path.startswith(f"{share.path}/")]
        assert share.is_rest == bool(inside)
        assert 0 < share.bytes <= bytes_below(sizes, share.path) - sum(inside)


@given(FILES)
def test_all_shares_together_are_all_bytes_in_directories(sizes: dict[str, int]) -> None:
    shares = largest(sizes, 10_000)
    in_directories = sum(size for path, size in sizes.items() if "/" in path)
    assert sum(share.bytes for share in shares) == in_directories


@given(FILES)
def test_a_directory_with_most_bytes_is_named_or_one_below_it(sizes: dict[str, int]) -> None:
    """That holds however deep it is."""
    directories = {path.rpartition("/")[0] for path in sizes} - {""}
    total = sum(sizes.values())
    most = [one for one in directories if bytes_below(sizes, one) > Fraction(total, 2)]
    if most:
        (share,) = largest(sizes, 1)
        deepest = max(most, key=len)
        assert f"{share.path}/".startswith(f"{deepest}/")
        inside = {path.rpartition("/")[0] for path in sizes if path.startswith(f"{share.path}/")}
        assert all(
            bytes_below(sizes, one) * 2 <= share.bytes for one in inside if one != share.path
        )


def test_the_line_about_the_largest_directories() -> None:
    shares = [Share("a/b", 920, False), Share("a", 70, True)]
    assert largest_line(shares, 1000) == (
        "Largest directories, uncompressed: a/b 92 % (920B), the rest of a 7 % (70B)"
    )


# The advice

LINES: dict[str, tuple[list[str], set[str], list[str]]] = {
    "nothing ignored": (["a/b"], set(), []),
    "itself": (["a/b"], {"a/b"}, ["a/b"]),
    "the topmost": (["a/b/c"], {"a/b", "a/b/c"}, ["a/b"]),
    "two within one": (["a/b", "a/c"], {"a", "a/b", "a/c"}, ["a"]),
    "two": (["a", "b"], {"a", "b"}, ["a", "b"]),
    "a name that is a pattern": (["a*", "[b]", "!c", "#d", "e ", "f\\g"],
                                 {"a*", "[b]", "!c", "#d", "e ", "f\\g"}, []),
    "a space within": (["a b"], {"a b"}, ["a b"]),
}  # fmt: skip


@pytest.mark.parametrize(("paths", "ignored", "lines"), LINES.values(), ids=LINES)
def test_the_lines_to_add_to_the_ignore_file(
    paths: list[str], ignored: set[str], lines: list[str]
) -> None:
    assert lines_to_add(paths, ignored) == lines


def advice(tree: Tree, root: Path, capsys: pytest.CaptureFixture[str], quiet: bool = False) -> str:
    """Return what a first push of the tree says."""
    plan = plan_after(tree)
    advise(str(root), open_source(str(root)).ignore_file, plan, partition(plan), Report(quiet))
    return capsys.readouterr().err


LARGE = File(bytes(10_000_000))
SIZES: dict[str, tuple[Tree, bool]] = {
    "large": ({"d": DIR, "d/f": LARGE}, True),
    "many files": ({"d": DIR} | {f"d/{number}": X for number in range(1000)}, True),
    "small": ({"d": DIR, "d/f": File(b"x" * 1000)}, False),
    "large, without directories": ({"f": LARGE}, False),
    "many empty files": ({"d": DIR} | {f"d/{n}": File(b"") for n in range(1000)}, False),
}


@pytest.mark.parametrize(("tree", "explained"), SIZES.values(), ids=SIZES)
def test_only_a_large_push_is_explained(
    tree: Tree, explained: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = advice(tree, tmp_path, capsys)
    assert ("Largest directories, uncompressed: d 100 %" in text) == explained
    assert advice(tree, tmp_path, capsys, quiet=True) == ""


WORK_TREE: Tree = {
    ".gitignore": File(b"node_modules/\n"),
    "app": DIR,
    "app/node_modules": DIR,
    "app/node_modules/p": DIR,
    "app/node_modules/p/f": LARGE,
    "src": DIR,
    "src/f": X,
}


@pytest.mark.parametrize("own", ["", ".dockerignore", ".kontextignore"])
def test_the_advice_names_the_ignore_file_that_is_in_use(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new .kontextignore would put a .dockerignore out of use."""
    root = tmp_path / "root"
    root.mkdir()
    plant(root, WORK_TREE)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    if own:
        (root / own).touch()
    assert advice(WORK_TREE, root, capsys).endswith(
        "git ignores some of these directories. To skip them, push with --gitignore, "
        f"or add to {own or '.kontextignore'}:\n  app/node_modules\n"
    )
