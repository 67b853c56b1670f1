"""A registry of local files, which a shell script in the place of crane reads."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kontext_plugin.cache import Cache
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.process import CraneRunner
from kontext_plugin.image.oci import (
    EXTRACTOR_ANNOTATION,
    MANIFEST_ANNOTATION,
    OCI_INDEX,
    Digest,
    digest_of,
)
from kontext_plugin.manifest import MANIFEST_PATH
from kontext_plugin.push.session import PushSession
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.terminal.messages import Report

CONFIG_DIGEST = Digest("sha256:" + "c" * 64)

_SCRIPT = """#!/bin/sh
cd '{directory}'
echo "$*" >> requests
for name; do :; done
for answer in "$1 ${{name##*[@/]}}" "$1"; do
    if [ -e "$answer.error" ]; then cat "$answer.error" >&2; exit 1; fi
    if [ -e "$answer" ]; then exec cat "$answer"; fi
done
echo "no answer for $*" >&2
exit 1
"""


class FakeRegistry:
    """Answers each verb of crane with a file, and notes each request."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        program = directory / "crane"
        program.write_text(_SCRIPT.format(directory=directory))
        program.chmod(0o755)
        self.crane = Crane(CraneRunner(str(program)))
        self.answer(version=b"v0.21.9\n")

    def answer(self, of: str = "", /, **answers: bytes) -> None:
        """Set what `crane VERB` prints, for all names or for one: a digest, or `REPO:TAG`.

        REPO is without the slashes and what stands before them.
        With `VERB_error`, set the message with which it fails.
        """
        for key, answer in answers.items():
            verb = key.removesuffix("_error")
            name = f"{verb} {of}" if of else verb
            error = self._directory / f"{name}.error"
            error.unlink(missing_ok=True)
            (error if key != verb else self._directory / name).write_bytes(answer)

    def store(self, *blobs: bytes) -> None:
        """Let `crane blob` print each of these blobs for its digest."""
        for blob in blobs:
            self.answer(digest_of(blob), blob=blob)

    @property
    def requests(self) -> list[str]:
        """The arguments of each crane, in the order in which they started."""
        requests = self._directory / "requests"
        return requests.read_text().splitlines() if requests.exists() else []


def gzip_layer(*documents: bytes | tuple[str, bytes]) -> bytes:
    """Return a gzip layer with these files, each a name and its content.

    A file without a name is manifest.json.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for document in documents:
            name, content = (MANIFEST_PATH, document) if isinstance(document, bytes) else document
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def image_document(
    *layers: bytes | Digest,
    manifest: bytes = b"",
    extractor: Digest | None = None,
    **changes: Any,
) -> bytes:
    """Return the manifest document of an image with these layers, lowest first.

    A layer is its blob, or the digest of a blob that nobody reads. With `manifest`, the annotation
    names that manifest.json; with `extractor`, that layer lies on top. `changes` replaces fields.
    """
    annotations: dict[str, str] = {}
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "config": {"digest": CONFIG_DIGEST, "size": 2},
        "layers": [
            {"digest": layer, "size": 1}
            if isinstance(layer, str)
            else {"digest": digest_of(layer), "size": len(layer)}
            for layer in (*layers, *([extractor] if extractor else []))
        ],
    }
    if manifest:
        annotations[MANIFEST_ANNOTATION] = digest_of(manifest)
    if extractor:
        annotations[EXTRACTOR_ANNOTATION] = extractor
    if annotations:
        document["annotations"] = annotations
    return json.dumps(document | changes).encode()


def index_document(**children: bytes) -> bytes:
    """Return the document of an index; `children` are images by their architectures."""
    entries = [
        {
            "digest": digest_of(child),
            "size": len(child),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, child in children.items()
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(document).encode()


@contextmanager
def push_session(registry: FakeRegistry, cache: Path) -> Iterator[PushSession]:
    """Yield the tools of a push to this registry."""
    with (
        registry.crane as crane,
        ThreadPoolExecutor(1) as requests,
        ThreadPoolExecutor(4) as jobs,
        Workers(2) as workers,
    ):
        yield PushSession(crane, requests, jobs, jobs, workers, Cache(str(cache)), Report())
