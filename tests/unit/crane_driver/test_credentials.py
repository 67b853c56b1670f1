"""Which of docker's and podman's credentials answer for a repository, and how crane gets them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import unprivileged

from kontext_plugin.crane_driver.credentials import (
    CredentialDocument,
    Login,
    choose_source,
    crane_credentials,
    credential_source,
    full_name,
    helpers_of,
    known_registries,
    load_sources,
)
from kontext_plugin.errors import KontextError

HUB = "https://index.docker.io/v1/"

# --- The choice ---

Spec = dict[str, Any]
"""The sections of a document, as in config.json. A login is `USER`, or "" for an empty entry."""


def documents(given: dict[str, Spec]) -> tuple[CredentialDocument, ...]:
    return tuple(
        CredentialDocument(
            name,
            is_dockers=name == "docker",
            logins={key: Login(user) for key, user in spec.get("auths", {}).items()},
            helpers=spec.get("credHelpers", {}),
            store=spec.get("credsStore", ""),
        )
        for name, spec in given.items()
    )


# The documents in their order, a repository, and the one that answers: its name with the login, the
# helper or the store; "" for none.
CHOICES: dict[str, tuple[dict[str, Spec], str, str]] = {
    "nothing": ({"docker": {}}, "r.io/a", ""),
    "a login": ({"docker": {"auths": {"r.io": "u"}}}, "r.io/a", "docker u"),
    "another port": ({"docker": {"auths": {"r.io:5000": "u"}}}, "r.io/a", ""),
    "a registry alone": ({"docker": {"auths": {"r.io:5000": "u"}}}, "r.io:5000", "docker u"),
    "a URL": ({"docker": {"auths": {"https://r.io/v1/": "u"}}}, "r.io/a", "docker u"),
    "a URL with a path": ({"docker": {"auths": {"https://r.io/api/": "u"}}}, "r.io/a", "docker u"),
    "a host alone, and its prefix": ({"docker": {"auths": {"r.io": "u"}}}, "r.iota/a", ""),
    "Docker Hub": ({"docker": {"auths": {HUB: "u"}}}, "docker.io/me/app", "docker u"),
    "Docker Hub for podman": ({"podman": {"auths": {"docker.io": "u"}}}, "docker.io/me/app",
                              "podman u"),
    "a helper": ({"docker": {"credHelpers": {"r.io": "h"}}}, "r.io/a", "docker h"),
    "a helper of Docker Hub": ({"docker": {"credHelpers": {HUB: "h"}}}, "docker.io/me/app",
                               "docker h"),
    "a helper of another": ({"docker": {"credHelpers": {"q.io": "h"}}}, "r.io/a", ""),
    "a helper before a login": (
        {"docker": {"credHelpers": {"r.io": "h"}, "auths": {"r.io": "u"}}}, "r.io/a", "docker h",
    ),
    "a helper before the store": (
        {"docker": {"credHelpers": {"r.io": "h"}, "credsStore": "s"}}, "r.io/a", "docker h",
    ),
    "a store": ({"docker": {"credsStore": "s"}}, "r.io/a", "docker s"),
    "a store before a login of its own file": (
        {"docker": {"credsStore": "s", "auths": {"r.io": ""}}}, "r.io/a", "docker s",
    ),
    "the variable first": (
        {"variable": {"auths": {"r.io": "v"}}, "docker": {"credHelpers": {"r.io": "h"}}},
        "r.io/a", "variable v",
    ),
    "the variable, for others": (
        {"variable": {"auths": {"q.io": "v"}}, "docker": {"auths": {"r.io": "u"}}},
        "r.io/a", "docker u",
    ),
    "docker before podman": (
        {"docker": {"auths": {"r.io": "u"}}, "podman": {"auths": {"r.io": "p"}}},
        "r.io/a", "docker u",
    ),
    "docker lacks it": (
        {"docker": {"auths": {"q.io": "u"}}, "podman": {"auths": {"r.io": "p"}}},
        "r.io/a", "podman p",
    ),
    "docker's entry is empty": (
        {"docker": {"auths": {"r.io": ""}}, "podman": {"auths": {"r.io": "p"}}},
        "r.io/a", "podman p",
    ),
    "a name before a store for all": (
        {"docker": {"credsStore": "s"}, "podman": {"auths": {"r.io": "p"}}}, "r.io/a", "podman p",
    ),
    "a store that knows it": (
        {"docker": {"credsStore": "s", "auths": {"r.io": ""}}, "podman": {"auths": {"r.io": "p"}}},
        "r.io/a", "docker s",
    ),
    "podman's files in their order": (
        {"one": {"auths": {"r.io": "1"}}, "two": {"auths": {"r.io": "2"}}}, "r.io/a", "one 1",
    ),
    "the longest namespace": (
        {"podman": {"auths": {"r.io": "1", "r.io/a": "2", "r.io/a/b": "3", "r.io/a/bc": "4"}}},
        "r.io/a/b/c", "podman 3",
    ),
    "another namespace": ({"podman": {"auths": {"r.io/a": "1"}}}, "r.io/ab/c", ""),
    "the repository itself": ({"podman": {"auths": {"r.io/a": "1"}}}, "r.io/a", "podman 1"),
    "a namespace in docker's file": (
        {"docker": {"auths": {"r.io/a": "1", "r.io/b": "2"}}}, "r.io/b/c", "docker 2",
    ),
    "a namespace of the first before the host of the second": (
        {"docker": {"auths": {"r.io/a": "1"}}, "podman": {"auths": {"r.io": "2"}}},
        "r.io/a/b", "docker 1",
    ),
    "an empty key": ({"podman": {"auths": {"": "u", "https://": "u"}}}, "r.io/a", ""),
}  # fmt: skip


@pytest.mark.parametrize(("given", "repository", "answers"), CHOICES.values(), ids=CHOICES)
def test_the_choice(given: dict[str, Spec], repository: str, answers: str) -> None:
    source = choose_source(documents(given), repository)
    shown = f"{source.document.name} {source.helper or source.login.auth}" if source else ""
    assert shown == answers


FULL = {
    "app": "docker.io/library/app",
    "app:v1": "docker.io/library/app",
    "me/app@sha256:0": "docker.io/me/app",
    "docker.io/app": "docker.io/library/app",
    "r.io:5000/a/b:t": "r.io:5000/a/b",
    "localhost/a": "localhost/a",
}


@pytest.mark.parametrize(("name", "full"), FULL.items())
def test_full_names(name: str, full: str) -> None:
    assert full_name(name) == full


# --- The documents ---


class Machine:
    """A machine with configurations of docker and podman, all below one directory."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.set = monkeypatch.setenv
        for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        for name, directory in (
            ("HOME", "home"), ("XDG_RUNTIME_DIR", "run"), ("XDG_CONFIG_HOME", "config"),
        ):  # fmt: skip
            monkeypatch.setenv(name, str(root / directory))
        self.docker = root / "home/.docker/config.json"
        self.session = root / "run/containers/auth.json"
        self.user = root / "config/containers/auth.json"
        self.named = root / "named.json"

    def write(self, path: Path, **sections: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sections))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def login(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:password".encode()).decode()}


def test_the_order_and_the_names(machine: Machine) -> None:
    machine.set("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"1.io": login("u")}}))
    machine.write(machine.docker, auths={"2.io": login("u")}, credHelpers={"2h.io": "h"})
    machine.set("REGISTRY_AUTH_FILE", str(machine.named))
    machine.write(machine.named, auths={"3.io/a": login("u")})
    machine.write(machine.session, auths={"4.io": login("u")})
    machine.write(machine.user, auths={"5.io": login("u")})
    assert [str(credential_source(f"{host}.io/a")) for host in ("1", "2", "2h", "3", "4", "5")] == [
        "DOCKER_AUTH_CONFIG",
        f"auths in {machine.docker}",
        f"docker-credential-h (credHelpers in {machine.docker})",
        f"{machine.named} (REGISTRY_AUTH_FILE)",
        f"podman's {machine.session}",
        f"podman's {machine.user}",
    ]
    assert known_registries() == ["1.io", "2.io", "2h.io", "3.io", "4.io", "5.io"]
    assert credential_source("6.io/a") is None


def test_a_login_may_be_in_two_fields(machine: Machine) -> None:
    """google/go-containerregistry#555: GitLab's jobs write it so."""
    machine.write(machine.docker, auths={"r.io": {"username": "u", "password": "password"}})
    source = credential_source("r.io")
    assert source
    assert source.login.auth == login("u")["auth"]


def test_no_document_shows_its_secrets(machine: Machine) -> None:
    machine.write(machine.docker, auths={"r.io": login("u")})
    assert login("u")["auth"] not in repr(load_sources(os.environ))


BROKEN = ["", "{", "[]", '{"auths": []}', '{"auths": {"r": 1}}', '{"auths": {"r": {"auth": 1}}}',
          '{"credHelpers": {"r": 1}}', '{"credsStore": 1}', "\udc80S3CRET"]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("place", ["docker", "named", "session", "user"])
def test_a_broken_file_is_named(machine: Machine, place: str, content: str) -> None:
    path: Path = getattr(machine, place)
    machine.set("REGISTRY_AUTH_FILE", str(machine.named))
    machine.write(path)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(KontextError) as caught:
        credential_source("r.io/a")
    assert str(path) in caught.value.message
    assert "S3CRET" not in caught.value.message
    assert known_registries() == []


@pytest.mark.parametrize("content", BROKEN[1:6] + BROKEN[-1:])
def test_a_broken_variable_is_named(machine: Machine, content: str) -> None:
    machine.set("DOCKER_AUTH_CONFIG", content)
    with pytest.raises(KontextError, match="DOCKER_AUTH_CONFIG cannot be read") as caught:
        credential_source("r.io/a")
    assert "S3CRET" not in caught.value.message


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: path.write_bytes(b" " * 2_000_000)],
    ids=["FIFO", "directory", "too large"],
)
def test_a_file_that_would_hold_its_reader(machine: Machine, make: Callable[[Path], None]) -> None:
    machine.set("REGISTRY_AUTH_FILE", str(machine.named))
    make(machine.named)
    with pytest.raises(KontextError, match=r"named\.json"):
        credential_source("r.io/a")


