"""Write the layers of a plan, and publish an image with them under all tags.

Nothing here decides: the plan says what to write, the specification says how the image is to be.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from kontext_plugin import manifest
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.crane_driver.watchdog import UploadProgress
from kontext_plugin.delta import LayerContent, write_layer
from kontext_plugin.errors import KontextError
from kontext_plugin.image import layout
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import MANIFEST_ANNOTATION, Digest, Image, Layer, digest_of
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.image.tree import Tree, parents
from kontext_plugin.manifest import MANIFEST_PATH, Lineage, Manifest
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.partition import Partition, manifest_on
from kontext_plugin.push.plan import Plan
from kontext_plugin.push.prepare import PushSession
from kontext_plugin.registry.base_image import ENTRYPOINT, WORKDIR, extractor_entries
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.secret_scan.scanner import Finding, Scanner
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.steps import Progress, StepName

WHEN_INTERRUPTED = "the tag shows what it showed before, or the whole new image"

_CHECK_TIMEOUT = 5.0
"""Seconds for a question after the push is done."""


# --- The layers ---


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

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each layer, compressed."""
        return tuple(staged.layer.size for staged in self.all)


@dataclass(frozen=True)
class _Task:
    """One layer to write, in this process or in a worker."""

    path: str
    root: str
    tree: Tree
    content: LayerContent
    scan_secrets: bool


def stage_layers(
    session: PushSession,
    root: str,
    plan: Plan,
    divided: Partition,
    directory: str,
    *,
    scan_secrets: bool,
) -> StagedLayers:
    """Write the new layers of a plan into files in `directory`; "" writes them nowhere.

    `root` is the source directory. Raises KontextError.
    """

    def place(name: str) -> str:
        return os.path.join(directory, name) if directory else os.devnull

    with session.report.steps.step(StepName.WRITE_LAYERS, lambda: _written_bytes(directory)):
        tasks = [
            _Task(
                place(f"{number}.tar.gz"),
                root,
                plan.tree.only({*paths, *parents(paths)}),
                LayerContent({}, paths),
                scan_secrets,
            )
            for number, paths in enumerate(divided.lower)
        ]
        # The largest first, so that no process is left alone with it at the end.
        order = sorted(range(len(tasks)), key=lambda number: -tasks[number].tree.size)
        results = session.workers.map(_stage, [tasks[number] for number in order])
        staged = dict(zip(order, results, strict=True))
        lower = [staged[number] for number in range(len(tasks))]

        layers = (*plan.parent_layers, *(layer.layer for layer, _ in lower))
        held = manifest_on(plan, divided, (layer.digest for layer in layers))
        document = manifest.encode(held)
        content = LayerContent(
            {MANIFEST_PATH: document, **divided.documents},
            divided.top,
            plan.changes.whiteouts,
            extractor_entries(plan.spec.base),
        )
        top = _stage(_Task(place("top.tar.gz"), root, plan.tree, content, scan_secrets))
        findings = sorted({finding for _, found in (*lower, top) for finding in found})
    return StagedLayers(tuple(layer for layer, _ in lower), top[0], held, document, tuple(findings))


def _stage(task: _Task) -> tuple[StagedLayer, list[Finding]]:
    written = task.content.written
    scanner = Scanner(sum(task.tree.sizes.get(path, 0) for path in written))
    tee = scanner.tee if task.scan_secrets else None
    try:
        with open(task.path, "wb") as file:
            result = write_layer(file, task.root, task.tree, task.content, tee)
    except OSError as error:
        raise _write_error(task.path, error) from error
    return StagedLayer(task.path, result.layer, result.diff_id), scanner.findings


def _written_bytes(directory: str) -> Progress:
    """Return the bytes that lie in the directory so far, compressed."""
    try:
        with os.scandir(directory) as entries:
            return Progress(bytes=sum(entry.stat().st_size for entry in entries))
    except OSError:  # there is none, or it is gone already
        return Progress()


def _write_error(path: str, error: OSError) -> KontextError:
    return KontextError(
        f"the layer cannot be written to {path}: {error.strerror}",
        hint="Free some space there, or name another directory with KONTEXT_CACHE_DIR.",
    )


# --- The publication ---


@dataclass(frozen=True)
class Published:
    """What is in the registry now."""

    image: Image
    uploaded: int  # bytes of layers that the registry did not have


