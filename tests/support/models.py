"""Random trees, two models of the consumers of an image, and a model of a registry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st
from support.trees import Directory, File, Link, Node, Tree

from kontext_plugin import manifest
from kontext_plugin.cache import Content
from kontext_plugin.delta import Changes
from kontext_plugin.image.assembly import Sources, assemble
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.oci import Layer as ImageLayer
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import BaseImage, ImageSpec
from kontext_plugin.image.tree import DIRECTORY
from kontext_plugin.image.tree import Tree as Described
from kontext_plugin.push.parent import Candidate, Origin, StartFresh
from kontext_plugin.push.partition import manifest_on, partition
from kontext_plugin.push.plan import Plan, make_plan
from kontext_plugin.registry.fetch import KontextImage

EXTRACTOR = StagedLayer(
    "/extractor.tar.gz",
    ImageLayer(Digest("sha256:" + "e" * 64), 1_000_000),
    Digest("sha256:" + "d" * 64),
)
SHIPPED = BaseImage("linux/amd64", {"os": "linux", "architecture": "amd64"}, EXTRACTOR)
ARM = BaseImage("linux/arm64", {"os": "linux", "architecture": "arm64"}, EXTRACTOR)
SPEC = ImageSpec((SHIPPED,), always_reuse=True)

TAG = parse_reference("host.io/repo:t")
NOTHING = StartFresh("there is nothing")

Layer = Sequence[tuple[str, Node | None]]
"""The entries of a layer in their order. None is a whiteout of the path."""

PLAIN_NAMES = st.sampled_from(["a", "b", "c"])
"""There are so few that two random trees often share a path, and with different kinds."""

STRANGE = [
    "a", "b", ".hidden", "...", "..a", "-rf", "two words", " ", "new\nline", "tab\t", 'quo"te',
    "apo'strophe", "back\\slash", "star*", "[x]", "ä", "a\u0301", "ß😀", "\u202e", "wh", ".wh",
    "n" * 100, "n" * 101, "n" * 155, "n" * 156, "n" * 255, "ö" * 127, "\x01", "\x7f",
]  # fmt: skip
STRANGE_NAMES = st.one_of(
    st.sampled_from(STRANGE),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40).filter(
        lambda name: name not in (".", "..", ".git") and not name.startswith(".wh.")
    ),
)

Nested = Node | dict[str, Any]
"""A node; a directory is the map of its entries."""


def trees(names: st.SearchStrategy[str] = PLAIN_NAMES, leaves: int = 8) -> st.SearchStrategy[Tree]:
    """Return small trees. There are few contents, so that sometimes only a mode changes."""
    leaf: st.SearchStrategy[Nested] = st.one_of(
        st.builds(File, st.sampled_from([b"", b"x", b"y", b"z" * 1025]), st.booleans()),
        st.builds(Link, st.sampled_from(["a", "b/c", "/etc/hosts", "gone", "ä\n"])),
        st.just({}),
    )
    branch = st.recursive(
        leaf, lambda below: st.dictionaries(names, below, max_size=4), max_leaves=leaves
    )
    return st.dictionaries(names, branch, max_size=4).map(_flat)


def histories(steps: int = 8) -> st.SearchStrategy[list[Tree]]:
    """Return histories of trees. Each tree differs from the one before by a few edits.

    The edits have very different sizes, so the images get long chains of ancestors.
    """
    sizes = st.sampled_from([0, 1, 1000, 4000, 16_000, 64_000])
    file = st.builds(lambda fill, size, run: File(fill * size, run), CONTENTS, sizes, st.booleans())
    name = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
    node = st.one_of(file, file, st.builds(Directory), st.just(Link("a")), st.none())
    edits = st.dictionaries(name, node, min_size=1, max_size=2)
    return st.lists(edits, min_size=3, max_size=steps).map(_edits)


CONTENTS = st.sampled_from([b"x", b"y", b"z"])


def _edits(edits: list[dict[str, Node | None]]) -> list[Tree]:
    history: list[Tree] = [{"ballast": File(b"b" * 200_000)}]
    for edit in edits:
        tree = dict(history[-1])
        for path, node in edit.items():
            for other in [other for other in tree if other == path or other.startswith(f"{path}/")]:
                if not (isinstance(node, Directory) and isinstance(tree[path], Directory)):
                    del tree[other]
            for parent in parents(path) if node is not None else ():
                if not isinstance(tree.get(parent), Directory):
                    tree[parent] = Directory()
            if node is not None:
                tree[path] = node
        history.append(tree)
    return history


def _flat(nested: dict[str, Nested], prefix: str = "") -> Tree:
    tree: Tree = {}
    for name, node in nested.items():
        if isinstance(node, dict):
            tree[prefix + name] = Directory()
            tree |= _flat(node, f"{prefix}{name}/")
        else:
            tree[prefix + name] = node
    return tree


def described(tree: Tree) -> Described:
    """Return the tree as a manifest describes it."""
    files = {path: node for path, node in tree.items() if isinstance(node, File)}
    folders = [path for path, node in tree.items() if isinstance(node, Directory)]
    digests = {path: hashlib.sha256(file.content).hexdigest() for path, file in files.items()}
    return Described(
        files=dict.fromkeys(folders, DIRECTORY) | digests,
        sizes={path: len(file.content) for path, file in files.items()},
        executable=frozenset(path for path, file in files.items() if file.executable),
        links={path: node.target for path, node in tree.items() if isinstance(node, Link)},
    )


def layer(made: Changes, new: Tree) -> Layer:
    """Return the entries of a delta to `new` with these changes."""
    above = {up for path in (*made.written, *made.whiteouts) for up in parents(path)}
    entries = [(path, new[path]) for path in sorted(above | {*made.written})]
    return [*entries, *((path, None) for path in made.whiteouts)]


def overlay(layers: Iterable[Layer]) -> Tree:
    """Return the tree that an engine shows which mounts the layers over each other, lowest first.

    Fails for layers that some engine would reject: a path twice, a path without its parents, or a
    name beside its own whiteout (OCI image specification, layer.md).
    """
    shown: Tree = {}
    for layer in layers:
        paths = [path for path, _ in layer]
        assert len(paths) == len(set(paths)), "a path is in a layer twice, or beside its whiteout"
        folders = {path for path, node in layer if isinstance(node, Directory)} | {""}
        for path, node in layer:
            assert path.rpartition("/")[0] in folders, f"no parent of {path!r} in the layer"
            if node is None:
                assert path in shown, f"a whiteout of {path!r}, which is not there"
            if not (isinstance(node, Directory) and isinstance(shown.get(path), Directory)):
                shown = {
                    other: kept
                    for other, kept in shown.items()
                    if other != path and not other.startswith(f"{path}/")
                }
            if node is not None:
                shown[path] = node
    return shown


def crane_export(layers: Sequence[Layer]) -> Tree:
    """Return the tree that `crane export` shows (go-containerregistry, pkg/v1/mutate, extract)."""
    shown: Tree = {}
    hides: dict[str, bool] = {}  # paths that were seen, and whether they hide what is below them
    for layer in reversed(layers):
        for path, node in layer:
            if path in hides and node is not None:
                continue
            if any(hides.get(parent) for parent in parents(path)):
                continue
            hides[path] = not isinstance(node, Directory)
            if node is not None:
                shown[path] = node
    return shown


def parents(path: str) -> list[str]:
    """Return the directories above a path, the topmost first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