def test_without_a_home_the_current_directory_is_not_searched() -> None:
    """os.path.expanduser returns `~/…` then, and the pushed directory may have such files."""
    said = unprivileged.run(
        """
for name in ("HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
    os.environ.pop(name, None)
import tempfile
with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    for file in ("~/.docker/config.json", ".docker/config.json", "~/.config/containers/auth.json"):
        os.makedirs(os.path.dirname(file), exist_ok=True)
        open(file, "w").write('{"auths": {"r.io": {"auth": "eDp5"}}}')
    print(credentials.credential_source("r.io/a"))
""",
        user=54321,
    )
    assert said == "None\n"


def test_a_file_of_root_counts_as_absent() -> None:
    """As /run/containers after `sudo podman login`. The variable means what it says."""
    said = unprivileged.run("""
for name in ("HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE"):
    os.environ.pop(name, None)
import tempfile
with tempfile.TemporaryDirectory() as directory:
    os.environ["XDG_RUNTIME_DIR"] = directory
    os.mkdir(f"{directory}/containers", 0)
    print(credentials.credential_source("r.io/a"))
    os.environ["REGISTRY_AUTH_FILE"] = f"{directory}/containers/auth.json"
    try:
        credentials.credential_source("r.io/a")
    except KontextError as error:
        print(error.message.partition("auth.json")[2])
""")
    assert said == "None\n (REGISTRY_AUTH_FILE) cannot be read: Permission denied\n"