def publish(
    session: PushSession,
    parent: BuildOn | StartFresh,
    layers: StagedLayers,
    spec: ImageSpec,
    tags: Sequence[Reference],
    directory: str,
) -> Published:
    """Publish the parent's layers, or the base's, with the new layers on top, under all tags.

    The first tag is written by the last request for it: it shows the old image or the whole new
    one. The others follow. `directory` is where the layers lie; a layout may be written there.

    Raises NotFound where the registry lacks what is built on, and KontextError.
    """
    tag, lineage = tags[0], layers.manifest.lineage
    assert lineage is not None
    if isinstance(parent, BuildOn):
        source, below, uploaded = tag.at(parent.parent.image), parent.layers, frozenset[Digest]()
        new = layers.all
    elif spec.base.layout:
        source, uploaded = _push_base(session, spec, layers.lower, tag, directory)
        below, new = (*spec.base.layers, *(staged.layer for staged in layers.lower)), (layers.top,)
    else:
        source, below, uploaded = spec.base.source, spec.base.image.layers, frozenset()
        new = (*_extractor(spec), *layers.all)
    digest, appended = _append(session, source, new, lineage, layers.root, tag)
    image = Image(digest, (*below, *(staged.layer for staged in new)), digest_of(layers.root))
    with session.report.steps.step(StepName.REMEMBER):
        config = spec.config.with_labels(lineage.labels)
        known = _known_ancestors(parent)
        remembered = KontextImage(image, layers.manifest, config, known, is_cached=True)
        session.cache.save_published(str(tag), remembered)
    add_tags(session, image.digest, tags)
    sent = uploaded | appended
    return Published(image, sum(layer.size for layer in image.layers if layer.digest in sent))


def add_tags(session: PushSession, image: Digest, tags: Sequence[Reference]) -> None:
    """Put the other tags on the image that the first tag shows. Raises KontextError."""
    first, *others = tags
    for other in others:
        try:
            if other.repository == first.repository:
                session.crane.tag(first.at(image), other.tag)
            else:
                session.crane.copy(first.at(image), str(other))
        except RegistryError as error:
            raise KontextError(
                f"{first.at(image)} is published as {first}, but not as {other}: {error.message}",
                hint=error.hint,
            ) from error


def check_lost_update(
    crane: Crane, tag: Reference, image: Digest, before: Digest | None, report: Report
) -> None:
    """Warn if the tag shows the image of another push: no registry can lock a tag.

    `before` is what the tag showed: some registries answer for a while as they did then.
    """
    try:
        current = crane.digest(str(tag), timeout=_CHECK_TIMEOUT)
    except RegistryError:
        return
    if current not in (image, before):
        report.important(
            f"another push replaced your image: {tag} is now {current}. "
            f"Your image is still at {tag.at(image)}"
        )


def _push_base(
    session: PushSession,
    spec: ImageSpec,
    lower: Sequence[StagedLayer],
    tag: Reference,
    directory: str,
) -> tuple[str, frozenset[Digest]]:
    """Push the shipped base, with the lower layers on top, by digest.

    Returns its name, and the blobs that the registry did not have.
    """
    base = spec.base
    source, digest = base.layout, base.image.digest
    if lower:
        source = os.path.join(directory, "layout")
        try:
            digest = layout.extend(base.layout, source, lower)
        except OSError as error:
            raise _write_error(source, error) from error
    blobs = (*base.image.layers, *(staged.layer for staged in lower))
    progress = _upload_progress(blobs)
    with session.report.steps.step(StepName.CRANE_PUSH, progress.measure):
        pushed = session.crane.push_layout(source, tag.at(digest), progress)
    return tag.at(digest), pushed.uploaded


def _append(
    session: PushSession,
    source: str,
    new: Sequence[StagedLayer],
    lineage: Lineage,
    root: bytes,
    tag: Reference,
) -> tuple[Digest, frozenset[Digest]]:
    """Append layers to the image `source` under a tag.

    Returns the new image's digest, and the blobs that the registry did not have.
    """
    progress = _upload_progress([staged.layer for staged in new])
    with session.report.steps.step(StepName.CRANE_MUTATE, progress.measure):
        published = session.crane.append(
            source,
            [staged.path for staged in new],
            str(tag),
            labels=lineage.labels,
            annotations={MANIFEST_ANNOTATION: digest_of(root)},
            entrypoint=ENTRYPOINT,
            workdir=WORKDIR,
            progress=progress,
        )
    return published.digest, published.uploaded


def _extractor(spec: ImageSpec) -> tuple[StagedLayer, ...]:
    """Return the layer with the extractor that goes on top of the user's own base."""
    layer = spec.base.extractor_layer
    return (StagedLayer(spec.base.extractor_path, layer, Digest("")),) if layer else ()


def _upload_progress(layers: Sequence[Layer]) -> UploadProgress:
    return UploadProgress({layer.digest: layer.size for layer in layers})


def _known_ancestors(parent: BuildOn | StartFresh) -> frozenset[Digest]:
    """Return the ancestors of the new image that need no second look."""
    if isinstance(parent, StartFresh):
        return frozenset()
    seen = {*parent.tag_image.known, parent.parent.image}
    return frozenset(seen & {ancestor.image for ancestor in parent.ancestors})
