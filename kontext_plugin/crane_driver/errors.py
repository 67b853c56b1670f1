"""Turn the texts that crane prints into errors. The exit code says nothing: it is always 1.

`_CASES` is the table. The first row whose pattern is in the text gives the message and the hint.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kontext_plugin.crane_driver.credentials import CredentialSource, full_name
from kontext_plugin.crane_driver.network import Proxy
from kontext_plugin.errors import KontextError, brief
from kontext_plugin.image.reference import DOCKER_HUB, registry_of, repository_of
from kontext_plugin.terminal.text import line_safe, redact


class RegistryError(KontextError):
    """The registry, or the connection to it, failed."""


class NotFound(RegistryError):
    """The registry has no such repository, tag, image or blob."""


class BlobMissing(NotFound):
    """The registry lacks a blob, and the layout that `crane push` publishes lacks it too."""


class Damaged(RegistryError):
    """The registry sent content that does not match its digest or size."""


class Unreadable(RegistryError):
    """The registry has something that is no image: too large, empty, or of another form."""


class Refused(RegistryError):
    """The registry wants credentials, or does not allow this with those that it got."""


class Busy(RegistryError):
    """The registry accepts no more requests for now: 429, or TOOMANYREQUESTS."""


@dataclass(frozen=True)
class _Case:
    pattern: str
    message: str  # with the facts of explain(), and the pattern's named groups
    hint: str  # as message
    kind: type[RegistryError] = RegistryError
    verbs: frozenset[str] = frozenset()  # crane's verbs that the row is for; none: all


_ABSENT = (
    r"(?P<said>(?:MANIFEST_UNKNOWN|NAME_UNKNOWN|BLOB_UNKNOWN)\b[^\n;]*|status code 404[^\n;(]*)"
)
"""The registry's own words: `CODE: message; details` of the distribution specification, or a
status. crane adds a remark in parentheses to a status without a body."""

_CODE = r"(?:[A-Z_]{4,}|status code 4\d\d[^\n;:]*): "
"""What comes before the registry's own words: a code of the specification, or a status."""

_WRITES = frozenset({"push", "tag", "mutate"})

