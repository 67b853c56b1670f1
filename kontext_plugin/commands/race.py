"""Tells of another push to the same tag, which nothing can keep from overtaking this one."""

from __future__ import annotations

from dataclasses import replace

from kontext_plugin.crane import Crane
from kontext_plugin.crane_errors import RegistryError
from kontext_plugin.image import Digest
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report

_COURTESY = 5.0
"""Seconds for a question after the push is done."""


def tell_race(
    registry: Crane, tag: Reference, image: Digest, before: Digest | None, report: Report
) -> None:
    """No registry writes a tag under a condition, so of pushes at one time the last one wins.

    `before` is what the tag showed: a registry may answer for a while as it did then.
    """
    try:
        now = replace(registry, timeout=_COURTESY).digest(str(tag))
    except RegistryError:
        return
    if now not in (image, before):
        report.alert(
            f"another push has replaced this image: {tag} shows {now} now; "
            f"yours stays at {tag.at(image)}"
        )
