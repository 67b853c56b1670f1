"""crane's error texts, as it really prints them, become errors with the cause and a hint."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokens import MESSAGES_WITH_SECRETS as SECRETS

from kontext_plugin.crane_driver.credentials import (
    CredentialDocument,
    CredentialSource,
    Login,
)
from kontext_plugin.crane_driver.errors import (
    Busy,
    Damaged,
    Machine,
    NotFound,
    Refused,
    RegistryError,
    explain,
    no_answer,
)
from kontext_plugin.crane_driver.network import Proxy
from kontext_plugin.errors import FAILED
from kontext_plugin.terminal.text import redact

NAME = "host.io:5000/team/repo:t"
ARGUMENTS = ("mutate", "host.io:5000/team/repo@sha256:0", "--tag", NAME, "--workdir", "/w")
URL = "https://host.io:5000/v2/team/repo"
SOURCE = CredentialSource(
    CredentialDocument("/docker/config.json", is_dockers=True), login=Login("UzNDUkVU")
)


class Case(NamedTuple):
    text: str
    kind: type[RegistryError]
    message: str
    hint: str


CASES = {
    "no manifest": Case(
        f"Error: fetching manifest {NAME}: GET {URL}/manifests/t: MANIFEST_UNKNOWN: unknown; "
        "map[Tag:t]",
        NotFound,
        "host.io:5000 does not accept host.io:5000/team/repo: MANIFEST_UNKNOWN: unknown",
        "create a repository before the first push",
    ),
    "no repository": Case(
        f"Error: GET {URL}/manifests/t: NAME_UNKNOWN: repository name not known to registry",
        NotFound,
        ": NAME_UNKNOWN: repository name not known to registry",
        "create a repository before the first push",
    ),
    "no blob": Case(
        f"Error: GET {URL}/blobs/sha256:0: BLOB_UNKNOWN: blob unknown to registry",
        NotFound,
        ": BLOB_UNKNOWN: blob unknown to registry",
        "",
    ),
    "404 without a code": Case(
        f"Error: HEAD {URL}/manifests/t: unexpected status code 404 Not Found (HEAD responses have "
        "no body, use GET for details)",
        NotFound,
        "does not accept host.io:5000/team/repo: status code 404 Not Found",
        "",
    ),
    "404 with a page": Case(
        f"Error: GET {URL}/manifests/t: unexpected status code 404 Not Found: <html>\n<b>no</b>",
        NotFound,
        ": status code 404 Not Found: <html>",
        "",
    ),
    "several codes": Case(
        f"Error: POST {URL}/blobs/uploads/: multiple errors returned: NAME_UNKNOWN: unknown; x; "
        "UNKNOWN: other",
        NotFound,
        ": NAME_UNKNOWN: unknown",
        "",
    ),
    "no login": Case(
        f"Error: GET {URL}/manifests/t: UNAUTHORIZED: authentication required; [map[Action:pull]]",
        Refused,
        "host.io:5000 refused access to host.io:5000/team/repo: "
        "UNAUTHORIZED: authentication required",
        "docker login host.io:5000",
    ),
    "401 without a code": Case(
        "Error: GET https://auth.host.io/token?scope=x: unexpected status code 401 Unauthorized",
        Refused,
        "refused access to host.io:5000/team/repo: status code 401 Unauthorized",
        "/docker/config.json",
    ),
    "denied": Case(
        f"Error: POST {URL}/blobs/uploads/: DENIED: requested access to the resource is denied",
        Refused,
        "refused access to host.io:5000/team/repo: "
        "DENIED: requested access to the resource is denied",
        "rights",
    ),
    "quota": Case(
        f"Error: POST {URL}/blobs/uploads/: DENIED: adding 5.1 MiB of storage resource, which when "
        "updated to current usage will exceed the configured upper limit of 1.0 GiB.",
        Refused,
        "has no room for host.io:5000/team/repo: DENIED: adding 5.1 MiB of storage resource",
        "quota",
    ),
    "quota with a status": Case(
        f"Error: PUT {URL}/manifests/t: unexpected status code 403 Forbidden: quota exceeded",
        Refused,
        "has no room for host.io:5000/team/repo: status code 403 Forbidden: quota exceeded",
        "Delete images",
    ),
    "immutable, as Harbor says it": Case(
        f"Error: PUT {URL}/manifests/t: PRECONDITION: Failed to process request due to 'repo:t' "
        "configured as immutable.",
        Refused,
        f"refuses to change {NAME}: PRECONDITION: Failed to process request due to 'repo:t'",
        "another tag",
    ),
    "immutable, as ECR says it": Case(
        f"Error: PUT {URL}/manifests/t: TAG_INVALID: The image tag 't' already exists",
        Refused,
        f"refuses to change {NAME}: TAG_INVALID: The image tag 't' already exists",
        "another tag",
    ),
    "locked": Case(
        f"Error: PUT {URL}/manifests/t: DENIED: The operation is disallowed on this registry, "
        "repository or image",
        Refused,
        f"refuses to change {NAME}: DENIED: The operation is disallowed",
        "rule of the registry",
    ),
    "retention": Case(
        f"Error: PUT {URL}/manifests/t: DENIED: the retention policy keeps this tag",
        Refused,
        f"refuses to change {NAME}: DENIED: the retention policy keeps this tag",
        "rule of the registry",
    ),
    "too large for a proxy": Case(
        f"Error: PATCH {URL}/blobs/uploads/1: unexpected status code 413 Request Entity Too "
        "Large: <html>",
        Refused,
        "refuses a layer as too large: 413 Request Entity Too Large: <html>",
        "client_max_body_size",
    ),
    "read-only": Case(
        f"Error: POST {URL}/blobs/uploads/: UNSUPPORTED: The operation is unsupported.",
        Refused,
        "accepts no uploads for host.io:5000/team/repo: UNSUPPORTED: The operation is unsupported.",
        "read-only",
    ),
    "no OCI images": Case(
        f"Error: PUT {URL}/manifests/t: MANIFEST_INVALID: manifest invalid",
        Refused,
        f"does not accept the image for {NAME}: MANIFEST_INVALID: manifest invalid",
        "--platform",
    ),
    "a name of another form": Case(
        f"Error: POST {URL}/blobs/uploads/: NAME_INVALID: invalid repository name",
        Refused,
        "does not accept the name host.io:5000/team/repo: NAME_INVALID: invalid repository name",
        "REGISTRY/OWNER/NAME",
    ),
    "403": Case(
        f"Error: HEAD {URL}/manifests/t: unexpected status code 403 Forbidden",
        Refused,
        ": status code 403 Forbidden",
        "docker login",
    ),
    "nobody listens": Case(
        f'Error: Get "{URL}/": dial tcp 127.0.0.1:5000: connect: connection refused',
        RegistryError,
        "host.io:5000 does not answer: connection refused",
        "docker kontext doctor",
    ),
    "no such host": Case(
        f'Error: Get "{URL}/": dial tcp: lookup host.io on 10.0.0.1:53: no such host',
        RegistryError,
        "no such host",
        "spelling",
    ),
    "no DNS": Case(
        f'Error: Get "{URL}/": dial tcp: lookup host.io: Temporary failure in name resolution',
        RegistryError,
        "no such host",
        "DNS",
    ),
    "unknown authority": Case(
        f'Error: Get "{URL}/": tls: failed to verify certificate: x509: certificate signed by '
        "unknown authority",
        RegistryError,
        "cannot be trusted: certificate signed by unknown authority",
        "SSL_CERT_FILE",
    ),
    "certificate of another": Case(
        f'Error: Get "{URL}/": x509: certificate is valid for a.io, not host.io',
        RegistryError,
        "certificate is valid for a.io, not host.io",
        "--insecure",
    ),
    "plain http": Case(
        f'Error: Get "{URL}/": http: server gave HTTP response to HTTPS client',
        RegistryError,
        "speaks plain HTTP",
        "--insecure",
    ),
    "plain http, which fails as well": Case(
        f'Error: Get "{URL}/": http: server gave HTTP response to HTTPS client; '
        f'Get "{URL}/": read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer',
        RegistryError,
        "closed the connection",
        "Try again",
    ),
    "plain http, which is refused": Case(
        f'Error: Get "{URL}/": http: server gave HTTP response to HTTPS client; '
        f"GET {URL}/: unexpected status code 500 Internal Server Error",
        RegistryError,
        "failed with status 500 Internal Server Error",
        "log",
    ),
    "no HTTP": Case(
        f'Error: Head "{URL}/manifests/t": net/http: HTTP/1.x transport connection broken: '
        'malformed HTTP status code "no"',
        RegistryError,
        "host.io:5000 does not speak HTTP",
        "Check the name and the port.",
    ),
    "no HTTP header": Case(
        f'Error: Get "{URL}/": net/http: HTTP/1.x transport connection broken: malformed MIME '
        'header: missing colon: "x"',
        RegistryError,
        "does not speak HTTP",
        "port",
    ),
    "another manifest": Case(
        f'Error: pulling {NAME}: manifest digest: "sha256:1" does not match requested digest: '
        f'"sha256:0" for "{NAME}"',
        Damaged,
        f"sent damaged data for {NAME}",
        "--fresh",
    ),
    "a blob of another size": Case(
        f"Error: GET {URL}/blobs/sha256:0: Content-Length header 152 does not match expected "
        "size 304",
        Damaged,
        "sent damaged data",
        "--fresh",
    ),
    "registry's disk full": Case(
        f"Error: PATCH {URL}/blobs/uploads/1: UNKNOWN: unknown error; map[Err:28 Op:write "
        "Path:/var/lib/registry/data: write: no space left on device]",
        RegistryError,
        "no space left",
        "Free space on the registry",
    ),
    "missing helper": Case(
        "Error: fetching manifest: error getting credentials - err: exec: "
        '"docker-credential-desktop": executable file not found in $PATH, out: ``',
        RegistryError,
        "docker-credential-desktop is not on PATH",
        "/docker/config.json",
    ),
    "failing helper": Case(
        "Error: error getting credentials - err: exit status 1, out: `the keychain is locked`",
        RegistryError,
        "credential helper for host.io:5000 failed",
        "-D",
    ),
    "broken configuration": Case(
        "Error: parsing config file (/docker/config.json): invalid character 'x' looking for "
        "beginning of value",
        RegistryError,
        "/docker/config.json cannot be read",
        "valid JSON",
    ),
    "time": Case(
        f'Error: Get "{URL}/": dial tcp 10.1.1.1:443: i/o timeout',
        RegistryError,
        "does not answer in time",
        "Check the network",
    ),
    "too many requests": Case(
        f"Error: GET {URL}/manifests/t: TOOMANYREQUESTS: You have reached your pull rate limit",
        Busy,
        "accepts no more requests for now: TOOMANYREQUESTS: You have reached your pull rate limit",
        "docker login",
    ),
    "no name": Case(
        "Error: parsing reference: could not parse reference: Host.io/Repo",
        RegistryError,
        "Host.io/Repo is not an image name",
        "REGISTRY/REPOSITORY:TAG",
    ),
    "server error": Case(
        f"Error: PUT {URL}/manifests/t: unexpected status code 503 Service Unavailable: try later",
        RegistryError,
        "host.io:5000 failed with status 503 Service Unavailable: try later",
        "log",
    ),
    "cut off": Case(
        f'Error: Patch "{URL}/blobs/uploads/1": write tcp: connection reset by peer',
        RegistryError,
        "closed the connection",
        "again",
    ),
    "end of file": Case(
        f'Error: Get "{URL}/": EOF', RegistryError, "closed the connection", "again"
    ),
    "other host answers": Case(
        'Error: Get "https://base.io/v2/": dial tcp 1.2.3.4:443: connect: connection refused',
        RegistryError,
        "base.io does not answer",
        "docker kontext doctor",
    ),
    "unknown": Case(
        "2026/01/01 pushing\nError: something odd\n", RegistryError, f"{NAME}: something odd", "-D"
    ),
    "braces": Case("Error: {name!r} {0} {", RegistryError, "{name!r} {0} {", "-D"),
    "nothing": Case("", RegistryError, "it gave no reason", "-D"),
    "long": Case("Error: " + "x" * 10_000, RegistryError, "x" * 400, "-D"),
}


READING = {
    "MANIFEST_UNKNOWN: manifest unknown; map[Tag:t]": "MANIFEST_UNKNOWN: manifest unknown",
    "unexpected status code 404 Not Found (HEAD responses have no body, use GET for details)": (
        "status code 404 Not Found"
    ),
    "NAME_UNKNOWN: \x1b[2Jgone": "NAME_UNKNOWN: \\x1b[2Jgone",
    f"NAME_UNKNOWN: {'x' * 1000}": f"NAME_UNKNOWN: {'x' * 186}…",
    'NAME_UNKNOWN: see "https://user:S3cret@other.io/help"': 'NAME_UNKNOWN: see ""',
    "NAME_UNKNOWN: see user:S3cret@other.io": "NAME_UNKNOWN: see …other.io",
}


@pytest.mark.parametrize(("text", "shown"), READING.items(), ids=READING.values())
def test_the_words_of_the_registry_are_shown(text: str, shown: str) -> None:
    error = explain(f"Error: GET {URL}/manifests/t: {text}", ("manifest", NAME))
    assert type(error) is NotFound
    assert error.message == f"{NAME} was not found: {shown}"
    assert "crane ls host.io:5000/team/repo" in error.hint


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_explain(case: Case) -> None:
    error = explain(case.text, ARGUMENTS, Machine(lambda name: SOURCE))
    assert type(error) is case.kind
    assert case.message in error.message
    assert case.hint in error.hint
    assert error.exit_code == FAILED
    assert len(error.message) < 1000


VERBS = {
    "manifest": (("manifest", NAME), NAME),
    "blob": (("blob", "host.io/r@sha256:0"), "host.io/r@sha256:0"),
    "digest": (("digest", "--platform", "linux/amd64", NAME), NAME),
    "mutate": (ARGUMENTS, NAME),
    "push": (("push", "/layout", "host.io/r@sha256:0"), "host.io/r@sha256:0"),
    "mutate into a repository": (
        ("mutate", "host.io/r@sha256:0", "--repo", "host.io/s", "--annotation", "a=b,c=d"),
        "host.io/s",
    ),
    "copy": (("copy", "host.io/r@sha256:0", NAME), NAME),
    "tag": (("tag", "host.io/r@sha256:0", "new"), "host.io/r:new"),
}


@pytest.mark.parametrize(("arguments", "name"), VERBS.values(), ids=VERBS)
def test_the_image_is_named(arguments: tuple[str, ...], name: str) -> None:
    error = explain("Error: something odd", arguments)
    assert error.message == f"crane {arguments[0]} failed for {name}: something odd"


HUB = 'Error: Get "https://index.docker.io/v2/": dial tcp: lookup index.docker.io: no such host'
MEANT = {
    "no registry": (("manifest", "me/app:t"), HUB, True),
    "no registry, and another one answers": (
        ("copy", "host.io/r@sha256:0", "me/app:t"),
        HUB.replace("index.docker.io", "host.io"),
        False,
    ),
    "Docker Hub by name": (("manifest", "docker.io/me/app:t"), HUB, False),
    "Docker Hub by its other name": (("manifest", "index.docker.io/me/app:t"), HUB, False),
    "Docker Hub itself": (("catalog", "docker.io"), HUB, False),
    "another": (("manifest", NAME), HUB.replace("index.docker.io", "host.io:5000"), False),
}


@pytest.mark.parametrize(("arguments", "text", "hinted"), MEANT.values(), ids=MEANT)
def test_a_name_without_a_registry_means_docker_hub(
    arguments: tuple[str, ...], text: str, hinted: bool
) -> None:
    error = explain(text, arguments)
    assert "index.docker.io is" not in error.message
    assert ("me/app:t names no registry, so it means Docker Hub." in error.hint) is hinted


def test_the_login_to_docker_hub_has_the_name_that_docker_uses() -> None:
    text = "Error: GET https://index.docker.io/v2/me/app/manifests/t: UNAUTHORIZED: no"
    assert "'docker login docker.io'" in explain(text, ("manifest", "me/app:t")).hint


def test_the_source_of_refused_credentials_is_named() -> None:
    """That of the registry that has refused them, if the verb uses two."""
    asked: list[str] = []

    def source_of(name: str) -> CredentialSource | None:
        asked.append(name)
        return SOURCE if name.startswith("a.io/") else None

    def hint(host: str) -> str:
        text = f"Error: GET https://{host}/v2/x/manifests/t: UNAUTHORIZED: no"
        return explain(
            text, ("mutate", "a.io/x@sha256:0", "--repo", "b.io/x"), Machine(source_of)
        ).hint

    assert hint("a.io").startswith("auths in /docker/config.json had the credentials. Run")
    assert hint("b.io").startswith("No credentials were sent: docker and podman have none for it.")
    assert asked == ["a.io/x", "b.io/x"]
    assert "S3" not in hint("a.io")


PROXIED = {
    "down": (
        'Get "https://a.io/v2/": proxyconnect tcp: dial tcp 10.0.0.1:1: connect: '
        "connection refused",
        "the proxy http://p:1 (HTTPS_PROXY) does not answer: connection refused",
    ),
    "unknown": (
        'Get "https://a.io/v2/": proxyconnect tcp: dial tcp: lookup p on 1.1.1.1:53: no such host',
        "the proxy http://p:1 (HTTPS_PROXY) does not answer: no such host",
    ),
    "credentials": (
        'Get "https://a.io/v2/": Proxy Authentication Required',
        "the proxy http://p:1 (HTTPS_PROXY) wants other credentials for a.io: "
        "Proxy Authentication Required",
    ),
    "beyond it": (
        'Get "https://a.io/v2/": Bad Gateway; GET http://a.io/v2/: status code 502 Bad Gateway',
        "the proxy http://p:1 (HTTPS_PROXY) cannot reach a.io: Bad Gateway",
    ),
    "cut": ('Get "https://a.io/v2/": EOF', "a.io closed the connection"),
}


@pytest.mark.parametrize(("text", "message"), PROXIED.values(), ids=PROXIED)
def test_the_proxy_is_named(text: str, message: str) -> None:
    asked: list[tuple[str, str]] = []

    def proxy_of(scheme: str, host: str) -> Proxy:
        asked.append((scheme, host))
        return Proxy("http://p:1", "HTTPS_PROXY")

    machine = Machine(proxy_of=proxy_of)
    error = explain(f"Error: {text}", ("manifest", "a.io/x:t"), machine)
    assert error.message == message
    assert asked == [("https", "a.io")]
    if "proxy" not in message:
        assert "a.io is asked through the proxy http://p:1 (HTTPS_PROXY)." in error.hint
    silent = no_answer(("manifest", "a.io/x:t"), 9, (), machine)
    assert "through the proxy http://p:1" in silent.hint


def test_the_authorities_of_a_registry_are_named() -> None:
    text = (
        f'Error: Get "{URL}": tls: failed to verify certificate: x509: certificate signed by '
        "unknown authority"
    )
    machine = Machine(authorities=lambda host: [f"/etc/docker/certs.d/{host}/ca.crt"])
    error = explain(text, ("manifest", NAME), machine)
    assert error.message.endswith("cannot be trusted: certificate signed by unknown authority")
    assert "/etc/docker/certs.d/host.io:5000/ca.crt. " in error.hint


def test_a_helper_that_was_asked_is_named() -> None:
    helper = CredentialSource(SOURCE.document, "vault", "credHelpers")
    hint = explain("Error: DENIED: no", ARGUMENTS, Machine(lambda name: helper)).hint
    assert "docker-credential-vault (credHelpers in /docker/config.json) was asked" in hint


def test_no_answer() -> None:
    error = no_answer(ARGUMENTS, 90)
    assert error.message == "host.io:5000 has not answered for 90 s"
    assert "--timeout" in error.hint


@pytest.mark.parametrize("text", [text for text, _ in SECRETS.values()], ids=SECRETS)
def test_no_secret_is_shown(text: str) -> None:
    assert "S3" not in explain(f"Error: {text}", ARGUMENTS).message


HOSTILE = [
    "a", "?", ":", "a:", "://", "&a", "?a", "a@", "basic ", '"auth', "authorization", "out: `", "@",
    "x509: ", "parsing config file (", 'exec: "docker-credential-', "https://", "\nError: ",
    "server gave HTTP response to HTTPS client;", "status code 5", "\x1b[2J", "\u202e", "\n",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_a_long_text_takes_little_time_and_is_not_repeated(text: str) -> None:
    """A registry chooses the text. Ten times the length may take ten times as long, not a hundred
    times."""

    def seconds(length: int) -> float:
        began = time.process_time()
        error = explain("Error: " + text * (length // len(text)), ARGUMENTS)
        redact(text * (length // len(text)))
        assert len(error.message) < 800
        return time.process_time() - began

    assert seconds(200_000) < 40 * max(seconds(20_000), 0.005)


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_any_text_is_an_error(text: str) -> None:
    assert explain(text, ARGUMENTS).message


def test_a_short_tag_is_not_cut_out_of_a_status() -> None:
    """explain() ignores the names that crane was given, since those may hold any text."""
    text = "Error: fetching: unexpected status code 401 Unauthorized"
    assert isinstance(explain(text, ["tag", "r/r@sha256:x", "4"]), Refused)
