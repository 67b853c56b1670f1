"""The only door to the registry: the public `crane` binary, driven through plumbum.

One function a verb, with typed results; crane's error texts become errors with a hint. crane reads
docker's own config.json, its credential helpers included, and asks for nothing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from kontext_plugin import proc, stall
from kontext_plugin.crane_errors import RegistryError, explain, no_answer
from kontext_plugin.ending import GRACE, bind, end, tether
from kontext_plugin.environment import of_helpers
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Digest, parse_digest
from kontext_plugin.pipes import drained
from kontext_plugin.transfer import PUSHED, Transfer

TIMEOUT = 60.0
"""Seconds without progress: what proxies commonly wait for a server."""

_QUESTIONS = frozenset({"manifest", "config", "digest", "tag", "version"})
"""Short however slow the line is: limited as a whole where progress cannot be seen."""

_MAX_DOCUMENT = 8 * 1024 * 1024
"""Bytes; registries must take 4 MiB (distribution specification, "Pushing manifests")."""

_MAX_MESSAGES = 256 * 1024
"""Bytes: crane says a hundred a layer, and all that a registry answered where it refused."""


@dataclass(frozen=True)
class Published:
    digest: Digest
    uploaded: frozenset[Digest]  # the blobs that were not in the registry before


IDENTITY_TOKEN = "<token>"
"""In a user's place, as credential helpers have it."""


