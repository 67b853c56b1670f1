"""The way to a registry: the proxy that Go takes, and private certificate authorities."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kontext_plugin.runtime.docker_config import config_directory, home_directory
from kontext_plugin.terminal.text import line_safe

# --- Proxies ---


@dataclass(frozen=True)
class Proxy:
    """The proxy of a registry, and the variable that names it."""

    address: str  # without user and password
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.address} ({self.variable})"


def proxy_of(scheme: str, host: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that Go uses for `HOST[:PORT]`, if any.

    The rules are those of golang.org/x/net/http/httpproxy. `scheme` is http or https.
    """
    variable = _variable(environment, f"{scheme.upper()}_PROXY")
    if not variable or _is_direct(scheme, host.lower(), environment):
        return None
    url = environment[variable]
    scheme, _, rest = url.rpartition("://")
    address = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    return Proxy(line_safe(f"{scheme or 'http'}://{address}"), variable)


def _variable(environment: Mapping[str, str], name: str) -> str:
    """Return which of the two spellings of a variable is set, "" for none."""
    return next((one for one in (name, name.lower()) if environment.get(one)), "")


def _is_direct(scheme: str, host: str, environment: Mapping[str, str]) -> bool:
    """Return whether a host is asked without a proxy: this machine, and NO_PROXY."""
    name, port = _split_port(host)
    port = port or {"http": "80", "https": "443"}[scheme]
    address = _address(name)
    if name == "localhost" or (address and address.is_loopback):
        return True
    rules = environment.get(_variable(environment, "NO_PROXY"), "").lower()
    return any(_is_named(rule.strip(), name, port, address) for rule in rules.split(","))


def _is_named(rule: str, name: str, port: str, address: _Address | None) -> bool:
    """Return whether a rule of NO_PROXY names the host."""
    if rule == "*":
        return True
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    wanted, wanted_port = _split_port(rule)
    if not wanted or wanted_port not in ("", port):
        return False
    if literal := _address(wanted):
        return literal == address
    wanted = wanted.removeprefix("*")
    if wanted.startswith("."):
        return name.endswith(wanted)
    return name == wanted or name.endswith(f".{wanted}")


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _split_port(host: str) -> tuple[str, str]:
    """Return a host and its port, "" if it has none."""
    if match := re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]+)", host):
        return match[1], match[2]
    return host, ""


# --- Certificate authorities ---

_GO_DIRECTORIES = ("/etc/ssl/certs", "/etc/pki/tls/certs")
"""What Go reads without SSL_CERT_DIR (crypto/x509, root_linux.go)."""


def authorities(host: str) -> list[str]:
    """Return the files with certificate authorities that docker or podman trusts for a registry.

    The files are `certs.d/HOST[:PORT]/*.crt` (docker: "Use certificates"; containers-certs.d(5)).
    """
    files = []
    for directory in _certs_directories(host):
        try:
            names = sorted(os.listdir(directory))
        except OSError:  # there is none, or it is another user's
            continue
        files += [os.path.join(directory, name) for name in names if name.endswith(".crt")]
    return files


def _certs_directories(host: str) -> Iterator[str]:
    home = home_directory()
    configs = [config_directory()]
    if config := os.environ.get("XDG_CONFIG_HOME") or (home and os.path.join(home, ".config")):
        configs += [os.path.join(config, "docker"), os.path.join(config, "containers")]
    for place in (*configs, "/etc/docker", "/etc/containers"):
        if place:
            yield os.path.join(place, "certs.d", host)


@contextlib.contextmanager
def trust_authorities(
    environment: Mapping[str, str], hosts: Iterable[str]
) -> Iterator[Mapping[str, str]]:
    """Yield an environment in which Go also trusts the authorities of these registries.

    SSL_CERT_DIR adds directories to the file that Go trusts. A colon separates them, and HOST:PORT
    has one, so a directory with links stands for them. Go ignores the variable on macOS.
    """
    files = [file for host in hosts for file in authorities(host)]
    if not files or sys.platform != "linux":
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="kontext-certs-") as directory:
        for number, file in enumerate(files):
            os.symlink(os.path.abspath(file), os.path.join(directory, f"{number}.crt"))
        known = environment.get("SSL_CERT_DIR") or ":".join(_GO_DIRECTORIES)
        yield {**environment, "SSL_CERT_DIR": f"{known}:{directory}"}
