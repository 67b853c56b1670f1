"""Ends what we have started, when we want it to and when we are gone.

A killed push is told nothing, so the kernel ends crane in its place. crane alone would do so at its
next line on stderr, which comes before it writes a tag, but a silent registry would keep it for
ever; so it is on macOS, which has nothing of this kind.

Takes what a process prints, lest it wait for us.

How crane is run: through plumbum, no longer than it gets on, and never after we have ended.

What it is told, and what its answers mean, is crane.py's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from kontext_plugin.crane_driver import watchdog
from kontext_plugin.crane_driver.errors import RegistryError, explain, no_answer
from kontext_plugin.crane_driver.watchdog import Transfer
from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.environment import of_helpers

if TYPE_CHECKING:
    from typing_extensions import Self


GRACE = 0.5
"""Seconds that an interrupted process has to end by itself before it is killed."""


def terminate_group(process: subprocess.Popen[Any]) -> None:
    """Ends the leader of a session that still runs, and what it has started, credential helpers.

    May be called any number of times, and from any thread.
    """
    if process.poll() is None:
        _signal(process, signal.SIGINT)  # the one signal that crane handles
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    # To the whole session: a helper has crane's stderr, and whoever reads that waits for it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def tether() -> Iterator[int]:
    """One end of a pipe without words, for a child to inherit. The other closes when we end."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_RDONLY)  # what a helper leaves running may stay
        os.close(theirs)
        os.close(ours)


def bind_group(descriptor: int, group: int) -> None:
    """Lets the kernel kill a process group that has inherited the tether when we end."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, -group)
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)


_CHUNK = 65536


def drain(pipe: IO[bytes], most: int) -> tuple[threading.Thread, bytearray]:
    """Reads a pipe to the side until it ends or is closed; at most so many bytes are kept."""
    messages = bytearray()

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed
            for chunk in iter(lambda: pipe.read(_CHUNK), b""):
                messages.extend(chunk[: most - len(messages)])

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, messages


_QUESTIONS = frozenset({"manifest", "config", "digest", "tag", "version"})
"""Short however slow the line is: limited as a whole where progress cannot be seen."""

_MAX_DOCUMENT = 8 * 1024 * 1024
"""Bytes; registries must take 4 MiB (distribution specification, "Pushing manifests")."""

_MAX_MESSAGES = 256 * 1024
"""Bytes: crane says a hundred a layer, and all that a registry answered where it refused."""

MINIMUM = (0, 21, 9)
"""crane's version: the export of v0.21.8 is broken."""

NEEDED = f"v{'.'.join(map(str, MINIMUM))} or later"

_GET_CRANE = (
    f"Kontext needs crane {NEEDED} on PATH, or its path in KONTEXT_CRANE. "
    "Get it with scripts/install-crane, or from github.com/google/go-containerregistry."
)


@dataclass(frozen=True)
class Running:
    """A crane whose output is to be read; what it says on stderr is taken meanwhile."""

    arguments: Sequence[str]
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    messages: bytearray  # at most _MAX_MESSAGES
    taking: threading.Thread  # those, up to their end


