"""`docker kontext inspect`: show the structure of an image, from its two manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import INSPECT, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.delta import tree_bytes
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.manifest import VERSION, Lineage
from kontext_plugin.registry.base_image import shipped_base
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import aligned, json_document, line_safe, number, size


class Role(Enum):
    """What a layer holds. The values are public (docs/commands.md)."""

    BASE = "base"  # the base and the extractor
    SOURCES = "sources"  # files of the fresh start
    DELTA = "delta"  # what a later push changed


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text,) = parse(INSPECT, arguments)
    name = parse_image_reference(text)
    report = Report(show_debug=flags.debug)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        image = fetch(crane, requests, name)
    document = describe(name, image, _extractor_layer(image.manifest.lineage))
    write_stdout([json_document(document)] if parsed.format == "json" else lines(document))
    return 0


def _extractor_layer(lineage: Lineage | None) -> Digest | None:
    """Return the layer with the image's extractor, if this installation has the same extractor."""
    if lineage is None or lineage.platform not in PLATFORMS:
        return None
    try:
        shipped = shipped_base(lineage.platform).image
    except KontextError:
        return None
    return shipped.layers[0].digest if shipped.digest == lineage.extractor else None


def describe(
    name: Reference, kontext_image: KontextImage, extractor_layer: Digest | None
) -> dict[str, Any]:
    """Return the document of --format json (docs/commands.md), which has everything that is known.

    None stands for what version 1 of the manifest does not say. `extractor_layer` is as in `roles`.
    """
    image, manifest = kontext_image.image, kontext_image.manifest
    tree, lineage = manifest.tree, manifest.lineage
    layers = [layer.digest for layer in image.layers]
    directories = len(tree.directories())
    return {
        "reference": str(name),
        "digest": image.digest,
        "version": VERSION if lineage else 1,
        "manifest": image.manifest,
        "intact": _is_intact(layers, lineage) if lineage else None,
        "generation": lineage.generation if lineage else None,
        "platform": lineage.platform if lineage else None,
        "base": lineage.base if lineage else None,
        "extractor": lineage.extractor if lineage else None,
        "labels": dict(sorted(lineage.labels.items())) if lineage else {},
        "files": len(tree.files) - directories,
        "links": len(tree.links),
        "directories": directories,
        "bytes": tree.size if lineage else None,
        "content": lineage.content if lineage else None,
        "shadowed": max(0, lineage.content - tree_bytes(tree)) if lineage else None,
        "size": image.size,
        "layers": [
            {"digest": layer.digest, "size": layer.size, "role": role.value if role else None}
            for layer, role in zip(
                image.layers, roles(layers, lineage, extractor_layer), strict=True
            )
        ],
        "ancestors": [
            {"digest": one.image, "generation": one.generation, "layers": one.layers}
            for one in (lineage.ancestors if lineage else ())
        ],
    }


def roles(
    layers: Sequence[Digest], lineage: Lineage | None, extractor_layer: Digest | None
) -> list[Role | None]:
    """Return the role of each layer, lowest first; None where the manifest does not tell.

    On a base of the user's, the layers up to `extractor_layer` are the base.
    """
    if lineage is None or not _is_intact(layers, lineage):
        return [None for _ in layers]
    if not lineage.layers:
        return [Role.SOURCES]
    base_height = 1  # of the shipped base
    if lineage.base != lineage.extractor:
        base_height = layers.index(extractor_layer) + 1 if extractor_layer in layers else 0
    # The oldest image that is known. Unless it is the first one, some layers below are deltas.
    if lineage.ancestors:
        generation, height = lineage.ancestors[0].generation, lineage.ancestors[0].layers
    else:
        generation, height = lineage.generation, len(layers)

    def role(place: int) -> Role | None:
        if place < base_height:
            return Role.BASE
        if place >= height - 1:
            return Role.SOURCES if place == height - 1 and not generation else Role.DELTA
        if base_height and (place == base_height or not generation):
            return Role.SOURCES
        return None

    return [role(place) for place in range(len(layers))]


def _is_intact(layers: Sequence[Digest], lineage: Lineage) -> bool:
    """Return whether the layers are those that the manifest, in the top layer, names."""
    return list(lineage.layers) == layers[:-1]


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a description's lines, in the form of `docker buildx inspect`."""
    yield from aligned([(f"{label}:", text) for label, text in _facts(document)])
    yield ""
    layers = [(one["digest"], size(one["size"]), one["role"] or "-") for one in document["layers"]]
    yield from aligned([("LAYER", "SIZE", "ROLE"), *layers])
    if ancestors := document["ancestors"]:
        yield ""
        rows = [(one["digest"], str(one["generation"]), str(one["layers"])) for one in ancestors]
        yield from aligned([("ANCESTOR", "GENERATION", "LAYERS"), *rows])


def _facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Name", document["reference"]
    yield "Digest", document["digest"]
    if document["intact"] is False:
        yield "WARNING", "another tool changed the layers; the facts below may be wrong"
    if document["version"] == 1:
        yield "Manifest", "version 1, of the 2018 prototype"
    else:
        is_shipped = document["base"] == document["extractor"]
        yield "Manifest", f"version {document['version']}"
        yield "Generation", str(document["generation"])
        yield "Platform", document["platform"]
        yield "Base", "the extractor alone" if is_shipped else document["base"]
        yield "Extractor", document["extractor"]
    for key, value in document["labels"].items():
        yield "Label", line_safe(f"{key}={value}")
    yield "Sources", _counts(document)
    if document["content"] is not None:
        obsolete, content = size(document["shadowed"]), size(document["content"])
        yield "Obsolete", f"{obsolete} of the {content} in layers of sources, uncompressed"
    yield "Size", f"{size(document['size'])} in {number(len(document['layers']), 'layer')}"


def _counts(document: Mapping[str, Any]) -> str:
    directories = document["directories"]
    counts = [number(document["files"], "file")]
    if document["links"]:
        counts.append(number(document["links"], "link"))
    if directories:
        counts.append(f"{directories:,} {'directory' if directories == 1 else 'directories'}")
    if document["bytes"] is not None:
        counts.append(size(document["bytes"]))
    return ", ".join(counts)
