"""The door to the registry: what crane is told, what its answers become, and that it never stays.

A shell script plays crane: it writes down its arguments and its own process, then does as told.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kontext_plugin.crane import (
    IDENTITY_TOKEN,
    Crane,
    Credentials,
    Published,
    find_crane,
)
from kontext_plugin.crane_driver import watchdog
from kontext_plugin.crane_driver.errors import NotFound, Refused, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest

DIGEST = Digest("sha256:" + "a" * 64)
OTHER = Digest("sha256:" + "b" * 64)

Maker = Callable[..., Crane]


@pytest.fixture
def fake(tmp_path: Path) -> Maker:
    def make(
        body: str,
        *,
        insecure: bool = False,
        trace: Callable[[str], None] = print,
        timeout: float = 0,
    ) -> Crane:
        program = tmp_path / "fake crane"
        program.write_text(
            "#!/bin/sh\n"
            f"exec 3>'{tmp_path}/arguments'; printf '%s\\0' \"$@\" >&3; exec 3>&-\n"
            f"echo $$ >> '{tmp_path}/pids'\n{body}\n"
        )
        program.chmod(0o755)
        return Crane(str(program), insecure=insecure, trace=trace, timeout=timeout)

    return make


def arguments(tmp_path: Path) -> list[str]:
    """What the last crane was given."""
    return (tmp_path / "arguments").read_text().split("\0")[:-1]


def alive(tmp_path: Path) -> list[int]:
    """The cranes, and what they started in their sessions, that still run."""
    pids = tmp_path / "pids"
    sessions = {int(pid) for pid in pids.read_text().split()} if pids.exists() else set()
    running = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            running.append(int(pid))
    return running


def all_ended(tmp_path: Path) -> bool:
    """Whether nothing runs any more; what was killed a moment ago may take one to go."""
    deadline = time.monotonic() + 5
    while alive(tmp_path):
        if time.monotonic() > deadline:
            return False
    return True


# What it is told


def test_reading_verbs(fake: Maker, tmp_path: Path) -> None:
    with fake("echo document") as crane:
        assert crane.manifest("r/r:t") == b"document\n"
        assert arguments(tmp_path) == ["manifest", "r/r:t"]
        assert crane.config("r/r:t") == b"document\n"
        assert arguments(tmp_path) == ["config", "r/r:t"]
        with crane.blob(f"r/r@{DIGEST}") as stream:
            assert stream.read() == b"document\n"
        assert arguments(tmp_path) == ["blob", f"r/r@{DIGEST}"]
        crane.tag(f"r/r@{DIGEST}", "new")
        assert arguments(tmp_path) == ["tag", f"r/r@{DIGEST}", "new"]
        crane.copy(f"r/r@{DIGEST}", "other/r:t")
        assert arguments(tmp_path) == ["copy", f"r/r@{DIGEST}", "other/r:t"]


def test_version(fake: Maker, tmp_path: Path) -> None:
    assert fake("echo v0.21.9").version() == "v0.21.9"
    assert arguments(tmp_path) == ["version"]


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
    assert arguments(tmp_path) == ["auth", "get", "r:5000"]
    assert "Secret" not in capsys.readouterr().out, "-D must not show it"
    assert "secret" not in repr(expected)


def test_no_credentials(fake: Maker) -> None:
    assert fake("echo credentials not found in native keychain; exit 1").credentials("r") is None


def test_credentials_that_cannot_be_had(fake: Maker) -> None:
    said = 'Error: exec: "docker-credential-x": executable file not found in $PATH'
    with pytest.raises(RegistryError, match="docker-credential-x is not on PATH") as caught:
        fake(f"echo '{said}' >&2; exit 1").credentials("r:5000")
    assert "r:5000" in caught.value.hint


@pytest.mark.parametrize("body", ["echo a; echo b", "true", "yes"], ids=["some", "none", "endless"])
def test_catalog(body: str, fake: Maker, tmp_path: Path) -> None:
    with fake(body) as crane:
        crane.show_catalog("r:5000")
    assert arguments(tmp_path) == ["catalog", "r:5000"]
    assert all_ended(tmp_path)


def test_a_catalog_that_is_refused(fake: Maker) -> None:
    with pytest.raises(Refused, match="r:5000 refused"):
        fake("echo 'Error: UNAUTHORIZED: no' >&2; exit 1").show_catalog("r:5000")


def test_bytes_come_as_they_are(fake: Maker) -> None:
    """plumbum alone would lose what is no text."""
    with fake(r"printf '\377\000\r\n'") as crane:
        assert crane.manifest("r/r") == b"\xff\0\r\n"


def test_digest(fake: Maker, tmp_path: Path) -> None:
    with fake(f"echo {DIGEST}", insecure=True) as crane:
        assert crane.digest("r/r:t", "linux/arm64") == DIGEST
    expected = ["digest", "--platform", "linux/arm64", "r/r:t", "--insecure"]
    assert arguments(tmp_path) == expected


def test_push_layout(fake: Maker, tmp_path: Path) -> None:
    messages = f"pushed blob: {OTHER}\nexisting blob: {DIGEST}\nr/r: digest: {DIGEST} size: 5"
    with fake(f"echo '{messages}' >&2; echo r/r@{DIGEST}") as crane:
        published = crane.push_layout("/a layout", f"r/r@{DIGEST}")
    assert published == Published(DIGEST, frozenset({OTHER}))
    assert arguments(tmp_path) == ["push", "/a layout", f"r/r@{DIGEST}"]


LABELS: dict[str, tuple[dict[str, str], list[str]]] = {
    "one": ({"k": "v"}, ["k=v", "k=v"]),
    "two, sorted": ({"z": "1", "a": "2"}, ["a=2", "z=1"]),
    "comma": ({"k": "a,b"}, ["k=a,b"] * 2),
    "comma and equals": ({"k": "a,b=c", "m": "="}, ["k=a,b=c", "m=="]),
    "quotes": ({"k": 'a"b"', "m": '"'}, ['k=a"b"', 'm="']),
    "new line": ({"k": "a\nb", "m": "c"}, ["k=a\nb", "m=c"]),
    "spaces": ({" k ": " ", "m": "c"}, [" k = ", "m=c"]),
    "not ASCII": ({"ö": "ü"}, ["ö=ü"] * 2),
}


@pytest.mark.parametrize(("labels", "pairs"), LABELS.values(), ids=LABELS)
def test_append(labels: dict[str, str], pairs: list[str], fake: Maker, tmp_path: Path) -> None:
    with fake(f"echo r/r@{DIGEST}") as crane:
        published = crane.append(
            "r/r@base",
            ["/tmp/a,b.tar.gz", '/tmp/"q".tar.gz'],
            "r/r:t",
            labels=labels,
            annotations={"a": "1"},
            entrypoint="/x,y",
            workdir="/w,s",
        )
    assert published == Published(DIGEST, frozenset())
    given = arguments(tmp_path)
    assert given[:4] == ["mutate", "r/r@base", "--tag", "r/r:t"]
    assert given[4::2] == [
        "--append", "--append", "--label", "--annotation", "--entrypoint", "--workdir"
    ]  # fmt: skip
    first, second, label, annotation, entrypoint, workdir = given[5::2]
    # pflag parses a list as one CSV record.
    assert [*csv.reader([first])] == [["/tmp/a,b.tar.gz"]]
    assert [*csv.reader([second])] == [['/tmp/"q".tar.gz']]
    assert [*csv.reader(label.splitlines(keepends=True))] == [pairs]
    # With one `=` alone pflag takes the text as it is, less its quotes: hence twice.
    assert [*csv.reader([annotation])] == [["a=1", "a=1"]]
    assert [*csv.reader([entrypoint])] == [["/x,y"]]
    assert workdir == "/w,s"


def test_no_labels_are_no_flag(fake: Maker, tmp_path: Path) -> None:
    with fake(f"echo r/r@{DIGEST}") as crane:
        crane.append("b", [], "r/r:t", labels={}, annotations={}, entrypoint="/x", workdir="/w")
    assert "--label" not in arguments(tmp_path)
    assert "--annotation" not in arguments(tmp_path)


def test_the_environment_of_now_counts(
    fake: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plumbum copies it when it is imported."""
    with fake("true") as first:
        first.tag("r/r", "t")
    monkeypatch.setenv("DOCKER_CONFIG", "/of/now")
    with fake('printf %s "$DOCKER_CONFIG"') as crane:
        assert crane.manifest("r/r") == b"/of/now"