@dataclass(frozen=True)
class Runner:
    """A crane binary and how to run it. As a context it ends whatever is still running."""

    program: str
    insecure: bool = False  # http, or a certificate that nobody vouches for
    environment: Mapping[str, str] = field(default_factory=lambda: of_helpers(os.environ))
    trace: Callable[[str], None] = lambda line: None
    timeout: float = 0  # seconds without progress after which crane is ended; 0: never
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)
    _left: threading.Event = field(default_factory=threading.Event, compare=False)

    def __enter__(self) -> Self:
        self._left.clear()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._left.set()
            running = tuple(self._running)
        for process in running:
            terminate_group(process)

    def _run(self, *arguments: str, transfer: Transfer | None = None) -> tuple[bytes, bytearray]:
        """One crane, start to end: (stdout, stderr). Raises RegistryError where it fails."""
        with self._start(*arguments) as running:
            if transfer:
                transfer.follow(running.process.pid, running.messages)
            output = running.output.read()
            running.taking.join()
            if running.process.wait():
                raise self._failure(running)
        return output, running.messages

    def _document(self, *arguments: str) -> bytes:
        """What crane prints, a small document. Raises RegistryError."""
        with self._stream(*arguments, whole=True) as stream:
            content = stream.read(_MAX_DOCUMENT + 1)
            if len(content) > _MAX_DOCUMENT:
                raise RegistryError(f"{arguments[-1]}: larger than {_MAX_DOCUMENT} bytes")
        if not content:
            raise RegistryError(f"{arguments[-1]}: the registry sent nothing for it")
        return content

    @contextlib.contextmanager
    def _stream(self, *arguments: str, whole: bool = False) -> Iterator[IO[bytes]]:
        """crane's stdout. A reader that leaves early ends crane, which is no error unless it has
        to be read as a `whole`."""
        with self._start(*arguments) as running:
            try:
                yield running.output
            except (OSError, ValueError, EOFError) as error:
                # The reader stumbled: over what crane broke off, or over the content itself?
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if running.process.wait(GRACE):
                        raise self._failure(running) from error
                raise
            running.output.close()  # ends a crane that has more to say (SIGPIPE)
            if whole and running.process.wait():
                raise self._failure(running)

    @contextlib.contextmanager
    def _start(self, *arguments: str) -> Iterator[Running]:
        """A crane that does not outlive the block, whatever ends it."""
        with tether() as tied:
            with self._lock:
                if self._left.is_set():
                    raise KontextError("the command has ended")
                process = self._popen(arguments, tied)
                self._running.add(process)
            try:
                with self._limited(process, arguments):
                    assert process.stdout is not None
                    assert process.stderr is not None
                    taking, messages = drain(process.stderr, _MAX_MESSAGES)
                    yield Running(arguments, process, process.stdout, messages, taking)
            finally:
                terminate_group(process)
                # Only here: who reads a pipe in another thread must not lose it to another file.
                for pipe in (process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
                with self._lock:
                    self._running.discard(process)

    @contextlib.contextmanager
    def _limited(
        self, process: subprocess.Popen[bytes], arguments: Sequence[str]
    ) -> Iterator[None]:
        """Ends a crane that waits in vain, and says so in place of its own last words."""
        shown = watchdog.is_visible(process.pid) or arguments[0] in _QUESTIONS
        limit = self.timeout if shown else 0
        with watchdog.watch(process, limit, lambda: terminate_group(process)) as silent:
            try:
                yield
            except RegistryError as error:
                if silent.is_set():
                    raise no_answer(arguments, limit) from error
                raise

    def _popen(self, arguments: Sequence[str], tied: int) -> subprocess.Popen[bytes]:
        from plumbum import CommandNotFound, local  # 70 ms: only where crane is needed

        flags = ["--insecure"] if self.insecure else []
        self.trace(" ".join(["crane", *arguments]))
        try:
            # plumbum adds the environment of when it was imported, so that is taken away; and it
            # decodes what a command prints with errors ignored, so the pipes are read raw.
            for name in local.env.keys() - {"PATH"}:
                del local.env[name]
            command = local[self.program][[*arguments, *flags]]
            process: subprocess.Popen[bytes] = command.popen(  # type: ignore[assignment]
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self.environment),
                new_session=True,  # Ctrl-C comes to us alone, and end() passes it on
                pass_fds=(tied,),
            )
            bind_group(tied, process.pid)
        except (CommandNotFound, OSError) as error:
            raise KontextError(f"{self.program} cannot be run: {error}", hint=_GET_CRANE) from error
        return process

    def _failure(self, running: Running) -> RegistryError:
        """What a crane that has ended badly said."""
        running.taking.join()
        messages = running.messages.decode("utf-8", "replace")
        self.trace(f"crane ended with {running.process.returncode}:\n{messages.rstrip()}")
        return explain(messages, running.arguments, self.environment)


def locate_crane() -> str:
    """crane from KONTEXT_CRANE, beside this Python, or on PATH. Raises KontextError."""
    beside = os.path.join(os.path.dirname(sys.executable), "crane")
    program = (
        os.environ.get("KONTEXT_CRANE")
        or (beside if os.access(beside, os.X_OK) else None)
        or shutil.which("crane")
    )
    if program is None:
        raise KontextError("crane was not found", hint=_GET_CRANE)
    return program
