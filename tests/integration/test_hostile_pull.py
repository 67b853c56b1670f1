"""A pull of an image that somebody made to do harm: nothing outside is touched, and it says why."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.layers import NO_FILES
from support.services import Docker, Registry, Result
from support.trees import SOURCES, File, Tree, on_disk, plant

from kontext_plugin.layer import tar

Crane = Callable[..., bytes]
Publish = Callable[[bytes, Iterable[bytes]], str]

MANIFEST = "var/lib/kontext/manifest.json"
OUTSIDE: Tree = {"file": File(b"outside")}
RIGHT = b"right\n"
MB = 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One of a tar archive; zeros follow the content up to the size."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    mode: int = 0o644
    zeros: int = 0


def listed(**files: bytes) -> dict[str, object]:
    """The columns of a manifest of these files."""
    return {
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in files.items()},
        "sizes": [len(files[path]) for path in sorted(files)],
    }


def manifest(**columns: object) -> bytes:
    return json.dumps(NO_FILES | columns, sort_keys=True, separators=(",", ":")).encode()


def headers(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.name)
    info.type, info.linkname, info.mode = entry.kind, entry.target, entry.mode
    info.size = len(entry.content) + entry.zeros
    return info.tobuf(tarfile.PAX_FORMAT)


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    for entry in entries:
        size = len(entry.content) + entry.zeros
        yield headers(entry)
        yield entry.content
        for begin in range(0, entry.zeros, MB):
            yield bytes(min(MB, entry.zeros - begin))
        yield bytes(-size % 512)
    yield bytes(1024)


@pytest.fixture
def publish(crane: Crane, registry: Registry, tmp_path: Path) -> Publish:
    """Makes an image of one layer: a manifest, which the image vouches for, and anything else."""

    def run(document: bytes, entries: Iterable[bytes]) -> str:
        tag = registry.repository() + ":v1"
        layer = tmp_path / "layer.tar.gz"
        with gzip.open(layer, "wb", compresslevel=1) as file:
            file.write(b"".join(archive([Entry(MANIFEST, document)])).removesuffix(bytes(1024)))
            for piece in entries:
                file.write(piece)
        crane("append", "--oci-empty-base", "-f", str(layer), "-t", tag)
        digest = f"sha256:{hashlib.sha256(document).hexdigest()}"
        # The platform: published images have one, and crane's empty base has none.
        crane("mutate", tag, "--set-platform", "linux/amd64", "-t", tag)
        crane("mutate", tag, "--annotation", f"dev.kontext.manifest={digest}", "-t", tag)
        return tag

    return run


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A directory to pull into; all that lies beside it is as it was at the end."""
    folder = tmp_path / "around"
    for name in ("outside", "target"):
        (folder / name).mkdir(parents=True)
    plant(folder / "outside", OUTSIDE)
    yield folder / "target"
    assert sorted(os.listdir(folder)) == ["outside", "target"]
    assert on_disk(folder / "outside") == OUTSIDE


def sources(name: str, *arguments: bytes, **options: object) -> Entry:
    return Entry(f"{SOURCES}/{name}", *arguments, **options)  # type: ignore[arg-type]


