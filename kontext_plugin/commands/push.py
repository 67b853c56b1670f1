"""`docker kontext push`: upload a directory, or what changed in it since the tag's image."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Globals
from kontext_plugin.crane_driver.errors import NotFound
from kontext_plugin.push import messages
from kontext_plugin.push.options import PushOptions, parse_push
from kontext_plugin.push.parent import BuildOn, StartFresh, mismatch
from kontext_plugin.push.partition import Partition, partition
from kontext_plugin.push.plan import Plan, plan_fresh
from kontext_plugin.push.prepare import Prepared, PushSession, open_session, prepare
from kontext_plugin.push.publish import (
    WHEN_INTERRUPTED,
    add_tags,
    check_lost_update,
    publish,
    stage_layers,
)
from kontext_plugin.push.results import Pushed, remove_stale_results, write_results
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.secret_scan.policy import SecretPolicy
from kontext_plugin.terminal.messages import Report, emit
from kontext_plugin.terminal.progress import reporting
from kontext_plugin.terminal.steps import StepName


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
    """Publish the directory under the tags; return None after a dry run, which publishes nothing.

    Raises KontextError. Each tag then shows what it showed before, or the new image.
    """
    cache = open_cache(read_only=options.dry_run)
    with open_session(report, cache, insecure=options.insecure, timeout=options.timeout) as session:
        prepared = prepare(session, options)
        source = prepared.source
        policy = SecretPolicy(options.secrets, source.root, report, source.ignore_file)
        if options.dry_run:
            _rehearse(session, prepared, options, policy)
            return None
        plan, divided = prepared.plan, prepared.partition
        if divided is None:
            pushed = _keep(session, plan, options)
        else:
            pushed = _publish(session, prepared, plan, divided, options, policy)
            _check_lost_update(session, prepared, pushed)
        cache.save_pushed(prepared.source.root, map(str, options.tags))
    if options.timings:
        report.notice(f"It took\n{report.steps}")
    emit(
        "result",
        image=str(pushed),
        tag=str(options.tags[0]),
        upToDate=plan.is_up_to_date,
        uploadedBytes=pushed.uploaded,
    )
    return pushed


def _keep(session: PushSession, plan: Plan, options: PushOptions) -> Pushed:
    """The tag shows the wanted image already: put the other tags on it as well."""
    assert isinstance(plan.parent, BuildOn)
    tag_image = plan.parent.tag_image
    if not tag_image.is_cached:  # it need not be read again
        session.cache.save_published(str(options.tags[0]), tag_image)
    add_tags(session, tag_image.image.digest, options.tags)
    names = ", ".join(map(str, options.tags))
    session.report.info(f"Nothing changed: {names} is up to date, nothing uploaded")
    return Pushed(tag_image.image, options.tags, plan, uploaded=0)


def _publish(
    session: PushSession,
    prepared: Prepared,
    plan: Plan,
    divided: Partition,
    options: PushOptions,
    policy: SecretPolicy,
) -> Pushed:
    """Publish as planned or, where the registry lacks layers of the parent, fresh."""
    report, tags, root = session.report, options.tags, prepared.source.root
    tell = report.debug
    if isinstance(plan.parent, StartFresh) and not plan.parent.is_ordinary:
        tell = report.info  # the user expects a delta
    tell(messages.builds_on(tags[0], plan))
    try:
        with session.cache.scratch() as directory:
            layers = stage_layers(
                session, root, plan, divided, directory, scan_secrets=policy.needs_scan
            )
            policy.enforce(layers.findings)
            published = publish(session, plan.parent, layers, plan.spec, tags, directory)
    except NotFound:
        if isinstance(plan.parent, StartFresh):
            raise
        fresh = StartFresh("layers of the image are gone from the registry")
        plan = plan_fresh(fresh, plan.spec, plan.tree)
        return _publish(session, prepared, plan, partition(plan), options, policy)
    report.info(messages.pushed(tags, plan, published.uploaded))
    if published.uploaded:
        messages.advise(root, policy.ignore_file, plan, divided, report)
    return Pushed(published.image, tags, plan, published.uploaded)


def _check_lost_update(session: PushSession, prepared: Prepared, pushed: Pushed) -> None:
    tag_image = prepared.tag_image
    before = tag_image.image.digest if isinstance(tag_image, KontextImage) else None
    with session.report.steps.step(StepName.CHECK_TAG):
        check_lost_update(
            session.crane, pushed.tags[0], pushed.image.digest, before, session.report
        )


def _rehearse(
    session: PushSession, prepared: Prepared, options: PushOptions, policy: SecretPolicy
) -> None:
    """Say what a push would do, and what it weighs."""
    report, tag = session.report, options.tags[0]
    plan, divided, tag_image = prepared.plan, prepared.partition, prepared.tag_image
    if divided is None:
        report.info(messages.would_upload(tag, plan, ()))
        emit("result", tag=str(tag), upToDate=True, wouldUploadBytes=0)
        return
    if (
        isinstance(tag_image, KontextImage)
        and not plan.spec.base.single_layer
        and not mismatch(tag_image, plan.spec)
    ):
        report.info(messages.candidates(tag_image, plan))
    report.info(messages.builds_on(tag, plan))
    layers = stage_layers(
        session,
        prepared.source.root,
        plan,
        divided,
        directory="",
        scan_secrets=policy.needs_scan,
    )
    report.info(messages.would_upload(tag, plan, layers.sizes))
    if isinstance(tag_image, StartFresh) and tag_image.is_refused:
        registry = tag.registry
        report.warning(f"{registry} may refuse the push. Run 'docker login {registry}'.")
    policy.preview(layers.findings)
    emit("result", tag=str(tag), upToDate=False, wouldUploadBytes=sum(layers.sizes))
