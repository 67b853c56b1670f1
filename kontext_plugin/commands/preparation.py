"""What a push is decided on: the scanned directory, what the registry has, and the plan of both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache as cache_result

from kontext_plugin import base, crane, git, ignore, manifest, published
from kontext_plugin.base import Base
from kontext_plugin.base_choice import Fresh, Previous, Reuse, Wanted, lineage_of
from kontext_plugin.cache import Cache, open_cache
from kontext_plugin.commands.push_arguments import Options
from kontext_plugin.commands.push_messages import scanned
from kontext_plugin.crane import Crane
from kontext_plugin.errors import KontextError
from kontext_plugin.listing import exceeds
from kontext_plugin.plan import Plan, make_plan, plan_afresh, plan_without
from kontext_plugin.provenance import names_commit
from kontext_plugin.report import Report, number, size
from kontext_plugin.scan import Scan, scan
from kontext_plugin.sources import read_file
from kontext_plugin.steps import Steps
from kontext_plugin.upload import Job
from kontext_plugin.workers import Workers

IGNORE_FILES = (".kontextignore", ".dockerignore")
IGNORE_FILE_BYTES = 1024 * 1024

_REQUESTS = 6
"""At once, as crane itself does at most."""


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
    root = source_directory(options.directory)
    rules = ignore_rules(root, options.ignore_file)
    cache = open_cache(read_only=options.dry_run)
    tag = options.tags[0]
    registry = crane.find(options.insecure, report.trace, options.timeout)
    with idle_threads() as threads, Workers() as workers, registry:
        asked = threads.submit(_ask, registry, threads, cache, options, steps)
        not_ignored = None
        if options.gitignore:
            with steps.step("git ls-files"):
                not_ignored = git.not_ignored(root, report.trace)
        with steps.step("read the stat cache"):
            known = {} if options.fresh else cache.stats(root)

        @cache_result
        def labelled() -> Future[Mapping[str, str]]:
            return threads.submit(_git_labels, root, options, report, steps)

        if not known:  # else nothing may have changed, and then git is not needed
            labelled()
        found = scan(
            root,
            rules,
            known,
            workers,
            steps,
            keep_git=options.keep_git,
            without=path_within(root, cache.root),
            not_ignored=not_ignored,
        )
        unchanged = found.stats == known
        if not unchanged:
            labelled()
        for item in found.special:
            report.warn(f"{item.path!r} is {item.what} and was left out")
        report.say(scanned(found))
        with steps.step("wait for the registry"):
            below, previous = asked.result()
        wanted = Wanted(
            base=below.image.digest,
            below=below.layers,
            extractor=below.extractor,
            platform=options.platform,
            labels=options.labels,
            settings=below.settings_with,
            max_layers=options.max_layers,
            single_layer=options.single_layer,
            always_reuse=options.reuse == "always",
        )
        job = Job(registry, cache, workers, steps, tag, root, below)
        with steps.step("plan"):
            plan = make_plan(previous, wanted, found.tree) if unchanged else None
            if plan is None or not _is_settled(plan):
                wanted = replace(wanted, git_labels=labelled().result())
                plan = make_plan(previous, wanted, found.tree)
            plan = _confirmed(job, plan, threads, report)
        if not unchanged:
            threads.submit(cache.save_stats, root, found.stats)
        yield Prepared(job, found, plan, previous)


def _ask(
    registry: Crane,
    threads: ThreadPoolExecutor,
    cache: Cache,
    options: Options,
    steps: Steps,
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
    with steps.step("ask the registry"):
        return below, published.previous(registry, threads, cache, tag)


def _git_labels(root: str, options: Options, report: Report, steps: Steps) -> Mapping[str, str]:
    if not options.git_labels:
        return {}
    with steps.step("git status"):
        return git.labels(root, report.trace)


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
        hint="Leave directories out with .kontextignore, or push them separately.",
    )


def source_directory(directory: str) -> str:
    """The real path of the source directory. Raises KontextError."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise KontextError(
            "the current directory does not exist any more", hint="Change to one that does."
        ) from error
    if not os.path.exists(directory):
        raise KontextError(f"{directory!r} does not exist", hint="Name the directory to upload.")
    if not os.path.isdir(directory):
        raise KontextError(
            f"{directory!r} is not a directory", hint="Kontext uploads whole directories."
        )
    return os.path.realpath(directory)


def path_within(root: str, folder: str | None) -> str:
    """The path of `folder` within `root`, or "" if it lies elsewhere."""
    top = root.rstrip("/") + "/"
    return folder.removeprefix(top) if folder and folder.startswith(top) else ""


def ignore_file(root: str, chosen: str) -> str:
    """Where to add a rule: the chosen ignore file, or the one that a directory has or should."""
    own = (name for name in IGNORE_FILES if os.path.exists(os.path.join(root, name)))
    return chosen or next(own, IGNORE_FILES[0])


def ignore_rules(root: str, chosen: str) -> ignore.IgnoreRules:
    """The rules of the chosen ignore file, or of the directory's own. Raises KontextError."""
    candidates = [chosen] if chosen else [os.path.join(root, name) for name in IGNORE_FILES]
    for path in candidates:
        try:
            content = read_file(path, IGNORE_FILE_BYTES)
            return ignore.parse(content.decode("utf-8", "surrogateescape"), path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise KontextError(f"the ignore file {path!r} cannot be used: {why}") from error
    if chosen:
        raise KontextError(f"the ignore file {chosen!r} does not exist")
    return ignore.IgnoreRules()


@contextmanager
def idle_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for the registry and write the cache."""
    threads = ThreadPoolExecutor(_REQUESTS)
    try:
        yield threads
    except BaseException:
        # Whoever waits ends with the process.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()