IT = manifest(**listed(it=RIGHT))
BELOW = manifest(files={"d": "", "d/it": hashlib.sha256(RIGHT).hexdigest()}, sizes=[len(RIGHT)])
LYING: dict[str, tuple[bytes, list[Entry], str]] = {
    "other content": (IT, [sources("it", b"wrong\n")], "'it' has other content"),
    "more content": (IT, [sources("it", RIGHT + b"x")], "'it' has another size"),
    "a file is missing": (IT, [sources("other", RIGHT)], "'it' is missing"),
    "a directory for a file": (
        IT,
        [sources("it", kind=tarfile.DIRTYPE)],
        "'it': expected a file, found a directory",
    ),
    "a link for a file": (
        IT,
        [sources("it", kind=tarfile.SYMTYPE, target="/etc/passwd")],
        "'it': expected a file, found a link",
    ),
    "a hard link that leads out": (
        IT,
        [sources("it", kind=tarfile.LNKTYPE, target="etc/passwd")],
        "'it': expected a file, found a hard link",
    ),
    "a device for a file": (
        IT,
        [sources("it", kind=tarfile.CHRTYPE)],
        "'it': expected a file, found a device",
    ),
    "a FIFO for a file": (
        IT,
        [sources("it", kind=tarfile.FIFOTYPE)],
        "'it': expected a file, found a FIFO",
    ),
    "a file for a directory": (BELOW, [sources("d", RIGHT)], "'d/it' is missing"),
    "a whiteout for a file": (IT, [sources(".wh.it"), sources("it", RIGHT)], "has 'it' twice"),
    "sources below a link": (
        IT,
        [Entry("var/run", kind=tarfile.SYMTYPE, target="/etc"), sources("it", RIGHT)],
        "/var/run is not a directory",
    ),
    "a name that commands the terminal": (
        manifest(**listed(**{"\x1b[31mred": RIGHT})),
        [sources("\x1b[31mred", b"wrong\n")],
        "red' has other content",
    ),
    "..": (IT, [sources("../../../../outside/file", b"x")], "it has the unsafe path"),
    "a PAX header of 2 MiB": (
        IT,
        [sources("x" * (2 * MB), b"x"), sources("it", RIGHT)],
        "a header that is too large",
    ),
}


@pytest.mark.parametrize(("document", "entries", "why"), LYING.values(), ids=LYING)
def test_an_image_that_does_not_match_its_manifest_is_not_pulled(
    docker: Docker,
    publish: Publish,
    target: Path,
    document: bytes,
    entries: list[Entry],
    why: str,
) -> None:
    before: Tree = {"it": File(b"before"), "mine": File(b"mine")}
    plant(target, before)
    pulled = docker("kontext", "pull", publish(document, archive(entries)), str(target))
    assert (pulled.code, pulled.stdout) == (1, "")
    assert why in pulled.stderr
    assert "Traceback" not in pulled.stderr
    assert "\x1b" not in pulled.stderr
    after = on_disk(target)
    after.pop("d", None)  # the directory of the manifest
    assert after == before


HARMLESS: dict[str, list[Entry]] = {
    "an absolute name": [Entry("/outside/file", b"x"), Entry(f"/{SOURCES}/it", RIGHT)],
    "links that lead out": [
        sources("out", kind=tarfile.SYMTYPE, target="/etc"),
        sources("out/file", b"x"),
        sources("it", RIGHT),
    ],
    "hard links that lead out": [
        sources("out", kind=tarfile.LNKTYPE, target="/etc/passwd"),
        sources("it", RIGHT),
    ],
    "devices": [sources("disk", kind=tarfile.BLKTYPE), sources("it", RIGHT)],
    "set-user-ID": [sources("it", RIGHT, mode=0o6777)],
    "other names": [sources("new\nline\x1b[31m", b"x"), sources("it/", RIGHT)],
    "whiteouts": [sources("it", RIGHT), sources(".wh.mine"), sources(".wh..wh..opq")],
}


@pytest.mark.parametrize("entries", HARMLESS.values(), ids=HARMLESS)
def test_what_is_not_in_the_manifest_is_not_pulled(
    docker: Docker, publish: Publish, target: Path, entries: list[Entry]
) -> None:
    plant(target, {"mine": File(b"mine")})
    pulled = docker("kontext", "pull", publish(IT, archive(entries)), str(target))
    assert pulled.code == 0, pulled.stderr
    assert on_disk(target) == {"it": File(RIGHT), "mine": File(b"mine")}
    assert (target / "it").stat().st_mode & 0o7777 == 0o644


