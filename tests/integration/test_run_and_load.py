"""`docker kontext run` and `load`: which daemon, whose credentials, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.credentials import answer, install_helper, write_helper
from support.machine import ends_within
from support.services import PASSWORD, Docker, Registry
from support.terminal import terminal
from support.trees import Directory, File, Link, Tree, on_disk, plant

from kontext_plugin.crane import find_crane
from kontext_plugin.engine import daemon
from kontext_plugin.engine.config import DaemonFlags
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import digest_of
from kontext_plugin.registry.base_image import shipped_base
from kontext_plugin.terminal.text import size

pytestmark = pytest.mark.usefixtures("daemon")


TREE: Tree = {
    "file": File(b"content of this test alone\n"),
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "dir": Directory(),
    "dir/link": Link("../file"),
}

IMAGE = f"2 layers, {size(shipped_base('linux/amd64').extractor.layer.size + 500)}"
"""What is said of the image, whose sources take some 500 bytes."""


@pytest.fixture
def tag(docker: Docker, registry: Registry, source: Path) -> Iterator[str]:
    name = f"{registry.repository()}:v1"
    image = docker.push(name, source).image
    yield name
    docker("image", "rm", "--force", name, image)


def inspected(name: str) -> dict[str, Any]:
    """What the daemon says of an image or a container; nothing if that has just gone."""
    done = subprocess.run(["docker", "inspect", name], capture_output=True)
    (found,) = json.loads(done.stdout) or [{}]
    assert isinstance(found, dict)
    return found


def containers(below: Path) -> list[dict[str, Any]]:
    """Those that were made for a workspace below a directory."""
    listed = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", "name=kontext-"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        found
        for found in map(inspected, listed.stdout.split())
        if any(Path(mount["Source"]).is_relative_to(below) for mount in found.get("Mounts", ()))
    ]


@pytest.fixture(autouse=True)
def _no_container_stays(daemon: str, tmp_path: Path) -> Iterator[None]:
    yield
    assert containers(tmp_path) == []


# load


def test_load_puts_the_image_into_the_daemon(docker: Docker, tag: str) -> None:
    loaded = docker("kontext", "load", tag)
    assert loaded.code == 0, loaded.stderr
    assert loaded.stdout.strip() in inspected(tag)["RepoDigests"]
    assert loaded.stderr.splitlines() == [f"Pulling {tag}: {IMAGE}", f"Loaded {tag}"]

    again = docker("kontext", "load", "--quiet", tag)
    assert (again.stdout, again.stderr) == (loaded.stdout, "")


def test_an_image_can_be_loaded_by_digest(docker: Docker, tag: str, source: Path) -> None:
    image = docker.push(tag, source).image
    assert docker("kontext", "load", image).image == image
    assert image in inspected(image)["RepoDigests"]


def test_a_loaded_tag_follows_the_registry(docker: Docker, tag: str, source: Path) -> None:
    docker("kontext", "load", tag)
    (source / "file").write_text("edited\n")
    image = docker.push(tag, source).image
    assert docker("kontext", "load", tag).image == image
    assert image in inspected(tag)["RepoDigests"]
    docker("image", "rm", "--force", image)


# Credentials


def test_load_uses_a_credential_helper(
    docker: Docker, registry: Registry, tag: str, tmp_path: Path
) -> None:
    install_helper(docker, tmp_path / "bin", answer(registry))
    docker.configure({"credsStore": "test"})
    assert docker("kontext", "load", tag).image


def test_without_an_answer_of_the_helper_no_other_credentials_are_used(
    docker: Docker,
    registry: Registry,
    source: Path,
    tag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docker asks nobody else then; its SDK would, and load what a push may not touch."""
    image = docker.push(tag, source).image
    write_helper(tmp_path / "bin", "echo 'credentials not found in native keychain'; exit 1")
    settings = json.loads((docker.config / "config.json").read_text())
    docker.configure(settings | {"credHelpers": {registry.host: "test"}})
    monkeypatch.setenv("DOCKER_CONFIG", str(docker.config))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    credentials = find_crane().credentials(registry.host)
    assert credentials is None
    with pytest.raises(KontextError, match="cannot pull"):
        daemon.connect(DaemonFlags()).pull(image, credentials)


