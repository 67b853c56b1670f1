"""scripts/bench: each row is measured, or says why not."""

from __future__ import annotations

import os
import re
import shutil
import socket
import socketserver
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.scripts import run_script
from support.slow_line import LATE, line
from support.trees import File, Tree, on_disk, plant

# Each row of the benchmarks: what was measured, and beside what.
ROWS = [
    ("no change", "git status"),
    ("crane processes", ""),
    ("one file edited", "git status"),
    ("one file edited", "tar | crane append"),
    ("uploaded for an edit", ""),
    ("1 % of the files changed", "git status"),
    ("300 files, 2 MB", "tar | crane append"),
    ("300 files, 2 MB: the time", ""),
    ("from a saved file to the moved tag", ""),
    ("of it, beside crane and the gathering", ""),
    ("memory at rest", ""),
    ("processor time at rest", ""),
    ("no cache", "sha256sum of all files"),
    ("downloaded without a cache", "the manifest, compressed"),
    ("first push", "tar | crane append"),
    ("first push", "docker build, docker push"),
    ("first push", "buildah bud, buildah push"),
    ("first push", "tar.gz, oras push"),
    ("first push, zstd", "tar | crane append"),
    ("size, zstd", "gzip"),
    ("uploaded by a fresh start", "the first push"),
    ("a fresh start", ""),
    ("slow line: no change", "the same on loopback"),
    ("slow line: edit", "the same on loopback"),
    ("slow line: first push", "tar | crane append"),
    ("slow line: first push", "its layers at 50 Mbit/s"),
    ("slow line: bytes, no change", ""),
    ("slow line: bytes, edit", ""),
    ("slow line: bytes, first push", "tar | crane append"),
    ("verify", "crane export, tar -x"),
    ("pull", "crane export, tar -x"),
    ("purge", "crane export, tar -x"),
    ("extraction", "cp -a"),
    ("extraction, already right", "cp -a"),
    ("extraction, already right", "the first extraction"),
    ("memory: first push", "tar | crane append"),
    ("memory: one file edited", "git status"),
    ("memory: no change", "git status"),
    ("memory: a file of 8.00 MB", "a file of 500.0 kB"),
    ("docker --help", "without the plugin"),
    ("docker kontext push --help", "the start of Python"),
    ("9 files: no change", "git status"),
    ("9 files: one file edited", "git status"),
    ("9 files: one file edited, memory", "git status"),
    ("9 files: first push, memory", "tar | crane append"),
    ("9 files: one file edited", "tar | crane append"),
    ("9 files: first push", "tar | crane append"),
    ("30 files: no change", "git status"),
    ("30 files: one file edited", "git status"),
    ("30 files: one file edited, memory", "git status"),
    ("30 files: first push, memory", "tar | crane append"),
    ("30 files: one file edited", "tar | crane append"),
    ("30 files: first push", "tar | crane append"),
]


NEEDED = {
    "docker build, docker push": "dockerd",
    "buildah bud, buildah push": "buildah",
    "tar.gz, oras push": "oras",
    "cp -a": "dockerd",
    "the first extraction": "dockerd",
}


SVG = "{http://www.w3.org/2000/svg}"
SMALL: Tree = {f"{part}/{name}.py": File(b"a = 1\n" * 99) for part in "abc" for name in "xyz"}


def rows_of(document: str) -> dict[tuple[str, str], list[str]]:
    """The cells of each row of its tables, but for those of the profile."""
    lines = [line for line in document.splitlines() if line.startswith("| ") and "`" not in line]
    cells = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines]
    found = {}
    for what, ours, *others in cells:
        if len(others) == 6 and what:
            found[what, others[0].replace("\\|", "|").strip("–")] = [ours, *others[1:]]
    return found


def flat(text: str) -> str:
    return " ".join(text.split())


def is_here(program: str) -> bool:
    return bool(shutil.which(program)) and (program == "oras" or os.geteuid() == 0)


