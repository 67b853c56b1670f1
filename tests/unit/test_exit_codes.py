"""Hold docs/exit-codes.md to the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kontext_plugin import errors
from kontext_plugin.cli import main, options
from kontext_plugin.cli.flags import Command

COMMANDS = [value.name for value in vars(options).values() if isinstance(value, Command)]


@pytest.fixture
def document(root: Path) -> str:
    return (root / "docs" / "exit-codes.md").read_text()


def test_the_document_has_the_constants(document: str) -> None:
    described = {
        name: int(code)
        for code, name in re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\|", document, re.MULTILINE)
    }
    constants = {name: value for name, value in vars(errors).items() if isinstance(value, int)}
    assert described == constants | {"": 0}


def test_each_command_has_a_row(document: str) -> None:
    rows = [row for row in document.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)[`\s]", row.split("|")[1])]
    assert set(named) == set(COMMANDS)


def test_success_failure_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["kontext", "no-such-command"]) == errors.USAGE
    assert main.run(["kontext", "push", "-t", "r/rr", "/no/such/directory"]) == errors.FAILED
    capsys.readouterr()


@pytest.mark.parametrize("command", options.COMMANDS)
def test_every_command_has_help_and_rejects_unknown_flags(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["kontext", command, "--help"]) == 0
    assert main.run(["kontext", command, "--no-such-flag"]) == errors.USAGE
    capsys.readouterr()


def test_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("kontext_plugin.commands.install.main", interrupt)
    assert main.run(["kontext", "install"]) == errors.INTERRUPTED
