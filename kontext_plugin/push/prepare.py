"""Prepare a push: the directory's tree, the images to build on, and the plan that follows.

The registry answers while the directory is scanned, and git while both go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from kontext_plugin import manifest
from kontext_plugin.cache import Cache
from kontext_plugin.errors import KontextError
from kontext_plugin.image.assembly import Assembly, assemble
from kontext_plugin.image.listing import list_tree
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.spec import BaseImage, ImageSpec, names_commit
from kontext_plugin.image.tree import Tree
from kontext_plugin.push.find import Found, find_images
from kontext_plugin.push.layers import write_one
from kontext_plugin.push.messages import report_scan
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import BuildOn, StartFresh
from kontext_plugin.push.partition import Partition, manifest_bytes, partition, partition_unread
from kontext_plugin.push.plan import Plan, counted_since, make_plan, plan_fresh
from kontext_plugin.push.preflight import Preflight
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.base_image import fetch_bases, shipped_base
from kontext_plugin.source import git
from kontext_plugin.source.directory import SourceDirectory, open_source
from kontext_plugin.source.entries import list_all
from kontext_plugin.source.scan import MANY, Scan
from kontext_plugin.source.snapshot import Snapshot, forget
from kontext_plugin.terminal.steps import StepName
from kontext_plugin.terminal.text import number, size

READ_ONCE = 64 * 1024 * 1024
"""Bytes of files. The first push of so many makes several layers, and reads each file once."""

_SOON = 0.5
"""Seconds. A directory that takes longer to scan makes a large push, which is refused early."""


@dataclass(frozen=True)
class Prepared:
    """What a push knows before it writes anything."""

    source: SourceDirectory
    scan: Scan
    found: Found
    plan: Plan
    partition: Partition | None  # None: no layer is needed
    assembly: Assembly | None  # the image, if no layer is needed

    @property
    def bytes_to_write(self) -> int:
        """The bytes of the files in the new layers, uncompressed."""
        if self.partition is None:
            return 0
        return self.plan.tree.size_of(chain(self.partition.top, *self.partition.lower))

    @property
    def is_up_to_date(self) -> bool:
        """Whether all tags show the wanted image already."""
        return self.assembly is not None and not self.found.tags_to_write(self.assembly.digest)


def prepare(session: PushSession, options: PushOptions) -> Prepared:
    """Read the directory, find the images to build on, and plan the push.

    Raises KontextError.
    """
    report, cache = session.report, session.cache
    source = open_pushed(options)
    answer = session.jobs.submit(_ask_registry, session, options, source.root)
    labels = _GitLabels(session, source.root, wanted=options.git_labels)

    if not options.fresh and cache.snapshot_size(source.root) >= MANY:
        session.jobs.submit(session.workers.start, list_all)
    with report.steps.step(StepName.READ_STAT_CACHE):
        known = Snapshot() if options.fresh else cache.snapshot(source.root)
    needs_git = bool(options.provenance)
    if needs_git or not known.records:  # else nothing may have changed, and then git is not needed
        labels.ask()
    scanning = session.jobs.submit(
        source.scan,
        known,
        session.workers,
        report.steps,
        report.debug,
        cache=cache.root,
        leave=partial(_is_first, answer),
        tell=labels.ask,
    )
    preflight = Preflight(session)
    wait((scanning,), _SOON)
    if not scanning.done() and not options.dry_run:
        _, found = answer.result()
        new = [tag for tag, digest in found.shown.items() if not digest]
        preflight.check_uploads(found, new)
    scan = scanning.result()
    if scan.unread:  # its layers are written as soon as they are planned
        session.jobs.submit(session.workers.start, write_one)
    report_scan(scan, report)
    is_unchanged = scan.is_unchanged
    if not is_unchanged:
        labels.ask()

    with report.steps.step(StepName.WAIT_FOR_REGISTRY):
        bases, found = answer.result()
    with report.steps.step(StepName.PLAN):
        spec = image_spec(bases, options, cache)
        plan = _plan(found, spec, scan.tree, labels, may_skip_git=is_unchanged and not needs_git)
        prepared = _complete(source, scan, found, plan)
    if not options.dry_run:
        preflight.check(found, prepared.bytes_to_write)
    if not (is_unchanged or scan.unread):
        session.saves.submit(cache.save_snapshot, source.root, scan.snapshot)
    return prepared


def open_pushed(options: PushOptions) -> SourceDirectory:
    """Return the directory of a push, with its ignore rules. Raises KontextError."""
    return open_source(
        options.directory,
        options.ignore_file,
        keep_git=options.keep_git,
        gitignore=options.gitignore,
    )


def _is_first(answer: Future[tuple[tuple[BaseImage, ...], Found]], size: int) -> bool:
    """Whether a push of files of so many bytes needs no digests before it writes its layers."""
    if size < READ_ONCE:
        return False
    _, found = answer.result()
    return not found.candidates and found.tag_image is None


def take_scan(session: PushSession, prepared: Prepared, scan: Scan) -> Prepared:
    """Return what to push, by the complete scan of a directory that was unread."""
    source, found, plan = prepared.source, prepared.found, prepared.plan
    assert isinstance(plan.parent, StartFresh)
    session.saves.submit(session.cache.save_snapshot, source.root, scan.snapshot)
    spec = plan.spec
    if scan.was_edited:  # maybe after git has answered
        spec = _ask_git_again(session, source, spec)
    with session.report.steps.step(StepName.PLAN):
        if scan.was_edited:
            return _complete(source, scan, found, plan_fresh(plan.parent, spec, scan.tree))
        plan = replace(plan, tree=scan.tree)  # the same paths and sizes, now with digests
        return _complete(source, scan, found, plan, prepared.partition)


def take_next(prepared: Prepared, fresh: StartFresh) -> Prepared:
    """Return what to push where the registry lacks layers of the parent: on another candidate.

    `fresh` is the reason if there is none. Raises KontextError.
    """
    plan, found = prepared.plan, prepared.found
    rest = tuple(one for one in found.candidates if one is not plan.candidate)
    found = replace(found, candidates=rest)
    plan = make_plan(rest, fresh, plan.spec, plan.tree)
    return _complete(prepared.source, prepared.scan, found, plan)


def start_fresh(prepared: Prepared, fresh: StartFresh) -> Prepared:
    """Return what to push where the parent turns out to be unusable. Raises KontextError."""
    plan = plan_fresh(fresh, prepared.plan.spec, prepared.plan.tree)
    return _complete(prepared.source, prepared.scan, prepared.found, plan)


def scan_again(
    session: PushSession, prepared: Prepared, moved: str = "", copies: str = ""
) -> Prepared:
    """Return what to push now that the file `moved` is not as the scan saw it.

    Copies of the files that this scan reads go into the directory `copies`. Raises KontextError.
    """
    source, found, plan = prepared.source, prepared.found, prepared.plan
    report, cache = session.report, session.cache
    # It is read even if it looks the same: not every file system tells of each change.
    known = forget(prepared.scan.snapshot, moved)
    scan = source.scan(
        known, session.workers, report.steps, report.debug, cache=cache.root, copies=copies
    )
    spec = _ask_git_again(session, source, plan.spec)
    with report.steps.step(StepName.PLAN):
        if isinstance(plan.parent, StartFresh):
            plan = plan_fresh(plan.parent, spec, scan.tree)
        else:
            plan = make_plan(found.candidates, found.fresh, spec, scan.tree)
        session.saves.submit(cache.save_snapshot, source.root, scan.snapshot)
        return _complete(source, scan, found, plan)


def _complete(
    source: SourceDirectory,
    scan: Scan,
    found: Found,
    plan: Plan,
    unread: Partition | None = None,
) -> Prepared:
    """Divide the plan's new content; `unread` is as in `partition`. Raises KontextError."""
    if scan.unread:
        return Prepared(source, scan, found, plan, partition_unread(plan), None)
    plan, divided = _check_size(plan, unread)
    if found.tag_image is not None and found.tag_image is not plan.found_image:
        plan = counted_since(plan, found.tag_image.manifest.tree)
    assembly = None
    if plan.sources and plan.found_image:
        replaces = plan.found_image.image.replaces
        assembly = assemble(plan.spec, plan.sources, plan.labels, replaces)
    return Prepared(source, scan, found, plan, divided, assembly)


