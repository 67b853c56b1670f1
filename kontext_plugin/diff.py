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
    before, after = old.paths(), new.paths()
    differing = {path for path, _ in new.files.items() - old.files.items()}
    differing |= {path for path, _ in new.links.items() - old.links.items()}
    differing |= old.executable ^ new.executable
    removed = before - after
    return Changes(
        added=tuple(sorted(after - before)),
        changed=tuple(sorted(differing & before & after)),
        removed=tuple(sorted(removed)),
        whiteouts=tuple(sorted(path for path in removed if _parent_stays(path, new))),
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
