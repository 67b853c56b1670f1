"""What a push says: its words, and the advice after a large one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from kontext_plugin.delta import tree_bytes
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.tree import parents
from kontext_plugin.push.parent import (
    BuildOn,
    StartFresh,
    candidates_of,
    too_many_layers,
    unusable,
)
from kontext_plugin.push.partition import Partition
from kontext_plugin.push.plan import Plan
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source import git
from kontext_plugin.source.scan import Scan
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number, size

# --- One line for each step of the story ---


def report_scan(scan: Scan, report: Report) -> None:
    """Say what the directory has, and warn about each file that no image can hold."""
    for special in scan.special_files:
        report.warning(f"skipped {special.path!r}: it is a {special.kind}")
    report.info(scanned(scan))


def scanned(scan: Scan) -> str:
    """Return the line about the directory."""
    text = f"Scanned {number(scan.tree.file_count, 'file')}, {size(scan.tree.size)}"
    if scan.git_entries:
        first, *others = scan.git_entries
        more = f" and {len(others)} more .git" if others else ""
        text += f"; skipped {first!r}{more} (keep it with --git)"
    return text


def builds_on(tag: Reference, plan: Plan) -> str:
    """Return the line about the parent."""
    choice = plan.parent
    if isinstance(choice, StartFresh):
        return f"Starting fresh: {choice.reason}"
    text = (
        f"Building on {tag}, generation {choice.parent.generation}: "
        f"{number(len(choice.layers), 'layer')}, {size(sum(layer.size for layer in choice.layers))}"
    )
    if above := len(choice.tag_image.image.layers) - len(choice.layers):
        which = "the layer" if above == 1 else f"all {above} layers"
        text += f"; the new layer replaces {which} above"
    return text


def pushed(tags: Sequence[Reference], plan: Plan, uploaded: int) -> str:
    """Return the line about the publication; `uploaded` is in bytes."""
    return f"Pushed {', '.join(map(str, tags))}: {counts(plan)}; uploaded {size(uploaded)}"


def would_upload(tag: Reference, plan: Plan, sizes: Sequence[int]) -> str:
    """Return what a push would do; `sizes` has the compressed bytes of each new layer."""
    if plan.is_up_to_date:
        return f"Nothing changed: {tag} is up to date, nothing would be uploaded"
    layers = number(len(sizes), "layer") if len(sizes) > 1 else "one layer"
    text = f"Would upload {size(sum(sizes))} in {layers}: "
    if isinstance(plan.parent, BuildOn):
        return text + counts(plan)
    text += f"everything, {number(plan.tree.file_count, 'file')}"
    if plan.spec.base.single_layer:
        return text
    return f"{text}; and the base image, if the repository does not have it"


def counts(plan: Plan) -> str:
    """Return how many files were added, changed and removed. Directories are not files."""
    tree, former = plan.tree, plan.to_tag.former
    added = (path for path in plan.to_tag.absent if not tree.is_directory(path))
    changed = (path for path in former.paths() if path in tree and not tree.is_directory(path))
    removed = (
        path for path in former.paths() if path not in tree and not former.is_directory(path)
    )
    numbers = (
        (sum(1 for _ in paths), what)
        for paths, what in ((added, "added"), (changed, "changed"), (removed, "removed"))
    )
    parts = [f"{count:,} {what}" for count, what in numbers if count]
    nothing = "no files" if isinstance(plan.parent, StartFresh) else "only labels"
    return ", ".join(parts) or ("only directories" if plan.to_tag else nothing)


def candidates(tag_image: KontextImage, plan: Plan) -> str:
    """Return a table of everything that the push could build on, the choice marked with a star."""
    chosen = plan.parent.parent.image if isinstance(plan.parent, BuildOn) else None
    lines = ["Candidates, with the size of the new layer on each (uncompressed):"]
    for candidate in candidates_of(tag_image, plan.tree):
        why_not = unusable(candidate, plan.tree) or too_many_layers(candidate, plan.spec)
        lines.append(
            f"{'*' if candidate.parent.image == chosen else ' '} "
            f"generation {candidate.parent.generation}, "
            f"{number(len(candidate.layers), 'layer')}: "
            f"{size(candidate.bytes)} in {number(len(candidate.changes.written), 'path')}, "
            f"{number(len(candidate.changes.whiteouts), 'whiteout')}"
            + (f"; not usable: {why_not}" if why_not else "")
        )
    lines.append(
        f"{' ' if chosen else '*'} the base alone: {size(tree_bytes(plan.tree))} "
        f"in {number(len(plan.tree.paths()), 'path')}"
    )
    return "\n".join(lines)


# --- The advice after a large push: which directories it was, and which of them git ignores ---

_LARGE_BYTES = 10_000_000  # uncompressed: more than a second on a common line
_LARGE_FILES = 1000  # more than a person has written
_MAX_NAMED = 3
_MIN_SHARE = 0.01  # of all bytes: less explains nothing

_PLAIN = re.compile(r"[\w@+.-][\w@+./ -]*(?<! )", re.ASCII)
"""A path that needs no escapes in an ignore file."""


class Share(NamedTuple):
    """A directory's share of an upload."""

    path: str
    bytes: int
    is_rest: bool  # without a directory below it that is a share of its own


