"""The manifest: its canonical bytes, how they are read back, and what is never trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import STRANGE_NAMES, described, trees
from support.trees import Directory, File, Link

from kontext_plugin import manifest
from kontext_plugin.image.chunking import cut
from kontext_plugin.image.listing import canonical, columns, list_tree
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.tree import Entry, ReverseDelta, Tree
from kontext_plugin.manifest import (
    MANIFEST_PATH,
    Ancestor,
    InvalidManifest,
    Lineage,
    Manifest,
    Part,
    _check_paths,
    decode,
    encode,
    is_document,
    part_name,
    read_root,
    restore,
    reverse_columns,
    without_base,
)

A, B, C = (Digest("sha256:" + letter * 64) for letter in "abc")
HEX = "0" * 64
LINEAGE = Lineage()

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
                reverse_delta=ReverseDelta(
                    described({"é": File(b"#!", executable=True), "l": Link("x")})
                    .only({"é", "l"})
                    .without_sizes(),
                    frozenset({"é/run", "a b"}),
                ),
                created="2026-01-02T03:04:05Z",
                revision="f" * 40,
            ),
        ),
        replaced_directories=frozenset({"z", "é/d"}),
    ),
)
# sha256sum of nothing and of `#!`. Changing these bytes makes every image's next push a full one.
SMALL_BYTES = (
    '{"ancestors":[{"content":1026,"created":"2026-01-02T03:04:05Z","generation":1,"image":"sha256:'
    + "c" * 64
    + '","layers":2,"replacedDirectories":["y"],"revision":"'
    + "f" * 40
    + '","undo":{"absent":["a b","é/run"],'
    '"executable":["é"],"files":{"é":"3612ddaf46e149a4f583faf0face846585148f59e0ce2645594df83b5dc8'
    '07e8"},"links":{"l":"x"}}}],"content":1538,"executable":["é/run"],'
    '"files":{"a b":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","é":"",'
    '"é/run":"3612ddaf46e149a4f583faf0face846585148f59e0ce2645594df83b5dc807e8"},'
    '"generation":3,"layers":["sha256:' + "a" * 64 + '","sha256:' + "c" * 64 + '"],'
    '"links":{"q\\"":"../\\n"},"replacedDirectories":["z","é/d"],"sizes":[0,2],"version":3}'
).encode()

REVERSE_DELTAS = st.builds(
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
    reverse_delta=REVERSE_DELTAS,
    created=st.sampled_from(["", "2026-01-02T03:04:05Z"]),
    revision=st.sampled_from(["", "a" * 40, "v1 ü"]),
)
LINEAGES = st.builds(
    Lineage,
    generation=st.integers(0, 10**6),
    content=st.integers(0, 10**18),
    layers=st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=4).map(tuple),
    ancestors=st.lists(ANCESTORS, max_size=1).map(tuple),
    replaced_directories=st.frozensets(STRANGE_NAMES, max_size=3),
)


def test_the_bytes_of_a_manifest_do_not_change() -> None:
    assert encode(SMALL) == SMALL_BYTES


def decode_bytes(content: bytes, *parts: bytes) -> Manifest:
    return decode(read_root(content), {digest_of(part): part for part in parts})


def decode_document(document: dict[str, Any], *parts: bytes) -> Manifest:
    return decode_bytes(json.dumps(document).encode(), *parts)


@given(trees(STRANGE_NAMES), LINEAGES)
def test_a_manifest_is_read_back_as_it_was_written(tree: Any, lineage: Lineage) -> None:
    manifest = Manifest(described(tree), lineage)
    assert decode_bytes(encode(manifest)) == manifest
    assert restore(json.loads(encode(manifest)), {}) == manifest


@given(trees(), LINEAGES, st.randoms())
def test_the_bytes_do_not_depend_on_the_order_of_the_scan(
    tree: Any, lineage: Lineage, random: Any
) -> None:
    shuffled = list(tree.items())
    random.shuffle(shuffled)
    again = Manifest(described(dict(shuffled)), lineage)
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
    """Return a good version 3 document with changes. Files get sizes if none are given."""
    good = json.loads(encode(Manifest(Tree(), LINEAGE))) | changes
    if "sizes" not in changes:
        good["sizes"] = [1 for digest in good["files"].values() if digest]
    return good


def ancestor(layers: object = 1, **undo: Any) -> dict[str, Any]:
    """Return an ancestor of a good document, with these columns of its reverse delta."""
    nothing: dict[str, Any] = {"files": {}, "executable": [], "links": {}, "absent": []}
    numbers = {"layers": layers, "generation": 0, "content": 0}
    return numbers | {"image": A, "replacedDirectories": [], "undo": nothing | undo}


def version_2(**changes: Any) -> dict[str, Any]:
    """Return a good version 2 document with changes."""
    more = {"version": 2, "base": A, "extractor": B, "platform": "linux/amd64", "labels": {}}
    return document(**more, **changes)


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
def test_an_unsafe_path_is_refused(path: str, where: str) -> None:
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
        # The prototype's own name for the directory.
        assert decode_document(doc).tree.paths() == {"a"}
        return
    with pytest.raises(InvalidManifest, match="lists the path"):
        decode_document(doc)


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
    "time with a surrogate": document(layers=[A], ancestors=[ancestor() | {"created": "\ud800"}]),
    "commit with a surrogate": document(
        layers=[A], ancestors=[ancestor() | {"revision": "\udcff"}]
    ),
    "version 2, ancestor of no layers": version_2(layers=[A], ancestors=[ancestor(layers=0)]),
    "version 2, below a file": version_2(files={"a": HEX, "a/b": HEX}),
    "version 1, no parent": {"files": {"a/b": HEX}},
    "version 1, below a file": {"files": {"a": HEX, "a/b": HEX}},
}


@pytest.mark.parametrize("doc", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused(doc: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifest):
        decode_document(doc)


HARMLESS = ["..a", "a..", "...", ".a", " ", "\n", "\\", "a\\..\\b", "wh.", "x.wh.y", "-", "C:", "ß"]


@pytest.mark.parametrize("path", HARMLESS)
def test_an_odd_but_safe_path_is_accepted(path: str) -> None:
    assert path in decode_document(document(files={path: HEX})).tree
    assert f"d/{path}" in decode_document(document(files={"d": "", f"d/{path}": HEX})).tree


def test_version_1_stays_readable() -> None:
    content = json.dumps({"files": {".": "", "src": "", "src/main.go": HEX}}).encode()
    manifest = decode_bytes(content)
    assert manifest.lineage is None
    assert manifest.tree.entry("src") == Entry("src", "directory")
    assert manifest.tree.entry("src/main.go") == Entry("src/main.go", "file", HEX, 0, True)
    assert manifest.tree.paths() == {"src", "src/main.go"}


# Version 2, which numbers the layers of the base as well


def test_version_2_stays_readable() -> None:
    read = decode_document(
        version_2(files={"a": HEX}, layers=[A, B, C], generation=7, ancestors=[ancestor(2)])
    )
    assert read.tree.paths() == {"a"}
    assert read.version == 2
    assert read.lineage is not None
    assert (read.lineage.generation, read.lineage.layers) == (7, (A, B, C))
    (former,) = read.lineage.ancestors
    assert (former.layers, former.created, former.revision) == (2, "", "")


@pytest.mark.parametrize("key", ["base", "extractor", "platform", "labels"])
def test_version_2_without_what_it_must_say_is_refused(key: str) -> None:
    broken = version_2()
    del broken[key]
    with pytest.raises(InvalidManifest, match=f"'{key}' is a required property"):
        decode_document(broken)


@given(trees(), st.integers(0, 5), st.lists(st.integers(1, 4), max_size=3, unique=True))
def test_a_version_2_manifest_says_the_same_without_its_base(
    tree: Any, height: int, ancestors: list[int]
) -> None:
    """`height` layers lie below the sources, and each ancestor has some layers of sources."""
    step = ReverseDelta(absent=frozenset({"new"}))
    layers = tuple(digest_of(b"%d" % number) for number in range(4))

    def lineage(below: int, lower: tuple[Digest, ...]) -> Lineage:
        return Lineage(
            generation=9,
            content=100,
            layers=(*lower, *layers),
            ancestors=tuple(
                Ancestor(B, below + count, count, 5, frozenset({"r"}), step)
                for count in sorted(ancestors)
            ),
            replaced_directories=frozenset({"r"}),
        )

    old = Manifest(described(tree), lineage(height, (A,) * height))
    expected = Manifest(described(tree), lineage(0, ()))
    assert without_base(old, height) == expected
    assert decode_bytes(encode(without_base(old, height))) == expected


def test_parts_are_numbered_from_the_first_layer_of_sources() -> None:
    part, other = Part("a", A, 3), Part("b", B, 5)
    step = Ancestor(B, 4, 0, 0, frozenset(), ReverseDelta(), Part("", C, 4))
    lineage = Lineage(layers=(A,) * 6, ancestors=(step,))
    lowered = without_base(Manifest(Tree(), lineage, (part, other)), 3)
    assert [each.layer for each in lowered.parts] == [0, 2]
    assert [each.start for each in lowered.parts] == ["a", "b"]
    assert lowered.lineage is not None
    (ancestor,) = lowered.lineage.ancestors
    assert (ancestor.layers, ancestor.part) == (1, Part("", C, 1))
    assert len(lowered.lineage.layers) == 3


@pytest.mark.parametrize("where", ["listing", "reverse delta"])
def test_a_part_in_a_layer_of_the_base_is_refused(where: str) -> None:
    """No push has written it there, so somebody else did."""
    in_base = Part("", A, 1)
    parts = (in_base,) if where == "listing" else ()
    step = Ancestor(B, 3, 0, 0, frozenset(), ReverseDelta(), in_base)
    ancestors = () if parts else (step,)
    held = Manifest(Tree(), Lineage(layers=(A,) * 4, ancestors=ancestors), parts)
    with pytest.raises(InvalidManifest, match="a part in a layer of its base"):
        without_base(held, 2)
    without_base(held, 1)


def test_ancestors_without_a_layer_of_sources_are_left_out() -> None:
    """A push cannot build on one: it would be the base."""
    ancestors = tuple(Ancestor(B, count, 0, 0, frozenset(), ReverseDelta()) for count in (1, 2, 3))
    held = Manifest(Tree(), Lineage(layers=(A,) * 4, ancestors=ancestors))
    lineage = without_base(held, 2).lineage
    assert lineage is not None
    assert [ancestor.layers for ancestor in lineage.ancestors] == [1]


@pytest.mark.parametrize("lineage", [None, LINEAGE], ids=["version 1", "no base"])
def test_a_manifest_without_a_base_is_as_it_was(lineage: Lineage | None) -> None:
    held = Manifest(tree_of(["a"]), lineage)
    assert without_base(held, 0) == held


@pytest.mark.parametrize("content", [b"{}", b'{"files":{}}'], ids=["nothing", "no files"])
def test_an_empty_version_1_is_an_empty_tree(content: bytes) -> None:
    assert decode_bytes(content) == Manifest(Tree(), None, version=1)


# Parts

LINEAGE_9 = replace(LINEAGE, layers=(A,) * 9)


def tree_of(paths: list[str]) -> Tree:
    return Tree(dict.fromkeys(paths, HEX), dict.fromkeys(paths, 1))


def many(count: int) -> list[str]:
    return [f"f{number:05}" for number in range(count)]


def chunks(tree: Tree) -> list[tuple[str, Tree]]:
    """Return the start and the content of each chunk of a listing."""
    return [(start, tree.only(paths)) for start, paths in cut(sorted(tree.paths()))]


def in_parts(trees: list[Tree]) -> tuple[dict[str, Any], list[bytes]]:
    """Return a document whose listing has these parts, and the parts."""
    parts = [canonical(columns(tree)) for tree in trees]
    named = {
        "parts": [digest_of(part).removeprefix("sha256:") for part in parts],
        "partLayers": [1 for _ in parts],
    }
    return document(layers=[A, B]) | named, parts


def test_a_listing_in_parts_is_read_back_as_a_whole() -> None:
    tree = tree_of(many(3000))
    doc, parts = in_parts([chunk for _, chunk in chunks(tree)])
    read = decode_document(doc, *parts)
    assert read.tree == tree
    assert [(part.start, part.layer) for part in read.parts] == [
        (start, 1) for start, _ in chunks(tree)
    ]
    assert json.loads(encode(read)) == doc
    assert restore(doc, {}, list_tree(tree)) == read


def test_a_root_names_its_parts() -> None:
    doc, parts = in_parts([chunk for _, chunk in chunks(tree_of(many(3000)))])
    doc["ancestors"] = [
        without_undo() | {"undoPart": HEX, "undoLayer": 1},
        ancestor(2),
    ]
    root = read_root(json.dumps(doc).encode())
    assert [part.digest for part in root.listing] == [digest_of(part) for part in parts]
    assert root.reverse_deltas == (Part("", Digest(f"sha256:{HEX}"), 1),)
    version_1 = read_root(b'{"files":{}}')
    assert (version_1.listing, version_1.reverse_deltas) == ((), ())
    versions = [read_root(json.dumps(each).encode()).version for each in (doc, version_2())]
    assert (version_1.version, *versions) == (1, 3, 2)


def joined(trees: list[Tree]) -> Tree:
    return Tree(
        {path: digest for tree in trees for path, digest in tree.files.items()},
        {path: size for tree in trees for path, size in tree.sizes.items()},
    )


CUT_ELSEWHERE: dict[str, Callable[[list[Tree]], list[Tree]]] = {
    "in another order": lambda parts: [parts[1], parts[0], *parts[2:]],
    "one is empty": lambda parts: [*parts, Tree()],
    "two are one": lambda parts: [joined(parts[:2]), *parts[2:]],
    "a path lies elsewhere": lambda parts: [
        parts[0].only(parts[0].paths() - {max(parts[0].paths())}),
        joined([parts[1], parts[0].only({max(parts[0].paths())})]),
        *parts[2:],
    ],
    "a path comes twice": lambda parts: [
        *parts[:-1],
        joined([parts[-1], parts[0].only({max(parts[0].paths())})]),
    ],
    "small enough for none": lambda parts: [tree_of(["a", "b", "c"]), tree_of(["z"])],
}


@pytest.mark.parametrize("change", CUT_ELSEWHERE.values(), ids=CUT_ELSEWHERE)
def test_parts_that_are_cut_elsewhere_are_refused(
    change: Callable[[list[Tree]], list[Tree]],
) -> None:
    """A push takes over the parts of its parent, so it relies on where they are cut."""
    doc, parts = in_parts(change([chunk for _, chunk in chunks(tree_of(many(3000)))]))
    with pytest.raises(InvalidManifest, match="its parts are not those of its tree"):
        decode_document(doc, *parts)


def test_a_part_that_is_named_twice_is_refused() -> None:
    trees = [chunk for _, chunk in chunks(tree_of(many(3000)))]
    doc, parts = in_parts([*trees, trees[-1]])
    with pytest.raises(InvalidManifest, match="it lists a part twice"):
        decode_document(doc, *parts)


REFERENCES: dict[str, dict[str, Any]] = {
    "without layers": {"parts": ["a" * 64]},
    "with fewer layers": {"parts": ["a" * 64, "b" * 64], "partLayers": [1]},
    "with a layer that is no integer": {"parts": ["a" * 64], "partLayers": [1.0]},
    "twice": {"parts": ["a" * 64, "a" * 64], "partLayers": [1, 1]},
    "and files": {"parts": ["a" * 64], "partLayers": [1], "files": {"a": "c" * 64}, "sizes": [1]},
    "and executables": {"parts": ["a" * 64], "partLayers": [1], "executable": ["a"]},
    "and links": {"parts": ["a" * 64], "partLayers": [1], "links": {"a": "b"}},
}


@pytest.mark.parametrize("changes", REFERENCES.values(), ids=REFERENCES)
def test_a_root_that_contradicts_itself_about_parts_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifest):
        read_root(json.dumps(document(**changes)).encode())


def harmed(part: bytes, harm: Callable[[dict[str, Any]], object]) -> bytes:
    parsed = json.loads(part)
    harm(parsed)
    return canonical(parsed)


BAD_PARTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no JSON": (lambda part: b"{", "it is not JSON"),
    "not canonical": (lambda part: part.replace(b",", b", "), "is not canonical"),
    "another key": (lambda part: harmed(part, lambda doc: doc.update(k=1)), "'k'"),
    "a column missing": (lambda part: harmed(part, lambda doc: doc.pop("links")), "'links'"),
    "a size too few": (lambda part: harmed(part, lambda doc: doc["sizes"].pop()), "of sizes"),
    "an unsafe path": (
        lambda part: harmed(
            part, lambda doc: doc["links"].update({max(doc["files"]) + "/../x": "y"})
        ),
        "lists the path",
    ),
}


@pytest.mark.parametrize(("harm", "reason"), BAD_PARTS.values(), ids=BAD_PARTS)
def test_a_bad_part_is_refused(harm: Callable[[bytes], bytes], reason: str) -> None:
    doc, parts = in_parts([chunk for _, chunk in chunks(tree_of(many(3000)))])
    bad = harm(parts[1])
    doc["parts"][1] = digest_of(bad).removeprefix("sha256:")
    with pytest.raises(InvalidManifest, match=reason):
        decode_document(doc, parts[0], bad, *parts[2:])


def test_a_part_with_another_digest_or_without_content_is_refused() -> None:
    doc, parts = in_parts([chunk for _, chunk in chunks(tree_of(many(3000)))])
    root = read_root(json.dumps(doc).encode())
    content = {digest_of(part): part for part in parts}
    wrong = content | {digest_of(parts[1]): parts[0]}
    with pytest.raises(InvalidManifest, match="a part of its manifest is damaged"):
        decode(root, wrong)
    del content[digest_of(parts[1])]
    with pytest.raises(InvalidManifest, match="a part of its manifest is missing"):
        decode(root, content)


def test_decoding_takes_the_parts_that_it_has_read() -> None:
    doc, parts = in_parts([chunk for _, chunk in chunks(tree_of(many(3000)))])
    content = {digest_of(part): part for part in parts}
    decode(read_root(json.dumps(doc).encode()), content)
    assert content == {}


# Reverse deltas in parts

STEP = ReverseDelta(tree_of(["was"]).without_sizes(), frozenset({"new"}))
STEP_PART = canonical(reverse_columns(STEP))


def with_step_in_part(count: int) -> Manifest:
    """Return a manifest with ancestors that all have one reverse delta, in one part."""
    part = Part("", digest_of(STEP_PART), 1)
    ancestors = [Ancestor(B, 1 + step, 0, 0, frozenset(), STEP, part) for step in range(count)]
    return Manifest(tree_of(["new"]), replace(LINEAGE_9, ancestors=tuple(ancestors)))


@pytest.mark.parametrize("count", [1, 2])
def test_a_reverse_delta_in_a_part_is_read_back(count: int) -> None:
    """Ancestors may share a part: their trees differ in the same way."""
    manifest = with_step_in_part(count)
    assert decode_bytes(encode(manifest), STEP_PART) == manifest
    assert (
        restore(json.loads(encode(manifest)), {digest_of(STEP_PART): reverse_columns(STEP)})
        == manifest
    )


def test_without_its_part_an_ancestor_has_no_reverse_delta() -> None:
    manifest = decode_bytes(encode(with_step_in_part(1)))
    assert manifest.lineage is not None
    (read,) = manifest.lineage.ancestors
    assert read.reverse_delta is None
    assert read.part == Part("", digest_of(STEP_PART), 1)
    assert encode(manifest) == encode(with_step_in_part(1))


BAD_STEPS: dict[str, Any] = {
    "unsafe path": ReverseDelta(absent=frozenset({"../x"})),
    "a path twice": ReverseDelta(tree_of(["x"]).without_sizes(), frozenset({"x"})),
}


@pytest.mark.parametrize("step", BAD_STEPS.values(), ids=BAD_STEPS)
def test_a_bad_reverse_delta_in_a_part_is_refused(step: ReverseDelta) -> None:
    content = canonical(reverse_columns(step))
    part = Part("", digest_of(content), 1)
    ancestors = (Ancestor(B, 1, 0, 0, frozenset(), step, part),)
    manifest = Manifest(Tree(), replace(LINEAGE_9, ancestors=ancestors))
    with pytest.raises(InvalidManifest, match=r"it lists (the|a) path"):
        decode_bytes(encode(manifest), content)


# Names and sizes


def test_the_documents_of_an_image_are_known_by_their_names() -> None:
    part = Part("", A, 0)
    assert part.name == part_name(A) == f"var/lib/kontext/parts/{'a' * 64}.json"
    assert is_document(part.name) and is_document(MANIFEST_PATH)
    for other in ("var/lib/kontext", f"{MANIFEST_PATH}x", f"/{MANIFEST_PATH}", "etc/passwd"):
        assert not is_document(other)


def test_the_values_of_a_document_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of three bytes a value would take a hundred bytes of memory for each."""
    with pytest.raises(InvalidManifest, match="too large to be read"):
        read_root(b'{"x":[' + b"[]," * (2 * 1024 * 1024) + b"0]}")


