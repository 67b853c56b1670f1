"""docker's plugin protocol: what docker passes, what it shows, and the exit codes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kontext_plugin import read_version
from kontext_plugin.cli import main
from kontext_plugin.cli.flags import Globals
from kontext_plugin.cli.options import COMMANDS
from kontext_plugin.commands import install, pull, purge, push, verify
from kontext_plugin.errors import CLOSED_PIPE, KontextError
from kontext_plugin.image.reference import parse_reference

IMAGE = "r/r@sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[push.PushOptions, Any]]:
    """The arguments of each push. Nothing is pushed."""
    calls: list[tuple[push.PushOptions, Any]] = []
    monkeypatch.delenv("DOCKER_CLI_PLUGIN_SOCKET", raising=False)
    monkeypatch.setattr(
        push, "push", lambda options, report, cache: calls.append((options, report)) or IMAGE
    )
    return calls


# Global flags

TO_PUSH = ["kontext", "push", "-t", "r/r"]

GLOBALS: dict[str, tuple[list[str], str, bool]] = {
    "none": ([], "", False),
    "config": (["--config", "/c"], "/c", False),
    "config with =": (["--config=/c"], "/c", False),
    "the last config": (["--config=/b", "--config", "/c"], "/c", False),
    "config with a space": (["--config", "/c d"], "/c d", False),
    "debug": (["--debug"], "", True),
    "short debug": (["-D"], "", True),
    "debug with =": (["--debug=true"], "", True),
    "debug off": (["--debug=false"], "", False),
    "context": (["--context", "c"], "", False),
    "short context": (["-c", "c"], "", False),
    "debug and context": (["-Dc", "c"], "", True),
    "debug and context joined": (["-Dcc"], "", True),
    "host": (["-H", "unix:///x"], "", False),
    "hosts": (["-Htcp://a", "--host=tcp://b"], "", False),
    "log level": (["-l", "debug", "--log-level=info"], "", False),
    "tls": (["--tls", "--tlsverify=false", "--tlscacert", "a", "--tlskey=c"], "", False),
    "tls off": (["--tls=false", "--tlsverify"], "", False),
    "separator": (["-D", "--"], "", True),
    "a value like the name": (["--context", "kontext", "--config", "push"], "push", False),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "config", "debug"), GLOBALS.values(), ids=GLOBALS)
def test_global_flags(
    flags: list[str],
    config: str,
    debug: bool,
    pushes: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = os.environ["DOCKER_CONFIG"]
    assert main.run([*flags, *TO_PUSH]) == 0
    ((options, report),) = pushes
    assert options.tags == (parse_reference("r/r"),)
    assert report.show_debug == debug
    assert os.environ["DOCKER_CONFIG"] == (os.path.abspath(config) if config else before)
    assert capsys.readouterr().out == f"{IMAGE}\n"


DAEMONS: dict[str, tuple[list[str], Globals]] = {
    "host": (["-H", "tcp://a"], Globals(host="tcp://a")),
    "context": (["--context=c"], Globals(context="c")),
    "tls": (["--tls"], Globals(tls=True)),
    "tls in Go's spelling": (["--tls=1", "--tlsverify=F"], Globals(tls=True, tlsverify=False)),
    "verify": (["--tlsverify"], Globals(tlsverify=True)),
    "files": (
        ["--tlscacert=a", "--tlscert", "b", "--tlskey", "c"],
        Globals(tlscacert="a", tlscert="b", tlskey="c"),
    ),
}


@pytest.mark.parametrize(("flags", "expected"), DAEMONS.values(), ids=DAEMONS)
def test_flags_for_the_daemon(
    flags: list[str], expected: Globals, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Globals] = []
    monkeypatch.setattr(install, "main", lambda arguments, given: seen.append(given) or 0)
    assert main.run([*flags, "kontext", "install"]) == 0
    assert seen == [expected]


def test_a_relative_config_is_made_absolute(
    pushes: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main.run(["--config", "conf", *TO_PUSH])
    assert os.environ["DOCKER_CONFIG"] == str(tmp_path / "conf")


def test_an_unknown_global_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--nope", *TO_PUSH]) == 125
    assert "unknown flag: --nope" in capsys.readouterr().err


# Push

PUSHES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "tag alone": (["-t", "r/r:1"], {"tags": (parse_reference("r/r:1"),), "directory": "."}),
    "tags": (
        ["-t", "r/r", "--tag=s/s"],
        {"tags": (parse_reference("r/r"), parse_reference("s/s"))},
    ),
    "directory": (["-t", "r/r", "dir"], {"directory": "dir"}),
    "directory first": (["dir", "-t", "r/r"], {"directory": "dir"}),
    "directory as a flag": (["-t", "r/r", "--directory", "dir"], {"directory": "dir"}),
    "directory like a flag": (["-t", "r/r", "--", "--help"], {"directory": "--help"}),
    "base": (["-t", "r/r", "--base", "alpine"], {"base": "alpine"}),
    "platform": (["-t", "r/r", "--platform=linux/arm64"], {"platforms": ("linux/arm64",)}),
    "ignore file": (["-t", "r/r", "--ignore-file", "x"], {"ignore_file": "x"}),
    "switches": (
        ["-t", "r/r", "--git", "--fresh", "--dry-run", "--insecure"],
        {"keep_git": True, "fresh": True, "dry_run": True, "insecure": True},
    ),
    "git": (["-t", "r/r"], {"gitignore": False, "git_labels": True}),
    "git's rules": (["-t", "r/r", "--gitignore"], {"gitignore": True}),
    "no git labels": (["-t", "r/r", "--no-git-labels"], {"git_labels": False}),
    "labels": (
        ["-t", "r/r", "--label", "a=1", "--label=b=x=y,z"],
        {"labels": {"a": "1", "b": "x=y,z"}},
    ),
    "label twice": (["-t", "r/r", "--label", "a=1", "--label", "a=2"], {"labels": {"a": "2"}}),
    "timeout": (["-t", "r/r", "--timeout", "2m"], {"timeout": 120}),
    "no timeout": (["-t", "r/r", "--timeout=0"], {"timeout": 0}),
    "the default timeout": (["-t", "r/r"], {"timeout": 60}),
}


@pytest.mark.parametrize(("arguments", "expected"), PUSHES.values(), ids=PUSHES)
def test_push(arguments: list[str], expected: dict[str, Any], pushes: list[Any]) -> None:
    assert main.run(["kontext", "push", *arguments]) == 0
    ((options, report),) = pushes
    assert {name: getattr(options, name) for name in expected} == expected
    assert not report.quiet


WRONG: dict[str, tuple[list[str], str]] = {
    "no tag": ([], "docker: 'docker kontext push' requires --tag"),
    "bad tag": (["-t", "R"], "invalid reference 'R'"),
    "tag without a value": (["-t"], "flag needs an argument: 't' in -t"),
    "unknown flag": (["-t", "r/r", "--nope"], "unknown flag: --nope"),
    "two directories": (["-t", "r/r", "a", "b"], "requires at most 1 argument"),
    "directory twice": (["-t", "r/r", "a", "--directory", "b"], "either DIR or --directory"),
    "platform": (["-t", "r/r", "--platform", "linux/386"], '"linux/386" for "--platform" flag'),
    "label without a value": (["-t", "r/r", "--label", "a"], 'invalid argument "a" for "--label"'),
    "label with an empty value": (
        ["-t", "r/r", "--label", "a="],
        'invalid argument "a=" for "--label"',
    ),
    "label without a key": (["-t", "r/r", "--label", "=a"], 'invalid argument "=a" for "--label"'),
    "a dry run with a digest": (
        ["-t", "r/r", "--dry-run", "--iidfile", "f"],
        "--dry-run and --iidfile cannot be given together",
    ),
    "a dry run with metadata": (
        ["-t", "r/r", "--metadata-file", "f", "--dry-run"],
        "--dry-run and --metadata-file cannot be given together",
    ),
    "one file for the digest and the metadata": (
        ["-t", "r/r", "--metadata-file", "f", "--iidfile", "./f"],
        "--iidfile and --metadata-file name the same file",
    ),
    "one file for the metadata and the provenance": (
        ["-t", "r/r", "--provenance", "f", "--iidfile", "i", "--metadata-file", "./f"],
        "--metadata-file and --provenance name the same file",
    ),
    "timeout": (["-t", "r/r", "--timeout", "soon"], 'invalid argument "soon" for "--timeout"'),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_shown_as_docker_shows_it(
    arguments: list[str], message: str, pushes: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["kontext", "push", *arguments]) == 125
    assert pushes == []
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[0]
    assert captured.err.endswith(
        "\n\nUsage:  docker kontext push [OPTIONS] -t REF [DIR]\n\n"
        "Run 'docker kontext push --help' for more information\n"
    )


OVERVIEW = "Usage:  docker kontext COMMAND\n\nRun 'docker kontext --help' for more information\n"
PUSH_USAGE = (
    "Usage:  docker kontext push [OPTIONS] -t REF [DIR]\n\n"
    "Run 'docker kontext push --help' for more information\n"
)

TYPED: dict[str, tuple[str, str]] = {
    "a wrong command": (
        "psuh",
        f"docker: unknown command: docker kontext psuh\nDid you mean push?\n\n{OVERVIEW}",
    ),
    "a wrong command like no other": (
        "nope",
        f"docker: unknown command: docker kontext nope\n\n{OVERVIEW}",
    ),
    "the plugin's name twice": (
        "kontext",
        f"docker: unknown command: docker kontext kontext\n\n{OVERVIEW}",
    ),
    "help for a wrong command": (
        "help psuh",
        f"docker: unknown command: docker kontext psuh\nDid you mean push?\n\n{OVERVIEW}",
    ),
    "a wrong flag": (
        "push --taggg r/r",
        f"unknown flag: --taggg\nDid you mean --tag?\n\n{PUSH_USAGE}",
    ),
    "no -t": (
        "push localhost:5000/me/app .",
        "docker: 'docker kontext push' requires --tag\n"
        f"Did you mean 'docker kontext push -t localhost:5000/me/app .'?\n\n{PUSH_USAGE}",
    ),
    "no -t for diff": (
        "diff r/r . --git",
        "docker: 'docker kontext diff' requires --tag\n"
        "Did you mean 'docker kontext diff -t r/r .'?\n\n"
        "Usage:  docker kontext diff [OPTIONS] -t REF [DIR] | REF REF\n\n"
        "Run 'docker kontext diff --help' for more information\n",
    ),
    "no arguments": (
        "push",
        f"docker: 'docker kontext push' requires --tag\n\n{PUSH_USAGE}",
    ),
    "no image": (
        "ls",
        "docker: 'docker kontext ls' requires at least 1 argument\n\n"
        "Usage:  docker kontext ls [OPTIONS] REF [PATH]\n\n"
        "Run 'docker kontext ls --help' for more information\n",
    ),
    "no image, but a tag": (
        "ls -t r/r",
        "unknown shorthand flag: 't' in -t\n\n"
        "Usage:  docker kontext ls [OPTIONS] REF [PATH]\n\n"
        "Run 'docker kontext ls --help' for more information\n",
    ),
    "the extractor's flag without --": (
        "run r/r --mirror",
        "unknown flag: --mirror\nPut arguments of the extractor after '--'.\n\n"
        "Usage:  docker kontext run [OPTIONS] REF [-- ARGS...]\n\n"
        "Run 'docker kontext run --help' for more information\n",
    ),
    "neither ls nor prune": (
        "cache clear",
        "docker: 'docker kontext cache' expects ls or prune\n\n"
        "Usage:  docker kontext cache [OPTIONS] ls | prune\n\n"
        "Run 'docker kontext cache --help' for more information\n",
    ),
}
"""What newcomers type wrongly, and all of what they read."""


@pytest.mark.parametrize(("typed", "message"), TYPED.values(), ids=TYPED)
def test_a_wrong_command_line_says_how_to_write_it(
    typed: str, message: str, pushes: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["kontext", *typed.split()]) == 125
    assert capsys.readouterr() == ("", message)
    assert pushes == []


def test_a_flag_suggests_nothing_that_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["kontext", "push", "--direktory", "."]) == 125
    assert "Did you mean" not in capsys.readouterr().err


def test_a_deleted_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main.run(TO_PUSH) == 1
    message = (
        "ERROR: the current directory was deleted\nChange to another directory, and try again.\n"
    )
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "version"])
def test_each_command_has_its_module(name: str) -> None:
    assert callable(importlib.import_module(f"kontext_plugin.commands.{name}").main)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["kontext", "version"]) == 0
    assert capsys.readouterr().out == f"kontext {read_version()}\n"
    assert main.run(["kontext", "version", "x"]) == 125


# Help

HELPS = {
    "nothing": (["kontext"], "COMMAND"),
    "--help": (["kontext", "--help"], "COMMAND"),
    "-h": (["kontext", "-h"], "COMMAND"),
    "help": (["kontext", "help"], "COMMAND"),
    "docker help kontext": (["help", "kontext"], "COMMAND"),
    "docker --help kontext": (["--help", "kontext"], "COMMAND"),
    "docker -D kontext": (["-D", "kontext"], "COMMAND"),
    "push --help": (["kontext", "push", "--help"], "push [OPTIONS] -t REF [DIR]"),
    "push -h": (["kontext", "push", "-h"], "push [OPTIONS] -t REF [DIR]"),
    "push, among others": (["kontext", "push", "--no", "-h", "a"], "push [OPTIONS] -t REF [DIR]"),
    "push -qh": (["kontext", "push", "-qh"], "push [OPTIONS] -t REF [DIR]"),
    "help push": (["kontext", "help", "push"], "push [OPTIONS] -t REF [DIR]"),
    "docker help kontext push": (["help", "kontext", "push"], "push [OPTIONS] -t REF [DIR]"),
    "docker --help kontext push": (["--help", "kontext", "push"], "push [OPTIONS] -t REF [DIR]"),
    "version --help": (["kontext", "version", "--help"], "version"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "usage"), HELPS.values(), ids=HELPS)
def test_help_comes_once(
    arguments: list[str], usage: str, pushes: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"Usage:  docker kontext {usage}\n")
    assert captured.out.count("Usage:") == 1
    assert captured.out.endswith("\n") and not captured.out.endswith("\n\n")
    assert captured.err == ""
    assert pushes == []


@pytest.mark.parametrize("arguments", [[], *([name, "--help"] for name in COMMANDS)])
def test_help_fits_80_columns(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main.run(["kontext", *arguments])
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_help_shows_all_but_hidden_options(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["kontext", "push", "--help"])
    shown = capsys.readouterr().out
    for option in COMMANDS["push"].options:
        assert (f"--{option.name}" in shown) != option.hidden, option.name
    main.run(["kontext"])
    shown = capsys.readouterr().out
    assert "push " in shown and "version " in shown
    assert shown.endswith(
        "Run 'docker kontext COMMAND --help' for more information on a command.\n"
    )


# Completion

COMPLETIONS = {
    "commands": ([""], [*COMMANDS], 4),
    "a command": (["pus"], ["push"], 4),
    "no such command": (["x"], [], 4),
    "a directory": (["push", ""], [], 16),
    "flags": (["push", "--d"], ["--dry-run"], 4),
    "flags after others": (["push", "-t", "r/r", "--fr"], ["--fresh", "--from"], 4),
    "a value": (["push", "--platform", "linux/ar"], ["linux/arm64"], 4),
    "a value after =": (["push", "--reuse=a"], ["--reuse=auto", "--reuse=always"], 4),
    "a file": (["push", "--ignore-file", ""], [], 0),
    "a directory after options": (["push", "--fresh", "-t", "r/r", ""], [], 16),
    "no more arguments": (["push", "d", ""], [], 4),
    "of an unknown command": (["nope", ""], [], 4),
}


@pytest.mark.parametrize("verb", ["__complete", "__completeNoDesc"])
@pytest.mark.parametrize(("words", "names", "directive"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_completion(
    verb: str,
    words: list[str],
    names: list[str],
    directive: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run([verb, "kontext", *words]) == 0
    *candidates, last = capsys.readouterr().out.splitlines()
    assert [candidate.partition("\t")[0] for candidate in candidates] == names
    assert verb == "__complete" or not any("\t" in candidate for candidate in candidates)
    assert last == f":{directive}"


def test_completion_offers_no_hidden_option(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["__complete", "kontext", "push", "--"])
    offered = {line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()[:-1]}
    assert offered == {
        f"--{option.name}" for option in COMMANDS["push"].options if not option.hidden
    }


# Errors and exit codes

ERRORS: dict[str, tuple[BaseException, int, str]] = {
    "with a hint": (KontextError("it broke", hint="fix it"), 1, "ERROR: it broke\nfix it\n"),
    "without a hint": (KontextError("it broke"), 1, "ERROR: it broke\n"),
    "with its own code": (KontextError("gone", exit_code=7), 7, "ERROR: gone\n"),
    "control characters": (KontextError("\x1b[2J"), 1, "ERROR: \\x1b[2J\n"),
    "a bug": (
        ZeroDivisionError("by 0"),
        1,
        "ERROR: ZeroDivisionError: by 0\n"
        "This is a bug in Kontext. Run 'docker -D kontext …' to see the traceback.\n",
    ),
    "interrupted": (KeyboardInterrupt(), 130, "Interrupted; "),
}


@pytest.mark.parametrize(("error", "code", "shown"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_a_message_and_an_exit_code(
    error: BaseException,
    code: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(push, "push", fail)
    assert main.run(TO_PUSH) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(shown)
    assert "Traceback" not in captured.err
    if code != 130:
        main.run(["-D", *TO_PUSH])
        assert "Traceback" in capsys.readouterr().err


def test_an_interruption_that_python_wraps_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python 3.11 does while it makes a class of a module that is imported."""

    def fail(*_: object) -> str:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    monkeypatch.setattr(push, "push", fail)
    assert main.run(TO_PUSH) == 130
    assert capsys.readouterr().err.startswith("Interrupted")


