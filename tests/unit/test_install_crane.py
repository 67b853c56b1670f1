"""scripts/install-crane, against a mirror on 127.0.0.1 and fake programs on a PATH of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install-crane"
ARCHIVE = "go-containerregistry_Linux_x86_64.tar.gz"
ARCHIVE_PATH = f"/v0.21.9/{ARCHIVE}"

FROM_PATH = "#!/bin/sh\n# from PATH\necho v0.21.9\n"
FROM_RELEASE = "#!/bin/sh\n# from the release\necho 0.21.9\n"
FROM_GO = "#!/bin/sh\n# from Go\necho v0.21.9\n"
OLD = "#!/bin/sh\n# old\necho v0.21.8\n"

Answer = Callable[[BaseHTTPRequestHandler], None]


def load_script() -> Any:
    name = "install_crane"
    loader = SourceFileLoader(name, str(SCRIPT))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def regular(name: str, text: str = FROM_RELEASE) -> tuple[tarfile.TarInfo, bytes]:
    content = text.encode()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


def folder_member(name: str) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member, b""


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


GOOD = archive_of(regular("LICENSE", "text"), regular("crane"), regular("gcrane", "other"))


def sends(body: bytes, length: int | None = None, status: int = 200) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        request.wfile.write(body)

    return answer


def redirects(location: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", location)
        request.end_headers()

    return answer


@dataclass
class Mirror:
    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def stalls(self, first: bytes = b"") -> Answer:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.wfile.write(first)
            self.closing.wait(30)

        return answer


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            state.answers.get(self.path, sends(b"no such file", status=404))(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state = Mirror(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            server.shutdown()
            thread.join()


@dataclass
class Place:
    """What one test sees: a FOLDER to fill, a PATH with fakes, and the script as a module."""

    script: Any
    folder: Path
    bin: Path
    go_calls: Path
    capfd: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = self.script.main(["--to", str(self.folder), *arguments])
        out, err = self.capfd.readouterr()
        return code, out, err

    def pin(self, archive: bytes) -> None:
        pins = {"Linux_x86_64": hashlib.sha256(archive).hexdigest()}
        self.monkeypatch.setattr(self.script, "PINNED", pins)

    def fake_go(self, makes: str | None = FROM_GO) -> None:
        """Notes its arguments and environment; fails if it makes nothing."""
        build = "exit 1" if makes is None else f"cat > \"$GOBIN/crane\" <<'END'\n{makes}END"
        note = f'echo "$* cgo=$CGO_ENABLED os=$GOOS" >> "{self.go_calls}"'
        text = f"#!/bin/sh\n{note}\nPATH=/bin:/usr/bin\n{build}\n"
        program(self.bin / "go", text)

    @property
    def go_was_called(self) -> bool:
        return self.go_calls.exists()

    def content(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.iterdir()}

    def is_untouched(self) -> bool:
        return not self.folder.exists() or self.content() == {}


@pytest.fixture
def place(
    tmp_path: Path,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Place:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies it first saw
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("KONTEXT_CRANE_RELEASES", mirror.url)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    folder = tmp_path / "a folder" / "bin"
    calls = tmp_path / "go-calls"
    return Place(load_script(), folder, path, calls, capfd, monkeypatch)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        pytest.param("v0.21.9", True, id="minimum"),
        pytest.param("0.21.9", True, id="without v"),
        pytest.param("v0.21.10", True, id="compared as numbers"),
        pytest.param("v1.0.0", True, id="major"),
        pytest.param("v0.21.9+dirty", True, id="build metadata"),
        pytest.param("v0.21.10-0.20260801120000-0123456789ab", True, id="pseudo after"),
        pytest.param("v0.21.10-0.20260801120000-0123456789ab+dirty", True, id="pseudo dirty"),
        pytest.param("v0.21.9-0.20260101120000-0123456789ab", False, id="pseudo before"),
        pytest.param("v0.0.0-20260801120000-0123456789ab", False, id="pseudo without a tag"),
        pytest.param("v0.21.9-rc.1", False, id="candidate"),
        pytest.param("v0.21.8", False, id="patch before"),
        pytest.param("v0.9.10", False, id="minor before"),
        pytest.param("(devel)", None, id="devel"),
        pytest.param("", None, id="empty"),
        pytest.param("v0.21", None, id="two numbers"),
        pytest.param("crane v0.21.9", None, id="prefix"),
        pytest.param("v0.21.9\nmore", None, id="second line"),
        pytest.param("v0." + "9" * 9999 + ".0", None, id="endless number"),
    ],
)
def test_version(version: str, expected: bool | None) -> None:
    assert load_script().is_new_enough(version) is expected


def test_pins_are_whole_digests() -> None:
    pins = load_script().PINNED
    assert len(set(pins.values())) == len(pins) == 4
    assert all(len(bytes.fromhex(pin)) == 32 for pin in pins.values())


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        pytest.param("Linux", "x86_64", "Linux_x86_64", id="linux amd64"),
        pytest.param("Linux", "aarch64", "Linux_arm64", id="linux arm64"),
        pytest.param("Darwin", "x86_64", "Darwin_x86_64", id="mac intel"),
        pytest.param("Darwin", "arm64", "Darwin_arm64", id="mac arm"),
    ],
)
def test_release_of_a_platform(
    system: str, machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.delenv("KONTEXT_CRANE_RELEASES", raising=False)
    script = load_script()
    release = script.current_release()
    assert release.url == (
        "https://github.com/google/go-containerregistry/releases/download/v0.21.9/"
        f"go-containerregistry_{name}.tar.gz"
    )
    assert release.sha256 == script.PINNED[name]


# The release archive


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(GOOD, id="as released"),
        pytest.param(archive_of(regular("../evil", "x"), regular("crane")), id="traversal"),
        pytest.param(archive_of(regular("sub/crane", OLD), regular("crane")), id="namesake"),
        pytest.param(
            archive_of(link("out", "/", tarfile.SYMTYPE), regular("out/x", "x"), regular("crane")),
            id="below a link",
        ),
    ],
)
def test_release(archive: bytes, place: Place, mirror: Mirror) -> None:
    place.fake_go()
    place.pin(archive)
    mirror.answers[ARCHIVE_PATH] = sends(archive)
    code, out, _ = place.run()
    assert (code, out) == (0, f"{place.folder}/crane\n")
    assert place.content() == {"crane": FROM_RELEASE}
    assert (place.folder / "crane").stat().st_mode & 0o7777 == 0o755
    assert [path.name for path in place.folder.parent.iterdir()] == ["bin"]
    assert not place.go_was_called


def test_release_behind_a_redirect(place: Place, mirror: Mirror) -> None:
    place.pin(GOOD)
    mirror.answers[ARCHIVE_PATH] = redirects(f"{mirror.url}/elsewhere")
    mirror.answers["/elsewhere"] = sends(GOOD)
    assert place.run()[0] == 0
    assert place.content() == {"crane": FROM_RELEASE}


def test_release_through_a_proxy(place: Place, mirror: Mirror) -> None:
    place.pin(GOOD)
    place.monkeypatch.setenv("http_proxy", mirror.url)
    place.monkeypatch.setenv("KONTEXT_CRANE_RELEASES", "http://mirror.invalid/crane/")
    wanted = f"http://mirror.invalid/crane{ARCHIVE_PATH}"
    mirror.answers[wanted] = sends(GOOD)
    assert place.run()[0] == 0
    assert mirror.requests == [wanted]


@pytest.mark.parametrize(
    "received",
    [
        pytest.param(archive_of(regular("crane", "#!/bin/sh\necho v9.9.9\n")), id="other archive"),
        pytest.param(GOOD[:-1], id="shorter"),
        pytest.param(GOOD + b"\0", id="longer"),
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>Log in</html>", id="log-in page"),
    ],
)
def test_wrong_checksum_ends_it(received: bytes, place: Place, mirror: Mirror) -> None:
    place.fake_go()
    place.pin(GOOD)
    mirror.answers[ARCHIVE_PATH] = sends(received)
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert "wrong checksum, nothing was installed" in err
    assert mirror.url + ARCHIVE_PATH in err
    assert hashlib.sha256(GOOD).hexdigest() in err
    assert hashlib.sha256(received).hexdigest() in err
    assert not place.go_was_called
    assert place.is_untouched()


def test_nothing_is_unpacked_before_the_checksum(place: Place, mirror: Mirror) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("unpacked")

    place.pin(b"another")
    place.monkeypatch.setattr("tarfile.open", fail)
    mirror.answers[ARCHIVE_PATH] = sends(GOOD)
    assert place.run()[0] == 1


def test_endless_archive_is_cut_off(place: Place, mirror: Mirror) -> None:
    place.pin(GOOD)
    place.monkeypatch.setattr(place.script, "MAX_ARCHIVE", len(GOOD) - 1)
    mirror.answers[ARCHIVE_PATH] = sends(GOOD)
    code, _, err = place.run()
    assert code == 1
    assert "wrong checksum" in err


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        pytest.param(archive_of(regular("gcrane")), "no regular file named crane", id="missing"),
        pytest.param(archive_of(), "no regular file named crane", id="empty"),
        pytest.param(
            archive_of(regular("gcrane"), link("crane", "gcrane", tarfile.SYMTYPE)),
            "no regular file named crane",
            id="symbolic link",
        ),
        pytest.param(
            archive_of(regular("gcrane"), link("crane", "gcrane", tarfile.LNKTYPE)),
            "no regular file named crane",
            id="hard link",
        ),
        pytest.param(
            archive_of(folder_member("crane")), "no regular file named crane", id="folder"
        ),
        pytest.param(archive_of(regular("../crane")), "no regular file", id="traversal only"),
        pytest.param(archive_of(regular("crane", "x" * 1001)), "too large: 1001", id="too large"),
        pytest.param(b"junk", "cannot be read", id="no gzip"),
        pytest.param(
            archive_of(regular("crane", "".join(map(chr, range(32, 127)))))[:-60],
            "cannot be read",
            id="cut off",
        ),
    ],
)
def test_bad_archive_ends_it(archive: bytes, message: str, place: Place, mirror: Mirror) -> None:
    place.fake_go()
    place.pin(archive)
    place.monkeypatch.setattr(place.script, "MAX_CRANE", 1000)
    mirror.answers[ARCHIVE_PATH] = sends(archive)
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert message in err
    assert not place.go_was_called
    assert place.is_untouched()
    assert [path.name for path in place.folder.parent.iterdir()] == ["bin"]


# No release archive: Go


def closed_port(place: Place, mirror: Mirror) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    place.monkeypatch.setenv("KONTEXT_CRANE_RELEASES", f"http://127.0.0.1:{port}")


def bad_url(place: Place, mirror: Mirror) -> None:
    place.monkeypatch.setenv("KONTEXT_CRANE_RELEASES", "no URL")


def unknown_machine(place: Place, mirror: Mirror) -> None:
    place.monkeypatch.setattr("platform.machine", lambda: "riscv64")


def not_found(place: Place, mirror: Mirror) -> None:
    mirror.answers.clear()


def server_error(place: Place, mirror: Mirror) -> None:
    mirror.answers[ARCHIVE_PATH] = sends(b"", status=503)


def truncated(place: Place, mirror: Mirror) -> None:
    mirror.answers[ARCHIVE_PATH] = sends(GOOD[:50], length=len(GOOD))


def bad_status_line(place: Place, mirror: Mirror) -> None:
    mirror.answers[ARCHIVE_PATH] = mirror.stalls(b"junk\r\n\r\n")


def silence(place: Place, mirror: Mirror) -> None:
    place.monkeypatch.setattr(place.script, "NETWORK_TIMEOUT", 0.1)
    mirror.answers[ARCHIVE_PATH] = mirror.stalls()


def silence_in_the_body(place: Place, mirror: Mirror) -> None:
    place.monkeypatch.setattr(place.script, "NETWORK_TIMEOUT", 0.1)
    head = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
    mirror.answers[ARCHIVE_PATH] = mirror.stalls(head + GOOD[:50])


def release_of_another_machine(place: Place, mirror: Mirror) -> None:
    archive = archive_of(regular("crane", "\x7fELF of another machine"))
    place.pin(archive)
    mirror.answers[ARCHIVE_PATH] = sends(archive)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        pytest.param(closed_port, "refused", id="connection refused"),
        pytest.param(bad_url, "unknown url type", id="bad URL"),
        pytest.param(unknown_machine, "Linux riscv64; trying Go", id="unknown machine"),
        pytest.param(not_found, "HTTP Error 404", id="404"),
        pytest.param(server_error, "HTTP Error 503", id="503"),
        pytest.param(truncated, f"ended after 50 of {len(GOOD)} bytes", id="truncated"),
        pytest.param(bad_status_line, "junk", id="no HTTP"),
        pytest.param(silence, "timed out", id="stalls before the answer"),
        pytest.param(silence_in_the_body, "timed out", id="stalls in the body"),
        pytest.param(release_of_another_machine, "does not run", id="does not run here"),
    ],
)
def test_go_is_next(
    trouble: Callable[[Place, Mirror], None], message: str, place: Place, mirror: Mirror
) -> None:
    place.fake_go()
    place.pin(GOOD)
    mirror.answers[ARCHIVE_PATH] = sends(GOOD)
    place.monkeypatch.setenv("GOOS", "plan9")
    trouble(place, mirror)
    code, out, err = place.run()
    assert (code, out) == (0, f"{place.folder}/crane\n")
    assert sum(message in line for line in err.splitlines()) == 1
    assert place.content() == {"crane": FROM_GO}
    assert place.go_calls.read_text() == (
        "install github.com/google/go-containerregistry/cmd/crane@v0.21.9 cgo=0 os=\n"
    )


@pytest.mark.parametrize(
    ("go", "message"),
    [
        pytest.param(False, "no go on PATH", id="no Go"),
        pytest.param(True, "go failed", id="Go fails"),
    ],
)
def test_no_way(go: bool, message: str, place: Place) -> None:
    if go:
        place.fake_go(makes=None)
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert message in err
    assert "put a crane of v0.21.9 or newer on PATH" in err
    assert "KONTEXT_CRANE_RELEASES" in err
    assert "install Go" in err
    assert place.is_untouched()


def test_old_crane_of_go_is_refused(place: Place) -> None:
    place.fake_go(makes=OLD)
    code, _, err = place.run()
    assert code == 1
    assert "the new crane is not used: it is v0.21.8, older than v0.21.9" in err
    assert place.is_untouched()


# A crane on PATH


def test_crane_on_path_is_copied(place: Place, mirror: Mirror) -> None:
    original = program(place.bin / "crane", FROM_PATH)
    place.fake_go()
    assert place.run()[:2] == (0, f"{place.folder}/crane\n")
    original.unlink()
    assert place.content() == {"crane": FROM_PATH}
    assert place.run()[:2] == (0, f"{place.folder}/crane\n")
    assert mirror.requests == []
    assert not place.go_was_called


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(OLD, "is v0.21.8, older than v0.21.9", id="too old"),
        pytest.param("#!/bin/sh\necho '(devel)'\n", "its version: '(devel)'", id="devel"),
        pytest.param("#!/bin/sh\necho Hello\n", "its version: 'Hello'", id="junk"),
        pytest.param("#!/bin/sh\nprintf '\\377'\n", "its version: '\ufffd'", id="no text"),
        pytest.param("#!/bin/sh\n", "its version: ''", id="silent"),
        pytest.param("#!/bin/sh\necho v0.21.9; exit 3\n", "ends with 3", id="fails"),
        pytest.param("#!/no/such/program\n", "does not run", id="no interpreter"),
    ],
)
def test_unusable_crane_on_path(text: str, message: str, place: Place, mirror: Mirror) -> None:
    program(place.bin / "crane", text)
    place.pin(GOOD)
    mirror.answers[ARCHIVE_PATH] = sends(GOOD)
    code, _, err = place.run()
    assert code == 0
    assert f"{place.bin}/crane is not used: it" in err
    assert message in err
    assert place.content() == {"crane": FROM_RELEASE}


def test_crane_that_hangs(place: Place) -> None:
    crane = program(place.bin / "crane", "#!/bin/sh\nPATH=/bin:/usr/bin exec tail -f /dev/null\n")
    place.monkeypatch.setattr(place.script, "VERSION_TIMEOUT", 0.1)
    assert "timed out" in place.script.refusal(crane)


def test_second_crane_on_path(place: Place, tmp_path: Path) -> None:
    program(place.bin / "crane", OLD)
    program(tmp_path / "bin2" / "crane", FROM_PATH)
    entries = ["", "/no/such/folder", str(place.bin), str(tmp_path / "bin2")]
    place.monkeypatch.setenv("PATH", os.pathsep.join(entries))
    assert place.run()[0] == 0
    assert place.content() == {"crane": FROM_PATH}


# FOLDER


@pytest.mark.parametrize(
    "arguments", [pytest.param([], id="plain"), pytest.param(["--force"], id="force")]
)
def test_usable_crane_in_folder(arguments: list[str], place: Place, mirror: Mirror) -> None:
    """It is kept, or replaced by --force, which does not take it for one on PATH."""
    program(place.folder / "crane", FROM_GO)
    place.monkeypatch.setenv("PATH", f"{place.folder}{os.pathsep}{place.bin}")
    place.pin(GOOD)
    mirror.answers[ARCHIVE_PATH] = sends(GOOD)
    code, out, err = place.run(*arguments)
    assert (code, out) == (0, f"{place.folder}/crane\n")
    assert place.content() == {"crane": FROM_RELEASE if arguments else FROM_GO}
    assert bool(err) == bool(arguments)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda crane: program(crane, OLD), id="old"),
        pytest.param(lambda crane: crane.write_text(FROM_GO), id="not executable"),
        pytest.param(lambda crane: crane.symlink_to("/no/such/file"), id="dangling link"),
    ],
)
def test_unusable_crane_in_folder_is_replaced(make: Callable[[Path], None], place: Place) -> None:
    place.folder.mkdir(parents=True)
    make(place.folder / "crane")
    program(place.bin / "crane", FROM_PATH)
    assert place.run()[0] == 0
    assert place.content() == {"crane": FROM_PATH}
    assert not (place.folder / "crane").is_symlink()


def test_old_crane_stays_if_the_checksum_is_wrong(place: Place, mirror: Mirror) -> None:
    program(place.folder / "crane", OLD)
    place.pin(b"another")
    mirror.answers[ARCHIVE_PATH] = sends(GOOD)
    assert place.run()[0] == 1
    assert place.content() == {"crane": OLD}


def folder_is_a_file(place: Place) -> None:
    place.folder.parent.mkdir()
    place.folder.write_text("")


def folder_is_below_a_file(place: Place) -> None:
    place.folder.parent.write_text("")


def crane_is_a_folder(place: Place) -> None:
    (place.folder / "crane").mkdir(parents=True)


def folder_takes_no_files(place: Place) -> None:
    place.folder.parent.mkdir()
    place.folder.symlink_to("/proc")  # not even root's


@pytest.mark.parametrize(
    "make", [folder_is_a_file, folder_is_below_a_file, crane_is_a_folder, folder_takes_no_files]
)
def test_folder_that_cannot_be_filled(make: Callable[[Place], None], place: Place) -> None:
    program(place.bin / "crane", FROM_PATH)
    make(place)
    code, out, err = place.run()
    assert (code, out) == (1, "")
    assert f"install-crane: cannot install into {place.folder}: " in err
    if place.folder.is_dir():
        assert not list(place.folder.glob(".crane-*"))


def test_interrupt_leaves_nothing(place: Place) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    program(place.bin / "crane", FROM_PATH)
    place.monkeypatch.setattr("os.replace", interrupt)
    assert place.run()[0] == 130
    assert place.is_untouched()


def test_as_a_program(place: Place, tmp_path: Path) -> None:
    """A relative FOLDER, an absolute path as the whole of stdout."""
    program(place.bin / "crane", FROM_PATH)
    assert os.access(SCRIPT, os.X_OK)
    command = [sys.executable, str(SCRIPT), "--to", "new/bin"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path}/new/bin/crane\n"
