"""The registry, as every command asks it: through crane, and several things at a time.

The only door to the registry: the public `crane` binary.

One function a verb, with typed results; crane's error texts become errors with a hint. crane reads
docker's own config.json, its credential helpers included, and asks for nothing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.crane_driver.process import Runner, locate_crane
from kontext_plugin.crane_driver.watchdog import PUSHED, Transfer
from kontext_plugin.image.oci import Digest, parse_digest
from kontext_plugin.terminal.messages import Report

_REQUESTS = 6
"""At once, as crane itself does at most."""


@contextmanager
def connect(
    report: Report, *, insecure: bool, timeout: float
) -> Iterator[tuple[Crane, ThreadPoolExecutor]]:
    """crane, and threads that wait for it and write the cache: none goes on after the block.

    `timeout` is in seconds without progress; 0: none. Raises KontextError.
    """
    registry = find_crane(insecure, report.debug, timeout)
    with _idle_threads() as threads, registry:
        yield registry, threads


@contextmanager
def _idle_threads() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(_REQUESTS)
    try:
        yield threads
    except BaseException:
        # Whoever waits ends with the process.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()


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
class Crane(Runner):
    """The verbs. As a context it ends whatever is still running."""

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
        with self._start("auth", "get", registry) as running:
            output = running.output.read()
            if running.process.wait():
                if output.startswith(b"credentials not found"):
                    return None
                raise self._failure(running)
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


def find_crane(
    insecure: bool = False,
    trace: Callable[[str], None] = lambda line: None,
    timeout: float = 0,
) -> Crane:
    """The crane that this machine has. Raises KontextError where it has none."""
    return Crane(locate_crane(), insecure=insecure, trace=trace, timeout=timeout)


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
