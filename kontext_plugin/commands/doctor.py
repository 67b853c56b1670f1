"""`docker kontext doctor`: what Kontext needs, a line each, and what to do where it is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from kontext_plugin import crane, output, reference
from kontext_plugin.cache import open_cache
from kontext_plugin.commands import doctor_checks as checks
from kontext_plugin.commands.doctor_checks import BROKEN, NOTE, OK, Check
from kontext_plugin.commands.registry import timeout_of
from kontext_plugin.commands.table import DOCTOR
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.options import Globals, parse
from kontext_plugin.reference import DOCKER_HUB, Reference
from kontext_plugin.report import Report
from kontext_plugin.text import redact

_SIGNS = {OK: "✓", NOTE: "!", BROKEN: "✗"}
_ASCII_SIGNS = {OK: "+", NOTE: "!", BROKEN: "x"}
_INDENT = " " * 15


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(DOCTOR, arguments)
    registry, name = subject(positional[0]) if positional else ("", None)
    report = Report(debug=flags.debug)
    signs = _SIGNS if shows_utf8(os.environ) else _ASCII_SIGNS

    made = []
    for check in _checks(flags, registry, name, parsed.insecure, report, timeout_of(parsed)):
        made.append(check)
        if parsed.format != "json":
            output.write(_lines(check, signs))
    if parsed.format == "json":
        output.write(output.array(_redacted(check) for check in made))
    return int(any(check.state == BROKEN for check in made))


def _checks(
    flags: Globals,
    registry: str,
    name: Reference | None,
    insecure: bool,
    report: Report,
    patience: float,
) -> Iterator[Check]:
    yield checks.python()
    try:
        found = crane.find(insecure, report.trace, patience)
    except KontextError as error:
        yield Check("crane", BROKEN, error.message, error.hint)
        found = None
    if found:
        yield checks.crane_version(found)
    yield checks.docker_cli()
    yield checks.docker_daemon(flags)
    yield checks.plugin()
    yield checks.cache(open_cache(read_only=True))
    if found and registry:
        with found:
            yield checks.credentials(found, registry)
            yield checks.access(found, registry, name)


def subject(text: str) -> tuple[str, Reference | None]:
    """The registry that is meant, and the image if it is one. Raises UsageError."""
    if "/" in text:
        name = reference.parse_image(text)
        return name.registry, name
    if text == DOCKER_HUB:
        return text, None
    try:
        is_host = reference.parse(f"{text}/name").registry == text
    except UsageError:
        is_host = False
    if not is_host:
        raise UsageError(
            f"{text!r} is not a registry", hint="Name it HOST[:PORT], or an image with it."
        )
    return text, None


def shows_utf8(environment: Mapping[str, str]) -> bool:
    """Whether the terminal shows more than ASCII (POSIX, "Locale": the first that is set counts).

    Python itself always says UTF-8 here: the plugin runs it so.
    """
    locale = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return locale.lower().replace("-", "").endswith("utf8")


def _lines(check: Check, signs: Mapping[str, str]) -> Iterator[str]:
    yield output.name(redact(f"{signs[check.state]} {check.name:<12} {check.message}"))
    if check.hint:
        yield output.name(redact(_INDENT + check.hint))


def _redacted(check: Check) -> dict[str, str]:
    return {key: redact(value) for key, value in asdict(check).items()}
