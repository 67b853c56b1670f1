"""Carries a plan out: writes the layer, has it appended, and so moves the tag."""

from __future__ import annotations

import os

from kontext_plugin import base
from kontext_plugin.base import Base
from kontext_plugin.base_choice import Reuse
from kontext_plugin.cache import Cache
from kontext_plugin.crane import Crane
from kontext_plugin.delta import write_layer
from kontext_plugin.errors import KontextError
from kontext_plugin.image import MANIFEST_ANNOTATION, Digest, Image, Layer, digest_of
from kontext_plugin.plan import Plan
from kontext_plugin.reference import Reference


def upload(
    registry: Crane, cache: Cache, plan: Plan, below: Base, tag: Reference, root: str
) -> tuple[Image, int]:
    """The image that the tag shows now, and how many bytes of layers went up.

    Raises NotFound where the registry lacks what is to be built on, and KontextError. The tag is
    written by the last request.
    """
    content = plan.manifest
    uploaded: set[Digest] = set()
    beneath: tuple[str, ...] = ()
    if isinstance(plan.choice, Reuse):
        source, layers = tag.at(plan.choice.image), plan.choice.layers
    else:
        source, layers, beneath = below.source, below.layers, below.extractor_paths
        if below.layout:
            source = tag.at(below.image.digest)
            uploaded |= registry.push_layout(below.layout, source).uploaded
    with cache.scratch() as folder:
        path = os.path.join(folder, "layer.tar.gz")
        layer = _write(path, root, content, plan, below.entries())
        made = registry.append(
            source,
            [*beneath, path],
            str(tag),
            labels=plan.lineage.labels,
            annotations={MANIFEST_ANNOTATION: digest_of(content)},
            entrypoint=base.ENTRYPOINT,
            workdir=base.WORKDIR,
        )
    uploaded |= made.uploaded
    image = Image(made.digest, (*layers, layer), digest_of(content))
    cache.save_published(str(tag), image, content, _known(plan))
    return image, sum(layer.size for layer in image.layers if layer.digest in uploaded)


def _known(plan: Plan) -> set[Digest]:
    """The ancestors of the new image that need not be looked at again."""
    if not isinstance(plan.choice, Reuse):
        return set()
    seen = {*plan.choice.previous.known, plan.choice.image}
    return seen & {ancestor.image for ancestor in plan.choice.ancestors}


def _write(path: str, root: str, content: bytes, plan: Plan, besides: bytes) -> Layer:
    try:
        with open(path, "xb") as file:
            return write_layer(file, root, content, plan.tree, plan.changes, besides)
    except OSError as error:
        raise KontextError(
            f"the layer cannot be written to {path}: {error.strerror}",
            hint="Free some space there, or name another folder with KONTEXT_CACHE_DIR.",
        ) from error
