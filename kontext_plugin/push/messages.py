"""What a push says: its words, and the advice after a large one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from kontext_plugin.delta import FileCounts, tree_bytes
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.spec import SOURCE
from kontext_plugin.image.tree import parents
from kontext_plugin.push.config_file import CONFIG_FILE_NAME
from kontext_plugin.push.parent import (
    BuildOn,
    Candidate,
    Origin,
    StartFresh,
    candidates_of,
    mismatch,
    too_many_layers,
    unusable,
)
from kontext_plugin.push.partition import Partition
from kontext_plugin.push.plan import Plan
from kontext_plugin.source import git
from kontext_plugin.source.scan import Scan
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number, size

if TYPE_CHECKING:  # these modules use this one's words
    from kontext_plugin.cache import Cache, PushRecord
    from kontext_plugin.image.assembly import Assembly
    from kontext_plugin.push.options import CommandLine
    from kontext_plugin.push.prepare import Prepared
    from kontext_plugin.push.publish import Published

# --- One line for each step of the story ---


def report_config(line: CommandLine, report: Report) -> None:
    """Say what the directory's configuration file sets, and what of it is not taken."""
    if line.configured:
        report.info(configured(line))
    for name in line.foreign:
        report.warning(
            f"{CONFIG_FILE_NAME} names {name} in 'from', which is in another repository: the push "
            f"does not build on it. If you trust it, add '--from {name}'."
        )


def configured(line: CommandLine) -> str:
    """Return the line about the options that `.kontext.toml` sets. A tag is where files go."""
    names = [f"tag {value}" if name == "tag" else name for name, value in line.configured]
    return f"Using {CONFIG_FILE_NAME}: {', '.join(dict.fromkeys(names))}"


def no_cache(cache: Cache) -> str:
    """Return the line about a cache that cannot be used."""
    return f"No cache: {cache.problem}. KONTEXT_CACHE_DIR names another directory."


def report_scan(scan: Scan, report: Report) -> None:
    """Say what the directory has, and warn about each file that no image can hold."""
    for special in scan.special_files:
        report.warning(f"skipped {special.path!r}: it is a {special.kind}")
    if scan.unreadable:
        first, *others = scan.unreadable
        directories = f"{first!r}, an ignored directory"
        if others:
            directories = f"{first!r} and {len(others)} more ignored directories"
        report.warning(
            f"skipped {directories} that cannot be read: rules with '!' have no effect there"
        )
    report.info(scanned(scan))


def scanned(scan: Scan) -> str:
    """Return the line about the directory."""
    text = f"Scanned {number(scan.tree.file_count, 'file')}, {size(scan.tree.size)}"
    if scan.git_entries:
        first, *others = scan.git_entries
        more = f" and {len(others)} more .git" if others else ""
        text += f"; skipped {first!r}{more} (keep it with --git)"
    return text


def builds_on(plan: Plan) -> str:
    """Return the line about the parent."""
    choice, candidate = plan.parent, plan.candidate
    if isinstance(choice, StartFresh) or candidate is None:
        assert isinstance(choice, StartFresh)
        return f"Starting fresh: {choice.reason}"
    text = (
        f"Building on {parent_name(candidate)}, generation {choice.parent.generation}: "
        f"{number(len(choice.layers), 'layer')}, {size(sum(layer.size for layer in choice.layers))}"
    )
    if above := len(choice.found.sources) - len(choice.layers):
        which = "the layer" if above == 1 else f"all {above} layers"
        text += f"; the new layer replaces {which} above"
    return text


def parent_name(candidate: Candidate) -> str:
    """Return where an image was found, and why it was looked at unless it is the tag's own."""
    if candidate.origin is Origin.TAG:
        return str(candidate.reference)
    return f"{candidate.reference} ({candidate.origin.value})"


def is_remarkable(plan: Plan, tag: Reference) -> bool:
    """Whether the parent is not what the user expects: the image under the tag."""
    if isinstance(plan.parent, StartFresh):
        return not plan.parent.is_ordinary
    candidate = plan.candidate
    return candidate is None or candidate.reference != tag or candidate.origin is not Origin.TAG


def pushed(tags: Sequence[Reference], plan: Plan, published: Published) -> str:
    """Return the line about the publication."""
    if not published.written:
        names = ", ".join(map(str, tags))
        verb = "are" if len(tags) > 1 else "is"
        return f"Nothing changed: {names} {verb} up to date, nothing uploaded"
    names = ", ".join(map(str, published.written))
    what = _what(plan, published.image.digest)
    return f"Pushed {names}: {what}; uploaded {size(published.uploaded)}"


def no_commit(root: str) -> str:
    return (
        f"the file of --provenance names no commit: git knows none of {root!r}. "
        "'docker -D kontext push' shows why"
    )


def published(image: str, tags: Sequence[Reference]) -> str:
    """Return what is published, for a push that did not end well; `image` is `REPO@sha256:…`."""
    return f"{image} is published as {', '.join(map(str, tags))}"


NOTHING_PUBLISHED = "nothing is published"
"""What an interrupted push or purge says before it uploads anything."""


_MIN_UPLOADED = 100_000  # bytes that are worth a word