def _ask_registry(
    session: PushSession, options: PushOptions, root: str
) -> tuple[tuple[BaseImage, ...], Found]:
    """Return the base for each platform, and the images to build on."""
    with session.report.steps.step(StepName.ASK_REGISTRY):
        found = find_images(session, options, root)
        platforms = options.platforms or _platforms_of(found)
        if not options.base:
            return tuple(map(shipped_base, platforms)), found
        bases = fetch_bases(
            session.crane, session.requests, options.base, platforms, options.max_layers
        )
        return bases, found


def _platforms_of(found: Found) -> tuple[str, ...]:
    """Return the platforms of the image under the tag, or the default one."""
    shown = found.tag_image.all_platforms if found.tag_image else ()
    return tuple(platform for platform in PLATFORMS if platform in shown) or PLATFORMS[:1]


# --- What git says ---


class _GitLabels:
    """git's labels of a directory, asked for in the background and at most once."""

    def __init__(self, session: PushSession, root: str, *, wanted: bool) -> None:
        self._session = session
        self._root = root
        self._wanted = wanted
        self._answer: Future[Mapping[str, str]] | None = None

    def ask(self, changed: Sequence[str] = ()) -> Future[Mapping[str, str]]:
        """Start git, unless it was started before. `changed` has paths that may be uncommitted."""
        if self._answer is None:
            self._answer = self._session.jobs.submit(self._read, changed)
        return self._answer

    def _read(self, changed: Sequence[str]) -> Mapping[str, str]:
        if not self._wanted:
            return {}
        with self._session.report.steps.step(StepName.GIT_STATUS):
            report = self._session.report
            return git.read_labels(self._root, report.debug, report.warning, changed)


