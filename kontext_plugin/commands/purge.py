"""`docker kontext purge`: publishes an image's sources anew, without the layers that it had."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from kontext_plugin import base, crane, options, published, reference
from kontext_plugin.base import Base
from kontext_plugin.base_choice import MAX_LAYERS, Fresh, Previous
from kontext_plugin.cache import open_cache
from kontext_plugin.commands.gate import Gate
from kontext_plugin.commands.purge_messages import Remains, remaining
from kontext_plugin.commands.race import tell_race
from kontext_plugin.commands.registry import connected, timeout_of
from kontext_plugin.commands.table import PURGE, SECRETS
from kontext_plugin.contents import fetch, files_of
from kontext_plugin.crane import Crane
from kontext_plugin.crane_errors import RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Image
from kontext_plugin.manifest import Lineage
from kontext_plugin.options import Globals
from kontext_plugin.plan import make_plan
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report
from kontext_plugin.secret_scan import Finding
from kontext_plugin.target import Target
from kontext_plugin.text import number, size
from kontext_plugin.upload import WHEN_INTERRUPTED, Job, upload
from kontext_plugin.workers import Workers

_MOST_TAGS = 200
"""Each is a request, six at a time."""


@dataclass(frozen=True)
class Options:
    tag: Reference
    base: str = ""
    secrets: str = SECRETS[0]
    insecure: bool = False
    timeout: float = crane.TIMEOUT


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = options.parse(PURGE, arguments)
    wanted = Options(
        tag=reference.parse(positional[0]),
        base=parsed.base or "",
        secrets=parsed.secrets or SECRETS[0],
        insecure=parsed.insecure,
        timeout=timeout_of(parsed),
    )
    try:
        print(purge(wanted, Report(quiet=parsed.quiet, debug=flags.debug)))
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(WHEN_INTERRUPTED) from interrupt
    return 0


def purge(wanted: Options, report: Report) -> str:
    """Gives the tag an image of the same sources, of one generation; returns `REPO@sha256:…`.

    Raises KontextError. The tag then shows what it showed before, or the new image.
    """
    tag = wanted.tag
    cache = open_cache()
    link = connected(report, insecure=wanted.insecure, timeout=wanted.timeout)
    with link as (registry, threads), Workers() as workers, cache.scratch() as folder:
        old = published.read(registry, threads, tag)
        lineage = _lineage(old, tag)
        below = _base(registry, wanted, lineage)
        if below.image.digest != lineage.base:
            report.alert(
                f"{tag} was built on {lineage.base}, and will be on {below.image.digest}, "
                f"which {wanted.base} is"
            )
        plan = make_plan(
            Fresh("purge"), below.wanted(lineage.platform, lineage.labels), old.manifest.tree
        )
        report.say(
            f"Reading {number(plan.tree.file_count, 'file')}, {size(plan.tree.size)}, "
            f"of generation {lineage.generation} from {tag}"
        )
        _fetch_all(registry, tag, old, folder)
        watched = wanted.secrets != "off"
        job = Job(registry, cache, workers, report.steps, tag, folder, below, watched)
        gate = Gate(wanted.secrets, folder, report)

        def approve(found: Sequence[Finding]) -> None:
            gate.check(found)
            if registry.digest(str(tag)) != old.image.digest:
                raise KontextError(
                    f"another push has replaced {tag} meanwhile; nothing was changed",
                    hint="Purge it again when nobody pushes.",
                )

        new, sent = upload(job, plan, approve)
        report.say(f"Published {tag} anew; uploaded {size(sent)}")
        report.tell(remaining(tag, _remains(registry, threads, tag, old, new)))
        tell_race(registry, tag, new.digest, old.image.digest, report)
    return tag.at(new.digest)


def _fetch_all(registry: Crane, tag: Reference, old: Previous, folder: str) -> None:
    """Writes the regular files into an empty private folder. No link is made there."""
    with Target(folder) as target:
        for directory in sorted(old.manifest.tree.directories()):
            target.make_directory(directory)
        if files := {file.path: file for file in files_of(old)}:
            fetch(registry, tag, old, target, files)


def _lineage(old: Previous, tag: Reference) -> Lineage:
    if old.manifest.lineage is None:
        raise KontextError(
            f"{tag} was made by Kontext's prototype, and does not say of what",
            hint="Push the directory again with --fresh.",
        )
    return old.manifest.lineage


def _base(registry: Crane, wanted: Options, lineage: Lineage) -> Base:
    """What the image was put upon. Raises KontextError where it cannot be told."""
    if wanted.base:
        return published.custom_base(registry, wanted.base, lineage.platform, MAX_LAYERS)
    for kind in (base.shipped, base.single_layer):
        if kind(lineage.platform).image.digest == lineage.base:
            return kind(lineage.platform)
    raise KontextError(
        f"{wanted.tag} was built on {lineage.base}, which this Kontext does not have",
        hint="Name its base with --base, as push was given it; or push the directory again "
        "with --fresh.",
    )


def _remains(
    registry: Crane, threads: Executor, tag: Reference, old: Previous, new: Image
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
    found = threads.map(lambda name: published.layers_of(registry, name), asked)
    gone = {layer.digest for layer in layers}
    showing = tuple(name for name, theirs in zip(asked, found, strict=True) if gone & theirs)
    return Remains(images, layers, showing, len(tags) - len(asked))
