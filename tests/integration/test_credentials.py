"""Docker's own credentials, and what a user reads when something is wrong on the way."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.credentials import answer, install_helper
from support.services import (
    PASSWORD,
    USER,
    Docker,
    Registry,
    Result,
    install_plugin,
    missing,
    serve_registry,
)
from support.trees import File

TREE = {"file": File(b"content\n")}


def assert_one_message(pushed: Result, *parts: str) -> None:
    """Exit 1, an error and a hint, nothing on stdout, no traceback, no secret."""
    assert (pushed.code, pushed.stdout) == (1, ""), pushed.stderr
    assert pushed.stderr.count("ERROR: ") == 1
    message = pushed.stderr[pushed.stderr.index("ERROR: ") :]
    assert len(message.strip().splitlines()) == 2, "an error and a hint"
    for part in parts:
        assert part in message
    for never in ("Traceback", PASSWORD, "wrong-password"):
        assert never not in pushed.stderr


def test_the_credentials_of_docker_login_are_used(
    docker: Docker, registry: Registry, source: Path
) -> None:
    docker.configure({})
    done = subprocess.run(
        ["docker", "login", "--username", USER, "--password-stdin", registry.host],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        input=PASSWORD.encode(),
        capture_output=True,
    )
    if done.returncode:  # docker login asks the daemon in old versions only
        pytest.fail(done.stderr.decode())
    assert docker.push(registry.repository(), source).image


def test_a_credential_helper_is_used(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    install_helper(
        docker, tmp_path / "bin", f"[ \"$server\" = '{registry.host}' ] && {answer(registry)}"
    )
    docker.configure({"credHelpers": {registry.host: "test"}})
    assert docker.push(registry.repository(), source).image


def test_the_config_flag_of_docker_names_the_credentials(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path, root: Path
) -> None:
    other = Docker(tmp_path / "other config")
    install_plugin(other.config, root / "kontext_plugin" / "docker-kontext")
    other.log_in(registry.host)
    docker.configure({})
    tag = registry.repository()
    relative = os.path.relpath(other.config, source)
    for config in (str(other.config), relative):
        pushed = docker("--config", config, "kontext", "push", "-t", tag, cwd=source)
        assert pushed.image


def test_missing_and_wrong_credentials_are_an_error(
    docker: Docker, registry: Registry, source: Path
) -> None:
    docker.configure({})
    pushed = docker.push(registry.repository(), source)
    nothing = "No credentials were sent: docker and podman have none"
    assert_one_message(pushed, registry.host, "refused access", nothing, "docker login")
    docker.log_in(registry.host, USER, "wrong-password")
    pushed = docker.push(registry.repository(), source)
    used = f"auths in {docker.config}/config.json had the credentials"
    assert_one_message(pushed, registry.host, "refused access", used, "docker login")


# --- Other sources beside a config.json that lacks the registry ---


def entry(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    """An entry of `auths`."""
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("beside", [True, False], ids=["beside a config.json", "alone"])
def test_docker_auth_config_is_used(
    docker: Docker, registry: Registry, source: Path, daemon: str, beside: bool
) -> None:
    """docker/cli#6008; GitLab's runners set it."""
    docker.configure({"currentContext": "default"})
    if not beside:
        (docker.config / "config.json").unlink()
    docker.environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {registry.host: entry()}})
    tag = registry.repository()
    image = docker.push(tag, source).image
    loaded = docker("kontext", "load", tag)
    assert loaded.stdout.strip() == image, loaded.stderr
    said = docker("kontext", "doctor", tag)
    assert f"DOCKER_AUTH_CONFIG has credentials for {registry.host}" in said.stdout
    docker.environment["DOCKER_AUTH_CONFIG"] = json.dumps(
        {"auths": {registry.host: entry(password="wrong-password")}}
    )
    pushed = docker.push(tag, source)
    assert_one_message(pushed, "refused access", "DOCKER_AUTH_CONFIG had the credentials")


