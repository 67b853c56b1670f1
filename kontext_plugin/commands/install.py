"""`docker kontext install`, or `python -m kontext_plugin install`: docker knows Kontext then."""

from __future__ import annotations

from collections.abc import Sequence

from kontext_plugin import plugin_link
from kontext_plugin.commands.table import INSTALL
from kontext_plugin.options import Globals, parse
from kontext_plugin.report import Report


def main(arguments: Sequence[str], flags: Globals) -> int:
    parse(INSTALL, arguments)
    report = Report(debug=flags.debug)
    made = plugin_link.link()
    path = plugin_link.place()
    report.say(f"{path} leads to {plugin_link.shim()}" + ("" if made else ", as before"))
    taken = plugin_link.first()
    if taken and taken != path:
        report.alert(f"docker takes {taken} before it: remove that one")
    else:
        report.say("'docker kontext --help' shows what it can do")
    return 0
