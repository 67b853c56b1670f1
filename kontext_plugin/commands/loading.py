"""How an image of Kontext's gets into the Docker daemon, for run and load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext_plugin.base_choice import Previous
from kontext_plugin.commands.registry import connected, timeout_of
from kontext_plugin.daemon import Daemon
from kontext_plugin.reference import Reference
from kontext_plugin.report import Report
from kontext_plugin.text import number, size

if TYPE_CHECKING:
    from kontext_plugin.options import Namespace


def load(
    docker: Daemon, parsed: Namespace, name: Reference, found: Previous, report: Report
) -> str:
    """Pulls what was found under the name, if the daemon lacks it; returns `REPO@sha256:…`.

    Raises KontextError.
    """
    image = name.at(found.image.digest)  # whatever the tag shows meanwhile
    if not docker.has(image):
        layers = number(len(found.image.layers), "layer")
        report.say(f"Pulling {name}: {layers}, {size(found.image.size)}")
        link = connected(report, insecure=parsed.insecure, timeout=timeout_of(parsed))
        with link as (registry, _):
            credentials = registry.credentials(name.registry)
        docker.pull(image, credentials)
    if not name.digest:
        docker.tag(image, name)
    return image
