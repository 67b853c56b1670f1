"""Forge an image: change what its layers hold, below a manifest that says otherwise.

Whoever can write to a repository can do this. The image stays one that a push builds on: digests,
diff IDs and annotations fit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Crane = Callable[..., bytes]

Forge = Callable[[list[tuple[tarfile.TarInfo, bytes]]], list[tuple[tarfile.TarInfo, bytes]]]
"""Takes the entries of the top layer of sources, and returns those of the forged one."""


def forge_image(crane: Crane, tag: str, folder: Path, forge: Forge) -> None:
    """Put a forged copy of the image under its tag. `folder` does not exist yet."""
    repository = tag.rpartition(":")[0]
    manifest = json.loads(crane("manifest", tag))
    config = json.loads(crane("config", tag))
    top = len(manifest["layers"]) - 2  # below the extractor
    layer = crane("blob", f"{repository}@{manifest['layers'][top]['digest']}")
    archive = _archive(forge(_entries(gzip.decompress(layer))))
    packed = gzip.compress(archive, mtime=0)

    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    manifest["layers"][top] |= put(packed)
    config["rootfs"]["diff_ids"][top] = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    manifest["config"] |= put(json.dumps(config).encode())
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": manifest["mediaType"], **put(json.dumps(manifest).encode())}],
    }
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    crane("push", str(folder), tag)


def replaced(path: str, **changes: Any) -> Forge:
    """Change an entry of the sources: attributes of its header, or its `content`."""

    def forge(entries: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
        forged = []
        for header, content in entries:
            if header.name == f"var/run/kontext/{path}":
                content = changes.get("content", content)
                header.size = len(content)
                for name, value in changes.items():
                    if name != "content":
                        setattr(header, name, value)
            forged.append((header, content))
        return forged

    return forge


def added(name: str, content: bytes, kind: bytes = tarfile.REGTYPE, target: str = "") -> Forge:
    """Add an entry, below the image's root."""

    def forge(entries: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
        header = tarfile.TarInfo(name)
        header.type, header.linkname, header.size, header.mode = kind, target, len(content), 0o755
        return [*entries, (header, content)]

    return forge


def left_out(path: str) -> Forge:
    """Leave an entry of the sources out."""
    return lambda entries: [
        (header, content) for header, content in entries if header.name != f"var/run/kontext/{path}"
    ]


def _entries(archive: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return [(one, file.read() if (file := opened.extractfile(one)) else b"") for one in opened]


def _archive(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        for header, content in entries:
            opened.addfile(header, io.BytesIO(content))
    return sink.getvalue()
