"""crane's error texts, which are all it gives (every failure is exit 1), as errors with a hint."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kontext_plugin.errors import KontextError, brief
from kontext_plugin.image.reference import DOCKER_HUB, registry_of, repository_of


class RegistryError(KontextError):
    """The registry, or the way to it, failed."""


class NotFound(RegistryError):
    """There is no such tag, image or blob."""


class Damaged(RegistryError):
    """What the registry sent is not what its digest says."""


class Refused(RegistryError):
    """The registry wants other credentials, or none of ours may do this."""


@dataclass(frozen=True)
class _Case:
    pattern: str
    message: str  # may use the facts of explain() and the pattern's named groups
    hint: str
    kind: type[RegistryError] = RegistryError
    verbs: frozenset[str] = frozenset()  # of crane's; none: any


_ABSENT = r"MANIFEST_UNKNOWN|NAME_UNKNOWN|BLOB_UNKNOWN|status code 404"

_CASES = (
    _Case(
        _ABSENT,
        "{registry} does not take {repository}",
        "Check the name. Some registries want a repository to be created before the first push.",
        NotFound,
        frozenset({"push", "mutate"}),
    ),
    _Case(
        _ABSENT,
        "{name} was not found",
        "Check the name; a registry may also have removed what no tag shows any more.",
        NotFound,
    ),
    _Case(
        r'exec: "(?P<helper>docker-credential-[^"]*)": executable file not found',
        "the credential helper {helper} is not on PATH",
        "{config} names it for {registry}: install it, or take it out of there and run "
        "'docker login {registry}'.",
    ),
    _Case(
        r"error getting credentials",
        "the credential helper for {registry} failed",
        "{config} names it: try it with 'docker login {registry}', and see what it says with -D.",
    ),
    _Case(
        r"parsing config file \((?P<file>[^)]*)\)",
        "docker's configuration {file} cannot be read",
        "It must be valid JSON: mend it, or move it away and run 'docker login' again.",
    ),
    _Case(
        r"error verifying (?:sha256|size)|does not match (?:requested digest|expected size)",
        "{registry} sent a damaged {name}",
        "Its storage or a proxy between is broken; push with --fresh to replace the image.",
        Damaged,
    ),
    _Case(
        r"UNAUTHORIZED|status code 401",
        "{registry} refused {repository}: it wants other credentials",
        "Run 'docker login {registry}'; Kontext uses what docker has in {config}.",
        Refused,
    ),
    _Case(
        r"DENIED|status code 403",
        "{registry} refused {repository}: this account may not do that",
        "Check the repository's name and the account's rights, or 'docker login {registry}' "
        "with another one.",
        Refused,
    ),
    _Case(
        r"connection refused",
        "{registry} does not answer: connection refused",
        "Is the registry running, and is the port right?",
    ),
    _Case(
        r"no such host|server misbehaving|Temporary failure in name resolution",
        "{registry} is not known: there is no such host",
        "Check the name's spelling, and this machine's network and DNS.",
    ),
    _Case(
        r"server gave HTTP response to HTTPS client(?!;)",  # else plain http was tried, too
        "{registry} speaks plain http, where https was expected",
        "Use --insecure if you trust the network between.",
    ),
    _Case(
        r"(?:x509|tls): (?P<why>[^\n;\"]*)",
        "{registry} cannot be trusted: {why}",
        "Add its certificate authority to the system's, or name it in SSL_CERT_FILE; "
        "--insecure goes on without.",
    ),
    _Case(
        r"no space left on device",
        "{registry} has no space left",
        "Free some space there, or push to another registry.",
    ),
    _Case(
        r"i/o timeout|deadline exceeded|TLS handshake timeout",
        "{registry} does not answer in time",
        "Check the network and any proxy between, and try again.",
    ),
    _Case(
        r"TOOMANYREQUESTS|status code 429",
        "{registry} takes no more requests for now",
        "Wait a while, or log in: anonymous limits are lower.",
    ),
    _Case(
        r"could not parse reference: (?P<what>[^\n]*)",
        "{what} is not an image name",
        "Name it REGISTRY/REPOSITORY:TAG",
    ),
    _Case(
        r"status code (?P<status>5\d\d)[^\n]*",
        "{registry} failed with status {status}",
        "Try again later; its own log says why.",
    ),
    _Case(
        r"malformed HTTP|malformed MIME header",
        "{registry} does not speak HTTP",
        "Check the name and the port, and any proxy between.",
    ),
    _Case(
        r"unexpected EOF|connection reset|broken pipe|\bEOF\b",
        "{registry} broke the connection off",
        "Try again; if it happens each time, the registry or a proxy between limits uploads.",
    ),
)

_OF_REGISTRIES = ("auth", "catalog")
"""crane's verbs that take a registry and no image."""

