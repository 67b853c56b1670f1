"""What a user installs: a wheel that has all it needs but crane."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.documents import blocks
from support.mirror import archive_of, regular, sends, serve_mirror
from support.services import Docker, Registry, Result

from kontext_plugin import read_version
from kontext_plugin.crane_driver.release import release_for


def test_the_wheel_has_all_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("kontext_plugin/") for name in archive.namelist()}
        shim = archive.getinfo("kontext_plugin/docker-kontext")
        assert b"SchemaVersion" in archive.read("kontext_plugin/plugin.json")
    assert {"docker-kontext", "plugin.json", "py.typed"} <= names
    assert {f"schemas/manifest-v{version}.json" for version in (2, 3)} <= names
    for built in ("linux-amd64", "linux-arm64"):
        layout = f"base/{built}"
        assert f"{layout}/index.json" in names
        assert len([n for n in names if n.startswith(f"{layout}/blobs/sha256/")]) == 3
    assert shim.external_attr >> 16 & 0o111, "the shim is executable"


@dataclass
class Machine:
    """The environment of a user, who has docker and the installers, and no crane."""

    home: Path
    environment: dict[str, str]

    def run(self, command: str) -> Result:
        """Run a line as it is typed."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def success(self, command: str) -> str:
        """Run a line that must succeed, and return what it prints."""
        done = self.run(command)
        assert done.code == 0, done.stderr
        return done.stdout + done.stderr

    def state(self) -> dict[str, str]:
        """All that an installation may touch, each with its target or kind."""
        return {
            str(path.relative_to(self.home)): os.readlink(path) if path.is_symlink() else ""
            for place in ("docker", "share", "bin")
            for path in [self.home / place, *(self.home / place).rglob("*")]
            if os.path.lexists(path)
        }


@pytest.fixture
def machine(tmp_path: Path, registry: Registry) -> Machine:
    docker = shutil.which("docker")
    assert docker
    home = tmp_path / "a home"
    for place in ("docker", "programs", "bin"):
        (home / place).mkdir(parents=True)
    (home / "programs/docker").symlink_to(docker)
    for tool in ("python", "pipx", "uv", "uvx"):
        beside = Path(sys.executable).parent / tool
        assert beside.exists(), "scripts/setup installs the installers"
        (home / "programs" / tool).symlink_to(beside)
    places = {
        "PATH": f"{home}/bin:{home}/programs:/usr/bin:/bin",
        "HOME": str(home),
        "DOCKER_CONFIG": str(home / "docker"),
        "XDG_DATA_HOME": str(home / "share"),
        "KONTEXT_CACHE_DIR": str(home / "cache"),
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIPX_MAN_DIR": str(home / "man"),
        "PIPX_DEFAULT_PYTHON": sys.executable,
        "UV_TOOL_DIR": str(home / "uv tools"),
        "UV_TOOL_BIN_DIR": str(home / "bin"),
        "UV_CACHE_DIR": str(home / "uv cache"),
        "UV_PYTHON": sys.executable,
    }
    Docker(home / "docker").log_in(registry.host)
    return Machine(home, os.environ | places)


README = ["pipx install docker-kontext", "docker-kontext install"]

INSTALLERS = {
    "pipx": "pipx install {wheel}",
    "uv": "uv tool install {wheel}",
    "pip": "python -m venv 'environment' && environment/bin/pip install --quiet {wheel} && "
    "ln -s ../environment/bin/docker-kontext bin/docker-kontext",
}
"""How the wheel is installed, so that `docker-kontext` is on PATH."""


def test_the_readme_says_what_is_tested_here(root: Path) -> None:
    shown = {block.heading: [] for block in blocks(root / "README.md")}
    for block in blocks(root / "README.md"):
        shown[block.heading].append(block.text.splitlines())
    assert shown["Install"][0] == README
    assert shown["Uninstall"] == [["docker-kontext uninstall", "pipx uninstall docker-kontext"]]


