"""`docker kontext doctor`, and the other commands that look after an installation."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.credentials import answer, install_helper
from support.services import PASSWORD, USER, Docker, Registry
from support.trees import File

TREE = {"file": File(b"content\n")}


def examined(docker: Docker, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and each check by its name. Nothing secret is ever shown."""
    said = docker("-D", "kontext", "doctor", "--format", "json", *arguments)
    for secret in (PASSWORD, USER):
        assert secret not in said.stdout + said.stderr
    checks = {check.pop("name"): check for check in json.loads(said.stdout)}
    for name, check in checks.items():
        assert check["hint"] or check["state"] == "ok", name
    return said.code, checks


def states(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Of those that are not as they should be."""
    return {name: check["state"] for name, check in checks.items() if check["state"] != "ok"}


def test_a_working_installation_passes_every_check(
    docker: Docker, registry: Registry, source: Path, root: Path, daemon: str, crane_path: str
) -> None:
    tag = registry.repository()
    docker.push(tag, source)
    code, checks = examined(docker, tag)
    assert (code, states(checks)) == (0, {})
    link = docker.config / "cli-plugins/docker-kontext"
    assert checks["plugin"]["message"] == f"{link} -> {root}/kontext_plugin/docker-kontext"
    assert crane_path in checks["crane"]["message"]
    assert checks["daemon"]["message"] == f"{daemon} at {os.environ['DOCKER_HOST']}"
    assert os.environ["KONTEXT_CACHE_DIR"] in checks["cache"]["message"]
    file = docker.config / "config.json"
    assert (
        checks["credentials"]["message"] == f"auths in {file} has credentials for {registry.host}"
    )
    assert checks["registry"]["message"] == f"{registry.host} answered for {tag}:latest"


@pytest.mark.parametrize(("locale", "sign"), [("C.UTF-8", "✓"), ("C", "+")])
def test_the_text_has_a_line_for_each_check(
    docker: Docker, registry: Registry, locale: str, sign: str
) -> None:
    docker.environment |= {"LC_ALL": locale, "DOCKER_HOST": "unix:///no/where.sock"}
    said = docker("kontext", "doctor", registry.host)
    lines = said.stdout.splitlines()
    assert (said.code, said.stderr) == (0, "")
    assert lines[0].startswith(f"{sign} python       3.")
    assert lines[-1] == f"{sign} registry     {registry.host} answered for its catalog"
    absent = lines.index("! daemon       no Docker daemon answers at unix:///no/where.sock: "
                         "No such file or directory")  # fmt: skip
    assert "A push needs no daemon." in lines[absent + 1]


def test_an_image_that_does_not_exist_yet_is_no_problem(docker: Docker, registry: Registry) -> None:
    code, checks = examined(docker, registry.repository())
    assert (code, states(checks)) == (0, {})
    assert "does not exist yet" in checks["registry"]["message"]


def test_wrong_credentials_are_found(docker: Docker, registry: Registry) -> None:
    docker.log_in(registry.host, "bob", "wrong")
    code, checks = examined(docker, registry.repository())
    assert (code, states(checks)) == (1, {"registry": "broken"})
    assert f"docker login {registry.host}" in checks["registry"]["hint"]
    code, checks = examined(docker, registry.host)
    assert (code, states(checks)) == (0, {"registry": "note"}), "for some show it to nobody"


def test_missing_credentials_are_found(docker: Docker, registry: Registry) -> None:
    docker.configure({})
    code, checks = examined(docker, registry.repository())
    assert (code, states(checks)) == (1, {"credentials": "note", "registry": "broken"})


@pytest.mark.parametrize("setting", ["credHelpers", "credsStore"])
def test_the_credential_helper_is_named(
    docker: Docker, registry: Registry, tmp_path: Path, setting: str
) -> None:
    install_helper(docker, tmp_path / "bin", answer(registry))
    docker.configure({setting: {registry.host: "test"} if setting == "credHelpers" else "test"})
    code, checks = examined(docker, registry.repository())
    assert (code, states(checks)) == (0, {})
    source = f"docker-credential-test ({setting} in {docker.config}/config.json)"
    assert checks["credentials"]["message"] == f"{source} has credentials for {registry.host}"


HELPERS = {
    "missing": (None, "broken", "docker-credential-test is not on PATH"),
    "failing": (f"echo 'sealed: {PASSWORD}'; exit 1", "broken", "helper for {} failed"),
    "without an answer": (
        "echo 'credentials not found in native keychain'; exit 1",
        "note",
        "has no credentials for {}",
    ),
}


@pytest.mark.parametrize(("script", "state", "message"), HELPERS.values(), ids=HELPERS)
def test_a_helper_without_credentials_is_found(
    docker: Docker,
    registry: Registry,
    tmp_path: Path,
    script: str | None,
    state: str,
    message: str,
) -> None:
    if script:
        install_helper(docker, tmp_path / "bin", script)
    docker.configure({"credHelpers": {registry.host: "test"}})
    code, checks = examined(docker, registry.repository())
    assert (code, states(checks)) == (1, {"credentials": state, "registry": "broken"})
    assert message.format(registry.host) in checks["credentials"]["message"]


def test_a_broken_configuration_is_found(docker: Docker, registry: Registry) -> None:
    """docker warns of it and goes on; crane does not."""
    (docker.config / "config.json").write_text('{"auths": {')
    said = docker("kontext", "doctor", registry.host)
    assert said.code == 1
    assert f"docker's configuration {docker.config}/config.json cannot be read" in said.stdout


def test_a_registry_that_is_down_is_found(docker: Docker) -> None:
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{reserved.getsockname()[1]}"
        code, checks = examined(docker, host)
    assert code == 1
    assert states(checks) == {"credentials": "note", "registry": "broken"}
    assert checks["registry"]["message"] == f"{host} does not answer: connection refused"


def test_a_missing_crane_is_found(docker: Docker, tmp_path: Path) -> None:
    docker.environment["KONTEXT_CRANE"] = str(tmp_path / "gone")
    code, checks = examined(docker)
    assert (code, states(checks)) == (1, {"crane": "broken"})


# The link


def doctor(root: Path, docker: Docker, **environment: str) -> dict[str, dict[str, Any]]:
    """As run without docker, which may not find the plugin at all."""
    done = subprocess.run(
        [root / "kontext_plugin/docker-kontext", "doctor", "--format", "json"],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)} | environment,
        capture_output=True,
    )
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_a_broken_plugin_that_docker_prefers_is_found(
    docker: Docker, root: Path, tmp_path: Path
) -> None:
    """docker looks no further, though a good one comes after it."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/docker-kontext").write_text("no program")
    docker.configure({"cliPluginsExtraDirs": [str(tmp_path / "extra")]})
    assert docker("kontext", "version").code != 0
    plugin = doctor(root, docker)["plugin"]
    assert plugin["state"] == "broken"
    assert plugin["message"] == f"{tmp_path}/extra/docker-kontext cannot be run"


