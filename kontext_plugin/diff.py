"""What a new layer must hold so that one tree, seen through an overlay, becomes another. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kontext_plugin.tree import Tree, Undo

ENTRY_BYTES = 512
"""What each path takes in an archive, apart from its content (POSIX.1-2017, pax, "ustar")."""


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


def undo(old: Tree, new: Tree) -> Undo:
    """The way back from `new` to `old`."""
    differing = (old.files.items() ^ new.files.items()) | (old.links.items() ^ new.links.items())
    touched = {path for path, _ in differing} | (old.executable ^ new.executable)
    return Undo(
        old.only(touched).without_sizes(), frozenset(path for path in touched if path not in old)
    )


def followed_by(nearer: Undo, farther: Undo, new: Tree) -> Undo:
    """The way back from `new` that leads first to where `nearer` leads, and `farther` on.

    What the whole way leaves as it is in `new` is not in the result.
    """
    first = nearer.former.only(nearer.former.paths() - farther.paths())
    then = farther.former
    former = Tree(
        files={**first.files, **then.files},
        executable=first.executable | then.executable,
        links={**first.links, **then.links},
    )
    changed = {path for path in former.paths() if not _same(path, former, new)}
    absent = (nearer.absent - farther.paths()) | farther.absent
    return Undo(former.only(changed), frozenset(path for path in absent if path in new))


def changes(undone: Undo, new: Tree) -> Changes:
    """What must be done to come to `new` from where `undone` leads back to."""
    former = undone.former.paths()
    removed = sorted(path for path in former if path not in new)
    return Changes(
        added=tuple(sorted(undone.absent)),
        changed=tuple(sorted(path for path in former if path in new)),
        removed=tuple(removed),
        whiteouts=tuple(path for path in removed if _parent_stays(path, new)),
    )


def diff(old: Tree, new: Tree) -> Changes:
    """The changes that turn `old` into `new`."""
    return changes(undo(old, new), new)


def layer_bytes(made: Changes, new: Tree) -> int:
    """What a layer with these changes holds of sources, uncompressed, its manifest left aside."""
    written = made.added + made.changed
    sizes = sum(new.sizes.get(path, 0) for path in written)
    return sizes + ENTRY_BYTES * (len(written) + len(made.whiteouts))


def tree_bytes(tree: Tree) -> int:
    """What a layer with all of the tree holds of sources, as `layer_bytes`."""
    return tree.size + ENTRY_BYTES * (len(tree.files) + len(tree.links))


def replaced_directories(undone: Undo, new: Tree, before: frozenset[str]) -> frozenset[str]:
    """The lineage's `replaced_directories` at `new`, after a delta on where `undone` leads back to.

    `before` is what it was there. A whiteout ends the danger: it hides the old children for
    good, whatever comes later. So does the replacement of a directory above, which is in the
    result itself.
    """
    replaced = before | undone.former.directories()
    return frozenset(path for path in replaced if path in new and not new.is_directory(path))


def _same(path: str, one: Tree, other: Tree) -> bool:
    return (
        one.files.get(path) == other.files.get(path)
        and one.links.get(path) == other.links.get(path)
        and (path in one.executable) == (path in other.executable)
    )


def _parent_stays(path: str, new: Tree) -> bool:
    parent = path.rpartition("/")[0]
    return not parent or new.is_directory(parent)
