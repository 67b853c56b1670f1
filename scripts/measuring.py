"""What the measuring scripts share: a throw-away registry, pushes to it, and what images hold."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from deflate import gzip_compress
from support.trees import Tree, in_archive

ROOT = Path(__file__).resolve().parent.parent
SHIM = ROOT / "kontext_plugin" / "docker-kontext"
CRANE = Path(sys.executable).parent / "crane"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANIFEST_FILE = "var/lib/kontext/manifest.json"
LEVEL = 1  # docs/format.md, "Layers"


@dataclass(frozen=True)
class Layer:
    digest: str
    size: int  # of the compressed blob, in bytes


@dataclass(frozen=True)
class Pushed:
    image: str  # REPOSITORY@sha256:…
    layers: tuple[Layer, ...]  # lowest first
    seconds: float

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


@dataclass
class Blobs:
    """The folder that a registry keeps its blobs in (`registry("--disk", FOLDER)`)."""

    folder: Path
    _seen: set[str] = field(default_factory=set)

    def path(self, digest: str) -> Path:
        return self.folder / digest.replace(":", "/")

    def uploaded(self) -> int:
        """The bytes of all blobs that came since the last call, whatever image shows them."""
        with os.scandir(self.folder / "sha256") as blobs:
            new = [blob for blob in blobs if blob.name not in self._seen]
        self._seen.update(blob.name for blob in new)
        return sum(blob.stat().st_size for blob in new)


@contextlib.contextmanager
def registry(*options: str) -> Iterator[str]:
    """The address of crane's own registry, which lasts as long as the block."""
    command = [str(CRANE), "registry", "serve", "--address", "127.0.0.1:0", *options]
    with _served(command, r"serving on port (\d+)\n") as host:
        yield host


def disk_registry_program() -> str:
    return "docker-registry" if shutil.which("docker-registry") else "crane registry"


@contextlib.contextmanager
def disk_registry() -> Iterator[str]:
    """As `registry`, with its blobs on a disk, and Debian's docker-registry if it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        if disk_registry_program() != "docker-registry":
            with registry("--disk", folder) as host:
                yield host
            return
        configuration = Path(folder) / "config.yml"
        configuration.write_text(
            f"""version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:0"}}
"""
        )
        command = ["docker-registry", "serve", str(configuration)]
        with _served(command, r"listening on 127\.0\.0\.1:(\d+)") as host:
            yield host


@contextlib.contextmanager
def _served(command: list[str], listens: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        # A file: it logs every request, and a pipe that nobody reads would stop it.
        log = Path(folder) / "log"
        with (
            log.open("w") as output,
            subprocess.Popen(command, stdout=output, stderr=output) as process,
        ):
            try:
                yield f"127.0.0.1:{port(log, process, listens)}"
            finally:
                process.terminate()


def port(log: Path, process: subprocess.Popen[bytes], listens: str) -> str:
    """Where the registry listens, as it says itself."""
    with log.open() as lines:
        while process.poll() is None:
            if found := re.search(listens, lines.readline()):
                return found[1]
    return sys.exit(f"the registry did not start:\n{log.read_text()}")


def push(tag: str, directory: Path, *options: str, checkout: Path = ROOT) -> Pushed:
    """Run `docker kontext push` of a checkout; end the script if it fails."""
    arguments = ("kontext", "push", "--quiet", "--tag", tag, *options, str(directory))
    started = time.perf_counter()
    done = subprocess.run([*command_of(checkout), *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"the push ended with {done.returncode}:\n{done.stderr}")
    image = done.stdout.strip()
    return Pushed(image, layers_of(image), seconds)


def command_of(checkout: Path = ROOT) -> list[str]:
    """Return the command that runs the plugin of a checkout, with this Python and its packages."""
    if checkout == ROOT:
        return [str(SHIM)]
    return [sys.executable, "-I", "-X", "utf8", "-c", _START, str(checkout)]


_START = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from kontext_plugin.cli.main import main
main()"""


def layers_of(image: str) -> tuple[Layer, ...]:
    """The layers that the registry lists for REPOSITORY@DIGEST."""
    name, _, digest = image.partition("@")
    host, _, repository = name.partition("/")
    document = fetched(host, f"/v2/{repository}/manifests/{digest}")
    return tuple(Layer(layer["digest"], layer["size"]) for layer in document["layers"])


def fetched(host: str, path: str) -> Any:
    """A JSON document of the registry; http.client, since it asks no proxy."""
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        connection.request("GET", path, headers={"Accept": f"{MANIFEST}, */*"})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            sys.exit(f"the registry answered {answer.status} to {path}")
        return json.load(answer)


def forget(image: str) -> None:
    """Delete the manifest of REPOSITORY@DIGEST from the registry; its blobs stay."""
    name, _, digest = image.partition("@")
    host, _, repository = name.partition("/")
    path = f"/v2/{repository}/manifests/{digest}"
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        connection.request("DELETE", path)
        status = connection.getresponse().status
    if status != http.HTTPStatus.ACCEPTED:
        sys.exit(f"the registry answered {status} to DELETE {path}")


def exported(image: str) -> Tree:
    """What `crane export` shows of an image's sources."""
    with subprocess.Popen([str(CRANE), "export", image, "-"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        tree = in_archive(process.stdout)
        process.stdout.read()  # what fills the last block, or crane would die of SIGPIPE
    if process.returncode:
        sys.exit(f"crane export {image} ended with {process.returncode}")
    return tree


def layer_size(files: Mapping[str, bytes]) -> int:
    """Return the bytes of a gzip layer with these files, made without Kontext's own code."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return len(gzip_compress(archive.getvalue(), LEVEL))


def manifest_of(blobs: Blobs, pushed: Pushed) -> dict[str, bytes]:
    """Return the manifest of an image and the parts beside it, by their names."""
    for layer in reversed(pushed.layers):  # the extractor's layer may lie on top
        if found := _state_in(blobs.path(layer.digest)):
            return found
    return sys.exit(f"no layer of {pushed.image} begins with a manifest")


def _state_in(layer: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(layer, "r|gz") as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            if content is None or not entry.name.startswith(os.path.dirname(MANIFEST_FILE)):
                break
            found[entry.name] = content.read()
    return found


def machine() -> str:
    """What the figures depend on, for a document."""
    return (
        f"{len(os.sched_getaffinity(0))} processors ({platform.machine()}), "
        f"Python {platform.python_version()}, the registry that comes with crane on loopback"
    )


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def paragraph(text: str) -> str:
    """Lines of the documents' width."""
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False)


def human(count: float) -> str:
    """Bytes as the documents show them."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