def test_a_dangling_link_is_ignored_as_docker_does(docker: Docker, root: Path) -> None:
    link = docker.config / "cli-plugins/docker-kontext"
    settings = {"cliPluginsExtraDirs": [str(docker.config / "extra")]}
    (docker.config / "extra").mkdir()
    (docker.config / "extra/docker-kontext").symlink_to("gone")
    docker.configure(settings)
    assert docker("kontext", "version").code == 0
    assert doctor(root, docker)["plugin"]["message"].startswith(f"{link} -> ")


def test_a_missing_link_is_found(docker: Docker, root: Path) -> None:
    shutil.rmtree(docker.config / "cli-plugins")
    plugin = doctor(root, docker)["plugin"]
    assert (plugin["state"], plugin["message"]) == ("broken", "docker does not find Kontext")
    assert "docker-kontext install" in plugin["hint"]


@pytest.mark.parametrize(
    ("script", "state"),
    [("echo kontext 0.0.1", "note"), ("exit 1", "broken"), ("echo hello", "broken")],
)
def test_another_installation_is_found(docker: Docker, root: Path, script: str, state: str) -> None:
    other = docker.config / "cli-plugins/docker-kontext"
    other.unlink()
    metadata = (root / "kontext_plugin/plugin.json").read_text()
    other.write_text(
        "#!/bin/sh\n"
        f"[ $1 != docker-cli-plugin-metadata ] || {{ echo '{metadata}'; exit; }}\n{script}\n"
    )
    other.chmod(0o755)
    assert doctor(root, docker)["plugin"]["state"] == state


# The cache