DIFFERENT: dict[str, tuple[bytes, list[Entry], list[str]]] = {
    "other content": (IT, [sources("it", b"x")], ["other content in the image: it"]),
    "missing": (IT, [], ["missing in the image: it"]),
    "more": (
        IT,
        [sources("a\x1b[31m\n", b"x"), sources("it", RIGHT)],
        [r"only in the image: a\x1b[31m\n"],
    ),
    "set-user-ID": (IT, [sources("it", RIGHT, mode=0o4644)], ["other mode in the image: it"]),
    "executable": (IT, [sources("it", RIGHT, mode=0o755)], ["other mode in the image: it"]),
    "a device": (IT, [sources("it", kind=tarfile.CHRTYPE)], ["other kind in the image: it"]),
    "a link's target": (
        manifest(links={"l": "a"}),
        [sources("l", kind=tarfile.SYMTYPE, target="b")],
        ["other content in the image: l"],
    ),
}


@pytest.mark.parametrize(("document", "entries", "said"), DIFFERENT.values(), ids=DIFFERENT)
def test_verify_lists_what_differs(
    docker: Docker, publish: Publish, document: bytes, entries: list[Entry], said: list[str]
) -> None:
    verified = docker("kontext", "verify", publish(document, archive(entries)))
    assert (verified.code, verified.stdout.splitlines()) == (1, said)


def peak(docker: Docker, *arguments: str) -> tuple[Result, int]:
    """A command of Kontext's, and the most bytes of memory that its Python had."""
    # Not getrusage(): its maximum is that of whoever started the process, too.
    program = (
        "import sys; from kontext_plugin.cli import main; code = main.run(sys.argv[1:]); "
        "print(*[line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line]); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "kontext", *arguments],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        preexec_fn=limit_memory,
    )
    *said, kilobytes = done.stdout.splitlines()
    return Result(done.returncode, "\n".join(said), done.stderr), int(kilobytes) * 1024


def limit_memory() -> None:
    """Of a broken Kontext, and of Go, which reserves more than it takes."""
    resource.setrlimit(resource.RLIMIT_DATA, (2048 * MB, 2048 * MB))


def assert_found_too_long(docker: Docker, *command: str) -> None:
    """By little memory."""
    done, memory = peak(docker, *command)
    assert done.code == 1
    assert "its archive is longer than" in done.stderr
    assert memory < 120 * MB


# An export of IT may have 256 MiB, and 20 times the size of its layer.
BOMBS: dict[str, Entry] = {
    "among the sources": sources("bomb", zeros=400 * MB),
    "beside the sources": Entry("bomb", zeros=400 * MB),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_an_export_that_is_too_long_is_an_error(
    docker: Docker, publish: Publish, target: Path, bomb: Entry
) -> None:
    tag = publish(IT, archive([bomb, sources("it", RIGHT)]))
    for command in (["pull", tag, str(target)], ["verify", tag]):
        assert_found_too_long(docker, *command)
    assert on_disk(target) == {}


def entries_and_it(count: int) -> Iterable[bytes]:
    """Yield an archive of empty files whose names are numbers of seven digits, and of `it`."""
    template = tar.header(f"{SOURCES}/{0:07}", tar.REGTYPE, 0o644)
    digits, checksum = template.index(b"0000000"), 148
    before, between = template[:digits], template[digits + 7 : checksum]
    after, sum_of_zero = template[checksum + 6 :], int(template[checksum : checksum + 6], 8)
    for number in range(count):
        name = b"%07d" % number
        # Only the name differs, and so the sum of the bytes: ten times as fast as a new header.
        total = sum_of_zero + sum(name) - 7 * ord("0")
        yield b"%b%b%b%06o%b" % (before, name, between, total, after)
    yield from archive([sources("it", RIGHT)])


def test_an_export_of_too_many_entries_is_an_error(
    docker: Docker, publish: Publish, target: Path
) -> None:
    tag = publish(IT, entries_and_it(560_000))
    assert_found_too_long(docker, "pull", tag, str(target))
    assert on_disk(target) == {}


def test_entries_beside_the_manifest_are_counted_and_not_kept(
    docker: Docker, publish: Publish
) -> None:
    verified, memory = peak(docker, "verify", publish(IT, entries_and_it(200_000)))
    assert verified.code == 1
    assert verified.stdout.startswith("only in the image: 0000000\n")
    assert verified.stdout.endswith("\nand 190,000 more")
    assert memory < 120 * MB
