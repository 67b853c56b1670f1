"""How crane is run: what it gets, what it prints, and that it never outlives its caller."""

from __future__ import annotations

import contextlib
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
from support.fake_crane import all_ended, fake_crane, last_arguments, running

from kontext_plugin.crane_driver import process as process_module
from kontext_plugin.crane_driver import watchdog
from kontext_plugin.crane_driver.errors import Busy, RegistryError
from kontext_plugin.crane_driver.process import CraneRunner, locate_crane
from kontext_plugin.errors import KontextError

Maker = Callable[..., CraneRunner]


@pytest.fixture
def fake(tmp_path: Path) -> Maker:
    def make(body: str, debug: Callable[[str], None] = print, **options: Any) -> CraneRunner:
        return CraneRunner(fake_crane(tmp_path, body), debug=debug, **options)

    return make


def run(runner: CraneRunner) -> None:
    runner.run("push", "/l", "r/r:t")


def document(runner: CraneRunner) -> None:
    runner.document("manifest", "r/r:t")


def stream(runner: CraneRunner) -> None:
    with runner.stream("blob", "r/r@x") as stdout:
        if len(stdout.read()) < 100:
            raise EOFError("cut off")


WAYS = {"run": run, "document": document, "stream": stream}


# --- Which crane ---


def program(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_which_crane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that serves fewer comes first."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(KontextError, match="crane was not found") as raised:
        locate_crane()
    assert "docker kontext install" in raised.value.hint
    for place in ("bin/crane", "kontext/crane", "venv/crane"):
        path = program(tmp_path / place)
        assert locate_crane() == str(path)
    (tmp_path / "venv/crane").unlink()
    (tmp_path / "venv/crane").mkdir()
    assert locate_crane() == str(tmp_path / "kontext/crane")
    monkeypatch.setenv("KONTEXT_CRANE", "/chosen")
    assert locate_crane() == "/chosen"


# --- What crane gets, and what it prints ---


def test_crane_gets_the_environment_of_the_moment(
    fake: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plumbum copies the environment when it is imported."""
    with fake("true") as first:
        first.run("tag", "r/r", "t")
    monkeypatch.setenv("DOCKER_CONFIG", "/of/now")
    with fake('printf %s "$DOCKER_CONFIG"') as runner:
        assert runner.document("manifest", "r/r") == b"/of/now"


def test_stdin_is_empty(fake: Maker) -> None:
    with fake("cat; echo end") as runner:
        assert runner.document("manifest", "r/r") == b"end\n"


def test_bytes_are_unchanged(fake: Maker) -> None:
    """plumbum drops bytes that are not text."""
    with fake(r"printf '\377\000\r\n'") as runner:
        assert runner.document("manifest", "r/r") == b"\xff\0\r\n"


def test_debug_lines_have_the_command_and_all_of_an_error(fake: Maker) -> None:
    lines: list[str] = []
    body = "echo one >&2; echo Error: two >&2; exit 1"
    with fake(body, lines.append) as runner, pytest.raises(RegistryError):
        runner.run("tag", "r/r@x", "t")
    assert lines == ["crane tag r/r@x t", "crane ended with 1:\none\nError: two"]


def test_a_failure_has_more_messages_than_a_pipe_holds(fake: Maker) -> None:
    body = "seq 30000 >&2; echo 'Error: connection reset by peer' >&2; exit 1"
    for way in WAYS.values():
        with fake(body) as runner, pytest.raises(RegistryError, match="closed the connection"):
            way(runner)


def test_a_reader_that_fails_over_a_cut_stream_gets_cranes_error(fake: Maker) -> None:
    def read(runner: CraneRunner) -> None:
        with runner.stream("blob", "r/r@x") as stdout:
            if len(stdout.read()) < 100:
                raise ValueError("damaged")

    body = "echo start; echo 'Error: connection reset by peer' >&2; exit 1"
    with fake(body) as runner, pytest.raises(RegistryError, match="closed the connection"):
        read(runner)
    with fake("echo start") as runner, pytest.raises(ValueError, match="damaged"):
        read(runner)


def test_a_whole_stream_must_end_well(fake: Maker) -> None:
    body = "echo all; exec >&-; echo 'Error: error verifying sha256' >&2; exit 1"
    with fake(body) as runner:
        with runner.stream("export", "r/r:t") as stdout:
            assert stdout.read() == b"all\n"
        whole = runner.stream("export", "r/r:t", whole=True)
        with pytest.raises(RegistryError, match="damaged"), whole as stdout:
            assert stdout.read() == b"all\n"


def test_a_document_without_end_is_rejected(fake: Maker, tmp_path: Path) -> None:
    with fake("exec cat /dev/zero") as runner, pytest.raises(RegistryError, match="larger than"):
        runner.document("manifest", "r/r:t")
    assert all_ended(tmp_path)


def test_an_empty_document_is_rejected(fake: Maker) -> None:
    with fake("true") as runner, pytest.raises(RegistryError, match=r"r/r:t: .* is empty"):
        runner.document("manifest", "r/r:t")


# --- crane ends with the block ---

ENDLESS = "while :; do echo more; done"
HANGS = "echo ready\nexec sleep 1000"
STUBBORN = "trap '' INT PIPE\necho ready\nsleep 1000 & wait; wait; sleep 1000"


@pytest.mark.parametrize("body", [ENDLESS, HANGS, STUBBORN], ids=["endless", "hangs", "stubborn"])
def test_a_reader_that_stops_early_ends_crane(body: str, fake: Maker, tmp_path: Path) -> None:
    with fake(body) as runner:
        with runner.stream("blob", "r/r@x") as stdout:
            assert stdout.readline()
            assert running(tmp_path)
        assert all_ended(tmp_path)


def test_an_exception_ends_crane(fake: Maker, tmp_path: Path) -> None:
    with fake(HANGS) as runner:
        with pytest.raises(KeyboardInterrupt), runner.stream("blob", "r/r@x") as stdout:
            assert stdout.readline()
            raise KeyboardInterrupt
        assert all_ended(tmp_path)


WITH_HELPER = "sleep 1000 &\nexec sleep 1000"
DEAF = "trap '' INT\nsleep 1000 & wait; sleep 1000"


@pytest.mark.parametrize("body", [WITH_HELPER, DEAF], ids=["with a helper", "deaf"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_end_of_the_runner_ends_a_crane_that_hangs(
    way: Callable[[CraneRunner], None], body: str, fake: Maker, tmp_path: Path
) -> None:
    """As after Ctrl-C, while a thread waits for a registry that never answers."""
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            way(runner)
        except BaseException as error:
            raised.append(error)

    with fake(body) as runner:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not (tmp_path / "pids").exists() or not runner._running:
            assert time.monotonic() < deadline, "crane did not start"
    thread.join(10)
    assert not thread.is_alive(), "the thread still waits"
    assert len(raised) == 1
    assert all_ended(tmp_path)


def test_the_end_of_the_runner_ends_many_cranes(fake: Maker, tmp_path: Path) -> None:
    def ask() -> None:
        with contextlib.suppress(Exception):
            runner.run("tag", "r/r", "t")

    with fake(HANGS) as runner:
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while len(runner._running) < 5:
            assert time.monotonic() < deadline, "the cranes did not start"
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert all_ended(tmp_path)


def test_no_crane_starts_after_the_end_of_the_runner(fake: Maker, tmp_path: Path) -> None:
    with fake("true") as runner:
        pass
    with pytest.raises(KontextError, match="the command has ended"):
        runner.run("tag", "r/r", "t")
    assert not (tmp_path / "pids").exists()
    with runner:
        runner.run("tag", "r/r", "t")


ASK = """
import sys
from kontext_plugin.crane_driver.process import CraneRunner
with CraneRunner(sys.argv[1]) as runner:
    runner.run("tag", "r/r", "t")
"""


def is_bound(pid: int) -> bool:
    """Return whether the process has asked the kernel to end crane in its place."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if int(info.read_text().partition("flags:")[2].split()[0], 8) & os.O_ASYNC:
                return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such mechanism")
@pytest.mark.parametrize("body", [WITH_HELPER, DEAF], ids=["with a helper", "deaf"])
def test_a_killed_push_ends_crane(body: str, fake: Maker, tmp_path: Path) -> None:
    """By SIGKILL, which no handler sees."""
    with subprocess.Popen(
        [sys.executable, "-c", ASK, fake(body).program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        deadline = time.monotonic() + 20
        try:
            while not is_bound(process.pid) or len(running(tmp_path)) < 2:
                assert time.monotonic() < deadline, "crane did not start"
        finally:
            process.kill()
    assert all_ended(tmp_path)


def test_a_background_process_of_a_helper_stays(fake: Maker, tmp_path: Path) -> None:
    """It may be an agent that keeps a password for the next time."""
    with fake("sleep 20 >&- 2>&- & exit 0") as runner:
        runner.run("tag", "r/r", "t")
        (agent,) = running(tmp_path)
    assert running(tmp_path) == [agent]
    os.kill(agent, signal.SIGKILL)


# --- The timeout ---

SILENCE = {
    "silent": "exec sleep 1000",
    "deaf": "trap '' INT\nexec sleep 1000",
    "silent after some words": "echo some; echo words >&2; exec sleep 1000",
    "ending well when interrupted": f"exec {sys.executable} -c '{{}}'".format(
        "import signal, sys; signal.signal(2, lambda *_: sys.exit(1)); signal.pause()"
    ),
}


@pytest.mark.parametrize("body", SILENCE.values(), ids=SILENCE)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_silent_registry_times_out(
    way: Callable[[CraneRunner], None], body: str, fake: Maker, tmp_path: Path
) -> None:
    with fake(body, timeout=0.2) as runner:
        with pytest.raises(RegistryError, match=r"^\S+ has not answered for 0.2 s$") as raised:
            way(runner)
        assert "--timeout" in raised.value.hint
        assert all_ended(tmp_path)


def test_a_timeout_for_one_run(fake: Maker) -> None:
    with fake("exec sleep 1000") as runner:
        with pytest.raises(RegistryError, match=r"has not answered for 0\.2 s"):
            runner.run("digest", "r/r:t", timeout=0.2)
        assert runner.timeout == 0


@pytest.mark.slow
def test_a_slow_answer_does_not_time_out(fake: Maker) -> None:
    slow = "import time; [(print(end='.' * 200, flush=True), time.sleep(0.1)) for _ in range(30)]"
    with fake(f'exec {sys.executable} -c "{slow}"', timeout=1.5) as runner:
        assert len(runner.document("manifest", "r/r:t")) == 6000


def test_a_crane_that_waits_for_its_reader_does_not_time_out(fake: Maker) -> None:
    """There is output that nobody has read yet, so it does not wait for the registry."""
    runner = fake("exec head -c 1000000 /dev/zero", timeout=0.2)
    with runner, runner.stream("blob", "r/r@x") as stdout:
        time.sleep(1)
        assert len(stdout.read()) == 1_000_000


def test_a_crane_that_waits_for_a_credential_helper_does_not_time_out(
    fake: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is a terminal: the helper may ask for a password."""
    monkeypatch.setattr(watchdog, "has_person", lambda: True)
    with fake("sleep 1; echo document", timeout=0.2) as runner:
        assert runner.document("manifest", "r/r:t") == b"document\n"


@pytest.mark.parametrize("is_check", [False, True])
def test_a_helper_that_nobody_can_answer_times_out(
    fake: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_check: bool
) -> None:
    """docker-credential-helpers#185. A message says before what crane waits for."""
    config = Path(os.environ["DOCKER_CONFIG"])
    config.mkdir()
    (config / "config.json").write_text('{"credHelpers": {"r.io": "vault"}}')
    monkeypatch.setattr(watchdog, "has_person", lambda: is_check)
    monkeypatch.setattr(process_module, "_HELPER_PATIENCE", 0.1)
    with (
        fake("sleep 1000; echo document") as runner,
        pytest.raises(RegistryError, match=r"^docker-credential-vault has not answered") as raised,
        runner.start("manifest", "r.io/r:t", timeout=0.5, is_check=is_check) as running,
    ):
        running.process.wait()
        raise runner.failure(running)
    assert "echo r.io | docker-credential-vault get" in raised.value.hint
    assert capsys.readouterr().err == "Waiting for docker-credential-vault\n"


@pytest.mark.parametrize("verb", ["manifest", "push"])
def test_without_visible_progress_only_questions_time_out(
    verb: str, fake: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PROC", "/nowhere")
    with fake("sleep 1; echo answer", timeout=0.2) as runner:
        if verb == "manifest":
            with pytest.raises(RegistryError, match="has not answered"):
                document(runner)
        else:
            run(runner)


# --- The version ---

ANSWERS = '[ "$1" != version ] || {{ {}; exit; }}\necho document'


@pytest.mark.parametrize("verb", ["export", "push", "manifest"])
@pytest.mark.parametrize("answer", ["echo document", "exit 1"], ids=["works", "fails"])
def test_a_crane_that_is_too_old_is_not_used(
    fake: Maker, tmp_path: Path, verb: str, answer: str
) -> None:
    """Every verb says so, as `doctor` does; v0.21.8 would fail in a riddle."""
    answers = f'[ "$1" != version ] || {{ echo v0.21.8; exit; }}\n{answer}'
    with fake(answers, needs_version=True) as runner:
        for _ in range(2):
            with pytest.raises(KontextError, match=r"^crane v0\.21\.8 is too old: .*fake crane$"):
                runner.document(verb, "r/r:t")
    # A question is asked meanwhile, and harms nothing.
    assert verb == "manifest" or last_arguments(tmp_path) == ["version"]


@pytest.mark.parametrize("printed", ["'(devel)'", "''", r"'\033[2J'"])
def test_a_crane_of_unknown_version_is_used_with_one_warning(
    fake: Maker, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake(ANSWERS.format(f"printf {printed}"), needs_version=True) as runner:
        for _ in range(2):
            assert runner.document("manifest", "r/r:t") == b"document\n"
    said = capsys.readouterr().err
    assert said.count("WARNING: the version of crane is unknown") == 1
    assert "v0.21.9" in said
    assert "\x1b" not in said


def test_a_crane_without_a_version_is_an_error(fake: Maker) -> None:
    with (
        fake(ANSWERS.format("exit 1"), needs_version=True) as runner,
        pytest.raises(KontextError, match="crane version failed: it gave no reason"),
    ):
        document(runner)


# --- A registry that is busy ---

BUSY = "Error: GET https://r.io/v2/: unexpected status code 429 Too Many Requests"


def busy(directory: Path, times: int, answer: str = "echo document") -> str:
    """Return the body of a crane that is refused so many times."""
    count = f"'{directory}/count'"
    return (
        f"echo >>{count}\n[ $(wc -l <{count}) -gt {times} ] || {{ echo '{BUSY}' >&2; exit 1; }}\n"
        f"{answer}"
    )


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_FIRST_PAUSE", 0.01)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("way", ["run", "document", "stream"])
def test_a_busy_registry_is_asked_again(
    fake: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    with fake(busy(tmp_path, 3, "echo pushed >&2; echo document"), timeout=60) as runner:
        if way == "run":
            output, messages = runner.run("push", "/l", "r.io/r:t")
            assert messages.count(b"429") == 3, "what was uploaded before counts too"
            assert messages.endswith(b"pushed\n")
        elif way == "document":
            output = runner.document("manifest", "r.io/r:t")
        else:
            with runner.stream("blob", "r.io/r@x") as stdout:
                output = stdout.read()
    assert output == b"document\n"
    said = capsys.readouterr().err
    assert said.count("r.io accepts no more requests for now") == 1
    assert "waits, and tries again" in said


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_registry_that_stays_busy_is_an_error_after_the_timeout(
    way: Callable[[CraneRunner], None], fake: Maker, tmp_path: Path
) -> None:
    with (
        fake(busy(tmp_path, 10_000), timeout=0.5) as runner,
        pytest.raises(Busy, match="accepts no more requests") as raised,
    ):
        way(runner)
    assert "--timeout" in raised.value.hint
    assert (tmp_path / "count").read_text().count("\n") > 3


def test_a_pause_ends_with_the_runner(fake: Maker, tmp_path: Path) -> None:
    """As after Ctrl-C, while a thread waits to ask again."""
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            runner.run("tag", "r/r", "t")
        except KontextError as error:
            raised.append(error)

    with fake(busy(tmp_path, 10_000), timeout=600) as runner:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not runner._has_told_busy:
            assert time.monotonic() < deadline
    thread.join(1)
    assert [str(error) for error in raised] == ["the command has ended"]


def test_other_errors_are_not_repeated(fake: Maker, tmp_path: Path) -> None:
    body = busy(tmp_path, 10_000).replace("429 Too Many Requests", "503 Service Unavailable")
    with fake(body, timeout=60) as runner, pytest.raises(RegistryError, match="status 503"):
        runner.document("manifest", "r.io/r:t")
    assert (tmp_path / "count").read_text() == "\n"