def _ask_git_again(session: PushSession, source: SourceDirectory, spec: ImageSpec) -> ImageSpec:
    labels = _GitLabels(session, source.root, wanted=spec.keep_git_labels)
    return replace(spec, git_labels=labels.ask().result())


# --- What is asked for, and what follows ---


def image_spec(bases: tuple[BaseImage, ...], options: PushOptions, cache: Cache) -> ImageSpec:
    """Return what the options ask for. git's labels are added when they are known."""
    return ImageSpec(
        bases=bases,
        labels=options.labels,
        keep_git_labels=options.git_labels,
        single_layer=options.single_layer,
        max_layers=options.max_layers,
        compression=options.compression,
        always_reuse=options.reuse == "always",
        trusted=cache.layers("written") if options.reuse == "own" else None,
        created=options.created,
    )


def _plan(
    found: Found,
    spec: ImageSpec,
    tree: Tree,
    labels: _GitLabels,
    *,
    may_skip_git: bool,
) -> Plan:
    """Plan with git's labels, unless they make no difference: an unchanged tree may need no git."""
    plan = make_plan(found.candidates, found.fresh, spec, tree)
    if may_skip_git and plan.sources and names_commit(plan.labels):
        return plan
    return replace(plan, spec=replace(spec, git_labels=labels.ask().result()))


def _check_size(plan: Plan, unread: Partition | None = None) -> tuple[Plan, Partition | None]:
    """Return the plan, or a fresh one where its manifest would be too large, with its partition.

    Raises KontextError for a tree that is too large.
    """
    if plan.sources:
        return plan, None
    if list_tree(plan.tree).length <= manifest.MAX_BYTES:
        divided = partition(plan, unread)
        if manifest_bytes(plan, divided) <= manifest.MAX_BYTES and not any(
            len(document) > manifest.MAX_DOCUMENT for document in divided.documents.values()
        ):
            return plan, divided
        if isinstance(plan.parent, BuildOn):  # its ancestors may take the room
            fresh = StartFresh("with its ancestors the manifest would be too large")
            return _check_size(plan_fresh(fresh, plan.spec, plan.tree))
    raise KontextError(
        f"{number(len(plan.tree.files), 'path')} need a manifest larger than "
        f"{size(manifest.MAX_BYTES)}, the limit of Kontext",
        hint="Exclude directories with the ignore file, or push them separately.",
    )
