"""What ls and inspect make of trees and manifests, apart from any registry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import STRANGE_NAMES, WANTED, described, histories, published, trees
from support.trees import Directory, File, Link, Tree

from kontext_plugin.commands import inspect, ls
from kontext_plugin.delta import tree_bytes
from kontext_plugin.image.oci import Digest, Image, Layer
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import Ancestor, Lineage, Manifest
from kontext_plugin.push.parent import StartFresh, without
from kontext_plugin.push.plan import make_plan
from kontext_plugin.registry.fetch import KontextImage

DIR, X = Directory(), File(b"x")
ONE, TWO, BASE, CODE = (Digest(f"sha256:{letter * 64}") for letter in "12bc")


# ls

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
MANIFEST = Manifest(described(TREE), Lineage(BASE, CODE, "linux/amd64"))

BELOW: dict[str, tuple[str, list[str] | None]] = {
    "everything": ("", sorted(TREE)),
    "the top": (".", sorted(TREE)),
    "the top's root": ("/", sorted(TREE)),
    "a directory": ("src", ["src/a", "src/deep", "src/deep/b"]),
    "with a slash": ("src/", ["src/a", "src/deep", "src/deep/b"]),
    "with a dot": ("./src/./deep", ["src/deep/b"]),
    "from the top": ("//src/deep", ["src/deep/b"]),
    "and back": ("src/../src/deep/..", ["src/a", "src/deep", "src/deep/b"]),
    "an empty directory": ("empty", []),
    "a file": ("src/a", ["src/a"]),
    "a link": ("link", ["link"]),
    "below a link": ("link/a", None),
    "below a file": ("README/a", None),
    "nothing": ("sr", None),
}


@pytest.mark.parametrize(("path", "paths"), BELOW.values(), ids=BELOW)
def test_below(path: str, paths: list[str] | None) -> None:
    assert ls.below(MANIFEST.tree, path) == paths


def test_lines() -> None:
    assert list(ls.lines(MANIFEST, ["README", "empty", "link", "run"])) == [
        "-rw-r--r--  1 README",
        "drwxr-xr-x  - empty",
        "lrwxrwxrwx  - link -> src",
        "-rwxr-xr-x 12 run",
    ]


def test_a_version_1_says_no_sizes() -> None:
    old = Manifest(MANIFEST.tree, None)
    assert list(ls.lines(old, ["README"])) == ["-rw-r--r-- - README"]
    assert json.loads("".join(ls.as_json(old, ["README"])))[0]["size"] is None


@given(trees(STRANGE_NAMES))
def test_json_has_all_of_the_tree(tree: Tree) -> None:
    manifest = Manifest(described(tree), MANIFEST.lineage)
    paths = ls.below(manifest.tree, "")
    assert paths == sorted(tree)
    items = json.loads("\n".join(ls.as_json(manifest, paths)))
    assert [item["path"] for item in items] == paths
    for item in items:
        entry = manifest.tree.entry(item["path"])
        file = entry.kind == "file"
        assert item == {
            "path": entry.path,
            "kind": entry.kind,
            "size": entry.size if file else None,
            "executable": entry.executable if file else None,
            "target": entry.target or None,
            "digest": f"sha256:{entry.digest}" if file else None,
        }
    lines = list(ls.lines(manifest, paths))
    assert len(lines) == len(tree)
    assert all(line.isprintable() for line in lines)


# inspect


@given(histories(), st.booleans())
def test_roles_and_what_is_out_of_date(history: list[Tree], forgetful: bool) -> None:
    """Of images whose ancestors are known, and of such whose registry has forgotten them."""
    made: dict[Digest, str] = {BASE: "base"}
    previous: KontextImage | StartFresh = StartFresh("there is nothing")
    for step, tree in enumerate(history):
        if forgetful and isinstance(previous, KontextImage) and step % 3 == 2:
            plan = make_plan(previous, WANTED, described(tree))
            if not isinstance(plan.choice, StartFresh):
                previous = without(plan.choice)
        plan = make_plan(previous, WANTED, described(tree))
        if plan.up_to_date:
            continue
        previous = published(plan)
        fresh = isinstance(plan.choice, StartFresh)
        for layer in previous.image.layers:
            made.setdefault(layer.digest, "sources" if fresh else "delta")
        document = inspect.describe(parse_reference("r/r"), previous, None)
        roles = [layer["role"] for layer in document["layers"]]
        truth = [made[layer["digest"]] for layer in document["layers"]]
        assert all(role in (true, None) for role, true in zip(roles, truth, strict=True))
        if not forgetful:
            assert roles == truth
        needed = tree_bytes(described(tree))
        assert document["shadowed"] == document["content"] - needed >= 0
        assert document["intact"]
        text = "\n".join(inspect.shown(document))
        assert all(digest in text for digest in made if digest in str(document["layers"]))


def lineage(
    layers: int, *ancestors: tuple[int, int], base: Digest = CODE, generation: int = 0
) -> Lineage:
    """Of an image of so many layers; `ancestors` are generations and layers."""
    return Lineage(
        base,
        CODE,
        "linux/amd64",
        generation,
        layers=tuple(Digest(f"sha256:{place:064}") for place in range(layers - 1)),
        ancestors=tuple(
            Ancestor(ONE, height, g, 0, frozenset(), ReverseDelta()) for g, height in ancestors
        ),
    )


B, S, D, N = "base", "sources", "delta", None
ROLES = {
    "a first push": (lineage(2), 2, [B, S]),
    "a large first push": (lineage(4), 4, [B, S, S, S]),
    "a delta": (lineage(3, (0, 2), generation=1), 3, [B, S, D]),
    "a delta on a large one": (lineage(5, (0, 4), generation=9), 5, [B, S, S, S, D]),
    "two deltas": (lineage(4, (0, 2), (1, 3), generation=2), 4, [B, S, D, D]),
    "all ancestors gone": (lineage(5, generation=3), 5, [B, S, N, N, D]),
    "the oldest gone": (lineage(6, (2, 4), generation=3), 6, [B, S, N, D, D, D]),
    "a single layer": (lineage(1, base=BASE), 1, [S]),
    "a user's base": (lineage(4, base=BASE), 4, [B, B, B, S]),
    "version 1": (None, 3, [N, N, N]),
    "layers of another tool": (lineage(3), 2, [N, N]),
    "layers of another tool on a single one": (lineage(1), 3, [N, N, N]),
}


@pytest.mark.parametrize(("lineage", "count", "roles"), ROLES.values(), ids=ROLES)
def test_roles(lineage: Lineage | None, count: int, roles: list[str | None]) -> None:
    layers = [Digest(f"sha256:{place:064}") for place in range(count)]
    assert inspect.roles(layers, lineage, Digest(f"sha256:{2:064}")) == roles


def test_a_users_base_under_an_extractor_of_another_version() -> None:
    layers = [Digest(f"sha256:{place:064}") for place in range(5)]
    made = lineage(5, (0, 4), base=BASE, generation=1)
    assert inspect.roles(layers, made, None) == [N, N, N, S, D]


def test_a_version_1_is_described_as_far_as_it_goes() -> None:
    found = KontextImage(Image(ONE, (), None), Manifest(described(TREE), None))
    document = inspect.describe(parse_reference("r/r"), found, None)
    assert document["version"] == 1
    assert (document["files"], document["links"], document["directories"]) == (5, 1, 3)
    unknown = {key for key, value in document.items() if value is None}
    assert unknown == {
        "manifest", "intact", "generation", "platform", "base", "extractor", "bytes", "content",
        "shadowed",
    }  # fmt: skip
    text = "\n".join(inspect.shown(document))
    assert "2018 prototype" in text and "None" not in text


def test_labels_do_not_command_the_terminal() -> None:
    made = Lineage(CODE, CODE, "linux/amd64", labels={"k\x1b[2J": "v\nForged: line"})
    found = KontextImage(Image(ONE, (Layer(TWO, 1),), None), Manifest(described({}), made))
    document = inspect.describe(parse_reference("r/r"), found, None)
    lines = list(inspect.shown(document))
    assert all(line.isprintable() for line in lines)
    assert r"k\x1b[2J=v\nForged: line" in "\n".join(lines)
