"""What all benchmarks share: a tree, a registry that has it, and how it is pushed."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_tree import Edits
from measuring import layers_of, push
from processes import Run, filled, timed

PUSH = "docker-kontext kontext push --quiet --tag {image} {tree}"
FRESH = "docker-kontext kontext push --quiet --fresh --tag {image} {tree}"
ZSTD = "docker-kontext kontext push --quiet --compression zstd --tag {image} {tree}"
DOCKER_PUSH = "docker kontext push --quiet --tag {image} {tree}"
SETTLED = 2.5  # seconds after which the stat cache trusts a file (scan.py)
SMALL = 64_000  # bytes: the requests, the image's manifest and configuration
STATE = "var/lib/kontext/"
SOURCES = "var/run/kontext/"


@dataclass
class Stage:
    work: Path
    tree: Path
    host: str  # the registry
    edits: Edits
    runs: int
    large: int  # bytes of the large file
    daemon: str  # why there is no Docker daemon, or nothing
    sizes: tuple[int, ...]  # numbers of files of the topic growth
    name: str = "kontext"  # of the repository

    @property
    def slow_runs(self) -> int:
        """Of what takes minutes."""
        return (self.runs + 3) // 4

    def image(self, host: str = "") -> str:
        """A tag of its own for each way to the registry: the cache goes by the name."""
        return f"{host or self.host}/bench/{self.name}:{'other' if host else 'main'}"

    def push(self, host: str = "", template: str = PUSH, watch_memory: bool = False) -> Run:
        command = filled(template, image=self.image(host), tree=self.tree)
        return timed(command, watch_memory)

    def warm(self, host: str = "") -> None:
        """The registry has the tree as it is, and the cache knows it and trusts it."""
        self.push(host)
        time.sleep(max(0, self.edits.last + SETTLED - time.monotonic()))
        self.push(host)

    def edited(self, action: Callable[[], Run]) -> Run:
        self.edits.one()
        return action()

    def forget(self) -> None:
        """As on a new machine."""
        shutil.rmtree(os.environ["KONTEXT_CACHE_DIR"], ignore_errors=True)

    def pushed(self) -> str:
        """Pushes; the image by its digest."""
        return push(self.image(), self.tree).image


def state_size(image: str) -> int:
    """Bytes of Kontext's own files in an image, compressed: the manifest."""
    shown: dict[str, int] = {}
    for layer in reversed(layers_of(image)):  # the upper ones hide what is below
        for name, archive, entry in _entries(image, layer.digest):
            if name.startswith(STATE) and entry.isfile() and name not in shown:
                content = archive.extractfile(entry)
                assert content is not None
                shown[name] = len(zlib.compress(content.read(), 2))
    return sum(shown.values())


def size_of_layers_with(image: str, paths: Sequence[str]) -> int:
    """Bytes of the layers that hold one of these sources, or the manifest."""
    wanted = {f"{STATE}manifest.json", *(SOURCES + path for path in paths)}

    def needed(digest: str) -> bool:
        return any(name in wanted for name, _, _ in _entries(image, digest))

    return sum(layer.size for layer in layers_of(image) if needed(layer.digest))


def _entries(image: str, digest: str) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    """A layer's entries one after the other, with the archive to read them from."""
    host, _, repository = image.partition("@")[0].partition("/")
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        connection.request("GET", f"/v2/{repository}/blobs/{digest}")
        answer: Any = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            sys.exit(f"the registry answered {answer.status} for the blob {digest}")
        with gzip.open(answer) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                yield entry.name, archive, entry
