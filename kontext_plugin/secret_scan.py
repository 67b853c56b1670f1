"""Looks through files for secrets, before any of them leaves the machine."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from kontext_plugin.digests import are_many, batched, whole_of
from kontext_plugin.secret_rules import (
    BESIDE,
    FORMATS,
    LONGEST,
    MARKS,
    Format,
    is_placeholder,
    is_suspicious,
)
from kontext_plugin.sources import Sources
from kontext_plugin.steps import Steps
from kontext_plugin.tree import Entry
from kontext_plugin.workers import Workers

if TYPE_CHECKING:
    import hyperscan

_CHUNK = 1024 * 1024
_LITTLE = 256 * 1024  # bytes: searched by the time that hyperscan would be imported

_FORMATS_OF = {mark: [f for f in FORMATS if mark in f.marks] for mark in MARKS}

Search = Callable[[bytes], Iterable[tuple[int, bytes]]]
"""Finds where each of MARKS begins."""


class Finding(NamedTuple):
    """A secret, of which nothing is kept: only where it is, and its fingerprint."""

    path: str
    line: int  # from 1; 0: the file's name tells of it
    rule: str
    live: bool
    fingerprint: str  # `sha256:…` of the secret; "" for a name


class _Task(NamedTuple):
    root: str
    paths: list[str]
    little: bool


def find_secrets(
    root: str, files: Sequence[Entry], workers: Workers, steps: Steps
) -> list[Finding]:
    """What looks like a secret in regular files below a root, by their paths and lines.

    A file that cannot be read has none: whoever uploads it will say so.
    """
    groups = [*batched(files)] if are_many(files) else [files]
    tasks = [
        _Task(root, [file.path for file in group], sum(file.size for file in group) < _LITTLE)
        for group in groups
    ]
    found: set[Finding] = set()
    with steps.step("look for secrets") as step:
        step.amount = whole_of(files)
        results = workers.map(_find, tasks) if len(tasks) > 1 else map(_find, tasks)
        for group, some in zip(groups, results, strict=True):
            found.update(some)
            step.advance(len(group), sum(file.size for file in group))
    told = {finding.path for finding in found}
    named = (file.path for file in files if is_suspicious(file.path) and file.path not in told)
    return sorted([*found, *(Finding(path, 0, "", False, "") for path in named)])


def _find(task: _Task) -> list[Finding]:
    """What a worker does."""
    found: list[Finding] = []
    search = search_little if task.little else search_much
    try:
        with Sources(task.root) as sources:
            for path in task.paths:
                try:
                    found += _in_file(sources, path, search)
                except OSError:
                    continue
    except OSError:
        pass
    return found


def _in_file(sources: Sources, path: str, search: Search) -> Iterator[Finding]:
    file = sources.file(path)
    try:
        yield from find_in(path, _in_utf8(iter(lambda: os.read(file, _CHUNK), b"")), search)
    finally:
        os.close(file)


def _in_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A text in UTF-16 that says so, as PowerShell writes it; all else as it is."""
    first = next(chunks, b"")
    chunks = chain([first], chunks)
    if not first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return chunks
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    return (decoder.decode(chunk).encode() for chunk in chunks)


def find_in(path: str, chunks: Iterable[bytes], search: Search) -> Iterator[Finding]:
    """The secrets in a file's content, wherever that is cut."""
    # `begin`: what lies before was searched; `lines`: how many end before `counted`.
    data, begin, lines, counted = b"", 0, 0, 0
    for chunk in chain(chunks, [b""]):
        data += chunk
        # What begins near the end is looked at when all of it has come.
        end = len(data) - LONGEST if chunk else len(data)
        if end <= begin:
            continue
        for position, mark in sorted(search(data)):
            if begin <= position < end and (found := _secret(data, position, mark)):
                rule, secret = found
                lines += data.count(b"\n", counted, position)
                counted, begin = position, position + len(secret)
                fingerprint = "sha256:" + hashlib.sha256(secret).hexdigest()
                yield Finding(path, lines + 1, rule.name, rule.live, fingerprint)
        gone = max(end - BESIDE, 0)
        lines += data.count(b"\n", counted, gone)
        data, begin, counted = data[gone:], max(begin, end) - gone, max(counted - gone, 0)


def _secret(data: bytes, position: int, mark: bytes) -> tuple[Format, bytes] | None:
    """What begins with a mark, by the first rule that it keeps: the strictest."""
    for rule in _FORMATS_OF[mark]:
        match = rule.pattern.match(data, position)
        if match and not is_placeholder(match[0]) and _belongs(rule, data, match):
            return rule, match[0]
    return None


def _belongs(rule: Format, data: bytes, match: re.Match[bytes]) -> bool:
    if rule.beside is None:
        return True
    around = data[max(match.start() - BESIDE, 0) : match.end() + BESIDE]
    return any(not is_placeholder(other[0]) for other in rule.beside.finditer(around))


def search_little(data: bytes) -> Iterator[tuple[int, bytes]]:
    for mark in MARKS:
        position = data.find(mark)
        while position >= 0:
            yield position, mark
            position = data.find(mark, position + 1)


def search_much(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []

    def take(number: int, begin: int, end: int, flags: int, context: object) -> None:
        found.append((end - len(MARKS[number]), MARKS[number]))

    _database().scan(data, match_event_handler=take)
    return found


@cache
def _database() -> hyperscan.Database:
    """All marks at once: 3 GB/s, where Python's re makes 90 MB/s."""
    import hyperscan  # 10 ms

    database = hyperscan.Database()
    database.compile(
        expressions=[re.escape(mark) for mark in MARKS],
        ids=range(len(MARKS)),
        elements=len(MARKS),
        flags=[0] * len(MARKS),
    )
    return database
