"""How a command that changes nothing reads an image from the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext_plugin import crane, published, reference
from kontext_plugin.base_choice import Previous
from kontext_plugin.commands.preparation import idle_threads
from kontext_plugin.commands.push_arguments import timeout
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
    registry = crane.find(parsed.insecure, Report(debug=flags.debug).trace, timeout(parsed))
    with idle_threads() as threads, registry:
        return name, published.read(registry, threads, name)