def test_a_dry_run_prints_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(push, "push", lambda *_: "")
    assert main.run(TO_PUSH) == 0
    assert capsys.readouterr().out == ""


INTERRUPTED: dict[str, tuple[ModuleType, str, list[str], str]] = {
    "push": (push, "push", TO_PUSH, "nothing is published"),
    "purge": (purge, "purge", ["kontext", "purge", "r/r:t"], "nothing is published"),
    "pull": (
        pull,
        "pull",
        ["kontext", "pull", "-q", "r/r"],
        "each file is as it was before, or as the image has it",
    ),
    "verify": (verify, "fetch", ["kontext", "verify", "r/r"], "nothing was checked completely"),
}


@pytest.mark.parametrize(
    ("module", "function", "command", "state"), INTERRUPTED.values(), ids=INTERRUPTED
)
def test_an_interrupted_command_says_what_it_leaves(
    module: ModuleType,
    function: str,
    command: list[str],
    state: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setenv("KONTEXT_CRANE", "/no/crane/is/run")
    monkeypatch.setattr(module, function, interrupt)
    assert main.run(command) == 130
    assert capsys.readouterr() == ("", f"Interrupted; {state}\n")


# The program


def test_a_reader_of_stdout_that_has_gone_is_no_bug() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "kontext_plugin", "kontext", "--help"],
        # Without a buffer the first print would fail, not the flush at the end.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (CLOSED_PIPE, "")


def test_a_name_that_the_encoding_lacks_is_escaped() -> None:
    program = "from kontext_plugin.cli import main; from kontext_plugin.commands import push"
    process = subprocess.run(
        [sys.executable, "-c", f"{program}; push.push = lambda *_: 'ä'; main.main()", *TO_PUSH],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout) == (0, "\\xe4\n"), process.stderr


def test_all_metadata_of_the_plugin_is_the_same(root: Path) -> None:
    shim = root / "kontext_plugin/docker-kontext"
    printed = subprocess.run(
        [shim, "docker-cli-plugin-metadata"], capture_output=True, check=True, timeout=30
    ).stdout
    metadata = json.loads(printed)
    assert metadata["SchemaVersion"] == "0.1.0"
    assert metadata["Vendor"]
    assert metadata["Version"] == read_version()
    assert json.loads((root / "plugin.json").read_bytes()) == metadata
