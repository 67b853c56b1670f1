"""`docker kontext push`: upload a directory, or what changed in it since the tag's image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kontext_plugin.cache import Cache, open_cache
from kontext_plugin.cli.flags import Globals, check_arguments
from kontext_plugin.cli.options import PUSH
from kontext_plugin.cli.signals import on_interrupt
from kontext_plugin.crane_driver.errors import NotFound, Refused
from kontext_plugin.image.assembly import Assembly, assemble
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.spec import REVISION
from kontext_plugin.manifest import Manifest
from kontext_plugin.push import messages
from kontext_plugin.push.check import check_parent
from kontext_plugin.push.early import EarlyUpload
from kontext_plugin.push.options import (
    CommandLine,
    PushOptions,
    config_rows,
    push_options,
    read_command_line,
)
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.push.preflight import check_room
from kontext_plugin.push.prepare import Prepared, prepare, take_next
from kontext_plugin.push.publish import (
    assemble_apart,
    assemble_complete,
    assemble_undamaged,
    count_upload,
    publish,
)
from kontext_plugin.push.results import Pushed, records_of, remove_stale_results, write_results
from kontext_plugin.push.session import PushSession, open_session
from kontext_plugin.push.stage import stage
from kontext_plugin.secret_scan.policy import SecretPolicy
from kontext_plugin.terminal.messages import Report, emit, stdout_room, write_stdout
from kontext_plugin.terminal.progress import reporting
from kontext_plugin.terminal.table import Column, table
from kontext_plugin.terminal.text import line_safe

_CONFIG_COLUMNS = (Column("OPTION"), Column("VALUE", least=10), Column("FROM"))


def main(arguments: Sequence[str], flags: Globals) -> int:
    line = read_command_line(PUSH, arguments)
    if line.parsed.show_config:
        check_arguments(PUSH, line.positional)
        show_config(line)
        return 0
    options, mode = push_options(line)
    remove_stale_results(options)
    nothing_published = on_interrupt(lambda: messages.NOTHING_PUBLISHED)
    with reporting(mode, flags.debug) as report, nothing_published:
        messages.report_config(line, report)
        pushed = push(options, report, open_cache(read_only=options.dry_run))
    if pushed:
        with on_interrupt(lambda: f"{pushed} is published"):
            print(pushed)
            write_results(options, pushed)
    return 0


def show_config(line: CommandLine) -> None:
    """Show the value of each option, and where it is from. Raises KontextError."""
    room = stdout_room()
    rows = [tuple(map(line_safe, row)) for row in config_rows(line)]
    write_stdout(table(_CONFIG_COLUMNS, rows, room))


def push(options: PushOptions, report: Report, cache: Cache) -> Pushed | None:
    """Publish the directory under the tags; return None after a dry run, which publishes nothing.

    Raises KontextError. Each tag then shows what it showed before, or the new image.
    """
    if cache.problem:
        report.info(messages.no_cache(cache))
    with open_session(report, cache, insecure=options.insecure, timeout=options.timeout) as session:
        prepared = prepare(session, options)
        if options.check_parent:
            prepared = check_parent(session, prepared)
        _warn(session, prepared, options)
        source = prepared.source
        policy = SecretPolicy(options.secrets, source.root, report, source.ignore_file)
        if options.dry_run:
            _rehearse(session, prepared, options, policy)
            return None
        pushed = _publish(session, prepared, options, policy)
        with on_interrupt(lambda: f"{pushed} is published"):
            cache.save_pushed(records_of(source.root, pushed))
    if options.timings:
        report.notice(f"It took\n{report.steps}")
    emit(
        "result",
        image=str(pushed),
        tag=str(options.tags[0]),
        upToDate=not pushed.written,
        uploadedBytes=pushed.uploaded,
    )
    return pushed


def _warn(
    session: PushSession, prepared: Prepared, options: PushOptions, before: Prepared | None = None
) -> None:
    """Warn of what looks like a mistake, and did not look so before."""
    pushed, tag = session.cache.pushed(), options.tags[0]
    told = {*messages.warnings(before, pushed, tag)} if before else set()
    for warning in messages.warnings(prepared, pushed, tag):
        if warning not in told:
            session.report.important(warning)


def _publish(
    session: PushSession, prepared: Prepared, options: PushOptions, policy: SecretPolicy
) -> Pushed:
    """Publish as planned or, where the registry lacks layers of the parent, on another one."""
    report, plan, tags = session.report, prepared.plan, options.tags
    tell = report.debug
    if messages.is_remarkable(plan, tags[0]):
        tell = report.info
    tell(messages.builds_on(plan))
    try:
        with session.scratch() as directory:
            check_room(directory, prepared.bytes_to_write, report)
            with (
                EarlyUpload(session, tags[0], directory) as early,
                on_interrupt(lambda: messages.unpublished(early.uploaded)),
            ):
                written = _write(session, prepared, options, policy, directory, early)
                early.finish()
            prepared, plan = written.prepared, written.prepared.plan
            published = publish(
                session,
                plan,
                written.manifest,
                written.assembly,
                written.layers,
                prepared.found,
                directory,
                early.uploaded,
            )
    except Refused as error:
        raise prepared.found.in_its_words(error) from error
    except NotFound:
        if isinstance(plan.parent, StartFresh):
            raise
        fresh = StartFresh("layers of the image are gone from the registry")
        return _publish(session, take_next(prepared, fresh), options, policy)
    tell = report.result if published.written else report.info
    tell(messages.pushed(tags, plan, published))
    if options.provenance and options.git_labels and REVISION not in plan.spec.git_labels:
        report.warning(messages.no_commit(prepared.source.root))
    if published.uploaded and prepared.partition:
        messages.advise(prepared.source.root, policy.ignore_file, plan, prepared.partition, report)
    return Pushed(published.image, tags, plan, published.written, published.uploaded)


@dataclass(frozen=True)
class _Written:
    """An image that is ready to be published."""

    prepared: Prepared  # differs from what was planned if files have changed meanwhile
    layers: tuple[StagedLayer, ...]  # the new ones
    manifest: Manifest
    assembly: Assembly


def _write(
    session: PushSession,
    prepared: Prepared,
    options: PushOptions,
    policy: SecretPolicy,
    directory: str,
    early: EarlyUpload | None = None,
) -> _Written:
    """Write the new layers, if any, and assemble the image.

    An empty `directory` writes them nowhere. Raises KontextError, also for secrets.
    """
    before = prepared
    prepared, layers = stage(
        session,
        prepared,
        directory,
        policy=policy,
        early=early,
        check=options.check_parent,
    )
    if prepared is not before:
        _warn(session, prepared, options, before)
    plan = prepared.plan
    if layers is None:
        assembly, found = prepared.assembly, prepared.found
        assert assembly is not None
        assert plan.sources is not None
        assert plan.found_image is not None
        assembly = assemble_apart(plan, plan.sources, assembly, found)
        for tag in [tag for tag, shown in found.shown.items() if shown == assembly.digest][:1]:
            assembly = assemble_complete(session, plan, plan.sources, assembly, tag)
        return _Written(prepared, (), plan.found_image.manifest, assembly)
    if directory:
        policy.enforce(layers.findings)
    else:
        policy.preview(layers.findings)
    sources = layers.sources(plan)
    if options.fresh:
        assembly = assemble_undamaged(session, plan, sources, options.tags[0])
    else:
        assembly = assemble(plan.spec, sources, plan.labels)
    assembly = assemble_apart(plan, sources, assembly, prepared.found)
    return _Written(prepared, layers.all, layers.manifest, assembly)


def _rehearse(
    session: PushSession, prepared: Prepared, options: PushOptions, policy: SecretPolicy
) -> None:
    """Say what a push would do, and what it weighs."""
    report, tag, plan = session.report, options.tags[0], prepared.plan
    if not prepared.is_up_to_date:
        if not plan.spec.single_layer:
            for candidate in prepared.found.candidates:
                report.info(messages.candidates(candidate, plan))
        report.info(messages.builds_on(plan))
    written = _write(session, prepared, options, policy, directory="")
    plan, assembly = written.prepared.plan, written.assembly
    is_shown = not prepared.found.tags_to_write(assembly.digest)
    upload = 0 if is_shown else count_upload(session, plan, assembly, tag)
    report.info(messages.would_upload(tag, plan, assembly, upload, is_shown=is_shown))
    if refusal := prepared.found.refusal:
        report.warning(f"the push may fail: {refusal.message}. {refusal.hint}")
    emit(
        "result",
        tag=str(tag),
        upToDate=is_shown,
        wouldUploadBytes=upload,
        image=tag.at(assembly.digest),
    )
