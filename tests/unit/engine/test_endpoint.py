"""The daemon that docker would talk to, by its flags, its environment and its contexts."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kontext_plugin.cli.flags import Globals
from kontext_plugin.engine.config import Endpoint, Tls, choose_endpoint
from kontext_plugin.errors import KontextError

DEFAULT = Endpoint("unix:///var/run/docker.sock")
A, B, C = "tcp://a:2375", "tcp://b:2375", "tcp://c:2375"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker's directory, with the contexts `a` and `b`."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name, host in (("a", A), ("b", B)):
        context(tmp_path, name, {"Host": host, "SkipTLSVerify": False})
    return tmp_path


def context(config: Path, name: str, endpoint: object, files: tuple[str, ...] = ()) -> Path:
    number = hashlib.sha256(name.encode()).hexdigest()
    meta, tls = config / "contexts/meta" / number, config / "contexts/tls" / number / "docker"
    meta.mkdir(parents=True)
    document = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
    (meta / "meta.json").write_text(json.dumps(document))
    for file in files:
        tls.mkdir(parents=True, exist_ok=True)
        (tls / file).touch()
    return tls


# Flags, environment, the current context, and the host that they come to.
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
    config: Path, flags: dict[str, Any], environment: dict[str, str], current: str, host: str
) -> None:
    if current:
        (config / "config.json").write_text(json.dumps({"currentContext": current}))
    assert choose_endpoint(Globals(**flags), environment) == Endpoint(host)


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
    config: Path, flags: dict[str, Any], environment: dict[str, str], verify: bool | None
) -> None:
    (config / "cert.pem").touch()
    found = choose_endpoint(Globals(host=A, **flags), environment)
    if verify is None:
        assert found.tls is None
    else:
        assert found.tls == Tls(verify, f"{config}/ca.pem", f"{config}/cert.pem", "")


def test_tls_has_another_default(config: Path) -> None:
    assert choose_endpoint(Globals(tls=True), {}).host == "tcp://localhost:2376"


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
def test_ports(config: Path, given: str, hosts: tuple[str, str]) -> None:
    assert (
        choose_endpoint(Globals(host=given), {}).host,
        choose_endpoint(Globals(host=given, tls=True), {}).host,
    ) == hosts


def test_certificates_lie_elsewhere(config: Path, tmp_path: Path) -> None:
    flags = Globals(host=A, tls=True, tlskey="/mine/key", tlscacert="/mine/ca")
    found = choose_endpoint(flags, {"DOCKER_CERT_PATH": str(tmp_path / "no where")})
    assert found.tls == Tls(False, "/mine/ca", "", "/mine/key")


def test_a_contexts_own_certificates(config: Path) -> None:
    tls = context(config, "c", {"Host": C}, ("ca.pem", "cert.pem", "key.pem"))
    expected = Tls(True, f"{tls}/ca.pem", f"{tls}/cert.pem", f"{tls}/key.pem")
    # The variables are for the default context alone.
    assert choose_endpoint(Globals(context="c"), {"DOCKER_TLS": "1"}) == Endpoint(C, expected)
    context(config, "d", {"Host": C, "SkipTLSVerify": True})
    assert choose_endpoint(Globals(context="d"), {}) == Endpoint(C, Tls(False))


def test_a_context_that_is_not_there(config: Path) -> None:
    with pytest.raises(KontextError, match=r"no context 'x/\.\./y'"):
        choose_endpoint(Globals(context="x/../y"), {})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"Endpoints": 1}', '{"Endpoints": {"docker": {"Host": 1}}}']
)
def test_a_broken_context(config: Path, content: str) -> None:
    (meta,) = config.glob(f"contexts/meta/{hashlib.sha256(b'a').hexdigest()}/meta.json")
    meta.write_text(content)
    with pytest.raises(KontextError) as caught:
        choose_endpoint(Globals(context="a"), {})
    assert str(meta) in caught.value.message


def test_another_users_home_does_not_count(config: Path) -> None:
    """DOCKER_CONFIG without a config.json is docker's all the same; its SDK looks elsewhere."""
    home = Path(os.environ["HOME"]) / ".docker"
    home.mkdir()
    (home / "config.json").write_text('{"currentContext": "a"}')
    assert choose_endpoint(Globals(), {}) == DEFAULT


def test_only_a_socket_is_of_this_machine() -> None:
    assert DEFAULT.is_local
    assert not Endpoint(A).is_local
    assert not Endpoint("ssh://user@host").is_local
