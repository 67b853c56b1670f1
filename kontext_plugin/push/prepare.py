"""Prepare a push: the directory's tree, the image under the tag, and the plan that follows.

The registry answers while the directory is scanned, and git while both go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace

from kontext_plugin import manifest
from kontext_plugin.cache import Cache
from kontext_plugin.crane import Crane, connect
from kontext_plugin.crane_driver.errors import Damaged, NotFound, Refused
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import config_from_document, digest_of
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.spec import BaseImage, ImageSpec, names_commit
from kontext_plugin.image.tree import Tree
from kontext_plugin.manifest import exceeds
from kontext_plugin.push.messages import report_scan
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import BuildOn, StartFresh, lineage_of
from kontext_plugin.push.partition import Partition, manifest_bytes, partition
from kontext_plugin.push.plan import Plan, make_plan, plan_fresh, plan_without_ancestor
from kontext_plugin.registry.base_image import (
    config_on,
    fetch_base,
    shipped_base,
    single_layer_base,
)
from kontext_plugin.registry.fetch import (
    InvalidImage,
    KontextImage,
    fetch_by_document,
    parse_image,
)
from kontext_plugin.runtime.schema import IMAGE_CONFIG, load_document
from kontext_plugin.runtime.workers import Workers, thread_pool
from kontext_plugin.source import git
from kontext_plugin.source.directory import SourceDirectory, open_source
from kontext_plugin.source.scan import Scan
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.steps import StepName
from kontext_plugin.terminal.text import number, size

_JOBS = 3
"""Background jobs: the question to the registry, git's labels, and saving the stat cache."""


@dataclass(frozen=True)
class PushSession:
    """What a push works with: tools, and no decisions."""

    crane: Crane
    requests: Executor  # for one request each; a request waits for nothing on either pool
    jobs: Executor  # for work that may wait for requests
    workers: Workers
    cache: Cache
    report: Report


@contextmanager
def open_session(
    report: Report, cache: Cache, *, insecure: bool, timeout: float
) -> Iterator[PushSession]:
    """Yield a session. Nothing that it has started goes on after the block.

    `timeout` is in seconds without progress, 0 for none. Raises KontextError.
    """
    link = connect(report.debug, insecure=insecure, timeout=timeout)
    with link as (crane, requests), thread_pool(_JOBS) as jobs, Workers() as workers:
        yield PushSession(crane, requests, jobs, workers, cache, report)


@dataclass(frozen=True)
class Prepared:
    """All that is decided before anything is written."""

    source: SourceDirectory
    scan: Scan
    tag_image: KontextImage | StartFresh
    plan: Plan
    partition: Partition | None  # None: the plan is up to date


def prepare(session: PushSession, options: PushOptions) -> Prepared:
    """Read the directory and the image under the first tag, and plan the push.

    Raises KontextError.
    """
    report, cache = session.report, session.cache
    source = open_source(
        options.directory,
        options.ignore_file,
        keep_git=options.keep_git,
        gitignore=options.gitignore,
    )
    answer = session.jobs.submit(_ask_registry, session, options)
    labels = _GitLabels(session, source.root, wanted=options.git_labels)

    with report.steps.step(StepName.READ_STAT_CACHE):
        known = {} if options.fresh else cache.stats(source.root)
    if not known:  # else nothing may have changed, and then git is not needed
        labels.ask()
    scan = source.scan(known, session.workers, report.steps, report.debug, cache=cache.root)
    report_scan(scan, report)
    is_unchanged = scan.stats == known
    if not is_unchanged:
        labels.ask()

    with report.steps.step(StepName.WAIT_FOR_REGISTRY):
        base, tag_image = answer.result()
    spec = image_spec(base, options)
    with report.steps.step(StepName.PLAN):
        plan = _plan(tag_image, spec, scan.tree, labels, is_unchanged)
        plan, divided = _check_plan(session, options.tags[0], plan)
    if not is_unchanged:
        session.jobs.submit(cache.save_stats, source.root, scan.stats)
    return Prepared(source, scan, tag_image, plan, divided)


# --- What the registry says ---


def _ask_registry(
    session: PushSession, options: PushOptions
) -> tuple[BaseImage, KontextImage | StartFresh]:
    """Return the base, and the image under the first tag."""
    if options.base:
        base = fetch_base(session.crane, options.base, options.platform, options.max_layers)
    elif options.single_layer:
        base = single_layer_base(options.platform)
    else:
        base = shipped_base(options.platform)
    if options.fresh:
        return base, StartFresh("--fresh was given", is_ordinary=True)
    if options.reuse == "never":
        return base, StartFresh("--reuse never was given", is_ordinary=True)
    with session.report.steps.step(StepName.ASK_REGISTRY):
        return base, find_tag_image(session.crane, session.requests, session.cache, options.tags[0])


