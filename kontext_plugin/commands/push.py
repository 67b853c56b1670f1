"""`docker kontext push`: uploads a directory, or what changed of it since the tag's image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from kontext_plugin import base, crane, ignore, manifest, published
from kontext_plugin.base import Base
from kontext_plugin.base_choice import Fresh, Previous, Reuse, Wanted, mismatch
from kontext_plugin.cache import Cache, open_cache
from kontext_plugin.commands.push_arguments import Options, parse
from kontext_plugin.commands.push_messages import built_on, scanned, weighed
from kontext_plugin.crane import Crane
from kontext_plugin.crane_errors import NotFound, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Digest
from kontext_plugin.listing import exceeds
from kontext_plugin.options import Globals
from kontext_plugin.plan import Plan, make_plan, plan_afresh, plan_without
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report, Timings, number, size
from kontext_plugin.scan import scan
from kontext_plugin.sources import read_file
from kontext_plugin.upload import Job, upload, write_layers
from kontext_plugin.workers import Workers

IGNORE_FILES = (".kontextignore", ".dockerignore")
IGNORE_FILE_BYTES = 1024 * 1024

_REQUESTS = 6
"""At once, as crane itself does at most."""

_COURTESY = 5.0
"""Seconds for a question after the push is done."""


def main(arguments: Sequence[str], flags: Globals) -> int:
    options, quiet = parse(arguments)
    image = push(options, Report(quiet=quiet, debug=flags.debug))
    if image:
        print(image)
    return 0


def push(options: Options, report: Report) -> str:
    """Publishes the directory under the tags; returns `REPO@sha256:…`, or "" for a dry run.

    Raises KontextError. Each tag then shows what it showed before, or the new image.
    """
    timings = Timings()
    root = _directory(options.directory)
    rules = _rules(root, options.ignore_file)
    cache = open_cache(read_only=options.dry_run)
    tag = options.tags[0]
    registry = crane.find(options.insecure, report.trace, options.timeout)
    with _threads() as threads, Workers() as workers, registry:
        asked = threads.submit(_ask, registry, threads, cache, options, timings)
        with timings.step("read the stat cache"):
            known = {} if options.fresh else cache.stats(root)
        with timings.step("scan"):
            without = _below(cache.root, root)
            found = scan(root, rules, known, workers, keep_git=options.keep_git, without=without)
        for item in found.special:
            report.warn(f"{item.path!r} is {item.what} and was left out")
        report.say(scanned(found))
        with timings.step("wait for the registry"):
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
        job = Job(registry, cache, workers, timings, tag, root, below)
        with timings.step("plan"):
            plan = _confirmed(job, make_plan(previous, wanted, found.tree), threads, report)
        if options.dry_run:
            _tell_dry_run(job, plan, previous, report)
            return ""
        if found.stats != known:
            threads.submit(cache.save_stats, root, found.stats)
        if isinstance(plan.choice, Reuse) and plan.up_to_date:
            image = plan.choice.previous.image.digest
            _remember(cache, tag, plan.choice.previous)
            report.say(f"Nothing changed: {tag} is up to date, nothing uploaded")
        else:
            image = _publish(job, plan, report)
        for other in options.tags[1:]:
            _add_tag(registry, tag, image, other)
            report.say(f"Tagged {other}")
        if not plan.up_to_date:
            with timings.step("look at the tag again"):
                _tell_race(registry, tag, plan, image, report)
    if options.timings:
        report.tell(f"It took\n{timings}")
    return tag.at(image)


def _ask(
    registry: Crane,
    threads: ThreadPoolExecutor,
    cache: Cache,
    options: Options,
    timings: Timings,
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
    with timings.step("ask the registry"):
        return below, published.previous(registry, threads, cache, tag)


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


def _publish(job: Job, plan: Plan, report: Report) -> Digest:
    """Uploads as planned or, where the registry lacks layers, afresh."""
    report.say(built_on(job.tag, plan))
    try:
        image, sent = upload(job, plan)
    except NotFound:
        if isinstance(plan.choice, Fresh):
            raise
        afresh = plan_afresh(plan, "layers of the image are gone from the registry")
        return _publish(job, afresh, report)
    report.say(f"Pushed {job.tag}: {plan.describe()}; uploaded {size(sent)}")
    return image.digest


def _remember(cache: Cache, tag: Reference, previous: Previous) -> None:
    """An image that had to be read, and has proven to be ours, need not be read again."""
    if previous.settings is not None:
        cache.save_published(str(tag), previous.image, previous.manifest)


def _add_tag(registry: Crane, tag: Reference, image: Digest, other: Reference) -> None:
    try:
        if other.repository == tag.repository:
            registry.tag(tag.at(image), other.tag)
        else:
            registry.copy(tag.at(image), str(other))
    except RegistryError as error:
        raise KontextError(
            f"{tag.at(image)} is published as {tag}, but not as {other}: {error.message}",
            hint=error.hint,
        ) from error


def _directory(directory: str) -> str:
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


def _below(folder: str | None, root: str) -> str:
    """The path of `folder` within `root`, or "" if it lies elsewhere."""
    top = root.rstrip("/") + "/"
    return folder.removeprefix(top) if folder and folder.startswith(top) else ""


def _rules(root: str, chosen: str) -> ignore.IgnoreRules:
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
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for the registry and write the cache."""
    threads = ThreadPoolExecutor(_REQUESTS)
    try:
        yield threads
    except BaseException:
        # Whoever waits ends with the process.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()


def _tell_race(registry: Crane, tag: Reference, plan: Plan, image: Digest, report: Report) -> None:
    """No registry writes a tag under a condition, so of pushes at one time the last one wins."""
    try:
        now = replace(registry, timeout=_COURTESY).digest(str(tag))
    except RegistryError:
        return
    # A registry may answer for a while as it did before.
    before = plan.choice.previous.image.digest if isinstance(plan.choice, Reuse) else image
    if now not in (image, before):
        report.alert(
            f"another push has replaced this image: {tag} shows {now} now; "
            f"yours stays at {tag.at(image)}"
        )


def _tell_dry_run(job: Job, plan: Plan, previous: Previous | Fresh, report: Report) -> None:
    if plan.up_to_date:
        report.say(f"Nothing changed: {job.tag} is up to date, nothing would be uploaded")
        return
    single = plan.wanted.single_layer
    if isinstance(previous, Previous) and not (single or mismatch(previous, plan.wanted)):
        report.say(weighed(previous, plan))
    report.say(built_on(job.tag, plan))
    new = write_layers(job, plan, lambda name: os.devnull)
    sizes = [ready.layer.size for ready in (*new.lower, new.top)]
    layers = number(len(sizes), "layer") if new.lower else "one layer"
    text = f"Would upload {size(sum(sizes))} in {layers}: {plan.describe()}"
    if isinstance(plan.choice, Fresh) and not single:
        text += "; and the base image, if the repository does not have it"
    report.say(text)