@dataclass(frozen=True)
class Credentials:
    user: str  # or IDENTITY_TOKEN, where the secret is one
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Crane:
    """A crane binary and how to run it. As a context it ends whatever is still running."""

    program: str
    insecure: bool = False  # http, or a certificate that nobody vouches for
    environment: Mapping[str, str] = field(default_factory=lambda: of_helpers(os.environ))
    trace: Callable[[str], None] = lambda line: None
    timeout: float = 0  # seconds without progress after which crane is ended; 0: never
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)
    _left: threading.Event = field(default_factory=threading.Event, compare=False)

    def __enter__(self) -> Crane:
        self._left.clear()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._left.set()
            running = tuple(self._running)
        for process in running:
            end(process)

    def manifest(self, name: str) -> bytes:
        """The manifest document under a tag or digest, byte for byte as it is stored.

        Raises NotFound, Refused, or another RegistryError.
        """
        return self._document("manifest", name)

    def config(self, name: str) -> bytes:
        """The image configuration, as it is stored. Raises RegistryError."""
        return self._document("config", name)

    def digest(self, name: str, platform: str = "") -> Digest:
        """The digest under a name; with a platform that of its image, out of an index too.

        Raises RegistryError.
        """
        flags = ["--platform", platform] if platform else []
        return self._printed_digest(self._run("digest", *flags, name)[0], name)

    @contextlib.contextmanager
    def blob(self, name: str) -> Iterator[IO[bytes]]:
        """A blob as a stream that may be left early.

        crane checks the digest only at its end: check by other means what is read before.
        Raises RegistryError, in place of any error in reading a stream that crane broke off.
        """
        with self._stream("blob", name) as stream:
            yield stream

    @contextlib.contextmanager
    def export(self, name: str, *, whole: bool = False) -> Iterator[IO[bytes]]:
        """An image's file system as a tar stream, the entries of its top layer first.

        It may be left early if it is not wanted as a `whole`. crane checks a layer's digest only
        at the layer's end. Raises RegistryError as `blob` does.
        """
        with self._stream("export", name, whole=whole) as stream:
            yield stream

    def push_layout(self, layout: str, name: str, transfer: Transfer | None = None) -> Published:
        """Puts an OCI layout of one image under a digest, without any tag."""
        return self._publish(transfer, name, "push", layout, name)

    def append(
        self,
        base: str,
        layers: Sequence[str],
        tag: str,
        *,
        labels: Mapping[str, str],
        annotations: Mapping[str, str],
        entrypoint: str,
        workdir: str,
        transfer: Transfer | None = None,
    ) -> Published:
        """Appends gzip layers to the image `base` and publishes the result under `tag`.

        The tag is written by the very last request: it never shows half a push.
        """
        arguments = ["mutate", base, "--tag", tag]
        for layer in layers:
            arguments += ["--append", _csv([layer])]
        arguments += _pairs("--label", labels) + _pairs("--annotation", annotations)
        arguments += ["--entrypoint", _csv([entrypoint]), "--workdir", workdir]
        return self._publish(transfer, tag, *arguments)

    def tag(self, image: str, tag: str) -> None:
        """Adds a tag, without its repository, to an image of the same repository."""
        self._run("tag", image, tag)

    def copy(self, image: str, name: str) -> None:
        """Puts an image under a name in another repository or registry."""
        self._run("copy", image, name)

    def version(self) -> str:
        """crane's own. Raises KontextError where it cannot be run."""
        return self._run("version")[0].decode("utf-8", "replace").strip()

    def credentials(self, registry: str) -> Credentials | None:
        """What docker's configuration and helpers have for a registry: the one place where Kontext
        sees a secret. Raises RegistryError."""
        arguments = ("auth", "get", registry)
        with self._process(arguments) as process:
            output, messages = process.communicate()
            if process.returncode and output.startswith(b"credentials not found"):
                return None
            if process.returncode:
                text = messages.decode("utf-8", "replace")
                raise self._failed(arguments, process.returncode, text)
        found = json.loads(output)
        return Credentials(found.get("Username", ""), found.get("Secret", ""))

    def show_catalog(self, registry: str) -> None:
        """Asks a registry for the names of its repositories. Raises RegistryError."""
        with contextlib.suppress(EOFError), self._stream("catalog", registry) as stream:
            if not stream.read(1):  # there may be thousands of pages, and the first one will do
                raise EOFError  # _stream knows whether there are none, or crane has failed

    def tags(self, repository: str) -> Iterator[str]:
        """The tags of a repository, as the registry lists them. Raises RegistryError."""
        for line in self._document("ls", repository).splitlines():
            yield line.decode("utf-8", "replace")

    def _publish(self, transfer: Transfer | None, name: str, *arguments: str) -> Published:
        output, messages = self._run(*arguments, transfer=transfer)
        uploaded = frozenset(Digest(digest.decode()) for digest in PUSHED.findall(messages))
        return Published(self._printed_digest(output, name), uploaded)

    def _printed_digest(self, output: bytes, name: str) -> Digest:
        try:
            return parse_digest(output.decode("ascii", "replace").strip().rpartition("@")[2])
        except ValueError as error:
            raise RegistryError(f"{name}: crane printed no digest") from error

    def _run(self, *arguments: str, transfer: Transfer | None = None) -> tuple[bytes, bytearray]:
        """One crane, start to end: (stdout, stderr). Raises RegistryError where it fails."""
        with self._process(arguments) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            aside, messages = drained(process.stderr, _MAX_MESSAGES)
            if transfer:
                transfer.follow(process.pid, messages)
            output = process.stdout.read()
            aside.join()
            if code := process.wait():
                raise self._failed(arguments, code, messages.decode("utf-8", "replace"))
        return output, messages

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
        with self._process(arguments) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            aside, messages = drained(process.stderr, _MAX_MESSAGES)

            def failed() -> RegistryError:
                aside.join()
                text = messages.decode("utf-8", "replace")
                return self._failed(arguments, process.returncode, text)

            try:
                yield process.stdout
            except (OSError, ValueError, EOFError) as error:
                # The reader stumbled: over what crane broke off, or over the content itself?
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if process.wait(GRACE):
                        raise failed() from error
                raise
            process.stdout.close()  # ends a crane that has more to say (SIGPIPE)
            if whole and process.wait():
                raise failed()

    @contextlib.contextmanager
    def _process(self, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A running crane that does not outlive the block, whatever ends it."""
        with tether() as tied:
            with self._lock:
                if self._left.is_set():
                    raise KontextError("the push has ended")
                process = self._start(arguments, tied)
                self._running.add(process)
            try:
                with self._limited(process, arguments):
                    yield process
            finally:
                end(process)
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
        shown = proc.is_visible(process.pid) or arguments[0] in _QUESTIONS
        limit = self.timeout if shown else 0
        with stall.limited(process, limit, lambda: end(process)) as silent:
            try:
                yield
            except RegistryError as error:
                if silent.is_set():
                    raise no_answer(arguments, limit) from error
                raise

    def _start(self, arguments: Sequence[str], tied: int) -> subprocess.Popen[bytes]:
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
            bind(tied, process.pid)
        except (CommandNotFound, OSError) as error:
            raise KontextError(f"{self.program} cannot be run: {error}", hint=_GET_CRANE) from error
        return process

    def _failed(self, arguments: Sequence[str], code: int, messages: str) -> RegistryError:
        self.trace(f"crane ended with {code}:\n{messages.rstrip()}")
        return explain(messages, arguments, self.environment)


_GET_CRANE = (
    "Kontext needs crane v0.21.9 or later on PATH, or its path in KONTEXT_CRANE. "
    "Get it with scripts/install-crane, or from github.com/google/go-containerregistry."
)


def find(
    insecure: bool = False,
    trace: Callable[[str], None] = lambda line: None,
    timeout: float = TIMEOUT,
) -> Crane:
    """crane from KONTEXT_CRANE, beside this Python, or on PATH. Raises KontextError."""
    beside = os.path.join(os.path.dirname(sys.executable), "crane")
    program = (
        os.environ.get("KONTEXT_CRANE")
        or (beside if os.access(beside, os.X_OK) else None)
        or shutil.which("crane")
    )
    if program is None:
        raise KontextError("crane was not found", hint=_GET_CRANE)
    return Crane(program, insecure=insecure, trace=trace, timeout=timeout)


def _csv(values: Sequence[str]) -> str:
    """One record for pflag's string lists, which split at commas."""
    record = io.StringIO()
    csv.writer(record, quoting=csv.QUOTE_ALL, lineterminator="").writerow(values)
    return record.getvalue()


def _pairs(flag: str, values: Mapping[str, str]) -> list[str]:
    """A flag that gives all pairs at once. pflag parses a value as CSV only if it holds two `=`;
    with one it strips quotes, so a lone pair is said twice."""
    pairs = [f"{key}={value}" for key, value in sorted(values.items())]
    return [flag, _csv(pairs if len(pairs) > 1 else pairs * 2)] if pairs else []
