"""crane's release, from a mirror on 127.0.0.1: only the pinned archive is unpacked."""

from __future__ import annotations

import base64
import hashlib
import socket
import tarfile
from collections.abc import Callable, Iterator

import pytest
from support.mirror import (
    Mirror,
    archive_of,
    redirects,
    regular,
    sends,
    serve_mirror,
    special,
)

from kontext_plugin.crane_driver import release as release_module
from kontext_plugin.crane_driver.process import MINIMUM_VERSION
from kontext_plugin.crane_driver.release import PINNED, RELEASES, Release, download, release_for
from kontext_plugin.errors import KontextError
from kontext_plugin.terminal.text import redact

PROGRAM = b"#!/bin/sh\n# from the release\necho 0.21.9\n"
GOOD = archive_of(
    regular("LICENSE", b"text"), regular("crane", PROGRAM), regular("gcrane", b"other")
)
PATH = "/crane.tar.gz"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve_mirror() as served:
        served.answers[PATH] = sends(GOOD)
        yield served


def pinned(url: str, archive: bytes = GOOD) -> Release:
    return Release(url, hashlib.sha256(archive).hexdigest())


def failure(release: Release) -> str:
    """The message of a download that fails, as it is shown. Each one says what to do next."""
    with pytest.raises(KontextError) as raised:
        download(release)
    assert "install --crane PATH" in raised.value.hint
    return redact(raised.value.message)


# --- Which release ---


PLATFORMS = {
    "linux amd64": ("Linux", "x86_64", "Linux_x86_64"),
    "linux arm64": ("Linux", "aarch64", "Linux_arm64"),
    "mac intel": ("Darwin", "x86_64", "Darwin_x86_64"),
    "mac arm": ("Darwin", "arm64", "Darwin_arm64"),
}


@pytest.mark.parametrize(("system", "machine", "name"), PLATFORMS.values(), ids=PLATFORMS)
def test_each_platform_has_a_release(system: str, machine: str, name: str) -> None:
    release = release_for(system, machine)
    assert release.url == f"{RELEASES}/v0.21.9/go-containerregistry_{name}.tar.gz"
    assert release.sha256 == PINNED[name]
    mirrored = release_for(system, machine, "http://mirror.invalid/crane/")
    assert mirrored.url == f"http://mirror.invalid/crane/v0.21.9/go-containerregistry_{name}.tar.gz"
    assert mirrored.sha256 == PINNED[name]


@pytest.mark.parametrize("machine", ["ppc64le", "s390x", "armv7l", "riscv64"])
def test_another_machine_builds_crane(machine: str) -> None:
    with pytest.raises(KontextError, match=f"no release of crane for Linux {machine}") as raised:
        release_for("Linux", machine)
    assert "go install github.com/google/go-containerregistry/cmd/crane@" in raised.value.hint


def test_the_pins_are_whole_digests_of_a_crane_that_is_new_enough() -> None:
    assert len(set(PINNED.values())) == len(PINNED) == 4
    assert all(len(bytes.fromhex(pin)) == 32 for pin in PINNED.values())
    pinned = tuple(map(int, release_module.VERSION.removeprefix("v").split(".")))
    assert pinned >= MINIMUM_VERSION


# --- The archive ---


ARCHIVES = {
    "as released": GOOD,
    "traversal": archive_of(regular("../evil", b"x"), regular("crane", PROGRAM)),
    "namesake": archive_of(regular("sub/crane", b"x"), regular("crane", PROGRAM)),
    "below a link": archive_of(
        special("out", tarfile.SYMTYPE, "/"), regular("out/x", b"x"), regular("crane", PROGRAM)
    ),
}


@pytest.mark.parametrize("archive", ARCHIVES.values(), ids=ARCHIVES)
def test_the_program_of_an_archive(archive: bytes, mirror: Mirror) -> None:
    mirror.answers[PATH] = sends(archive)
    assert download(pinned(mirror.url + PATH, archive)) == PROGRAM


OTHERS = {
    "another archive": archive_of(regular("crane", b"#!/bin/sh\necho v9.9.9\n")),
    "shorter": GOOD[:-1],
    "longer": GOOD + b"\0",
    "empty": b"",
    "a log-in page": b"<html>Log in</html>",
}


