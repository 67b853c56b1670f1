"""A terminal for a program: what it shows, and all bytes that the program has sent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyte

LINES = 24


@dataclass
class Terminal:
    process: subprocess.Popen[bytes]
    descriptor: int
    screen: pyte.Screen
    stream: pyte.ByteStream
    sent: bytearray = field(default_factory=bytearray)

    def lines(self) -> list[str]:
        """Return the lines on the screen that are not empty."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def read(self, seconds: float) -> bool:
        """Show what comes within that time. Return False once no process has the terminal open."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return True
        try:
            chunk = os.read(self.descriptor, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self.sent += chunk
        self.stream.feed(chunk)
        return bool(chunk)

    def shows(self, wanted: Callable[[], bool], seconds: float = 60) -> bool:
        """Return whether `wanted()` becomes true within that time, before the program ends."""
        limit = time.monotonic() + seconds
        while not wanted() and time.monotonic() < limit:
            if not self.read(0.1):
                return wanted()
        return wanted()

    def ends(self, seconds: float = 60) -> int:
        """Show everything until the program ends. Return its exit code."""
        limit = time.monotonic() + seconds
        while self.read(0.1) and time.monotonic() < limit:
            pass
        return self.process.wait(max(0.1, limit - time.monotonic()))

    def press_ctrl_c(self) -> None:
        os.write(self.descriptor, b"\x03")

    def resize(self, columns: int, reflow: bool = False) -> None:
        """Change the width of the screen, and tell the program.

        With `reflow`, long lines go on in the next row, as in most terminals of today. The cursor
        stays on its character. Otherwise they are cut, as in xterm.
        """
        if reflow:
            self._reflow(columns)
        else:
            self.screen.resize(LINES, columns)
        _set_size(self.descriptor, columns)

    def _reflow(self, columns: int) -> None:
        rows, row, column = [], 0, 0
        for place, line in enumerate(self.screen.display[: self.screen.cursor.y + 1]):
            if place == self.screen.cursor.y:
                row, column = len(rows) + self.screen.cursor.x // columns, self.screen.cursor.x
            text = line.rstrip()
            rows += [text[start : start + columns] for start in range(0, len(text) or 1, columns)]
        for line in self.screen.display[self.screen.cursor.y + 1 :]:
            rows.append(line.rstrip()[:columns])
        scrolled = max(0, row + 1 - LINES)
        self.screen.resize(LINES, columns)
        text = "\r\n".join(rows[scrolled : scrolled + LINES])
        move = f"\x1b[{row - scrolled + 1};{column % columns + 1}H"
        self.stream.feed(f"\x1b[H\x1b[J{text}{move}".encode())


@contextlib.contextmanager
def terminal(
    arguments: Sequence[str | os.PathLike[str]],
    environment: Mapping[str, str],
    columns: int = 100,
) -> Iterator[Terminal]:
    """Run a program on a terminal of its own, which is its controlling terminal as in a shell."""
    ours, theirs = pty.openpty()
    _set_size(ours, columns)
    screen = pyte.Screen(columns, LINES)
    process = subprocess.Popen(
        arguments,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours, screen, pyte.ByteStream(screen))
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _set_size(descriptor: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