_CASES = (
    _Case(  # of a sparse layout
        r"blobs/sha256/(?P<blob>[0-9a-f]{64}): no such file or directory",
        "{registry} has lost a layer of {repository}: sha256:{blob}",
        "Push with --fresh to upload it again.",
        BlobMissing,
        frozenset({"push"}),
    ),
    _Case(
        _ABSENT,
        "{registry} does not accept {repository}: {said}",
        "Check the name. Some registries need you to create a repository before the first push.",
        NotFound,
        frozenset({"push", "mutate"}),
    ),
    _Case(
        r"(?P<said>BLOB_UNKNOWN\b[^\n;]*)",
        "{registry} has lost a part of {repository}: {said}",
        "Push the directory again with --fresh.",
        NotFound,
        frozenset({"blob", "export"}),
    ),
    _Case(
        _ABSENT,
        "{name} was not found: {said}",
        "Check the name; 'crane ls {repository}' lists the tags. A registry may delete images "
        "that have no tag.",
        NotFound,
    ),
    _Case(
        r'exec: "(?P<helper>docker-credential-[^"]*)": executable file not found',
        "the credential helper {helper} is not on PATH",
        "{credentials} Install it, or remove it from the configuration and run "
        "'docker login {registry}'.",
    ),
    _Case(
        r"error getting credentials",
        "the credential helper for {registry} failed",
        "{credentials} Test it with 'docker login {registry}'; 'docker -D kontext …' shows what it "
        "prints.",
    ),
    _Case(
        r"parsing config file \((?P<file>[^)]*)\)",
        "docker's configuration {file} cannot be read",
        "It must be valid JSON. Correct the file, or move it away and run "
        "'docker login {registry}'.",
    ),
    _Case(
        r"error verifying (?:sha256|size)|does not match (?:requested digest|expected size)",
        "{registry} sent damaged data for {name}",
        "The registry's storage, or a proxy, is broken. Push with --fresh to replace the image.",
        Damaged,
    ),
    _Case(
        r"(?P<said>TAG_INVALID\b[^\n;]*"
        rf"|{_CODE}[^\n;]*(?i:immutab|overwrit|already exists)[^\n;]*)",
        "{registry} refuses to change {name}: {said}",
        "Push to another tag.",
        Refused,
        _WRITES,
    ),
    _Case(
        rf"(?P<said>{_CODE}[^\n;]*(?i:quota|storage resource|upper limit)[^\n;]*)",
        "{registry} has no room for {repository}: {said}",
        "Delete images there that nobody needs, or ask for a higher quota.",
        Refused,
        _WRITES,
    ),
    _Case(
        rf"(?P<said>{_CODE}[^\n;]*(?i:retention|lifecycle|\blocked\b|disallowed)[^\n;]*)",
        "{registry} refuses to change {name}: {said}",
        "A rule of the registry protects it. Push to another tag, or ask who keeps the registry.",
        Refused,
        _WRITES,
    ),
    _Case(
        r"status code (?P<said>413[^\n;(]*)|(?P<code>SIZE_INVALID\b[^\n;]*)",
        "{registry} refuses a layer as too large: {said}{code}",
        "A proxy before the registry may limit uploads (client_max_body_size of nginx). Raise that "
        "limit, or push smaller directories.",
        Refused,
        _WRITES,
    ),
    _Case(
        r"(?P<said>UNSUPPORTED\b[^\n;]*|status code 405[^\n;(]*)",
        "{registry} accepts no uploads for {repository}: {said}",
        "It may be read-only, or the cache of another registry. Push to another one.",
        Refused,
        _WRITES,
    ),
    _Case(
        r"(?P<said>MANIFEST_INVALID\b[^\n;]*|status code 415[^\n;(]*)",
        "{registry} does not accept the image for {name}: {said}",
        "It may be too old for OCI images, or for several platforms. Try --platform with one "
        "platform.",
        Refused,
        _WRITES,
    ),
    _Case(
        r"(?P<said>BLOB_UPLOAD_(?:INVALID|UNKNOWN)\b[^\n;]*)",
        "{registry} has lost an upload to {repository}: {said}",
        "Try again. If it happens often, the registry has several replicas: they need the same "
        "REGISTRY_HTTP_SECRET and storage, or a load balancer that keeps a client at one.",
        verbs=_WRITES,
    ),
    _Case(
        r"(?P<said>NAME_INVALID\b[^\n;]*)",
        "{registry} does not accept the name {repository}: {said}",
        "The registry has rules for names: most want REGISTRY/OWNER/NAME.",
        Refused,
    ),
    _Case(
        r"did not include Docker-Content-Digest",
        "{registry} does not say which image {name} shows: it sends no Docker-Content-Digest",
        "This is a fault of the registry, or of a proxy before it (OCI distribution specification, "
        '"Pulling manifests"). Push to a new tag, or repair it.',
    ),
    _Case(
        r"(?P<said>cannot unmarshal[^\n;]*|invalid character [^\n;]*|unexpected end of JSON input"
        r"|error verifying[^\n;]*)",
        "{name} cannot be read: {said}",
        "Push with --fresh to replace it.",
        Unreadable,
        frozenset({"manifest", "config", "blob", "export", "digest"}),
    ),
    _Case(
        r"(?P<said>UNAUTHORIZED\b[^\n;]*|status code 401[^\n;(]*)",
        "{registry} refused access to {repository}: {said}",
        "{credentials} Run 'docker login {registry}'.",
        Refused,
    ),
    _Case(
        r"(?P<said>DENIED\b[^\n;]*|status code 403[^\n;(]*)",
        "{registry} refused access to {repository}: {said}",
        "{credentials} Check the repository's name, your account's rights and the registry's rules "
        "for tags. 'docker login {registry}' takes another account.",
        Refused,
    ),
    _Case(
        r"proxyconnect tcp: (?:[^\n;]*: )?(?P<why>[^\n;:]+)",
        "{proxy} does not answer: {why}",
        "{registry} is asked through it. Correct the variable, or add the registry to NO_PROXY.",
    ),
    _Case(
        r"(?P<said>Proxy Authentication Required)",
        "{proxy} wants other credentials for {registry}: {said}",
        "Put USER:PASSWORD@ before the host in that variable, or add the registry to NO_PROXY.",
    ),
    _Case(  # Go shows only the words of a proxy's status
        r"\"\": (?P<said>[A-Z][a-z]+(?: [A-Za-z-]+)*)(?=;|\s*$)",
        "{proxy} cannot reach {registry}: {said}",
        "Check the registry's name and the proxy's log, or add the registry to NO_PROXY.",
    ),
    _Case(
        r"connection refused",
        "{registry} does not answer: connection refused",
        "Check that the registry runs and that the port is right. "
        "Then try 'docker kontext doctor {registry}'.",
    ),
    _Case(
        r"no such host|server misbehaving|Temporary failure in name resolution",
        "{registry} cannot be found: no such host",
        "Check the spelling of the name, and this machine's network and DNS. "
        "Then try 'docker kontext doctor {registry}'.",
    ),
    _Case(
        r"server gave HTTP response to HTTPS client(?!;)",  # with a `;` crane has tried HTTP too
        "{registry} speaks plain HTTP, and Kontext expects HTTPS",
        "Add --insecure if you trust the network.",
    ),
    _Case(
        r"(?:tls: failed to verify certificate: )?(?:x509|tls): (?P<why>[^\n;\"]*)",
        "{registry} cannot be trusted: {why}",
        "{authorities} --insecure skips the check.{via}",
    ),
    _Case(
        r"no space left on device",
        "{registry} has no space left",
        "Free space on the registry, or push to another one.",
    ),
    _Case(
        r"i/o timeout|deadline exceeded|TLS handshake timeout",
        "{registry} does not answer in time",
        "Check the network. Then try 'docker kontext doctor {registry}'.{via}",
    ),
    _Case(
        r"(?P<said>TOOMANYREQUESTS\b[^\n;]*|status code 429[^\n;(]*)",
        "{registry} accepts no more requests for now: {said}",
        "Wait a while, allow more time with --timeout, or run 'docker login {registry}': limits "
        "are lower without a login.",
        Busy,
    ),
    _Case(
        r"could not parse reference: (?P<what>[^\n]*)",
        "{what} is not an image name",
        "An image name is REGISTRY/REPOSITORY:TAG.",
    ),
    _Case(
        r"status code (?P<status>5\d\d[^\n]*)",
        "{registry} failed with status {status}",
        "Try again later. The registry's log has the reason.{via}",
    ),
    _Case(
        r"malformed HTTP|malformed MIME header",
        "{registry} does not speak HTTP",
        "Check the name and the port.{via}",
    ),
    _Case(
        r"unexpected EOF|connection reset|broken pipe|\bEOF\b",
        "{registry} closed the connection",
        "Try again. If it happens every time, the registry or a proxy limits uploads.{via}",
    ),
)


