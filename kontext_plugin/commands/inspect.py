"""`docker kontext inspect`: show the structure of an image, from its two manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import INSPECT, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.delta import tree_bytes
from kontext_plugin.image.oci import ImageConfig
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.push.history import records_of, resolve
from kontext_plugin.registry.fetch import KontextImage, fetch, fetch_config
from kontext_plugin.terminal.messages import Report, stdout_room, write_stdout
from kontext_plugin.terminal.table import UNLIMITED, Column, Room, indented, short, table
from kontext_plugin.terminal.text import json_document, line_safe, number, size

_LAYER_COLUMNS = (Column("LAYER"), Column("SIZE"), Column("ROLE"))

_ANCESTOR_COLUMNS = (Column("ANCESTOR"), Column("GENERATION"), Column("LAYERS"))


class Role(Enum):
    """What a layer holds. The values are public (docs/commands.md)."""

    BASE = "base"  # the user's base; in images of an earlier Kontext, also the extractor
    SOURCES = "sources"  # files of the fresh start
    DELTA = "delta"  # what a later push changed
    EXTRACTOR = "extractor"


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text,) = parse(INSPECT, arguments)
    name = parse_image_reference(text)
    report = Report(show_debug=flags.debug)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        name = resolve(crane, requests, name)
        image = fetch(crane, requests, name)
        config = fetch_config(crane, name, image.image)
    reasons = (one.parent for one in records_of(name) if one.digest == image.digest)
    document = describe(name, image, config, next(filter(None, reasons), ""))
    if parsed.format == "json":
        write_stdout([json_document(document)])
    else:
        write_stdout(lines(document, stdout_room()))
    return 0


def describe(
    name: Reference, kontext_image: KontextImage, config: ImageConfig, found_at: str = ""
) -> dict[str, Any]:
    """Return the document of --format json (docs/commands.md), which has everything that is known.

    None stands for what version 1 of the manifest does not say. `found_at` is where this machine
    found the parent, and why, if it has pushed the image.
    """
    image, manifest = kontext_image.image, kontext_image.manifest
    tree, lineage = manifest.tree, manifest.lineage
    directories = len(tree.directories())
    return {
        "reference": str(name),
        "digest": kontext_image.digest,
        "version": manifest.version,
        "manifest": image.manifest,
        "intact": kontext_image.is_intact if lineage else None,
        "generation": lineage.generation if lineage else None,
        "platforms": list(kontext_image.platforms or (config.platform,)),
        "base": image.base,
        "base_name": image.base_name or None,
        "extractor": image.extractor,
        "created": config.created or None,
        "labels": dict(sorted(config.labels.items())),
        "files": len(tree.files) - directories,
        "links": len(tree.links),
        "directories": directories,
        "bytes": tree.size if lineage else None,
        "content": lineage.content if lineage else None,
        "shadowed": max(0, lineage.content - tree_bytes(tree)) if lineage else None,
        "size": image.size,
        "layers": [
            {"digest": layer.digest, "size": layer.size, "role": role.value if role else None}
            for layer, role in zip(image.layers, roles(kontext_image), strict=True)
        ],
        "parent": lineage.ancestors[-1].image if lineage and lineage.ancestors else None,
        "parent_found_at": found_at or None,
        "ancestors": [
            {
                "digest": one.image,
                "generation": one.generation,
                "layers": one.layers,
                "created": one.created or None,
                "revision": one.revision or None,
            }
            for one in (lineage.ancestors if lineage else ())
        ],
    }


def roles(kontext_image: KontextImage) -> list[Role | None]:
    """Return the role of each layer, lowest first; None where the manifest does not tell."""
    image, lineage = kontext_image.image, kontext_image.manifest.lineage
    if lineage is None or not kontext_image.is_intact:
        return [None for _ in image.layers]
    height, count = kontext_image.height, len(kontext_image.sources)
    # The oldest image that is known. Unless it is the first one, some layers below are deltas.
    oldest = lineage.ancestors[0] if lineage.ancestors else None
    generation, lowest = (
        (oldest.generation, oldest.layers) if oldest else (lineage.generation, count)
    )

    def role(place: int) -> Role | None:
        if place >= lowest - 1:
            return Role.SOURCES if place == lowest - 1 and not generation else Role.DELTA
        return Role.SOURCES if place == 0 or not generation else None

    return [
        *(Role.BASE for _ in range(height)),
        *map(role, range(count)),
        *(Role.EXTRACTOR for _ in range(len(image.layers) - height - count)),
    ]


def lines(document: Mapping[str, Any], room: Room = UNLIMITED) -> Iterator[str]:
    """Yield a description's lines, in the form of `docker buildx inspect`."""
    facts = list(_facts(document, room))
    width = max(len(label) for label, _ in facts) + len(":   ")
    for label, text in facts:
        yield from indented(f"{label}:".ljust(width), text, room)
    yield ""
    layers = document["layers"]
    rows = [(short(one["digest"], room), size(one["size"]), one["role"] or "-") for one in layers]
    yield from table(_LAYER_COLUMNS, rows, room)
    if ancestors := document["ancestors"]:
        yield ""
        rows = [
            (short(one["digest"], room), str(one["generation"]), str(one["layers"]))
            for one in ancestors
        ]
        yield from table(_ANCESTOR_COLUMNS, rows, room)


def _facts(document: Mapping[str, Any], room: Room) -> Iterator[tuple[str, str]]:
    yield "Name", document["reference"]
    yield "Digest", short(document["digest"], room)
    if document["intact"] is False:
        yield "WARNING", "another tool changed the layers; the facts below may be wrong"
    if document["version"] == 1:
        yield "Manifest", "version 1, of the 2018 prototype"
    else:
        yield "Manifest", f"version {document['version']}"
        yield "Generation", str(document["generation"])
        yield "Platform", line_safe(", ".join(document["platforms"]))
        if document["parent"]:
            found_at = document["parent_found_at"]
            why = f", found at {line_safe(found_at)}" if found_at else ""
            yield "Parent", f"{short(document['parent'], room)}{why}"
        if document["base"]:
            yield "Base", line_safe(f"{document['base_name']}, {short(document['base'], room)}")
        if document["extractor"]:
            yield "Extractor", short(document["extractor"], room)
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
