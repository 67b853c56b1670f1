"""Which commit an image says its sources are of."""

from __future__ import annotations

import pytest

from kontext_plugin.image.spec import REVISION, SOURCE, UNKNOWN, labels_on, worth_publishing
from kontext_plugin.source.git import labels_of, source_of

COMMIT = "0123456789abcdef" * 2 + "01234567"
OTHER = COMMIT[::-1]
HEAD = f"# branch.oid {COMMIT}\0# branch.head main\0"

URLS = {
    "https": ("https://example.com/me/app.git", "https://example.com/me/app.git"),
    "password": ("https://me:s3cret@example.com/app", "https://example.com/app"),
    "token": ("https://ghp_s3cret@example.com/app", "https://example.com/app"),
    "query": ("https://example.com/app?private_token=s3cret#f", "https://example.com/app"),
    "port": ("https://x:y@example.com:8443/app", "https://example.com:8443/app"),
    "IPv6": ("http://[::1]:80/app", "http://[::1]:80/app"),
    "ssh": ("ssh://git@example.com:22/me/app", "ssh://git@example.com:22/me/app"),
    "ssh with a password": ("ssh://git:s3cret@example.com/app", "ssh://git@example.com/app"),
    "scp-like": ("git@example.com:me/app.git", "git@example.com:me/app.git"),
    "scp-like without a user": ("example.com:me/app.git", "example.com:me/app.git"),
    "scp-like with a password": ("me:s3cret@example.com:me/app", ""),
    "a proxy's": ("https://proxy.example.com/https://me:s3cret@example.com/app", ""),
    "path": ("/srv/git/app.git", ""),
    "relative path": ("../app.git", ""),
    "file": ("file:///srv/git/app.git", ""),
    "a helper's": ("ext::sh -c s3cret", ""),
    "a helper's with slashes": ("foo::https://example.com/app", ""),
    "no host": ("https:///app", ""),
    "bad port": ("https://example.com:port/app", ""),
    "control character": ("https://example.com/\x1b[2J", ""),
    "line end": ("https://example.com/a\nb", ""),
    "not UTF-8": ("https://example.com/\udcff", ""),
    "long": ("https://example.com/" + "x" * 5000, ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("url", "source"), URLS.values(), ids=URLS)
def test_the_source_has_no_secrets(url: str, source: str) -> None:
    assert source_of(url) == source


STATUSES = {
    "clean": (HEAD, "", COMMIT),
    "changed": (HEAD + f"1 .M N... 100644 100644 100644 {COMMIT} {COMMIT} f\0", "", "dirty"),
    "untracked": (HEAD + "? f\0", "", "dirty"),
    "ignored files only": (HEAD + "! out/\0! f\0", "", COMMIT),
    "ignored files in a directory": (HEAD + "! src/out/\0", "src", COMMIT),
    "a like-named directory is ignored": (HEAD + "! src/\0", "src2", COMMIT),
    "no commit yet": ("# branch.oid (initial)\0# branch.head main\0? f\0", "", None),
    "ignored directory": (HEAD + "! out/\0", "out", None),
    "within an ignored directory": (HEAD + "! out/\0", "out/deep", None),
    "a file with a name like a header": (HEAD + "? # branch.oid (initial)\0", "", "dirty"),
    "nothing": ("", "", None),
}


@pytest.mark.parametrize(("status", "directory", "revision"), STATUSES.values(), ids=STATUSES)
def test_the_revision(status: str, directory: str, revision: str | None) -> None:
    expected = f"{COMMIT}-dirty" if revision == "dirty" else revision
    assert labels_of(status, "", directory).get(REVISION) == expected


def test_an_ignored_directory_is_nobodys() -> None:
    assert labels_of(HEAD + "! out/\0", "https://example.com/a", "out") == {}


def test_no_commit_yet_still_has_a_source() -> None:
    status = "# branch.oid (initial)\0"
    assert labels_of(status, "https://example.com/a", "") == {SOURCE: "https://example.com/a"}


CLEAN, DIRTY = {REVISION: COMMIT}, {REVISION: f"{COMMIT}-dirty"}
WORTH = {
    "nothing new": ({}, {}, {}, False),
    "a label of the user's": ({"k": "v"}, {"k": "w"}, {}, True),
    "the user's own revision": (CLEAN, {REVISION: "v1"}, {}, True),
    "the user's own revision again": ({REVISION: "v1"}, {REVISION: "v1"}, CLEAN, False),
    "another commit": ({REVISION: OTHER}, {}, CLEAN, False),
    "dirty now": (CLEAN, {}, DIRTY, False),
    "dirty still": ({REVISION: f"{OTHER}-dirty"}, {}, DIRTY, False),
    "committed": (DIRTY, {}, CLEAN, True),
    "a commit known at last": ({REVISION: UNKNOWN}, {}, CLEAN, True),
    "the first with labels": ({}, {}, CLEAN, True),
    "no work tree any more": (CLEAN, {}, {}, False),
    "another source": (CLEAN | {SOURCE: "a"}, {}, CLEAN | {SOURCE: "b"}, False),
}


@pytest.mark.parametrize(("former", "given", "found", "worth"), WORTH.values(), ids=WORTH)
def test_when_labels_alone_are_published(
    former: dict[str, str], given: dict[str, str], found: dict[str, str], worth: bool
) -> None:
    assert worth_publishing(former, given, found) is worth


@pytest.mark.parametrize("found", [{}, CLEAN, DIRTY, CLEAN | {SOURCE: "git@h:p"}])
@pytest.mark.parametrize("given", [{}, {"k": "v"}, {REVISION: "v1"}, {SOURCE: "s"}])
@pytest.mark.parametrize("former", [{}, CLEAN, DIRTY | {SOURCE: "s"}])
def test_what_was_published_is_not_published_again(
    former: dict[str, str], given: dict[str, str], found: dict[str, str]
) -> None:
    labels = labels_on(former, given, found)
    assert former.keys() <= labels.keys()
    assert labels | given == labels, "the user's labels win"
    assert not worth_publishing(labels, given, found)


def test_what_nobody_knows_any_more_is_not_repeated() -> None:
    assert labels_on(DIRTY | {SOURCE: "s"}, {}, {}) == {REVISION: UNKNOWN, SOURCE: UNKNOWN}
    assert labels_on({}, {}, {}) == {}
