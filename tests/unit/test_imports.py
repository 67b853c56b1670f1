"""Imports that no contract in setup.cfg can hold: heavy ones, and the doors to the outside.

docker starts the plugin for every `docker --help`: a module that takes its time is imported in the
function that needs it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kontext_plugin

PACKAGE = Path(kontext_plugin.__file__).parent

DOORS = {
    "plumbum": {"crane_driver/process.py"},
    "jsonschema": {"runtime/schema.py"},
    "docker": {"engine/daemon.py"},
    "deflate": {"layer/compression.py"},
    "zstandard": {"layer/compression.py"},
    "rich": {"terminal/progress.py", "terminal/table.py"},
    "hyperscan": {"secret_scan/scanner.py"},
    "tomllib": {"push/config_file.py"},
    "tomli": {"push/config_file.py"},
    "fcntl": {"cache.py", "crane_driver/process.py"},
    "argparse": set(),
}
"""The modules that may import a package."""

HEAVY = [
    *("plumbum", "docker", "jsonschema", "deflate", "zstandard", "hyperscan", "rich"),
    *("tomllib", "tomli"),
    *("argparse", "tarfile", "concurrent.futures", "subprocess", "hashlib", "json"),
    *("inspect", "shutil", "kontext_plugin.cli.signals"),
    *("kontext_plugin.terminal.steps", "kontext_plugin.terminal.text"),
]
"""What no help needs; an import takes 2 to 200 ms."""

MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_packages(path: Path) -> Iterator[str]:
    """Yield the top-level package of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", DOORS)
def test_only_its_door_imports_a_package(package: str) -> None:
    users = {name for name, path in MODULES.items() if package in imported_packages(path)}
    assert users <= DOORS[package]


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, kontext_plugin.cli.main as main; main.run(['push', '--help']); "
        f"print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert (run.stdout[:5], run.stderr.split()) == ("Usage", [])


@pytest.mark.parametrize("module", MODULES)
def test_no_module_uses_a_shell_or_evaluates_text(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "shell":
            pytest.fail(f"{module}:{node.value.lineno}: shell=")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("os.system", "os.popen", "subprocess.getoutput"), called
            assert called not in ("subprocess.getstatusoutput", "eval", "exec"), called
