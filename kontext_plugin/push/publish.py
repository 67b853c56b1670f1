"""Publish an image under all tags.

Nothing here decides: the plan says what to write, the assembly what the image is. `crane push`
publishes a sparse layout, which has only what is new. So nothing that was just written is read
back, and the parent needs no manifest in the registry any more: its layers are enough.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from kontext_plugin.cache import LayerOrigin
from kontext_plugin.cli.signals import on_interrupt
from kontext_plugin.crane_driver.errors import NotFound, Refused, RegistryError
from kontext_plugin.crane_driver.watchdog import UploadProgress
from kontext_plugin.errors import KontextError
from kontext_plugin.image.assembly import Assembly, Sources, assemble
from kontext_plugin.image.layout import StagedLayer, write_layout
from kontext_plugin.image.oci import Digest, Image
from kontext_plugin.image.reference import Reference
from kontext_plugin.manifest import Manifest
from kontext_plugin.push import messages
from kontext_plugin.push.find import Found
from kontext_plugin.push.layers import write_error
from kontext_plugin.push.plan import Plan
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.terminal.steps import StepName

_QUESTION = 1.0
"""Seconds in which a registry may answer what a tag shows after an interruption."""

_MAX_REPLACED = 8
"""The most damaged copies of an image that are replaced by another one."""


@dataclass(frozen=True)
class Published:
    """What is in the registry now."""

    image: KontextImage
    written: tuple[Reference, ...]  # the tags that showed something else before
    uploaded: int  # bytes of blobs that the registry did not have


def publish(
    session: PushSession,
    plan: Plan,
    held: Manifest,
    assembly: Assembly,
    new: Sequence[StagedLayer],
    found: Found,
    directory: str,
    early: int = 0,
) -> Published:
    """Publish an image under all tags that show something else; `held` is its manifest.

    Each tag is written by the last request for it: it shows the old image or the whole new one.
    `new` are the layers that the registry may lack; a layout is written into `directory`. `early`
    is how many bytes were uploaded before.

    Raises NotFound if the registry lacks a layer of the parent, and KontextError.
    """
    tags = found.tags_to_write(assembly.digest)
    uploaded = early
    if tags:
        layout = os.path.join(directory, "layout")
        extractors = () if plan.spec.single_layer else (base.extractor for base in plan.spec.bases)
        try:
            write_layout(layout, assembly.index, assembly.documents, (*new, *extractors))
        except OSError as error:
            raise write_error(layout, error) from error
        uploaded += _Upload(session, plan, assembly, layout, early).push(tags, found)
    image = next(iter(found.shown)).at(assembly.digest)
    is_published = partial(messages.published, image, (*found.shown,))
    with on_interrupt(is_published), session.report.steps.step(StepName.REMEMBER):
        published = KontextImage(
            digest=assembly.digest,
            image=assembly.images[0],
            manifest=held,
            config=assembly.config,
            platforms=tuple(base.platform for base in plan.spec.bases) if assembly.is_index else (),
            is_cached=True,
        )
        former = plan.found_image
        if not (former and former.is_cached and former.digest == published.digest):
            session.cache.save_published(str(next(iter(found.shown))), published)
        if new and (how := _trust(session, plan)):
            session.cache.save_layers(how, [published.sources_key])
    return Published(published, tags, uploaded)


def _trust(session: PushSession, plan: Plan) -> LayerOrigin | None:
    """Return why all layers of the new image are known to be as its manifest says, if they are."""
    found = plan.found_image
    if found is None:
        return "written"
    key = found.sources_key
    origins: tuple[LayerOrigin, ...] = ("written", "checked")
    return next((how for how in origins if key in session.cache.layers(how)), None)


class _Upload:
    """A layout on its way to the registry."""

    def __init__(
        self, session: PushSession, plan: Plan, assembly: Assembly, layout: str, early: int
    ) -> None:
        self._session = session
        self._early = early  # bytes that were uploaded before
        self._plan = plan
        self._assembly = assembly
        self._layout = layout
        self._progress = UploadProgress({})  # of the crane that runs, or ran last
        self._done: list[Reference] = []  # the tags that show the image

    def push(self, tags: Sequence[Reference], found: Found) -> int:
        """Push the layout to each tag; return the bytes of blobs that were uploaded for it.

        Raises NotFound for the first tag if the registry lacks a layer of the parent, and
        KontextError.
        """
        sizes = self._assembly.blobs
        for image in self._borrowed_images():
            sizes |= image.sizes
        sent: set[tuple[str, Digest]] = set()  # by repository
        for number, tag in enumerate(tags):
            left_behind = partial(self._describe_interrupted, tags[:number], tag)
            try:
                with on_interrupt(left_behind):
                    sent |= {(tag.repository, blob) for blob in self._push(tag, found)}
                self._done.append(tag)
            except RegistryError as error:
                if not number:
                    raise
                raise KontextError(
                    f"{messages.published(tag.at(self._assembly.digest), tags[:number])}, "
                    f"but not as {tag}: {error.message}",
                    hint=error.hint,
                ) from error
        return sum(sizes.get(blob, 0) for _, blob in sent)

    def _describe_interrupted(self, done: Sequence[Reference], tag: Reference) -> str:
        """Say what an interrupted push has published; `tag` is the one that it was writing."""
        shows: bool | None = False
        if self._progress.is_complete:
            try:
                digest = self._session.crane.digest(str(tag), timeout=_QUESTION)
                shows = digest == self._assembly.digest
            except NotFound:
                pass
            except KontextError:
                shows = None
        image = tag.at(self._assembly.digest)
        uploaded = self._early + self._progress.uploaded
        return messages.interrupted(image, done, tag, shows, uploaded)

    def _push(self, tag: Reference, found: Found) -> frozenset[Digest]:
        """Push the layout to a tag; return the blobs that the registry did not have."""
        there = [one for one in found.shown if one.repository == tag.repository]
        is_new = tag == there[0] and not any(found.shown[one] for one in there)
        uploaded = self._push_layout(tag, is_new=is_new)
        if found.shown[tag] == self._assembly.digest:  # crane push believes this answer
            self._session.crane.tag(tag.at(self._assembly.digest), tag.tag)
        return uploaded

    def _push_layout(self, tag: Reference, *, is_new: bool) -> frozenset[Digest]:
        """Push the layout to a tag; return the blobs that the registry did not have.

        A layout lacks the layers of a base and of a parent. They are brought to the tag's
        repository: at once if it `is_new`, so that nothing is uploaded that can be mounted, or else
        if they are missing there.
        """
        images = [one for one in self._borrowed_images() if one.repository != tag.repository]
        if is_new and (not self._plan.candidate or any(one.repository for one in images)):
            return self._bring(images, tag) | self._run_crane(tag)
        try:
            return self._run_crane(tag)
        except NotFound:
            if not images:
                raise
            return self._bring(images, tag) | self._run_crane(tag)

    def _bring(self, images: Sequence[_BorrowedImage], tag: Reference) -> frozenset[Digest]:
        """Bring the layers of images to a tag's repository; return those that were copied."""
        brought = frozenset[Digest]()
        for image in images:
            with self._session.report.steps.step(StepName.CRANE_MUTATE):
                brought |= self._session.crane.bring(
                    image.name, tag.repository, {_BROUGHT: self._assembly.digest}
                )
        return brought

    def _run_crane(self, tag: Reference) -> frozenset[Digest]:
        self._progress = progress = UploadProgress(self._assembly.blobs)
        with self._session.report.steps.step(StepName.CRANE_PUSH, progress.measure):
            pushed = self._session.crane.push_layout(
                self._layout, str(tag), is_index=self._assembly.is_index, progress=progress
            )
        return pushed.uploaded

    def _borrowed_images(self) -> list[_BorrowedImage]:
        """Return the images whose layers the new one has, and the layout has not."""
        images = [
            _BorrowedImage(base.source, "", {layer.digest: layer.size for layer in base.layers})
            for base in self._plan.spec.bases
            if base.source
        ]
        candidate = self._plan.candidate
        if candidate and self._done:  # the tag that was moved may have been the last one to show it
            images.append(_borrowed(self._done[0], self._assembly.images[0]))
        elif candidate:
            images.append(_borrowed(candidate.reference, candidate.image.image))
        return images


