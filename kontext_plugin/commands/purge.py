"""`docker kontext purge`: publish an image's sources again, without removed files in its layers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from kontext_plugin.cache import Cache, PushRecord, open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import DEFAULT_TIMEOUT, PURGE, timeout_of
from kontext_plugin.cli.signals import on_interrupt
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.assembly import Assembly, Sources
from kontext_plugin.image.oci import Digest, Image, Layer
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.reference import Reference, parse_reference, repository_of
from kontext_plugin.image.spec import MAX_LAYERS, ImageSpec
from kontext_plugin.layer.compression import compression_of
from kontext_plugin.push import messages
from kontext_plugin.push.find import Found
from kontext_plugin.push.layers import WriteOptions, write_layers
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import Plan, plan_fresh
from kontext_plugin.push.preflight import Preflight
from kontext_plugin.push.publish import (
    Published,
    assemble_undamaged,
    publish,
)
from kontext_plugin.push.session import PushSession, open_session
from kontext_plugin.registry.base_image import fetch_bases, shipped_base
from kontext_plugin.registry.fetch import KontextImage, fetch, fetch_layers
from kontext_plugin.secret_scan import SecretMode
from kontext_plugin.secret_scan.policy import SecretPolicy
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.progress import choose_mode, reporting
from kontext_plugin.terminal.text import number, size
from kontext_plugin.unpack import files_of, write_files
from kontext_plugin.workspace import Workspace

_MAX_LISTED = 20_000
"""The most tags of a listing that are read."""

_MAX_TAGS = 200
"""The most tags that are looked at: each is a request."""


@dataclass(frozen=True)
class PurgeOptions:
    """What the command line asks of a purge."""

    tag: Reference
    base: str = ""  # the base image, if push was given one
    secrets: SecretMode = SecretMode.AUTO
    insecure: bool = False
    timeout: float = DEFAULT_TIMEOUT  # seconds without progress; 0: no limit


@dataclass(frozen=True)
class Remains:
    """What a registry still has of an image whose tag shows another one now."""

    images: tuple[Digest, ...]  # with these layers: the old image, and its ancestors
    layers: tuple[Layer, ...]  # of the old image, and not of the new one
    tags: tuple[str, ...] | None  # whose images have some of them; None: cannot be listed
    unseen: int = 0  # tags that were not looked at


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(PURGE, arguments)
    options = PurgeOptions(
        tag=parse_reference(positional[0]),
        base=parsed.base or "",
        secrets=SecretMode(parsed.secrets or SecretMode.AUTO),
        insecure=parsed.insecure,
        timeout=timeout_of(parsed),
    )
    mode = choose_mode(None, parsed.quiet)
    with (
        on_interrupt(lambda: messages.NOTHING_PUBLISHED),
        reporting(mode, flags.debug) as report,
    ):
        image = purge(options, report)
    write_stdout([image])
    return 0


def purge(options: PurgeOptions, report: Report) -> str:
    """Give the tag an image of the same sources, of generation 0; return `REPO@sha256:…`.

    Raises KontextError. The tag then shows what it showed before, or the new image.
    """
    tag, cache = options.tag, open_cache()
    with (
        open_session(report, cache, insecure=options.insecure, timeout=options.timeout) as session,
        session.scratch() as sources,
        session.scratch() as directory,
    ):
        old = fetch(session.crane, session.requests, tag, with_history=True)
        if old.manifest.lineage is None:
            raise KontextError(
                f"{tag} was made by the 2018 prototype and does not name its base",
                hint="Push the directory again with --fresh.",
            )
        spec = _spec(session, options, old)
        assert old.config is not None  # fetched with history
        labels = spec.own_labels(old.config.labels)
        fresh = StartFresh("purge")
        compression = compression_of(old.sources[-1].media_type).name
        spec = replace(spec, labels=labels, compression=compression)
        plan = plan_fresh(fresh, spec, old.manifest.tree)

        found = Found(fresh, {tag: old.digest})
        Preflight(session).check(found, plan.tree.size)
        report.info(
            f"Reading {number(plan.tree.file_count, 'file')}, {size(plan.tree.size)}, "
            f"of generation {old.lineage.generation} from {tag}"
        )
        _write_sources(session, tag, old, sources)
        policy = SecretPolicy(options.secrets, sources, report)
        writing = WriteOptions(sources, directory, policy.needs_scan)
        layers = write_layers(session, plan, partition(plan), writing)
        policy.enforce(layers.findings)
        if session.crane.digest(str(tag)) != old.digest:
            raise KontextError(
                f"another push replaced {tag} in the meantime; nothing was changed",
                hint="Run the purge again.",
            )
        assembly = _assemble(session, plan, layers.sources(plan), tag, old)
        new = publish(session, plan, layers.manifest, assembly, layers.all, found, directory)
        if new.written:
            report.info(f"Published {tag} again; uploaded {size(new.uploaded)}")
        else:
            report.info(f"{tag} stays as it is")
        with on_interrupt(partial(messages.published, tag.at(new.image.digest), [tag])):
            kept = {layer.digest for layer in new.image.image.layers}
            cache.forget_layers({layer.digest for layer in old.image.layers} - kept)
            cache.save_pushed([_record(cache, tag, new)])
            remains = _find_remains(session, tag, old, new.image.image)
            report.notice(remaining(tag, remains))
    return tag.at(new.image.digest)


def _assemble(
    session: PushSession, plan: Plan, sources: Sources, tag: Reference, old: KontextImage
) -> Assembly:
    """Return the purged image. No push makes the same one, so no cache takes it for a former push.

    If there is nothing to purge, it is the old image. Raises RegistryError.
    """
    replaces = old.digest if sources.layers != old.sources else old.image.replaces
    return assemble_undamaged(session, plan, sources, tag, replaces)


def _record(cache: Cache, tag: Reference, new: Published) -> PushRecord:
    """Return the record of the new image: the last push to the tag, of the directory as before."""
    before = (record.directory for record in cache.pushed() if record.reference == str(tag))
    return PushRecord(
        directory=next(before, ""),
        reference=str(tag),
        digest=new.image.digest,
        time=time.time(),
        revision=new.image.revision,
        uploaded=new.uploaded,
    )


def _spec(session: PushSession, options: PurgeOptions, old: KontextImage) -> ImageSpec:
    """Return what the old image was made of, with this installation's extractor.

    Raises KontextError where nothing tells the base.
    """
    platforms = tuple(one for one in PLATFORMS if one in old.all_platforms)
    if not platforms:
        raise KontextError(f"{options.tag} has no image for {' or '.join(PLATFORMS)}")
    image = old.image
    if not (options.base or image.base) and _has_unknown_base(old):
        raise KontextError(
            f"{options.tag} was built on a base that it does not name",
            hint="Name its base with --base, as for the push. Or push the directory again with "
            "--fresh.",
        )
    single_layer = old.is_single_layer
    if not options.base and not image.base:
        return ImageSpec(tuple(map(shipped_base, platforms)), single_layer=single_layer)
    # An index names a base for each platform. Its digest is that of the first one.
    name = options.base or image.base_name
    if not options.base and len(platforms) == 1:
        name = f"{repository_of(name)}@{image.base}"
    bases = fetch_bases(session.crane, session.requests, name, platforms, MAX_LAYERS)
    if not options.base:
        bases = tuple(replace(base, name=image.base_name) for base in bases)
    if image.base and image.base not in (base.source.rpartition("@")[2] for base in bases):
        session.report.important(
            f"{options.tag} was built on {image.base}. It will be on what {name} is now"
        )
    return ImageSpec(bases, single_layer=single_layer)


def _has_unknown_base(old: KontextImage) -> bool:
    """Whether there are layers of a base, and not only an extractor below, as in old images."""
    return old.height > (0 if old.image.extractor else 1)


def _write_sources(session: PushSession, tag: Reference, old: KontextImage, directory: str) -> None:
    """Write the image's regular files into an empty private directory. Makes no links there."""
    with Workspace(directory) as workspace:
        for path in sorted(old.manifest.tree.directories()):
            workspace.make_directory(path)
        if files := {file.path: file for file in files_of(old)}:
            write_files(
                session.crane,
                session.workers,
                session.scratch,
                tag,
                old,
                workspace,
                files,
                session.report.steps,
            )


