"""`docker kontext load`: pull an image into the Docker daemon."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import LOAD, timeout_of
from kontext_plugin.crane import Crane, connect
from kontext_plugin.crane_driver.credentials import full_name
from kontext_plugin.engine import daemon
from kontext_plugin.engine.daemon import Daemon
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import ZSTD_LAYER
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.push.history import resolve
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import number, size

_FIRST_WITH_ZSTD = 23


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text,) = parse(LOAD, arguments)
    name = parse_image_reference(text)
    report = Report(quiet=parsed.quiet, show_debug=flags.debug)
    docker = daemon.connect(flags.daemon)
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        name = resolve(crane, requests, name)
        image = load(docker, crane, name, fetch(crane, requests, name), report)
    report.info(f"Loaded {name}")
    write_stdout([image])
    return 0


def check_compression(image: KontextImage, version: str) -> None:
    """Raise KontextError if a Docker daemon of this version cannot unpack the image's layers.

    Docker unpacks zstd since version 23 (moby/moby#40820).
    """
    major = version.partition(".")[0]
    has_zstd = any(layer.media_type == ZSTD_LAYER for layer in image.image.layers)
    if has_zstd and major.isdecimal() and int(major) < _FIRST_WITH_ZSTD:
        raise KontextError(
            f"Docker {version} cannot unpack zstd layers",
            hint=f"Use Docker {_FIRST_WITH_ZSTD} or later, or 'docker kontext pull'. Or push with "
            "--compression gzip.",
        )


def load(docker: Daemon, crane: Crane, name: Reference, image: KontextImage, report: Report) -> str:
    """Pull an image into the daemon, if it is not there, and tag it; return `REPO@sha256:…`.

    Raises KontextError.
    """
    digest = image.digest
    if docker.platform() in image.platforms:  # the daemon knows one image by an index's digest
        digest = crane.digest(name.at(digest), docker.platform())
    source = name.at(digest)  # the tag may move in the meantime
    if not docker.has_image(source):
        check_compression(image, docker.version())
        layers = number(len(image.image.layers), "layer")
        report.info(f"Pulling {name}: {layers}, {size(image.image.size)}")
        docker.pull(source, crane.credentials(full_name(name.repository)))
    if not name.digest:
        docker.tag(source, name)
    return source
