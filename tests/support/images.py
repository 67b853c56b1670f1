"""Images in a registry: what they hold, and which requests a push made."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import platform
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from support.services import PASSWORD, USER, Registry, Request
from support.trees import Tree, in_archive

Crane = Callable[..., bytes]

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
"""This machine's."""


def exported(crane: Crane, image: str) -> Tree:
    return in_archive(io.BytesIO(crane("export", image, "-")))


def layers(crane: Crane, image: str) -> list[str]:
    return [layer["digest"] for layer in json.loads(crane("manifest", image))["layers"]]


def sources(crane: Crane, image: str) -> list[str]:
    """Return the layers of sources of an image on the shipped base: all but the extractor's."""
    document = json.loads(crane("manifest", image))
    *others, top = [layer["digest"] for layer in document["layers"]]
    assert document["annotations"]["dev.kontext.extractor"] == top
    return others


def documents(crane: Crane, image: str) -> set[str]:
    """Return the digest of the configuration of a plain image, or of each one in an index."""
    document = json.loads(crane("manifest", image))
    if "manifests" not in document:
        return {document["config"]["digest"]}
    repository = image.partition("@")[0].rpartition(":")[0]
    children = (entry["digest"] for entry in document["manifests"])
    return {one for child in children for one in documents(crane, f"{repository}:x@{child}")}


def uploaded(requests: list[Request]) -> set[str]:
    return {digest for request in requests if (digest := request.uploaded)}


def writes(requests: list[Request]) -> list[Request]:
    return [request for request in requests if request.method not in ("GET", "HEAD")]


def own_base(crane: Crane, registry: Registry, folder: Path) -> str:
    """Publish a base image like Alpine's, and return its tag.

    In it, /var/run is a link. It has a command, an entrypoint and a user.
    """
    path = folder / "base.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in (
            ("etc", tarfile.DIRTYPE, ""),
            ("run", tarfile.DIRTYPE, ""),
            ("var", tarfile.DIRTYPE, ""),
            ("var/run", tarfile.SYMTYPE, "../run"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = kind, target, 0o755
            archive.addfile(entry)
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    tag = registry.repository() + ":base"
    crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
    settings = ["--cmd", "/bin/sh", "--entrypoint", "/bin/init", "--user", "1000:1000"]
    crane("mutate", tag, *settings, "--set-platform", "linux/amd64", "-t", tag)
    return tag


def publish_programs(
    crane: Crane, tag: str, programs: Mapping[str, Path], folder: Path, *settings: str
) -> str:
    """Publish an image that has static programs at these paths, and return its name with a digest.

    `settings` are options of `crane mutate`.
    """
    layer = folder / "programs.tar"
    with tarfile.open(layer, "w") as archive:
        for path, program in programs.items():
            entry = archive.gettarinfo(program, path)
            entry.mode, entry.uid, entry.gid = 0o755, 0, 0
            with program.open("rb") as file:
                archive.addfile(entry, file)
    crane("append", "--oci-empty-base", "-f", str(layer), "-t", tag)
    platform = f"linux/{ARCHITECTURE}"
    return crane("mutate", tag, "--set-platform", platform, *settings, "-t", tag).decode().strip()


def put_manifest(tag: str, content: bytes, media_type: str) -> None:
    """Put a manifest under a tag, byte for byte."""
    host, _, name = tag.partition("/")
    repository, _, version = name.rpartition(":")
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {secret}", "Content-Type": media_type}
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        connection.request("PUT", f"/v2/{repository}/manifests/{version}", content, headers)
        assert connection.getresponse().status == 201


def content_of_layers(crane: Crane, image: str) -> bytes:
    """Return the content of all files in the layers of `REPOSITORY:TAG`, one after the other."""
    repository = image.partition("@")[0].rpartition(":")[0]
    held = b""
    for digest in layers(crane, image):
        with tarfile.open(fileobj=io.BytesIO(crane("blob", f"{repository}@{digest}"))) as layer:
            for member in layer:
                file = layer.extractfile(member)
                held += file.read() if file else b""
    return held