@dataclass(frozen=True)
class Machine:
    """What hints tell of this machine. Each is asked only if a hint needs it."""

    source_of: Callable[[str], CredentialSource | None] = lambda name: None  # of `HOST[/PATH]`
    proxy_of: Callable[[str, str], Proxy | None] = lambda scheme, host: None
    authorities: Callable[[str], Sequence[str]] = lambda host: ()  # files in certs.d


_REGISTRY_VERBS = ("auth", "catalog")
"""crane's verbs whose last argument is a registry."""

_URL = re.compile(r"(https?)://([^/\s\"@]{1,255})/v2/")

_ANY_URL = re.compile(r"(https?)://([^/\s\"@]{1,255})")

_UNKNOWN = Machine()

_MAX_TEXT = 4096
"""Characters of crane's last error that are searched: the rest may be a web page."""

_MAX_FACT = 200
"""Characters of the registry's own words in a message."""


def explain(messages: str, arguments: Sequence[str], machine: Machine = _UNKNOWN) -> RegistryError:
    """Return the error that crane's stderr describes. `arguments` are crane's, the verb first."""
    name = _image_name(arguments)
    # crane copy uses two registries: the URL shows which one has answered.
    url = _URL.search(messages)
    registry = _known_as(url[2]) if url else _registry(arguments)
    facts = {"name": name, "repository": repository_of(name), "registry": registry}
    text = _last_error(messages, arguments)
    for case in _CASES:
        if case.verbs and arguments[0] not in case.verbs:
            continue
        if match := re.search(case.pattern, text):
            facts.update((key, _shorten(value or "")) for key, value in match.groupdict().items())
            facts |= _facts_of(machine, case, arguments, messages, registry)
            hint = case.hint.format(**facts) + _docker_hub_hint(name, registry)
            hint += _other_host_hint(arguments, registry)
            return case.kind(case.message.format(**facts), hint=hint)
    subject = f" for {name}" if len(arguments) > 1 else ""
    last = messages.strip().rpartition("\n")[2].removeprefix("Error: ") or "it gave no reason"
    return RegistryError(
        f"crane {arguments[0]} failed{subject}: {_shorten(redact(last), 500)}",
        hint="'docker -D kontext …' shows everything that crane prints.",
    )


def no_answer(
    arguments: Sequence[str],
    seconds: float,
    helpers: Sequence[str] = (),
    machine: Machine = _UNKNOWN,
) -> RegistryError:
    """Return the error for a registry that is silent; `arguments` as in explain().

    If there are `helpers`, crane has waited for these credential helpers, and not for the registry.
    """
    if helpers:
        return RegistryError(
            f"{' and '.join(helpers)} has not answered for {seconds:g} s",
            hint="It may wait for a password, or for its own server. "
            f"Try 'echo {_registry(arguments)} | {helpers[0]} get', or allow more time with "
            "--timeout.",
        )
    registry = _registry(arguments)
    return RegistryError(
        f"{registry} has not answered for {seconds:g} s",
        hint="Check the network, or allow more time with --timeout."
        + _via(machine.proxy_of("https", registry), registry),
    )


