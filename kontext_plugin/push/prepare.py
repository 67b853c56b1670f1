"""What a push is decided on: the scanned directory, what the registry has, and the plan of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as cache_result

from kontext_plugin import manifest
from kontext_plugin.cache.store import Cache, open_cache
from kontext_plugin.crane import Crane, connect
from kontext_plugin.crane_driver.errors import Damaged, NotFound, Refused
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import digest_of, settings_of
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.spec import ImageSpec, names_commit
from kontext_plugin.image.tree import Tree
from kontext_plugin.manifest import exceeds
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import BuildOn, StartFresh, lineage_of
from kontext_plugin.push.plan import Plan, make_plan, plan_afresh, plan_without
from kontext_plugin.push.publish import PushSession
from kontext_plugin.registry.base_image import Base, custom_base, shipped_base, single_layer_base
from kontext_plugin.registry.fetch import KontextImage, fetch_document, parse_image_manifest
from kontext_plugin.runtime.schema import IMAGE_CONFIG, load_document
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import git
from kontext_plugin.source.directory import open_source
from kontext_plugin.source.scan import Scan
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number, size


@dataclass(frozen=True)
class Prepared:
    job: PushSession
    found: Scan
    plan: Plan
    previous: KontextImage | StartFresh  # the image under the tag


@contextmanager
def prepare(options: PushOptions, report: Report) -> Iterator[Prepared]:
    """What is there, and what is to be made of it; in the block the job can be carried out.

    Raises KontextError.
    """
    steps = report.steps
    directory = open_source(
        options.directory,
        options.ignore_file,
        keep_git=options.keep_git,
        gitignore=options.gitignore,
    )
    root, cache = directory.root, open_cache(read_only=options.dry_run)
    link = connect(report, insecure=options.insecure, timeout=options.timeout)
    with link as (registry, threads), Workers() as workers:
        asked = threads.submit(_ask, registry, threads, cache, options, report)

        @cache_result
        def labels() -> Future[Mapping[str, str]]:
            return threads.submit(_git_labels, root, options, report)

        with steps.step("read the stat cache"):
            known = {} if options.fresh else cache.stats(root)
        if not known:  # else nothing may have changed, and then git is not needed
            labels()
        found = directory.scan(known, workers, report, cache)
        unchanged = found.stats == known
        if not unchanged:
            labels()
        with steps.step("wait for the registry"):
            below, previous = asked.result()
        watched = options.secrets != "off"
        job = PushSession(registry, cache, workers, steps, options.tags[0], root, below, watched)
        with steps.step("plan"):
            plan = _planned(previous, _wanted(below, options), found.tree, labels, unchanged)
            plan = _confirmed(job, plan, threads, report)
        if not unchanged:
            threads.submit(cache.save_stats, root, found.stats)
        yield Prepared(job, found, plan, previous)


def _ask(
    registry: Crane,
    threads: ThreadPoolExecutor,
    cache: Cache,
    options: PushOptions,
    report: Report,
) -> tuple[Base, KontextImage | StartFresh]:
    """What the push can build on, from the registry."""
    tag, platform = options.tags[0], options.platform
    if options.base:
        below = custom_base(registry, options.base, platform, options.max_layers)
    else:
        below = single_layer_base(platform) if options.single_layer else shipped_base(platform)
    if options.fresh:
        return below, StartFresh("--fresh was given")
    if options.reuse == "never":
        return below, StartFresh("--reuse never was given")
    with report.steps.step("ask the registry"):
        return below, find_parent(registry, threads, cache, tag)


def _git_labels(root: str, options: PushOptions, report: Report) -> Mapping[str, str]:
    if not options.git_labels:
        return {}
    with report.steps.step("git status"):
        return git.read_labels(root, report.debug)


def _wanted(below: Base, options: PushOptions) -> ImageSpec:
    return replace(
        below.wanted(options.platform, options.labels),
        max_layers=options.max_layers,
        always_reuse=options.reuse == "always",
    )


def _planned(
    previous: KontextImage | StartFresh,
    wanted: ImageSpec,
    tree: Tree,
    labels: Callable[[], Future[Mapping[str, str]]],
    unchanged: bool,
) -> Plan:
    """With git's labels, unless they make no difference: an unchanged tree may not need git."""
    if unchanged:
        plan = make_plan(previous, wanted, tree)
        if _is_settled(plan):
            return plan
    return make_plan(previous, replace(wanted, git_labels=labels().result()), tree)