# --- What crane gets ---


def asked(crane: str, environment: dict[str, str], registry: str) -> str:
    """Return the user that crane itself finds, or its complaint."""
    done = subprocess.run(
        [crane, "auth", "get", registry], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        return (done.stdout or done.stderr).strip()
    found = json.loads(done.stdout)
    return f"{found['Username']}:{found['Secret']}"


@pytest.fixture(scope="session")
def crane() -> str:
    beside = Path(sys.executable).parent / "crane"
    assert beside.exists(), "scripts/setup installs crane"
    return str(beside)


def passed(crane: str, *names: str, registry: str = "") -> str:
    """Return the user that crane finds with the environment for these names."""
    with crane_credentials(dict(os.environ), names) as (environment, _):
        return asked(crane, environment, registry or names[0])


def helper(machine: Machine, name: str, user: str) -> None:
    """Install a credential helper that answers for every registry."""
    path = machine.root / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{json.dumps({'Username': user, 'Secret': 'password'})}'\n")
    path.chmod(0o755)
    machine.set("PATH", f"{path.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("with_docker", [False, True], ids=["alone", "beside a config.json"])
@pytest.mark.parametrize("place", ["variable", "named", "session", "user"])
def test_crane_uses_each_source(
    machine: Machine, crane: str, place: str, with_docker: bool
) -> None:
    if with_docker:
        machine.write(machine.docker, currentContext="default", auths={"q.io": login("q")})
    if place == "variable":
        machine.set("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"r.io": login("me")}}))
    else:
        machine.set("REGISTRY_AUTH_FILE", str(machine.named))
        machine.write(getattr(machine, place), auths={"r.io": login("me")})
    assert passed(crane, "r.io") == "me:password"
    expected = "q:password" if with_docker else "credentials not found in native keychain"
    assert passed(crane, "q.io") == expected


def test_docker_hub_by_podmans_name(machine: Machine, crane: str) -> None:
    machine.write(machine.session, auths={"docker.io": login("me")})
    assert passed(crane, "docker.io") == "me:password"


def test_docker_hub_by_podmans_name_in_dockers_file(machine: Machine, crane: str) -> None:
    """smol-machines/smolvm#218: crane itself looks for https://index.docker.io/v1/ alone."""
    machine.write(machine.docker, auths={"docker.io": login("me")})
    assert passed(crane, "docker.io") == "me:password"


def test_a_store_that_is_not_installed_is_no_error(machine: Machine, crane: str) -> None:
    """indexable-inc/index#2954, rancher/rancher#46868: a config.json of Docker Desktop's.

    What docker login has left an entry for needs the store; crane says that it is missing.
    """
    machine.write(machine.docker, credsStore="gone", auths={"r.io": {}})
    nothing = "credentials not found in native keychain"
    assert passed(crane, "q.io") == nothing
    assert "docker-credential-gone" in passed(crane, "r.io")
    machine.write(machine.session, auths={"p.io": login("podman")})
    assert passed(crane, "p.io") == "podman:password"
    with crane_credentials(dict(os.environ), ["p.io", "q.io"]) as (environment, sources):
        assert [name for name, source in sources.items() if source.is_skipped] == ["q.io"]
        assert helpers_of(sources) == ()
        assert asked(crane, environment, "p.io") == "podman:password"
        assert asked(crane, environment, "q.io") == nothing


def test_a_helper_beside_a_store_that_is_not_installed(machine: Machine, crane: str) -> None:
    """crane itself asks the store first, for the repository's whole name, and fails."""
    machine.write(machine.docker, credsStore="gone", credHelpers={"r.io": "test"})
    helper(machine, "test", "helped")
    with crane_credentials(dict(os.environ), ["r.io/a"]) as (environment, _):
        assert asked(crane, environment, "r.io") == "helped:password"
        config = Path(environment["DOCKER_CONFIG"]) / "config.json"
        assert json.loads(config.read_text()) == {"credHelpers": {"r.io": "test"}}


def test_what_docker_has_is_left_to_crane(machine: Machine, crane: str) -> None:
    machine.write(machine.docker, auths={"r.io": login("me")}, credHelpers={"h.io": "test"})
    machine.write(machine.session, auths={"r.io": login("podman")})
    helper(machine, "test", "helped")
    with crane_credentials(dict(os.environ), ["r.io/a", "h.io/b"]) as (environment, _):
        assert "DOCKER_AUTH_CONFIG" not in environment
        assert "DOCKER_CONFIG" not in environment
        assert asked(crane, environment, "r.io") == "me:password"
        assert asked(crane, environment, "h.io") == "helped:password"


def test_two_registries_have_their_own(machine: Machine, crane: str) -> None:
    """As for a parent in one registry and a tag in another."""
    machine.write(machine.docker, auths={"r.io": login("docker")}, credHelpers={"h.io": "test"})
    machine.write(machine.session, auths={"p.io": login("podman")}, credHelpers={"ph.io": "podman"})
    helper(machine, "test", "helped")
    helper(machine, "podman", "by podman")
    hosts = ("r.io", "h.io", "p.io", "ph.io")
    with crane_credentials(dict(os.environ), hosts) as (environment, _):
        found = {host: asked(crane, environment, host) for host in hosts}
    assert found == {
        "r.io": "docker:password",
        "h.io": "helped:password",
        "p.io": "podman:password",
        "ph.io": "by podman:password",
    }


def test_no_secret_is_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write(machine.docker, auths={"r.io": login("docker")})
    machine.write(machine.session, auths={"p.io": login("p")}, credHelpers={"h.io": "podman"})
    secrets = {login("docker")["auth"], login("p")["auth"]}
    with crane_credentials(dict(os.environ), ["r.io/a", "p.io/a", "h.io/a"]) as (environment, _):
        directory = Path(environment["DOCKER_CONFIG"])
        assert directory.stat().st_mode & 0o777 == 0o700
        (config,) = directory.iterdir()
        assert not any(secret in config.read_text() for secret in secrets)
    assert not directory.exists()


def test_an_identity_token_of_podmans_file(machine: Machine, crane: str) -> None:
    machine.write(machine.docker, auths={})
    machine.set("REGISTRY_AUTH_FILE", str(machine.named))
    entry = {**login("0000"), "identitytoken": "token"}
    machine.write(machine.named, auths={"r.io": entry, "q.io": login("q")})
    assert passed(crane, "r.io") == "<token>:token"
    with crane_credentials(dict(os.environ), ["r.io"]) as (environment, _):
        assert (Path(environment["DOCKER_CONFIG"]) / "config.json").is_symlink()
    machine.write(machine.session, credHelpers={"h.io": "podman"})
    with (
        pytest.raises(KontextError, match="at the same time"),
        crane_credentials(dict(os.environ), ["r.io", "h.io"]),
    ):
        pass


def test_crane_looks_for_the_whole_name(machine: Machine) -> None:
    """So logins of namespaces work, which crane itself would mix up."""
    machine.write(machine.session, auths={"r.io/a": login("a"), "r.io/b": login("b")})
    with crane_credentials(dict(os.environ), ["r.io/b/app"]) as (environment, _):
        auths = json.loads(environment["DOCKER_AUTH_CONFIG"])["auths"]
    assert auths == {"r.io/b/app": login("b")}
