"""What is remembered of a directory's files, so that a scan need not read them again. Pure.

It is packed, a record a directory: 100,000 files so take little to load, and nothing to compare.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise, starmap
from typing import Any

from kontext_plugin.sources import SIGNATURE_BYTES

Memory = tuple[bytes, bytes]
"""The signature of a file's status, and its content's SHA-256."""

Memories = dict[str, Memory]
"""Of the files of one directory, by their names."""

Stats = Mapping[str, bytes]
"""Each directory's path to the `record` of its files."""

_VERSION = "kontext stats 2"
_MEMORY = struct.Struct(f"{SIGNATURE_BYTES}s32s")


def record(memories: Memories) -> bytes:
    """Packs what is remembered of the files of one directory."""
    names = "\0".join(memories).encode()
    return b"".join([names, b"/", *starmap(_MEMORY.pack, memories.values())])


def recall(packed: bytes | None) -> Memories:
    """What `record` packed; nothing at all if it is damaged or there is none."""
    if not packed:
        return {}
    names, _, memories = packed.partition(b"/")  # which no name contains
    try:
        return dict(zip(names.decode().split("\0"), _MEMORY.iter_unpack(memories), strict=True))
    except (ValueError, struct.error):
        return {}


def encode(stats: Stats) -> tuple[dict[str, Any], Iterable[bytes]]:
    """An index of the records, and these, as the cache keeps them."""
    index = {
        "version": _VERSION,
        "folders": [*stats],
        "lengths": [*map(len, stats.values())],
    }
    return index, stats.values()


def decode(index: Mapping[str, Any], content: memoryview) -> Stats:
    """What `encode` has made; nothing at all if it is damaged or there is none."""
    try:
        if index["version"] != _VERSION:
            return {}
        ends = [0, *accumulate(index["lengths"])]
        records = [bytes(content[start:end]) for start, end in pairwise(ends)]
        return dict(zip(index["folders"], records, strict=True))
    except (ValueError, LookupError, TypeError):
        return {}
