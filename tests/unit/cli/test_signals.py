"""Every way to interrupt Kontext: signals, and docker's plugin socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from kontext_plugin.cli import main
from kontext_plugin.commands import push
def wait(*_):
    print("waiting", file=sys.stderr, flush=True)
    while True: time.sleep(60)
push.push = wait
main.main()
"""


def start(**environment: str) -> subprocess.Popen[str]:
    """Start a push that waits for ever, and return it when it waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "kontext", "push", "-t", "r/r"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr and process.stderr.readline() == "waiting\n"
    return process


def assert_runs_on(process: subprocess.Popen[str]) -> None:
    """Assert that a process goes on, and end it."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 130


SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}


@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
def test_a_signal_interrupts(number: signal.Signals) -> None:
    with start() as process:
        process.send_signal(number)
        output, messages = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, "")
    assert messages.startswith("Interrupted; ") and "Traceback" not in messages


def test_nohup_ignores_a_terminal_that_closes() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a program inherits that
    try:
        process = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        process.send_signal(signal.SIGHUP)
        assert_runs_on(process)


@pytest.mark.parametrize("abstract", [True, False], ids=["Linux", "macOS"])
def test_a_plugin_socket_that_closes_interrupts(abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as directory:
        name = f"{directory}/socket"
        address = f"\0{name}" if abstract else name
        server.bind(address)
        server.listen()
        with start(DOCKER_CLI_PLUGIN_SOCKET=f"@{name}" if abstract else address) as process:
            connection, _ = server.accept()
            connection.close()
            process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_plugin_socket_that_does_not_exist_is_ignored(tmp_path: Path) -> None:
    with start(DOCKER_CLI_PLUGIN_SOCKET=str(tmp_path / "gone")) as process:
        assert_runs_on(process)