_URL = re.compile(r"https?://([^/\s\"@]{1,255})/v2/")

_MOST = 4096
"""Characters of a reason that are looked at: what follows is a registry's, a web page perhaps."""


def explain(
    messages: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> RegistryError:
    """The error that crane's stderr tells of; `arguments` are crane's, the verb first."""
    name = _image_name(arguments)
    facts = {
        "name": name,
        "repository": repository_of(name),
        # Two registries may take part; the URL tells which one answered.
        "registry": _common(host[1]) if (host := _URL.search(messages)) else _registry(arguments),
        "config": os.path.join(environment.get("DOCKER_CONFIG") or "~/.docker", "config.json"),
    }
    said = _reason(messages, arguments)
    for case in _CASES:
        if case.verbs and arguments[0] not in case.verbs:
            continue
        if found := re.search(case.pattern, said):
            facts.update((name, brief(text)) for name, text in found.groupdict().items())
            hint = case.hint.format(**facts) + _unnamed(name, facts["registry"])
            return case.kind(case.message.format(**facts), hint=hint)
    last = messages.strip().rpartition("\n")[2].removeprefix("Error: ") or "it gave no reason"
    return RegistryError(
        f"crane {arguments[0]} failed for {name}: {brief(last, 500)}",
        hint="See the whole of it with 'docker -D kontext …'.",
    )


def no_answer(arguments: Sequence[str], seconds: float) -> RegistryError:
    """The error that crane would never tell of; `arguments` as in explain()."""
    registry = _registry(arguments)
    return RegistryError(
        f"{registry} has not answered for {seconds:g} s",
        hint="Check the network and any proxy between, or give it more time with --timeout.",
    )


def _reason(messages: str, arguments: Sequence[str]) -> str:
    """What crane says at last, without the names in it: whoever chose them decides nothing."""
    begin = max(messages.rfind("\nError: "), 0)
    reason = messages[begin : begin + _MOST]
    for name in arguments[1:]:
        if "/" in name:  # a tag alone may be "4", and stands in URLs only
            reason = reason.replace(name, "")
    return re.sub(r"https?://[^\s\"]+", "", reason)


def _common(host: str) -> str:
    """The name of a registry that people know it by."""
    return DOCKER_HUB if host == "index.docker.io" else host


def _unnamed(name: str, registry: str) -> str:
    """What to add for those who meant another registry than docker's."""
    if not registry == registry_of(name) == DOCKER_HUB or name.partition("/")[0] == DOCKER_HUB:
        return ""
    return f" {name} names no registry, which means Docker Hub."


def _registry(arguments: Sequence[str]) -> str:
    return arguments[-1] if arguments[0] in _OF_REGISTRIES else registry_of(_image_name(arguments))


def _image_name(arguments: Sequence[str]) -> str:
    """The image that the verb writes, or else reads."""
    if "--tag" in arguments:
        return arguments[arguments.index("--tag") + 1]
    return arguments[-1] if arguments[0] != "tag" else arguments[1]
