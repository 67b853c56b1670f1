"""What a push builds on: each reason to start afresh, and nothing but these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from models import described
from trees import Directory, File

from kontext_plugin.base_choice import MAX_LAYERS, Fresh, Previous, Reuse, Wanted, choose
from kontext_plugin.image import Digest, Image, Layer
from kontext_plugin.manifest import Lineage, Manifest

BASE, EXTRACTOR, FIRST, TOP, OTHER = (Digest("sha256:" + letter * 64) for letter in "abcde")

TREE = described({"d": Directory(), "f": File(b"x")})
LINEAGE = Lineage(
    BASE, EXTRACTOR, "linux/amd64", 1, (BASE, FIRST), {"k": "v"}, frozenset({"was", "d/was"})
)
IMAGE = Image(OTHER, (Layer(BASE, 1), Layer(FIRST, 2), Layer(TOP, 3)), OTHER)
PREVIOUS = Previous(IMAGE, Manifest(TREE, LINEAGE))


def settings(labels: Mapping[str, str]) -> dict[str, Any]:
    return {"Entrypoint": ["/e"], "Labels": {"of the base": "x", **labels}}


WANTED = Wanted(BASE, EXTRACTOR, "linux/amd64", {"k": "v"}, settings)


def of(lineage: Lineage | None, image: Image = IMAGE) -> Previous:
    return Previous(image, Manifest(TREE, lineage))


def of_layers(count: int) -> Previous:
    layers = tuple(Layer(FIRST, 1) for _ in range(count))
    below = tuple(layer.digest for layer in layers[:-1])
    return of(replace(LINEAGE, layers=below), replace(IMAGE, layers=layers))


def test_the_previous_image_is_built_on() -> None:
    assert choose(PREVIOUS, WANTED, TREE) == Reuse(PREVIOUS, LINEAGE)


REUSED: dict[str, Callable[[], Reuse | Fresh]] = {
    "new label": lambda: choose(PREVIOUS, replace(WANTED, labels={"k": "v", "n": "w"}), TREE),
    "label of another value": lambda: choose(PREVIOUS, replace(WANTED, labels={"k": "w"}), TREE),
    "replaced directory is gone": lambda: choose(PREVIOUS, WANTED, described({})),
    "replaced directory is a file": lambda: choose(PREVIOUS, WANTED, described({"was": File(b"")})),
    "settings as Kontext made them": lambda: choose(
        replace(PREVIOUS, settings=settings({"k": "v"})), WANTED, TREE
    ),
    "nothing to add at the limit": lambda: choose(of_layers(MAX_LAYERS), WANTED, TREE),
    "one layer below the limit": lambda: choose(of_layers(MAX_LAYERS - 1), WANTED, TREE),
}


@pytest.mark.parametrize("outcome", REUSED.values(), ids=REUSED)
def test_what_is_no_reason_to_start_afresh(outcome: Callable[[], Reuse | Fresh]) -> None:
    assert isinstance(outcome(), Reuse)


FRESH: dict[str, tuple[Callable[[], Reuse | Fresh], str]] = {
    "version 1": (lambda: choose(of(None), WANTED, TREE), "2018 prototype"),
    "platform": (
        lambda: choose(PREVIOUS, replace(WANTED, platform="linux/arm64"), TREE),
        "linux/amd64, not linux/arm64",
    ),
    "extractor": (
        lambda: choose(PREVIOUS, replace(WANTED, extractor=OTHER), TREE),
        "another version of the extractor",
    ),
    "base": (lambda: choose(PREVIOUS, replace(WANTED, base=OTHER), TREE), "base image is another"),
    "label gone": (lambda: choose(PREVIOUS, replace(WANTED, labels={}), TREE), "label k is gone"),
    "layer put on top": (
        lambda: choose(
            of(LINEAGE, replace(IMAGE, layers=(*IMAGE.layers, Layer(OTHER, 1)))), WANTED, TREE
        ),
        "changed by another tool",
    ),
    "layer taken off": (
        lambda: choose(of(LINEAGE, replace(IMAGE, layers=IMAGE.layers[:-1])), WANTED, TREE),
        "changed by another tool",
    ),
    "layers squashed": (
        lambda: choose(of(LINEAGE, replace(IMAGE, layers=IMAGE.layers[-1:])), WANTED, TREE),
        "changed by another tool",
    ),
    "layers in another order": (
        lambda: choose(
            of(LINEAGE, replace(IMAGE, layers=(*IMAGE.layers[1::-1], IMAGE.layers[2]))),
            WANTED,
            TREE,
        ),
        "changed by another tool",
    ),
    "no layers": (
        lambda: choose(of(LINEAGE, replace(IMAGE, layers=())), WANTED, TREE),
        "changed by another tool",
    ),
    "settings of another tool": (
        lambda: choose(replace(PREVIOUS, settings=settings({"k": "w"})), WANTED, TREE),
        "configuration was changed by another tool",
    ),
    "too many layers": (
        lambda: choose(of_layers(MAX_LAYERS), WANTED, described({})),
        f"{MAX_LAYERS} layers",
    ),
    "directory comes back": (
        lambda: choose(PREVIOUS, WANTED, described({"was": Directory()})),
        "was was a directory once",
    ),
}


@pytest.mark.parametrize(("outcome", "reason"), FRESH.values(), ids=FRESH)
def test_reasons_to_start_afresh(outcome: Callable[[], Reuse | Fresh], reason: str) -> None:
    choice = outcome()
    assert isinstance(choice, Fresh)
    assert reason in choice.reason


def test_the_limit_leaves_room_for_others() -> None:
    assert MAX_LAYERS <= 120, "dockerd fails from 126 on"
