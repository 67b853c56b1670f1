"""`docker kontext push`: uploads a directory, or what changed of it since the tag's image."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin.base_choice import Fresh, Previous, Reuse, mismatch
from kontext_plugin.cache import Cache
from kontext_plugin.commands.directory import rule_file
from kontext_plugin.commands.gate import Gate
from kontext_plugin.commands.preparation import prepared
from kontext_plugin.commands.push_advice import advise
from kontext_plugin.commands.push_arguments import Options, parse
from kontext_plugin.commands.push_messages import built_on, weighed, would_upload
from kontext_plugin.commands.push_results import Pushed, make_way, write_results
from kontext_plugin.commands.race import tell_race
from kontext_plugin.crane import Crane
from kontext_plugin.crane_errors import NotFound, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Digest
from kontext_plugin.options import Globals
from kontext_plugin.plan import Plan, plan_afresh
from kontext_plugin.progress import told
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report, emit
from kontext_plugin.text import size
from kontext_plugin.upload import WHEN_INTERRUPTED, Job, rehearse, upload


def main(arguments: Sequence[str], flags: Globals) -> int:
    options, mode = parse(arguments)
    make_way(options)
    with told(mode, flags.debug) as report:
        try:
            pushed = push(options, report)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(WHEN_INTERRUPTED) from interrupt
    if pushed:
        print(pushed)
        write_results(options, pushed)
    return 0


def push(options: Options, report: Report) -> Pushed | None:
    """Publishes the directory under the tags; a dry run publishes nothing.

    Raises KontextError. Each tag then shows what it showed before, or the new image.
    """
    tag = options.tags[0]
    with prepared(options, report) as ready:
        job, plan = ready.job, ready.plan
        rules = rule_file(job.root, options.ignore_file)
        gate = Gate(options.secrets, job.root, report, rules)
        if options.dry_run:
            _tell_dry_run(job, plan, ready.previous, gate, report)
            return None
        if isinstance(plan.choice, Reuse) and plan.up_to_date:
            pushed = Pushed(plan.choice.previous.image.digest, options.tags, plan, uploaded=0)
            _remember(job.cache, tag, plan.choice.previous)
            report.say(f"Nothing changed: {tag} is up to date, nothing uploaded")
        else:
            pushed = _publish(job, plan, options.tags, gate, report)
            if pushed.uploaded:
                advise(job.root, rules, pushed.plan, report)
        for other in options.tags[1:]:
            _add_tag(job.registry, tag, pushed.image, other)
            report.say(f"Tagged {other}")
        if not plan.up_to_date:
            choice = plan.choice
            before = choice.previous.image.digest if isinstance(choice, Reuse) else None
            with job.steps.step("look at the tag again"):
                tell_race(job.registry, tag, pushed.image, before, report)
        job.cache.save_pushed(job.root, map(str, options.tags))
    if options.timings:
        report.tell(f"It took\n{job.steps}")
    emit(
        "result",
        image=str(pushed),
        tag=str(tag),
        upToDate=plan.up_to_date,
        uploadedBytes=pushed.uploaded,
    )
    return pushed


def _publish(
    job: Job, plan: Plan, tags: tuple[Reference, ...], gate: Gate, report: Report
) -> Pushed:
    """Uploads as planned or, where the registry lacks layers, afresh."""
    report.say(built_on(job.tag, plan))
    try:
        image, sent = upload(job, plan, gate.check)
    except NotFound:
        if isinstance(plan.choice, Fresh):
            raise
        afresh = plan_afresh(plan, "layers of the image are gone from the registry")
        return _publish(job, afresh, tags, gate, report)
    report.say(f"Pushed {job.tag}: {plan.describe()}; uploaded {size(sent)}")
    return Pushed(image.digest, tags, plan, sent)


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


def _tell_dry_run(
    job: Job, plan: Plan, previous: Previous | Fresh, gate: Gate, report: Report
) -> None:
    if plan.up_to_date:
        report.say(would_upload(job.tag, plan, ()))
        emit("result", tag=str(job.tag), upToDate=True, wouldUploadBytes=0)
        return
    single = plan.wanted.single_layer
    if isinstance(previous, Previous) and not (single or mismatch(previous, plan.wanted)):
        report.say(weighed(previous, plan))
    report.say(built_on(job.tag, plan))
    new = rehearse(job, plan)
    report.say(would_upload(job.tag, plan, new.sizes))
    if isinstance(previous, Fresh) and previous.refused:
        registry = job.tag.registry
        report.warn(f"{registry} may refuse the push, too: 'docker login {registry}' if it does")
    gate.tell(new.findings)
    emit("result", tag=str(job.tag), upToDate=False, wouldUploadBytes=sum(new.sizes))
