"""`docker kontext load`: puts an image into the Docker daemon."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin import daemon, output
from kontext_plugin.commands.loading import load
from kontext_plugin.commands.reading import read_image
from kontext_plugin.commands.table import LOAD
from kontext_plugin.options import Globals, parse
from kontext_plugin.report import Report


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, (text,) = parse(LOAD, arguments)
    report = Report(quiet=parsed.quiet, debug=flags.debug)
    docker = daemon.connect(flags)
    name, found = read_image(parsed, flags, text)
    image = load(docker, parsed, name, found, report)
    report.say(f"Loaded {name}")
    output.write([image])
    return 0
