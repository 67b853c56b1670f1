"""A published image as the cache keeps it: quick to read and to write, however large its tree.

Pure. What comes from here was decoded once with all checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from kontext_plugin import manifest
from kontext_plugin.base_choice import Previous
from kontext_plugin.image import Digest, Image, Layer
from kontext_plugin.manifest import Manifest
from kontext_plugin.tree import Tree

_VERSION = "kontext published 2"


def encode(image: Image, held: Manifest, known: Iterable[Digest]) -> bytes:
    """`known` are the ancestors that this machine has made or looked at."""
    record = {
        "version": _VERSION,
        "digest": image.digest,
        "layers": [[layer.digest, layer.size] for layer in image.layers],
        "manifest": image.manifest,
        "known": sorted(known),
    }
    lines = [json.dumps(record).encode(), manifest.encode(held)]
    return b"\n".join([*lines, *(_encode_listing(held) if held.parts else ())])


def decode(content: bytes, digest: Digest) -> Previous | None:
    """What was kept of the image `digest`, if it was."""
    head, _, rest = content.partition(b"\n")
    try:
        record = json.loads(head)
        if record["version"] != _VERSION or record["digest"] != digest:
            return None
        document, *listing = rest.split(b"\n", 2)
        image = Image(
            digest,
            tuple(Layer(Digest(layer), size) for layer, size in record["layers"]),
            Digest(record["manifest"]),
        )
        held = manifest.restore(
            json.loads(document), *(_decode_listing(*listing) if listing else ())
        )
        return Previous(image, held, known=frozenset(record["known"]))
    except (ValueError, LookupError, TypeError):
        return None


def _encode_listing(held: Manifest) -> tuple[bytes, bytes]:
    """What the parts list, without the sizes, which nobody asks an earlier image for.

    As text: JSON takes three times as long for a hundred thousand strings.
    """
    tree = held.tree
    begun = [part.begin for part in held.parts]
    others = json.dumps([begun, list(tree.executable), dict(tree.links)])
    files = "\0".join([text for item in tree.files.items() for text in item])
    return others.encode(), files.encode()


def _decode_listing(others: bytes, text: bytes) -> tuple[Tree, list[str]]:
    fields = iter(text.decode().split("\0") if text else ())
    files = dict(zip(fields, fields, strict=True))
    begun, executable, links = json.loads(others)
    return Tree(files, {}, frozenset(executable), links), begun
