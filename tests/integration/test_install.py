"""What a user installs: a wheel that has all it needs but crane."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.services import Docker, Registry


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build leaves its traces in the source directory.
    copy = folder / "source"
    copy.mkdir()
    for name in ("kontext_plugin", "setup.cfg", "pyproject.toml", "plugin.json", "README.md"):
        subprocess.run(["cp", "-RP", root / name, copy], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, copy],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_all_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("kontext_plugin/") for name in archive.namelist()}
        shim = archive.getinfo("kontext_plugin/docker-kontext")
        assert b"SchemaVersion" in archive.read("kontext_plugin/plugin.json")
    assert {"docker-kontext", "plugin.json", "py.typed"} <= names
    assert {f"schemas/manifest-v{version}.json" for version in (2, 3)} <= names
    for platform in ("linux-amd64", "linux-arm64"):
        layout = f"base/{platform}"
        assert f"{layout}/index.json" in names
        assert len([n for n in names if n.startswith(f"{layout}/blobs/sha256/")]) == 3
    assert shim.external_attr >> 16 & 0o111, "the shim is executable"


def test_the_wheel_pushes_from_an_empty_environment(
    wheel: Path, docker: Docker, registry: Registry, crane_path: str, tmp_path: Path
) -> None:
    environment = tmp_path / "environment with spaces"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", wheel]
    subprocess.run(pip, check=True)
    (package,) = environment.glob("lib/python*/site-packages/kontext_plugin")
    other = Docker(tmp_path / "other config")
    install = [environment / "bin" / "python", "-m", "kontext_plugin", "install"]
    settings = os.environ | {"DOCKER_CONFIG": str(other.config)}
    subprocess.run(install, cwd=tmp_path, env=settings, check=True)
    link = other.config / "cli-plugins" / "docker-kontext"
    assert os.readlink(link) == str(package / "docker-kontext")
    other.log_in(registry.host)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content\n")

    lost = other.push(registry.repository(), tmp_path / "source")
    if lost.code:  # unless the machine has a crane of its own
        assert "crane was not found" in lost.stderr
        assert "Traceback" not in lost.stderr
    other.environment["KONTEXT_CRANE"] = crane_path
    pushed = other.push(registry.repository(), tmp_path / "source")
    assert pushed.image


def test_install_replaces_a_broken_link(docker: Docker, root: Path) -> None:
    link = docker.config / "cli-plugins/docker-kontext"
    link.unlink()
    link.symlink_to("/gone/kontext_plugin/docker-kontext")
    done = subprocess.run(
        [sys.executable, "-m", "kontext_plugin", "install"],
        cwd=root,
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert docker("kontext", "version").code == 0
