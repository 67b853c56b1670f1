"""The base image: loaded from this installation, or read from a registry for --base.

The shipped base holds the extractor alone. scripts/build-base writes it as OCI layouts.
"""

from __future__ import annotations

import os
from dataclasses import replace

from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.image import layout
from kontext_plugin.image.oci import Digest, ImageConfig, config_from_document, image_from_document
from kontext_plugin.image.reference import repository_of
from kontext_plugin.image.spec import BaseImage
from kontext_plugin.layer import tar
from kontext_plugin.layer.compression import compression_of
from kontext_plugin.registry.fetch import fetch_config, parse_image
from kontext_plugin.runtime.schema import InvalidDocument

ENTRYPOINT = "/kontext-extractor"
WORKDIR = "/workspace"

_LAYOUTS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "base")

_MAX_EXTRACTOR = 64 * 1024 * 1024  # bytes: an archive of this many is never shipped


def shipped_base(platform: str) -> BaseImage:
    """Return the base image of this installation for a platform out of PLATFORMS.

    Raises KontextError where it was never built.
    """
    return _load("extractor", platform)


def single_layer_base(platform: str) -> BaseImage:
    """Return a base without layers, for an image of one layer. Raises KontextError."""
    shipped, empty = shipped_base(platform), _load("empty", platform)
    (layer,) = shipped.image.layers
    return replace(
        empty,
        extractor=shipped.extractor,
        extractor_path=layout.blob_path(shipped.layout, layer.digest),
        single_layer=True,
    )


def fetch_base(crane: Crane, name: str, platform: str, max_layers: int) -> BaseImage:
    """Return the image `name` as a base for `platform`. Raises KontextError."""
    source = f"{repository_of(name)}@{crane.digest(name, platform)}"
    try:
        image, config = parse_image(crane.manifest(source)), fetch_config(crane, source)
    except InvalidDocument as error:
        raise KontextError(f"{name} cannot be a base: {error}") from error
    if config.platform == "/":
        raise KontextError(
            f"{name} cannot be a base: it does not name its platform",
            hint=f"Run 'crane mutate --set-platform {platform} {name}' to set it.",
        )
    if config.platform != platform:
        raise KontextError(
            f"{name} is for {config.platform}, not {platform}",
            hint="Name the base's own platform with --platform, or another base.",
        )
    # An image that was built from one of Kontext's has lost the annotation.
    if image.manifest or config.entrypoint == (ENTRYPOINT,):
        raise KontextError(
            f"{name} cannot be a base: it has sources of its own, which would show beside yours",
            hint="Name the image that it was built on.",
        )
    if len(image.layers) + 2 > max_layers:
        raise KontextError(
            f"{name} has {len(image.layers)} layers; with the extractor and the sources that is "
            f"more than {max_layers}",
            hint=f"Choose a base of at most {max_layers - 2} layers, or another --max-layers.",
        )
    shipped = shipped_base(platform)
    (layer,) = shipped.image.layers
    return BaseImage(
        image,
        config,
        shipped.extractor,
        source=source,
        extractor_layer=layer,
        extractor_path=layout.blob_path(shipped.layout, layer.digest),
    )


def config_on(base: BaseImage) -> ImageConfig:
    """Return the configuration of an image on this base: it runs the extractor."""
    other = {key: value for key, value in base.config.other.items() if key != "Cmd"}
    return replace(base.config, entrypoint=(ENTRYPOINT,), working_directory=WORKDIR, other=other)


def extractor_entries(base: BaseImage) -> bytes:
    """Return the extractor as entries of a tar archive, for the one layer that has everything.

    Empty for any other base. Raises OSError.
    """
    if not base.single_layer:
        return b""
    (layer,) = shipped_base(base.config.platform).image.layers
    with open(base.extractor_path, "rb") as blob:
        archive = compression_of(layer.media_type).decompress(blob).read(_MAX_EXTRACTOR)
    return archive.removesuffix(tar.END)


def _load(kind: str, platform: str) -> BaseImage:
    directory = os.path.join(_LAYOUTS, kind, platform.replace("/", "-"))
    try:
        index, document, config = layout.read_documents(directory)
    except OSError as error:
        raise KontextError(
            f"the base image for {platform} is not in this installation: {error}",
            hint="Build it with scripts/build-base, or install a released Kontext.",
        ) from error
    image = image_from_document(Digest(index["manifests"][0]["digest"]), document)
    return BaseImage(image, config_from_document(config), image.digest, layout=directory)
