"""`docker kontext purge`: publish an image's sources again, without removed files in its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import DEFAULT_TIMEOUT, PURGE, timeout_of
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest, Image, Layer
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.image.spec import MAX_LAYERS, BaseImage, ImageSpec
from kontext_plugin.manifest import Lineage
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.push.partition import partition
from kontext_plugin.push.plan import plan_fresh
from kontext_plugin.push.prepare import PushSession, open_session
from kontext_plugin.push.publish import (
    WHEN_INTERRUPTED,
    check_lost_update,
    publish,
    stage_layers,
)
from kontext_plugin.registry.base_image import (
    config_on,
    fetch_base,
    shipped_base,
    single_layer_base,
)
from kontext_plugin.registry.fetch import KontextImage, fetch, fetch_layers
from kontext_plugin.secret_scan import SecretMode
from kontext_plugin.secret_scan.policy import SecretPolicy
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number, size
from kontext_plugin.workspace import Workspace, files_of, write_files

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
    try:
        print(purge(options, Report(quiet=parsed.quiet, show_debug=flags.debug)))
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(WHEN_INTERRUPTED) from interrupt
    return 0


def purge(options: PurgeOptions, report: Report) -> str:
    """Give the tag an image of the same sources, of generation 0; return `REPO@sha256:…`.

    Raises KontextError. The tag then shows what it showed before, or the new image.
    """
    tag, cache = options.tag, open_cache()
    with (
        open_session(report, cache, insecure=options.insecure, timeout=options.timeout) as session,
        cache.scratch() as sources,
        cache.scratch() as directory,
    ):
        old = fetch(session.crane, session.requests, tag)
        lineage = _lineage(old, tag)
        base = _find_base(session.crane, options, lineage)
        if base.image.digest != lineage.base:
            report.important(
                f"{tag} was built on {lineage.base}. It will be on {base.image.digest}, "
                f"which {options.base} is now"
            )
        spec = ImageSpec(
            platforms=frozenset({lineage.platform}),
            base=base,
            config=config_on(base),
            labels=lineage.labels,
        )
        plan = plan_fresh(StartFresh("purge"), spec, old.manifest.tree)

        report.info(
            f"Reading {number(plan.tree.file_count, 'file')}, {size(plan.tree.size)}, "
            f"of generation {lineage.generation} from {tag}"
        )
        _write_sources(session.crane, tag, old, sources)
        policy = SecretPolicy(options.secrets, sources, report)
        layers = stage_layers(
            session,
            sources,
            plan,
            partition(plan),
            directory,
            scan_secrets=policy.needs_scan,
        )
        policy.enforce(layers.findings)
        if session.crane.digest(str(tag)) != old.image.digest:
            raise KontextError(
                f"another push replaced {tag} in the meantime; nothing was changed",
                hint="Run the purge again.",
            )
        new = publish(session, plan.parent, layers, spec, [tag], directory)
        report.info(f"Published {tag} again; uploaded {size(new.uploaded)}")
        report.notice(remaining(tag, _find_remains(session, tag, old, new.image)))
        check_lost_update(session.crane, tag, new.image.digest, old.image.digest, report)
    return tag.at(new.image.digest)


def _lineage(old: KontextImage, tag: Reference) -> Lineage:
    if old.manifest.lineage is None:
        raise KontextError(
            f"{tag} was made by the 2018 prototype and does not name its base",
            hint="Push the directory again with --fresh.",
        )
    return old.manifest.lineage


def _find_base(crane: Crane, options: PurgeOptions, lineage: Lineage) -> BaseImage:
    """Return the base of the old image. Raises KontextError where nothing tells which it is."""
    if options.base:
        return fetch_base(crane, options.base, lineage.platform, MAX_LAYERS)
    for load in (shipped_base, single_layer_base):
        if load(lineage.platform).image.digest == lineage.base:
            return load(lineage.platform)
    raise KontextError(
        f"{options.tag} was built on {lineage.base}, which this Kontext does not have",
        hint="Name its base with --base, as for the push. Or push the directory again with "
        "--fresh.",
    )


def _write_sources(crane: Crane, tag: Reference, old: KontextImage, directory: str) -> None:
    """Write the image's regular files into an empty private directory. Makes no links there."""
    with Workspace(directory) as workspace:
        for path in sorted(old.manifest.tree.directories()):
            workspace.make_directory(path)
        if files := {file.path: file for file in files_of(old)}:
            write_files(crane, tag, old, workspace, files)


def _find_remains(session: PushSession, tag: Reference, old: KontextImage, new: Image) -> Remains:
    """Return what the registry still has of the old image."""
    kept = {layer.digest for layer in new.layers}
    layers = tuple(layer for layer in old.image.layers if layer.digest not in kept)
    if not layers:
        return Remains((), (), ())
    # One tree has one fresh image: an ancestor without these layers may be the new image itself.
    lowest = old.image.layers.index(layers[0])
    ancestors = _lineage(old, tag).ancestors
    former = (ancestor.image for ancestor in ancestors if ancestor.layers > lowest)
    images = tuple(dict.fromkeys([old.image.digest, *former]))
    try:
        tags = sorted({*session.crane.tags(tag.repository)} - {tag.tag})
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
            f"The layers of {tag} held no removed files. The registry may still have images that\n"
            "the tag showed before. Revoke every secret that was published."
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
        "3. Revoke every secret that was published.",
    ]
    return "\n".join(lines)