@dataclass(frozen=True)
class _BorrowedImage:
    """An image whose layers are a part of the new one."""

    name: str  # REPO@sha256:…
    repository: str  # that has its layers for certain; "": none
    sizes: Mapping[Digest, int]  # in bytes, of its layers


def _borrowed(reference: Reference, image: Image) -> _BorrowedImage:
    sizes = {layer.digest: layer.size for layer in image.layers}
    return _BorrowedImage(reference.at(image.digest), reference.repository, sizes)


_BROUGHT = "dev.kontext.brought-for"
"""The annotation of an image that brought its layers along: what they were needed for."""


def find_damage(session: PushSession, assembly: Assembly, tag: Reference) -> bool:
    """Whether the registry has this very image, but has lost one of its blobs.

    crane sends nothing where it finds the manifest. Raises RegistryError.
    """
    crane = session.crane
    try:
        crane.digest(tag.at(assembly.digest))
    except NotFound:
        return False
    return len(missing_blobs(session, assembly.blobs, tag)) > 0


def assemble_apart(plan: Plan, sources: Sources, assembly: Assembly, found: Found) -> Assembly:
    """Return the image, or an index without the very image that one of its tags shows now.

    Where a tag is moved, Gitea deletes what it showed, also if the new index has it.
    """
    shown = {image.digest for image in assembly.images} & {*found.shown.values()}
    if not (assembly.is_index and shown):
        return assembly
    return assemble(plan.spec, sources, plan.labels, min(shown))


