"""What the first layer of sources is put upon: the base that ships with Kontext, or the user's."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.image.layout import blob_path, documents
from kontext_plugin.image.oci import Digest, Image, Layer, image_from_document, settings_of
from kontext_plugin.image.reference import repository_of
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.layer import tar
from kontext_plugin.registry.fetch import parse_image_manifest
from kontext_plugin.runtime.schema import IMAGE_CONFIG, InvalidDocument, load_document

ENTRYPOINT = "/kontext-extractor"

WORKDIR = "/workspace"

_DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "base")


@dataclass(frozen=True)
class Base:
    """An image to build on, and what it lacks to be self-extracting."""

    image: Image
    settings: Mapping[str, Any]  # see image.settings_of
    extractor: Digest  # of the shipped base, whose extractor runs in any case
    source: str = ""  # where the user's base is: REPO@sha256:…; "": the shipped one
    layout: str = ""  # the shipped one's OCI layout
    extractor_layer: Layer | None = None  # to be put upon the user's base
    extractor_paths: tuple[str, ...] = ()  # of that layer's blob, if there is one
    extractor_inside: str = ""  # or, where there is to be but one layer, to be put into that

    def settings_with(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Those of an image that is built on this base."""
        settings = {key: value for key, value in self.settings.items() if key != "Cmd"}
        settings |= {"Entrypoint": [ENTRYPOINT], "WorkingDir": WORKDIR}
        if both := {**settings.get("Labels", {}), **labels}:
            settings["Labels"] = both
        return settings

    def wanted(self, platform: str, labels: Mapping[str, str]) -> ImageSpec:
        """An image upon this base, with the user's labels and else as a push has it by default."""
        return ImageSpec(
            base=self.image.digest,
            below=self.layers,
            extractor=self.extractor,
            platform=platform,
            labels=labels,
            settings=self.settings_with,
            single_layer=bool(self.extractor_inside),
        )

    def entries(self) -> bytes:
        """What the first layer with sources has to hold besides: entries of a tar archive."""
        if not self.extractor_inside:
            return b""
        with gzip.open(self.extractor_inside) as layer:
            return layer.read().removesuffix(tar.END)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All that lies below the first layer with sources."""
        return (*self.image.layers, *((self.extractor_layer,) if self.extractor_layer else ()))


def shipped_base(platform: str) -> Base:
    """The base for a platform out of PLATFORMS. Raises KontextError where it was never built."""
    return _load_base("extractor", platform)


def single_layer_base(platform: str) -> Base:
    """An empty one: the extractor goes into the one layer. Raises KontextError as `shipped`."""
    own, empty = shipped_base(platform), _load_base("empty", platform)
    (layer,) = own.image.layers
    return replace(
        empty, extractor=own.extractor, extractor_inside=blob_path(own.layout, layer.digest)
    )


def _load_base(kind: str, platform: str) -> Base:
    layout = os.path.join(_DIRECTORY, kind, platform.replace("/", "-"))
    try:
        index, document, config = documents(layout)
    except OSError as error:
        raise KontextError(
            f"the base image for {platform} is not in this installation: {error}",
            hint="Build it with scripts/build-base, or install a released Kontext.",
        ) from error
    image = image_from_document(Digest(index["manifests"][0]["digest"]), document)
    return Base(image, settings_of(config), image.digest, layout=layout)


def base_on(image: Image, settings: Mapping[str, Any], source: str, platform: str) -> Base:
    """The user's own base: the shipped one's layer with the extractor is put upon it."""
    own = shipped_base(platform)
    (layer,) = own.image.layers
    return Base(
        image,
        settings,
        own.extractor,
        source=source,
        extractor_layer=layer,
        extractor_paths=(blob_path(own.layout, layer.digest),),
    )


def custom_base(crane: Crane, name: str, platform: str, max_layers: int) -> Base:
    """The image `name` as a base for `platform`. Raises KontextError."""
    source = f"{repository_of(name)}@{crane.digest(name, platform)}"
    try:
        found = parse_image_manifest(crane.manifest(source))
        config = load_document(crane.config(source), IMAGE_CONFIG)
    except InvalidDocument as error:
        raise KontextError(f"{name} cannot be a base: {error}") from error
    settings = settings_of(config)
    if settings["platform"] == "/":
        raise KontextError(
            f"{name} cannot be a base: it does not say its platform",
            hint=f"'crane mutate --set-platform {platform} {name}' lets it say so.",
        )
    if settings["platform"] != platform:
        raise KontextError(
            f"{name} is for {settings['platform']}, not {platform}",
            hint="Name the base's own platform with --platform, or another base.",
        )
    # An image that was built from one of Kontext's has lost the annotation.
    if found.manifest or settings.get("Entrypoint") == [ENTRYPOINT]:
        raise KontextError(
            f"{name} cannot be a base: it has sources of its own, which would show beside yours",
            hint="Name the image that it was built on.",
        )
    if len(found.layers) + 2 > max_layers:
        raise KontextError(
            f"{name} has {len(found.layers)} layers; with the extractor and the sources that is "
            f"more than {max_layers}",
            hint=f"Choose a base of at most {max_layers - 2} layers, or another --max-layers.",
        )
    return base_on(found, settings, source, platform)
