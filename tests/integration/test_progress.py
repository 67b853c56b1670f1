"""What a slow push shows: on a real terminal, in a file, and as JSON."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.machine import SHIM, Machine, ends_within
from support.services import PASSWORD, Docker, Registry
from support.slow_line import Line, line
from support.terminal import Terminal, terminal
from support.trees import Directory, File, plant

from kontext_plugin.registry.base_image import shipped_base

RATE = 4e6  # bytes per second
LARGE = random.Random(0).randbytes(12_000_000)
NAME = "[red]x:smile:\x1b[31my"  # rich's markup, its emoji, and a terminal's own red
SHOWN = r"skipped '[red]x:smile:\x1b[31my': it is a FIFO"

TOTAL = len(LARGE) + shipped_base("linux/amd64").extractor.layer.size
"""Bytes of a push, but for some small documents."""

_PERCENT = re.compile(r"Uploading +(\d+) %.* of 1[23](\.\d)?MB")
_UPLOADING = re.compile(r"[|/\\-] Uploading")


@pytest.fixture
def slow(registry: Registry) -> Iterator[Line]:
    with line(registry.host, 0.01, RATE) as slow:
        yield slow


@pytest.fixture
def pushing(slow: Line, registry: Registry, crane_path: str, tmp_path: Path) -> Machine:
    """A machine that pushes 12 MB through the slow line, and has a file with a hostile name."""
    repository = registry.repository().partition("/")[2]
    machine = Machine(tmp_path / "machine", slow.host, registry.host, crane_path, repository)
    machine.environment |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    plant(machine.source, {"node_modules/[red]/a": File(LARGE), "src": Directory()})
    os.mkfifo(machine.source / NAME)
    return machine


def command(machine: Machine, *options: str) -> list[str | os.PathLike[str]]:
    return [SHIM, *options, "kontext", "push", "-t", machine.tag, machine.source]


def environment(machine: Machine, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return inherited | machine.environment | more


def shows_upload(shown: Terminal) -> bool:
    return any(_PERCENT.search(text) for text in shown.lines())


# On a terminal


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "NO_COLOR"])
def test_a_slow_push_draws_its_progress_and_leaves_only_its_messages(
    colour: bool, pushing: Machine, slow: Line
) -> None:
    """The percentage only grows, to 100 at most, and agrees with what the line has carried."""
    more = {} if colour else {"NO_COLOR": "1"}
    seen: list[tuple[int, int]] = []
    with terminal(command(pushing), environment(pushing, **more)) as shown:
        before = 0
        while shown.read(0.05):
            for text in shown.lines():
                if match := _PERCENT.search(text):
                    before = before or slow.up.carried
                    seen.append((int(match[1]), slow.up.carried - before))
        assert shown.process.wait(20) == 0
        lines = shown.lines()
    percents = [percent for percent, _ in seen]
    assert len(set(percents)) > 10
    assert percents == sorted(percents)
    assert percents[-1] <= 100
    # Ahead by what the line has buffered: the kernel lets it have 6 MB. Behind by what the line has
    # carried since the picture was drawn, on a busy machine.
    ahead = [percent - carried * 100 / TOTAL for percent, carried in seen]
    assert min(ahead) > -20
    assert max(ahead) < 50
    assert lines[0] == f"WARNING: {SHOWN}"
    words = [line.split()[0] for line in lines[1:5]]
    assert words == ["Scanned", "Starting", "Pushed", "Largest"]
    assert "node_modules/[red] 100 % (12MB)" in lines[4]
    assert re.fullmatch(r"\S+@sha256:.*", lines[5])
    assert "━━━".encode() in shown.sent
    assert b"\x1b[?25l" not in shown.sent, "a push that is killed would leave the cursor hidden"
    assert not re.search(rb"\x1b\[[0-9;]*m", shown.sent), "no colours"


@pytest.mark.parametrize(("word", "total"), [("Pulling", r"1[23](\.\d)?MB"), ("Verifying", "12MB")])
def test_pull_and_verify_draw_their_progress(word: str, total: str, pushing: Machine) -> None:
    """The percentage is of bytes: it moves within the one file. It fits 50 columns.

    A pull counts the bytes of layers, the extractor's among them.
    """
    assert pushing.push().image
    words = ["pull", pushing.tag, str(pushing.folder / "out")]
    if word == "Verifying":
        words = ["verify", pushing.tag]
    percents: list[int] = []
    with terminal([SHIM, "kontext", *words], environment(pushing), columns=50) as shown:
        while shown.read(0.05):
            for text in shown.lines():
                if match := re.search(rf"{word} +(\d+) % \S+ of {total}", text):
                    percents.append(int(match[1]))
                    assert len(text) < 50
        assert shown.process.wait(20) == 0
        lines = shown.lines()
    assert len(set(percents)) > 5
    assert percents == sorted(percents)
    assert not any(word in line for line in lines if "%" in line)


def test_a_terminal_without_utf_8_gets_an_ascii_bar(pushing: Machine) -> None:
    with terminal(command(pushing), environment(pushing, LC_ALL="C")) as shown:
        assert shown.shows(lambda: any("% ---" in text for text in shown.lines()))
        assert shown.ends() == 0
    assert "━".encode() not in shown.sent


def test_a_quick_push_draws_nothing(docker: Docker, registry: Registry, tmp_path: Path) -> None:
    plant(tmp_path / "source", {"file": File(b"")})
    arguments = [SHIM, "kontext", "push", "-t", registry.repository(), tmp_path / "source"]
    variables = os.environ | {"DOCKER_CONFIG": str(docker.config), "TERM": "xterm"}
    with terminal(arguments, variables) as shown:
        assert shown.ends() == 0
    # On a slow machine it is drawn, with sequences that only move the cursor and erase.
    assert b"\x1b[" not in re.sub(rb"\x1b\[(\d*A|J)", b"", shown.sent)
    words = [text.split()[0] for text in shown.lines()[:3]]
    assert words == ["Scanned", "Starting", "Pushed"]


def test_twenty_columns(pushing: Machine) -> None:
    """A progress line never wraps, and messages above it are complete."""
    exported = environment(pushing, COLUMNS="120", LINES="50")  # as some profiles set them
    with terminal(command(pushing, "-D"), exported, columns=20) as shown:
        while shown.read(0.05):
            drawn = [text for text in shown.lines() if _UPLOADING.match(text)]
            assert len(drawn) <= 1, shown.lines()
        assert shown.process.wait(20) == 0
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown.sent).decode()
    assert SHOWN in plain
    assert "Uploading" in plain
    # These come while the progress line is drawn.
    assert f"Pushed {pushing.tag}: 1 added; uploaded " in plain
    assert "Largest directories, uncompressed: node_modules/[red] 100 % (12MB)\r\n" in plain


@pytest.mark.parametrize("reflow", [False, True], ids=["xterm", "reflow"])
def test_a_terminal_that_changes_its_width(reflow: bool, pushing: Machine) -> None:
    """No piece of a progress line remains, and no message is lost (NixOS/nix#1780)."""
    plant(pushing.source, {"more": File(LARGE[::-1])})
    with terminal(command(pushing), environment(pushing), columns=120) as shown:
        for columns in (30, 100, 20, 80, 50, 120):
            assert shown.shows(lambda: any(map(_UPLOADING.match, shown.lines())))
            shown.resize(columns, reflow=reflow)
            assert shown.shows(lambda: len(shown.sent) > 0, 0.3)
            drawn = len(shown.sent)
            assert shown.shows(lambda drawn=drawn: len(shown.sent) > drawn + 50)  # type: ignore[misc]
            lines = shown.lines()
            assert sum(bool(_UPLOADING.match(text)) for text in lines) == 1, lines
            assert len(lines[-1]) < columns
            if columns >= 50 or reflow:
                assert "WARNING: skipped" in "".join(lines)
        assert shown.ends() == 0
        lines = shown.lines()
    assert lines[0].startswith("WARNING: skipped")
    assert not any("Uploading" in text or " of 2" in text for text in lines)


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {"KONTEXT_PROGRESS": "plain"}], ids=str)
def test_a_dumb_terminal_and_plain_progress_draw_nothing(
    more: dict[str, str], pushing: Machine
) -> None:
    """A shell in Emacs is such a terminal (moby/moby#11233, replicate/cog#176)."""
    plant(pushing.source, {"node_modules/[red]/a": File(LARGE[:4_000_000])})
    with terminal(command(pushing), environment(pushing, **more)) as shown:
        assert shown.ends() == 0
    assert b"\x1b" not in shown.sent


