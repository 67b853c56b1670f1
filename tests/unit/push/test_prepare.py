"""Preparing a push: its background jobs and its requests to the registry."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
from pathlib import Path

import pytest
from support.models import described
from support.trees import Directory, File

from kontext_plugin import crane as crane_module
from kontext_plugin import manifest
from kontext_plugin.cache import Cache
from kontext_plugin.image.oci import MANIFEST_ANNOTATION, Digest, digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import MANIFEST_PATH, Ancestor, Lineage, Manifest, Part
from kontext_plugin.push import prepare as prepare_module
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.prepare import Prepared, open_session, prepare
from kontext_plugin.registry.base_image import shipped_base
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.terminal.messages import Report

TAG = parse_reference("host.io/repo:t")
OLD = Digest("sha256:" + "a" * 64)
TREE = described({"d": Directory(), "d/file": File(b"x")})
CRANE = """#!/bin/sh
cd "$(dirname "$0")"
if [ "$1" = blob ]; then exec cat "${2##*:}"; fi
exec cat "$1"
"""


def layer(documents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in documents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(stream.getvalue())


def publish(directory: Path) -> Path:
    """Write a crane and the image that it finds: one layer has the manifest, two have parts.

    The parts are the reverse deltas of two ancestors.
    """
    base = shipped_base("linux/amd64")
    lowest = [*base.image.layers]
    ancestors, lower = [], []
    for number in range(2):
        delta = ReverseDelta(described({f"gone{number}": File(b"y")}).without_sizes(), frozenset())
        document = manifest.canonical(manifest.reverse_columns(delta))
        part = Part("", digest_of(document), len(lowest) + number)
        lower.append(layer({MANIFEST_PATH: b"old", part.name: document}))
        count = len(lowest) + 1 + number
        ancestors.append(Ancestor(OLD, count, number, 1, frozenset(), delta, part))
    below = (*(item.digest for item in lowest), *map(digest_of, lower))
    lineage = Lineage(
        base.image.digest, base.extractor, "linux/amd64", 2, 9, below, tuple(ancestors)
    )
    top = manifest.encode(Manifest(TREE, lineage))
    blobs = [*lower, layer({MANIFEST_PATH: top})]
    for blob in blobs:
        (directory / digest_of(blob).removeprefix("sha256:")).write_bytes(blob)
    layers = [{"digest": item.digest, "size": item.size} for item in lowest]
    layers += [{"digest": digest_of(blob), "size": len(blob)} for blob in blobs]
    image = {
        "schemaVersion": 2,
        "config": {"digest": OLD, "size": 2},
        "layers": layers,
        "annotations": {MANIFEST_ANNOTATION: digest_of(top)},
    }
    (directory / "manifest").write_text(json.dumps(image))
    (directory / "config").write_text('{"os":"linux","architecture":"amd64"}')
    crane = directory / "crane"
    crane.write_text(CRANE)
    crane.chmod(0o755)
    return crane


def test_no_thread_waits_for_its_own_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job waits for requests for two layers: a single pool of one thread would wait for ever."""
    monkeypatch.setattr(crane_module, "_REQUESTS", 1)
    monkeypatch.setattr(prepare_module, "_JOBS", 1)
    registry = tmp_path / "registry"
    registry.mkdir()
    monkeypatch.setenv("KONTEXT_CRANE", str(publish(registry)))
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    prepared: list[Prepared] = []

    def run() -> None:
        cache = Cache(str(tmp_path / "cache"))
        with open_session(Report(), cache, insecure=False, timeout=0) as session:
            prepared.append(prepare(session, PushOptions((TAG,), str(source))))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "a pool waits for itself"
    assert isinstance(prepared[0].tag_image, KontextImage), prepared[0].tag_image
    assert prepared[0].tag_image.manifest.tree == TREE
