"""What a push is decided on: the scanned directory, what the registry has, and the plan of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as cache_result

from kontext_plugin import base, git, manifest, published
from kontext_plugin.base import Base
from kontext_plugin.base_choice import Fresh, Previous, Reuse, Wanted, lineage_of
from kontext_plugin.cache import Cache, open_cache
from kontext_plugin.commands.directory import source
from kontext_plugin.commands.push_arguments import Options
from kontext_plugin.commands.registry import connected
from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.listing import exceeds
from kontext_plugin.plan import Plan, make_plan, plan_afresh, plan_without
from kontext_plugin.provenance import names_commit
from kontext_plugin.report import Report
from kontext_plugin.scan import Scan
from kontext_plugin.text import number, size
from kontext_plugin.tree import Tree
from kontext_plugin.upload import Job
from kontext_plugin.workers import Workers


@dataclass(frozen=True)
class Prepared:
    job: Job
    found: Scan
    plan: Plan
    previous: Previous | Fresh  # the image under the tag


@contextmanager
def prepared(options: Options, report: Report) -> Iterator[Prepared]:
    """What is there, and what is to be made of it; in the block the job can be carried out.

    Raises KontextError.
    """
    steps = report.steps
    directory = source(
        options.directory,
        options.ignore_file,
        keep_git=options.keep_git,
        gitignore=options.gitignore,
    )
    root, cache = directory.root, open_cache(read_only=options.dry_run)
    link = connected(report, insecure=options.insecure, timeout=options.timeout)
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
        job = Job(registry, cache, workers, steps, options.tags[0], root, below, watched)
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
    options: Options,
    report: Report,
) -> tuple[Base, Previous | Fresh]:
    """What the push can build on, from the registry."""
    tag, platform = options.tags[0], options.platform
    if options.base:
        below = published.custom_base(registry, options.base, platform, options.max_layers)
    else:
        below = base.single_layer(platform) if options.single_layer else base.shipped(platform)
    if options.fresh:
        return below, Fresh("--fresh was given")
    if options.reuse == "never":
        return below, Fresh("--reuse never was given")
    with report.steps.step("ask the registry"):
        return below, published.previous(registry, threads, cache, tag)


def _git_labels(root: str, options: Options, report: Report) -> Mapping[str, str]:
    if not options.git_labels:
        return {}
    with report.steps.step("git status"):
        return git.labels(root, report.trace)


def _wanted(below: Base, options: Options) -> Wanted:
    return replace(
        below.wanted(options.platform, options.labels),
        max_layers=options.max_layers,
        always_reuse=options.reuse == "always",
    )


def _planned(
    previous: Previous | Fresh,
    wanted: Wanted,
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
    if not (isinstance(plan.choice, Reuse) and plan.up_to_date):
        return False
    return names_commit({**lineage_of(plan.choice.previous).labels, **plan.wanted.labels})


def _confirmed(job: Job, plan: Plan, threads: ThreadPoolExecutor, report: Report) -> Plan:
    """The plan, or the next best where it cannot be carried out. Raises KontextError."""
    while isinstance(plan.choice, Reuse) and plan.choice.on_ancestor:
        choice = plan.choice
        problem = published.ancestor_problem(job.registry, threads, job.tag, choice, plan.wanted)
        if not problem:
            break
        report.say(f"Cannot build on generation {choice.ancestors[-1].generation}: {problem}")
        plan = plan_without(plan, choice)
    if plan.up_to_date:
        return plan
    too_large = exceeds(plan.tree, manifest.MAX_BYTES)
    if not too_large and plan.manifest_bytes <= manifest.MAX_BYTES:
        return plan
    if isinstance(plan.choice, Reuse) and not too_large:  # it may say too much of its ancestors
        plan = plan_afresh(plan, "with its ancestors the manifest would be too large")
        return _confirmed(job, plan, threads, report)
    raise KontextError(
        f"{number(len(plan.tree.files), 'path')} make a manifest of more than "
        f"{size(manifest.MAX_BYTES)}, and Kontext reads none above that",
        hint="Leave directories out with the ignore file, or push them separately.",
    )