# Interrupts


def close_plugin_socket(shown: Terminal, docker: socket.socket) -> None:
    docker.accept()[0].close()


INTERRUPTS: dict[str, Callable[[Terminal, socket.socket], None]] = {
    "Ctrl-C": lambda shown, _: shown.press_ctrl_c(),
    "Ctrl-C twice": lambda shown, _: (shown.press_ctrl_c(), shown.press_ctrl_c())[0],
    "docker's socket": close_plugin_socket,
}


@pytest.mark.parametrize("interrupt", INTERRUPTS.values(), ids=INTERRUPTS)
def test_an_interrupted_upload_ends_at_once_and_cleans_up(
    interrupt: Callable[[Terminal, socket.socket], None], pushing: Machine
) -> None:
    with socket.socket(socket.AF_UNIX) as docker:
        docker.bind("")  # Linux: an abstract name that nobody else has
        docker.listen()
        name = "@" + docker.getsockname()[1:].decode()
        more = {"DOCKER_CLI_PLUGIN_SOCKET": name}
        with terminal(command(pushing), environment(pushing, **more)) as shown:
            assert shown.shows(lambda: shows_upload(shown))
            assert pushing.cranes()
            started = time.monotonic()
            interrupt(shown, docker)
            assert shown.ends(20) == 130
            assert time.monotonic() - started < 1
            lines = shown.lines()
    assert lines[-1].startswith("Interrupted; nothing is published")
    assert not any("Uploading" in text for text in lines)
    assert b"\x1b[?25l" not in shown.sent
    assert ends_within(1, lambda: not pushing.cranes())
    assert pushing.published() is None
    pushing.assert_clean()