def test_a_pull_that_the_daemon_cannot_do_is_an_error(
    docker: Docker, registry: Registry, crane: Callable[..., bytes], tag: str, source: Path
) -> None:
    """The registry has lost a layer that nobody looked into before."""
    (source / "own").write_text(tag)  # the daemon has it from no other test
    docker.push(tag, source, "--fresh")
    lost = json.loads(crane("manifest", tag))["layers"][-2]["digest"]
    (source / "file").write_text("edited\n")
    docker.push(tag, source, "--reuse", "always")
    assert json.loads(crane("manifest", tag))["layers"][-3]["digest"] == lost
    registry.blob(lost).unlink()
    loaded = docker("kontext", "load", tag)
    assert (loaded.code, loaded.stdout) == (1, "")
    assert f"ERROR: the Docker daemon at {os.environ['DOCKER_HOST']} cannot pull " in loaded.stderr
    assert "Traceback" not in loaded.stderr


def test_load_shows_no_secret(docker: Docker, registry: Registry, tag: str) -> None:
    loaded = docker("-D", "kontext", "load", tag)
    assert "crane auth get" in loaded.stderr
    assert PASSWORD not in loaded.stderr + loaded.stdout


# Which daemon


def test_load_asks_the_daemon_that_docker_asks(docker: Docker, tag: str, tmp_path: Path) -> None:
    """Each way to name the daemon wins over the ones after it, as with docker itself."""
    here, nowhere = os.environ["DOCKER_HOST"], f"unix://{tmp_path}/nowhere.sock"
    for name, host in (("here", here), ("nowhere", nowhere)):
        made = docker("context", "create", name, "--docker", f"host={host}")
        assert made.code == 0, made.stderr

    def asks(*flags: str, **environment: str) -> str:
        """The daemon that docker asks; Kontext must ask the same one."""
        variables = {"DOCKER_HOST": "", "DOCKER_CONTEXT": "", **environment}
        command = Docker(docker.config, variables)
        right = command(*flags, "version").code == 0
        loaded = command(*flags, "kontext", "load", tag)
        assert (loaded.code == 0) == right, loaded.stderr
        if not right:
            assert f"no Docker daemon answers at {nowhere}: No such file" in loaded.stderr
            assert "Traceback" not in loaded.stderr
        return "here" if right else "nowhere"

    assert asks("--host", here, DOCKER_HOST=nowhere) == "here"
    assert asks("-H", nowhere, DOCKER_HOST=here) == "nowhere"
    assert asks("--context", "here", DOCKER_HOST=nowhere) == "here"
    assert asks("-c", "nowhere", DOCKER_CONTEXT="here") == "nowhere"
    assert asks(DOCKER_HOST=here, DOCKER_CONTEXT="nowhere") == "here"
    assert asks(DOCKER_CONTEXT="here") == "here"
    assert docker("context", "use", "nowhere").code == 0
    assert asks() == "nowhere"
    assert asks(DOCKER_CONTEXT="here") == "here"
    assert asks("--context", "default", DOCKER_HOST=here) == "here"


class Between:
    """Takes connections, and passes them on to the daemon's socket."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.creating = threading.Event()  # somebody has asked for a container
        self.created = threading.Event()  # the daemon has made it
        self.stopping = threading.Event()  # somebody has asked it to stop the container
        self.delay = 0.0  # seconds that each of these requests takes
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                try:
                    client, _ = self.listening.accept()
                except ssl.SSLError:  # a client that we would not have
                    continue
                daemon = socket.socket(socket.AF_UNIX)
                daemon.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))
                for ends in ((client, daemon), (daemon, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if b"/containers/create" in data:
                    self.creating.set()
                    time.sleep(self.delay)
                if b"/stop?" in data:
                    self.stopping.set()
                    time.sleep(self.delay)
                if self.creating.is_set() and b" 201 Created" in data:
                    self.created.set()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_the_daemon_may_be_reached_by_tls(
    docker: Docker, tag: str, certificate: tuple[Path, Path]
) -> None:
    """Both sides show a certificate: --tls*, DOCKER_TLS_VERIFY with DOCKER_CERT_PATH, a context."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(*certificate)
    settings.load_verify_locations(certificate[0])
    settings.verify_mode = ssl.CERT_REQUIRED
    own, key = map(str, certificate)
    docker.environment["REQUESTS_CA_BUNDLE"] = "/etc/ssl/certs/ca-certificates.crt"  # not for this
    files = {"ca": own, "cert": own, "key": key}
    with settings.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as server:
        Between(server)
        host = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        flags = [
            f"--tls{name}={file}" for name, file in (("cacert", own), *list(files.items())[1:])
        ]
        assert docker("--tlsverify", *flags, "-H", host, "kontext", "load", tag).image

        by_variables = Docker(
            docker.config, docker.environment | {"DOCKER_HOST": host, "DOCKER_TLS_VERIFY": "1"}
        )
        refused = by_variables("kontext", "load", tag)
        assert refused.code == 1
        assert "no Docker daemon answers" in refused.stderr
        folder = docker.config / "certificates"
        folder.mkdir()
        for name, file in files.items():
            (folder / f"{name}.pem").symlink_to(file)
        by_variables.environment["DOCKER_CERT_PATH"] = str(folder)
        assert by_variables("kontext", "load", tag).image

        points = ",".join([f"host={host}", *(f"{name}={file}" for name, file in files.items())])
        assert docker("context", "create", "secure", "--docker", points).code == 0
        assert docker("--context", "secure", "kontext", "load", tag).image


