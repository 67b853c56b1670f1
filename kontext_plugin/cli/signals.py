"""Ctrl-C, SIGTERM, a terminal or docker's plugin socket that closes: one KeyboardInterrupt."""

from __future__ import annotations

import os
import signal
import threading
import time

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PATIENCE = 0.05  # seconds


def catch_interrupts() -> None:
    """From now on the main thread gets a KeyboardInterrupt, once."""
    noted, note = os.pipe()
    os.set_blocking(note, False)
    signal.set_wakeup_fd(note, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # nohup
            signal.signal(number, _interrupt)
    threading.Thread(target=_insist, args=(noted,), daemon=True).start()
    name = os.environ.get("DOCKER_CLI_PLUGIN_SOCKET")
    if name:  # without a terminal docker sends no signal
        threading.Thread(target=_wait_for_docker, args=(name,), daemon=True).start()


def _interrupt(*_: object) -> None:
    # Once: docker and the terminal may both tell, and nothing must break the clearing up.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _insist(noted: int) -> None:
    """Repeats a signal until it is handled: one that comes while Python's main thread is on the way
    to wait for a lock is forgotten for as long as it waits."""
    main = threading.main_thread().ident
    assert main is not None
    number = os.read(noted, 1)[0]
    while signal.getsignal(number) is _interrupt:
        time.sleep(_PATIENCE)
        signal.pthread_kill(main, number)


def _wait_for_docker(name: str) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect("\0" + name[1:] if name.startswith("@") else name)
            while connection.recv(1024):
                pass
        except OSError:
            return
    os.kill(os.getpid(), signal.SIGTERM)
