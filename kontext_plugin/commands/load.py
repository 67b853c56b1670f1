"""`docker kontext load`: puts an image into the Docker daemon.

How an image of Kontext's gets into the Docker daemon, for run and load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import LOAD, timeout_of
from kontext_plugin.crane import connect
from kontext_plugin.engine import daemon
from kontext_plugin.engine.daemon import Daemon
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import number, size

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text,) = parse(LOAD, arguments)
    report = Report(quiet=parsed.quiet, show_debug=flags.debug)
    docker = daemon.connect(flags.daemon)
    name = parse_image_reference(text)
    link = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with link as (crane, threads):
        found = fetch(crane, threads, name)
    image = load(docker, parsed, name, found, report)
    report.info(f"Loaded {name}")
    write_stdout([image])
    return 0


def load(
    docker: Daemon, parsed: Namespace, name: Reference, found: KontextImage, report: Report
) -> str:
    """Pulls what was found under the name, if the daemon lacks it; returns `REPO@sha256:…`.

    Raises KontextError.
    """
    image = name.at(found.image.digest)  # whatever the tag shows meanwhile
    if not docker.has_image(image):
        layers = number(len(found.image.layers), "layer")
        report.info(f"Pulling {name}: {layers}, {size(found.image.size)}")
        link = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
        with link as (registry, _):
            credentials = registry.credentials(name.registry)
        docker.pull(image, credentials)
    if not name.digest:
        docker.tag(image, name)
    return image