@pytest.mark.parametrize("installer", INSTALLERS)
def test_the_wheel_installs_pushes_and_goes_without_a_trace(
    installer: str,
    wheel: Path,
    machine: Machine,
    registry: Registry,
    crane_path: str,
) -> None:
    before = machine.state()
    machine.success(INSTALLERS[installer].format(wheel=wheel))
    installed = machine.state()
    assert set(installed) - set(before) == {"bin/docker-kontext"}
    assert machine.run("docker kontext version").code != 0, "docker knows it already"
    (machine.home / "source").mkdir()
    (machine.home / "source/file").write_text("content\n")
    tag = registry.repository()
    lost = machine.run(f"docker-kontext push -t {tag} source")
    assert (lost.code, lost.stdout) == (1, "")
    assert lost.stderr.startswith("ERROR: crane was not found\nRun 'docker kontext install' ")

    shown = machine.success(f"docker-kontext install --crane {crane_path}")
    crane = machine.home / "share/kontext/crane"
    assert f"Linked {crane} to {crane_path}" in shown
    assert machine.success("docker kontext version") == f"kontext {read_version()}\n"
    for words in ("version", "docker-cli-plugin-metadata", "push --help"):
        shim = machine.home / "docker/cli-plugins/docker-kontext"
        assert machine.success(f"docker-kontext {words}") == machine.success(f"'{shim}' {words}")
    checks = json.loads(machine.run("docker kontext doctor --format json").stdout)
    found = {check["name"]: check for check in checks}
    assert {found[name]["state"] for name in ("python", "crane", "docker", "plugin")} == {"ok"}
    assert str(crane) in found["crane"]["message"]
    pushed = machine.run(f"docker kontext push -t {tag} source")
    assert pushed.image.startswith(tag)
    edit = "[ -e source/more ] && kill -INT $PPID; touch source/more"  # ends the second time
    watched = machine.run(f"docker kontext watch -t {tag} --exec '{edit}' source")
    assert watched.code == 130, watched.stderr
    first, second = watched.stdout.splitlines()
    assert first == pushed.image != second

    shown = machine.success("docker kontext uninstall")
    assert machine.run("docker kontext version").code != 0
    listed = machine.run("docker info; docker --help")
    assert "kontext" not in listed.stdout + listed.stderr
    assert machine.state() == installed
    removal = shown.rpartition("Remove it with: ")[2].strip()
    assert installer in removal
    machine.success(f"{removal} -y" if installer == "pip" else removal)
    assert machine.run("docker-kontext version").code == 127
    (machine.home / "bin/docker-kontext").unlink(missing_ok=True)  # the test's own link
    assert machine.state() == before


@pytest.mark.parametrize(
    ("command", "tool"),
    [
        ("uvx --from {wheel} docker-kontext", "uv tool"),
        ("pipx run --spec {wheel} docker-kontext", "pipx"),
    ],
    ids=["uvx", "pipx run"],
)
def test_a_cache_is_not_linked(command: str, tool: str, wheel: Path, machine: Machine) -> None:
    """Everything else works from there."""
    before = machine.state()
    run = command.format(wheel=wheel)
    assert machine.run(f"{run} version").stdout == f"kontext {read_version()}\n"
    refused = machine.run(f"{run} install")
    assert refused.code == 1
    assert "ERROR: Kontext runs from the cache " in refused.stderr
    assert f"Run '{tool} install docker-kontext', and then 'docker-kontext install'." in (
        refused.stderr
    )
    assert machine.state() == before


def test_the_wheel_fetches_crane(wheel: Path, machine: Machine) -> None:
    """The release itself cannot be had here. Another one is pinned in its place, in the wheel."""
    release = release_for(platform.system(), platform.machine(), "http://m")
    archive = archive_of(regular("crane", b"#!/bin/sh\necho v0.21.9\n"))
    machine.success(INSTALLERS["pip"].format(wheel=wheel))
    with serve_mirror() as mirror:
        path = release.url.removeprefix("http://m")
        mirror.answers[path] = sends(archive)
        machine.environment["KONTEXT_CRANE_RELEASES"] = mirror.url.replace("//", "//me:secret@")
        refused = machine.run("docker-kontext install")
        assert refused.code == 1
        assert "is not the pinned release of crane" in refused.stderr
        (module,) = machine.home.glob("environment/lib/*/site-packages/kontext_plugin/*/release.py")
        pin = hashlib.sha256(archive).hexdigest()
        module.write_text(module.read_text().replace(release.sha256, pin))
        shown = machine.success("docker-kontext install")
    assert f"Installed {machine.home}/share/kontext/crane, " in shown
    assert "secret" not in refused.stderr + shown
    assert "✓ crane        v0.21.9, " in machine.run("LC_ALL=C.UTF-8 docker kontext doctor").stdout
    machine.success("docker-kontext uninstall")
    assert not (machine.home / "share").exists()


def test_install_replaces_a_broken_link(docker: Docker, root: Path) -> None:
    link = docker.config / "cli-plugins/docker-kontext"
    link.unlink()
    link.symlink_to("/gone/kontext_plugin/docker-kontext")
    done = subprocess.run(
        [sys.executable, "-m", "kontext_plugin", "install", "--crane", "none"],
        cwd=root,
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert docker("kontext", "version").code == 0
