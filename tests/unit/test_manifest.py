"""The manifest: canonical bytes, the way back, and what must never be believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import STRANGE_NAMES, described, trees
from support.trees import Directory, File, Link

from kontext_plugin.image.oci import Digest
from kontext_plugin.image.tree import Entry, ReverseDelta, Tree
from kontext_plugin.manifest import Ancestor, InvalidManifest, Lineage, Manifest, decode, encode
from kontext_plugin.runtime.schema import load_manifest

A, B, C = (Digest("sha256:" + letter * 64) for letter in "abc")
HEX = "0" * 64
LINEAGE = Lineage(base=A, extractor=B, platform="linux/amd64")

SMALL = Manifest(
    described(
        {
            "é": Directory(),
            "é/run": File(b"#!", executable=True),
            "a b": File(b""),
            'q"': Link("../\n"),
        }
    ),
    Lineage(
        base=A,
        extractor=B,
        platform="linux/arm64",
        generation=3,
        content=1538,
        layers=(A, C),
        ancestors=(
            Ancestor(
                image=C,
                layers=2,
                generation=1,
                content=1026,
                replaced_directories=frozenset({"y"}),
                undo=ReverseDelta(
                    described({"é": File(b"#!", executable=True), "l": Link("x")})
                    .only({"é", "l"})
                    .without_sizes(),
                    frozenset({"é/run", "a b"}),
                ),
            ),
        ),
        labels={"k": "v=ü", "a": "1"},
        replaced_directories=frozenset({"z", "é/d"}),
    ),
)
# sha256sum of nothing and of `#!`. Changing these bytes makes every image's next push a full one.
SMALL_BYTES = (
    '{"ancestors":[{"content":1026,"generation":1,"image":"sha256:'
    + "c" * 64
    + '","layers":2,"replacedDirectories":["y"],"undo":{"absent":["a b","é/run"],'
    '"executable":["é"],"files":{"é":"3612ddaf46e149a4f583faf0face846585148f59e0ce2645594df83b5dc8'
    '07e8"},"links":{"l":"x"}}}],"base":"sha256:'
    + "a" * 64
    + '","content":1538,"executable":["é/run"],"extractor":"sha256:'
    + "b" * 64
    + '",'
    '"files":{"a b":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","é":"",'
    '"é/run":"3612ddaf46e149a4f583faf0face846585148f59e0ce2645594df83b5dc807e8"},'
    '"generation":3,"labels":{"a":"1","k":"v=ü"},'
    '"layers":["sha256:' + "a" * 64 + '","sha256:' + "c" * 64 + '"],"links":{"q\\"":"../\\n"},'
    '"platform":"linux/arm64","replacedDirectories":["z","é/d"],"sizes":[0,2],"version":2}'
).encode()

UNDOS = st.builds(
    lambda tree, absent: ReverseDelta(
        described(tree).without_sizes(), frozenset(absent - tree.keys())
    ),
    trees(STRANGE_NAMES),
    st.frozensets(STRANGE_NAMES, max_size=3),
)
ANCESTORS = st.builds(
    Ancestor,
    image=st.sampled_from([A, B]),
    layers=st.just(1),
    generation=st.integers(0, 10**6),
    content=st.integers(0, 10**18),
    replaced_directories=st.frozensets(STRANGE_NAMES, max_size=3),
    undo=UNDOS,
)
LINEAGES = st.builds(
    Lineage,
    base=st.sampled_from([A, B]),
    extractor=st.sampled_from([B, C]),
    platform=st.sampled_from(["linux/amd64", "linux/arm64"]),
    generation=st.integers(0, 10**6),
    content=st.integers(0, 10**18),
    layers=st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=4).map(tuple),
    ancestors=st.lists(ANCESTORS, max_size=1).map(tuple),
    labels=st.dictionaries(STRANGE_NAMES, STRANGE_NAMES, max_size=3),
    replaced_directories=st.frozensets(STRANGE_NAMES, max_size=3),
)


def test_golden_bytes() -> None:
    assert encode(SMALL) == SMALL_BYTES


@given(trees(STRANGE_NAMES), LINEAGES)
def test_round_trip_through_the_schema(tree: Any, lineage: Lineage) -> None:
    manifest = Manifest(described(tree), lineage)
    assert decode(load_manifest(encode(manifest))) == manifest


@given(trees(), LINEAGES, st.randoms())
def test_the_bytes_do_not_depend_on_the_order_of_finding(
    tree: Any, lineage: Lineage, random: Any
) -> None:
    shuffled = list(tree.items())
    random.shuffle(shuffled)
    labels = dict(reversed(lineage.labels.items()))
    again = Manifest(described(dict(shuffled)), replace(lineage, labels=labels))
    assert encode(again) == encode(Manifest(described(tree), lineage))


def test_lists_are_sorted() -> None:
    names = [f"f{number}" for number in range(20)]
    tree = described({name: File(b"", executable=True) for name in names})
    document = json.loads(
        encode(Manifest(tree, replace(LINEAGE, replaced_directories=frozenset(names))))
    )
    assert document["executable"] == document["replacedDirectories"] == sorted(names)


def test_a_manifest_without_lineage_is_never_written() -> None:
    with pytest.raises(ValueError, match="version 1"):
        encode(Manifest(Tree(), None))


def document(**changes: Any) -> dict[str, Any]:
    """A good version 2 document with changes; files get sizes if no others are given."""
    good = json.loads(encode(Manifest(Tree(), LINEAGE))) | changes
    if "sizes" not in changes:
        good["sizes"] = [1 for digest in good["files"].values() if digest]
    return good


def ancestor(layers: object = 1, **undo: Any) -> dict[str, Any]:
    """A good ancestor but for what is given."""
    nothing: dict[str, Any] = {"files": {}, "executable": [], "links": {}, "absent": []}
    numbers = {"layers": layers, "generation": 0, "content": 0}
    return numbers | {"image": A, "replacedDirectories": [], "undo": nothing | undo}


def without_undo() -> dict[str, Any]:
    return {key: value for key, value in ancestor().items() if key != "undo"}


BAD_PATHS = {
    "empty": "",
    "dot": ".",
    "dots": "..",
    "climbs": "../a",
    "climbs inside": "a/../b",
    "climbs at the end": "a/..",
    "dot first": "./a",
    "dot inside": "a/./b",
    "absolute": "/a",
    "two slashes": "a//b",
    "slash at the end": "a/",
    "NUL": "a\0b",
    "whiteout": ".wh.a",
    "whiteout below": "a/.wh.b",
    "whiteout above": ".wh.a/b",
    "opaque": "a/.wh..wh..opq",
    "high surrogate": "\ud800",
    "escaped byte": "a\udcff",
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
@pytest.mark.parametrize(
    "where",
    [
        "file",
        "directory",
        "link",
        "replaced",
        "was a file",
        "was a link",
        "was absent",
        "version 1",
    ],
)
def test_a_path_that_leads_astray_is_refused(path: str, where: str) -> None:
    # With all its parents, so that the path itself is what is refused.
    files = {"a": "", "a/..": ""} if path.startswith("a/../") else {"a": ""}
    files |= {".wh.a": ""} if path == ".wh.a/b" else {}
    doc = {
        "file": lambda: document(files=files | {path: HEX}),
        "directory": lambda: document(files=files | {path: ""}),
        "link": lambda: document(files=files, links={path: "x"}),
        "replaced": lambda: document(replacedDirectories=[path]),
        "was a file": lambda: document(layers=[A], ancestors=[ancestor(files={path: HEX})]),
        "was a link": lambda: document(layers=[A], ancestors=[ancestor(links={path: "x"})]),
        "was absent": lambda: document(layers=[A], ancestors=[ancestor(absent=[path])]),
        "version 1": lambda: {"files": files | {path: HEX}},
    }[where]()
    if where == "version 1" and path == ".":
        assert decode(doc).tree.paths() == {"a"}  # the prototype's own name for the directory
        return
    with pytest.raises(InvalidManifest, match="lists the path"):
        decode(doc)


CONTRADICTIONS = {
    "no parent": document(files={"a/b": HEX}),
    "no grandparent": document(files={"a/b": "", "a/b/c": HEX}),
    "no parent of a directory": document(files={"a/b": ""}),
    "no parent of a link": document(links={"a/b": "x"}),
    "below a file": document(files={"a": HEX, "a/b": HEX}),
    "below a link": document(files={"a/b": HEX}, links={"a": "b"}),
    "link below a link": document(links={"a": "b", "a/b": "x"}),
    "file and link": document(files={"a": HEX}, links={"a": "x"}),
    "directory and link": document(files={"a": ""}, links={"a": "x"}),
    "executable directory": document(files={"a": ""}, executable=["a"]),
    "executable link": document(links={"a": "x"}, executable=["a"]),
    "executable nothing": document(executable=["a"]),
    "executable outside": document(executable=["../a"]),
    "too few sizes": document(files={"a": HEX, "b": HEX}, sizes=[1]),
    "too many sizes": document(files={"a": HEX}, sizes=[1, 2]),
    "size of a directory": document(files={"a": ""}, sizes=[1]),
    "ancestor of no layers": document(layers=[A], ancestors=[ancestor(layers=0)]),
    "ancestor of other layers": document(layers=[A], ancestors=[ancestor(layers=2)]),
    "ancestors of one height": document(layers=[A, B], ancestors=[ancestor(), ancestor()]),
    "ancestors upside down": document(layers=[A, B], ancestors=[ancestor(2), ancestor(1)]),
    "layers no integer": document(layers=[A], ancestors=[ancestor(layers=1.0)]),
    "undo nowhere": document(layers=[A], ancestors=[without_undo()]),
    "undo twice": document(layers=[A], ancestors=[ancestor() | {"undoPart": HEX, "undoLayer": 0}]),
    "undo without a layer": document(layers=[A], ancestors=[without_undo() | {"undoPart": HEX}]),
    "undo in no layer": document(
        layers=[A], ancestors=[without_undo() | {"undoPart": HEX, "undoLayer": 1.0}]
    ),
    "was a file and a link": document(
        layers=[A], ancestors=[ancestor(files={"a": HEX}, links={"a": "x"})]
    ),
    "was a file and absent": document(
        layers=[A], ancestors=[ancestor(files={"a": HEX}, absent=["a"])]
    ),
    "was executable and no file": document(
        layers=[A], ancestors=[ancestor(files={"a": ""}, executable=["a"])]
    ),
    "executable by an unsafe path": document(layers=[A], ancestors=[ancestor(executable=["../a"])]),
    "a hash and a line end": document(layers=[A], ancestors=[ancestor(files={"a": "\n"})]),
    "link to a surrogate": document(links={"l": "\ud800"}),
    "was a link to a surrogate": document(layers=[A], ancestors=[ancestor(links={"l": "\ud800"})]),
    "generation no integer": document(generation=1.0),
    "version 1, no parent": {"files": {"a/b": HEX}},
    "version 1, below a file": {"files": {"a": HEX, "a/b": HEX}},
}


@pytest.mark.parametrize("doc", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused(doc: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifest):
        decode(doc)


HARMLESS = ["..a", "a..", "...", ".a", " ", "\n", "\\", "a\\..\\b", "wh.", "x.wh.y", "-", "C:", "ß"]


@pytest.mark.parametrize("path", HARMLESS)
def test_an_odd_path_is_not_refused(path: str) -> None:
    assert path in decode(document(files={path: HEX})).tree
    assert f"d/{path}" in decode(document(files={"d": "", f"d/{path}": HEX})).tree


def test_version_1_stays_readable() -> None:
    content = json.dumps({"files": {".": "", "src": "", "src/main.go": HEX}}).encode()
    manifest = decode(load_manifest(content))
    assert manifest.lineage is None
    assert manifest.tree.entry("src") == Entry("src", "directory")
    assert manifest.tree.entry("src/main.go") == Entry("src/main.go", "file", HEX, 0, True)
    assert manifest.tree.paths() == {"src", "src/main.go"}


@pytest.mark.parametrize("content", [b"{}", b'{"files":{}}'], ids=["nothing", "no files"])
def test_an_empty_version_1_is_an_empty_tree(content: bytes) -> None:
    assert decode(load_manifest(content)) == Manifest(Tree(), None)


def test_entries() -> None:
    tree = SMALL.tree
    assert tree.entry("é") == Entry("é", "directory")
    assert tree.entry('q"') == Entry('q"', "link", target="../\n")
    assert tree.entry("é/run").executable
    assert (tree.entry("é/run").size, tree.size, tree.file_count) == (2, 2, 3)
    with pytest.raises(KeyError):
        tree.entry("gone")
