"""The description of `docker kontext inspect`, apart from any registry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from support.models import (
    ARM,
    EXTRACTOR,
    NOTHING,
    SPEC,
    described,
    histories,
    plan_on,
    published,
)
from support.trees import Directory, File, Link, Tree

from kontext_plugin.commands import inspect
from kontext_plugin.commands.inspect import Role
from kontext_plugin.delta import tree_bytes
from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import Ancestor, Lineage, Manifest
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.registry.fetch import KontextImage

IMAGE, BASE = (Digest(f"sha256:{letter * 64}") for letter in "1b")
NAME = parse_reference("r/r")
CONFIG = ImageConfig("linux/amd64")


def describe(image: KontextImage) -> dict[str, Any]:
    return inspect.describe(NAME, image, image.config or CONFIG)


@given(histories())
def test_roles_and_obsolete_bytes(history: list[Tree]) -> None:
    truth: dict[Digest, str] = {EXTRACTOR.layer.digest: "extractor"}
    image: KontextImage | StartFresh = NOTHING
    for tree in history:
        plan = plan_on(image, SPEC, described(tree))
        if plan.sources:
            continue
        image = published(plan)
        for layer in image.image.layers:
            truth.setdefault(
                layer.digest, "sources" if isinstance(plan.parent, StartFresh) else "delta"
            )
        document = describe(image)
        assert [layer["role"] for layer in document["layers"]] == [
            truth[layer["digest"]] for layer in document["layers"]
        ]
        fresh_bytes = tree_bytes(described(tree))
        assert document["shadowed"] == document["content"] - fresh_bytes >= 0
        assert document["intact"]
        text = "\n".join(inspect.lines(document))
        assert all(layer["digest"] in text for layer in document["layers"])


def image_of(
    lineage: Lineage | None, *, base: int = 0, sources: int = 1, extractor: bool = True
) -> KontextImage:
    """Return an image of so many layers of a base, of sources, and of the extractor."""
    layers = (
        *(Layer(Digest(f"sha256:{place:064}"), 1) for place in range(base)),
        *(Layer(Digest(f"sha256:{place + 100:064}"), 1) for place in range(sources)),
        *([EXTRACTOR.layer] if extractor else []),
    )
    digest = EXTRACTOR.layer.digest if extractor else None
    image = Image(IMAGE, layers, IMAGE, digest)
    return KontextImage(IMAGE, image, Manifest(described({}), lineage))


def lineage(layers: int, *ancestors: tuple[int, int], generation: int = 0) -> Lineage:
    """Return the lineage of an image of so many layers of sources.

    `ancestors` are the generation and the number of layers of each.
    """
    return Lineage(
        generation,
        layers=tuple(Digest(f"sha256:{place + 100:064}") for place in range(layers - 1)),
        ancestors=tuple(
            Ancestor(IMAGE, height, ancestor_generation, 0, frozenset(), ReverseDelta())
            for ancestor_generation, height in ancestors
        ),
    )


B, S, D, E, N = Role.BASE, Role.SOURCES, Role.DELTA, Role.EXTRACTOR, None
ROLES: dict[str, tuple[KontextImage, list[Role | None]]] = {
    "a first push": (image_of(lineage(1)), [S, E]),
    "a large first push": (image_of(lineage(3), sources=3), [S, S, S, E]),
    "a delta": (image_of(lineage(2, (0, 1), generation=1), sources=2), [S, D, E]),
    "a delta on a large one": (
        image_of(lineage(4, (0, 3), generation=9), sources=4),
        [S, S, S, D, E],
    ),
    "two deltas": (
        image_of(lineage(3, (0, 1), (1, 2), generation=2), sources=3),
        [S, D, D, E],
    ),
    "all ancestors gone": (image_of(lineage(4, generation=3), sources=4), [S, N, N, D, E]),
    "the oldest gone": (
        image_of(lineage(5, (2, 3), (3, 4), generation=4), sources=5),
        [S, N, D, D, D, E],
    ),
    "a single layer": (image_of(lineage(1), extractor=False), [S]),
    "a user's base": (image_of(lineage(1), base=3), [B, B, B, S, E]),
    "an extractor below the sources": (
        image_of(lineage(2, (0, 1), generation=1), base=1, sources=2, extractor=False),
        [B, S, D],
    ),
    "version 1": (image_of(None, sources=3, extractor=False), [N, N, N]),
    "a layer less": (image_of(lineage(3), sources=2), [N, N, N]),
    "layers in another order": (
        image_of(replace(lineage(3), layers=lineage(3).layers[::-1]), sources=3),
        [N, N, N, N],
    ),
}


@pytest.mark.parametrize(("image", "roles"), ROLES.values(), ids=ROLES)
def test_roles(image: KontextImage, roles: list[Role | None]) -> None:
    assert inspect.roles(image) == roles


def test_an_image_on_a_base_names_it() -> None:
    base = replace(
        SPEC.bases[0],
        layers=(Layer(BASE, 1),),
        document=SPEC.bases[0].document | {"rootfs": {"type": "layers", "diff_ids": [BASE]}},
        source=f"host.io/own@{BASE}",
        name="host.io/own:3",
    )
    spec = replace(SPEC, bases=(base,), labels={"k": "v"}, created="2020-01-01T00:00:00Z")
    document = describe(published(plan_on(NOTHING, spec, described({"a": File(b"x")}))))
    assert document["base"] == BASE
    assert document["base_name"] == "host.io/own:3"
    assert document["extractor"] == EXTRACTOR.layer.digest
    assert document["labels"] == {"k": "v"}
    assert document["created"] == "2020-01-01T00:00:00Z"
    assert document["version"] == 3
    text = "\n".join(inspect.lines(document))
    assert f"host.io/own:3, {BASE}" in text


def test_an_index_names_all_its_platforms() -> None:
    image = published(plan_on(NOTHING, replace(SPEC, bases=(*SPEC.bases, ARM)), described({})))
    document = describe(image)
    assert document["digest"] == image.digest != image.image.digest
    assert document["platforms"] == ["linux/amd64", "linux/arm64"]
    assert "linux/amd64, linux/arm64" in "\n".join(inspect.lines(document))


def test_version_1_has_the_counts_alone() -> None:
    tree: Tree = {"a": File(b"x"), "d": Directory(), "d/b": File(b"x"), "l": Link("a")}
    held = Manifest(described(tree), None, version=1)
    document = describe(KontextImage(IMAGE, Image(IMAGE, (), None), held))
    assert document["version"] == 1
    assert (document["files"], document["links"], document["directories"]) == (2, 1, 1)
    unknown = {key for key, value in document.items() if value is None}
    assert unknown == {
        "manifest", "intact", "generation", "base", "base_name", "extractor", "created", "bytes",
        "content", "shadowed", "parent", "parent_found_at",
    }  # fmt: skip
    text = "\n".join(inspect.lines(document))
    assert "2018 prototype" in text and "None" not in text


def test_a_label_or_a_base_cannot_control_the_terminal() -> None:
    config = replace(CONFIG, labels={"k\x1b[2J": "v\nForged: line"})
    image = image_of(lineage(1))
    image = replace(image, image=replace(image.image, base=BASE, base_name="x\x1b[2J"))
    lines = list(inspect.lines(inspect.describe(NAME, image, config)))
    assert all(line.isprintable() for line in lines)
    assert r"k\x1b[2J=v\nForged: line" in "\n".join(lines)
    assert r"x\x1b[2J, sha256" in "\n".join(lines)
