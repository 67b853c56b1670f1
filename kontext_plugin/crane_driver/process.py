"""Run crane: start it, read what it prints, watch it, and end it.

`CraneRunner` runs the binary; `kontext_plugin/crane.py` knows its verbs. Below it stand the parts
that it is made of: `terminate_group`, which ends a process and its children, `tether`, which lets
the kernel do so when Kontext is killed, and `drain`, which reads a pipe in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from kontext_plugin.crane_driver import watchdog
from kontext_plugin.crane_driver.credentials import (
    CredentialSource,
    crane_credentials,
    helpers_of,
)
from kontext_plugin.crane_driver.errors import (
    Busy,
    Machine,
    RegistryError,
    Unreadable,
    explain,
    no_answer,
    repositories_of,
)
from kontext_plugin.crane_driver.network import authorities, proxy_of, trust_authorities
from kontext_plugin.crane_driver.watchdog import Stall, UploadProgress
from kontext_plugin.errors import KontextError, brief
from kontext_plugin.runtime.docker_config import data_directory
from kontext_plugin.runtime.environment import crane_environment
from kontext_plugin.runtime.imports import skip_processor, without
from kontext_plugin.runtime.workers import thread_pool
from kontext_plugin.terminal.messages import show
from kontext_plugin.terminal.text import line_safe

if TYPE_CHECKING:
    from io import BufferedReader

    from typing_extensions import Self


MINIMUM_VERSION = (0, 21, 9)
"""The first crane that can be used: `crane export` of v0.21.8 is broken."""

_REQUIRED = f"v{'.'.join(map(str, MINIMUM_VERSION))} or later"

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(-\S+)?")

_GET_CRANE = f"Run 'docker kontext install' to get crane {_REQUIRED}, or name one in KONTEXT_CRANE."

_QUESTIONS = frozenset({"manifest", "config", "digest", "tag", "version"})
"""Verbs that take little time on any line. If their progress is invisible, the timeout is for all
of their run."""

_MAX_DOCUMENT = 8 * 1024 * 1024
"""Bytes. Registries must accept 4 MiB (distribution specification, "Pushing manifests")."""

_MAX_MESSAGES = 256 * 1024
"""Bytes. crane prints some hundred bytes a layer, and all that a registry answers to a refused
request."""

_CHUNK = 65536  # bytes

_GRACE = 0.5
"""Seconds in which an interrupted process may end before it is killed."""


# Seconds between the repetitions of a verb that a registry refuses for now. crane does not show
# how long the registry asks to wait.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0

_HELPER_PATIENCE = 2.0
"""Seconds that a credential helper may take before a message says that crane waits for it."""


def locate_crane() -> str:
    """Return the path of crane. The places are in the order of how few they serve.

    1. KONTEXT_CRANE: this process
    2. beside this Python: this environment, for example a checkout's
    3. where `install` puts it: this user. Its version was checked; that of PATH may be too old
    4. PATH: this machine

    Raises KontextError if there is none.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "crane")
    program = os.environ.get("KONTEXT_CRANE")
    for candidate in (beside, installed_crane(), "crane"):
        program = program or (candidate and shutil.which(candidate))
    if not program:
        raise KontextError("crane was not found", hint=_GET_CRANE)
    return program


def installed_crane() -> str | None:
    """Return where `install` puts crane, whether or not it is there; None without a home."""
    directory = data_directory()
    return os.path.join(directory, "crane") if directory else None


@dataclass(frozen=True)
class VersionProblem:
    """Why a crane should not be used."""

    message: str
    hint: str
    is_fatal: bool  # it is too old; else its version is unknown


def check_version(version: str, program: str) -> VersionProblem | None:
    """Return what is wrong with the version that `crane version` prints, if anything is."""
    shown = line_safe(brief(version)) or "nothing"
    match = _VERSION.fullmatch(version)
    if not match:
        return VersionProblem(
            f"the version of crane is unknown: {program} prints {shown}",
            _GET_CRANE,
            is_fatal=False,
        )
    numbers = tuple(map(int, match.group(1, 2, 3)))
    # v0.21.9-rc.1 comes before v0.21.9.
    if numbers < MINIMUM_VERSION or (numbers == MINIMUM_VERSION and match[4]):
        return VersionProblem(
            f"crane {shown} is too old: {program}",
            _GET_CRANE,
            is_fatal=True,
        )
    return None


_BUFFER = 64 * 1024
"""Bytes of a stream that are read at a time: what a pipe holds on Linux."""


def discard(line: str) -> None:
    """Write a debug line nowhere."""