def test_nothing_is_asked_of_stdin(fake: Maker) -> None:
    with fake("cat; echo end") as crane:
        assert crane.manifest("r/r") == b"end\n"


def test_trace_tells_the_command_and_all_of_an_error(fake: Maker) -> None:
    lines: list[str] = []
    body = "echo one >&2; echo Error: two >&2; exit 1"
    with fake(body, trace=lines.append) as crane, pytest.raises(RegistryError):
        crane.tag("r/r@x", "t")
    assert lines == ["crane tag r/r@x t", "crane ended with 1:\none\nError: two"]


# What its answers become

NO_DIGEST = {
    "nothing": "true",
    "text": "echo done",
    "short": "echo sha256:abc",
    "another algorithm": f"echo r/r@sha512:{'a' * 128}",
    "two lines": f"echo {DIGEST}; echo {DIGEST}",
    "no text": r"printf '\377\376'",
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
            raise EOFError("broken off")


VERBS: dict[str, Callable[[Crane], object]] = {
    "manifest": lambda crane: crane.manifest("r/r:t"),
    "config": lambda crane: crane.config("r/r:t"),
    "digest": lambda crane: crane.digest("r/r:t", "linux/amd64"),
    "blob": read_blob,
    "push": lambda crane: crane.push_layout("/l", "r/r:t"),
    "tag": lambda crane: crane.tag("r/r@x", "t"),
    "copy": lambda crane: crane.copy("r/r@x", "r/r:t"),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_failure_is_explained(verb: Callable[[Crane], object], fake: Maker) -> None:
    noise = "seq 30000 >&2"  # more than a pipe holds
    body = f"{noise}\necho 'Error: MANIFEST_UNKNOWN: manifest unknown' >&2; exit 1"
    with fake(body) as crane, pytest.raises(NotFound, match=r"was not found|does not take"):
        verb(crane)


def test_a_stream_that_crane_breaks_off_is_cranes_error(fake: Maker) -> None:
    def read(crane: Crane) -> None:
        with crane.blob("r/r@x") as stream:
            if len(stream.read()) < 100:
                raise ValueError("damaged")

    body = "echo start; echo 'Error: connection reset by peer' >&2; exit 1"
    with fake(body) as crane, pytest.raises(RegistryError, match="broke the connection off"):
        read(crane)
    with fake("echo start") as crane, pytest.raises(ValueError, match="damaged"):
        read(crane)


def test_a_document_without_end_is_refused(fake: Maker, tmp_path: Path) -> None:
    with fake("exec cat /dev/zero") as crane, pytest.raises(RegistryError, match="larger than"):
        crane.manifest("r/r:t")
    assert all_ended(tmp_path)


# Crane itself

UNUSABLE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "not executable": lambda path: path.write_text("#!/bin/sh\n"),
    "a directory": Path.mkdir,
    "of another machine": lambda path: (path.write_bytes(b"\x7fELF junk"), path.chmod(0o755)),
    "without its interpreter": lambda path: (path.write_text("#!/no/sh\n"), path.chmod(0o755)),
}


@pytest.mark.parametrize("make", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("absolute", [True, False], ids=["path", "name"])
def test_a_crane_that_cannot_run_is_told(
    make: Callable[[Path], object], absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "crane-here")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = str(tmp_path / "crane-here") if absolute else "crane-here"
    with Crane(program) as crane:
        for verb in VERBS.values():
            with pytest.raises(KontextError, match="crane-here cannot be run") as raised:
                verb(crane)
            assert "install-crane" in raised.value.hint


def program(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_which_crane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(KontextError, match="crane was not found") as raised:
        find_crane()
    assert "install-crane" in raised.value.hint
    on_path = program(tmp_path / "bin/crane")
    assert find_crane().program == str(on_path)
    beside = program(tmp_path / "venv/crane")
    assert find_crane().program == str(beside)
    monkeypatch.setenv("KONTEXT_CRANE", "/chosen")
    assert find_crane(insecure=True).program == "/chosen"
    assert find_crane(insecure=True).insecure
    assert find_crane(timeout=7).timeout == 7
    assert find_crane().timeout == 0


# It never stays

FOREVER = "while :; do echo more; done"
HANGS = "echo ready\nexec sleep 1000"
STUBBORN = "trap '' INT PIPE\necho ready\nsleep 1000 & wait; wait; sleep 1000"


@pytest.mark.parametrize("body", [FOREVER, HANGS, STUBBORN], ids=["chatty", "silent", "stubborn"])
def test_a_blob_that_is_left_early_ends_crane(body: str, fake: Maker, tmp_path: Path) -> None:
    with fake(body) as crane:
        with crane.blob("r/r@x") as stream:
            assert stream.readline()
            assert alive(tmp_path)
        assert all_ended(tmp_path)


def test_an_exception_ends_crane(fake: Maker, tmp_path: Path) -> None:
    with fake(HANGS) as crane:
        with pytest.raises(KeyboardInterrupt), crane.blob("r/r@x") as stream:
            assert stream.readline()
            raise KeyboardInterrupt
        assert all_ended(tmp_path)


WAITING = "sleep 1000 &\nexec sleep 1000"
DEAF = "trap '' INT\nsleep 1000 & wait; sleep 1000"


@pytest.mark.parametrize("body", [WAITING, DEAF], ids=["with a helper", "deaf"])
@pytest.mark.parametrize("verb", [name for name in VERBS if name != "blob"])
def test_leaving_the_block_ends_a_hanging_crane(
    verb: str, body: str, fake: Maker, tmp_path: Path
) -> None:
    """Ctrl-C while a thread waits for a registry that never answers."""
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            VERBS[verb](crane)
        except BaseException as error:
            ended.append(error)

    with fake(body) as crane:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not (tmp_path / "pids").exists() or not crane._running:
            assert time.monotonic() < deadline, "it never started"
    thread.join(10)
    assert not thread.is_alive(), "the thread still waits"
    assert len(ended) == 1
    assert all_ended(tmp_path)


def test_many_cranes_at_once_are_all_ended(fake: Maker, tmp_path: Path) -> None:

    def ask() -> None:
        with contextlib.suppress(Exception):
            crane.tag("r/r", "t")

    with fake(HANGS) as crane:
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while len(crane._running) < 5:
            assert time.monotonic() < deadline, "they never started"
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert all_ended(tmp_path)


ASK = """
import sys
from kontext_plugin.crane import Crane
with Crane(sys.argv[1]) as crane:
    crane.tag("r/r", "t")
"""


def is_bound(pid: int) -> bool:
    """Whether the process has come to where the kernel ends crane in its place."""
    for told in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if int(told.read_text().partition("flags:")[2].split()[0], 8) & os.O_ASYNC:
                return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has nothing of this kind")
@pytest.mark.parametrize("body", [WAITING, DEAF], ids=["with a helper", "deaf"])
def test_a_killed_push_takes_crane_along(body: str, fake: Maker, tmp_path: Path) -> None:
    """SIGKILL, of which no handler hears."""
    program = fake(f"{body}").program
    with subprocess.Popen(
        [sys.executable, "-c", ASK, program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        deadline = time.monotonic() + 20
        try:
            while not is_bound(process.pid) or len(alive(tmp_path)) < 2:
                assert time.monotonic() < deadline, "it never started"
        finally:
            process.kill()
    assert all_ended(tmp_path)


def test_what_a_helper_leaves_running_stays(fake: Maker, tmp_path: Path) -> None:
    """It may be an agent that keeps a password for the next time."""
    with fake("sleep 20 >&- 2>&- & exit 0") as crane:
        crane.tag("r/r", "t")
        (agent,) = alive(tmp_path)
    assert alive(tmp_path) == [agent]
    os.kill(agent, signal.SIGKILL)


# Nor does it wait for ever

SILENCE = {
    "silent": "exec sleep 1000",
    "deaf": "trap '' INT\nexec sleep 1000",
    "after some words": "echo some; echo words >&2; exec sleep 1000",
    "ending well when interrupted": f"exec {sys.executable} -c '{{}}'".format(
        "import signal, sys; signal.signal(2, lambda *_: sys.exit(1)); signal.pause()"
    ),
}


@pytest.mark.parametrize("body", SILENCE.values(), ids=SILENCE)
@pytest.mark.parametrize("verb", ["digest", "manifest", "blob"])  # run, document, stream
def test_a_silent_registry_is_given_up(verb: str, body: str, fake: Maker, tmp_path: Path) -> None:
    with fake(body, timeout=0.2) as crane:
        with pytest.raises(RegistryError, match=r"^\S+ has not answered for 0.2 s$") as raised:
            VERBS[verb](crane)
        assert "--timeout" in raised.value.hint
        assert all_ended(tmp_path)


def test_a_registry_that_answers_slowly_is_waited_for(fake: Maker) -> None:
    slow = "import time; [(print(end='.' * 200, flush=True), time.sleep(0.1)) for _ in range(30)]"
    with fake(f'exec {sys.executable} -c "{slow}"', timeout=1.5) as crane:
        assert len(crane.manifest("r/r:t")) == 6000


def test_crane_may_wait_for_its_reader(fake: Maker) -> None:
    """As long as it has more to say than was taken, the registry is not the one who waits."""
    with fake("exec head -c 1000000 /dev/zero", timeout=0.2) as crane, crane.blob("r/r@x") as blob:
        time.sleep(1)
        assert len(blob.read()) == 1_000_000


def test_crane_may_wait_for_a_credential_helper(fake: Maker) -> None:
    with fake("sleep 1; echo document", timeout=0.2) as crane:
        assert crane.manifest("r/r:t") == b"document\n"


@pytest.mark.parametrize("verb", ["manifest", "push"])
def test_where_progress_cannot_be_seen_questions_alone_are_limited(
    verb: str, fake: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PROC", "/nowhere")
    with fake(f"sleep 1; echo r/r@{DIGEST}", timeout=0.2) as crane:
        if verb == "manifest":
            with pytest.raises(RegistryError, match="has not answered"):
                VERBS[verb](crane)
        else:
            VERBS[verb](crane)