# run


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "a workspace, and:more"
    directory.mkdir()
    return directory


def test_run_writes_the_sources_into_the_workspace(
    docker: Docker, tag: str, workspace: Path
) -> None:
    ran = docker("kontext", "run", tag, "--workspace", str(workspace), "--", "--verify")
    assert ran.code == 0, ran.stderr
    assert ran.stdout == (
        'kontext: 3 files: 3 written, 0 already right, verified in "/workspace"\n'
    )
    assert ran.stderr == (
        f"Pulling {tag}: {IMAGE}\n"
        f"Mounting '{workspace}' as /workspace, for user {os.geteuid()}:{os.getegid()}\n"
    )
    assert on_disk(workspace) == TREE
    assert {path.lstat().st_uid for path in workspace.rglob("*")} == {os.geteuid()}


def test_the_workspace_defaults_to_the_current_directory(
    docker: Docker, tag: str, workspace: Path
) -> None:
    assert docker("kontext", "run", tag, cwd=workspace).code == 0
    assert on_disk(workspace) == TREE


def test_run_creates_the_workspace(docker: Docker, tag: str, tmp_path: Path) -> None:
    assert docker("kontext", "run", "-w", "new", tag, "--", "--mirror", cwd=tmp_path).code == 0
    assert on_disk(tmp_path / "new") == TREE
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


def test_no_workspace_is_created_for_a_daemon_on_another_machine(
    docker: Docker, tag: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        Between(server)
        docker.environment["DOCKER_HOST"] = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        ran = docker("kontext", "run", "-w", "new", tag, cwd=tmp_path)
    assert ran.code == 1
    assert "on the machine of tcp://127.0.0.1" in ran.stderr
    assert "new" in ran.stderr.splitlines()[-2]
    assert not (tmp_path / "new").exists()


def test_run_with_mirror_keeps_a_repository(docker: Docker, tag: str, workspace: Path) -> None:
    repository: Tree = {".git": Directory(), ".git/HEAD": File(b"ref")}
    plant(workspace, {**repository, "new": File(b"x")})
    ran = docker("kontext", "run", tag, "--", "--mirror", cwd=workspace)
    assert ran.code == 0, ran.stderr
    assert on_disk(workspace) == {**TREE, **repository}


def test_run_writes_as_the_given_user(docker: Docker, tag: str, workspace: Path) -> None:
    os.chown(workspace, 4321, 8765)
    assert docker("kontext", "run", "-u", "4321:8765", tag, cwd=workspace).code == 0
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in workspace.rglob("*")}
    assert owners == {(4321, 8765)}


def test_root_replaces_files_of_other_users(docker: Docker, tag: str, workspace: Path) -> None:
    """Whoever has no more than a user's rights could not, and root expects it."""
    plant(workspace, {"file": File(b"another's\n")})
    for path in (workspace, workspace / "file"):
        os.chown(path, 4321, 4321)
    ran = docker("kontext", "run", tag, cwd=workspace)
    assert ran.code == 0, ran.stderr
    assert on_disk(workspace) == TREE