_DOCUMENTS: dict[str, bytes] = {}
"""All parts of manifests that were published, by their names, which have their digests."""


def plan_on(tag_image: KontextImage | StartFresh, spec: ImageSpec, tree: Described) -> Plan:
    """Return the plan of a push to a tag that shows this image, or nothing."""
    if isinstance(tag_image, StartFresh):
        return make_plan((), tag_image, spec, tree)
    return make_plan([Candidate(tag_image, TAG, Origin.TAG)], NOTHING, spec, tree)


def published(plan: Plan) -> KontextImage:
    """Return the image under the tag after a push, as another machine reads it with its history."""
    if plan.sources:
        assert plan.found_image is not None
        sources, held = plan.sources, plan.found_image.manifest
    else:
        divided = partition(plan)
        # Digests that no other plan has, as real images and layers have them.
        lower = [ImageLayer(digest_of(repr(chunk).encode()), 1) for chunk in divided.lower]
        below = (*plan.parent_layers, *lower)
        content = manifest.encode(manifest_on(plan, divided, (layer.digest for layer in below)))
        _DOCUMENTS.update(divided.documents)
        root = manifest.read_root(content)
        parts = {
            part.digest: _DOCUMENTS[part.name] for part in (*root.listing, *root.reverse_deltas)
        }
        held = manifest.decode(root, parts)
        top = ImageLayer(digest_of(b"layer " + content), len(content))
        diff_ids = (digest_of(b"archive " + layer.digest.encode()) for layer in (*lower, top))
        sources = Sources((*below, top), (*plan.parent_diff_ids, *diff_ids), digest_of(content))
    assembly = assemble(plan.spec, sources, plan.labels)
    platforms = tuple(base.platform for base in plan.spec.bases) if assembly.is_index else ()
    return KontextImage(assembly.digest, assembly.images[0], held, assembly.config, platforms)


def content_of(pieces: Iterable[bytes]) -> Content:
    """Return the content of a record of the cache."""
    file = os.memfd_create("content")
    os.write(file, b"".join(pieces))
    return Content(file)
