"""Find secrets in the content of files while it passes into a layer."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from kontext_plugin.secret_scan.rules import (
    COMPANION_DISTANCE,
    FORMATS,
    MARKS,
    MAX_SECRET_BYTES,
    Format,
    is_placeholder,
    is_suspicious_name,
)

if TYPE_CHECKING:
    import hyperscan


_SMALL = 256 * 1024  # bytes: searched before hyperscan would be imported

_FORMATS_OF = {mark: [f for f in FORMATS if mark in f.marks] for mark in MARKS}

Search = Callable[[bytes], Iterable[tuple[int, bytes]]]
"""Finds all positions where one of MARKS begins, each with its mark."""


class Finding(NamedTuple):
    """A secret, or a file whose name suggests one. It holds nothing of the secret itself."""

    path: str
    line: int  # from 1; 0 for a suspicious name
    rule: str  # the name of the format; "" for a suspicious name
    live: bool  # the secret gives access to something
    fingerprint: str  # `sha256:…` of the secret; "" for a suspicious name


class Scanner:
    """Looks for secrets in files, one after the other. `findings` has those of all files so far.

    Of each regular file, `begin` gets the path, `add` the pieces, and `end` comes last.
    """

    def __init__(self, size: int) -> None:
        """Prepare for files of `size` bytes in total."""
        self.findings: list[Finding] = []
        self._search = choose_search(size)
        self.begin("")

    def begin(self, path: str) -> None:
        """Begin with the next file."""
        self._path = path
        self._content = _Content(path, self._search)
        self._before = len(self.findings)

    def add(self, piece: bytes) -> None:
        """Look at the next piece of the file."""
        self.findings += self._content.add(piece)

    def end(self) -> None:
        """Look at the file as a whole."""
        self.findings += self._content.end()
        if len(self.findings) == self._before and is_suspicious_name(self._path):
            self.findings.append(Finding(self._path, 0, "", False, ""))


class _Content:
    """A file's content, of which only the bytes that may still matter are kept."""

    def __init__(self, path: str, search: Search) -> None:
        self._path = path
        self._search = search
        self._data = b""
        self._begin = 0  # all before it was searched
        self._lines = 0  # line ends before `_counted`
        self._counted = 0
        self._decode: Callable[[bytes], bytes] | None = None  # chosen with the first piece

    def add(self, piece: bytes) -> Iterator[Finding]:
        """Add a piece. Yield the secrets that begin early enough to be complete."""
        # The pieces before this one: most files have one piece, which `end` searches.
        end = len(self._data) - MAX_SECRET_BYTES
        if end > self._begin:
            yield from self._find_until(end)
            self._forget_until(end)
        self._decode = self._decode or _choose_decoder(piece)
        self._data += self._decode(piece)

    def end(self) -> Iterator[Finding]:
        """Yield the secrets in the rest."""
        return self._find_until(len(self._data))

    def _find_until(self, end: int) -> Iterator[Finding]:
        data = self._data
        for position, mark in sorted(self._search(data)):
            if self._begin <= position < end and (match := _match(data, position, mark)):
                rule, secret = match
                self._lines += data.count(b"\n", self._counted, position)
                self._counted, self._begin = position, position + len(secret)
                fingerprint = "sha256:" + hashlib.sha256(secret).hexdigest()
                yield Finding(self._path, self._lines + 1, rule.name, rule.live, fingerprint)

    def _forget_until(self, end: int) -> None:
        """Drop what was searched, except for what may be the companion of a later secret."""
        dropped = max(end - COMPANION_DISTANCE, 0)
        self._lines += self._data.count(b"\n", self._counted, dropped)
        self._data = self._data[dropped:]
        self._begin = max(self._begin, end) - dropped
        self._counted = max(self._counted - dropped, 0)


def _choose_decoder(first: bytes) -> Callable[[bytes], bytes]:
    """Return what turns a file's pieces into UTF-8: UTF-16 if the first has its byte order mark.

    PowerShell writes such files. Any other content stays as it is.
    """
    if not first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return bytes
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    return lambda piece: decoder.decode(piece).encode()


def _match(data: bytes, position: int, mark: bytes) -> tuple[Format, bytes] | None:
    """Return the secret that begins with the mark at `position`, and the first format it has."""
    for rule in _FORMATS_OF[mark]:
        match = rule.pattern.match(data, position)
        if match and not is_placeholder(match[0]) and _has_companion(rule, data, match):
            return rule, match[0]
    return None


def _has_companion(rule: Format, data: bytes, match: re.Match[bytes]) -> bool:
    if rule.companion is None:
        return True
    around = data[max(match.start() - COMPANION_DISTANCE, 0) : match.end() + COMPANION_DISTANCE]
    return any(not is_placeholder(other[0]) for other in rule.companion.finditer(around))


# --- The search for marks ---


def choose_search(size: int) -> Search:
    """Return the fastest search through `size` bytes: hyperscan for many, if it is installed."""
    if size < _SMALL:
        return search_plain
    try:
        _database()
    except ImportError:  # the extra `fast` is not installed
        return search_plain
    return search_with_hyperscan


def search_plain(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Find one mark after the other, at 50 MB/s: a new image of 1 GB takes 20 s more."""
    for mark in MARKS:
        position = data.find(mark)
        while position >= 0:
            yield position, mark
            position = data.find(mark, position + 1)


def search_with_hyperscan(data: bytes) -> list[tuple[int, bytes]]:
    """Find all marks at once, at 2,900 MB/s."""
    found: list[tuple[int, bytes]] = []

    def add(number: int, begin: int, end: int, flags: int, context: object) -> None:
        found.append((end - len(MARKS[number]), MARKS[number]))

    _database().scan(data, match_event_handler=add)
    return found


@cache
def _database() -> hyperscan.Database:
    """Return the compiled marks. Raises ImportError without hyperscan."""
    import hyperscan  # 10 ms

    database = hyperscan.Database()
    database.compile(
        expressions=[re.escape(mark) for mark in MARKS],
        ids=range(len(MARKS)),
        elements=len(MARKS),
        flags=[0] * len(MARKS),
    )
    return database