def test_the_paths_of_all_parts_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    doc, parts = in_parts([chunk for _, chunk in chunks(tree_of(many(3000)))])
    monkeypatch.setattr(manifest, "_MAX_PATHS", 3000)
    decode_document(doc, *parts)
    monkeypatch.setattr(manifest, "_MAX_PATHS", 2999)
    with pytest.raises(InvalidManifest, match="too large to be read"):
        decode_document(doc, *parts)


def test_the_values_of_all_reverse_deltas_together_are_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = ReverseDelta(absent=frozenset(many(3)))
    document = canonical(manifest.reverse_columns(step))
    part = Part("", digest_of(document), 0)
    held = Manifest(
        tree_of(many(3)),
        replace(LINEAGE_9, ancestors=(Ancestor(A, 1, 0, 0, frozenset(), step, part),)),
    )
    root = encode(held)
    values = document.count(b",") + document.count(b"[") + document.count(b"{")
    monkeypatch.setattr(manifest, "_MAX_VALUES", 1000)
    read = read_root(root)
    monkeypatch.setattr(manifest, "_MAX_VALUES", values)
    assert decode(read, {part.digest: document}) == held
    monkeypatch.setattr(manifest, "_MAX_VALUES", values - 1)
    with pytest.raises(InvalidManifest, match="too large to be read"):
        decode(read, {part.digest: document})


NOT_MANIFESTS = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "not UTF-8": b'{"files":{"\xff":""}}',
    "a future version": b'{"version":4}',
    "version 2 with nothing else": b'{"version":2}',
    "version 3 with nothing else": b'{"version":3}',
    "nested too deeply": b"[" * 100_000,
}


@pytest.mark.parametrize("content", NOT_MANIFESTS.values(), ids=NOT_MANIFESTS)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidManifest):
        read_root(content)


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("n" * 255, True),
        ("n" * 256, False),
        ("ö" * 127, True),
        ("ö" * 128, False),
        ("/".join(["n" * 255] * 15), True),
        ("/".join(["n" * 255] * 17), False),
    ],
    ids=["255 bytes", "256 bytes", "254 in UTF-8", "256 in UTF-8", "deep", "too deep"],
)
def test_a_path_that_no_file_system_has_is_refused(path: str, fits: bool) -> None:
    if fits:
        _check_paths([path])
    else:
        with pytest.raises(InvalidManifest, match="lists the path"):
            _check_paths([path])
