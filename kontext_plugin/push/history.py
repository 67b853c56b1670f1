"""The history of an image: the generations that its manifest and this machine's pushes know."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from kontext_plugin.cache import PushRecord, open_cache
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import NotFound
from kontext_plugin.delta import FileCounts, count_files, earlier_tree
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.reference import Reference, repository_of
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.registry.fetch import KontextImage, fetch


@dataclass(frozen=True)
class Generation:
    """One image of a tag's history."""

    number: int
    digest: Digest
    back: int | None  # as in Reference; None: before a fresh start
    time: str = ""  # when it was made or pushed (RFC 3339); "": unknown
    revision: str = ""  # the git commit that its label names
    counts: FileCounts | None = None  # since the next older one that is known; None: unknown
    bytes: int | None = None  # of its own layers, compressed; None: unknown


def resolve(crane: Crane, requests: Executor, name: Reference) -> Reference:
    """Return the reference by digest for one with `~N`, and any other as it is.

    Raises RegistryError: NotFound for a generation that is not known, too.
    """
    if not name.back:
        return name
    newest = replace(name, back=0)
    image = fetch(crane, requests, newest, with_history=True)
    for one in generations(image, newest, records_of(newest)):
        if one.back == name.back:
            return replace(newest, digest=one.digest)
    number = image.lineage.generation
    if name.back > number:
        what = f"there is no {name}: {newest} is generation {number}"
    else:
        what = f"nothing is known of {name}, generation {number - name.back}"
    raise NotFound(
        what,
        hint=f"Run 'docker kontext log {newest}' to list the generations that are known.",
    )


def records_of(name: Reference) -> list[PushRecord]:
    """Return this machine's pushes to a repository, the latest first."""
    pushed = open_cache(read_only=True).pushed()
    return [one for one in pushed if repository_of(one.reference) == name.repository]


def generations(
    image: KontextImage, name: Reference, records: Iterable[PushRecord]
) -> list[Generation]:
    """Return the known generations, the newest first.

    `image` was fetched with history, and `name` shows it. `records` are pushes to its repository,
    the latest first. Those to other tags only tell more of the generations that the manifest knows.
    """
    found = _of_manifest(image)
    known = {one.digest: place for place, one in enumerate(found)}
    earlier: list[Generation] = []
    newest, last, is_same_line = image.lineage.generation, image.lineage.generation, True
    for record in records:
        one = _of_record(record, newest)
        if (place := known.get(record.digest)) is not None:
            manifest = found[place]
            counts = one.counts if one.counts != FileCounts() else manifest.counts
            found[place] = replace(one, counts=counts, bytes=manifest.bytes)
            last = record.generation
        elif record.reference != str(name):
            continue
        elif is_same_line and record.generation <= last:
            found.append(one)
            last = record.generation
        else:
            is_same_line = False
            earlier.append(replace(one, back=None))
    found.sort(key=lambda one: -one.number)  # stable: pushes of labels alone stay in their order
    named: set[int] = set()
    for place, one in enumerate(found):
        if one.number in named:  # another image of the same sources: only its digest names it
            found[place] = replace(one, back=None)
        named.add(one.number)
    return found + earlier


def _back(newest: int, number: int) -> int | None:
    return newest - number if number <= newest else None  # a manifest may lie


def _of_record(record: PushRecord, newest: int) -> Generation:
    time = datetime.fromtimestamp(record.time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    counts = FileCounts(record.added, record.changed, record.removed)
    return Generation(
        record.generation,
        record.digest,
        _back(newest, record.generation),
        time,
        record.revision,
        counts,
        record.uploaded,
    )


def _of_manifest(image: KontextImage) -> list[Generation]:
    lineage, sources, config = image.lineage, image.sources, image.config
    assert config is not None  # fetched with history
    tree = image.manifest.tree
    found: list[Generation] = []
    number, digest = lineage.generation, image.digest
    time, revision, height = config.created, image.revision, len(sources)
    for ancestor in (*reversed(lineage.ancestors), None):
        below = ancestor.layers if ancestor else 0
        counts = None
        if ancestor and ancestor.reverse_delta is not None:
            counts = count_files(ancestor.reverse_delta, tree)
        elif not ancestor and number == 0:
            counts = FileCounts(added=tree.file_count)
        size = sum(layer.size for layer in sources[below:height])
        found.append(
            Generation(
                number, digest, _back(lineage.generation, number), time, revision, counts, size
            )
        )
        if ancestor is None:
            break
        tree = earlier_tree(ancestor.reverse_delta or ReverseDelta(), tree)
        number, digest, height = ancestor.generation, ancestor.image, ancestor.layers
        time, revision = ancestor.created, ancestor.revision
    return found