def test_run_exits_with_the_code_of_the_extractor(
    docker: Docker, tag: str, workspace: Path
) -> None:
    ran = docker("kontext", "run", "-q", tag, "--", "--nope", cwd=workspace)
    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.startswith('kontext: unknown option "--nope"\n')
    os.chown(workspace, 1, 1)
    workspace.chmod(0o700)
    ran = docker("kontext", "run", "-q", "-u", "4321", tag, cwd=workspace)
    assert ran.code == 1
    assert "permission denied" in ran.stderr


def test_an_image_for_another_platform_runs_or_is_an_error(
    docker: Docker, registry: Registry, source: Path, workspace: Path
) -> None:
    own = docker("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}").stdout.strip()
    (other,) = {"linux/amd64", "linux/arm64"} - {own}
    tag = registry.repository() + ":other"
    assert docker.push(tag, source, "--platform", other).image
    ran = docker("kontext", "run", tag, cwd=workspace)
    if ran.code == 0:  # it emulates that one
        assert on_disk(workspace) == TREE
    else:
        assert f"for {other}, but the daemon runs {own}" in ran.stderr


def test_only_images_of_kontext_are_run(
    docker: Docker, registry: Registry, crane: Callable[..., bytes], tag: str, workspace: Path
) -> None:
    """Neither an image without sources, nor one that would run something else with them."""
    other, changed = registry.repository(), registry.repository()
    (workspace / "file").write_text("mine")
    layer = workspace.parent / "layer.tar"
    subprocess.run(["tar", "-cf", layer, "-C", workspace, "file"], check=True)
    crane("append", "--new_layer", str(layer), "--new_tag", other)
    crane("mutate", tag, "--entrypoint", "/bin/sh", "--tag", changed)
    for name, message in (
        (other, "is not an image of Kontext's"),
        (changed, "is not Kontext's extractor"),
    ):
        ran = docker("kontext", "run", name, cwd=workspace)
        assert (ran.code, ran.stdout) == (1, "")
        assert message in ran.stderr
    assert (workspace / "file").read_text() == "mine"


# An image whose extractor is not ours: it looks about, and does not end when it is told to.

HOSTILE = """package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM)
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\\n") {
		for _, key := range []string{"CapBnd", "CapEff", "NoNewPrivs", "Uid"} {
			if strings.HasPrefix(line, key + ":") {
				fmt.Println(strings.Join(strings.Fields(line), " "))
			}
		}
	}
	links, _ := net.Interfaces()
	for _, link := range links {
		fmt.Println("link", link.Name)
	}
	fmt.Println("root", os.WriteFile("/new", nil, 0o600))
	fmt.Fprintln(os.Stderr, "\\x1b]0;owned\\x07 d\\xc3\\xa9j\\xc3\\xa0")
	os.WriteFile("/workspace/waiting", nil, 0o600)
	time.Sleep(time.Hour)
}
"""


@pytest.fixture(scope="session")
def hostile_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "main.go").write_text(HOSTILE)
    subprocess.run(
        ["go", "build", "-o", "kontext-extractor", "main.go"],
        cwd=folder,
        env=os.environ | {"CGO_ENABLED": "0"},
        check=True,
    )
    subprocess.run(["tar", "-czf", "layer.tar.gz", "kontext-extractor"], cwd=folder, check=True)
    return folder / "layer.tar.gz"