# JSON


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_has_events_of_each_step_and_the_result(pushing: Machine) -> None:
    pushed = pushing.push("--progress", "json")
    seen = events(pushed.stderr)
    steps = [event for event in seen if event["type"] == "step"]
    assert {event["state"] for event in steps} == {"running", "done"}
    for name in {event["step"] for event in steps}:
        states = [event["state"] for event in steps if event["step"] == name]
        assert states == ["running"] * (len(states) - 1) + ["done"], name
    uploads = [event for event in steps if event["step"] == "crane push"]
    carried = [event.get("bytes", 0) for event in uploads]
    assert len(uploads) > 3, "one event a second"
    assert carried == sorted(carried)
    assert carried[-1] == uploads[-1]["totalBytes"] > TOTAL
    (scan,) = (event for event in steps if (event["step"], event["state"]) == ("scan", "done"))
    assert scan["files"] == 1
    assert {"type": "warning", "text": SHOWN} in seen
    assert seen[-1] == {
        "type": "result",
        "image": pushed.image,
        "tag": pushing.tag,
        "upToDate": False,
        "uploadedBytes": seen[-1]["uploadedBytes"],
    }
    assert seen[-1]["uploadedBytes"] > len(LARGE)


def test_json_has_an_error_event(pushing: Machine) -> None:
    Docker(pushing.folder / "docker").log_in(pushing.host, password="wrong")
    refused = pushing.push("--progress", "json")
    assert (refused.code, refused.stdout) == (1, "")
    *before, error = events(refused.stderr)
    assert error["type"] == "error"
    assert error["exitCode"] == 1
    assert "refused access to" in error["text"]
    assert "docker login" in error["hint"]
    assert any(event.get("state") == "failed" for event in before)


# Other modes


def test_plain_shows_a_line_every_few_seconds(pushing: Machine) -> None:
    plant(pushing.source, {"more": File(LARGE[::-1])})
    pushed = pushing.push()
    lines = pushed.stderr.splitlines()
    assert pushed.image
    assert "\x1b" not in pushed.stderr
    (shown, *_) = (text for text in lines if text.startswith("Uploading: "))
    form = r"Uploading: \d+ %, \S+B of 2[45](\.\d)?MB, \S+B/s, \d+s(, \d+s left)?"
    assert re.fullmatch(form, shown)


def test_quiet_shows_nothing(pushing: Machine) -> None:
    plant(pushing.source, {"more": File(LARGE[::-1])})
    assert pushing.push("--progress", "quiet").stderr == ""


@pytest.mark.parametrize("mode", ["tty", "json"])
def test_debug_shows_everything_but_secrets(mode: str, pushing: Machine) -> None:
    """A credential helper prints its secret and fails while a line is drawn."""
    helper = pushing.folder / "bin" / "docker-credential-blab"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\nsleep 1\necho 'sealed: {PASSWORD}'\nexit 1\n")
    helper.chmod(0o755)
    Docker(pushing.folder / "docker").configure({"credsStore": "blab"})
    more = {"PATH": f"{helper.parent}:{os.environ['PATH']}", "KONTEXT_PROGRESS": mode}
    with terminal(command(pushing, "-D"), environment(pushing, **more), columns=250) as shown:
        assert shown.ends() == 1
    for text in (b"crane manifest", b"crane ended with 1", b"Traceback", b"RegistryError"):
        assert text in shown.sent, text
    assert (b"Waiting for the registry" in shown.sent) == (mode == "tty")
    assert PASSWORD.encode() not in shown.sent
