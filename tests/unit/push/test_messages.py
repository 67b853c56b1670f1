"""What a push says: one line for each step, and the advice after a large push."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import NOTHING, SPEC, TAG, described, plan_on, published
from support.trees import Directory, File, Tree, plant

from kontext_plugin.cache import PushRecord
from kontext_plugin.image.assembly import Assembly, assemble
from kontext_plugin.image.listing import list_tree
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.push.find import Found
from kontext_plugin.push.messages import (
    Share,
    advise,
    builds_on,
    candidates,
    counts,
    is_remarkable,
    largest,
    largest_line,
    lines_to_add,
    pushed,
    report_scan,
    scanned,
    warnings,
    would_upload,
)
from kontext_plugin.push.parent import BuildOn, Candidate, Origin, StartFresh
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import Plan, counted_since, make_plan
from kontext_plugin.push.prepare import Prepared
from kontext_plugin.push.publish import Published
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source.directory import open_source
from kontext_plugin.source.entries import SpecialFile
from kontext_plugin.source.scan import Scan
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import size

OTHER = parse_reference("host.io/repo:main")
DIR, X = Directory(), File(b"x")


def plan_after(*history: Tree) -> Plan:
    """Return the plan for the last tree, after a push of each earlier one."""
    *earlier, last = history
    return plan_on(image_after(*earlier), SPEC, described(last))


def image_after(*history: Tree) -> KontextImage | StartFresh:
    tag_image: KontextImage | StartFresh = NOTHING
    for tree in history:
        tag_image = published(plan_on(tag_image, SPEC, described(tree)))
    return tag_image


# The directory

SCAN = Scan(Snapshot(list_tree(described({"a": X, "d": DIR}))), (), (), 1)
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


UNREADABLE = {
    ("a\n",): "'a\\n', an ignored directory",
    ("a", "b", "c"): "'a' and 2 more ignored directories",
}


@pytest.mark.parametrize("paths", UNREADABLE)
def test_ignored_directories_that_cannot_be_searched_are_one_warning(
    paths: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    report_scan(replace(SCAN, unreadable=paths), Report())
    warning, _ = capfd.readouterr().err.splitlines()
    assert warning == (
        f"WARNING: skipped {UNREADABLE[paths]} that cannot be read: "
        "rules with '!' have no effect there"
    )


# The parent

BALLAST: Tree = {"ballast": File(b"b" * 100_000)}


def test_the_line_about_the_parent() -> None:
    assert builds_on(plan_after(BALLAST)) == "Starting fresh: there is nothing"
    plan = plan_after(BALLAST, BALLAST | {"a": X})
    assert isinstance(plan.parent, BuildOn)
    total = size(sum(layer.size for layer in plan.parent.layers))
    assert builds_on(plan) == f"Building on {TAG}, generation 0: 1 layer, {total}"


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
    assert len(plan.parent.found.sources) - len(plan.parent.layers) == above
    assert ABOVE[above] in builds_on(plan)


ORIGINS: dict[Origin, str] = {
    Origin.TAG: "Building on host.io/repo:main, generation 0: ",
    Origin.FROM: "Building on host.io/repo:main (named with --from), generation 0: ",
    Origin.OWN_PUSH: "Building on host.io/repo:main (a push of this machine), generation 0: ",
    Origin.COMMIT: "Building on host.io/repo:main (the nearest commit), generation 0: ",
    Origin.BRANCH: "Building on host.io/repo:main (a branch), generation 0: ",
}


def test_every_origin_has_a_line() -> None:
    assert set(ORIGINS) == set(Origin)


def plan_from(origin: Origin, tree: Tree = BALLAST) -> Plan:
    """Return a plan of the tree on an image of BALLAST that was found elsewhere."""
    image = image_after(BALLAST)
    assert isinstance(image, KontextImage)
    return make_plan([Candidate(image, OTHER, origin)], NOTHING, SPEC, described(tree))


@pytest.mark.parametrize(("origin", "line"), ORIGINS.items(), ids=lambda value: str(value)[:20])
def test_the_line_about_the_parent_says_where_it_was_found(origin: Origin, line: str) -> None:
    assert builds_on(plan_from(origin)).startswith(line)


def test_only_an_unexpected_parent_is_told_without_being_asked() -> None:
    edited = BALLAST | {"a": X}
    assert not is_remarkable(plan_after(BALLAST, edited), TAG)
    assert is_remarkable(plan_after(BALLAST, edited), OTHER)
    assert is_remarkable(plan_from(Origin.COMMIT), TAG)
    assert is_remarkable(plan_after(BALLAST), TAG), "why it starts fresh"
    ordinary = StartFresh("--fresh was given", is_ordinary=True)
    assert not is_remarkable(plan_on(ordinary, SPEC, described(BALLAST)), TAG)


def candidate_of(plan: Plan) -> Candidate:
    assert plan.candidate is not None
    return plan.candidate


def test_all_candidates_are_listed_and_the_choice_has_a_star() -> None:
    history = [BALLAST, BALLAST | {"a": X}]
    tag_image = image_after(*history)
    assert isinstance(tag_image, KontextImage)
    plan = plan_on(tag_image, SPEC, described(BALLAST | {"a": File(b"y"), "b": X}))
    candidate = candidate_of(plan)
    title, *lines = candidates(candidate, plan).splitlines()
    assert title == (f"Candidates at {TAG}, with the size of the new layer on each (uncompressed):")
    assert lines == [
        "  generation 1, 2 layers: 1.03kB in 2 paths, 0 whiteouts",
        "* generation 0, 1 layer: 1.03kB in 2 paths, 0 whiteouts",
        "  a fresh start: 102kB in 3 paths",
    ]
    full = plan_on(tag_image, replace(SPEC, max_layers=2), described({"a": X}))
    *table, fresh = candidates(candidate, full).splitlines()
    assert [line.partition("; ")[2] for line in table[1:]] == [
        "not usable: the image has reached 2 layers"
    ] * 2
    assert fresh.startswith("* a fresh start")


def test_another_candidate_has_no_star() -> None:
    """Its parent may have the same digest: two tags may show one image."""
    plan = plan_after(BALLAST, BALLAST | {"a": X})
    other = replace(candidate_of(plan), reference=OTHER, origin=Origin.BRANCH)
    title, *lines = candidates(other, plan).splitlines()
    assert title.startswith("Candidates at host.io/repo:main (a branch), with")
    assert not [line for line in lines if line.startswith("*")]


def test_a_candidate_that_cannot_be_the_parent_has_its_reason() -> None:
    plan = plan_after(BALLAST, BALLAST | {"a": X})
    strange = candidate_of(plan)
    strange = replace(strange, image=replace(strange.image, config=None))
    assert candidates(strange, plan) == (
        f"Candidates at {TAG}: none, the image's configuration does not list its layers"
    )


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
    tag_image = published(plan_on(NOTHING, SPEC, described(old))) if old else NOTHING
    assert counts(plan_on(tag_image, SPEC, described(new))) == text


def test_the_counts_are_since_the_image_under_the_tag_and_not_since_the_parent() -> None:
    tag_image: KontextImage | StartFresh = NOTHING
    for number in range(3):
        tree = BALLAST | {name: File(bytes([number])) for name in ("a", "b")[: number + 1]}
        plan = plan_on(tag_image, SPEC, described(tree))
        tag_image = published(plan)
    assert isinstance(plan.parent, BuildOn) and len(plan.parent.ancestors) == 1
    assert counts(plan) == "2 changed"


def test_the_counts_are_since_the_tags_image_if_another_one_is_the_parent() -> None:
    plan = counted_since(plan_from(Origin.BRANCH, BALLAST | {"a": X}), described({"b": X}))
    assert counts(plan) == "2 added, 1 removed"


def test_a_push_of_labels_alone_changes_no_file() -> None:
    plan = plan_on(image_after(BALLAST), replace(SPEC, labels={"k": "v"}), described(BALLAST))
    assert counts(plan) == "no file changed"


# The result


def result(plan: Plan, written: tuple[Reference, ...], uploaded: int) -> Published:
    return Published(published(plan), written, uploaded)


def test_the_line_about_the_publication() -> None:
    plan = plan_after({"a": X})
    assert pushed([TAG, OTHER], plan, result(plan, (TAG, OTHER), 2500)) == (
        f"Pushed {TAG}, {OTHER}: 1 added; uploaded 2.5kB"
    )
    assert pushed([TAG, OTHER], plan, result(plan, (OTHER,), 0)) == (
        f"Pushed {OTHER}: 1 added; uploaded 0B"
    ), "the other tag shows it already"


def test_the_line_about_a_push_of_nothing() -> None:
    plan = plan_after({"a": X}, {"a": X})
    assert pushed([TAG], plan, result(plan, (), 0)) == (
        f"Nothing changed: {TAG} is up to date, nothing uploaded"
    )
    assert pushed([TAG, OTHER], plan, result(plan, (), 0)) == (
        f"Nothing changed: {TAG}, {OTHER} are up to date, nothing uploaded"
    )


def prepared(plan: Plan, tag_image: KontextImage | StartFresh, root: Path) -> Prepared:
    """Return what a push of a directory knows, with this image under the tag."""
    scan = Scan(Snapshot(list_tree(plan.tree)), (), (), 0)
    image = tag_image if isinstance(tag_image, KontextImage) else None
    found = Found(NOTHING, {TAG: image.digest if image else None}, (), image)
    assembly: Assembly | None = None
    if plan.sources:
        assembly = assemble(plan.spec, plan.sources, plan.labels)
    return Prepared(open_source(str(root)), scan, found, plan, None, assembly)


def test_the_line_about_what_a_push_would_upload() -> None:
    first, edit = plan_after({"a": X, "b": X}), plan_after({"a": X}, {"a": File(b"y")})
    for plan, what in ((first, "2 added"), (edit, "1 changed")):
        image = published(plan)
        sources = plan_on(image, SPEC, plan.tree).sources
        assert sources is not None
        assembly = assemble(SPEC, sources, {})
        assert would_upload(TAG, plan, assembly, 3000, is_shown=False) == (
            f"Would publish {TAG.at(image.digest)} and upload 3kB: {what}"
        ), "the digest that the push will print"
    assert would_upload(TAG, plan, assembly, 0, is_shown=True) == (
        f"Nothing changed: {TAG} is up to date, nothing would be uploaded"
    )


def test_a_push_of_the_same_files_says_that_the_settings_differ() -> None:
    same = plan_after({"a": X}, {"a": X})
    assert same.sources is not None
    labelled = assemble(SPEC, same.sources, {"a": "b"})
    said = would_upload(TAG, same, labelled, 500, is_shown=False)
    assert said.endswith("no file changed, other settings (base, labels, platforms or extractor)")
    unlabelled = assemble(SPEC, same.sources, {})
    assert would_upload(TAG, same, unlabelled, 0, is_shown=False).endswith("no file changed")


# What looks like a mistake

MANY: Tree = {f"f{number}": X for number in range(10)}
FEW: Tree = dict(list(MANY.items())[:4])
HALF: Tree = dict(list(MANY.items())[:5])


def warned(
    old: Tree | None, new: Tree, root: Path, records: tuple[PushRecord, ...] = ()
) -> list[str]:
    tag_image = image_after(old) if old is not None else NOTHING
    plan = plan_on(tag_image, SPEC, described(new))
    return [*warnings(prepared(plan, tag_image, root), records, TAG)]


def record(directory: object, tag: Reference = TAG) -> PushRecord:
    return PushRecord(str(directory), str(tag), Digest("sha256:" + "a" * 64))


def test_an_ordinary_push_has_no_warning(tmp_path: Path) -> None:
    assert warned(None, MANY, tmp_path) == []
    assert warned(MANY, HALF, tmp_path, (record(tmp_path), record("/other"))) == []
    assert warned(MANY, MANY | {"n": X}, tmp_path, (record("/other", OTHER),)) == []


def test_a_directory_without_files_is_a_warning(tmp_path: Path) -> None:
    for empty in ({}, {"d": DIR}):
        (warning,) = warned(None, empty, tmp_path)
        assert warning == f"{str(tmp_path)!r} has no file to push: the image is empty"


def test_a_push_that_removes_most_files_is_a_warning(tmp_path: Path) -> None:
    """It may be of the wrong directory."""
    (warning,) = warned(MANY, FEW, tmp_path)
    assert warning == f"this push removes 6 of the 10 files in {TAG}"


def test_a_push_of_another_directory_than_before_is_a_warning(tmp_path: Path) -> None:
    (warning,) = warned(MANY, HALF, tmp_path, (record("/other"), record(tmp_path)))
    assert warning == f"the last push to {TAG} was of another directory, '/other'"


def test_a_purge_is_no_push_of_another_directory(tmp_path: Path) -> None:
    assert warned(MANY, HALF, tmp_path, (record(""), record(tmp_path))) == []
    assert warned(MANY, HALF, tmp_path, (record(""),)) == []


def test_a_push_that_changes_nothing_has_no_warning(tmp_path: Path) -> None:
    assert warned(MANY, MANY, tmp_path, (record("/other"),)) == []


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
