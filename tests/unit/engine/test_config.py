"""The daemon that docker would use."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kontext_plugin.engine.config import (
    DaemonFlags,
    Endpoint,
    Tls,
    choose_endpoint,
)
from kontext_plugin.errors import KontextError

DEFAULT = Endpoint("unix:///var/run/docker.sock")
A, B, C = "tcp://a:2375", "tcp://b:2375", "tcp://c:2375"


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker's configuration directory, with the contexts `a` and `b`."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name, host in (("a", A), ("b", B)):
        add_context(tmp_path, name, {"Host": host, "SkipTLSVerify": False})
    return tmp_path


def add_context(directory: Path, name: str, endpoint: object, files: tuple[str, ...] = ()) -> Path:
    number = hashlib.sha256(name.encode()).hexdigest()
    meta = directory / "contexts/meta" / number
    tls = directory / "contexts/tls" / number / "docker"
    meta.mkdir(parents=True)
    document = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
    (meta / "meta.json").write_text(json.dumps(document))
    for file in files:
        tls.mkdir(parents=True, exist_ok=True)
        (tls / file).touch()
    return tls


# Flags, environment, the current context, and the host that docker uses.
ORDER: dict[str, tuple[dict[str, Any], dict[str, str], str, str]] = {
    "nothing": ({}, {}, "", DEFAULT.host),
    "current context": ({}, {}, "a", A),
    "the current one is the default": ({}, {}, "default", DEFAULT.host),
    "DOCKER_CONTEXT": ({}, {"DOCKER_CONTEXT": "b"}, "a", B),
    "DOCKER_CONTEXT is the default": ({}, {"DOCKER_CONTEXT": "default"}, "a", DEFAULT.host),
    "DOCKER_HOST": ({}, {"DOCKER_HOST": C, "DOCKER_CONTEXT": "b"}, "a", C),
    "--context": ({"context": "a"}, {"DOCKER_HOST": C, "DOCKER_CONTEXT": "b"}, "b", A),
    "--context default": ({"context": "default"}, {"DOCKER_HOST": C}, "a", C),
    "--host": ({"host": A}, {"DOCKER_HOST": C, "DOCKER_CONTEXT": "b"}, "b", A),
    "empty variables": ({}, {"DOCKER_HOST": "", "DOCKER_CONTEXT": ""}, "a", A),
}


@pytest.mark.parametrize(("flags", "environment", "current", "host"), ORDER.values(), ids=ORDER)
def test_dockers_order(
    contexts: Path, flags: dict[str, Any], environment: dict[str, str], current: str, host: str
) -> None:
    if current:
        (contexts / "config.json").write_text(json.dumps({"currentContext": current}))
    assert choose_endpoint(DaemonFlags(**flags), environment) == Endpoint(host)


TLS: dict[str, tuple[dict[str, Any], dict[str, str], bool | None]] = {
    "none": ({}, {}, None),
    "--tls": ({"tls": True}, {}, False),
    "--tlsverify": ({"tlsverify": True}, {}, True),
    "--tlsverify=false": ({"tlsverify": False}, {}, False),
    "DOCKER_TLS": ({}, {"DOCKER_TLS": "1"}, False),
    "DOCKER_TLS_VERIFY": ({}, {"DOCKER_TLS_VERIFY": "1"}, True),
    "DOCKER_TLS_VERIFY=0": ({}, {"DOCKER_TLS_VERIFY": "0"}, True),
    "DOCKER_TLS_VERIFY=": ({}, {"DOCKER_TLS_VERIFY": ""}, None),
    "denied": ({"tlsverify": False}, {"DOCKER_TLS_VERIFY": "1"}, False),
}


@pytest.mark.parametrize(("flags", "environment", "verify"), TLS.values(), ids=TLS)
def test_tls(
    contexts: Path, flags: dict[str, Any], environment: dict[str, str], verify: bool | None
) -> None:
    (contexts / "cert.pem").touch()
    found = choose_endpoint(DaemonFlags(host=A, **flags), environment)
    if verify is None:
        assert found.tls is None
    else:
        assert found.tls == Tls(verify, f"{contexts}/ca.pem", f"{contexts}/cert.pem", "")


def test_tls_has_another_default(contexts: Path) -> None:
    assert choose_endpoint(DaemonFlags(tls=True), {}).host == "tcp://localhost:2376"


PORTS = {
    "tcp://a": ("tcp://a:2375", "tcp://a:2376"),
    "tcp://[::1]": ("tcp://[::1]:2375", "tcp://[::1]:2376"),
    "tcp://a/path": ("tcp://a:2375/path", "tcp://a:2376/path"),
    "tcp://a:1": ("tcp://a:1", "tcp://a:1"),
    "tcp://[::1]:1": ("tcp://[::1]:1", "tcp://[::1]:1"),
    "unix:///a": ("unix:///a", "unix:///a"),
    "ssh://a@b": ("ssh://a@b", "ssh://a@b"),
}


@pytest.mark.parametrize(("given", "hosts"), PORTS.items(), ids=PORTS)
def test_ports(contexts: Path, given: str, hosts: tuple[str, str]) -> None:
    assert (
        choose_endpoint(DaemonFlags(host=given), {}).host,
        choose_endpoint(DaemonFlags(host=given, tls=True), {}).host,
    ) == hosts


def test_certificates_in_another_place(contexts: Path, tmp_path: Path) -> None:
    flags = DaemonFlags(host=A, tls=True, tlskey="/mine/key", tlscacert="/mine/ca")
    found = choose_endpoint(flags, {"DOCKER_CERT_PATH": str(tmp_path / "no where")})
    assert found.tls == Tls(False, "/mine/ca", "", "/mine/key")


def test_the_certificates_of_a_context(contexts: Path) -> None:
    tls = add_context(contexts, "c", {"Host": C}, ("ca.pem", "cert.pem", "key.pem"))
    expected = Tls(True, f"{tls}/ca.pem", f"{tls}/cert.pem", f"{tls}/key.pem")
    # The variables are only for the default context.
    assert choose_endpoint(DaemonFlags(context="c"), {"DOCKER_TLS": "1"}) == Endpoint(C, expected)
    add_context(contexts, "d", {"Host": C, "SkipTLSVerify": True})
    assert choose_endpoint(DaemonFlags(context="d"), {}) == Endpoint(C, Tls(False))


def test_a_context_that_is_not_there(contexts: Path) -> None:
    with pytest.raises(KontextError, match=r"no context 'x/\.\./y'"):
        choose_endpoint(DaemonFlags(context="x/../y"), {})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"Endpoints": 1}', '{"Endpoints": {"docker": {"Host": 1}}}']
)
def test_a_broken_context(contexts: Path, content: str) -> None:
    (meta,) = contexts.glob(f"contexts/meta/{hashlib.sha256(b'a').hexdigest()}/meta.json")
    meta.write_text(content)
    with pytest.raises(KontextError) as caught:
        choose_endpoint(DaemonFlags(context="a"), {})
    assert str(meta) in caught.value.message


def test_a_config_in_the_home_directory_does_not_count(contexts: Path) -> None:
    """DOCKER_CONFIG decides, also if it has no config.json. docker's SDK would look further."""
    home = Path(os.environ["HOME"]) / ".docker"
    home.mkdir()
    (home / "config.json").write_text('{"currentContext": "a"}')
    assert choose_endpoint(DaemonFlags(), {}) == DEFAULT


def test_only_a_unix_socket_is_local() -> None:
    assert DEFAULT.is_local
    assert not Endpoint(A).is_local
    assert not Endpoint("ssh://user@host").is_local