def test_docker_auth_config_comes_before_a_helper(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    install_helper(docker, tmp_path / "bin", "exit 1")
    docker.configure({"credHelpers": {registry.host: "test"}})
    docker.environment["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {registry.host: entry()}})
    assert docker.push(registry.repository(), source).image


def test_a_broken_docker_auth_config_is_an_error(
    docker: Docker, registry: Registry, source: Path
) -> None:
    """As of a file variable of GitLab's, which holds a path."""
    docker.environment["DOCKER_AUTH_CONFIG"] = f"/builds/{PASSWORD}"
    pushed = docker.push(registry.repository(), source)
    assert_one_message(pushed, "DOCKER_AUTH_CONFIG cannot be read", "unset it")


@pytest.mark.parametrize("place", ["REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"])
def test_the_login_of_podman_is_used(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path, place: str
) -> None:
    """podman#11923. podman itself writes the file, for a namespace."""
    if not shutil.which("podman"):
        missing("podman")
    docker.configure({"currentContext": "default"})
    file = tmp_path / "podman/containers/auth.json"
    docker.environment[place] = str(file if place == "REGISTRY_AUTH_FILE" else tmp_path / "podman")
    tag = registry.repository()
    namespace = tag.rpartition("/")[0]
    command = ["podman", "login", "--authfile", file, "--tls-verify=false", "-u", USER]
    subprocess.run([*command, "--password-stdin", namespace], input=PASSWORD.encode(), check=True)
    assert list(json.loads(file.read_text())["auths"]) == [namespace]
    assert docker.push(tag, source).image
    assert f"{file}" in docker("kontext", "doctor", tag).stdout
    pushed = docker.push(f"{registry.host}/elsewhere/app", source)
    assert_one_message(pushed, "refused access", "No credentials were sent")


def test_a_missing_helper_is_an_error(docker: Docker, registry: Registry, source: Path) -> None:
    docker.configure({"credHelpers": {registry.host: "nowhere"}})
    pushed = docker.push(registry.repository(), source)
    assert_one_message(pushed, "docker-credential-nowhere", str(docker.config))


def test_a_store_that_is_not_installed_is_named(
    docker: Docker, registry: Registry, source: Path
) -> None:
    """docker goes on without credentials, and so do we: many registries need none."""
    docker.configure({"credsStore": "desktop.exe"})
    pushed = docker.push(registry.repository(), source)
    store = f"docker-credential-desktop.exe (credsStore in {docker.config}/config.json)"
    assert_one_message(pushed, f"No credentials were sent: {store} is not on PATH.")


def test_a_failing_helper_is_an_error(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    install_helper(docker, tmp_path / "bin", f"echo 'vault sealed, {PASSWORD}'; exit 1")
    docker.configure({"credHelpers": {registry.host: "test"}})
    pushed = docker.push(registry.repository(), source)
    assert_one_message(pushed, "credential helper", registry.host, "docker login")


def test_a_broken_configuration_is_an_error(
    docker: Docker, registry: Registry, source: Path
) -> None:
    (docker.config / "config.json").write_text('{"auths": {')
    # docker itself only warns of it.
    pushed = docker.push(registry.repository(), source)
    assert pushed.code == 1
    assert "config.json" in pushed.stderr


def test_an_unknown_host_is_an_error(docker: Docker, source: Path) -> None:
    pushed = docker.push("no-such-host.invalid/some/repository:v1", source)
    assert_one_message(pushed, "no-such-host.invalid", "spelling")


def test_a_registry_that_is_down_is_an_error(docker: Docker, source: Path) -> None:
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{reserved.getsockname()[1]}"
        pushed = docker.push(f"{host}/some/repository:v1", source)
    assert_one_message(pushed, host, "connection refused")


@pytest.fixture
def tls_registry(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Registry]:
    (tmp_path / "tls").mkdir()
    extra = f"  tls: {{certificate: {certificate[0]}, key: {certificate[1]}}}"
    with serve_registry(tmp_path / "tls", extra) as served:
        yield served


def test_an_unknown_certificate_is_an_error_unless_it_is_allowed(
    docker: Docker, tls_registry: Registry, certificate: tuple[Path, Path], source: Path
) -> None:
    docker.log_in(tls_registry.host)
    tag = tls_registry.repository()
    pushed = docker.push(tag, source)
    assert_one_message(pushed, tls_registry.host, "cannot be trusted", "SSL_CERT_FILE")
    assert docker.push(tag, source, "--insecure").image
    docker.environment["SSL_CERT_FILE"] = str(certificate[0])
    assert docker.push(tag, source).image


def test_no_control_character_of_an_answer_reaches_the_terminal(
    docker: Docker, source: Path
) -> None:
    """Nothing that it says reaches the terminal as it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 400 \x1b]0;owned\x07\r\nContent-Length: 5\r\n\r\n\x1b[31m"
                    )

        threading.Thread(target=answer, daemon=True).start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        pushed = docker.push(f"{host}/some/repository:v1", source)
        server.shutdown(socket.SHUT_RDWR)
    assert pushed.code == 1
    assert "\x1b" not in pushed.stderr
    assert "\x07" not in pushed.stderr


def test_a_helper_that_never_answers_is_named(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    """docker-credential-helpers#185."""
    install_helper(docker, tmp_path / "bin", "exec sleep 300")
    docker.configure({"credsStore": "test"})
    pushed = docker.push(registry.repository(), source, "--timeout", "4s")
    assert "Waiting for docker-credential-test\n" in pushed.stderr
    assert_one_message(pushed, "docker-credential-test has not answered for 4 s", "--timeout")


def test_an_interrupted_push_ends_a_helper_that_hangs(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    """It holds crane's stderr, so whoever only ends crane goes on waiting."""
    fifo, pid = tmp_path / "fifo", tmp_path / "pid"
    os.mkfifo(fifo)
    os.mkfifo(pid)
    install_helper(docker, tmp_path / "bin", f"echo $$ >{pid}; exec cat {fifo}")
    docker.configure({"credHelpers": {registry.host: "test"}})
    process = subprocess.Popen(
        ["docker", "kontext", "push", "-t", registry.repository(), str(source)],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)} | docker.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    waiting = int(pid.read_text())
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)
