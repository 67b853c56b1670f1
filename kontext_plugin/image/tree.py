"""A source tree as plain data: what is at each path, and how an earlier tree differed."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Literal

DIRECTORY = ""
"""The value in `Tree.files` for a directory, where a regular file has its SHA-256."""

UNREAD = "unread"
"""The value in `Tree.files` for a regular file whose content is not known yet."""

Kind = Literal["file", "directory", "link"]

SOURCES_PATH = "var/run/kontext"
"""Where an image has its sources, below its root."""

WHITEOUT = ".wh."
"""The prefix of a name that hides a lower layer's entry (OCI image specification, layer.md)."""

OPAQUE = ".wh..wh..opq"
"""A name that hides all that lower layers have in its directory. Kontext writes none."""


@dataclass(frozen=True)
class Entry:
    """One path of a tree."""

    path: str
    kind: Kind
    digest: str = ""  # of a regular file: lower-case hex SHA-256
    size: int = 0  # of a regular file, in bytes
    executable: bool = False
    target: str = ""  # of a symbolic link, as it is stored


@dataclass(frozen=True, eq=False)
class Tree:
    """A directory's content, in columns: sets and maps compare 100,000 paths at C's speed.

    Paths are relative and `/`-separated. Every parent directory is listed. The columns of a large
    tree may be read piece by piece (image.listing).
    """

    files: Mapping[str, str] = field(default_factory=dict)  # hex SHA-256, or DIRECTORY
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the regular files, in bytes
    executable: AbstractSet[str] = frozenset()
    links: Mapping[str, str] = field(default_factory=dict)  # targets of symbolic links

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        return (self.files, self.sizes, self.executable, self.links) == (
            other.files,
            other.sizes,
            other.executable,
            other.links,
        )

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, path: object) -> bool:
        return path in self.files or path in self.links

    def paths(self) -> set[str]:
        """Return the paths of all entries."""
        return self.files.keys() | self.links.keys()

    def is_directory(self, path: str) -> bool:
        """Whether the tree has a directory at this path."""
        return self.files.get(path) == DIRECTORY

    def directories(self) -> set[str]:
        """Return the paths of all directories."""
        return {path for path, digest in self.files.items() if digest == DIRECTORY}

    def entry(self, path: str) -> Entry:
        """Return what is at a path. Raises KeyError where nothing is."""
        if path in self.links:
            return Entry(path, "link", target=self.links[path])
        digest = self.files[path]
        if digest == DIRECTORY:
            return Entry(path, "directory")
        return Entry(path, "file", digest, self.sizes.get(path, 0), path in self.executable)

    @cached_property
    def file_count(self) -> int:
        """The number of regular files and links: what a person calls files."""
        return len(self.files) - len(self.directories()) + len(self.links)

    @cached_property
    def size(self) -> int:
        """Bytes of all regular files."""
        return sum(self.sizes.values())

    def size_of(self, paths: Iterable[str]) -> int:
        """Return the bytes of the regular files among these paths."""
        return sum(map(self.sizes.get, paths, repeat(0)))

    def count_directories(self, paths: Iterable[str]) -> int:
        """Return how many of these paths are directories."""
        return [*map(self.files.get, paths)].count(DIRECTORY)

    def only(self, paths: Iterable[str]) -> Tree:
        """Return the tree's entries at these paths, in their order; parents are not added."""
        chosen = paths if isinstance(paths, Collection) else tuple(paths)
        digest_at, size_at = self.files.get, self.sizes.get
        return Tree(
            files={path: found for path in chosen if (found := digest_at(path)) is not None},
            sizes={path: size for path in chosen if (size := size_at(path)) is not None},
            executable=frozenset(path for path in chosen if path in self.executable),
            links={path: self.links[path] for path in chosen if path in self.links},
        )

    def without_sizes(self) -> Tree:
        """Return the tree as a reverse delta keeps it."""
        return Tree(self.files, {}, self.executable, self.links)


@dataclass(frozen=True)
class ReverseDelta:
    """What leads from a tree back to an earlier one."""

    former: Tree = field(default_factory=Tree)  # the earlier tree's differing entries, no sizes
    absent: frozenset[str] = frozenset()  # paths that the earlier tree lacks

    def __bool__(self) -> bool:
        return bool(self.former.files or self.former.links or self.absent)

    def paths(self) -> set[str]:
        """Return the paths at which the two trees differ."""
        return self.former.paths() | self.absent


def hidden_by(path: str) -> str | None:
    """Return the path that a whiteout hides in the layers below; None for any other entry.

    Raises ValueError for a whiteout of no name.
    """
    directory, _, name = path.rpartition("/")
    if not name.startswith(WHITEOUT):
        return None
    name = name.removeprefix(WHITEOUT)
    if name in ("", ".", ".."):
        raise ValueError(f"it has {path!r}, which hides no name")
    return f"{directory}/{name}" if directory else name


def paths_at(tree: Tree, path: str, *, recursive: bool = False) -> list[str] | None:
    """Return the sorted paths in a directory, or the path of another entry; None if it is absent.

    `path` begins at the top of the sources, in any spelling: `src`, `/src/`, `./src/../src`. With
    `recursive`, those in directories below are listed, too.
    """
    top = normal_path(path)
    if top and not tree.is_directory(top):
        return [top] if top in tree else None
    prefix = f"{top}/" if top else ""
    start = len(prefix)
    return sorted(
        path
        for path in tree.paths()
        if path.startswith(prefix) and (recursive or "/" not in path[start:])
    )


def normal_path(path: str) -> str:
    """Return a path from the top of the sources, in the spelling of a tree; "" is the top."""
    return posixpath.normpath(f"/{path}").lstrip("/")


def is_utf8(name: str) -> bool:
    """Whether a name from the system was UTF-8 (Python puts lone surrogates where it was not)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def parents(paths: Iterable[str]) -> list[str]:
    """Return all directories above the paths, sorted, so parents come first."""
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return sorted(found)
