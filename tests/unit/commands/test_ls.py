"""The listing of `docker kontext ls`, apart from any registry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from support.models import STRANGE_NAMES, described, trees
from support.trees import Directory, File, Link, Tree

from kontext_plugin.commands import ls
from kontext_plugin.image.tree import parents
from kontext_plugin.manifest import Lineage, Manifest
from kontext_plugin.terminal.table import Room

DIR, X = Directory(), File(b"x")

TREE: Tree = {
    "README": X,
    "run": File(b"0123456789ab", executable=True),
    "src": DIR,
    "src/a": X,
    "src/deep": DIR,
    "src/deep/b": X,
    "src-old": X,
    "link": Link("src"),
    "empty": DIR,
}
MANIFEST = Manifest(described(TREE), Lineage())

PATHS: dict[str, tuple[str, list[str] | None]] = {
    "the top": ("", ["README", "empty", "link", "run", "src", "src-old"]),
    "a dot": (".", ["README", "empty", "link", "run", "src", "src-old"]),
    "the root": ("/", ["README", "empty", "link", "run", "src", "src-old"]),
    "a directory": ("src", ["src/a", "src/deep"]),
    "with a slash": ("src/", ["src/a", "src/deep"]),
    "with a dot": ("./src/./deep", ["src/deep/b"]),
    "from the root": ("//src/deep", ["src/deep/b"]),
    "with two dots": ("src/../src/deep/..", ["src/a", "src/deep"]),
    "an empty directory": ("empty", []),
    "a file": ("src/a", ["src/a"]),
    "a link": ("link", ["link"]),
    "below a link": ("link/a", None),
    "below a file": ("README/a", None),
    "the beginning of a name": ("sr", None),
}


@pytest.mark.parametrize(("path", "paths"), PATHS.values(), ids=PATHS)
def test_paths(path: str, paths: list[str] | None) -> None:
    assert ls.paths_at(MANIFEST.tree, path) == paths


@pytest.mark.parametrize(
    ("path", "paths"),
    [("", sorted(TREE)), ("src", ["src/a", "src/deep", "src/deep/b"]), ("run", ["run"])],
)
def test_recursive(path: str, paths: list[str]) -> None:
    assert ls.paths_at(MANIFEST.tree, path, recursive=True) == paths


NEAR = {
    "a letter is missing": ("REDME", ["README"]),
    "another case": ("readme", ["README"]),
    "in a directory": ("src/depe", ["src/deep"]),
    "the beginning": ("src/dee", ["src/deep"]),
    "another directory": ("lib/b", ["src/deep/b"]),
    "nothing like it": ("nothing/like/it", []),
}


@pytest.mark.parametrize(("path", "near"), NEAR.values(), ids=NEAR)
def test_near_paths(path: str, near: list[str]) -> None:
    assert ls.near_paths(MANIFEST.tree, path) == near


def test_lines() -> None:
    shown = ["README", "empty/", "link", "run"]
    assert list(ls.lines(MANIFEST, ["README", "empty", "link", "run"])) == shown


def test_long_lines() -> None:
    assert list(ls.long_lines(MANIFEST, ["README", "empty", "link", "run"])) == [
        "-rw-r--r--  1 README",
        "drwxr-xr-x  - empty/",
        "lrwxrwxrwx  - link -> src",
        "-rwxr-xr-x 12 run",
    ]


def test_lines_fit_the_terminal() -> None:
    deep = "modules/billing/internal/持続/handlers/payments.go"
    manifest = Manifest(described({**parents_of(deep), deep: X}), Lineage())
    assert list(ls.lines(manifest, [deep], Room(30))) == ["modules/b…handlers/payments.go"]
    assert list(ls.long_lines(manifest, [deep], Room(50))) == [
        "-rw-r--r-- 1 modules/bill…続/handlers/payments.go"
    ]
    assert list(ls.long_lines(manifest, [deep], Room(30))) == ["1 modules/b…ndlers/payments.go"]


def parents_of(path: str) -> Tree:
    return dict.fromkeys(parents([path]), DIR)


def test_version_1_has_no_sizes() -> None:
    old = Manifest(MANIFEST.tree, None)
    assert list(ls.long_lines(old, ["README"])) == ["-rw-r--r-- - README"]
    assert json.loads("".join(ls.as_json(old, ["README"])))[0]["size"] is None


@given(trees(STRANGE_NAMES))
def test_json_has_the_whole_tree_and_lines_stay_lines(tree: Tree) -> None:
    manifest = Manifest(described(tree), MANIFEST.lineage)
    paths = ls.paths_at(manifest.tree, "", recursive=True)
    assert paths == sorted(tree)
    items = json.loads("\n".join(ls.as_json(manifest, paths)))
    assert [item["path"] for item in items] == paths
    for item in items:
        entry = manifest.tree.entry(item["path"])
        is_file = entry.kind == "file"
        assert item == {
            "path": entry.path,
            "kind": entry.kind,
            "size": entry.size if is_file else None,
            "executable": entry.executable if is_file else None,
            "target": entry.target or None,
            "digest": f"sha256:{entry.digest}" if is_file else None,
        }
    for lines in (ls.lines(manifest, paths), ls.long_lines(manifest, paths, Room(50))):
        shown = list(lines)
        assert len(shown) == len(tree)
        assert all(line.isprintable() for line in shown)
