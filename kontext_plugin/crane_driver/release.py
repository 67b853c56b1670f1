"""crane's release: the archive for a platform, fetched and checked against a pinned digest.

Only `install` needs it. So nothing else imports it: its own imports take 60 ms.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from kontext_plugin.crane_driver.network import proxy_of
from kontext_plugin.errors import KontextError, reason_of

VERSION = "v0.21.9"

MODULE = "github.com/google/go-containerregistry/cmd/crane"
"""What Go builds crane from."""

RELEASES = "https://github.com/google/go-containerregistry/releases/download"

MIRROR_VARIABLE = "KONTEXT_CRANE_RELEASES"
"""The variable with the URL of a mirror of RELEASES."""

PINNED = {
    "Linux_x86_64": "5c16d8ddb971cb1d5e6ed8b1e743da8224414eeba2c2762d8f1a61b2f095699e",
    "Linux_arm64": "1f4c647b7bb260ab5435661df5b526cf59950ebf95201790db7183ac189cbcbd",
    "Darwin_x86_64": "f31075b3375f79b406a600e090d5c4778b3c6598a01c817dc7898c05c7c00a56",
    "Darwin_arm64": "11cc3640e53473eb0d8c501068573e52a259f4d82177e6dd11b7bacb8955459e",
}
"""The SHA-256 of each release archive of VERSION. Change both together."""

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}

_TIMEOUT = 30.0  # seconds of silence, while connecting and while reading

_MAX_ARCHIVE = 128 << 20  # bytes

_MAX_PROGRAM = 128 << 20  # bytes

_PIECE = 1 << 20  # bytes

_OTHER_WAYS = (
    "Run 'docker kontext install --crane PATH' with a crane that you have, "
    f"or name a mirror of {RELEASES} in {MIRROR_VARIABLE}."
)


@dataclass(frozen=True)
class Release:
    """A release archive of crane."""

    url: str = field(repr=False)  # that of a mirror may hold a password
    sha256: str  # in hex


def release_for(system: str, machine: str, mirror: str = "") -> Release:
    """Return the release for a platform, named as the module `platform` names it.

    `mirror` is a URL in place of RELEASES. Raises KontextError if no release is pinned.
    """
    name = f"{system}_{_MACHINES.get(machine.lower(), machine)}"
    if name not in PINNED:
        raise KontextError(
            f"Kontext knows no release of crane for {system} {machine}",
            hint=f"Build crane with 'go install {MODULE}@{VERSION}', and run "
            "'docker kontext install --crane ~/go/bin/crane'.",
        )
    base = (mirror or RELEASES).rstrip("/")
    return Release(f"{base}/{VERSION}/go-containerregistry_{name}.tar.gz", PINNED[name])


def download(release: Release) -> bytes:
    """Return the program in a release. Raises KontextError, also for another archive."""
    archive = _fetch(release.url)
    digest = hashlib.sha256(archive).hexdigest()
    if digest != release.sha256:
        raise KontextError(
            f"{release.url} is not the pinned release of crane: expected sha256:{release.sha256}, "
            f"received sha256:{digest}",
            hint=f"Nothing was installed. {_OTHER_WAYS}",
        )
    return _unpack(archive, release.url)


def _fetch(url: str) -> bytes:
    """Return what a server sends, at most _MAX_ARCHIVE bytes. Raises KontextError."""
    try:
        # An opener of its own: urllib's global one keeps the proxies that it first saw.
        with urllib.request.build_opener().open(_request(url), timeout=_TIMEOUT) as response:
            body = b""
            while piece := response.read(min(_PIECE, _MAX_ARCHIVE - len(body))):
                body += piece
            length = response.headers.get("Content-Length")
        # read(n) is silent about a connection that closes too early.
        if length is not None and len(body) < min(int(length), _MAX_ARCHIVE):
            raise OSError(f"the connection ended after {len(body)} of {length} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise KontextError(
            f"cannot download crane from {url}{_through_proxy(url)}: {_reason(error)}",
            hint=_OTHER_WAYS,
        ) from error
    return body


def _request(url: str) -> urllib.request.Request:
    """Return a request. A user and a password in the URL go to its own host only."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if at:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _through_proxy(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return ""
    proxy = proxy_of(parts.scheme, parts.netloc.rpartition("@")[2], os.environ)
    return f" through {proxy}" if proxy else ""


def _reason(error: Exception) -> str:
    """Return the words of the innermost error: urllib wraps those of the system."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    return (reason_of(reason) if isinstance(reason, Exception) else reason) or type(error).__name__


def _unpack(archive: bytes, url: str) -> bytes:
    """Return the regular file `crane` of an archive. Raises KontextError if there is none."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            member = next((member for member in tar if member.name == "crane"), None)
            content = tar.extractfile(member) if member and member.isreg() else None
            if member is None or content is None:
                raise ValueError("it has no regular file crane")
            if member.size > _MAX_PROGRAM:
                raise ValueError(f"its crane has {member.size} bytes")
            return content.read()
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise KontextError(f"{url} cannot be unpacked: {error}", hint=_OTHER_WAYS) from error
