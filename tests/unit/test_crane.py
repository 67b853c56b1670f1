"""crane's verbs: the arguments that crane gets, and what becomes of its answers and failures."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from support.fake_crane import all_ended, fake_crane, last_arguments, running

from kontext_plugin import crane as crane_module
from kontext_plugin.crane import (
    IDENTITY_TOKEN,
    Crane,
    Credentials,
    Published,
    connect,
    find_crane,
)
from kontext_plugin.crane_driver.errors import Damaged, NotFound, Refused, RegistryError
from kontext_plugin.crane_driver.process import CraneRunner
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest

DIGEST = Digest("sha256:" + "a" * 64)
OTHER = Digest("sha256:" + "b" * 64)

Maker = Callable[..., Crane]


@pytest.fixture
def fake(tmp_path: Path) -> Maker:
    def make(body: str, **options: Any) -> Crane:
        return Crane(CraneRunner(fake_crane(tmp_path, body), debug=print, **options))

    return make


# --- The arguments of each verb ---


def test_reading_verbs(fake: Maker, tmp_path: Path) -> None:
    with fake("echo document") as crane:
        assert crane.manifest("r/r:t") == b"document\n"
        assert last_arguments(tmp_path) == ["manifest", "r/r:t"]
        assert crane.config("r/r:t") == b"document\n"
        assert last_arguments(tmp_path) == ["config", "r/r:t"]
        with crane.blob(f"r/r@{DIGEST}") as stream:
            assert stream.read() == b"document\n"
        assert last_arguments(tmp_path) == ["blob", f"r/r@{DIGEST}"]
        with crane.export(f"r/r@{DIGEST}", whole=True) as stream:
            assert stream.read() == b"document\n"
        assert last_arguments(tmp_path) == ["export", f"r/r@{DIGEST}"]


def test_tag(fake: Maker, tmp_path: Path) -> None:
    with fake("true") as crane:
        crane.tag(f"r/r@{DIGEST}", "new")
    assert last_arguments(tmp_path) == ["tag", f"r/r@{DIGEST}", "new"]


def test_version(fake: Maker, tmp_path: Path) -> None:
    assert fake("echo v0.21.9").version() == "v0.21.9"
    assert last_arguments(tmp_path) == ["version"]


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ('{"Username":"a","Secret":"b"}', Credentials("a", "b")),
        ('{"Username":"<token>","Secret":"t"}', Credentials(IDENTITY_TOKEN, "t")),
        ("{}", Credentials("", "")),
    ],
)
def test_credentials(
    printed: str, expected: Credentials, fake: Maker, tmp_path: Path, capsys: Any
) -> None:
    assert fake(f"echo '{printed}'").credentials("r:5000") == expected
    assert last_arguments(tmp_path) == ["auth", "get", "r:5000"]
    assert "Secret" not in capsys.readouterr().out, "a debug line shows the secret"
    assert "secret" not in repr(expected)


def test_no_credentials(fake: Maker) -> None:
    assert fake("echo credentials not found in native keychain; exit 1").credentials("r") is None


def test_a_credential_helper_that_fails(fake: Maker) -> None:
    text = 'Error: exec: "docker-credential-x": executable file not found in $PATH'
    with pytest.raises(RegistryError, match="docker-credential-x is not on PATH") as caught:
        fake(f"echo '{text}' >&2; exit 1").credentials("r:5000")
    assert "r:5000" in caught.value.hint


@pytest.mark.parametrize("body", ["echo a; echo b", "true", "yes"], ids=["some", "none", "endless"])
def test_catalog(body: str, fake: Maker, tmp_path: Path) -> None:
    with fake(body) as crane:
        crane.check_catalog("r:5000")
    assert last_arguments(tmp_path) == ["catalog", "r:5000"]
    assert all_ended(tmp_path)


def test_a_catalog_that_is_refused(fake: Maker) -> None:
    with pytest.raises(Refused, match="r:5000 refused"):
        fake("echo 'Error: UNAUTHORIZED: no' >&2; exit 1").check_catalog("r:5000")


def test_tags(fake: Maker, tmp_path: Path) -> None:
    assert [*fake("echo one; echo two").tags("r/r")] == ["one", "two"]
    assert last_arguments(tmp_path) == ["ls", "r/r"]


def test_tags_come_one_by_one(fake: Maker, tmp_path: Path) -> None:
    """A repository may have a hundred thousand: a push looks at those that come in time."""
    with fake("echo first; exec sleep 1000") as crane:
        tags = crane.tags("r/r")
        assert next(tags) == "first"
    with pytest.raises(RegistryError):
        next(tags)
    assert all_ended(tmp_path)


TAGS = {
    "none": ("true", []),
    "without a line end": ("printf one", ["one"]),
    "not UTF-8": (r"printf '\377\n'", ["\ufffd"]),
    "a line without end": ("head -c 2500 /dev/zero | tr '\\0' x", ["x" * 1000] * 2 + ["x" * 500]),
}


@pytest.mark.parametrize(("body", "expected"), TAGS.values(), ids=TAGS)
def test_strange_tags(body: str, expected: list[str], fake: Maker) -> None:
    with fake(body) as crane:
        assert [*crane.tags("r/r")] == expected


def test_a_listing_that_fails_in_the_middle_gives_the_tags_before(fake: Maker) -> None:
    listed = []
    refused = pytest.raises(Refused)
    with fake("echo one; echo 'Error: UNAUTHORIZED: no' >&2; exit 1") as crane, refused:
        for tag in crane.tags("r/r"):
            listed.append(tag)
    assert listed == ["one"]


def test_a_whole_blob_is_read_to_its_end(fake: Maker, tmp_path: Path) -> None:
    """crane compares the digest at the end of the stream alone."""
    bad = "printf content; echo 'Error: error verifying sha256 checksum' >&2; exit 1"
    with fake(bad) as crane, crane.blob(f"r/r@{DIGEST}") as stream:
        assert stream.read(3) == b"con"
    with pytest.raises(Damaged), fake(bad) as crane, crane.blob("r/r@x", whole=True) as stream:
        assert stream.read() == b"content"
    assert all_ended(tmp_path)


def test_digest(fake: Maker, tmp_path: Path) -> None:
    with fake(f"echo {DIGEST}", insecure=True) as crane:
        assert crane.digest("r/r:t", "linux/arm64") == DIGEST
    expected = ["digest", "--platform", "linux/arm64", "r/r:t", "--insecure"]
    assert last_arguments(tmp_path) == expected


def test_a_digest_may_have_a_timeout_of_its_own(fake: Maker, tmp_path: Path) -> None:
    silent = pytest.raises(RegistryError, match=r"has not answered for 0\.2 s")
    with fake("exec sleep 1000") as crane, silent:
        crane.digest("r/r:t", timeout=0.2)
    assert all_ended(tmp_path)
    with fake(f"sleep 1; echo {DIGEST}", timeout=0.2) as crane:
        assert crane.digest("r/r:t", timeout=0) == DIGEST


def test_push_layout(fake: Maker, tmp_path: Path) -> None:
    messages = f"pushed blob: {OTHER}\nexisting blob: {DIGEST}\nr/r: digest: {DIGEST} size: 5"
    with fake(f"echo '{messages}' >&2; echo r/r@{DIGEST}") as crane:
        published = crane.push_layout("/a layout", f"r/r@{DIGEST}")
    assert published == Published(DIGEST, frozenset({OTHER}))
    assert last_arguments(tmp_path) == ["push", "/a layout", f"r/r@{DIGEST}"]
    with fake(f"echo r/r@{DIGEST}") as crane:
        assert crane.push_layout("/l", "r/r:t", is_index=True) == Published(DIGEST, frozenset())
    assert last_arguments(tmp_path) == ["push", "--index", "/l", "r/r:t"]


ANNOTATIONS: dict[str, tuple[dict[str, str], list[str]]] = {
    "one": ({"k": "v"}, ["k=v", "k=v"]),
    "two, sorted": ({"z": "1", "a": "2"}, ["a=2", "z=1"]),
    "comma": ({"k": "a,b"}, ["k=a,b"] * 2),
    "comma and equals": ({"k": "a,b=c", "m": "="}, ["k=a,b=c", "m=="]),
    "quotes": ({"k": 'a"b"', "m": '"'}, ['k=a"b"', 'm="']),
    "new line": ({"k": "a\nb", "m": "c"}, ["k=a\nb", "m=c"]),
    "spaces": ({" k ": " ", "m": "c"}, [" k = ", "m=c"]),
    "not ASCII": ({"ö": "ü"}, ["ö=ü"] * 2),
}


@pytest.mark.parametrize(("annotations", "pairs"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_bring(annotations: dict[str, str], pairs: list[str], fake: Maker, tmp_path: Path) -> None:
    messages = f"mounted blob: {DIGEST}\npushed blob: {OTHER}\nexisting blob: {DIGEST}"
    with fake(f"echo '{messages}' >&2; echo o/o@{DIGEST}") as crane:
        assert crane.bring("r/r@base", "o/o", annotations) == {OTHER}
    *given, flag, annotation = last_arguments(tmp_path)
    assert given == ["mutate", "r/r@base", "--repo", "o/o"]
    assert flag == "--annotation"
    # pflag parses a list as one CSV record. It does not parse a value with one `=`, and strips its
    # quotes: a single pair comes twice.
    assert [*csv.reader(annotation.splitlines(keepends=True))] == [pairs]


def test_no_annotations_give_no_flag(fake: Maker, tmp_path: Path) -> None:
    with fake(f"echo r/r@{DIGEST}") as crane:
        crane.bring("r/r@base", "o/o", {})
    assert last_arguments(tmp_path) == ["mutate", "r/r@base", "--repo", "o/o"]


# --- Answers and failures ---

NO_DIGEST = {
    "nothing": "true",
    "text": "echo done",
    "short": "echo sha256:abc",
    "another algorithm": f"echo r/r@sha512:{'a' * 128}",
    "two lines": f"echo {DIGEST}; echo {DIGEST}",
    "not text": r"printf '\377\376'",
}


@pytest.mark.parametrize("body", NO_DIGEST.values(), ids=NO_DIGEST)
def test_an_answer_without_a_digest_is_an_error(body: str, fake: Maker) -> None:
    with fake(body) as crane:
        with pytest.raises(RegistryError, match="r/r:t: crane printed no digest"):
            crane.digest("r/r:t", "linux/amd64")
        with pytest.raises(RegistryError, match="printed no digest"):
            crane.push_layout("/l", "r/r:t")


def read_blob(crane: Crane) -> None:
    with crane.blob("r/r@x") as stream:
        if len(stream.read()) < 100:
            raise EOFError("cut off")


VERBS: dict[str, Callable[[Crane], object]] = {
    "manifest": lambda crane: crane.manifest("r/r:t"),
    "config": lambda crane: crane.config("r/r:t"),
    "digest": lambda crane: crane.digest("r/r:t", "linux/amd64"),
    "blob": read_blob,
    "push": lambda crane: crane.push_layout("/l", "r/r:t"),
    "tag": lambda crane: crane.tag("r/r@x", "t"),
    "bring": lambda crane: crane.bring("r/r@x", "o/o", {"a": "b"}),
    "tags": lambda crane: [*crane.tags("r/r")],
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_failure_of_each_verb_is_explained(verb: Callable[[Crane], object], fake: Maker) -> None:
    noise = "seq 30000 >&2"  # more than a pipe holds
    body = f"{noise}\necho 'Error: MANIFEST_UNKNOWN: manifest unknown' >&2; exit 1"
    with fake(body) as crane, pytest.raises(NotFound, match=r"was not found|does not accept"):
        verb(crane)


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "not executable": lambda path: path.write_text("#!/bin/sh\n"),
    "a directory": Path.mkdir,
    "of another machine": lambda path: (path.write_bytes(b"\x7fELF junk"), path.chmod(0o755)),
    "without its interpreter": lambda path: (path.write_text("#!/no/sh\n"), path.chmod(0o755)),
}


@pytest.mark.parametrize("make", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("absolute", [True, False], ids=["path", "name"])
def test_a_crane_that_cannot_run(
    make: Callable[[Path], object], absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "crane-here")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = str(tmp_path / "crane-here") if absolute else "crane-here"
    with Crane(CraneRunner(program)) as crane:
        for verb in VERBS.values():
            with pytest.raises(KontextError, match="crane-here cannot be run") as raised:
                verb(crane)
            assert "docker kontext install" in raised.value.hint


# --- Connect ---


def test_find_crane_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_CRANE", "/chosen")
    crane = find_crane(insecure=True, timeout=7)
    assert crane.program == "/chosen"
    assert (crane.runner.insecure, crane.runner.timeout) == (True, 7)
    assert (find_crane().runner.insecure, find_crane().runner.timeout) == (False, 0)


def test_connect_tells_of_each_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "KONTEXT_CRANE", fake_crane(tmp_path, f"[ $1 = version ] && echo v1.0.0 || echo {DIGEST}")
    )
    lines: list[str] = []
    with connect(lines.append, insecure=False, timeout=0) as (crane, requests):
        answers = [requests.submit(crane.digest, "r/r:t") for _ in range(10)]
        assert {answer.result() for answer in answers} == {DIGEST}
    assert sorted(lines) == [*["crane digest r/r:t"] * 10, "crane version"]


def test_an_interrupt_abandons_all_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_CRANE", fake_crane(tmp_path, "exec sleep 1000"))
    monkeypatch.setattr(crane_module, "_REQUESTS", 1)
    answers: list[Future[Digest]] = []
    with (
        pytest.raises(KeyboardInterrupt),
        connect(print, insecure=False, timeout=0) as (crane, requests),
    ):
        answers += [requests.submit(crane.digest, "r/r:t") for _ in range(2)]
        deadline = time.monotonic() + 10
        while not running(tmp_path):
            assert time.monotonic() < deadline, "crane did not start"
        raise KeyboardInterrupt
    with pytest.raises(RegistryError):
        answers[0].result(10)
    with pytest.raises((KontextError, CancelledError)):
        answers[1].result(10)
    assert all_ended(tmp_path)
