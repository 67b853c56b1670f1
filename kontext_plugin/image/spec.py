"""What a push is asked to make: the platforms, the base and the labels of an image. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import Digest, ImageConfig, Layer, config_from_document

LAYER_LIMIT = 125
"""The most layers of an image: dockerd fails from 126 on with "max depth exceeded"."""

MAX_LAYERS = 64
"""The default of --max-layers. The rest is left to images that are built on this one."""

REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"
GIT_LABELS = frozenset({REVISION, SOURCE})
"""The labels that say which commit an image's sources are of (image specification, annotations.md).

They come and go with the work tree, so they alone seldom make a new image."""

COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class BaseImage:
    """What an image for one platform has beside its sources: the base below, the extractor above.

    The base that ships with Kontext has no layers. A user's base has any number.
    """

    platform: str  # OS/ARCHITECTURE
    document: Mapping[str, Any]  # the base's configuration
    extractor: StagedLayer
    layers: tuple[Layer, ...] = ()  # of the base
    source: str = ""  # the user's base, REPO@sha256:…; "": the shipped one
    name: str = ""  # the user's base, as it was typed

    @property
    def config(self) -> ImageConfig:
        """The base's configuration."""
        return config_from_document(self.document)


@dataclass(frozen=True)
class ImageSpec:
    """What a push is asked to make, apart from the sources."""

    bases: tuple[BaseImage, ...]  # one for each platform
    labels: Mapping[str, str] = field(default_factory=dict)  # the user's
    git_labels: Mapping[str, str] = field(default_factory=dict)
    keep_git_labels: bool = True  # those of an image with the same sources
    single_layer: bool = False  # the sources and the extractor in one layer
    max_layers: int = MAX_LAYERS
    compression: str = ""  # of the new layers; "": that of the image that they are put on
    always_reuse: bool = False  # also where starting fresh seems better
    trusted: frozenset[Digest] | None = None  # keys of the sources to build on; None: any
    created: str = ""  # what the configurations say (RFC 3339); "": what the base's say

    @property
    def room(self) -> int:
        """The most layers of sources."""
        return self.max_layers - max(len(base.layers) for base in self.bases) - 1

    def own_labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of an image that are not the base's."""
        base = self.bases[0].config.labels
        return {key: value for key, value in labels.items() if base.get(key) != value}

    def labels_on(self, former: Mapping[str, str], *, is_same: bool) -> dict[str, str]:
        """Return the labels of the new image; `former` are those of the image that it builds on.

        The user's labels override git's. If `is_same`, the sources are the same. Then the former
        commit's label stays true. But an image that was pushed from a work tree with changes gets
        the label of the clean commit.
        """
        git = self.git_labels
        is_first = names_commit(git) and not names_commit(former) and REVISION not in self.labels
        if is_same and self.keep_git_labels and not is_first:
            git = {key: value for key, value in former.items() if key in GIT_LABELS}
        return {**git, **self.labels}


def names_commit(labels: Mapping[str, str]) -> bool:
    """Whether labels name the commit of a work tree without changes."""
    return bool(COMMIT.fullmatch(labels.get(REVISION, "")))
