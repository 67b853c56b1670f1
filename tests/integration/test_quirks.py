"""The proxy with quirks behaves as the registries that it imitates. crane is its user here."""

from __future__ import annotations

import http.client
import io
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.quirks import DENIED, IMMUTABLE, Quirks, QuirkyRegistry, serve_quirks
from support.registry_servers import CraneRegistry

Run = Callable[..., subprocess.CompletedProcess[str]]

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Clock:
    """A time that only a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CraneRegistry]:
    with CraneRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quirky(
    server: CraneRegistry, clock: Clock, request: pytest.FixtureRequest
) -> Iterator[QuirkyRegistry]:
    with serve_quirks(server.host, request.param, clock) as quirky:
        yield quirky


@pytest.fixture
def repository(quirky: QuirkyRegistry, server: CraneRegistry) -> str:
    return f"{quirky.host}/{server.repository()}"


@pytest.fixture
def crane(crane_path: str) -> Run:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([crane_path, *arguments], capture_output=True, text=True)

    return run


@pytest.fixture
def append(crane: Run, tmp_path: Path) -> Callable[[str, str], str]:
    """Push an image whose only file has this content, and return its digest, or the error."""

    def append(tag: str, content: str) -> str:
        path = tmp_path / f"{content}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo("file")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
        done = crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
        found = DIGEST.search(done.stdout)
        return found.group() if found else done.stderr

    return append


Append = Callable[[str, str], str]


def quirk(quirks: Quirks) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("quirky", [quirks], indirect=True)


@quirk(Quirks(lag=1))
def test_a_manifest_is_there_some_time_after_its_put(
    clock: Clock, crane: Run, append: Append, repository: str
) -> None:
    digest = append(f"{repository}:v1", "first")
    names = [f"{repository}:v1", f"{repository}@{digest}"]
    for name in names:
        assert "MANIFEST_UNKNOWN" in crane("manifest", name).stderr
    clock.now = 1
    for name in names:
        assert crane("digest", name).stdout.strip() == digest
    # A tag that is written again is gone again, and its former image is there.
    append(f"{repository}:v1", "second")
    found = [crane("manifest", name).returncode for name in names]
    assert found == [1, 0]


@quirk(Quirks(tag_lag=3))
def test_a_tag_shows_its_former_image_for_some_time(
    clock: Clock, crane: Run, append: Append, repository: str
) -> None:
    tag = f"{repository}:v1"
    first = append(tag, "first")
    assert crane("digest", tag).stdout.strip() == first, "there is no former one"
    second = append(tag, "second")
    assert crane("digest", tag).stdout.strip() == first
    assert crane("digest", f"{repository}@{second}").stdout.strip() == second
    clock.now = 3
    assert crane("digest", tag).stdout.strip() == second


@pytest.mark.parametrize(
    ("quirky", "status", "words"),
    [
        (Quirks(immutable=True), 400, IMMUTABLE),
        (Quirks(denied=True), 403, DENIED),
        (Quirks(denied=True, denied_status=409), 409, DENIED),
    ],
    indirect=["quirky"],
    ids=["immutable", "denied", "denied with 409"],
)
def test_a_tag_is_written_once(
    quirky: QuirkyRegistry, status: int, words: str, append: Append, repository: str
) -> None:
    first = append(f"{repository}:v1", "first")
    assert DIGEST.fullmatch(first)
    assert words in append(f"{repository}:v1", "second")
    assert DIGEST.fullmatch(append(f"{repository}:v2", "second"))
    host, _, path = repository.partition("/")
    with closing(http.client.HTTPConnection(host)) as connection:
        url = f"/v2/{path}/manifests/v1"
        connection.request("GET", url)
        response = connection.getresponse()
        content = response.read()
        kind = response.getheader("Content-Type") or ""
        connection.request("PUT", url, content, {"Content-Type": kind})
        again = connection.getresponse()
        assert (again.status, words in again.read().decode()) == (status, True), "the same image"


@quirk(Quirks(no_digest=True))
def test_no_answer_has_a_digest(
    crane: Run, append: Append, repository: str, server: CraneRegistry
) -> None:
    append(f"{repository}:v1", "first")
    host, _, path = repository.partition("/")
    for method in ("GET", "HEAD"):
        with closing(http.client.HTTPConnection(host)) as connection:
            connection.request(method, f"/v2/{path}/manifests/v1")
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Docker-Content-Digest")) == (200, None)
    assert "did not include Docker-Content-Digest" in crane("digest", f"{repository}:v1").stderr


@quirk(Quirks())
def test_requests_are_counted(quirky: QuirkyRegistry, append: Append, repository: str) -> None:
    append(f"{repository}:v1", "of this test")  # crane's registry has one store of blobs
    assert quirky.count("PUT", r"/manifests/v1$") == 1
    assert quirky.count("POST", r"/blobs/uploads/") == 2, "the configuration and the layer"
    assert quirky.count() == len(quirky.requests()) > 3
    quirky.reset()
    assert quirky.count() == 0