def test_a_benchmark_measures_every_row(tmp_path: Path) -> None:
    plant(tmp_path / "tree", SMALL)
    sizes = ("--large", 8, "--sizes", "9,30")
    arguments = ("--tree", "tree", "--runs", 1, *sizes, "--write", "bench.md")
    done = run_script("bench", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "bench.md").read_text()
    assert written == done.stdout
    assert (
        "`scripts/bench --tree TREE --runs 1 --large 8 --sizes 9,30 --write bench.md`: 9"
        in flat(written)
    )
    assert str(tmp_path) not in written
    assert "](growth.svg)" in written
    assert_draws(tmp_path / "growth.svg", sizes=2)
    found = rows_of(written)
    assert [*found] == ROWS
    for (what, against), (ours, theirs, ratio, target, reached, _) in found.items():
        needed = NEEDED.get(against)
        if needed and not is_here(needed):
            assert ours.startswith("not measured: "), what
            continue
        assert re.search(r"[1-9]", ours), what
        assert (against == "") == (theirs == "–"), what
        assert theirs == "–" or re.search(r"[1-9]", theirs), what
        assert re.fullmatch(r"–|yes|\*\*no\*\*: \d+% (above|below)", reached), what
        assert (target == "–") == (reached == "–"), what
        missed = f"{what} ({against}): {reached.removeprefix('**no**: ')}"
        assert "no" not in reached or not against or missed in flat(written)
        assert ratio == "–" or re.search(r"\d", ratio), what
    assert re.search(r"\| `kontext_plugin/cli/main.py:main` \| 1 \| \d", written)
    assert on_disk(tmp_path / "tree") == on_disk(tmp_path / "tree") | SMALL


def assert_draws(picture: Path, sizes: int) -> None:
    """Hold that it has a line for each measurement, a dashed one for each peer, and names them."""
    drawn = ElementTree.parse(picture).getroot()
    lines = [line.attrib for line in drawn.iter(f"{SVG}polyline") if line.get("points")]
    graphs = [line for line in lines if len(set(line["points"].split())) == sizes]
    times, memory, legend = 5, 4, 5
    # git's status of a few files may end before its memory is looked at.
    assert times + memory - 1 <= len(graphs) - legend <= times + memory
    names = [text.text for text in drawn.iter(f"{SVG}text")]
    for name in ("no change", "one file edited", "first push", "tar | crane append", "files"):
        assert name in names
    assert {line["stroke"] for line in graphs if "peer" in line["class"]}.isdisjoint(
        line["stroke"] for line in graphs if "peer" not in line["class"]
    )


def test_a_benchmark_names_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "git", "readlink", "sh", "tar"):
        (programs / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(programs))
    plant(tmp_path / "tree", SMALL)
    rows = ("--rows", "first,extraction,help")
    done = run_script("bench", "--tree", "tree", "--runs", 1, *rows, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = rows_of(done.stdout)
    assert re.match(r"\d+\.\d+ s", found["first push", "tar | crane append"][0])
    for what, program in (
        (("first push", "docker build, docker push"), "dockerd"),
        (("first push", "buildah bud, buildah push"), "buildah"),
        (("first push", "tar.gz, oras push"), "oras"),
        (("extraction", "cp -a"), "dockerd"),
        (("docker --help", ""), "docker"),
    ):
        assert found[what][0] == f"not measured: {program} is not installed"


def test_a_benchmark_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "sha256sum"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    plant(tmp_path / "tree", SMALL)
    rows = ("--rows", "without-cache,unchanged")
    done = run_script("bench", "--tree", "tree", "--runs", 1, *rows, cwd=tmp_path)
    assert done.returncode == 1
    assert "it is broken" in done.stdout
    assert ("no change", "git status") in rows_of(done.stdout)


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read())


@pytest.mark.parametrize(("round_trip", "rate"), [(0.1, 1e6), (0.0, float("inf"))])
def test_the_slow_line_counts_its_bytes_and_takes_its_time(round_trip: float, rate: float) -> None:
    content = os.urandom(300_000)
    with socketserver.TCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with line(f"127.0.0.1:{server.server_address[1]}", round_trip, rate) as made:
            started = time.monotonic()
            host, _, port = made.host.partition(":")
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                with connection.makefile("rb") as back:
                    assert back.read() == content
            took = time.monotonic() - started
            assert (made.up.carried, made.down.carried) == (len(content), len(content))
        thread.join()
    least = 2 * round_trip + 2 * len(content) / rate  # opening, there and back; all there first
    assert least - 2 * LATE <= took < least + 3
