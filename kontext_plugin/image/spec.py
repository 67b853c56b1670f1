"""TODO."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kontext_plugin.image.oci import Digest, Layer

PLATFORMS = ("linux/amd64", "linux/arm64")
"""What images are made for; the first is the default."""

MOST_LAYERS = 125
"""dockerd fails from 126 on: "max depth exceeded"."""

MAX_LAYERS = 64
"""The default of --max-layers, for registries that remove the ancestors: an image without them
grows until then. The rest is left to whoever builds upon it."""


@dataclass(frozen=True)
class ImageSpec:
    """What the push is asked to produce, apart from the tree."""

    base: Digest
    below: tuple[Layer, ...]  # what lies under the first layer with sources
    extractor: Digest
    platform: str
    labels: Mapping[str, str]  # the user's
    # The settings of an image with these labels (image.settings_of, base.Base.settings_with).
    settings: Callable[[Mapping[str, str]], Mapping[str, Any]]
    max_layers: int = MAX_LAYERS
    single_layer: bool = False
    always_reuse: bool = False  # also where starting afresh seems better
    git_labels: Mapping[str, str] = field(default_factory=dict)

    def labels_upon(self, former: Mapping[str, str]) -> Mapping[str, str]:
        """Those of the new image, if it is built on one with the labels `former`."""
        return labels_on(former, self.labels, self.git_labels)


REVISION = "org.opencontainers.image.revision"

SOURCE = "org.opencontainers.image.source"

GIT_LABELS = frozenset({REVISION, SOURCE})

UNKNOWN = "unknown"
"""No layer can take a label away, nor may its value be empty; an old one would not be true."""

_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def labels_on(
    former: Mapping[str, str], given: Mapping[str, str], found: Mapping[str, str]
) -> dict[str, str]:
    """Those of an image that is built on one with `former`: the user's go before git's."""
    return {**dict.fromkeys(GIT_LABELS & former.keys(), UNKNOWN), **found, **given}


def worth_publishing(
    former: Mapping[str, str], given: Mapping[str, str], found: Mapping[str, str]
) -> bool:
    """Whether an image is to be made for the labels' sake, its sources being there.

    A new commit of the same sources leaves the old one's name true, so it makes none; but what is
    pushed from a clean work tree shall name a commit.
    """
    if any(former.get(key) != value for key, value in given.items()):
        return True
    if REVISION in given:
        return False
    return names_commit(found) and not names_commit(former)


def names_commit(labels: Mapping[str, str]) -> bool:
    """Whether they are those of a clean work tree."""
    return bool(_COMMIT.fullmatch(labels.get(REVISION, "")))