def _is_settled(plan: Plan) -> bool:
    """Whether no labels of git's make another image of it."""
    if not (isinstance(plan.choice, BuildOn) and plan.up_to_date):
        return False
    return names_commit({**lineage_of(plan.choice.previous).labels, **plan.wanted.labels})


def _confirmed(job: PushSession, plan: Plan, threads: ThreadPoolExecutor, report: Report) -> Plan:
    """The plan, or the next best where it cannot be carried out. Raises KontextError."""
    while isinstance(plan.choice, BuildOn) and plan.choice.on_ancestor:
        choice = plan.choice
        problem = ancestor_problem(job.registry, threads, job.tag, choice, plan.wanted)
        if not problem:
            break
        report.info(f"Cannot build on generation {choice.ancestors[-1].generation}: {problem}")
        plan = plan_without(plan, choice)
    if plan.up_to_date:
        return plan
    too_large = exceeds(plan.tree, manifest.MAX_BYTES)
    if not too_large and plan.manifest_bytes <= manifest.MAX_BYTES:
        return plan
    if isinstance(plan.choice, BuildOn) and not too_large:  # it may say too much of its ancestors
        plan = plan_afresh(plan, "with its ancestors the manifest would be too large")
        return _confirmed(job, plan, threads, report)
    raise KontextError(
        f"{number(len(plan.tree.files), 'path')} make a manifest of more than "
        f"{size(manifest.MAX_BYTES)}, and Kontext reads none above that",
        hint="Leave directories out with the ignore file, or push them separately.",
    )


def find_parent(
    crane: Crane, threads: Executor, cache: Cache, tag: Reference
) -> KontextImage | StartFresh:
    """The image under `tag` with its sources, or why there is none to build on.

    Raises RegistryError if the registry cannot be asked.
    """
    try:
        document = crane.manifest(str(tag))
    except NotFound:
        return StartFresh("there is no image under the tag yet")
    except Refused:
        # Some registries refuse to read what does not exist yet. If they refuse writing as well,
        # the first request of the push tells.
        return StartFresh(f"{tag.registry} refuses to show the tag", refused=True)
    known = cache.published(str(tag), digest_of(document))
    if known is not None:
        return known
    try:
        return fetch_document(crane, threads, tag, document)
    except NotFound:
        return StartFresh("a part of the image is gone from the registry")
    except Damaged:
        return StartFresh("a part of the image is damaged in the registry")
    except ValueError as error:
        return StartFresh(f"the image under the tag is not one to build on: {error}")


def ancestor_problem(
    crane: Crane, threads: Executor, tag: Reference, choice: BuildOn, wanted: ImageSpec
) -> str:
    """Why the ancestor of `choice` cannot be built on, if it cannot.

    Its layers and configuration must be those that the image under the tag has taken over.
    Raises RegistryError if the registry cannot be asked.
    """
    name = tag.at(choice.image)
    try:
        if choice.image in choice.previous.known:
            crane.digest(name)
            return ""
        asked = threads.submit(crane.config, name)
        found = parse_image_manifest(crane.manifest(name))
        settings = settings_of(load_document(asked.result(), IMAGE_CONFIG))
    except NotFound:
        return "the registry does not have it"
    except (Damaged, ValueError):
        return "the registry has something else in its place"
    labels = lineage_of(choice.previous).labels  # the ancestor may have fewer, and other values
    own = {key: value for key, value in settings.get("Labels", {}).items() if key in labels}
    if found.layers != choice.layers or settings != wanted.settings(own):
        return "it is not what a later image says of it"
    return ""