@pytest.mark.parametrize("received", OTHERS.values(), ids=OTHERS)
def test_another_digest_is_never_unpacked(
    received: bytes, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarfile.open", lambda **_: pytest.fail("unpacked"))
    mirror.answers[PATH] = sends(received)
    message = failure(pinned(mirror.url + PATH))
    assert message.startswith(f"{mirror.url}{PATH} is not the pinned release of crane: ")
    assert f"expected sha256:{hashlib.sha256(GOOD).hexdigest()}" in message
    assert f"received sha256:{hashlib.sha256(received).hexdigest()}" in message


def test_an_endless_archive_is_cut_off(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_module, "_MAX_ARCHIVE", len(GOOD) - 1)
    assert "is not the pinned release" in failure(pinned(mirror.url + PATH))


BAD = {
    "missing": (archive_of(regular("gcrane", b"x")), "no regular file crane"),
    "empty": (archive_of(), "no regular file crane"),
    "symbolic link": (
        archive_of(regular("gcrane", b"x"), special("crane", tarfile.SYMTYPE, "gcrane")),
        "no regular file crane",
    ),
    "hard link": (
        archive_of(regular("gcrane", b"x"), special("crane", tarfile.LNKTYPE, "gcrane")),
        "no regular file crane",
    ),
    "directory": (archive_of(special("crane", tarfile.DIRTYPE)), "no regular file crane"),
    "traversal only": (archive_of(regular("../crane", b"x")), "no regular file crane"),
    "too large": (archive_of(regular("crane", b"x" * 1001)), "its crane has 1001 bytes"),
    "no gzip": (b"junk", "not a gzip file"),
    "cut off": (archive_of(regular("crane", bytes(range(256))))[:150], "cannot be unpacked"),
}


@pytest.mark.parametrize(("archive", "message"), BAD.values(), ids=BAD)
def test_an_archive_without_a_crane(
    archive: bytes, message: str, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_module, "_MAX_PROGRAM", 1000)
    mirror.answers[PATH] = sends(archive)
    assert message in failure(pinned(mirror.url + PATH, archive))


# --- The way to it ---


def closed_port(mirror: Mirror) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"


def answering(answer: Callable[[Mirror], object]) -> Callable[[Mirror], str]:
    def prepare(mirror: Mirror) -> str:
        mirror.answers[PATH] = answer(mirror)  # type: ignore[assignment]
        return mirror.url + PATH

    return prepare


HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD)

TROUBLES: dict[str, tuple[Callable[[Mirror], str], str]] = {
    "connection refused": (closed_port, ": Connection refused"),
    "no URL": (lambda _: "no URL", "unknown url type"),
    "no host": (lambda _: "http:///crane", "no host given"),
    "404": (answering(lambda _: sends(b"", status=404)), ": HTTP status 404 Not Found"),
    "503": (answering(lambda _: sends(b"", status=503)), ": HTTP status 503"),
    "half a download": (
        answering(lambda _: sends(GOOD[:50], length=len(GOOD))),
        f"the connection ended after 50 of {len(GOOD)} bytes",
    ),
    "no HTTP": (answering(lambda mirror: mirror.stalls(b"junk\r\n\r\n")), "junk"),
    "silence": (answering(lambda mirror: mirror.stalls()), "timed out"),
    "silence in the body": (answering(lambda m: m.stalls(HEAD + GOOD[:50])), "timed out"),
    "redirected to a file": (
        answering(lambda _: redirects("file:///etc/passwd")),
        "not allowed",
    ),
}


@pytest.mark.parametrize(("prepare", "message"), TROUBLES.values(), ids=TROUBLES)
def test_a_download_that_fails_names_the_url_and_the_reason(
    prepare: Callable[[Mirror], str],
    message: str,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release_module, "_TIMEOUT", 0.2)
    url = prepare(mirror)
    shown = failure(pinned(url))
    assert shown.startswith(f"cannot download crane from {url}: ")
    assert message in shown


def test_a_proxy_is_asked(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", mirror.url)
    url = "http://mirror.invalid/crane.tar.gz"
    mirror.answers[url] = sends(GOOD)
    assert download(pinned(url)) == PROGRAM
    assert mirror.requests == [(url, None)]


def test_a_proxy_that_fails_is_named_without_its_password(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = closed_port(mirror).removesuffix(PATH).removeprefix("http://")
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{address}")
    message = failure(pinned("http://mirror.invalid/crane"))
    assert f" through the proxy http://{address} (HTTP_PROXY): Connection refused" in message
    assert "secret" not in message


def test_a_password_of_a_mirror_goes_to_that_mirror_only(mirror: Mirror) -> None:
    """Not to where it redirects, and into no message."""
    with serve_mirror() as other:
        mirror.answers[PATH] = redirects(f"{other.url}/elsewhere")
        other.answers["/elsewhere"] = sends(GOOD)
        url = mirror.url.replace("//", "//me:se%40cret@") + PATH
        assert download(pinned(url)) == PROGRAM
        token = "Basic " + base64.b64encode(b"me:se@cret").decode()
        assert mirror.requests == [(PATH, token)]
        assert other.requests == [("/elsewhere", None)]
        other.answers.clear()
        assert "cret" not in failure(pinned(url))
    assert "cret" not in repr(pinned(url))
