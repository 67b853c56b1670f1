"""The rules of who imports whom: down only, one door to each outside thing, nothing heavy early."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kontext_plugin

PACKAGE = Path(kontext_plugin.__file__).parent

# Top to bottom. A module imports from lower layers only.
LAYERS = [
    {"__main__"},
    {"cli"},
    {
        "commands.cache",
        "commands.diff",
        "commands.doctor",
        "commands.inspect",
        "commands.install",
        "commands.load",
        "commands.ls",
        "commands.pull",
        "commands.purge",
        "commands.push",
        "commands.run",
        "commands.verify",
        "commands.version",
    },
    {"commands.doctor_checks", "commands.loading", "commands.reading"},
    {"commands.gate", "commands.preparation"},
    {"commands.directory", "commands.push_advice", "commands.push_results"},
    {"commands.push_arguments", "commands.push_messages"},
    {"commands.purge_messages", "commands.race", "commands.registry"},
    {"complete", "progress"},
    {"commands.table"},
    {"contents", "display", "published", "upload", "output", "daemon"},
    {"endpoint", "plugin_link"},
    {"docker_config"},
    # The edges: each owns one outside thing.
    {"secret_scan"},
    {"exported", "target"},
    {"scan", "delta", "crane", "base", "schema", "report", "options", "interrupts"},
    {"cache", "ignore", "git", "tar", "digests", "layout"},
    {"crane_process"},
    {"crane_errors", "stall", "transfer", "ending"},
    {"memories", "plan", "remembered", "scratch", "workers", "proc", "largest", "pipes", "mirror"},
    {"base_choice", "division", "ignore_syntax", "sources"},
    {"comparison", "diff", "provenance"},
    {"manifest"},
    {"listing", "reference"},
    {"image", "tree", "steps"},
    {"environment", "errors", "secret_rules", "text", "", "commands"},
]
LEVEL = {module: level for level, modules in enumerate(reversed(LAYERS)) for module in modules}

DOORS = {
    "plumbum": {"crane_process"},
    "jsonschema": {"schema"},
    "docker": {"daemon"},
    "zlib_ng": {"delta"},
    "argparse": {"options"},
    "fcntl": {"scratch", "ending"},
    "hyperscan": {"secret_scan"},
    "rich": {"display"},
}

HEAVY = [
    *("plumbum", "docker", "jsonschema", "zlib_ng", "hyperscan", "rich"),
    *("argparse", "tarfile", "concurrent.futures", "subprocess", "hashlib", "json"),
]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """A module of the package by its name below it; None for others and for mere attributes."""
    below = name.removeprefix("kontext_plugin").removeprefix(".")
    return below if name.startswith("kontext_plugin") and below in MODULES else None


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    .removesuffix("__init__")
    .rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "kontext_plugin")
def test_imports_go_down_only(module: str) -> None:
    assert module in LEVEL, "a new module: say in LAYERS where it stands"
    for name in imports(MODULES[module]):
        imported = own(name)
        if imported and imported != module:
            assert LEVEL[imported] < LEVEL[module], f"{module} imports {imported}"


@pytest.mark.parametrize("package", DOORS)
def test_one_module_is_the_door(package: str) -> None:
    users = {
        module
        for module, path in MODULES.items()
        if any(name.partition(".")[0] == package for name in imports(path))
    }
    assert users <= DOORS[package]


def test_the_start_loads_nothing_heavy() -> None:
    program = f"import sys, kontext_plugin.cli; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert run.stdout.split() == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "kontext_plugin")
def test_no_shell_is_ever_used(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "shell":
            pytest.fail(f"{module}:{node.value.lineno}: shell=")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("os.system", "os.popen", "subprocess.getoutput"), called
            assert called not in ("subprocess.getstatusoutput", "eval", "exec"), called
