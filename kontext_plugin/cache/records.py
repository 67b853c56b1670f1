"""A published image as the cache keeps it: quick to read and to write, however large its tree.

Pure. What comes from here was decoded once with all checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice, pairwise
from typing import Any

from kontext_plugin import manifest
from kontext_plugin.image.oci import Digest, Image, Layer
from kontext_plugin.image.tree import Tree
from kontext_plugin.manifest import Manifest
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source.hashing import Stats

_STATS_VERSION = "kontext stats 2"


def encode_stats(stats: Stats) -> tuple[dict[str, Any], Iterable[bytes]]:
    """An index of the records, and these, as the cache keeps them."""
    index = {
        "version": _STATS_VERSION,
        "folders": [*stats],
        "lengths": [*map(len, stats.values())],
    }
    return index, stats.values()


def decode_stats(index: Mapping[str, Any], content: memoryview) -> Stats:
    """What `encode` has made; nothing at all if it is damaged or there is none."""
    try:
        if index["version"] != _STATS_VERSION:
            return {}
        ends = [0, *accumulate(index["lengths"])]
        records = [bytes(content[start:end]) for start, end in pairwise(ends)]
        return dict(zip(index["folders"], records, strict=True))
    except (ValueError, LookupError, TypeError):
        return {}


_IMAGE_VERSION = "kontext published 2"

_AT_ONCE = 4096


def encode_image(
    image: Image, held: Manifest, known: Iterable[Digest]
) -> tuple[dict[str, Any], Iterator[bytes]]:
    """A record, and what the manifest's parts list, if there are any.

    `known` are the ancestors that this machine has made or looked at. The sizes in parts are left
    out, since nobody asks an earlier image for them.
    """
    record: dict[str, Any] = {
        "version": _IMAGE_VERSION,
        "digest": image.digest,
        "layers": [[layer.digest, layer.size] for layer in image.layers],
        "known": sorted(known),
        "manifest": image.manifest,
        "document": json.loads(manifest.encode(held)),
        "undos": {
            ancestor.stored.digest: manifest.reverse_columns(ancestor.undo)
            for ancestor in (held.lineage.ancestors if held.lineage else ())
            if ancestor.stored
        },
    }
    if not held.parts:
        return record, iter(())
    record["begun"] = [part.begin for part in held.parts]
    record["executable"], record["links"] = list(held.tree.executable), dict(held.tree.links)
    return record, _packed(held.tree.files)


def _packed(files: Mapping[str, str]) -> Iterator[bytes]:
    """The map as text, since JSON takes three times as long, a few thousand files at a time."""
    items = iter(files.items())
    while some := list(islice(items, _AT_ONCE)):
        yield "".join([f"{path}\0{digest}\0" for path, digest in some]).encode()


def decode_image(
    record: Mapping[str, Any], listing: memoryview, digest: Digest
) -> KontextImage | None:
    """What was kept of the image `digest`, if it was."""
    try:
        if record["version"] != _IMAGE_VERSION or record["digest"] != digest:
            return None
        image = Image(
            digest,
            tuple(Layer(Digest(layer), size) for layer, size in record["layers"]),
            Digest(record["manifest"]),
        )
        if "begun" in record:
            texts = iter(str(listing, "utf-8").split("\0"))
            tree = Tree(
                files=dict(zip(texts, texts, strict=False)),  # the last text is empty
                executable=frozenset(record["executable"]),
                links=record["links"],
            )
            held = manifest.restore(record["document"], record["undos"], tree, record["begun"])
        else:
            held = manifest.restore(record["document"], record["undos"])
        return KontextImage(image, held, known=frozenset(record["known"]))
    except (ValueError, LookupError, TypeError):
        return None
