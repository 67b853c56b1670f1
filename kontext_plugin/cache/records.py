"""How the cache encodes its records: the stat cache, and a published image.

Both are fast for large trees. Pure. An image was checked before it was encoded, so decoding does
not repeat the slow checks; what does not fit the format counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice, pairwise
from typing import Any

from kontext_plugin import manifest
from kontext_plugin.image.oci import Digest, Image, Layer, config_from_document
from kontext_plugin.image.tree import Tree
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source.hashing import Stats

_STATS_VERSION = "kontext stats 2"


def encode_stats(stats: Stats) -> tuple[dict[str, Any], Iterable[bytes]]:
    """Return an index of the stat cache, and its records, one for each directory."""
    index = {
        "version": _STATS_VERSION,
        "folders": [*stats],
        "lengths": [*map(len, stats.values())],
    }
    return index, stats.values()


def decode_stats(index: Mapping[str, Any], content: memoryview) -> Stats:
    """Return the stat cache; empty if the record is absent, damaged, or of another version."""
    try:
        if index["version"] != _STATS_VERSION:
            return {}
        ends = [0, *accumulate(index["lengths"])]
        records = [bytes(content[start:end]) for start, end in pairwise(ends)]
        return dict(zip(index["folders"], records, strict=True))
    except (ValueError, LookupError, TypeError):
        return {}


_IMAGE_VERSION = "kontext published 3"

_AT_ONCE = 4096


def encode_image(held: KontextImage) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return the record of an image, and the listing of its files if the manifest has parts.

    The image has a configuration and its history. The sizes in parts are left out: nothing asks an
    earlier image for them.
    """
    image, listed = held.image, held.manifest
    assert held.config is not None
    record: dict[str, Any] = {
        "version": _IMAGE_VERSION,
        "digest": image.digest,
        "layers": [[layer.digest, layer.size, layer.media_type] for layer in image.layers],
        "known": sorted(held.known),
        "manifest": image.manifest,
        "config": held.config.document(),
        "document": json.loads(manifest.encode(listed)),
        "reverse": {
            ancestor.part.digest: manifest.reverse_columns(ancestor.reverse_delta)
            for ancestor in (listed.lineage.ancestors if listed.lineage else ())
            if ancestor.part and ancestor.reverse_delta is not None
        },
    }
    if not listed.parts:
        return record, iter(())
    record["starts"] = [part.start for part in listed.parts]
    record["executable"], record["links"] = list(listed.tree.executable), dict(listed.tree.links)
    return record, _packed(listed.tree.files)


def _packed(files: Mapping[str, str]) -> Iterator[bytes]:
    """Yield paths and digests as text, a few thousand at a time. JSON takes three times as long."""
    items = iter(files.items())
    while some := list(islice(items, _AT_ONCE)):
        yield "".join([f"{path}\0{digest}\0" for path, digest in some]).encode()


def decode_image(
    record: Mapping[str, Any], listing: memoryview, digest: Digest
) -> KontextImage | None:
    """Return the image `digest`; None if the record is absent, damaged, or of another image."""
    try:
        if record["version"] != _IMAGE_VERSION or record["digest"] != digest:
            return None
        image = Image(
            digest,
            tuple(Layer(Digest(layer), size, kind) for layer, size, kind in record["layers"]),
            Digest(record["manifest"]),
        )
        tree, starts = None, record.get("starts", ())
        if starts:
            texts = iter(str(listing, "utf-8").split("\0"))
            tree = Tree(
                files=dict(zip(texts, texts, strict=False)),  # the last text is empty
                executable=frozenset(record["executable"]),
                links=record["links"],
            )
        held = manifest.restore(record["document"], record["reverse"], tree, starts)
        config, known = config_from_document(record["config"]), frozenset(record["known"])
        return KontextImage(image, held, config, known, is_cached=True)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
