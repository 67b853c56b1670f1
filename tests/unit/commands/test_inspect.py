"""The description of `docker kontext inspect`, apart from any registry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import SPEC, described, histories, published
from support.trees import Directory, File, Link, Tree

from kontext_plugin.commands import inspect
from kontext_plugin.commands.inspect import Role
from kontext_plugin.delta import tree_bytes
from kontext_plugin.image.oci import Digest, Image, Layer
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import Ancestor, Lineage, Manifest
from kontext_plugin.push.parent import StartFresh, without_ancestor
from kontext_plugin.push.plan import make_plan
from kontext_plugin.registry.fetch import KontextImage

IMAGE, TOP, BASE, EXTRACTOR = (Digest(f"sha256:{letter * 64}") for letter in "12bc")
NAME = parse_reference("r/r")


@given(histories(), st.booleans())
def test_roles_and_obsolete_bytes(history: list[Tree], forgets: bool) -> None:
    """Describe images of which the registry has all ancestors, or has lost some."""
    truth: dict[Digest, str] = {BASE: "base"}
    image: KontextImage | StartFresh = StartFresh("there is no image")
    for step, tree in enumerate(history):
        if forgets and isinstance(image, KontextImage) and step % 3 == 2:
            plan = make_plan(image, SPEC, described(tree))
            if not isinstance(plan.parent, StartFresh):
                image = without_ancestor(plan.parent)
        plan = make_plan(image, SPEC, described(tree))
        if plan.is_up_to_date:
            continue
        image = published(plan)
        for layer in image.image.layers:
            truth.setdefault(
                layer.digest, "sources" if isinstance(plan.parent, StartFresh) else "delta"
            )
        document = inspect.describe(NAME, image, None)
        pairs = [(layer["role"], truth[layer["digest"]]) for layer in document["layers"]]
        assert all(role == made or (forgets and role is None) for role, made in pairs)
        fresh_bytes = tree_bytes(described(tree))
        assert document["shadowed"] == document["content"] - fresh_bytes >= 0
        assert document["intact"]
        text = "\n".join(inspect.lines(document))
        assert all(layer["digest"] in text for layer in document["layers"])


def lineage(
    layers: int, *ancestors: tuple[int, int], base: Digest = EXTRACTOR, generation: int = 0
) -> Lineage:
    """Return the lineage of an image of so many layers.

    `ancestors` are the generation and the number of layers of each.
    """
    return Lineage(
        base,
        EXTRACTOR,
        "linux/amd64",
        generation,
        layers=tuple(Digest(f"sha256:{place:064}") for place in range(layers - 1)),
        ancestors=tuple(
            Ancestor(IMAGE, height, ancestor_generation, 0, frozenset(), ReverseDelta())
            for ancestor_generation, height in ancestors
        ),
    )


B, S, D, N = Role.BASE, Role.SOURCES, Role.DELTA, None
ROLES: dict[str, tuple[Lineage | None, int, list[Role | None]]] = {
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
def test_roles(lineage: Lineage | None, count: int, roles: list[Role | None]) -> None:
    layers = [Digest(f"sha256:{place:064}") for place in range(count)]
    assert inspect.roles(layers, lineage, Digest(f"sha256:{2:064}")) == roles


def test_a_users_base_with_an_extractor_of_another_version() -> None:
    layers = [Digest(f"sha256:{place:064}") for place in range(5)]
    delta = lineage(5, (0, 4), base=BASE, generation=1)
    assert inspect.roles(layers, delta, None) == [N, N, N, S, D]


def test_version_1_has_the_counts_alone() -> None:
    tree: Tree = {"a": File(b"x"), "d": Directory(), "d/b": File(b"x"), "l": Link("a")}
    image = KontextImage(Image(IMAGE, (), None), Manifest(described(tree), None))
    document = inspect.describe(NAME, image, None)
    assert document["version"] == 1
    assert (document["files"], document["links"], document["directories"]) == (2, 1, 1)
    unknown = {key for key, value in document.items() if value is None}
    assert unknown == {
        "manifest", "intact", "generation", "platform", "base", "extractor", "bytes", "content",
        "shadowed",
    }  # fmt: skip
    text = "\n".join(inspect.lines(document))
    assert "2018 prototype" in text and "None" not in text


def test_a_label_cannot_control_the_terminal() -> None:
    labels = {"k\x1b[2J": "v\nForged: line"}
    manifest = Manifest(described({}), Lineage(EXTRACTOR, EXTRACTOR, "linux/amd64", labels=labels))
    image = KontextImage(Image(IMAGE, (Layer(TOP, 1),), None), manifest)
    lines = list(inspect.lines(inspect.describe(NAME, image, None)))
    assert all(line.isprintable() for line in lines)
    assert r"k\x1b[2J=v\nForged: line" in "\n".join(lines)
