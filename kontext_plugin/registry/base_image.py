"""The base image: loaded from this installation, or read from a registry for --base.

The shipped base has no layers: above the sources, an image has the extractor's. scripts/build-base
writes that layer for each platform, as an OCI layout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor

from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.image import layout
from kontext_plugin.image.assembly import ENTRYPOINT
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import Digest, config_from_document, image_from_document
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.reference import repository_of
from kontext_plugin.image.spec import BaseImage
from kontext_plugin.layer import tar
from kontext_plugin.layer.compression import compression_of
from kontext_plugin.registry.fetch import KontextImage, parse_image
from kontext_plugin.runtime.schema import IMAGE_CONFIG, InvalidDocument, load_document

_LAYOUTS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "base")

_MAX_EXTRACTOR = 64 * 1024 * 1024  # bytes: an archive of this many is never shipped


def shipped_base(platform: str) -> BaseImage:
    """Return the base of this installation for a platform out of PLATFORMS.

    Raises KontextError where it was never built.
    """
    directory = os.path.join(_LAYOUTS, platform.replace("/", "-"))
    try:
        index, document, config = layout.read_documents(directory)
    except OSError as error:
        raise KontextError(
            f"the extractor for {platform} is not in this installation: {error}",
            hint="Install Kontext again. In a checkout, run its setup.",
        ) from error
    image = image_from_document(Digest(index["manifests"][0]["digest"]), document)
    (layer,), (diff_id,) = image.layers, config_from_document(config).diff_ids
    system, _, architecture = platform.partition("/")
    return BaseImage(
        platform,
        {"architecture": architecture, "os": system},
        StagedLayer(layout.blob_path(directory, layer.digest), layer, diff_id),
    )


def fetch_bases(
    crane: Crane, requests: Executor, name: str, platforms: Sequence[str], max_layers: int
) -> tuple[BaseImage, ...]:
    """Return the image `name` as a base for each platform. Raises KontextError."""

    def read(platform: str) -> BaseImage:
        return _fetch_base(crane, name, platform, max_layers)

    if len(platforms) == 1:
        return (read(platforms[0]),)
    return tuple(requests.map(read, platforms))


def _fetch_base(crane: Crane, name: str, platform: str, max_layers: int) -> BaseImage:
    shipped = shipped_base(platform)
    source = f"{repository_of(name)}@{crane.digest(name, platform)}"
    try:
        image = parse_image(crane.manifest(source))
        document = load_document(crane.config(source), IMAGE_CONFIG)
    except InvalidDocument as error:
        raise KontextError(f"{name} cannot be a base: {error}") from error
    config = config_from_document(document)
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
    if len(config.diff_ids) != len(image.layers):
        raise KontextError(f"{name} cannot be a base: its configuration does not list its layers")
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
    return BaseImage(platform, document, shipped.extractor, image.layers, source, name)


def extractor_entries(base: BaseImage) -> bytes:
    """Return the extractor as entries of a tar archive, for an image of one layer.

    Raises OSError.
    """
    staged = base.extractor
    with open(staged.path, "rb") as blob:
        archive = compression_of(staged.layer.media_type).decompress(blob).read(_MAX_EXTRACTOR)
    return archive.removesuffix(tar.END)


def has_this_extractor(image: KontextImage, platform: str) -> bool:
    """Whether an image runs the extractor of this installation."""
    if platform not in PLATFORMS:
        return False
    return image.image.extractor == shipped_base(platform).extractor.layer.digest
