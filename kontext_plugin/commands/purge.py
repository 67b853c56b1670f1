"""`docker kontext purge`: publishes an image's sources anew, without the layers that it had.

What a purge tells of the registry. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from kontext_plugin.cache.store import open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import DEFAULT_TIMEOUT, PURGE, SECRETS, timeout_of
from kontext_plugin.crane import Crane, connect
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest, Image, Layer
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.image.spec import MAX_LAYERS
from kontext_plugin.manifest import Lineage
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.push.plan import make_plan
from kontext_plugin.push.publish import WHEN_INTERRUPTED, PushSession, check_lost_update, upload
from kontext_plugin.registry.base_image import Base, custom_base, shipped_base, single_layer_base
from kontext_plugin.registry.fetch import KontextImage, fetch, layers_of
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.secret_scan.policy import SecretPolicy
from kontext_plugin.secret_scan.scanner import Finding
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number, size
from kontext_plugin.workspace import Workspace, files_of, write_files

_MOST_TAGS = 200
"""Each is a request, six at a time."""


@dataclass(frozen=True)
class Options:
    tag: Reference
    base: str = ""
    secrets: str = SECRETS[0]
    insecure: bool = False
    timeout: float = DEFAULT_TIMEOUT


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(PURGE, arguments)
    wanted = Options(
        tag=parse_reference(positional[0]),
        base=parsed.base or "",
        secrets=parsed.secrets or SECRETS[0],
        insecure=parsed.insecure,
        timeout=timeout_of(parsed),
    )
    try:
        print(purge(wanted, Report(quiet=parsed.quiet, show_debug=flags.debug)))
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(WHEN_INTERRUPTED) from interrupt
    return 0


def purge(wanted: Options, report: Report) -> str:
    """Gives the tag an image of the same sources, of one generation; returns `REPO@sha256:…`.

    Raises KontextError. The tag then shows what it showed before, or the new image.
    """
    tag = wanted.tag
    cache = open_cache()
    link = connect(report, insecure=wanted.insecure, timeout=wanted.timeout)
    with link as (registry, threads), Workers() as workers, cache.scratch() as folder:
        old = fetch(registry, threads, tag)
        lineage = _lineage(old, tag)
        below = _base(registry, wanted, lineage)
        if below.image.digest != lineage.base:
            report.important(
                f"{tag} was built on {lineage.base}, and will be on {below.image.digest}, "
                f"which {wanted.base} is"
            )
        plan = make_plan(
            StartFresh("purge"), below.wanted(lineage.platform, lineage.labels), old.manifest.tree
        )
        report.info(
            f"Reading {number(plan.tree.file_count, 'file')}, {size(plan.tree.size)}, "
            f"of generation {lineage.generation} from {tag}"
        )
        _fetch_all(registry, tag, old, folder)
        watched = wanted.secrets != "off"
        job = PushSession(registry, cache, workers, report.steps, tag, folder, below, watched)
        gate = SecretPolicy(wanted.secrets, folder, report)

        def approve(found: Sequence[Finding]) -> None:
            gate.check(found)
            if registry.digest(str(tag)) != old.image.digest:
                raise KontextError(
                    f"another push has replaced {tag} meanwhile; nothing was changed",
                    hint="Purge it again when nobody pushes.",
                )

        new, sent = upload(job, plan, approve)
        report.info(f"Published {tag} anew; uploaded {size(sent)}")
        report.notice(remaining(tag, _remains(registry, threads, tag, old, new)))
        check_lost_update(registry, tag, new.digest, old.image.digest, report)
    return tag.at(new.digest)


def _fetch_all(registry: Crane, tag: Reference, old: KontextImage, folder: str) -> None:
    """Writes the regular files into an empty private folder. No link is made there."""
    with Workspace(folder) as target:
        for directory in sorted(old.manifest.tree.directories()):
            target.make_directory(directory)
        if files := {file.path: file for file in files_of(old)}:
            write_files(registry, tag, old, target, files)


def _lineage(old: KontextImage, tag: Reference) -> Lineage:
    if old.manifest.lineage is None:
        raise KontextError(
            f"{tag} was made by Kontext's prototype, and does not say of what",
            hint="Push the directory again with --fresh.",
        )
    return old.manifest.lineage


def _base(registry: Crane, wanted: Options, lineage: Lineage) -> Base:
    """What the image was put upon. Raises KontextError where it cannot be told."""
    if wanted.base:
        return custom_base(registry, wanted.base, lineage.platform, MAX_LAYERS)
    for kind in (shipped_base, single_layer_base):
        if kind(lineage.platform).image.digest == lineage.base:
            return kind(lineage.platform)
    raise KontextError(
        f"{wanted.tag} was built on {lineage.base}, which this Kontext does not have",
        hint="Name its base with --base, as push was given it; or push the directory again "
        "with --fresh.",
    )


def _remains(
    registry: Crane, threads: Executor, tag: Reference, old: KontextImage, new: Image
) -> Remains:
    """What the registry still has of the old image."""
    kept = {layer.digest for layer in new.layers}
    layers = tuple(layer for layer in old.image.layers if layer.digest not in kept)
    if not layers:
        return Remains((), (), ())
    # Of one tree there is one image: an ancestor that has none of these may be the new one itself.
    lowest = old.image.layers.index(layers[0])
    ancestors = _lineage(old, tag).ancestors
    former = (ancestor.image for ancestor in ancestors if ancestor.layers > lowest)
    images = tuple(dict.fromkeys([old.image.digest, *former]))
    try:
        tags = sorted({*registry.tags(tag.repository)} - {tag.tag})
    except RegistryError:
        return Remains(images, layers, None)
    asked = [f"{tag.repository}:{other}" for other in tags[:_MOST_TAGS]]
    found = threads.map(lambda name: layers_of(registry, name), asked)
    gone = {layer.digest for layer in layers}
    showing = tuple(name for name, theirs in zip(asked, found, strict=True) if gone & theirs)
    return Remains(images, layers, showing, len(tags) - len(asked))


@dataclass(frozen=True)
class Remains:
    """What a registry still has of an image whose tag shows another one now."""

    images: tuple[Digest, ...]  # that have these layers: it, and the earlier ones that it knows of
    layers: tuple[Layer, ...]  # those of it that the new image does not have
    tags: tuple[str, ...] | None  # whose images have some of these; None: they cannot be listed
    unseen: int = 0  # more tags than were looked at


def remaining(tag: Reference, remains: Remains) -> str:
    """Who can still have it, and how to remove it."""
    if not remains.layers:
        return (
            f"{tag} had nothing in its layers that it does not show. The registry may still have\n"
            "images that the tag showed before; a secret that was published has to be revoked."
        )
    lines = ["The registry still has the old layers, for whoever knows a digest:"]
    lines += [f"  {tag.at(layer.digest)}  {size(layer.size)}" for layer in remains.layers]
    if remains.tags:
        lines += ["These tags show some of them, purge or remove them as well:"]
        lines += [f"  {name}" for name in remains.tags]
    if remains.tags is None:
        lines.append("Its tags could not be listed: others may show these layers as well.")
    if remains.unseen:
        lines.append(f"{number(remains.unseen, 'more tag')} were not looked at.")
    lines += ["To remove them, delete the images that have them, as far as this one knows them,"]
    lines += [f"  crane delete {tag.at(image)}" for image in remains.images]
    lines += [
        "and have the registry remove what has no tag and collect its garbage: earlier images that",
        "this one was not built on are not known here. Registries differ: some delete by hand",
        "only, some not at all. A secret that was published has to be revoked in any case.",
    ]
    return "\n".join(lines)