def find_tag_image(
    crane: Crane, requests: Executor, cache: Cache, tag: Reference
) -> KontextImage | StartFresh:
    """Return the image under a tag, or why there is none to build on.

    Raises RegistryError if the registry cannot be asked.
    """
    try:
        document = crane.manifest(str(tag))
    except NotFound:
        return StartFresh("there is no image under the tag yet", is_ordinary=True)
    except Refused:
        # Some registries refuse to read an image that does not exist yet. If this one refuses to
        # write as well, the first request of the push tells.
        return StartFresh(f"{tag.registry} refuses to show the tag", is_refused=True)
    cached = cache.published(str(tag), digest_of(document))
    if cached is not None:
        return cached
    try:
        return fetch_by_document(crane, requests, tag, document, with_history=True)
    except NotFound:
        return StartFresh("a part of the image is gone from the registry")
    except Damaged:
        return StartFresh("a part of the image is damaged in the registry")
    except InvalidImage as error:
        return StartFresh(f"cannot build on the image under the tag: {error.reason}")


# --- What git says ---


class _GitLabels:
    """git's labels of a directory, asked for in the background and at most once."""

    def __init__(self, session: PushSession, root: str, *, wanted: bool) -> None:
        self._session = session
        self._root = root
        self._wanted = wanted
        self._answer: Future[Mapping[str, str]] | None = None

    def ask(self) -> Future[Mapping[str, str]]:
        """Start git, unless it was started before."""
        if self._answer is None:
            self._answer = self._session.jobs.submit(self._read)
        return self._answer

    def _read(self) -> Mapping[str, str]:
        if not self._wanted:
            return {}
        with self._session.report.steps.step(StepName.GIT_STATUS):
            return git.read_labels(self._root, self._session.report.debug)


# --- What is asked for, and what follows ---


def image_spec(base: BaseImage, options: PushOptions) -> ImageSpec:
    """Return what the options ask for. git's labels are added when they are known."""
    return ImageSpec(
        platforms=frozenset({options.platform}),
        base=base,
        config=config_on(base),
        labels=options.labels,
        max_layers=options.max_layers,
        always_reuse=options.reuse == "always",
    )


def _plan(
    tag_image: KontextImage | StartFresh,
    spec: ImageSpec,
    tree: Tree,
    labels: _GitLabels,
    is_unchanged: bool,
) -> Plan:
    """Plan with git's labels, unless they make no difference: an unchanged tree may need no git."""
    if is_unchanged:
        plan = make_plan(tag_image, spec, tree)
        if _is_settled(plan):
            return plan
    return make_plan(tag_image, replace(spec, git_labels=labels.ask().result()), tree)


def _is_settled(plan: Plan) -> bool:
    """Whether the image is up to date whatever git's labels are."""
    if not (isinstance(plan.parent, BuildOn) and plan.is_up_to_date):
        return False
    return names_commit({**lineage_of(plan.parent.tag_image).labels, **plan.spec.labels})


def _check_plan(session: PushSession, tag: Reference, plan: Plan) -> tuple[Plan, Partition | None]:
    """Return the plan, or the next best one where it cannot be carried out, with its partition.

    Raises KontextError for a tree that is too large.
    """
    while isinstance(plan.parent, BuildOn) and plan.parent.is_ancestor:
        choice = plan.parent
        problem = _ancestor_problem(session, tag, choice, plan.spec)
        if not problem:
            break
        session.report.info(f"Cannot build on generation {choice.parent.generation}: {problem}")
        plan = plan_without_ancestor(plan, choice)
    if plan.is_up_to_date:
        return plan, None
    if not exceeds(plan.tree, manifest.MAX_BYTES):
        divided = partition(plan)
        if manifest_bytes(plan, divided) <= manifest.MAX_BYTES:
            return plan, divided
        if isinstance(plan.parent, BuildOn):  # its ancestors may take the room
            fresh = StartFresh("with its ancestors the manifest would be too large")
            return _check_plan(session, tag, plan_fresh(fresh, plan.spec, plan.tree))
    raise KontextError(
        f"{number(len(plan.tree.files), 'path')} need a manifest larger than "
        f"{size(manifest.MAX_BYTES)}, the limit of Kontext",
        hint="Exclude directories with the ignore file, or push them separately.",
    )


def _ancestor_problem(
    session: PushSession, tag: Reference, choice: BuildOn, spec: ImageSpec
) -> str:
    """Return why the chosen ancestor cannot be the parent; "" if it can.

    The tag's image has taken over its layers and configuration. Raises RegistryError if the
    registry cannot be asked.
    """
    crane, name = session.crane, tag.at(choice.parent.image)
    try:
        if choice.parent.image in choice.tag_image.known:
            crane.digest(name)
            return ""
        answer = session.requests.submit(crane.config, name)
        image = parse_image(crane.manifest(name))
        config = config_from_document(load_document(answer.result(), IMAGE_CONFIG))
    except NotFound:
        return "the registry does not have it"
    except (Damaged, ValueError):
        return "the registry has something else in its place"
    # The ancestor may have fewer labels, and other values.
    shared = lineage_of(choice.tag_image).labels.keys()
    labels = {key: value for key, value in config.labels.items() if key in shared}
    digests = [layer.digest for layer in image.layers]
    if digests != [layer.digest for layer in choice.layers] or (
        config != spec.config.with_labels(labels)
    ):
        return "it does not match what the image under the tag says about it"
    return ""
