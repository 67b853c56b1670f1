"""How much of an upload has arrived: what crane says, and what its sockets show."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.crane_driver.watchdog import Transfer
from kontext_plugin.image.oci import Digest
from kontext_plugin.terminal.steps import Progress

A, B = (Digest("sha256:" + letter * 64) for letter in "ab")
SIZES = {A: 1000, B: 10}
NOBODY = 2**22 + 1  # above Linux's largest process id

SAID = {
    "nothing yet": ("", Progress(bytes=0, total_bytes=1010)),
    "one is through": (f"pushed blob: {A}\n", Progress(bytes=1000, total_bytes=1010)),
    "one was there": (f"existing blob: {A}\n", Progress(bytes=0, total_bytes=10)),
    "one was mounted": (f"mounted blob: {A}\n", Progress(bytes=0, total_bytes=10)),
    "both": (f"existing blob: {B}\npushed blob: {A}\n", Progress(bytes=1000, total_bytes=1000)),
    "said twice": (f"pushed blob: {A}\npushed blob: {A}\n", Progress(bytes=1000, total_bytes=1010)),
    "half a line": (f"pushed blob: {A[:40]}", Progress(bytes=0, total_bytes=1010)),
    "no layer": (f"pushed blob: sha256:{'c' * 64}\n", Progress(bytes=0, total_bytes=1010)),
    "all was there": ("existing manifest: sha256:x\n", Progress(bytes=0, total_bytes=0)),
}


@pytest.mark.parametrize(("messages", "expected"), SAID.values(), ids=SAID)
def test_what_crane_says_is_enough(messages: str, expected: Progress) -> None:
    """As where nothing else can be seen."""
    transfer = Transfer(SIZES)
    transfer.follow(NOBODY, bytearray(messages.encode()))
    assert transfer.amount() == expected


@given(st.permutations([f"{verb} blob: {it}" for verb in ("pushed", "existing") for it in SIZES]))
def test_the_share_never_falls_and_is_never_more_than_all(messages: list[str]) -> None:
    transfer, said, before = Transfer(SIZES), bytearray(), 0.0
    transfer.follow(NOBODY, said)
    for message in messages:
        said += f"{message}\n".encode()
        amount = transfer.amount()
        share = amount.bytes / amount.total_bytes if amount.total_bytes else 1.0
        assert before <= share <= 1
        before = share


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that shows it")
def test_what_waits_in_a_socket_has_not_arrived() -> None:
    """The program writes all that the kernel takes, and nobody reads but now and then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        program = (
            "import os, socket\n"
            f"s = socket.create_connection(({host!r}, {port}))\n"
            "left = 30_000_000\n"
            "while left: left -= os.write(s.fileno(), bytes(min(left, 1_000_000)))\n"
            "os.read(0, 1)"
        )
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            connection, _ = server.accept()
            with connection:
                transfer = Transfer({A: 30_000_000})
                transfer.follow(process.pid, bytearray())
                read, before = 0, 0
                while read < 30_000_000:
                    time.sleep(0.01)
                    arrived = transfer.amount().bytes
                    assert before <= arrived
                    # Behind and ahead by what one socket may hold; both hold 10 MB.
                    assert read - 7_000_000 <= arrived <= read + 7_000_000
                    read += len(connection.recv(1_000_000, socket.MSG_WAITALL))
                    before = arrived
                deadline = time.monotonic() + 20
                while transfer.amount().bytes < 30_000_000 and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert transfer.amount() == Progress(bytes=30_000_000, total_bytes=30_000_000)
            assert process.stdin
            os.write(process.stdin.fileno(), b"x")