def _last_error(messages: str, arguments: Sequence[str]) -> str:
    """Return crane's last error without secrets, and without names and URLs: those may contain any
    of the patterns."""
    begin = max(messages.rfind("\nError: "), 0)
    text = messages[begin : begin + _MAX_TEXT]
    for name in arguments[1:]:
        if "/" in name:  # a tag may be as short as "4", and appears in URLs only
            text = text.replace(name, "")
    return redact(re.sub(r"https?://[^\s\"]+", "", text))


def _facts_of(
    machine: Machine, case: _Case, arguments: Sequence[str], messages: str, registry: str
) -> dict[str, str]:
    """Return the facts of this machine that a row needs."""
    facts = {}
    if "{credentials}" in case.hint:
        facts["credentials"] = _origin(machine.source_of, arguments, registry)
    if "{authorities}" in case.hint:
        facts["authorities"] = _how_to_trust(registry, machine.authorities(registry))
    if "{proxy}" in case.message or "{via}" in case.hint:
        url = _ANY_URL.search(messages, max(messages.rfind("\nError: "), 0))
        proxy = machine.proxy_of(url[1], url[2]) if url else machine.proxy_of("https", registry)
        facts["proxy"] = str(proxy or "a proxy")
        facts["via"] = _via(proxy, registry)
    return facts


def _how_to_trust(registry: str, files: Sequence[str]) -> str:
    """Return sentences on a registry's certificate authority; `files` are those found for it."""
    found = ", ".join(map(line_safe, files))
    if sys.platform == "darwin":  # Go ignores SSL_CERT_FILE and SSL_CERT_DIR there
        unread = f" crane does not read {found}." if found else ""
        return f"Add its certificate authority to the keychain.{unread}"
    read = f"crane has read {found}. " if found else ""
    return (
        f"{read}Put its certificate authority into /etc/docker/certs.d/{registry}/ca.crt, or name "
        "the file in SSL_CERT_FILE."
    )


def _via(proxy: Proxy | None, registry: str) -> str:
    return f" {registry} is asked through {proxy}." if proxy else ""


def _origin(
    source_of: Callable[[str], CredentialSource | None], arguments: Sequence[str], registry: str
) -> str:
    """Return a sentence on the credentials that a registry has got."""
    names = repositories_of(arguments)
    source = source_of(next((n for n in names if n.partition("/")[0] == registry), names[0]))
    if source is None:
        return "No credentials were sent: docker and podman have none for it."
    if source.is_skipped:
        return f"No credentials were sent: {line_safe(str(source))} is not on PATH."
    verb = "was asked for credentials" if source.helper else "had the credentials"
    return f"{line_safe(str(source))} {verb}."


def _shorten(text: str, most: int = _MAX_FACT) -> str:
    return brief(line_safe(text.strip()[:_MAX_TEXT]), most)


def _known_as(host: str) -> str:
    return DOCKER_HUB if host == "index.docker.io" else host


def _docker_hub_hint(name: str, registry: str) -> str:
    """Return a remark for a user who forgot to name the registry."""
    if not registry == registry_of(name) == DOCKER_HUB or name.partition("/")[0] == DOCKER_HUB:
        return ""
    return f" {name} names no registry, so it means Docker Hub."


def _other_host_hint(arguments: Sequence[str], host: str) -> str:
    """Return a remark where a registry has sent an upload to another host than its own."""
    asked = _registry(arguments)
    if arguments[0] != "push" or host == asked:
        return ""
    return (
        f" {asked} sends uploads to {host}: it, or a proxy before it, gives a wrong address in the "
        "Location header (REGISTRY_HTTP_HOST, X-Forwarded-Proto)."
    )


def _registry(arguments: Sequence[str]) -> str:
    return arguments[-1] if arguments[0] in _REGISTRY_VERBS else registry_of(_image_name(arguments))


def repositories_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return each `HOST/PATH` that a run of crane works with, the `HOST` for a registry's verb."""
    if arguments[0] == "version":
        return ()
    if "--repo" in arguments:
        images = arguments[1], arguments[arguments.index("--repo") + 1]
        return full_name(images[0]), full_name(images[1])
    if arguments[0] in _REGISTRY_VERBS:
        return (arguments[-1],)
    return (full_name(_image_name(arguments)),)


def _image_name(arguments: Sequence[str]) -> str:
    """Return the image that the verb writes, or else reads."""
    if "--tag" in arguments:
        return arguments[arguments.index("--tag") + 1]
    if "--repo" in arguments:
        return arguments[arguments.index("--repo") + 1]
    if arguments[0] == "tag":
        return f"{repository_of(arguments[1])}:{arguments[2]}"
    return arguments[-1]
