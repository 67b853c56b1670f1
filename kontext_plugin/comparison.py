"""Where two trees differ, path by path. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kontext_plugin.tree import Entry, Tree

Place = Literal["the image", "DIR"]

What = Literal["missing", "only", "twice", "other kind", "other content", "other mode"]


@dataclass(frozen=True)
class Difference:
    """What is not as the manifest says."""

    path: str
    place: Place
    what: What


def between(want: Tree, have: Tree, place: Place, *, modes: bool = True) -> Iterator[Difference]:
    """All differences, sorted by path. Whether files are executable counts if `modes` do."""
    for path in sorted(want.paths() | have.paths()):
        if path not in have:
            yield Difference(path, place, "missing")
        elif path not in want:
            yield Difference(path, place, "only")
        elif what := difference(want.entry(path), have.entry(path), modes=modes):
            yield Difference(path, place, what)


def difference(want: Entry, have: Entry, *, modes: bool = True) -> What | None:
    """How one entry differs from another of the same path. Sizes follow from the content."""
    if want.kind != have.kind:
        return "other kind"
    if (want.digest, want.target) != (have.digest, have.target):
        return "other content"
    if modes and want.executable != have.executable:
        return "other mode"
    return None
