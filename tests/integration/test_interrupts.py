"""A push that is told to stop: it ends soon, and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import ends_within
from support.services import Docker, Registry
from support.terminal import terminal


@pytest.fixture
def silent_registry() -> Iterator[tuple[str, threading.Event]]:
    """Takes connections and never answers; the event tells that one has come."""
    asked = threading.Event()
    held = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hold() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                asked.set()

        thread = threading.Thread(target=hold)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def cranes(host: str) -> list[int]:
    """The processes that talk of this registry, docker's own left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"crane") and any(host.encode() in part for part in command):
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_docker_ends_the_push(
    docker: Docker,
    tmp_path: Path,
    silent_registry: tuple[str, threading.Event],
    number: signal.Signals,
) -> None:
    """Without a terminal docker passes no signal on; it closes the plugin's socket."""
    host, asked = silent_registry
    process = subprocess.Popen(
        ["docker", "kontext", "push", "-t", f"{host}/some/repository", str(tmp_path)],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert asked.wait(20)
    assert cranes(host)
    process.send_signal(number)
    started = time.monotonic()
    output, messages = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode == 130, messages
    assert output == b""
    assert b"Interrupted" in messages
    assert b"Traceback" not in messages
    assert ends_within(1, lambda: not cranes(host))


def test_ctrl_c_ends_the_push(
    docker: Docker, tmp_path: Path, silent_registry: tuple[str, threading.Event]
) -> None:
    host, asked = silent_registry
    command = ["docker", "kontext", "push", "-t", f"{host}/r/r", str(tmp_path)]
    with terminal(command, os.environ | {"DOCKER_CONFIG": str(docker.config)}) as screen:
        assert asked.wait(20)
        screen.press_ctrl_c()
        assert screen.ends() == 130, screen.sent
    assert b"Traceback" not in screen.sent
    assert ends_within(1, lambda: not cranes(host))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_start_shows_no_traceback(root: Path, number: signal.Signals) -> None:
    """Whatever it imports at that moment."""
    shim = root / "kontext_plugin" / "docker-kontext"
    for attempt in range(40):
        process = subprocess.Popen(
            [shim, "kontext", "version"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        time.sleep(0.002 * attempt)
        process.send_signal(number)
        _, messages = process.communicate(timeout=5)
        # 1 and a traceback of Python's own: the signal came before it ran the first line of ours.
        assert process.returncode in (0, 130, -number, 1)
        assert b'.py"' not in messages, messages


@pytest.mark.parametrize("attempt", range(6))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("files", [1, 2], ids=["itself", "workers"])
def test_a_push_that_hashes_a_large_file_ends_at_once(
    docker: Docker,
    registry: Registry,
    root: Path,
    tmp_path: Path,
    files: int,
    number: signal.Signals,
    attempt: int,
) -> None:
    (tmp_path / "source").mkdir()
    large = [tmp_path / "source" / f"large{file}" for file in range(files)]
    for path in large:
        with path.open("wb") as file:
            file.truncate(1 << 40)  # sparse, and an hour to hash
    shim = root / "kontext_plugin" / "docker-kontext"
    process = subprocess.Popen(
        [shim, "kontext", "push", "-t", registry.repository(), tmp_path / "source"],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        stderr=subprocess.PIPE,
        # Tests that run in the background have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    hashing: set[int] = {process.pid}

    def hashes() -> bool:
        """Whether it does, or the processes beside it."""
        for children in Path(f"/proc/{process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                hashing.update(map(int, children.read_text().split()))
        opened = []
        for pid in hashing:
            with contextlib.suppress(OSError):
                opened += [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
        return str(large[0]) in opened

    try:
        # At once: that is when Python is about to wait, and may forget the signal.
        assert ends_within(20, hashes, every=0.001)
        process.send_signal(number)
        _, messages = process.communicate(timeout=5)
        assert ends_within(5, lambda: not hashes())
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Interrupted" in messages