@dataclass(frozen=True)
class RunningCrane:
    """A crane that runs. The caller reads its stdout; a thread reads its stderr."""

    arguments: Sequence[str]
    process: subprocess.Popen[bytes]
    stdout: IO[bytes]
    messages: bytearray  # what has come on stderr so far, at most _MAX_MESSAGES
    reader: threading.Thread  # of stderr; it ends with that
    timeout: float  # seconds
    stalled: Stall  # set if the watchdog has ended crane
    sources: Mapping[str, CredentialSource]  # of its credentials, by `HOST/PATH` or `HOST`


class _Patience:
    """The time in which one verb may be repeated: `seconds`, 0 for ever."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds if seconds else math.inf
        self._pause = _FIRST_PAUSE

    def next_pause(self) -> float | None:
        """Return the seconds to wait, longer each time; None if the time is over."""
        left = self._end - time.monotonic()
        if left <= 0:
            return None
        pause, self._pause = min(self._pause, left), min(2 * self._pause, _LONGEST_PAUSE)
        return pause


_good_programs: set[tuple[int, int, int, int]] = set()
"""Cranes whose version this process has checked: a watch makes a runner for each push."""


def _identity_of(program: str) -> tuple[int, int, int, int] | None:
    """Return what tells a file from another one, and from itself after a change."""
    try:
        status = os.stat(program)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class CraneRunner:
    """A crane binary, and how to run it. Any thread may use it.

    As a context manager it ends all cranes that still run when the block ends. `timeout` is in
    seconds without progress, 0 for none. `debug` takes each command line and each failure. With
    `needs_version`, a crane that is too old fails at its first verb.
    """

    def __init__(
        self,
        program: str,
        *,
        insecure: bool = False,
        debug: Callable[[str], None] = discard,
        timeout: float = 0,
        needs_version: bool = False,
    ) -> None:
        self.program = program
        self.insecure = insecure  # allows plain HTTP and unknown certificates
        self.debug = debug
        self.timeout = timeout
        self._environment = crane_environment(os.environ)
        self._has_told = False  # that it waits for a helper
        self._has_told_busy = False  # that it waits for a registry that is busy
        self._ended = threading.Event()
        self._version_lock = threading.Lock()  # for the one below
        self._is_version_checked = not needs_version
        self._lock = threading.Lock()  # for the two below
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def __enter__(self) -> Self:
        with self._lock:
            self._closed = False
        self._ended.clear()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            running = tuple(self._running)
        self._ended.set()
        for process in running:
            terminate_group(process)

    def run(
        self,
        *arguments: str,
        progress: UploadProgress | None = None,
        timeout: float | None = None,
    ) -> tuple[bytes, bytearray]:
        """Run crane to its end, and return its stdout and its stderr.

        Raises RegistryError if crane fails. `timeout` replaces the runner's own.
        """
        patience = _Patience(self.timeout if timeout is None else timeout)
        messages = bytearray()
        while True:
            with self.start(*arguments, timeout=timeout) as running:
                if progress:
                    progress.follow(running.process.pid, running.messages)
                output = running.stdout.read()
                running.reader.join()
                messages += running.messages
                try:
                    self._check(running)
                except Busy as error:
                    if not self._waits(patience, error):
                        raise
                else:
                    return output, messages

    def document(self, *arguments: str) -> bytes:
        """Return the small document that crane prints. Raises RegistryError."""
        with self.stream(*arguments, whole=True) as stream:
            content = stream.read(_MAX_DOCUMENT + 1)
            if len(content) > _MAX_DOCUMENT:
                raise Unreadable(
                    f"{arguments[-1]}: the registry's answer is larger than {_MAX_DOCUMENT} bytes"
                )
        if not content:
            raise Unreadable(f"{arguments[-1]}: the registry's answer is empty")
        return content

    @contextlib.contextmanager
    def stream(self, *arguments: str, whole: bool = False) -> Iterator[IO[bytes]]:
        """Yield crane's stdout, from its first bytes on. A reader that stops early ends crane.

        Raises RegistryError if crane fails while the block reads; if the block reads the `whole`
        stream, also for a failure after its last byte.
        """
        patience = _Patience(self.timeout)
        while True:
            with self.start(*arguments) as running:
                if self._waits_for_first_bytes(running, patience):
                    continue
                try:
                    yield running.stdout
                except (OSError, ValueError, EOFError) as error:
                    # Either crane has failed and the stream is cut, or the content itself is bad.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        if running.process.wait(_GRACE):
                            raise self.failure(running) from error
                    raise
                running.stdout.close()  # SIGPIPE ends a crane that would write more
                if whole:
                    self._check(running)
                return

    @contextlib.contextmanager
    def start(
        self,
        *arguments: str,
        timeout: float | None = None,
        repository: str = "",
        is_check: bool = False,
    ) -> Iterator[RunningCrane]:
        """Start crane, and yield it. It has ended after the block. Raises KontextError.

        A verb that is given a registry uses the credentials of the `repository`, if there is one.
        With `is_check` the timeout holds for a credential helper even if a person could answer it.
        """
        with (
            self._with_version(arguments[0]),
            self._started(arguments, timeout, repository, is_check=is_check) as running,
        ):
            yield running

    @contextlib.contextmanager
    def _started(
        self,
        arguments: Sequence[str],
        timeout: float | None,
        repository: str,
        *,
        is_check: bool,
    ) -> Iterator[RunningCrane]:
        credentials = crane_credentials(
            self._environment,
            [repository] if repository else repositories_of(arguments),
            by_registry=bool(repository),
        )
        hosts = (name.partition("/")[0] for name in repositories_of(arguments))
        with (
            credentials as (passed, sources),
            trust_authorities(passed, hosts) as environment,
            tether() as tied,
        ):
            process = self._launch(arguments, environment, tied)
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                limit = self._limit(process.pid, arguments, timeout)
                watching = watchdog.watch(
                    process,
                    limit,
                    lambda: terminate_group(process),
                    allows_child=watchdog.has_person() and not is_check,
                )
                with watching as stalled, self._telling(process, sources):
                    reader, messages = drain(process.stderr, _MAX_MESSAGES)
                    yield RunningCrane(
                        arguments,
                        process,
                        process.stdout,
                        messages,
                        reader,
                        limit,
                        stalled,
                        sources,
                    )
            finally:
                terminate_group(process)
                # Not before: a thread that still reads a pipe would read another file in its place.
                for pipe in (process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
                with self._lock:
                    self._running.discard(process)

    def version(self) -> str:
        """Return what `crane version` prints. Raises KontextError if crane cannot be run."""
        return self.run("version")[0].decode("utf-8", "replace").strip()

    @contextlib.contextmanager
    def _with_version(self, verb: str) -> Iterator[None]:
        """Check crane's version: before a verb, or while it answers a question, which takes longer.

        Raises KontextError if it is too old, in place of what that crane has said.
        """
        if self._is_version_checked or verb == "version":
            yield
            return
        if verb not in _QUESTIONS:
            self._check_version()
            yield
            return
        with thread_pool(1) as threads:
            check = threads.submit(self._check_version)
            try:
                yield
            except RegistryError:
                check.result()
                raise
            check.result()

    def _check_version(self) -> None:
        with self._version_lock:
            identity = _identity_of(self.program)
            if self._is_version_checked or identity in _good_programs:
                return
            problem = check_version(self.version(), self.program)
            self._is_version_checked = not (problem and problem.is_fatal)
            if identity and not problem:
                _good_programs.add(identity)
        if problem and problem.is_fatal:
            raise KontextError(problem.message, hint=problem.hint)
        if problem:
            show(problem.message, "warning", hint=problem.hint)

    def failure(self, running: RunningCrane) -> RegistryError:
        """Return the error of a crane that has failed."""
        running.reader.join()
        messages = running.messages.decode("utf-8", "replace")
        self.debug(f"crane ended with {running.process.returncode}:\n{messages.rstrip()}")
        return self._error(running, messages)

    def _error(self, running: RunningCrane, messages: str) -> RegistryError:
        machine = Machine(
            running.sources.get,
            lambda scheme, host: proxy_of(scheme, host, self._environment),
            authorities,
        )
        if running.stalled.is_set():
            helpers = helpers_of(running.sources) if running.stalled.in_child else ()
            return no_answer(running.arguments, running.timeout, helpers, machine)
        return explain(messages, running.arguments, machine)

    def _waits_for_first_bytes(self, running: RunningCrane, patience: _Patience) -> bool:
        """Wait until crane prints something; if the registry is busy, wait, and return True."""
        if cast("BufferedReader", running.stdout).peek(1) or not running.process.wait():
            return False
        running.reader.join()
        error = self._error(running, running.messages.decode("utf-8", "replace"))
        return isinstance(error, Busy) and self._waits(patience, error)

    def _waits(self, patience: _Patience, error: Busy) -> bool:
        """Wait before a verb is repeated. Return False if its time is over.

        crane itself repeats a request for four seconds, whatever Retry-After says. All verbs can be
        repeated: those that write put the same content under the same name.
        """
        pause = patience.next_pause()
        if pause is None:
            return False
        with self._lock:
            is_first, self._has_told_busy = not self._has_told_busy, True
        if is_first:
            show(f"{error.message}. Kontext waits, and tries again")
        self.debug(f"{error.message}: trying again in {pause:g} s")
        if self._ended.wait(pause):
            raise KontextError("the command has ended")
        return True

    @contextlib.contextmanager
    def _telling(
        self, process: subprocess.Popen[bytes], sources: Mapping[str, CredentialSource]
    ) -> Iterator[None]:
        """Tell once if a credential helper takes its time in the block: it may ask something."""
        helpers = helpers_of(sources)
        if not helpers:
            yield
            return

        def tell() -> None:
            with contextlib.suppress(OSError):
                if watchdog.has_child(process.pid) and not self._has_told:
                    self._has_told = True
                    show(f"Waiting for {' and '.join(helpers)}")

        timer = threading.Timer(_HELPER_PATIENCE, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _check(self, running: RunningCrane) -> None:
        if running.process.wait():
            raise self.failure(running)

    def _limit(self, pid: int, arguments: Sequence[str], timeout: float | None) -> float:
        if timeout is not None:
            return timeout
        if watchdog.is_visible(pid) or arguments[0] in _QUESTIONS:
            return self.timeout
        return 0

    def _launch(
        self, arguments: Sequence[str], environment: Mapping[str, str], tied: int
    ) -> subprocess.Popen[bytes]:
        with self._lock:  # so that __exit__ misses no process
            if self._closed:
                raise KontextError("the command has ended")
            process = self._popen(arguments, environment, tied)
            self._running.add(process)
            return process

    def _popen(
        self, arguments: Sequence[str], environment: Mapping[str, str], tied: int
    ) -> subprocess.Popen[bytes]:
        skip_processor()
        with without("urllib.request"):  # http, ssl and email take as long as the rest
            from plumbum import CommandNotFound, local  # 30 ms, only to run crane

        flags = ["--insecure"] if self.insecure else []
        self.debug(" ".join(["crane", *arguments]))
        try:
            # plumbum adds the environment that it found when it was imported: empty that. It also
            # drops bytes that are not text from what a command prints: read the pipes directly.
            for name in local.env.keys() - {"PATH"}:
                del local.env[name]
            command = local[self.program][[*arguments, *flags]]
            process: subprocess.Popen[bytes] = command.popen(  # type: ignore[assignment]
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=_BUFFER,
                env=dict(environment),
                new_session=True,  # a Ctrl-C reaches Kontext alone, which then ends crane
                pass_fds=(tied,),
            )
            bind_group(tied, process.pid)
        except (CommandNotFound, OSError) as error:
            raise KontextError(f"{self.program} cannot be run: {error}", hint=_GET_CRANE) from error
        return process


# --- End a process and its children ---


def terminate_group(process: subprocess.Popen[Any]) -> None:
    """End the leader of a session, and the credential helpers that it has started.

    Interrupts first, and kills after a grace period. A leader that has ended by itself leaves its
    children alone. May be called several times, and from any thread.
    """
    if process.poll() is None:
        _signal_group(process, signal.SIGINT)  # the only signal that crane handles
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    # A helper inherits crane's stderr: as long as it lives, that pipe does not end.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def tether() -> Iterator[int]:
    """Yield one end of a pipe for a child to inherit. The other end closes when Kontext ends.

    Nothing is ever written to it. With `bind_group` the kernel ends crane when Kontext is killed
    by SIGKILL, which no handler sees. Without it crane would end at its next line on stderr, and
    that may never come if the registry is silent. macOS has no such mechanism.
    """
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_RDONLY)  # a helper's background process may stay
        os.close(theirs)
        os.close(ours)


def bind_group(descriptor: int, group: int) -> None:
    """Have the kernel kill a process group, which has inherited the tether, when Kontext ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, -group)
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)


# --- Read a pipe ---


def drain(pipe: IO[bytes], most: int) -> tuple[threading.Thread, bytearray]:
    """Start a thread that reads a pipe until it ends or is closed; it keeps the first `most` bytes.

    Returns the thread, and the bytes, which grow as they come. A full pipe would stop the writer.
    """
    content = bytearray()

    def read() -> None:
        with contextlib.suppress(ValueError):  # the pipe is closed
            for chunk in iter(lambda: pipe.read(_CHUNK), b""):
                content.extend(chunk[: most - len(content)])

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, content
