"""Image references, `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`: parsed once, then trusted.

The grammar is that of the distribution specification ("Pulling manifests"), narrowed to what
crane accepts (a repository of 2 to 255 characters).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from kontext_plugin.errors import UsageError
from kontext_plugin.image.oci import parse_digest

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

_PATH = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)

_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
)

_BACK = re.compile("[0-9]{1,6}")

DOCKER_HUB = "docker.io"
"""Docker Hub as docker names it: a login at index.docker.io goes where nothing looks."""


@dataclass(frozen=True)
class Reference:
    """An image in a repository, as the user typed it, by a tag or by its digest."""

    repository: str
    tag: str
    digest: str = ""  # overrides the tag
    back: int = 0  # generations before the image that the rest names

    def __str__(self) -> str:
        name = self.at(self.digest) if self.digest else f"{self.repository}:{self.tag}"
        return f"{name}~{self.back}" if self.back else name

    def at(self, digest: str) -> str:
        """Return `REPO@sha256:…`, the name of one image for good."""
        return f"{self.repository}@{digest}"

    @property
    def registry(self) -> str:
        """The host and port that hold the repository."""
        return registry_of(self.repository)


def registry_of(name: str) -> str:
    """Return the registry of an image name: its first component, if that looks like a host."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return DOCKER_HUB


def repository_of(name: str) -> str:
    """Return an image name without its tag and digest."""
    head, slash, last = name.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def parse_reference(text: str) -> Reference:
    """Return a reference to push to; the tag defaults to `latest`.

    Raises UsageError for anything that crane or a registry would reject, a digest included.
    """
    if "@" in text:
        raise UsageError(
            f"invalid reference {text!r}: a digest cannot be pushed to",
            hint="Name a tag: REGISTRY/REPOSITORY:TAG",
        )
    if "://" in text:
        raise _invalid(text, "an image name does not start with a URL scheme")
    if "~" in text:
        raise _invalid(text, "'~' names an earlier image, which cannot be pushed to")
    repository = repository_of(text)
    _, colon, tag = text[len(repository) :].partition(":")
    if colon and not tag:
        raise _invalid(text, "the tag is empty")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, "a tag is up to 128 letters, digits, '_', '.' and '-'")
    host = registry_of(repository)
    path = repository[len(host) + 1 :] if repository.startswith(host + "/") else repository
    if path != repository and not _HOST.fullmatch(host):
        raise _invalid(text, f"{host!r} is not a host name")
    if ":" in path:
        raise _invalid(text, "a tag cannot contain '/'")
    if path != path.lower():
        raise _invalid(text, "repository names are lower case")
    port = host.rpartition(":")[2]
    if path != repository and port.isdigit() and int(port) > 65535:
        raise _invalid(text, f"{port} is not a port")
    if len(path) < 2:
        raise _invalid(text, "a repository name has at least 2 characters")
    if not _PATH.fullmatch(path) or len(path) > 255:
        raise _invalid(
            text,
            "a repository name is 2 to 255 of a-z and 0-9, with '.', '_', '-' or '/' between them",
        )
    return Reference(repository, tag or "latest")


def parse_image_reference(text: str) -> Reference:
    """Return a reference to read: a tag, or `REPO@sha256:…` as a push prints it.

    `~N` at its end goes N generations back. Raises UsageError.
    """
    text, tilde, back = text.partition("~")
    if tilde:
        if not _BACK.fullmatch(back):
            raise _invalid(f"{text}~{back}", "after '~' comes a number of generations")
        return replace(parse_image_reference(text), back=int(back))
    name, at, digest = text.partition("@")
    if not at:
        return parse_reference(text)
    try:
        return replace(parse_reference(name), digest=parse_digest(digest))
    except ValueError as error:
        raise UsageError(
            f"invalid reference {text!r}: a digest is sha256: and 64 hexadecimal digits",
            hint="Name it REGISTRY/REPOSITORY@sha256:…, as a push prints it.",
        ) from error


def _invalid(text: str, why: str) -> UsageError:
    return UsageError(f"invalid reference {text!r}: {why}", hint="Name it REGISTRY/REPOSITORY:TAG")
