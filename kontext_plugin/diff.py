"""What a new layer must hold so that one tree, seen through an overlay, becomes another. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kontext_plugin.manifest import Tree


@dataclass(frozen=True)
class Changes:
    """The way from an old tree to a new one; every column is sorted."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    # The topmost of the removed whose parent is still a directory: a whiteout hides what is below
    # it, and a directory that became a file or a link hides its children by itself. None of them
    # exists in the new tree, so no layer ever holds a name together with its whiteout, which
    # consumers disagree about (OCI image specification, layer.md, "Whiteouts").
    whiteouts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    @property
    def written(self) -> tuple[str, ...]:
        """What the layer carries, parents before their children."""
        return tuple(sorted(self.added + self.changed))


def diff(old: Tree, new: Tree) -> Changes:
    """The changes that turn `old` into `new`."""
    added: list[str] = []
    changed: list[str] = []
    for columns in ((old.files, new.files), (old.links, new.links)):
        before, after = columns
        for path, value in after.items():
            if before.get(path) != value:
                (changed if path in old else added).append(path)
    changed += [path for path in old.executable ^ new.executable if _same_content(path, old, new)]
    removed = sorted(old.paths() - new.paths())
    return Changes(
        added=tuple(sorted(added)),
        changed=tuple(sorted(changed)),
        removed=tuple(removed),
        whiteouts=tuple(path for path in removed if _parent_stays(path, new)),
    )


def replaced_directories(old: Tree, new: Tree, before: frozenset[str]) -> frozenset[str]:
    """The lineage's `replaced_directories` after a delta from `old` to `new`.

    `before` is what it was at `old`. A whiteout ends the danger: it hides the old children for
    good, whatever comes later. So does the replacement of a directory above, which is in the
    result itself.
    """
    replaced = before | {
        path for path in old.directories() if path in new and not new.is_directory(path)
    }
    return frozenset(path for path in replaced if path in new)


def _parent_stays(path: str, new: Tree) -> bool:
    parent = path.rpartition("/")[0]
    return not parent or new.is_directory(parent)


def _same_content(path: str, old: Tree, new: Tree) -> bool:
    return path in old.files and old.files[path] == new.files.get(path)