@pytest.fixture
def hostile(
    registry: Registry,
    crane: Callable[..., bytes],
    docker: Docker,
    tag: str,
    tmp_path: Path,
    hostile_layer: Path,
) -> Iterator[str]:
    """Kontext's by all that can be seen of it: the sources, and an annotated top layer."""
    name = f"{registry.repository()}:v1"
    document = json.loads(crane("manifest", tag))
    sources = tmp_path / "sources.tar.gz"
    repository = tag.rpartition(":")[0]
    sources.write_bytes(crane("blob", f"{repository}@{document['layers'][0]['digest']}"))
    crane("append", "--oci-empty-base", "-f", str(sources), "-f", str(hostile_layer), "-t", name)
    named = document["annotations"] | {
        "dev.kontext.extractor": digest_of(hostile_layer.read_bytes())
    }
    settings = ["--entrypoint", "/kontext-extractor", "--workdir", "/workspace"]
    settings += ["--set-platform", "linux/amd64"]
    annotations = [f"--annotation={k}={v}" for k, v in named.items()]
    crane("mutate", name, *settings, *annotations, "--tag", name)
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture
def start(docker: Docker, workspace: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`docker kontext run` of an image that waits, once it does."""
    running = []

    def run(image: str, *options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["docker", "kontext", "run", *options, image],
            cwd=workspace,
            env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        running.append(process)
        assert ends_within(60, (workspace / "waiting").exists)
        return process

    yield run
    for process in running:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("options", "capabilities"),
    [((), 1 << 1 | 1 << 3), (("--user", "4321:4321"), 0)],
    ids=["root", "another user"],
)
def test_a_container_has_no_more_rights_than_it_needs(
    hostile: str,
    workspace: Path,
    start: Callable[..., subprocess.Popen[bytes]],
    options: tuple[str, ...],
    capabilities: int,
) -> None:
    workspace.chmod(0o777)
    process = start(hostile, "--quiet", *options)
    (found,) = containers(workspace)
    settings = found["HostConfig"]
    assert 0 < settings["PidsLimit"] <= 1024
    assert settings["LogConfig"]["Type"] == "none"
    assert len(found["Mounts"]) == 1

    process.terminate()
    said, complained = (text.decode().splitlines() for text in process.communicate(timeout=20))
    user = 4321 if options else os.geteuid()
    assert f"Uid: {user} {user} {user} {user}" in said
    assert f"CapBnd: {capabilities:016x}" in said
    assert f"CapEff: {capabilities:016x}" in said
    assert "NoNewPrivs: 1" in said
    assert [line for line in said if line.startswith("link ")] == ["link lo"]
    assert "root open /new: read-only file system" in said
    assert complained == [r"\x1b]0;owned\x07 déjà", "Interrupted"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_docker_ends_the_container(
    hostile: str,
    workspace: Path,
    start: Callable[..., subprocess.Popen[bytes]],
    number: signal.Signals,
) -> None:
    """Without a terminal docker sends no signal; and this container heeds none."""
    process = start(hostile)
    assert containers(workspace)
    process.send_signal(number)
    process.communicate(timeout=4)
    assert process.returncode == 130
    assert not containers(workspace)


def test_ctrl_c_on_a_terminal_ends_the_container(
    docker: Docker, hostile: str, workspace: Path
) -> None:
    command = ["docker", "kontext", "run", "-w", str(workspace), hostile]
    with terminal(command, os.environ | {"DOCKER_CONFIG": str(docker.config)}) as screen:
        assert ends_within(60, (workspace / "waiting").exists)
        screen.press_ctrl_c()
        assert screen.ends() == 130, screen.sent
    assert b"Traceback" not in screen.sent
    assert b"\x1b]0" not in screen.sent


def test_run_ends_if_nobody_reads_its_output(
    hostile: str, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(hostile)
    assert process.stdout is not None
    process.stdout.close()
    process.terminate()
    assert process.wait(20) != 0


@contextlib.contextmanager
def slow_run(
    docker: Docker, image: str, workspace: Path, host: Path
) -> Iterator[tuple[Between, subprocess.Popen[bytes]]]:
    """`docker kontext run` with a daemon that takes half a second to make or stop containers."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(host))
        listening.listen()
        between = Between(listening)
        between.delay = 0.5
        process = subprocess.Popen(
            ["docker", "--host", f"unix://{host}", "kontext", "run", image],
            cwd=workspace,
            env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        yield between, process


def test_a_container_that_comes_late_is_removed(
    docker: Docker, tag: str, workspace: Path, tmp_path: Path
) -> None:
    """Interrupted before the daemon has made it."""
    with slow_run(docker, tag, workspace, tmp_path / "between.sock") as (between, process):
        assert between.creating.wait(60)
        process.terminate()
        _, messages = process.communicate(timeout=10)
        assert process.returncode == 130, messages
        assert between.created.wait(60)


def test_a_container_is_removed_though_that_is_interrupted(
    docker: Docker, tag: str, workspace: Path, tmp_path: Path
) -> None:
    with slow_run(docker, tag, workspace, tmp_path / "between.sock") as (between, process):
        assert between.stopping.wait(60)
        process.terminate()
        _, messages = process.communicate(timeout=10)
        assert process.returncode == 130, messages
