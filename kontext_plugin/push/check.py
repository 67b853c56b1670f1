"""Check a parent (--check-parent): read its layers, and hold each file to the manifest.

A push does not read the layers that it builds on. Whoever could write to the repository may have
left a file there that is not what the manifest says, and every later image would carry it along.
"""

from __future__ import annotations

import hashlib

from kontext_plugin.crane_driver.errors import Damaged, NotFound
from kontext_plugin.delta import Place, differences, earlier_tree
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.tree import DIRECTORY, WHITEOUT, Tree
from kontext_plugin.layer.compression import Source, compression_of
from kontext_plugin.layer.reader import ExportedEntry, ExportReader, max_unpacked_bytes
from kontext_plugin.push.parent import BuildOn, Candidate, StartFresh
from kontext_plugin.push.prepare import Prepared, start_fresh
from kontext_plugin.push.session import PushSession
from kontext_plugin.runtime.files import HashedPieces
from kontext_plugin.terminal.steps import StepName
from kontext_plugin.terminal.text import line_safe, number, size


class _Lie(Exception):
    """Layers that are not as the manifest says; the text says where."""


def check_parent(session: PushSession, prepared: Prepared) -> Prepared:
    """Return what to push after the parent was checked: as prepared, or fresh if it was a lie.

    Raises KontextError.
    """
    choice, candidate = prepared.plan.parent, prepared.plan.candidate
    if isinstance(choice, StartFresh) or candidate is None:
        return prepared
    top = choice.found.sources[-1].digest
    if top in session.cache.layers("written") | session.cache.layers("checked"):
        return prepared
    layers = choice.found.sources
    session.report.info(
        f"Checking {candidate.reference}: {number(len(layers), 'layer')}, "
        f"{size(sum(layer.size for layer in layers))}"
    )
    try:
        with session.report.steps.step(StepName.CHECK_PARENT):
            _check(session, candidate, choice, prepared.plan.tree)
    except (_Lie, NotFound, Damaged) as error:
        session.report.important(
            f"{candidate.reference} is not what its manifest says: {line_safe(str(error))}. "
            "Somebody may have changed it; nothing is built on it"
        )
        return start_fresh(prepared, StartFresh("the image to build on is not as it says"))
    session.cache.save_layers("checked", [top])
    return prepared


def _check(session: PushSession, candidate: Candidate, choice: BuildOn, tree: Tree) -> None:
    """Raise _Lie unless the layers of the found image make the trees that its manifest names.

    These are its own tree, and the parent's if that is an ancestor. `tree` is that of the new
    image. Raises RegistryError.
    """
    found, reverse = choice.found, choice.parent.reverse_delta
    config = found.config
    assert reverse is not None  # fetched with history
    assert config is not None
    expected = {
        len(choice.layers): earlier_tree(reverse, tree),
        len(found.sources): found.manifest.tree,
    }
    unpacked = _Unpacked()
    for count, layer in enumerate(found.sources, 1):
        with session.crane.blob(candidate.reference.at(layer.digest), whole=True) as blob:
            try:
                archive = _HashedSource(compression_of(layer.media_type).decompress(blob))
                reader = ExportReader(archive, max_unpacked_bytes([layer]))
                unpacked.apply(reader)
                reader.finish()
            except ValueError as error:
                raise _Lie(f"{layer.digest}: {error}") from error
        # A consumer would refuse an image with a wrong one, and each later push would take it over.
        if archive.digest() != config.diff_ids[found.height + count - 1]:
            raise _Lie(f"{layer.digest}: the configuration has another diff ID for it")
        if count in expected:
            unpacked.compare(expected[count])


class _HashedSource:
    """A source that hashes what is read of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        content = self._source.read(size)
        self._hash.update(content)
        return content

    def digest(self) -> Digest:
        return Digest(f"sha256:{self._hash.hexdigest()}")


class _Unpacked:
    """What a stack of layers makes, in every consumer alike; no content is kept."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}  # as in Tree
        self._links: dict[str, str] = {}
        self._executable: set[str] = set()

    def apply(self, layer: ExportReader) -> None:
        """Put a layer on top. Raises ValueError for what no push writes."""
        seen: set[str] = set()
        for entry in layer.entries(strict=True):
            directory, _, name = entry.path.rpartition("/")
            hides = name.startswith(WHITEOUT)
            path = f"{directory}/{name[len(WHITEOUT) :]}".lstrip("/") if hides else entry.path
            if path in seen:
                raise ValueError(f"it has {path!r} twice")
            seen.add(path)
            if directory and self._files.get(directory) != DIRECTORY:
                raise ValueError(f"it has {path!r} in something that is not a directory")
            if hides:
                if not (path in self._files or path in self._links):
                    raise ValueError(f"it hides {path!r}, which no layer below has")
                self._remove(path)
            else:
                self._put(entry, layer)

    def compare(self, expected: Tree) -> None:
        """Raise _Lie at the first difference."""
        actual = Tree(self._files, {}, frozenset(self._executable), self._links)
        for difference in differences(expected, actual, Place.IMAGE):
            raise _Lie(f"{difference.path!r}: {difference.kind.value}")

    def _put(self, entry: ExportedEntry, layer: ExportReader) -> None:
        path = entry.path
        if entry.kind == "directory":
            if self._files.get(path) != DIRECTORY:
                self._remove(path)
                self._files[path] = DIRECTORY
            return
        self._remove(path)
        if entry.kind == "link":
            self._links[path] = entry.target
        elif entry.kind == "file":
            self._files[path] = HashedPieces(layer.content()).hexdigest()
            if entry.mode & 0o100:
                self._executable.add(path)
        else:
            raise ValueError(f"it has {path!r}, a {entry.kind}")

    def _remove(self, path: str) -> None:
        """Remove what is at a path, and all below."""
        if self._files.get(path) == DIRECTORY:
            inside = f"{path}/"
            for other in [one for one in self._files if one.startswith(inside)]:
                self._forget(other)
            for other in [one for one in self._links if one.startswith(inside)]:
                self._forget(other)
        self._forget(path)

    def _forget(self, path: str) -> None:
        self._files.pop(path, None)
        self._links.pop(path, None)
        self._executable.discard(path)
