"""What a push is asked to make: the platform, the base and the labels of an image. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer

LAYER_LIMIT = 125
"""The most layers of an image: dockerd fails from 126 on with "max depth exceeded"."""

MAX_LAYERS = 64
"""The default of --max-layers: where a registry removes ancestors, an image grows up to it.

The rest is left to whoever builds on the image."""

REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"
GIT_LABELS = frozenset({REVISION, SOURCE})
"""The labels that say which commit an image's sources are of (image specification, annotations.md).

They come and go with the work tree, so they never make a push start fresh."""

UNKNOWN = "unknown"
"""The value of a git label that is not true any more: no layer can take a label away."""

COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class BaseImage:
    """The image below the sources: the one that ships with Kontext, or the user's own."""

    image: Image
    config: ImageConfig  # its own
    extractor: Digest  # the shipped base image whose extractor runs
    source: str = ""  # the user's base, REPO@sha256:…; "": the shipped one
    layout: str = ""  # the shipped one's OCI layout, a directory
    extractor_layer: Layer | None = None  # goes on top of the user's base
    extractor_path: str = ""  # the file of that layer; "": the base has the extractor
    single_layer: bool = False  # the extractor goes into the one layer, together with the sources

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers below the first one with sources."""
        return (*self.image.layers, *((self.extractor_layer,) if self.extractor_layer else ()))


@dataclass(frozen=True)
class ImageSpec:
    """What a push is asked to make, apart from the sources."""

    platforms: frozenset[str]  # exactly one, for now
    base: BaseImage
    config: ImageConfig  # of an image on this base, without labels of the push
    labels: Mapping[str, str] = field(default_factory=dict)  # the user's
    git_labels: Mapping[str, str] = field(default_factory=dict)
    max_layers: int = MAX_LAYERS
    always_reuse: bool = False  # also where starting fresh seems better

    @property
    def platform(self) -> str:
        """The one platform."""
        (platform,) = self.platforms
        return platform

    def labels_on(self, former: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of the new image, built on an image with the labels `former`.

        The user's labels go before git's.
        """
        outdated = dict.fromkeys(GIT_LABELS & former.keys(), UNKNOWN)
        return {**outdated, **self.git_labels, **self.labels}

    def changes_labels(self, former: Mapping[str, str]) -> bool:
        """Whether the labels alone are worth a new image, where the sources are the same.

        A commit with the same sources leaves the old commit's label true. But an image that was
        pushed from a work tree with changes gets the label of the clean commit.
        """
        if any(former.get(key) != value for key, value in self.labels.items()):
            return True
        if REVISION in self.labels:
            return False
        return names_commit(self.git_labels) and not names_commit(former)


def names_commit(labels: Mapping[str, str]) -> bool:
    """Whether labels name the commit of a work tree without changes."""
    return bool(COMMIT.fullmatch(labels.get(REVISION, "")))
