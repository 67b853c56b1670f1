"""Looks for secrets in what is written into layers, before any of these leaves the machine."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from kontext_plugin.secret_scan.rules import (
    BESIDE,
    FORMATS,
    LONGEST,
    MARKS,
    Format,
    is_placeholder,
    is_suspicious,
)

if TYPE_CHECKING:
    import hyperscan


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


class Scanner:
    """Looks for secrets in files whose content passes by; `found` has those of all of them."""

    def __init__(self, size: int) -> None:
        """`size` is that of all files together, in bytes: for a few, nothing is imported."""
        self.found: list[Finding] = []
        self._search: Search = search_little if size < _LITTLE else search_much

    def passing(self, path: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """A regular file's pieces as they are, wherever its content is cut into these."""
        before = len(self.found)
        text = _Text(path, self._search)
        for piece in pieces:
            self.found += text.take(piece)
            yield piece
        self.found += text.end()
        if len(self.found) == before and is_suspicious(path):
            self.found.append(Finding(path, 0, "", False, ""))


class _Text:
    """A file's content as it comes, less what needs not be seen again."""

    def __init__(self, path: str, search: Search) -> None:
        self._path = path
        self._search = search
        self._data = b""
        self._begin = 0  # what lies before was searched
        self._lines = 0  # how many have ended before `_counted`
        self._counted = 0
        self._read: Callable[[bytes], bytes] | None = None  # by the first piece

    def take(self, piece: bytes) -> Iterator[Finding]:
        # Only now, since most files are a single piece. What begins near the end waits for more.
        end = len(self._data) - LONGEST
        if end > self._begin:
            yield from self._look(end)
            self._forget(end)
        self._read = self._read or _reader(piece)
        self._data += self._read(piece)

    def end(self) -> Iterator[Finding]:
        return self._look(len(self._data))

    def _look(self, end: int) -> Iterator[Finding]:
        data = self._data
        for position, mark in sorted(self._search(data)):
            if self._begin <= position < end and (found := _secret(data, position, mark)):
                rule, secret = found
                self._lines += data.count(b"\n", self._counted, position)
                self._counted, self._begin = position, position + len(secret)
                fingerprint = "sha256:" + hashlib.sha256(secret).hexdigest()
                yield Finding(self._path, self._lines + 1, rule.name, rule.live, fingerprint)

    def _forget(self, end: int) -> None:
        gone = max(end - BESIDE, 0)
        self._lines += self._data.count(b"\n", self._counted, gone)
        self._data = self._data[gone:]
        self._begin, self._counted = max(self._begin, end) - gone, max(self._counted - gone, 0)


def _reader(begin: bytes) -> Callable[[bytes], bytes]:
    """What makes UTF-8 of UTF-16 that says so, as PowerShell writes it; all else stays as it is."""
    if not begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return bytes
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    return lambda piece: decoder.decode(piece).encode()


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
