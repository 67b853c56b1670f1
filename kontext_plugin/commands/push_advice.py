"""What made a push large, and what might have been left out of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import chain

from kontext_plugin import git
from kontext_plugin.largest import Share, largest
from kontext_plugin.plan import Plan
from kontext_plugin.report import Report
from kontext_plugin.text import size
from kontext_plugin.tree import parents

_LARGE_BYTES = 10_000_000  # uncompressed: more than a second on a common line
_LARGE_FILES = 1000  # more than a person has written
_NAMED = 3
_LEAST = 0.01  # of all: less explains nothing

_PLAIN = re.compile(r"[\w@+.-][\w@+./ -]*(?<! )", re.ASCII)
"""A path that stands for itself in an ignore file, whatever its syntax knows."""


def advise(root: str, ignore_file: str, plan: Plan, report: Report) -> None:
    """Says it after a large push only."""
    written = chain(plan.written, *plan.lower)
    sizes = {path: plan.tree.sizes[path] for path in written if path in plan.tree.sizes}
    whole = sum(sizes.values())
    if report.quiet or not whole or (whole < _LARGE_BYTES and len(sizes) < _LARGE_FILES):
        return
    shares = [share for share in largest(sizes, _NAMED) if share.bytes >= whole * _LEAST]
    if not shares:
        return
    report.say(most(shares, whole))
    paths = [share.path for share in shares]
    ignored = git.ignored(root, {*paths, *parents(paths)}, report.trace)
    if lines := to_leave_out(paths, ignored):
        report.say(
            "git ignores some of that, Kontext does not; to leave it out, push with --gitignore, "
            f"or add to {ignore_file}:\n  " + "\n  ".join(lines)
        )


def most(shares: Sequence[Share], whole: int) -> str:
    parts = (
        f"{'the rest of ' if share.rest else ''}{share.path} "
        f"{share.bytes * 100 / whole:.0f} % ({size(share.bytes)})"
        for share in shares
    )
    return f"Largest directories, uncompressed: {', '.join(parts)}"


def to_leave_out(paths: Sequence[str], ignored: Collection[str]) -> list[str]:
    """The lines for an ignore file: of each path the topmost directory that git ignores."""
    lines = []
    for path in paths:
        topmost = [folder for folder in (*parents([path]), path) if folder in ignored][:1]
        lines += [folder for folder in topmost if _PLAIN.fullmatch(folder)]
    return [*dict.fromkeys(lines)]
