"""What a user sees on terminals of 50 to 120 columns: no line wraps."""

from __future__ import annotations

import os
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
    variables = os.environ | docker.environment | {"DOCKER_CONFIG": str(docker.config)}
    variables |= {"LC_ALL": "C.UTF-8", "TERM": "xterm"}
    with terminal([SHIM, "kontext", *words], variables, columns) as shown:
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