def interrupted(
    image: str,
    done: Sequence[Reference],
    tag: Reference,
    shows: bool | None,
    uploaded: int,
) -> str:
    """Return what an interrupted upload leaves behind; `image` is `REPO@sha256:…`.

    `done` are the tags that show the image. The push was writing `tag`; `shows` says whether that
    shows the image, None if the registry does not answer. `uploaded` is in bytes, of whole blobs.
    """
    if shows:
        return published(image, (*done, tag))
    text = published(image, done) if done else NOTHING_PUBLISHED
    if shows is None:
        state = f"{tag} may show {image}: look with 'docker kontext inspect {tag}'"
        return f"{text}, and {state}" if done else state
    if done:
        text += f", but not as {tag}"
    return text + _uploaded_already(uploaded)


def unpublished(uploaded: int) -> str:
    """Return what a push leaves behind that has only uploaded so many bytes, of whole blobs."""
    return NOTHING_PUBLISHED + _uploaded_already(uploaded)


def _uploaded_already(uploaded: int) -> str:
    if uploaded < _MIN_UPLOADED:
        return ""
    return f"; the next push does not upload the first {size(uploaded)} again"


def would_upload(
    tag: Reference, plan: Plan, assembly: Assembly, upload: int, *, is_shown: bool
) -> str:
    """Return what a push would do; `upload` is in bytes. `is_shown`: the tags show the image."""
    if is_shown:
        return f"Nothing changed: {tag} is up to date, nothing would be uploaded"
    what = _what(plan, assembly.digest)
    return f"Would publish {tag.at(assembly.digest)} and upload {size(upload)}: {what}"


def _what(plan: Plan, image: Digest) -> str:
    """Return what is new in an image."""
    if plan.sources and plan.found_image and plan.found_image.digest != image and not plan.since:
        return f"{counts(plan)}, other settings (base, labels, platforms or extractor)"
    return counts(plan)


def counts(plan: Plan) -> str:
    """Return how many files were added, changed and removed since the tag's image."""
    nothing = "no file changed" if plan.tree.file_count else "no files"
    text = count_text(plan.counts)
    return text or ("only directories" if plan.since else nothing)


def count_text(files: FileCounts) -> str:
    """Return how many files were added, changed and removed; "" for none."""
    named = ((files.added, "added"), (files.changed, "changed"), (files.removed, "removed"))
    return ", ".join(f"{count:,} {what}" for count, what in named if count)


def warnings(prepared: Prepared, pushed: Sequence[PushRecord], tag: Reference) -> Iterator[str]:
    """Yield what looks like a mistake. `pushed` are this machine's pushes, the latest first."""
    plan, image = prepared.plan, prepared.found.tag_image
    if not plan.tree.file_count:
        source = prepared.source
        where = "" if source.rules.empty else f". Check the rules in {source.ignore_file!r}"
        yield f"{source.root!r} has no file to push: the image is empty{where}"
    for foreign in prepared.found.foreign:
        yield f"{foreign} shows an image that is not Kontext's: this push replaces it"
    if image is not None and not prepared.is_up_to_date:
        before = image.manifest.tree.file_count
        removed = plan.counts.removed
        if 2 * removed > before:
            yield f"this push removes {removed:,} of the {number(before, 'file')} in {tag}"
        last = next((record for record in pushed if record.reference == str(tag)), None)
        remote = plan.labels.get(SOURCE)  # other clones of a repository are no mistake
        is_known = remote and image.config and image.config.labels.get(SOURCE) == remote
        if last and last.directory not in ("", prepared.source.root) and not is_known:
            yield f"the last push to {tag} was of another directory, {last.directory!r}"


def candidates(candidate: Candidate, plan: Plan) -> str:
    """Return a table of what the push could build on, the choice marked with a star."""
    chosen = plan.parent.parent.image if isinstance(plan.parent, BuildOn) else None
    if candidate is not plan.candidate:
        chosen = None
    title = f"Candidates at {parent_name(candidate)}"
    if reason := mismatch(candidate.image, plan.spec):
        return f"{title}: none, {reason}"
    lines = [f"{title}, with the size of the new layer on each (uncompressed):"]
    for choice in candidates_of(candidate.image, plan.tree):
        why_not = unusable(choice, plan.tree) or too_many_layers(choice, plan.spec)
        lines.append(
            f"{'*' if choice.parent.image == chosen else ' '} "
            f"generation {choice.parent.generation}, "
            f"{number(len(choice.layers), 'layer')}: "
            f"{size(choice.bytes)} in {number(len(choice.changes.written), 'path')}, "
            f"{number(len(choice.changes.whiteouts), 'whiteout')}"
            + (f"; not usable: {why_not}" if why_not else "")
        )
    lines.append(
        f"{'*' if isinstance(plan.parent, StartFresh) else ' '} "
        f"a fresh start: {size(tree_bytes(plan.tree))} "
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
    if report.quiet:
        return
    written = chain(divided.top, *divided.lower)
    sizes = {path: plan.tree.sizes[path] for path in written if path in plan.tree.sizes}
    total = sum(sizes.values())
    if not total or (total < _LARGE_BYTES and len(sizes) < _LARGE_FILES):
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
