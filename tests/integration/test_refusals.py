"""A push that the registry will not take says so before it compresses anything."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.machine import SHIM, Machine, new_machine
from support.proxy import (
    ALWAYS,
    Exchange,
    Fault,
    Proxy,
    Response,
    Rule,
    after,
    cut,
    passed,
    serve_proxy,
    silent,
    silent_after_all,
)
from support.quirks import IMMUTABLE, Quirks, serve_quirks
from support.registry_servers import CraneRegistry
from support.services import Registry, Result
from support.trees import File, plant

from kontext_plugin.errors import KontextError
from kontext_plugin.push.preflight import LARGE, check_room
from kontext_plugin.terminal.messages import Report

UPLOAD = ("POST", "/blobs/uploads/")

HOURS = 1 << 40
"""Bytes of a sparse file: only a push that never reads it ends within the test's time."""


def refused(status: int, code: str, message: str) -> Fault:
    def answer(exchange: Exchange) -> None:
        exchange.rfile.read(exchange.length)
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        exchange.answer(Response(status, {"Content-Type": "application/json"}, body))

    return answer


REFUSALS = {
    "no right to push": (
        refused(403, "DENIED", "permission_denied: write_package"),
        "refused access to {repository}: DENIED: permission_denied: write_package",
        "rights",
    ),
    "credentials needed to push": (
        refused(401, "UNAUTHORIZED", "authentication required"),
        "refused access to {repository}: UNAUTHORIZED: authentication required",
        "docker login {host}",
    ),
    "a repository to be created": (
        refused(404, "NAME_UNKNOWN", "The repository with name 'r' does not exist"),
        "does not accept {repository}: NAME_UNKNOWN: The repository with name 'r' does not exist",
        "create a repository",
    ),
    "quota": (
        refused(403, "DENIED", "will exceed the configured upper limit of 1.0 GiB"),
        "has no room for {repository}: DENIED: will exceed the configured upper limit of 1.0 GiB",
        "quota",
    ),
    "a mirror": (
        refused(405, "UNSUPPORTED", "The operation is unsupported."),
        "accepts no uploads for {repository}: UNSUPPORTED: The operation is unsupported.",
        "read-only",
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CraneRegistry]:
    with CraneRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@contextmanager
def pushing_through(
    server: CraneRegistry, crane_path: str, folder: Path, *rules: Rule
) -> Iterator[tuple[Machine, Proxy]]:
    """Yield a machine that pushes to a repository of its own, through a proxy with these rules."""
    with serve_proxy(server.host, *rules) as proxy:
        yield Machine(folder, proxy.host, server.host, crane_path, server.repository()), proxy


def steps(machine: Machine, *options: str) -> tuple[list[str], Result]:
    """Push with JSON progress; return the names of the steps, and the error as text."""
    done = subprocess.run(
        [SHIM, "kontext", "push", "--progress=json", "-t", machine.tag, *options, machine.source],
        env=os.environ | machine.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    said = "\n".join(f"{one.get('text')}\n{one.get('hint')}" for one in events)
    return [one["step"] for one in events if one["type"] == "step"], Result(
        done.returncode, done.stdout, said
    )


@pytest.mark.parametrize(("fault", "message", "hint"), REFUSALS.values(), ids=REFUSALS)
def test_a_large_first_push_is_refused_while_it_is_still_hashed(
    server: CraneRegistry, crane_path: str, tmp_path: Path, fault: Fault, message: str, hint: str
) -> None:
    rule = Rule(*UPLOAD, fault, last=ALWAYS)
    with pushing_through(server, crane_path, tmp_path / "machine", rule) as (pushing, proxy):
        with (pushing.source / "large").open("wb") as file:
            file.truncate(HOURS)
        pushed = pushing.push()
        facts = {"repository": f"{proxy.host}/{pushing.repository}", "host": proxy.host}
        pushing.assert_failed(pushed, message.format(**facts))
        assert hint.format(**facts) in pushed.stderr
        pushing.assert_clean()


def test_a_large_first_push_without_credentials_ends_while_it_is_still_hashed(
    registry: Registry, crane_path: str, tmp_path: Path
) -> None:
    """The registry shows nothing to who has no login."""
    pushing = new_machine(tmp_path / "machine", registry, crane_path)
    (Path(pushing.environment["DOCKER_CONFIG"]) / "config.json").write_text("{}")
    with (pushing.source / "large").open("wb") as file:
        file.truncate(HOURS)
    pushed = pushing.push()
    pushing.assert_failed(pushed, "UNAUTHORIZED: authentication required")
    pushing.assert_clean()


@pytest.mark.parametrize(("fault", "message", "hint"), REFUSALS.values(), ids=REFUSALS)
def test_a_large_change_is_refused_before_it_is_compressed(
    server: CraneRegistry, crane_path: str, tmp_path: Path, fault: Fault, message: str, hint: str
) -> None:
    """Everybody may read this repository, so the registry shows the tag."""
    rule = Rule(*UPLOAD, fault, last=ALWAYS)
    with pushing_through(server, crane_path, tmp_path / "machine") as (pushing, proxy):
        plant(pushing.source, {"file": File(b"old")})
        assert pushing.push().code == 0
        before = pushing.published()
        proxy.rules.append(rule)
        with (pushing.source / "large").open("wb") as file:
            file.truncate(LARGE)
        names, pushed = steps(pushing)
        assert pushed.code == 1
        assert "plan" in names
        assert "write layers" not in names
        repository = f"{proxy.host}/{pushing.repository}"
        assert message.format(repository=repository) in pushed.stderr
        assert pushing.published() == before

        (pushing.source / "large").unlink()
        assert pushing.push().code == 0, "a push of nothing needs no right to push"


def test_a_large_change_under_an_immutable_tag_is_refused_before_it_is_compressed(
    server: CraneRegistry, crane_path: str, tmp_path: Path
) -> None:
    with serve_quirks(server.host, Quirks(immutable=True)) as quirky:
        pushing = Machine(
            tmp_path / "machine", quirky.host, server.host, crane_path, server.repository()
        )
        plant(pushing.source, {"file": File(b"old")})
        assert pushing.push().code == 0
        before = pushing.published()
        with (pushing.source / "large").open("wb") as file:
            file.truncate(LARGE)
        names, pushed = steps(pushing)
        assert pushed.code == 1
        assert "write layers" not in names
        assert f"refuses to change {pushing.tag}: TAG_INVALID: {IMMUTABLE}" in pushed.stderr
        assert "Push to another tag." in pushed.stderr
        assert pushing.published() == before


def test_a_purge_of_a_large_image_is_refused_before_it_is_read(
    server: CraneRegistry, crane_path: str, tmp_path: Path
) -> None:
    with pushing_through(server, crane_path, tmp_path / "machine") as (pushing, proxy):
        plant(pushing.source, {"file": File(b"old")})
        with (pushing.source / "large").open("wb") as file:
            file.truncate(LARGE)
        assert pushing.push().code == 0
        denied = refused(403, "DENIED", "permission_denied: write_package")
        proxy.rules.append(Rule(*UPLOAD, denied, last=ALWAYS))
        proxy.asked.clear()
        purged = subprocess.run(
            [SHIM, "kontext", "purge", pushing.tag],
            env=os.environ | pushing.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert purged.returncode == 1
        assert "DENIED: permission_denied: write_package" in purged.stderr
        first = next(place for place, line in enumerate(proxy.asked) if line.startswith("POST"))
        assert not [line for line in proxy.asked[first:] if line.startswith("GET /v2/test")]


def test_a_large_push_to_a_tag_that_may_change_asks_and_goes_on(
    server: CraneRegistry, crane_path: str, tmp_path: Path
) -> None:
    with pushing_through(server, crane_path, tmp_path / "machine") as (pushing, proxy):
        plant(pushing.source, {"file": File(b"old")})
        assert pushing.push().code == 0
        with (pushing.source / "large").open("wb") as file:
            file.truncate(LARGE)
        proxy.asked.clear()
        assert pushing.push("--dry-run").code == 0
        assert not [line for line in proxy.asked if line.partition(" ")[0] not in ("GET", "HEAD")]
        assert pushing.push().code == 0
        assert pushing.published() == pushing.tree()


def test_a_tag_that_somebody_has_just_moved_is_not_set_back(
    server: CraneRegistry, crane_path: str, tmp_path: Path
) -> None:
    """The question about an immutable tag writes what the tag shows: never an older image."""
    moved: list[str] = []

    def move(exchange: Exchange) -> None:
        """Let another machine push between the first look at the tag and the question."""
        if not moved:
            moved.append(other.push().stdout.strip())
        passed(exchange)

    with pushing_through(server, crane_path, tmp_path / "machine") as (pushing, proxy):
        other = Machine(
            tmp_path / "other", server.host, server.host, crane_path, pushing.repository
        )
        plant(pushing.source, {"file": File(b"old")})
        assert pushing.push().code == 0
        plant(other.source, {"file": File(b"of another machine")})
        with (pushing.source / "large").open("wb") as file:
            file.truncate(LARGE)
        proxy.rules.append(Rule(*UPLOAD, move))
        proxy.rules.append(Rule("PUT", "/manifests/", cut, last=ALWAYS))
        assert pushing.push().code == 1
        assert moved[0], "the other push has succeeded"
        assert pushing.published() == other.tree()


# --- Uploads that go wrong ---


def located(change: Callable[[str], str]) -> Fault:
    """Change the Location header of the answer."""

    def answer(exchange: Exchange) -> None:
        response = exchange.forward()
        name = next(name for name in response.headers if name.lower() == "location")
        response.headers[name] = change(response.headers[name])
        exchange.answer(response)

    return answer


def too_large(exchange: Exchange) -> None:
    """Answer as nginx does: before it has read the body."""
    exchange.answer(Response(413, {"Connection": "close"}, b"<html>413</html>"))
    exchange.close_connection = True


TROUBLE = {
    # goharbor/harbor#22353, moby/buildkit#4320
    "a proxy that limits bodies": (
        ("PATCH", "/blobs/uploads/"),
        too_large,
        "refuses a layer as too large: 413 Request Entity Too Large",
        "client_max_body_size",
    ),
    # distribution/distribution#2519, #1576, deis/registry#84
    "replicas that do not know of each other": (
        ("PATCH", "/blobs/uploads/"),
        refused(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
        "has lost an upload to {repository}: BLOB_UPLOAD_UNKNOWN: blob upload unknown to registry",
        "REGISTRY_HTTP_SECRET",
    ),
    # distribution/distribution#2225, #123
    "an address that is not its own": (
        UPLOAD,
        located(lambda path: f"http://127.0.0.1:1{path}"),
        "127.0.0.1:1 does not answer: connection refused",
        "{host} sends uploads to 127.0.0.1:1",
    ),
}


@pytest.mark.parametrize(("request_", "fault", "message", "hint"), TROUBLE.values(), ids=TROUBLE)
def test_an_upload_that_fails_says_why(
    server: CraneRegistry,
    crane_path: str,
    tmp_path: Path,
    request_: tuple[str, str],
    fault: Fault,
    message: str,
    hint: str,
) -> None:
    rule = Rule(*request_, fault, last=ALWAYS)
    with pushing_through(server, crane_path, tmp_path / "machine", rule) as (pushing, proxy):
        plant(pushing.source, {"file": File(os.urandom(3_000_000))})
        pushed = pushing.push()
        facts = {"repository": f"{proxy.host}/{pushing.repository}", "host": proxy.host}
        pushing.assert_failed(pushed, message.format(**facts))
        assert hint.format(**facts) in pushed.stderr
        pushing.assert_clean()


# --- What is left behind ---


def interrupt_at(
    request: tuple[str, str], fault: Fault, pushing: Machine, proxy: Proxy, *options: str
) -> str:
    """Push, and send SIGINT when the proxy sees this request; return what the push says last."""
    seen = threading.Event()
    proxy.rules.append(Rule(*request, after(seen.set, fault)))
    process = pushing.start(*options)
    assert seen.wait(60)
    time.sleep(0.3)  # crane prints what is done only after the answer
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == 130
    pushing.assert_clean()
    return messages.decode().splitlines()[-1]


@pytest.mark.parametrize(
    ("request_", "fault", "said"),
    [
        (("GET", "/manifests/v1$"), silent, "nothing is published$"),
        (
            UPLOAD,
            silent,
            r"nothing is published(; the next push does not upload the first \S+ again)?$",
        ),
        (
            ("PUT", "/manifests/v1$"),
            silent,
            r"nothing is published; the next push does not upload the first \S+ again$",
        ),
        (
            ("PUT", "/manifests/v1$"),
            silent_after_all,
            r"{repository}@sha256:\S+ is published as {tag}$",
        ),
    ],
    ids=["before all", "uploading", "before the tag is written", "after the tag is written"],
)
def test_an_interrupted_push_says_what_it_leaves(
    server: CraneRegistry,
    crane_path: str,
    tmp_path: Path,
    request_: tuple[str, str],
    fault: Fault,
    said: str,
) -> None:
    with pushing_through(server, crane_path, tmp_path / "machine") as (pushing, proxy):
        plant(pushing.source, {"file": File(os.urandom(200_000))})
        line = interrupt_at(request_, fault, pushing, proxy)
        repository = f"{proxy.host}/{pushing.repository}"
        said = said.replace("{repository}", repository).replace("{tag}", pushing.tag)
        assert re.fullmatch(f"Interrupted; {said}", line), line
        is_published = "@sha256:" in line
        assert pushing.published() == (pushing.tree() if is_published else None)


def test_an_interrupted_push_to_several_tags_names_those_that_are_written(
    server: CraneRegistry, crane_path: str, tmp_path: Path
) -> None:
    with pushing_through(server, crane_path, tmp_path / "machine") as (pushing, proxy):
        plant(pushing.source, {"file": File(b"new")})
        second = f"{proxy.host}/{pushing.repository}:v2"
        line = interrupt_at(("PUT", "/manifests/v2$"), silent, pushing, proxy, "-t", second)
        assert f" is published as {pushing.tag}, but not as {second}" in line
        assert pushing.published() == pushing.tree()


def test_an_interrupted_push_to_a_silent_registry_claims_nothing(
    server: CraneRegistry, crane_path: str, tmp_path: Path
) -> None:
    with pushing_through(server, crane_path, tmp_path / "machine") as (pushing, proxy):
        plant(pushing.source, {"file": File(b"new")})
        proxy.rules.append(Rule("HEAD", "/manifests/v1$", silent, first=2, last=ALWAYS))
        line = interrupt_at(("PUT", "/manifests/v1$"), silent_after_all, pushing, proxy)
        assert f"{pushing.tag} may show " in line
        assert f"docker kontext inspect {pushing.tag}" in line


# --- Room on the disk ---


@pytest.mark.parametrize(
    ("free", "files", "is_error", "is_told"),
    [
        (0, 0, False, False),
        (0, 1, True, False),
        (10_000, 10_000_000, False, False),
        (10_000, 100_000_000, True, False),
        (10**9, 10**9, False, False),
        (10**8, 10**9, False, True),
    ],
)
def test_a_disk_that_cannot_hold_the_layers(
    free: int,
    files: int,
    is_error: bool,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = SimpleNamespace(f_bavail=free, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    if is_error:
        with pytest.raises(KontextError, match="No space left on device"):
            check_room("/scratch", files, Report())
    else:
        check_room("/scratch", files, Report())
    assert ("may not hold the layers" in capsys.readouterr().err) is is_told