def _find_remains(session: PushSession, tag: Reference, old: KontextImage, new: Image) -> Remains:
    """Return what the registry still has of the old image."""
    kept = {layer.digest for layer in new.layers}
    layers = tuple(layer for layer in old.image.layers if layer.digest not in kept)
    if not layers:
        return Remains((), (), ())
    # One tree has one fresh image: an ancestor without these layers may be the new image itself.
    lowest = old.image.layers.index(layers[0])
    former = (
        ancestor.image
        for ancestor in old.lineage.ancestors
        if old.height + ancestor.layers > lowest
    )
    images = tuple(dict.fromkeys([old.digest, *former]))
    try:
        listed = set(islice(session.crane.tags(tag.repository), _MAX_LISTED))
        tags = sorted(listed - {tag.tag})
    except RegistryError:
        return Remains(images, layers, None)
    names = [f"{tag.repository}:{other}" for other in tags[:_MAX_TAGS]]
    shown = session.requests.map(lambda name: fetch_layers(session.crane, name), names)
    gone = {layer.digest for layer in layers}
    showing = tuple(name for name, theirs in zip(names, shown, strict=True) if gone & theirs)
    return Remains(images, layers, showing, len(tags) - len(names))


def remaining(tag: Reference, remains: Remains) -> str:
    """Return what to tell about the old layers: where they are, and how to delete them."""
    if not remains.layers:
        return (
            f"The layers of {tag} held no removed files.\n"
            "The registry may still have images that the tag showed before. Revoke every secret "
            "that was published."
        )
    lines = ["The registry still has the old layers, for everyone who knows a digest:"]
    lines += [f"  {tag.at(layer.digest)}  {size(layer.size)}" for layer in remains.layers]
    if remains.tags:
        lines += ["These tags show some of them; purge or delete them as well:"]
        lines += [f"  {name}" for name in remains.tags]
    if remains.tags is None:
        lines.append("Its tags could not be listed: others may show these layers as well.")
    if remains.unseen:
        lines.append(f"{number(remains.unseen, 'more tag')} were not checked.")
    lines += ["To remove the files from the registry:", "1. Delete the images with these layers:"]
    lines += [f"     crane delete {tag.at(image)}" for image in remains.images]
    lines += [
        "   Kontext does not know other images that the tag showed before.",
        "2. Let the registry delete untagged images and collect garbage. Some registries do this",
        "   only by hand, some never.",
        "3. On other machines that push to it, run 'docker kontext cache prune'.",
        "4. Revoke every secret that was published.",
    ]
    return "\n".join(lines)
