"""`docker kontext push`: uploads a directory, or what changed of it since the tag's image."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin.cache.store import Cache
from kontext_plugin.cli.flags import Globals
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import NotFound, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.reference import Reference
from kontext_plugin.push.messages import advise, built_on, weighed, would_upload
from kontext_plugin.push.options import PushOptions, parse_push
from kontext_plugin.push.parent import BuildOn, StartFresh, mismatch
from kontext_plugin.push.plan import Plan, plan_afresh
from kontext_plugin.push.prepare import prepare
from kontext_plugin.push.publish import (
    WHEN_INTERRUPTED,
    PushSession,
    check_lost_update,
    stage_nowhere,
    upload,
)
from kontext_plugin.push.results import Pushed, remove_stale_results, write_results
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.secret_scan.policy import SecretPolicy
from kontext_plugin.source.ignore_rules import rule_file
from kontext_plugin.terminal.messages import Report, emit
from kontext_plugin.terminal.progress import reporting
from kontext_plugin.terminal.text import size


def main(arguments: Sequence[str], flags: Globals) -> int:
    options, mode = parse_push(arguments)
    remove_stale_results(options)
    with reporting(mode, flags.debug) as report:
        try:
            pushed = push(options, report)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(WHEN_INTERRUPTED) from interrupt
    if pushed:
        print(pushed)
        write_results(options, pushed)
    return 0


def push(options: PushOptions, report: Report) -> Pushed | None:
    """Publishes the directory under the tags; a dry run publishes nothing.

    Raises KontextError. Each tag then shows what it showed before, or the new image.
    """
    tag = options.tags[0]
    with prepare(options, report) as ready:
        job, plan = ready.job, ready.plan
        rules = rule_file(job.root, options.ignore_file)
        gate = SecretPolicy(options.secrets, job.root, report, rules)
        if options.dry_run:
            _tell_dry_run(job, plan, ready.previous, gate, report)
            return None
        if isinstance(plan.choice, BuildOn) and plan.up_to_date:
            pushed = Pushed(plan.choice.previous.image.digest, options.tags, plan, uploaded=0)
            _remember(job.cache, tag, plan.choice.previous)
            report.info(f"Nothing changed: {tag} is up to date, nothing uploaded")
        else:
            pushed = _publish(job, plan, options.tags, gate, report)
            if pushed.uploaded:
                advise(job.root, rules, pushed.plan, report)
        for other in options.tags[1:]:
            _add_tag(job.registry, tag, pushed.image, other)
            report.info(f"Tagged {other}")
        if not plan.up_to_date:
            choice = plan.choice
            before = choice.previous.image.digest if isinstance(choice, BuildOn) else None
            with job.steps.step("look at the tag again"):
                check_lost_update(job.registry, tag, pushed.image, before, report)
        job.cache.save_pushed(job.root, map(str, options.tags))
    if options.timings:
        report.notice(f"It took\n{job.steps}")
    emit(
        "result",
        image=str(pushed),
        tag=str(tag),
        upToDate=plan.up_to_date,
        uploadedBytes=pushed.uploaded,
    )
    return pushed


def _publish(
    job: PushSession, plan: Plan, tags: tuple[Reference, ...], gate: SecretPolicy, report: Report
) -> Pushed:
    """Uploads as planned or, where the registry lacks layers, afresh."""
    report.info(built_on(job.tag, plan))
    try:
        image, sent = upload(job, plan, gate.check)
    except NotFound:
        if isinstance(plan.choice, StartFresh):
            raise
        afresh = plan_afresh(plan, "layers of the image are gone from the registry")
        return _publish(job, afresh, tags, gate, report)
    report.info(f"Pushed {job.tag}: {plan.describe()}; uploaded {size(sent)}")
    return Pushed(image.digest, tags, plan, sent)


def _remember(cache: Cache, tag: Reference, previous: KontextImage) -> None:
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
    job: PushSession,
    plan: Plan,
    previous: KontextImage | StartFresh,
    gate: SecretPolicy,
    report: Report,
) -> None:
    if plan.up_to_date:
        report.info(would_upload(job.tag, plan, ()))
        emit("result", tag=str(job.tag), upToDate=True, wouldUploadBytes=0)
        return
    single = plan.wanted.single_layer
    if isinstance(previous, KontextImage) and not (single or mismatch(previous, plan.wanted)):
        report.info(weighed(previous, plan))
    report.info(built_on(job.tag, plan))
    new = stage_nowhere(job, plan)
    report.info(would_upload(job.tag, plan, new.sizes))
    if isinstance(previous, StartFresh) and previous.refused:
        registry = job.tag.registry
        report.warning(f"{registry} may refuse the push, too: 'docker login {registry}' if it does")
    gate.tell(new.findings)
    emit("result", tag=str(job.tag), upToDate=False, wouldUploadBytes=sum(new.sizes))
