"""The scanner: content passes through it unchanged, and secrets are found however it is cut."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokens import DOUBTFUL, LIVE, pem

from kontext_plugin.secret_scan import scanner as scanners
from kontext_plugin.secret_scan.rules import MARKS, MAX_SECRET_BYTES
from kontext_plugin.secret_scan.scanner import (
    Finding,
    Scanner,
    choose_search,
    search_plain,
    search_with_hyperscan,
)

TOKEN = LIVE["GitHub token"].encode()
LARGE = 1 << 30


@pytest.fixture
def no_hyperscan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The extra `fast` is not installed."""
    monkeypatch.setitem(sys.modules, "hyperscan", None)
    scanners._database.cache_clear()
    yield
    scanners._database.cache_clear()


def find(content: bytes, piece: int = 1 << 22, *, size: int = 0) -> list[Finding]:
    """Cut a file into pieces, let them pass, and return what is found."""
    pieces = [content[start : start + piece] for start in range(0, len(content), piece)]
    scanner = Scanner(size)
    pass_through(scanner, "file", pieces)
    return scanner.findings


def pass_through(scanner: Scanner, path: str, pieces: list[bytes]) -> None:
    scanner.begin(path)
    for piece in pieces:
        scanner.add(piece)
    scanner.end()


@pytest.mark.parametrize("rule", [*LIVE, *DOUBTFUL])
def test_a_secret_is_found_wherever_a_piece_ends(rule: str) -> None:
    around = b"\n" * MAX_SECRET_BYTES
    content = around + {**LIVE, **DOUBTFUL}[rule].encode() + around
    whole = find(content)
    assert whole
    for piece in (97, 1000, MAX_SECRET_BYTES, MAX_SECRET_BYTES + 1, 2 * MAX_SECRET_BYTES):
        assert find(content, piece) == whole


def test_a_finding_has_path_line_and_fingerprint() -> None:
    (finding,) = find(b"one\ntwo\n  " + TOKEN + b"\n")
    fingerprint = "sha256:" + hashlib.sha256(TOKEN).hexdigest()
    assert finding == Finding("file", 3, "GitHub token", True, fingerprint)


@pytest.mark.parametrize("rule", [*LIVE, *DOUBTFUL])
def test_a_finding_has_nothing_of_the_secret(rule: str) -> None:
    text = {**LIVE, **DOUBTFUL}[rule]
    for finding in find(text.encode()):
        assert not [word for word in text.split() if len(word) > 20 and word in repr(finding)]


def test_a_later_line_is_counted_in_a_large_file() -> None:
    content = b"line\n" * 100_000 + TOKEN + b"\n" + b"line\n" * 100_000 + TOKEN
    for piece in (1000, 4096, 1 << 16):
        assert [finding.line for finding in find(content, piece)] == [100_001, 200_002]


@pytest.mark.parametrize("size", [0, LARGE], ids=["few bytes", "many bytes"])
def test_a_scanner_has_the_findings_of_all_files(size: int) -> None:
    scanner = Scanner(size)
    contents = {
        "harmless": b"harmless\n" * 2000,
        "a/b.py": b"\n" + TOKEN,
        "test.key": pem().encode(),
        ".env": b"A=b",
        "a/.env": b"",
        "b/.env": TOKEN,
    }
    for path, content in contents.items():
        pass_through(scanner, path, [content] if content else [])
    assert [(finding.path, finding.line, finding.rule) for finding in scanner.findings] == [
        ("a/b.py", 2, "GitHub token"),
        ("test.key", 1, "private key"),
        (".env", 0, ""),
        ("a/.env", 0, ""),
        ("b/.env", 1, "GitHub token"),
    ]


def test_a_suspicious_name_is_neither_live_nor_has_a_fingerprint() -> None:
    scanner = Scanner(0)
    pass_through(scanner, ".env", [b"A=b"])
    assert scanner.findings == [Finding(".env", 0, "", False, "")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_tells_the_encoding(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("-be") else ""
    content = f"{mark}a: é\r\nTOKEN={TOKEN.decode()}\r\n".encode(encoding)
    for whole in (content, content + b"\0\xd8\xff"):
        for piece in (3, 1 << 20):
            findings = find(whole, piece)
            assert [(finding.line, finding.rule) for finding in findings] == [(2, "GitHub token")]


# --- The search for marks ---


@given(
    pieces=st.lists(
        st.sampled_from([*MARKS, b"\n", b"x", b"-", *(mark[:-1] for mark in MARKS)]), max_size=40
    )
)
def test_both_searches_find_the_same_marks(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert sorted(search_plain(data)) == sorted(search_with_hyperscan(data))


def test_few_bytes_are_searched_without_hyperscan() -> None:
    assert choose_search(1000) is search_plain
    assert choose_search(LARGE) is search_with_hyperscan


def test_many_bytes_are_searched_without_hyperscan_if_it_is_not_installed(
    no_hyperscan: None,
) -> None:
    assert choose_search(LARGE) is search_plain


CONTENTS = [text.encode() for text in (*LIVE.values(), *DOUBTFUL.values())]


@given(st.lists(st.sampled_from([*CONTENTS, b"\n", b"x = ", *MARKS]), max_size=20))
def test_the_findings_are_the_same_without_hyperscan(contents: list[bytes]) -> None:
    content = b"".join(contents)
    with_hyperscan = find(content, 1000, size=LARGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "hyperscan", None)
        scanners._database.cache_clear()
        without = find(content, 1000, size=LARGE)
    scanners._database.cache_clear()
    assert without == with_hyperscan
