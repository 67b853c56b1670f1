"""What a push tells of itself. Pure.

What made a push large, and what might have been left out of it.

Which directories most of some files lies in. Pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from kontext_plugin.delta import tree_bytes
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.tree import parents
from kontext_plugin.push.parent import BuildOn, StartFresh, candidates_of, too_many, unfit
from kontext_plugin.push.plan import Plan
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source import git
from kontext_plugin.source.scan import Scan
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number, size


def scanned(found: Scan) -> str:
    text = f"Scanned {number(found.tree.file_count, 'file')}, {size(found.tree.size)}"
    if found.git:
        more = f" and {len(found.git) - 1} more .git" if len(found.git) > 1 else ""
        text += f"; left out {found.git[0]!r}{more} (--git keeps it)"
    return text


def built_on(tag: Reference, plan: Plan) -> str:
    choice = plan.choice
    if isinstance(choice, StartFresh):
        return f"Starting afresh: {choice.reason}"
    text = (
        f"Building on {tag}, generation {choice.ancestors[-1].generation}: "
        f"{number(len(choice.layers), 'layer')}, {size(sum(layer.size for layer in choice.layers))}"
    )
    if above := len(choice.previous.image.layers) - len(choice.layers):
        text += f"; the new layer replaces {'the one' if above == 1 else f'all {above}'} above"
    return text


def would_upload(tag: Reference, plan: Plan, sizes: Sequence[int]) -> str:
    """What a push would do; `sizes` has the compressed bytes of each new layer."""
    if plan.up_to_date:
        return f"Nothing changed: {tag} is up to date, nothing would be uploaded"
    layers = number(len(sizes), "layer") if len(sizes) > 1 else "one layer"
    text = f"Would upload {size(sum(sizes))} in {layers}: "
    if not isinstance(plan.choice, StartFresh):
        return text + plan.describe()
    text += f"everything, {number(plan.tree.file_count, 'file')}"
    if plan.wanted.single_layer:
        return text
    return f"{text}; and the base image, if the repository does not have it"


def weighed(previous: KontextImage, plan: Plan) -> str:
    """All that the push could build on; bytes are those of sources, uncompressed."""
    chosen = plan.choice.image if isinstance(plan.choice, BuildOn) else None
    lines = ["Weighed, with what the new layer would hold (uncompressed):"]
    for candidate in candidates_of(previous, plan.tree):
        why_not = unfit(candidate, plan.tree) or too_many(candidate, plan.wanted)
        lines.append(
            f"{'*' if candidate.image == chosen else ' '} "
            f"generation {candidate.ancestors[-1].generation}, "
            f"{number(len(candidate.layers), 'layer')}: "
            f"{size(candidate.bytes)} in {number(len(candidate.changes.written), 'path')}, "
            f"{number(len(candidate.changes.whiteouts), 'whiteout')}"
            + (f"; not possible: {why_not}" if why_not else "")
        )
    lines.append(
        f"{' ' if chosen else '*'} the base alone: {size(tree_bytes(plan.tree))} "
        f"in {number(len(plan.tree.paths()), 'path')}"
    )
    return "\n".join(lines)


_LARGE_BYTES = 10_000_000  # uncompressed: more than a second on a common line

_LARGE_FILES = 1000  # more than a person has written

_NAMED = 3

_LEAST_SHARE = 0.01  # of all: less explains nothing

_PLAIN = re.compile(r"[\w@+.-][\w@+./ -]*(?<! )", re.ASCII)
"""A path that stands for itself in an ignore file, whatever its syntax knows."""


def advise(root: str, ignore_file: str, plan: Plan, report: Report) -> None:
    """Says it after a large push only."""
    written = chain(plan.written, *plan.lower)
    sizes = {path: plan.tree.sizes[path] for path in written if path in plan.tree.sizes}
    whole = sum(sizes.values())
    if report.quiet or not whole or (whole < _LARGE_BYTES and len(sizes) < _LARGE_FILES):
        return
    shares = [share for share in largest(sizes, _NAMED) if share.bytes >= whole * _LEAST_SHARE]
    if not shares:
        return
    report.info(most(shares, whole))
    paths = [share.path for share in shares]
    ignored = git.find_ignored(root, {*paths, *parents(paths)}, report.debug)
    if lines := to_leave_out(paths, ignored):
        report.info(
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


class Share(NamedTuple):
    path: str  # of a directory
    bytes: int
    rest: bool  # less than it holds: a directory below it is a share of its own


def largest(sizes: Mapping[str, int], count: int) -> list[Share]:
    """At most `count` directories, the largest first, with the bytes of files in and below them.

    Each is as deep as it can be: one has the place of the one above if more than half is in it. No
    byte is in two of them, and those of files beside all directories are in none.
    """
    held, below = _directories(sizes)
    found: dict[str, int] = {}
    while len(found) < count and (path := _deepest(held, below)):
        found[path] = held[path]
        for folder in (*parents([path]), path):
            held[folder] -= found[path]
    shares = [
        Share(path, held_bytes, any(other.startswith(f"{path}/") for other in found))
        for path, held_bytes in found.items()
    ]
    return sorted(shares, key=lambda share: (-share.bytes, share.path))


def _directories(sizes: Mapping[str, int]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """The bytes that each directory holds, and the directories in each; "" is the root."""
    held: dict[str, int] = defaultdict(int)
    below: dict[str, list[str]] = defaultdict(list)
    for path, file_bytes in sizes.items():
        held[path.rpartition("/")[0]] += file_bytes
    for folder in sorted({*held, *parents(held)} - {""}, reverse=True):  # children first
        above = folder.rpartition("/")[0]
        below[above].append(folder)
        if above:
            held[above] += held[folder]
    return held, below


def _deepest(held: Mapping[str, int], below: Mapping[str, list[str]]) -> str:
    """The directory to name next; "" if there is none."""
    path, least = "", 0
    while inside := below.get(path):
        child = max(inside, key=lambda folder: held[folder])
        if held[child] <= least:
            break
        path, least = child, held[child] // 2
    return path
