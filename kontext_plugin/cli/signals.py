"""Turn every interruption into one KeyboardInterrupt in the main thread.

An interruption is Ctrl-C, SIGTERM, a terminal that closes, or docker's plugin socket that closes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_INTERVAL = 0.05  # seconds between two attempts to interrupt the main thread


def catch_interrupts() -> None:
    """Have the first interruption raise KeyboardInterrupt. All later ones are ignored."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # nohup
            signal.signal(number, _interrupt)
    threading.Thread(target=_repeat_signal, args=(reader,), daemon=True).start()
    name = os.environ.get("DOCKER_CLI_PLUGIN_SOCKET")
    if name:  # without a terminal docker sends no signal, and closes this socket instead
        threading.Thread(target=_watch_docker_socket, args=(name,), daemon=True).start()


@contextlib.contextmanager
def on_interrupt(describe: Callable[[], str]) -> Iterator[None]:
    """Have an interruption of the block say what it leaves behind, unless an inner one does.

    `describe` completes the message "Interrupted; …".
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            raise
        raise KeyboardInterrupt(describe()) from interrupt


def _interrupt(*_: object) -> None:
    # docker and the terminal may both signal. Nothing must interrupt the cleanup.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _repeat_signal(reader: int) -> None:
    """Send the first signal again until it is handled.

    Python forgets a signal that comes just before the main thread waits for a lock, for as long as
    it waits.
    """
    main = threading.main_thread().ident
    assert main is not None
    number = os.read(reader, 1)[0]
    while signal.getsignal(number) is _interrupt:
        time.sleep(_INTERVAL)
        signal.pthread_kill(main, number)


def _watch_docker_socket(name: str) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        try:
            # docker writes "@" for the zero byte that begins an abstract name.
            connection.connect("\0" + name[1:] if name.startswith("@") else name)
            while connection.recv(1024):
                pass
        except OSError:
            return
    os.kill(os.getpid(), signal.SIGTERM)
