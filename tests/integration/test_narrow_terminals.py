"""What a user sees on terminals of 50 to 120 columns, on odd ones, and on none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.machine import SHIM
from support.services import Docker, Registry
from support.terminal import terminal
from support.trees import Directory, File, Link, plant

from kontext_plugin.terminal.table import cells

DEEP = "services/billing/internal/持続化/handlers/refunds/payments_of_last_year.go"
HOSTILE = "\x1b[2Jred\nline with a rather long name that has to be cut somewhere"


@pytest.fixture
def tag(docker: Docker, registry: Registry, tmp_path: Path) -> str:
    """Two pushes of a tree with long, wide and hostile names, and with a long label."""
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "cache")
    source, tag = tmp_path / "source", registry.repository() + "/a-team/a-service:development"
    parents = [DEEP[:place] for place, letter in enumerate(DEEP) if letter == "/"]
    plant(source, {path: Directory() for path in parents})
    plant(source, {DEEP: File(b"x" * 9000), HOSTILE: File(b"y"), "link": Link("z" * 90)})
    plant(source, {"ballast": File(bytes(60_000))})
    label = ("--label", "description=" + "a long text " * 8)
    docker.push(tag, source, *label)
    plant(source, {DEEP: File(b"x" * 9001), "more": File(b"y" * 40)})
    docker.push(tag, source, *label)
    return tag


@pytest.mark.parametrize("columns", [50, 80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "TAG"),
        ("log", "TAG"),
        ("ls", "TAG", "services/billing"),
        ("ls", "-R", "TAG"),
        ("ls", "-lR", "TAG"),
        ("diff", "TAG~1", "TAG"),
        ("cache", "ls"),
        ("doctor", "TAG"),
    ],
    ids=" ".join,
)
def test_no_line_is_longer_than_the_terminal_is_wide(
    arguments: tuple[str, ...], columns: int, docker: Docker, tag: str
) -> None:
    words = [word.replace("TAG", tag) for word in arguments]
    utf_8 = variables(docker, LC_ALL="C.UTF-8", TERM="xterm")
    with terminal([SHIM, "kontext", *words], utf_8, columns) as shown:
        assert shown.ends() == 0
    lines = shown.sent.decode().splitlines()
    messages = [line for line in lines if " records, " in line]  # on standard error
    assert lines
    for line in lines:
        assert line.isprintable()
        assert cells(line) <= columns or line in messages, line


def test_a_pipe_gets_everything(docker: Docker, tag: str) -> None:
    said = docker("kontext", "ls", "-lR", tag).stdout
    assert DEEP in said and "link -> " + "z" * 90 in said
    log = docker("kontext", "log", tag).stdout
    assert log.count("sha256:") == 2 and tag in log


# Trouble from the field


def variables(docker: Docker, **more: str) -> dict[str, str]:
    return os.environ | docker.environment | {"DOCKER_CONFIG": str(docker.config)} | more


def test_a_terminal_that_knows_no_width_gets_everything(docker: Docker, tag: str) -> None:
    """`script` and `ssh -tt` in CI have 0 columns (chzyer/readline#29, dCache/dcache#1465)."""
    for words in (f"log {tag}", f"ls -lR {tag}", f"diff --stat {tag}~1 {tag}", f"inspect {tag}"):
        script = f"stty cols 0; exec {SHIM} kontext {words}"
        with terminal(["sh", "-c", script], variables(docker, TERM="xterm")) as shown:
            assert shown.ends() == 0
        piped = docker("kontext", *words.split()).stdout
        assert shown.sent.decode().replace("\r\n", "\n") == piped


ENCODINGS = [
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"},
]


@pytest.mark.parametrize("more", ENCODINGS, ids=str)
def test_a_locale_of_ascii_changes_no_name(more: dict[str, str], docker: Docker, tag: str) -> None:
    """A container has no locale (yadayada/acd_cli#168). Only what Kontext adds is in ASCII."""
    command = [SHIM, "kontext", "ls", "-R", tag]
    done = subprocess.run(command, env=variables(docker, **more), capture_output=True, check=True)
    assert DEEP.encode() in done.stdout.splitlines()
    with terminal(command, variables(docker, **more), columns=50) as shown:
        assert shown.ends() == 0
    lines = shown.sent.decode().splitlines()
    assert any("..." in line for line in lines)
    assert not any("…" in line for line in lines)


FULL = {
    "ls": 'ls "$TAG"',
    "inspect": 'inspect "$TAG"',
    "log": 'log --format json "$TAG"',
    "diff": 'diff --stat "$TAG~1" "$TAG"',
    "verify": 'verify "$TAG"',
    "cache": "cache ls",
    "doctor": "doctor",
    "version": "version",
    "help": "ls --help",
    "overview": "",
}


@pytest.mark.parametrize("words", FULL.values(), ids=FULL)
def test_a_full_disk_below_standard_output_is_a_failure(
    words: str, docker: Docker, tag: str
) -> None:
    """Each command says so (uutils/coreutils#9782)."""
    done = subprocess.run(
        ["sh", "-c", f"{SHIM} kontext {words} >/dev/full"],
        env=variables(docker, TAG=tag),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ERROR: cannot write to standard output: No space left on device\n" in done.stderr


@pytest.mark.parametrize(("words", "code"), [('ls "$TAG"', 0), ('ls "$TAG" no', 1), ("ls", 125)])
def test_a_full_disk_below_standard_error_changes_no_exit_code(
    words: str, code: int, docker: Docker, tag: str
) -> None:
    """uutils/coreutils#10613."""
    command = f"{SHIM} kontext {words} 2>/dev/full"
    done = subprocess.run(
        ["sh", "-c", command], env=variables(docker, TAG=tag), capture_output=True
    )
    assert (done.returncode, bool(done.stdout)) == (code, code == 0)