def assemble_complete(
    session: PushSession, plan: Plan, sources: Sources, assembly: Assembly, tag: Reference
) -> Assembly:
    """Return the index that the tag shows, or one with another digest if it has lost an image.

    Cleaners of untagged images remove those of an index, too. Raises RegistryError.
    """
    if not assembly.is_index:
        return assembly

    def is_lost(image: Image) -> bool:
        try:
            session.crane.digest(tag.at(image.digest))
        except NotFound:
            return True
        return False

    if not any([*session.requests.map(is_lost, assembly.images)]):
        return assembly
    session.report.info(
        f"{tag.at(assembly.digest)} has lost the image of a platform: "
        "publishing it again with another digest"
    )
    return assemble(plan.spec, sources, plan.labels, assembly.digest)


def missing_blobs(
    session: PushSession, blobs: Iterable[Digest], tag: Reference
) -> frozenset[Digest]:
    """Return those of the blobs that the tag's repository cannot show.

    Reads the first bytes of each: no verb of crane's asks for less. Raises RegistryError.
    """

    def is_missing(blob: Digest) -> bool:
        try:
            with session.crane.blob(tag.at(blob)) as stream:
                if not stream.read(1):
                    raise EOFError
        except NotFound:
            return True
        except EOFError:
            pass
        return False

    wanted = tuple(blobs)
    answers = session.requests.map(is_missing, wanted)
    return frozenset(blob for blob, missing in zip(wanted, answers, strict=True) if missing)


def count_upload(session: PushSession, plan: Plan, assembly: Assembly, tag: Reference) -> int:
    """Return the bytes of blobs that a push of this image would upload.

    Asks the registry for each blob that the parent does not have. Raises RegistryError.
    """
    there: set[Digest] = set()
    if plan.candidate and plan.candidate.reference.repository == tag.repository:
        there = {layer.digest for layer in plan.parent_layers}
    blobs = assembly.blobs
    wanted = blobs.keys() - there
    try:
        missing = missing_blobs(session, wanted, tag)
    except Refused:  # some registries refuse to show a repository that does not exist yet
        missing = frozenset(wanted)
    return sum(blobs[blob] for blob in missing)


def assemble_undamaged(
    session: PushSession, plan: Plan, sources: Sources, tag: Reference, replaces: str = ""
) -> Assembly:
    """Return the image with another digest than any copy of it that has lost a blob.

    `replaces` is as in `assemble`. Raises RegistryError.
    """
    assembly = assemble(plan.spec, sources, plan.labels, replaces)
    for _ in range(_MAX_REPLACED):
        if not find_damage(session, assembly, tag):
            break
        session.report.info(
            f"{tag.at(assembly.digest)} has lost a blob: publishing it again with another digest"
        )
        assembly = assemble(plan.spec, sources, plan.labels, assembly.digest)
    return assembly
