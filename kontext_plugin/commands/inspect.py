"""`docker kontext inspect`: how an image is made up, from its manifest and the registry's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import INSPECT, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.delta import tree_bytes
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.manifest import VERSION, Lineage
from kontext_plugin.registry.base_image import shipped_base
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import aligned, json_document, line_safe, number, size

BASE, SOURCES, DELTA = "base", "sources", "delta"
"""What a layer is: of the base and extractor, of the first push, of a later one."""


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (image,) = parse(INSPECT, arguments)
    name = parse_image_reference(image)
    report = Report(show_debug=flags.debug)
    link = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with link as (crane, threads):
        found = fetch(crane, threads, name)
    lineage = found.manifest.lineage
    described = describe(name, found, _extractor_layer(lineage) if lineage else None)
    write_stdout([json_document(described)] if parsed.format == "json" else shown(described))
    return 0


def describe(name: Reference, found: KontextImage, extractor: Digest | None) -> dict[str, Any]:
    """All that is known of an image, as JSON has it. Sizes are in bytes; None stands for what
    version 1 of the manifest does not say. `extractor` is as in `roles`."""
    image, tree, lineage = found.image, found.manifest.tree, found.manifest.lineage
    layers = [layer.digest for layer in image.layers]
    directories = len(tree.directories())
    return {
        "reference": str(name),
        "digest": image.digest,
        "version": VERSION if lineage else 1,
        "manifest": image.manifest,
        "intact": list(lineage.layers) == layers[:-1] if lineage else None,
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
            {"digest": layer.digest, "size": layer.size, "role": role}
            for layer, role in zip(image.layers, roles(layers, lineage, extractor), strict=True)
        ],
        "ancestors": [
            {"digest": one.image, "generation": one.generation, "layers": one.layers}
            for one in (lineage.ancestors if lineage else ())
        ],
    }


def roles(
    layers: Sequence[Digest], lineage: Lineage | None, extractor: Digest | None
) -> list[str | None]:
    """What each layer is; None where the manifest does not tell.

    Upon a base of the user's, the layer `extractor` is the last below the sources.
    """
    if lineage is None or list(lineage.layers) != layers[:-1]:
        return [None for _ in layers]
    if not lineage.layers:
        return [SOURCES]
    below = 1  # the shipped base has one layer
    if lineage.base != lineage.extractor:
        below = layers.index(extractor) + 1 if extractor in layers else 0
    # The oldest image that is known. If it is not the first, some layers below are deltas, too.
    if lineage.ancestors:
        generation, height = lineage.ancestors[0].generation, lineage.ancestors[0].layers
    else:
        generation, height = lineage.generation, len(layers)

    def role(place: int) -> str | None:
        if place < below:
            return BASE
        if place >= height - 1:
            return SOURCES if place == height - 1 and not generation else DELTA
        if below and (place == below or not generation):
            return SOURCES
        return None

    return [role(place) for place in range(len(layers))]


def _extractor_layer(lineage: Lineage) -> Digest | None:
    """The layer that holds the image's extractor, if this installation has the same one."""
    if lineage.platform not in PLATFORMS:
        return None
    try:
        shipped = shipped_base(lineage.platform).image
    except KontextError:
        return None
    return shipped.layers[0].digest if shipped.digest == lineage.extractor else None


def shown(described: Mapping[str, Any]) -> Iterator[str]:
    """A description for people, as docker's own inspections are that are no JSON."""
    yield from aligned([(f"{label}:", text) for label, text in _facts(described)])
    yield ""
    layers = [(one["digest"], size(one["size"]), one["role"] or "-") for one in described["layers"]]
    yield from aligned([("LAYER", "SIZE", "ROLE"), *layers])
    if ancestors := described["ancestors"]:
        yield ""
        rows = [(one["digest"], str(one["generation"]), str(one["layers"])) for one in ancestors]
        yield from aligned([("ANCESTOR", "GENERATION", "LAYERS"), *rows])


def _facts(described: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Name", described["reference"]
    yield "Digest", described["digest"]
    if described["intact"] is False:
        yield "WARNING", "another tool has changed the layers; what follows may not be true"
    if described["version"] == 1:
        yield "Manifest", "version 1, of the 2018 prototype"
    else:
        shipped = described["base"] == described["extractor"]
        yield "Manifest", f"version {described['version']}"
        yield "Generation", str(described["generation"])
        yield "Platform", described["platform"]
        yield "Base", "the extractor alone" if shipped else described["base"]
        yield "Extractor", described["extractor"]
    for key, value in described["labels"].items():
        yield "Label", line_safe(f"{key}={value}")
    yield "Sources", _counts(described)
    if described["content"] is not None:
        shadowed, content = size(described["shadowed"]), size(described["content"])
        yield "Out of date", f"{shadowed} of the {content} in layers of sources, uncompressed"
    yield "Size", f"{size(described['size'])} in {number(len(described['layers']), 'layer')}"


def _counts(described: Mapping[str, Any]) -> str:
    directories = described["directories"]
    counts = [number(described["files"], "file")]
    if described["links"]:
        counts.append(number(described["links"], "link"))
    if directories:
        counts.append(f"{directories:,} {'directory' if directories == 1 else 'directories'}")
    if described["bytes"] is not None:
        counts.append(size(described["bytes"]))
    return ", ".join(counts)
