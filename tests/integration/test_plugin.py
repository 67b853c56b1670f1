"""What docker sees of the plugin: metadata, help, exit codes, and being told to stop."""

from __future__ import annotations

import contextlib
import json
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

import kontext_plugin


def test_docker_lists_it(docker: Docker) -> None:
    assert "kontext*" in docker("--help").stdout


def test_metadata_takes_no_python(root: Path) -> None:
    shim = root / "kontext_plugin" / "docker-kontext"
    done = subprocess.run(
        [shim, "docker-cli-plugin-metadata"],
        env={"PATH": "/usr/bin:/bin", "KONTEXT_PYTHON": "/no/python"},
        capture_output=True,
        check=True,
    )
    metadata = json.loads(done.stdout)
    assert metadata["SchemaVersion"] == "0.1.0"
    assert metadata["Version"] == kontext_plugin.__version__
    assert {"Vendor", "ShortDescription", "URL"} <= metadata.keys()


HELP = {
    "plugin": (["kontext"], "Usage:  docker kontext COMMAND\n"),
    "plugin, flag": (["kontext", "--help"], "Usage:  docker kontext COMMAND\n"),
    "plugin, help": (["help", "kontext"], "Usage:  docker kontext COMMAND\n"),
    "command": (
        ["kontext", "push", "--help"],
        "Usage:  docker kontext push [OPTIONS] -t REF [DIR]\n",
    ),
    "command, short": (
        ["kontext", "push", "-h"],
        "Usage:  docker kontext push [OPTIONS] -t REF [DIR]\n",
    ),
    "command, help": (
        ["help", "kontext", "push"],
        "Usage:  docker kontext push [OPTIONS] -t REF [DIR]\n",
    ),
    "command, before": (["--help", "kontext", "push"], "Usage:  docker kontext push"),
    "after flags": (["kontext", "push", "-t", "x", "--help"], "Usage:  docker kontext push"),
}


@pytest.mark.parametrize(("arguments", "start"), HELP.values(), ids=HELP)
def test_help(docker: Docker, arguments: list[str], start: str) -> None:
    said = docker(*arguments)
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout.startswith(start)
    assert said.stdout.count("Usage:") == 1


def test_every_option_is_in_the_help(docker: Docker) -> None:
    text = docker("kontext", "push", "--help").stdout
    for option in (
        "-t, --tag", "    --fresh", "    --base", "    --platform", "    --label", "    --dry-run",
        "-q, --quiet", "    --insecure", "    --ignore-file", "    --git",
    ):  # fmt: skip
        assert f"\n  {option} " in text


def test_global_flags_come_first(docker: Docker, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    tag = registry.repository()
    for flags in (["-D"], ["--debug=false"], ["--context", "default"], ["-Dc", "default"], ["--"]):
        pushed = docker(*flags, "kontext", "push", "-t", tag, str(tmp_path / "source"))
        assert pushed.image, flags
        assert ("crane manifest" in pushed.stderr) == ("D" in flags[0]), flags


def test_debug_shows_the_traceback(docker: Docker, tmp_path: Path) -> None:
    arguments = ["kontext", "push", "-t", "127.0.0.1:1/some/repository", str(tmp_path)]
    assert "Traceback" not in docker(*arguments).stderr
    debugged = docker("-D", *arguments)
    assert debugged.code == 1
    assert "Traceback" in debugged.stderr
    assert "crane manifest 127.0.0.1:1/some/repository" in debugged.stderr


def test_completion(docker: Docker) -> None:
    said = docker("__complete", "kontext", "pus").stdout
    assert said.splitlines()[0].startswith("push\t")
    assert said.splitlines()[-1] == ":4"
    flags = docker("__complete", "kontext", "push", "--d").stdout
    assert [line.partition("\t")[0] for line in flags.splitlines()] == ["--dry-run", ":4"]
    assert docker("__complete", "kontext", "push", "").stdout == ":16\n"


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
def test_docker_told_to_stop_ends_the_push(
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


def test_ctrl_c_on_a_terminal(
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


CLOSED = {
    "stdin": ("<&-", 0, True),
    "stdout": (">&-", 0, False),
    "stderr": ("2>&-", 0, True),
    "all": ("<&- >&- 2>&-", 0, False),
    "full": (">/dev/full", 1, False),
}


@pytest.mark.parametrize(("redirected", "code", "printed"), CLOSED.values(), ids=CLOSED)
def test_closed_streams(
    docker: Docker,
    registry: Registry,
    root: Path,
    tmp_path: Path,
    redirected: str,
    code: int,
    printed: bool,
) -> None:
    """Messages never end up on stdout, nor in a file that got the stream's number."""
    (tmp_path / "source").mkdir()
    shim = root / "kontext_plugin" / "docker-kontext"
    command = f'"{shim}" kontext push -t {registry.repository()} "{tmp_path}/source"'
    done = subprocess.run(
        ["sh", "-c", f"{command} {redirected}"],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.count("@sha256:") == int(printed)
    assert len(done.stdout.splitlines()) == int(printed)
    if redirected == ">/dev/full":
        assert "cannot write to standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("attempt", range(6))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("files", [1, 2], ids=["itself", "workers"])
def test_a_large_file_does_not_hold_an_interrupted_push(
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
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
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
