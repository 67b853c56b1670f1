"""The proxy of a registry, by Go's rules, and private certificate authorities."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kontext_plugin.crane_driver.network import authorities, proxy_of, trust_authorities

# --- Proxies ---

BOTH = {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://p:2"}

# Scheme, host, environment, and the proxy; "" for none.
PROXIES: dict[str, tuple[str, str, dict[str, str], str]] = {
    "none": ("https", "r.io", {}, ""),
    "https": ("https", "r.io", BOTH, "the proxy http://p:1 (HTTPS_PROXY)"),
    "http": ("http", "r.io", BOTH, "the proxy http://p:2 (HTTP_PROXY)"),
    "lower case": ("https", "r.io", {"https_proxy": "p:1"}, "the proxy http://p:1 (https_proxy)"),
    "upper case first": (
        "https", "r.io", {"https_proxy": "x", "HTTPS_PROXY": "y:1"},
        "the proxy http://y:1 (HTTPS_PROXY)",
    ),
    "empty": ("https", "r.io", {"HTTPS_PROXY": ""}, ""),
    "for all": ("https", "r.io", {"ALL_PROXY": "http://p:1"}, ""),
    "a password": (
        "https", "r.io", {"HTTPS_PROXY": "http://me:S3CRET@p:1/?x=S3CRET"},
        "the proxy http://p:1 (HTTPS_PROXY)",
    ),
    "a password with @": (
        "https", "r.io", {"HTTPS_PROXY": "http://me:S3@CRET@p:1"},
        "the proxy http://p:1 (HTTPS_PROXY)",
    ),
    "a terminal's escape": (
        "https", "r.io", {"HTTPS_PROXY": "http://p\x1b[2J:1"},
        "the proxy http://p\\x1b[2J:1 (HTTPS_PROXY)",
    ),
    "localhost": ("https", "localhost:5000", BOTH, ""),
    "loopback": ("https", "127.0.0.9:5000", BOTH, ""),
    "loopback, version 6": ("https", "[::1]:5000", BOTH, ""),
    "a private address": ("http", "10.0.0.1:5000", BOTH, "the proxy http://p:2 (HTTP_PROXY)"),
}  # fmt: skip


@pytest.mark.parametrize(("scheme", "host", "environment", "shown"), PROXIES.values(), ids=PROXIES)
def test_the_proxy(scheme: str, host: str, environment: dict[str, str], shown: str) -> None:
    assert str(proxy_of(scheme, host, environment) or "") == shown


# NO_PROXY, a host, and whether it is asked directly.
DIRECT: dict[str, tuple[str, str, bool]] = {
    "all": ("*", "r.invalid", True),
    "the host": ("q.invalid, r.invalid", "r.invalid", True),
    "upper case": ("R.Invalid", "r.invalid", True),
    "another": ("q.invalid", "r.invalid", False),
    "a domain": ("invalid", "r.invalid", True),
    "a part of a name": ("valid", "r.invalid", False),
    "a dot": (".r.invalid", "a.r.invalid", True),
    "a dot, the domain itself": (".r.invalid", "r.invalid", False),
    "a star": ("*.r.invalid", "a.r.invalid", True),
    "a star, the domain itself": ("*.r.invalid", "r.invalid", False),
    "the port": ("r.invalid:5000", "r.invalid:5000", True),
    "another port": ("r.invalid:5000", "r.invalid", False),
    "the default port": ("r.invalid:443", "r.invalid", True),
    "any port": ("r.invalid", "r.invalid:5000", True),
    "empty rules": (" ,,", "r.invalid", False),
}

ADDRESSES = {
    "an address": ("203.0.113.1", "203.0.113.1:5000", True),
    "a network": ("203.0.113.0/24", "203.0.113.1", True),
    "another network": ("203.0.112.0/24", "203.0.113.1", False),
    "a name in no network": ("203.0.113.0/24", "r.invalid", False),
    "no network": ("203.0.113.0/99", "203.0.113.1", False),
    "version 6": ("2001:db8::1", "[2001:db8::1]:5000", True),
}


@pytest.mark.parametrize(
    ("rules", "host", "direct"), [*DIRECT.values(), *ADDRESSES.values()], ids=[*DIRECT, *ADDRESSES]
)
def test_no_proxy(rules: str, host: str, direct: bool) -> None:
    """skopeo#588, for networks."""
    for variable in ("NO_PROXY", "no_proxy"):
        environment = {"HTTPS_PROXY": "http://p:1", variable: rules}
        assert (proxy_of("https", host, environment) is None) is direct


@pytest.mark.parametrize(("rules", "host", "direct"), DIRECT.values(), ids=DIRECT)
def test_crane_agrees(rules: str, host: str, direct: bool, tmp_path: Path) -> None:
    """The rules are Go's, so Go itself is asked."""
    done = subprocess.run(
        [Path(sys.executable).parent / "crane", "manifest", f"{host}/a/b:t"],
        env={"HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": rules},
        capture_output=True,
        text=True,
    )
    assert ("proxyconnect" not in done.stderr) is direct, done.stderr


# --- Certificate authorities ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("place", [".docker", ".config/docker", ".config/containers"])
def test_where_authorities_are(home: Path, place: str) -> None:
    directory = home / place / "certs.d/r.io:5000"
    directory.mkdir(parents=True)
    for name in ("ca.crt", "client.cert", "client.key"):
        (directory / name).touch()
    assert authorities("r.io:5000") == [f"{directory}/ca.crt"]
    assert authorities("r.io") == []


@pytest.mark.skipif(sys.platform != "linux", reason="Go reads the keychain on macOS")
def test_go_trusts_them_beside_its_own(home: Path) -> None:
    directory = home / ".docker/certs.d/r.io:5000"
    directory.mkdir(parents=True)
    for name in ("ca.crt", "client.cert"):
        (directory / name).touch()
    mine = {"SSL_CERT_DIR": "/mine", "SSL_CERT_FILE": "/file"}
    for before, known in (({}, "/etc/ssl/certs:/etc/pki/tls/certs"), (mine, "/mine")):
        with trust_authorities(before, ["r.io:5000", "q.io"]) as environment:
            first, _, added = environment["SSL_CERT_DIR"].rpartition(":")
            assert (first, environment.get("SSL_CERT_FILE")) == (known, before.get("SSL_CERT_FILE"))
            (link,) = Path(added).iterdir()
            assert link.readlink() == directory / "ca.crt"
        assert not Path(added).exists()
    with trust_authorities(mine, ["q.io"]) as environment:
        assert environment == mine


def test_a_directory_of_root_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """realestate-com-au/dfresh#11."""

    def refuse(path: str) -> list[str]:
        raise PermissionError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert authorities("r.io") == []
