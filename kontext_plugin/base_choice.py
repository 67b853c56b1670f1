"""What a push builds on: the previous image or the plain base, and why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kontext_plugin.image import Digest, Image
from kontext_plugin.manifest import Lineage, Manifest, Tree

MAX_LAYERS = 100
"""dockerd cannot mount more than 125; the rest is left to whoever builds upon our image."""


@dataclass(frozen=True)
class Previous:
    """The image under the tag, with the sources it says it holds."""

    image: Image
    manifest: Manifest
    settings: Mapping[str, Any] | None = None  # None: as this machine published them


@dataclass(frozen=True)
class Wanted:
    """What the push is asked to produce, apart from the tree."""

    base: Digest
    extractor: Digest
    platform: str
    labels: Mapping[str, str]
    # The settings of an image with these labels (image.settings_of, base.Base.settings_with).
    settings: Callable[[Mapping[str, str]], Mapping[str, Any]]


@dataclass(frozen=True)
class Reuse:
    previous: Previous
    lineage: Lineage  # of the previous image, known to be there


@dataclass(frozen=True)
class Fresh:
    reason: str  # completes "starting afresh: …"


def choose(previous: Previous, wanted: Wanted, tree: Tree) -> Reuse | Fresh:
    """Whether a delta on `previous` gives `tree` right, for every consumer, as `wanted`."""
    lineage = previous.manifest.lineage
    if lineage is None:
        return Fresh("the image was made by the 2018 prototype")
    if lineage.platform != wanted.platform:
        return Fresh(f"the image is for {lineage.platform}, not {wanted.platform}")
    if lineage.extractor != wanted.extractor:
        return Fresh("the image was made with another version of the extractor")
    if lineage.base != wanted.base:
        return Fresh("the base image is another")
    if lineage.layers != tuple(layer.digest for layer in previous.image.layers[:-1]):
        return Fresh("the image's layers were changed by another tool")
    if previous.settings not in (None, wanted.settings(lineage.labels)):
        return Fresh("the image's configuration was changed by another tool")
    if dropped := lineage.labels.keys() - wanted.labels.keys():
        return Fresh(f"the label {min(dropped)} is gone, and no layer can take a label away")
    if len(previous.image.layers) >= MAX_LAYERS and (
        tree != previous.manifest.tree or wanted.labels != lineage.labels
    ):
        return Fresh(f"the image has reached {MAX_LAYERS} layers")
    returned = sorted(path for path in lineage.replaced_directories if tree.is_directory(path))
    if returned:
        return Fresh(f"{returned[0]} was a directory once and is one again")
    return Reuse(previous, lineage)
