"""How a command that changes nothing reads an image from the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext_plugin import published, reference
from kontext_plugin.base_choice import Previous
from kontext_plugin.commands.registry import connected, timeout_of
from kontext_plugin.options import Globals
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report

if TYPE_CHECKING:
    from kontext_plugin.options import Namespace


def read_image(parsed: Namespace, flags: Globals, text: str) -> tuple[Reference, Previous]:
    """The image that `text` names, asked for with --insecure and --timeout as parsed.

    Raises KontextError.
    """
    name = reference.parse_image(text)
    report = Report(debug=flags.debug)
    link = connected(report, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with link as (registry, threads):
        return name, published.read(registry, threads, name)
