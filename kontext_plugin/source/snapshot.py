"""What a scan leaves for the next one: its tree, and a record of each directory.

A record is what the system said of all entries of a directory. A directory whose entries are still
like that is not looked at further: its part of the tree stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kontext_plugin.image.listing import ListedTree
from kontext_plugin.runtime.status import SIGNATURE_BYTES

DIRECTORY = bytes(SIGNATURE_BYTES)
"""The signature of a directory: nothing of its status counts, since it is listed itself."""

UNSETTLED = b"\xff" * SIGNATURE_BYTES
"""The signature of a file that may have changed since, and still look the same."""

Signatures = dict[str, bytes]
"""Of the entries of a directory, by name."""


class Record(NamedTuple):
    """A directory's entries, packed."""

    entries: bytes
    again: bool = False  # each scan has to look at them, whatever has changed


@dataclass(frozen=True)
class Snapshot:
    """What the last scan of a directory found."""

    tree: ListedTree = field(default_factory=ListedTree)
    records: Mapping[str, bytes] = field(default_factory=dict)  # packed, by the directory's path
    filters: str = ""  # Filters.key
    touched: frozenset[str] | None = None  # directories to compare; None: all. See watcher.Touched


def pack_entries(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Pack the names and signatures of a directory's entries: equal bytes for equal entries."""
    ordered = sorted(entries)
    names = "\0".join([name for name, _ in ordered]).encode("utf-8", "surrogateescape")
    return b"".join([names, b"/", *[signature for _, signature in ordered]])


def pack(record: Record) -> bytes:
    """Pack a record."""
    return (b"!" if record.again else b"=") + record.entries


def unpack(packed: bytes | None) -> Record | None:
    """Return what `pack` has packed: None if it is damaged or None."""
    if not packed or packed[:1] not in (b"!", b"="):
        return None
    return Record(packed[1:], packed[:1] == b"!")


def unpack_entries(entries: bytes) -> Signatures:
    """Return what `pack_entries` has packed: no entries if it is damaged."""
    packed, _, signatures = entries.partition(b"/")  # which no name contains
    names = packed.decode("utf-8", "surrogateescape").split("\0") if packed else []
    if len(signatures) != len(names) * SIGNATURE_BYTES:
        return {}
    steps = range(0, len(signatures), SIGNATURE_BYTES)
    return dict(zip(names, [signatures[at : at + SIGNATURE_BYTES] for at in steps], strict=True))


def entries_of(packed: bytes | None) -> Signatures:
    """Return the entries of a packed record: none if it is damaged or None."""
    record = unpack(packed)
    return unpack_entries(record.entries) if record else {}


def forget(snapshot: Snapshot, path: str) -> Snapshot:
    """Return the snapshot without what it knows of one file, so that it is read again."""
    directory, _, name = path.rpartition("/")
    record = unpack(snapshot.records.get(directory))
    if record is None:
        return snapshot
    entries = unpack_entries(record.entries) | {name: UNSETTLED}
    changed = {directory: pack(Record(pack_entries(entries.items()), record.again))}
    return Snapshot(snapshot.tree, Records(snapshot.records, changed), snapshot.filters)


class Records(Mapping[str, bytes]):
    """Records with some of them changed. The others are read when they are needed."""

    _before: Mapping[str, bytes]
    _changed: Mapping[str, bytes]
    _removed: set[str]

    def __init__(
        self,
        before: Mapping[str, bytes],
        changed: Mapping[str, bytes],
        removed: Collection[str] = (),
    ) -> None:
        gone = {*removed}
        if isinstance(before, Records):  # or each scan during a push would add a level
            kept = {path: one for path, one in before._changed.items() if path not in gone}
            gone |= before._removed
            before, changed = before._before, {**kept, **changed}
        self._before = before
        self._changed = changed
        self._removed = gone - changed.keys()
        self._paths = sorted((before.keys() | changed.keys()) - self._removed)

    def __getitem__(self, path: str) -> bytes:
        if path in self._removed:
            raise KeyError(path)
        changed = self._changed.get(path)
        return self._before[path] if changed is None else changed

    def __contains__(self, path: object) -> bool:
        return path not in self._removed and (path in self._changed or path in self._before)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
