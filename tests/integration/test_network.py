"""Proxies that fail, and registries with a certificate authority of their own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.services import PASSWORD, Docker, Registry, missing, serve_registry
from support.trees import File

TREE = {"file": File(b"content\n")}


@contextmanager
def serve_proxy_status(status: str) -> Iterator[str]:
    """Run a proxy that answers everything with a status; yield its HOST:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    head = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode())

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_that_is_down_is_named(docker: Docker, source: Path, variable: str) -> None:
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{reserved.getsockname()[1]}"
        docker.environment[variable] = f"http://me:{PASSWORD}@{host}"
        pushed = docker.push("registry.invalid/some/repository:v1", source)
    assert pushed.code == 1
    message = f"the proxy http://{host} ({variable}) does not answer: connection refused"
    assert message in pushed.stderr
    assert "add the registry to NO_PROXY" in pushed.stderr
    assert PASSWORD not in pushed.stderr


STATUSES = {
    "407 Proxy Authentication Required": "wants other credentials for registry.invalid",
    "502 Bad Gateway": "cannot reach registry.invalid: Bad Gateway",
    "403 \x1b[2J": "registry.invalid",
}


@pytest.mark.parametrize(("status", "message"), STATUSES.items(), ids=["407", "502", "hostile"])
def test_a_proxy_that_refuses_is_named(
    docker: Docker, source: Path, status: str, message: str
) -> None:
    with serve_proxy_status(status) as host:
        docker.environment["HTTPS_PROXY"] = f"http://me:{PASSWORD}@{host}"
        pushed = docker.push("registry.invalid/some/repository:v1", source)
    assert pushed.code == 1
    assert message in pushed.stderr
    if status.startswith(("407", "502")):
        assert f"the proxy http://{host} (HTTPS_PROXY)" in pushed.stderr
    assert PASSWORD not in pushed.stderr
    assert "\x1b" not in pushed.stderr


def test_this_machine_is_asked_without_the_proxy(
    docker: Docker, registry: Registry, source: Path
) -> None:
    docker.environment |= {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    assert docker.push(registry.repository(), source).image
    docker.log_in(registry.host, "bob", "wrong")
    assert "proxy" not in docker.push(registry.repository(), source).stderr


# --- Certificate authorities ---


def openssl(*arguments: str | Path) -> None:
    if not shutil.which("openssl"):
        missing("openssl")
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def private_registry(tmp_path: Path) -> Iterator[tuple[Registry, Path]]:
    """A registry with a certificate of a private authority, and that authority's certificate."""
    folder = tmp_path / "tls"
    folder.mkdir()
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    key, request, certificate = folder / "key.pem", folder / "request", folder / "certificate.pem"
    new = ("-newkey", "rsa:2048", "-nodes")
    own = ("-x509", "-days", "2", "-subj", "/CN=our CA")
    openssl("req", *own, *new, "-keyout", ca_key, "-out", ca)
    openssl("req", *new, "-subj", "/CN=registry", "-keyout", key, "-out", request)
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    by = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", names)
    openssl("x509", "-req", "-in", request, *by, "-out", certificate)
    extra = f"  tls: {{certificate: {certificate}, key: {key}}}"
    with serve_registry(folder, extra) as served:
        yield served, ca


@pytest.mark.parametrize("place", ["docker", "podman"])
def test_an_authority_in_certs_d_is_trusted(
    docker: Docker,
    private_registry: tuple[Registry, Path],
    source: Path,
    tmp_path: Path,
    place: str,
) -> None:
    """As docker and podman trust it: for this registry alone."""
    registry, ca = private_registry
    docker.log_in(registry.host)
    tag = registry.repository()
    pushed = docker.push(tag, source)
    assert pushed.code == 1
    assert "cannot be trusted: certificate signed by unknown authority" in pushed.stderr
    base = docker.config if place == "docker" else tmp_path / "config/containers"
    docker.environment["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    directory = base / "certs.d" / registry.host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(ca.read_bytes())
    assert docker.push(tag, source).image
    assert docker("kontext", "doctor", tag).stdout.count(f"{registry.host} answered") == 1
    # Of another registry.
    directory.rename(directory.with_name("127.0.0.1:1"))
    assert docker.push(tag, source).code == 1


def test_an_authority_that_does_not_help_is_named(
    docker: Docker, private_registry: tuple[Registry, Path], source: Path
) -> None:
    registry, _ = private_registry
    directory = docker.config / "certs.d" / registry.host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_text("no certificate")
    pushed = docker.push(registry.repository(), source)
    assert f"{directory}/ca.crt" in pushed.stderr
    assert "SSL_CERT_FILE" in pushed.stderr
