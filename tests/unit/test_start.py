"""`docker-kontext` and `python -m kontext_plugin`, which start what docker starts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kontext_plugin import read_version

PROGRAM = """
import sys
sys.platform = {platform!r}
before = set(sys.modules)
from kontext_plugin.__main__ import main
imported = [name for name in sys.modules if name.startswith("kontext_plugin")]
assert imported == ["kontext_plugin", "kontext_plugin.__main__"], imported
sys.argv = ["docker-kontext", "version"]
main()
"""


def start(platform: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(platform=platform)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_windows_is_refused_before_anything_is_imported(root: Path) -> None:
    done = start("win32", root)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "ERROR: Kontext does not run on Windows itself",
        "Install it in WSL: run 'wsl', and there 'pipx install docker-kontext'.",
    ]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_other_systems_start(platform: str, root: Path) -> None:
    done = start(platform, root)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kontext {read_version()}\n", "")


@pytest.mark.parametrize("arguments", [["version"], ["docker-cli-plugin-metadata"], ["nonsense"]])
def test_both_ways_are_the_same(arguments: list[str], root: Path) -> None:
    ways = ([str(root / "kontext_plugin/docker-kontext")], [sys.executable, "-m", "kontext_plugin"])
    shim, module = (
        subprocess.run([*way, *arguments], cwd=root, capture_output=True, text=True) for way in ways
    )
    assert (module.returncode, module.stdout) == (shim.returncode, shim.stdout)
    assert module.stderr == shim.stderr


@pytest.mark.parametrize(
    ("site", "python"),
    [
        ("lib/python3.12/site-packages", "python3.12"),
        ("lib/python3.13/site-packages", "python3"),
        ("python3.x/checkout", "python3"),
    ],
    ids=["the version of the directory", "no such version", "no version"],
)
def test_an_installation_without_a_python_of_its_own(
    site: str, python: str, root: Path, tmp_path: Path
) -> None:
    """As after `pip install --user`: the packages lie far from the Python that they are for."""
    package, programs = tmp_path / "user" / site / "kontext_plugin", tmp_path / "bin"
    for directory in (package, programs):
        directory.mkdir(parents=True)
    shutil.copy(root / "kontext_plugin/docker-kontext", package)
    for name in ("python3", "python3.12"):
        (programs / name).write_text(f"#!/bin/sh\necho {name}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", package / "docker-kontext", "version"],
        env={"PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{python}\n", "")
