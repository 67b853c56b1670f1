"""The registry, through the public `crane` binary: `Crane` has one method for each verb.

Nothing else in Kontext speaks to a registry. Results are typed, and what crane prints when it fails
becomes a RegistryError with a hint. crane reads docker's config.json and runs its credential
helpers; `crane_driver/credentials.py` passes other sources on to it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from kontext_plugin.crane_driver.errors import BlobMissing, RegistryError
from kontext_plugin.crane_driver.process import CraneRunner, discard, locate_crane
from kontext_plugin.crane_driver.watchdog import UploadProgress, pushed_blobs
from kontext_plugin.image.oci import Digest, parse_digest
from kontext_plugin.runtime.workers import thread_pool

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from typing_extensions import Self

_REQUESTS = 6
"""Requests at the same time, as many as crane itself makes."""

_MAX_LINE = 1000
"""Bytes of a line with a tag, which has at most 128."""

IDENTITY_TOKEN = "<token>"
"""What credential helpers print in place of a user if the secret is an identity token."""


@contextlib.contextmanager
def connect(
    debug: Callable[[str], None], *, insecure: bool, timeout: float
) -> Iterator[tuple[Crane, ThreadPoolExecutor]]:
    """Yield crane, and a pool of threads for requests; neither does anything after the block.

    A job on the pool makes one request with crane, and never waits for another job: then no pool
    can wait for itself. Work that waits for requests needs a thread outside of the pool.

    `debug` takes crane's command lines and failures. `timeout` is in seconds without progress, 0
    for none. Raises KontextError.
    """
    program = locate_crane()
    crane = Crane(
        CraneRunner(program, insecure=insecure, debug=debug, timeout=timeout, needs_version=True)
    )
    with thread_pool(_REQUESTS) as requests, crane:
        yield crane, requests


def find_crane(
    *, insecure: bool = False, debug: Callable[[str], None] = discard, timeout: float = 0
) -> Crane:
    """Return the crane of this machine, of any version; see CraneRunner.

    Raises KontextError if it has none.
    """
    return Crane(CraneRunner(locate_crane(), insecure=insecure, debug=debug, timeout=timeout))


@dataclass(frozen=True)
class Published:
    """An image as crane has published it."""

    digest: Digest
    uploaded: frozenset[Digest]  # the blobs that the registry did not have before


@dataclass(frozen=True)
class Credentials:
    """A login at a registry."""

    user: str  # or IDENTITY_TOKEN
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Crane:
    """crane's verbs. A name is that of an image or blob, with its registry and tag or digest.

    As a context manager it ends all cranes that still run when the block ends.
    """

    runner: CraneRunner

    def __enter__(self) -> Self:
        self.runner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.runner.__exit__(*error)

    @property
    def program(self) -> str:
        """The path of the crane binary."""
        return self.runner.program

    def manifest(self, name: str) -> bytes:
        """Return the manifest under a name, byte for byte as the registry stores it.

        Raises NotFound, Refused, or another RegistryError.
        """
        return self.runner.document("manifest", name)

    def config(self, name: str) -> bytes:
        """Return an image's configuration, as the registry stores it. Raises RegistryError."""
        return self.runner.document("config", name)

    def digest(self, name: str, platform: str = "", *, timeout: float | None = None) -> Digest:
        """Return the digest under a name.

        If the name is an index, a platform selects the image in it. `timeout`, in seconds, replaces
        the one of this crane. Raises RegistryError.
        """
        flags = ["--platform", platform] if platform else []
        output, _ = self.runner.run("digest", *flags, name, timeout=timeout)
        return _parse_printed_digest(output, name)

    @contextlib.contextmanager
    def blob(self, name: str, *, whole: bool = False) -> Iterator[IO[bytes]]:
        """Yield a blob as a stream, which the block may leave before its end unless `whole`.

        crane compares the digest only at the end of the stream: a block that leaves earlier must
        check in another way what it has read. Raises RegistryError, also in place of an error in
        reading a stream that crane has cut off.
        """
        with self.runner.stream("blob", name, whole=whole) as stream:
            yield stream

    @contextlib.contextmanager
    def export(self, name: str, *, whole: bool = False) -> Iterator[IO[bytes]]:
        """Yield an image's file system as a tar stream, the entries of its top layer first.

        The block may leave it before its end unless it wants the `whole` stream. crane compares a
        layer's digest only at the end of the layer. Raises RegistryError as `blob` does.
        """
        with self.runner.stream("export", name, whole=whole) as stream:
            yield stream

    def push_layout(
        self,
        layout: str,
        name: str,
        *,
        is_index: bool = False,
        progress: UploadProgress | None = None,
    ) -> Published:
        """Publish the image of an OCI layout, or its index, under a tag or by its digest.

        crane uploads the blobs that the registry lacks, and writes the name with its last request:
        a tag never shows half a push. Raises NotFound if the registry lacks a blob that the layout
        does not have, or another RegistryError.
        """
        flags = ["--index"] if is_index else []
        output, messages = self.runner.run("push", *flags, layout, name, progress=progress)
        return Published(_parse_printed_digest(output, name), pushed_blobs(messages))

    def check_upload(self, layout: str, name: str) -> None:
        """Ask the registry to begin an upload, and send nothing. Raises RegistryError.

        `layout` has an image whose layer is neither in it nor in any registry. crane opens the
        layer's file only when the registry has said where to upload it.
        """
        with contextlib.suppress(BlobMissing):
            self.runner.run("push", layout, name)

    def tag(self, image: str, tag: str) -> None:
        """Add a tag, given without its repository, to an image. Raises RegistryError."""
        self.runner.run("tag", image, tag)

    def bring(
        self, image: str, repository: str, annotations: Mapping[str, str]
    ) -> frozenset[Digest]:
        """Bring the layers of an image into a repository: mounted, or copied from elsewhere.

        Returns the blobs that were copied, through this machine. crane sends nothing where the very
        manifest is in the repository, even if its blobs are lost. So the caller adds annotations
        that no earlier call had. Raises RegistryError.
        """
        _, messages = self.runner.run(
            "mutate", image, "--repo", repository, *_pairs("--annotation", annotations)
        )
        return pushed_blobs(messages)

    def version(self) -> str:
        """Return crane's own version. Raises KontextError if crane cannot be run."""
        return self.runner.version()

    def credentials(self, name: str, *, limit: float | None = None) -> Credentials | None:
        """Return the login that crane uses for `HOST/PATH`, or for a `HOST`, if there is one.

        With a `limit`, in seconds, a helper has only that time, even if it asks a person.
        Raises RegistryError.
        """
        registry = name.partition("/")[0]
        asking = self.runner.start(
            *("auth", "get", registry), repository=name, timeout=limit, is_check=limit is not None
        )
        with asking as running:
            output = running.stdout.read()
            if running.process.wait():
                if output.startswith(b"credentials not found"):
                    return None
                raise self.runner.failure(running)
        login = json.loads(output)
        return Credentials(login.get("Username", ""), login.get("Secret", ""))

    def check_catalog(self, registry: str) -> None:
        """Ask a registry for the names of its repositories. Raises RegistryError if it refuses."""
        with contextlib.suppress(EOFError), self.runner.stream("catalog", registry) as stream:
            if not stream.read(1):  # the first byte is enough: there may be thousands of pages
                raise EOFError  # has crane failed, or are there no repositories? stream() knows

    def tags(self, repository: str) -> Iterator[str]:
        """Yield the tags of a repository as they come, page by page. Raises RegistryError."""
        with self.runner.stream("ls", repository, whole=True) as stream:
            while line := stream.readline(_MAX_LINE):
                yield line.decode("utf-8", "replace").rstrip("\n")


def _parse_printed_digest(output: bytes, name: str) -> Digest:
    try:
        return parse_digest(output.decode("ascii", "replace").strip().rpartition("@")[2])
    except ValueError as error:
        raise RegistryError(f"{name}: crane printed no digest") from error


def _csv(values: Sequence[str]) -> str:
    """Return one CSV record: pflag splits the values of its string lists at commas."""
    record = io.StringIO()
    csv.writer(record, quoting=csv.QUOTE_ALL, lineterminator="").writerow(values)
    return record.getvalue()


def _pairs(flag: str, values: Mapping[str, str]) -> list[str]:
    """Return a flag with all its pairs as one value.

    pflag parses a value as CSV only if it holds two `=`. With one `=` it strips the quotes, so a
    single pair is given twice.
    """
    pairs = [f"{key}={value}" for key, value in sorted(values.items())]
    return [flag, _csv(pairs if len(pairs) > 1 else pairs * 2)] if pairs else []
