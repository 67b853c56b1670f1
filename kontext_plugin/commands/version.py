"""`docker kontext version`."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin import __version__
from kontext_plugin.commands.table import VERSION
from kontext_plugin.options import Globals, parse


def main(arguments: Sequence[str], flags: Globals) -> int:
    parse(VERSION, arguments)
    print(f"kontext {__version__}")
    return 0