def advise(root: str, ignore_file: str, plan: Plan, divided: Partition, report: Report) -> None:
    """After a large push, say which directories it was and how to exclude what git ignores."""
    written = chain(divided.top, *divided.lower)
    sizes = {path: plan.tree.sizes[path] for path in written if path in plan.tree.sizes}
    total = sum(sizes.values())
    if report.quiet or not total or (total < _LARGE_BYTES and len(sizes) < _LARGE_FILES):
        return
    shares = [share for share in largest(sizes, _MAX_NAMED) if share.bytes >= total * _MIN_SHARE]
    if not shares:
        return
    report.info(largest_line(shares, total))
    paths = [share.path for share in shares]
    ignored = git.find_ignored(root, {*paths, *parents(paths)}, report.debug)
    if lines := lines_to_add(paths, ignored):
        report.info(
            "git ignores some of these directories. To skip them, push with --gitignore, "
            f"or add to {ignore_file}:\n  " + "\n  ".join(lines)
        )


def largest_line(shares: Sequence[Share], total: int) -> str:
    """Return the line that names the largest directories; `total` is in bytes."""
    parts = (
        f"{'the rest of ' if share.is_rest else ''}{share.path} "
        f"{share.bytes * 100 / total:.0f} % ({size(share.bytes)})"
        for share in shares
    )
    return f"Largest directories, uncompressed: {', '.join(parts)}"


def lines_to_add(paths: Sequence[str], ignored: Collection[str]) -> list[str]:
    """Return lines for an ignore file: for each path the topmost directory that git ignores."""
    lines = []
    for path in paths:
        topmost = [above for above in (*parents([path]), path) if above in ignored][:1]
        lines += [directory for directory in topmost if _PLAIN.fullmatch(directory)]
    return [*dict.fromkeys(lines)]


def largest(sizes: Mapping[str, int], count: int) -> list[Share]:
    """Return at most `count` directories, the largest first, with the bytes in and below them.

    Each is as deep as possible: a directory stands for its parent if it has more than half of the
    parent's bytes. No byte is in two of them. Files beside all directories are in none.
    """
    held, below = _directories(sizes)
    found: dict[str, int] = {}
    while len(found) < count and (path := _next_largest(held, below)):
        found[path] = held[path]
        for directory in (*parents([path]), path):
            held[directory] -= found[path]
    shares = [
        Share(path, total, any(other.startswith(f"{path}/") for other in found))
        for path, total in found.items()
    ]
    return sorted(shares, key=lambda share: (-share.bytes, share.path))


def _directories(sizes: Mapping[str, int]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return the bytes in each directory, and the directories in each; "" is the root."""
    held: dict[str, int] = defaultdict(int)
    below: dict[str, list[str]] = defaultdict(list)
    for path, file_bytes in sizes.items():
        held[path.rpartition("/")[0]] += file_bytes
    for directory in sorted({*held, *parents(held)} - {""}, reverse=True):  # children first
        above = directory.rpartition("/")[0]
        below[above].append(directory)
        if above:
            held[above] += held[directory]
    return held, below


def _next_largest(held: Mapping[str, int], below: Mapping[str, list[str]]) -> str:
    """Return the directory to name next; "" if there is none."""
    path, half = "", 0
    while inside := below.get(path):
        child = max(inside, key=lambda directory: held[directory])
        if held[child] <= half:
            break
        path, half = child, held[child] // 2
    return path
