"""Takes what a process prints, lest it wait for us."""

from __future__ import annotations

import contextlib
import threading
from typing import IO

_CHUNK = 65536


def drained(pipe: IO[bytes], most: int) -> tuple[threading.Thread, bytearray]:
    """Reads a pipe to the side until it ends or is closed; at most so many bytes are kept."""
    messages = bytearray()

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed
            for chunk in iter(lambda: pipe.read(_CHUNK), b""):
                messages.extend(chunk[: most - len(messages)])

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, messages
