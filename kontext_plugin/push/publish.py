"""Tells of another push to the same tag, which nothing can keep from overtaking this one.

Carries a plan out: writes the layers, has them appended, and so moves the tag.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kontext_plugin import manifest
from kontext_plugin.cache.store import Cache
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.crane_driver.watchdog import Transfer
from kontext_plugin.delta import LayerContent, write_layer
from kontext_plugin.errors import KontextError
from kontext_plugin.image import layout
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import MANIFEST_ANNOTATION, Digest, Image, digest_of
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.tree import Tree, parents
from kontext_plugin.manifest import MANIFEST_PATH, Manifest
from kontext_plugin.push.parent import BuildOn
from kontext_plugin.push.plan import Plan
from kontext_plugin.registry.base_image import ENTRYPOINT, WORKDIR, Base
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.secret_scan.scanner import Finding, Scanner
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.steps import Progress, Steps

_COURTESY = 5.0
"""Seconds for a question after the push is done."""


def check_lost_update(
    registry: Crane, tag: Reference, image: Digest, before: Digest | None, report: Report
) -> None:
    """No registry writes a tag under a condition, so of pushes at one time the last one wins.

    `before` is what the tag showed: a registry may answer for a while as it did then.
    """
    try:
        now = replace(registry, timeout=_COURTESY).digest(str(tag))
    except RegistryError:
        return
    if now not in (image, before):
        report.important(
            f"another push has replaced this image: {tag} shows {now} now; "
            f"yours stays at {tag.at(image)}"
        )


WHEN_INTERRUPTED = "the tag shows what it showed before, or the whole new image"


@dataclass(frozen=True)
class StagedLayers:
    """The new layers of an image, and the manifest that the last of them holds."""

    lower: tuple[StagedLayer, ...]
    top: StagedLayer
    manifest: Manifest
    content: bytes  # of manifest.json
    findings: tuple[Finding, ...]  # what may be a secret in them

    @property
    def sizes(self) -> tuple[int, ...]:
        """In bytes, compressed."""
        return tuple(ready.layer.size for ready in (*self.lower, self.top))


@dataclass(frozen=True)
class PushSession:
    """What a push works with, beside its plan."""

    registry: Crane
    cache: Cache
    workers: Workers
    steps: Steps
    tag: Reference  # the one that is built upon
    root: str  # the source directory
    below: Base  # what a fresh start is put upon
    watched: bool = True  # whether to look for secrets in what is written


@dataclass(frozen=True)
class _Task:
    path: str
    root: str
    tree: Tree
    content: LayerContent
    watched: bool


def upload(
    job: PushSession, plan: Plan, approve: Callable[[Sequence[Finding]], None]
) -> tuple[Image, int]:
    """The image that the tag shows now, and how many bytes of layers went up.

    `approve` may raise KontextError for what was found in the layers: then nothing goes up.

    Raises NotFound where the registry lacks what is to be built on, and KontextError. The tag is
    written by the last request.
    """
    registry, tag, below = job.registry, job.tag, job.below
    uploaded: frozenset[Digest] = frozenset()
    with job.cache.scratch() as folder:
        with job.steps.step("write layers", lambda: _lying_in(folder)):
            new = _stage_layers(job, plan, lambda name: os.path.join(folder, name))
        approve(new.findings)
        lower, top = new.lower, new.top
        paths, appended = [top.path], [top.layer]
        if isinstance(plan.choice, BuildOn):
            source = tag.at(plan.choice.image)
        elif below.layout:
            source, uploaded = _push_base(job, lower, os.path.join(folder, "layout"))
        else:
            source = below.source
            paths = [*below.extractor_paths, *(ready.path for ready in lower), top.path]
            appended = [*below.layers, *(ready.layer for ready in lower), top.layer]
        transfer = Transfer({layer.digest: layer.size for layer in appended})
        with job.steps.step("crane mutate", transfer.amount):
            made = registry.append(
                source,
                paths,
                str(tag),
                labels=plan.lineage.labels,
                annotations={MANIFEST_ANNOTATION: digest_of(new.content)},
                entrypoint=ENTRYPOINT,
                workdir=WORKDIR,
                transfer=transfer,
            )
    uploaded |= made.uploaded
    layers = (*plan.beneath, *(ready.layer for ready in (*lower, top)))
    published = Image(made.digest, layers, digest_of(new.content))
    with job.steps.step("remember"):
        job.cache.save_published(str(tag), published, new.manifest, _known(plan))
    return published, sum(layer.size for layer in layers if layer.digest in uploaded)


def _push_base(
    job: PushSession, lower: Sequence[StagedLayer], folder: str
) -> tuple[str, frozenset[Digest]]:
    """Puts the shipped base, with the lower layers upon it, where no tag shows it.

    Returns its name, and the blobs that the registry did not have.
    """
    below, place, image = job.below, job.below.layout, job.below.image.digest
    if lower:
        place, image = folder, _extended(below.layout, folder, lower)
    blobs = (*below.image.layers, *(ready.layer for ready in lower))
    transfer = Transfer({layer.digest: layer.size for layer in blobs})
    with job.steps.step("crane push", transfer.amount):
        pushed = job.registry.push_layout(place, job.tag.at(image), transfer)
    return job.tag.at(image), pushed.uploaded


def stage_nowhere(job: PushSession, plan: Plan) -> StagedLayers:
    """The layers that `upload` would write; these go nowhere. Raises KontextError."""
    return _stage_layers(job, plan, lambda name: os.devnull)


def _stage_layers(job: PushSession, plan: Plan, place: Callable[[str], str]) -> StagedLayers:
    """Writes the layers that the plan needs to where `place` puts files of these names."""
    tasks = [
        _Task(
            place(f"{number}.tar.gz"),
            job.root,
            plan.tree.only({*paths, *parents(paths)}),
            LayerContent({}, paths),
            job.watched,
        )
        for number, paths in enumerate(plan.lower)
    ]
    # The largest first, so that no process is left alone with it at the end.
    order = sorted(range(len(tasks)), key=lambda number: -tasks[number].tree.size)
    made = job.workers.map(_stage, [tasks[number] for number in order])
    written = dict(zip(order, made, strict=True))
    lower = [written[number] for number in range(len(tasks))]

    layers = (*plan.beneath, *(ready.layer for ready, _ in lower))
    new = plan.manifest(layer.digest for layer in layers)
    content = manifest.encode(new)
    documents = {MANIFEST_PATH: content, **plan.documents}
    top = LayerContent(documents, plan.written, plan.changes.whiteouts, job.below.entries())
    last = _stage(_Task(place("top.tar.gz"), job.root, plan.tree, top, job.watched))
    findings = sorted({finding for _, found in (*lower, last) for finding in found})
    return StagedLayers(tuple(ready for ready, _ in lower), last[0], new, content, tuple(findings))


def _stage(task: _Task) -> tuple[StagedLayer, list[Finding]]:
    written = task.content.written
    watch = Scanner(sum(task.tree.sizes.get(path, 0) for path in written))
    watcher = watch.passing if task.watched else None
    try:
        with open(task.path, "wb") as file:
            made = write_layer(file, task.root, task.tree, task.content, watcher)
    except OSError as error:
        raise _unwritten(task.path, error) from error
    return StagedLayer(task.path, made.layer, made.diff_id), watch.found


def _extended(base_layout: str, folder: str, layers: Sequence[StagedLayer]) -> Digest:
    try:
        return layout.extend(base_layout, folder, layers)
    except OSError as error:
        raise _unwritten(folder, error) from error


def _lying_in(folder: str) -> Progress:
    """What has been written so far, compressed; nothing where it is gone already."""
    try:
        with os.scandir(folder) as entries:
            return Progress(bytes=sum(entry.stat().st_size for entry in entries))
    except OSError:
        return Progress()


def _unwritten(path: str, error: OSError) -> KontextError:
    return KontextError(
        f"the layer cannot be written to {path}: {error.strerror}",
        hint="Free some space there, or name another folder with KONTEXT_CACHE_DIR.",
    )


def _known(plan: Plan) -> set[Digest]:
    """The ancestors of the new image that need not be looked at again."""
    if not isinstance(plan.choice, BuildOn):
        return set()
    seen = {*plan.choice.previous.known, plan.choice.image}
    return seen & {ancestor.image for ancestor in plan.choice.ancestors}
