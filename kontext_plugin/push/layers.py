"""Write the new layers of a plan into local files: many of them in several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kontext_plugin import manifest
from kontext_plugin.delta import LayerContent, write_layer
from kontext_plugin.errors import KontextError
from kontext_plugin.image.assembly import Sources
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import digest_of
from kontext_plugin.image.tree import Tree, parents
from kontext_plugin.layer.compression import compression_named
from kontext_plugin.manifest import MANIFEST_PATH, Manifest
from kontext_plugin.push.partition import Partition, manifest_on
from kontext_plugin.push.plan import Plan
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.base_image import extractor_entries
from kontext_plugin.runtime.workers import Advance
from kontext_plugin.secret_scan.scanner import Finding, Scanner
from kontext_plugin.terminal.steps import Progress, StepName


@dataclass(frozen=True)
class StagedLayers:
    """The new layers of an image in local files, and the manifest that the top one has."""

    lower: tuple[StagedLayer, ...]
    top: StagedLayer
    manifest: Manifest
    root: bytes  # manifest.json
    findings: tuple[Finding, ...]  # possible secrets in the layers

    @property
    def all(self) -> tuple[StagedLayer, ...]:
        """All new layers, lowest first."""
        return (*self.lower, self.top)

    def sources(self, plan: Plan) -> Sources:
        """Return the layers of sources of the new image."""
        return Sources(
            layers=(*plan.parent_layers, *(staged.layer for staged in self.all)),
            diff_ids=(*plan.parent_diff_ids, *(staged.diff_id for staged in self.all)),
            manifest=digest_of(self.root),
        )


@dataclass(frozen=True)
class WriteOptions:
    """How the layers of a plan are written."""

    root: str  # the source directory
    directory: str  # of the layers' files; "": they are written nowhere
    scan_secrets: bool = False
    copies: str = ""  # as in `write_layer`


@dataclass(frozen=True)
class WrittenLayer:
    """A layer that was written."""

    staged: StagedLayer
    findings: tuple[Finding, ...]  # possible secrets in it
    hashed: bytes = b""  # its files, packed, if they were unread


@dataclass(frozen=True)
class _Task:
    """One layer to write, in this process or in a worker."""

    name: str
    tree: Tree
    content: LayerContent
    options: WriteOptions
    compression: str

    def __getstate__(self) -> dict[str, object]:
        """Return what a worker gets: of the tree, only what is written."""
        written = self.content.written
        return {**vars(self), "tree": self.tree.only([*written, *parents(written)])}


def write_lower(
    session: PushSession, plan: Plan, divided: Partition, options: WriteOptions
) -> Iterator[tuple[int, WrittenLayer]]:
    """Write the layers below the top one; yield each with its number, lowest 0, as it is done.

    The tree may be unread. Raises SourceMoved, and KontextError.
    """
    weights = [*map(plan.tree.size_of, divided.lower)]
    # The largest first, so that no process is left alone with it at the end. Only the smallest one
    # comes before: it goes up while the others are written.
    order = sorted(range(len(weights)), key=lambda number: -weights[number])
    order = order[-1:] + order[:-1]
    tasks = (
        _Task(
            f"{number}",
            plan.tree,
            LayerContent({}, divided.lower[number]),
            options,
            plan.compression.name,
        )
        for number in order
    )
    with _counting(session, sum(weights)) as advance:
        yield from zip(order, session.workers.map(write_one, tasks, advance), strict=True)


def write_top(
    session: PushSession,
    plan: Plan,
    divided: Partition,
    lower: Sequence[WrittenLayer],
    options: WriteOptions,
) -> StagedLayers:
    """Write the layer that has the manifest, on top of the others.

    Raises SourceMoved, and KontextError.
    """
    below = (*plan.parent_layers, *(one.staged.layer for one in lower))
    held = manifest_on(plan, divided, (layer.digest for layer in below))
    document = manifest.encode(held)
    content = LayerContent(
        {MANIFEST_PATH: document, **divided.documents},
        divided.top,
        plan.changes.whiteouts,
        extractor_entries(plan.spec.bases[0]) if plan.spec.single_layer else b"",
    )
    task = _Task("top", plan.tree, content, options, plan.compression.name)
    with _counting(session, plan.tree.size_of(divided.top)) as advance:
        top = write_one(task, advance)
    findings = sorted({finding for one in (*lower, top) for finding in one.findings})
    return StagedLayers(
        tuple(one.staged for one in lower), top.staged, held, document, tuple(findings)
    )


def write_layers(
    session: PushSession, plan: Plan, divided: Partition, options: WriteOptions
) -> StagedLayers:
    """Write all new layers of a plan. Raises SourceMoved, and KontextError."""
    lower = dict(write_lower(session, plan, divided, options))
    ordered = [lower[number] for number in sorted(lower)]
    return write_top(session, plan, divided, ordered, options)


@contextmanager
def _counting(session: PushSession, size: int) -> Iterator[Advance]:
    """Yield what counts the bytes of files that are written, `size` in all."""
    if not size:
        yield lambda count: None
        return
    with session.report.steps.step(StepName.WRITE_LAYERS) as step:
        step.progress = Progress(total_bytes=size)
        yield lambda count: step.advance(0, count)


class _Watcher:
    """Counts the content of files, and looks for secrets in it."""

    def __init__(self, scanner: Scanner | None, advance: Advance) -> None:
        self._scanner = scanner
        self._advance = advance

    def begin(self, path: str) -> None:
        if self._scanner:
            self._scanner.begin(path)

    def add(self, piece: bytes) -> None:
        if self._scanner:
            self._scanner.add(piece)
        self._advance(len(piece))

    def end(self) -> None:
        if self._scanner:
            self._scanner.end()


def write_one(task: _Task, advance: Advance) -> WrittenLayer:
    """Write a layer, in a worker. `advance` gets the bytes of files that are read."""
    tree, content, options = task.tree, task.content, task.options
    scanner = Scanner(tree.size_of(content.written)) if options.scan_secrets else None
    path = os.path.join(options.directory, task.name) if options.directory else os.devnull
    hashed = bytearray()
    try:
        with open(path, "wb") as file:
            result = write_layer(
                file,
                options.root,
                tree,
                content,
                _Watcher(scanner, advance),
                compression_named(task.compression),
                options.copies,
                hashed,
            )
    except OSError as error:
        raise write_error(path, error) from error
    staged = StagedLayer(path, result.layer, result.diff_id)
    return WrittenLayer(staged, tuple(scanner.findings) if scanner else (), bytes(hashed))


def write_error(path: str, error: OSError) -> KontextError:
    """Return the error for a layer, or a layout, that has no room."""
    return KontextError(
        f"the layer cannot be written to {path}: {error.strerror}",
        hint="Free some space there, or name another directory with KONTEXT_CACHE_DIR.",
    )
