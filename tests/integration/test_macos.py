"""Kontext needs nothing that macOS lacks: a Python that looks like it runs the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.macos import macos_python
from support.services import Docker, Registry, serve_registry
from support.trees import File, Link, on_disk

TREE = {"file": File(b"content\n"), "run": File(b"#!/bin/sh\n", executable=True), "l": Link("file")}


@pytest.fixture
def mac(docker: Docker, tmp_path: Path) -> Docker:
    docker.environment["KONTEXT_PYTHON"] = str(macos_python(tmp_path))
    return docker


def test_a_directory_goes_to_the_registry_and_back(
    mac: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    assert mac.push(tag, source, "--timeout", "30s").image
    (source / "new").write_bytes(b"new\n")
    second = mac.push(tag, source, debug=True)
    assert second.image
    assert "1 added; uploaded" in second.stderr
    assert mac("kontext", "diff", "--exit-code", "-t", tag, str(source)).code == 0
    assert mac("kontext", "pull", tag, str(tmp_path / "out")).code == 0
    assert on_disk(tmp_path / "out") == on_disk(source)
    assert mac("kontext", "verify", tag, str(tmp_path / "out")).code == 0
    assert len(mac("kontext", "ls", tag).stdout.splitlines()) == 4


def test_the_installation_is_checked_and_removed(mac: Docker) -> None:
    checks = {check["name"]: check for check in mac("kontext", "doctor", "--format", "json").json}
    assert {checks[name]["state"] for name in ("python", "crane", "docker", "plugin")} == {"ok"}
    assert mac("kontext", "install", "--crane", "none").code == 0
    assert mac("kontext", "uninstall").code == 0
    assert not mac.plugin.is_symlink()


def test_an_unknown_certificate_names_the_keychain(
    mac: Docker, certificate: tuple[Path, Path], source: Path, tmp_path: Path
) -> None:
    """Go does not read SSL_CERT_FILE there."""
    (tmp_path / "registry").mkdir()
    tls = f"  tls: {{certificate: {certificate[0]}, key: {certificate[1]}}}"
    with serve_registry(tmp_path / "registry", tls) as registry:
        mac.log_in(registry.host)
        refused = mac.push(registry.repository(), source)
    assert refused.code == 1
    assert "Add its certificate authority to the keychain." in refused.stderr
