"""Check a parent (--check-parent): read its layers, and hold each file to the manifest.

A push does not read the layers that it builds on. Whoever could write to the repository may have
left a file there that is not what the manifest says, and every later image would carry it along.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from kontext_plugin.crane_driver.errors import Damaged, NotFound
from kontext_plugin.delta import Place, differences, earlier_tree
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.tree import DIRECTORY, Tree, hidden_by, parents
from kontext_plugin.layer.compression import Source, compression_of
from kontext_plugin.layer.reader import ExportedEntry, ExportReader, max_layer_bytes
from kontext_plugin.manifest import Ancestor
from kontext_plugin.push.parent import Candidate, StartFresh, candidates_of
from kontext_plugin.push.prepare import Prepared, start_fresh
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.fetch import KontextImage
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
    if choice.found.is_single_layer:  # a push of the same files writes the same layer
        return start_fresh(prepared, StartFresh("the image is of a single layer"))
    key = choice.found.sources_key
    if key in session.cache.layers("written") | session.cache.layers("checked"):
        return prepared
    layers = choice.found.sources
    session.report.info(
        f"Checking {candidate.reference}: {number(len(layers), 'layer')}, "
        f"{size(sum(layer.size for layer in layers))}"
    )
    try:
        with session.report.steps.step(StepName.CHECK_PARENT):
            _check(session, candidate, choice.found, prepared.plan.tree)
    except (_Lie, NotFound, Damaged) as error:
        session.report.important(
            f"{candidate.reference} is not what its manifest says: {line_safe(str(error))}. "
            "Somebody may have changed it; nothing is built on it"
        )
        return start_fresh(prepared, StartFresh("the image to build on is not as it says"))
    session.cache.save_layers("checked", [key])
    return prepared


def _check(session: PushSession, candidate: Candidate, found: KontextImage, tree: Tree) -> None:
    """Raise _Lie unless the layers of the found image make the trees that its manifest names.

    These are its own tree and those of its ancestors: a later push may build on any of them.
    `tree` is that of the new image. Raises RegistryError.
    """
    config = found.config
    assert config is not None  # fetched with history
    expected = {len(choice.layers): choice.parent for choice in candidates_of(found, tree)}
    limit = max_layer_bytes(found.lineage.content)
    unpacked = _Unpacked()
    for count, layer in enumerate(found.sources, 1):
        with session.crane.blob(candidate.reference.at(layer.digest), whole=True) as blob:
            packed = _CountedStream(blob)
            try:
                archive = _HashedSource(compression_of(layer.media_type).decompress(packed))
                reader = ExportReader(archive, limit)
                unpacked.apply(reader)
                reader.finish()
                if packed.count != layer.size:
                    raise ValueError(f"it has {packed.count} bytes, not {layer.size}")
            except ValueError as error:
                raise _Lie(f"{layer.digest}: {error}") from error
        # A consumer would refuse an image with a wrong one, and each later push would take it over.
        if archive.digest() != config.diff_ids[found.height + count - 1]:
            raise _Lie(f"{layer.digest}: the configuration has another diff ID for it")
        if ancestor := expected.get(count):
            unpacked.compare(ancestor, tree)


class _CountedStream:
    """A stream that counts what is read of it."""

    def __init__(self, stream: Source) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self.count += len(content)
        return content


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
        self._inside: dict[str, set[str]] = {}  # the paths in each directory
        self._replaced: set[str] = set()  # as in Lineage.replaced_directories

    def apply(self, layer: ExportReader) -> None:
        """Put a layer on top. Raises ValueError for what no push writes."""
        seen, above = set[str](), set[str]()
        for entry in layer.entries(strict=True):
            hides = hidden_by(entry.path)
            path = hides or entry.path
            directory = path.rpartition("/")[0]
            if path in seen:
                raise ValueError(f"it has {path!r} twice")
            if path in above and (hides or entry.kind != "directory"):
                raise ValueError(f"it has something below {path!r}, and hides it")
            seen.add(path)
            above.update(parents([path]))
            if directory and self._files.get(directory) != DIRECTORY:
                raise ValueError(f"it has {path!r} in something that is not a directory")
            if hides:
                if not (path in self._files or path in self._links):
                    raise ValueError(f"it hides {path!r}, which no layer below has")
                self._remove(path)
            else:
                self._put(entry, layer)

    def compare(self, image: Ancestor, new: Tree) -> None:
        """Raise _Lie unless this is the tree of an image, whose reverse delta leads from `new`."""
        assert image.reverse_delta is not None
        expected = earlier_tree(image.reverse_delta, new)
        actual = Tree(self._files, {}, frozenset(self._executable), self._links)
        if replace(expected, sizes={}) != actual:
            for difference in differences(expected, actual, Place.IMAGE):
                raise _Lie(f"{difference.path!r}: {difference.kind.value}")
        for path in sorted(self._replaced - image.replaced_directories):
            raise _Lie(f"{path!r}: it has replaced a directory")

    def _put(self, entry: ExportedEntry, layer: ExportReader) -> None:
        path = entry.path
        was_directory = self._files.get(path) == DIRECTORY
        if entry.kind == "directory":
            if path in self._replaced:  # `crane export` would show what it had before
                raise ValueError(f"it has {path!r}, which was a directory once, as a directory")
            if not was_directory:
                self._remove(path)
                self._add(path, DIRECTORY)
            return
        has_replaced = was_directory or path in self._replaced
        self._remove(path)
        if entry.kind == "link":
            self._links[path] = entry.target
            self._add(path)
        elif entry.kind == "file":
            self._add(path, HashedPieces(layer.content()).hexdigest())
            if entry.mode & 0o100:
                self._executable.add(path)
        else:
            raise ValueError(f"it has {path!r}, a {entry.kind}")
        if has_replaced:
            self._replaced.add(path)

    def _add(self, path: str, digest: str | None = None) -> None:
        if digest is not None:
            self._files[path] = digest
        self._inside.setdefault(path.rpartition("/")[0], set()).add(path)

    def _remove(self, path: str) -> None:
        """Remove what is at a path, and all below."""
        self._inside.get(path.rpartition("/")[0], set()).discard(path)
        removed = [path]
        while removed:
            one = removed.pop()
            removed += self._inside.pop(one, ())
            self._files.pop(one, None)
            self._links.pop(one, None)
            self._executable.discard(one)
            self._replaced.discard(one)
