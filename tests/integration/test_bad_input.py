"""Wrong arguments, and images that cannot be built on: a message, and nothing lost."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import NO_FILES
from support.services import Docker, Registry
from support.trees import File, Tree, in_archive, on_disk

Crane = Callable[..., bytes]
TREE: Tree = {"file": File(b"content\n")}


WRONG_DIRECTORY = {
    "missing": ("nowhere", "does not exist"),
    "a file": ("source/file", "is not a directory"),
    "a link to nothing": ("dangling", "does not exist"),
}


@pytest.mark.parametrize(("name", "why"), WRONG_DIRECTORY.values(), ids=WRONG_DIRECTORY)
def test_wrong_directory(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    pushed = docker.push(registry.repository(), tmp_path / name)
    assert (pushed.code, pushed.stdout) == (1, "")
    assert why in pushed.stderr
    assert name in pushed.stderr


WRONG_USAGE = {
    "no tag": ([], "requires --tag"),
    "upper case": (["-t", "localhost/Upper"], "lower case"),
    "empty tag": (["-t", ""], 'invalid argument "" for "--tag" flag'),
    "empty directory": (["-t", "localhost/r/r", "--directory", ""], "it is empty"),
    "no such port": (["-t", "localhost:99999/r/r"], "no port 99999"),
    "label that is no text": (["-t", "localhost/r/r", "--label", "k=\udcff"], "not UTF-8"),
    "spaces": (["-t", "a b"], "invalid reference"),
    "a digest": (["-t", "localhost/r/r@sha256:" + "0" * 64], "digest"),
    "tag too long": (["-t", "localhost/r/r:" + "x" * 129], "128"),
    "platform": (["-t", "localhost/r/r", "--platform", "linux/s390x"], "linux/arm64"),
    "label": (["-t", "localhost/r/r", "--label", "novalue"], "KEY=VALUE"),
    "unknown flag": (["-t", "localhost/r/r", "--nonsense"], "unknown flag: --nonsense"),
    "two directories": (["-t", "localhost/r/r", ".", "."], "at most 1 argument"),
    "DIR and --directory": (["-t", "localhost/r/r", "--directory", ".", "."], "not both"),
}


@pytest.mark.parametrize(("arguments", "why"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage(docker: Docker, arguments: list[str], why: str) -> None:
    pushed = docker("kontext", "push", *arguments)
    assert (pushed.code, pushed.stdout) == (125, "")
    assert why in pushed.stderr
    assert "Usage:  docker kontext push [OPTIONS] -t REF [DIR]" in pushed.stderr
    assert "Run 'docker kontext push --help' for more information" in pushed.stderr


def test_missing_ignore_file(docker: Docker, registry: Registry, source: Path) -> None:
    pushed = docker.push(registry.repository(), source, "--ignore-file", "nowhere")
    assert pushed.code == 1
    assert "'nowhere' does not exist" in pushed.stderr


def test_malformed_ignore_file(docker: Docker, registry: Registry, source: Path) -> None:
    (source / ".dockerignore").write_text("fine\n[\n")
    pushed = docker.push(registry.repository(), source)
    assert pushed.code == 1
    assert ".dockerignore:2: malformed pattern '['" in pushed.stderr


def layer(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A gzip layer with one entry."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(archive.getvalue(), mtime=0)


def huge() -> bytes:
    """Claims a manifest of 8 GiB, and goes on with zeros."""
    entry = tarfile.TarInfo(MANIFEST)
    entry.size = 8**11 - 1
    return gzip.compress(entry.tobuf() + bytes(1 << 20), mtime=0)


MANIFEST = "var/lib/kontext/manifest.json"
VALID = NO_FILES | {"files": {"file": hashlib.sha256(b"other").hexdigest()}, "sizes": [5]}


def manifest(**changes: object) -> bytes:
    return layer(MANIFEST, json.dumps(VALID | changes).encode())


ANCESTOR = {
    "image": "sha256:" + "0" * 64,
    "layers": 1,
    "generation": 0,
    "content": 0,
    "replacedDirectories": [],
    "undo": {"files": {}, "executable": [], "links": {}, "absent": ["../file"]},
}

IMAGES = {
    "of somebody else": (layer("etc/motd", b"hello"), "does not begin with a manifest"),
    "no gzip": (b"plain bytes, and no layer at all" * 100, "damaged"),
    "empty layer": (gzip.compress(b""), "damaged"),
    "broken JSON": (layer(MANIFEST, b'{"version": 2,'), "not JSON"),
    "no object": (layer(MANIFEST, b"[]"), "no JSON object"),
    "nested deeply": (layer(MANIFEST, b"[" * 200_000), "not JSON"),
    "unknown version": (manifest(version=3), "unknown version 3"),
    "version of another type": (manifest(version="2"), "unknown version 2"),
    "keys missing": (layer(MANIFEST, b'{"version": 2}'), "required property"),
    "wrong type": (manifest(files=[]), "files"),
    "hash of another kind": (manifest(files={"file": "0" * 63}), "a hash that is none"),
    "path above": (manifest(files={"../file": "0" * 64}), "'../file'"),
    "path above, within": (manifest(files={"a/../../file": "0" * 64}), "'a/../../file'"),
    "absolute path": (manifest(files={"/etc/passwd": "0" * 64}), "'/etc/passwd'"),
    "whiteout": (manifest(files={".wh.file": "0" * 64}), "'.wh.file'"),
    "link above": (manifest(files={}, sizes=[], links={"../l": "t"}), "'../l'"),
    "ancestor's path above": (
        manifest(layers=["sha256:" + "0" * 64], ancestors=[ANCESTOR]),
        "'../file'",
    ),
    "ancestor of other layers": (
        manifest(ancestors=[ANCESTOR | {"undo": ANCESTOR["undo"] | {"absent": []}}]),
        "ancestors that have not its layers",
    ),
    "parent missing": (manifest(files={"a/b": "0" * 64}), "'a' has entries below it"),
    "sizes missing": (manifest(sizes=[]), "number of sizes"),
    "escape sequences": (manifest(version="\x1b[31mred\x07"), "unknown version"),
    "huge": (huge(), "too large to be read"),
    "version 1": (layer("/" + MANIFEST, b'{"files": {"file": ""}}'), "2018 prototype"),
    "valid, without the annotation": (manifest(), "lost the annotation"),
}


@pytest.mark.parametrize(("blob", "why"), IMAGES.values(), ids=IMAGES)
def test_an_image_that_cannot_be_built_on(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    tmp_path: Path,
    blob: bytes,
    why: str,
) -> None:
    tag = registry.repository() + ":v1"
    path = tmp_path / "layer.tar.gz"
    path.write_bytes(blob)
    crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
    pushed = docker.push(tag, source)
    assert pushed.image
    assert "Starting afresh: " in pushed.stderr
    assert why in pushed.stderr
    assert "Traceback" not in pushed.stderr
    assert "\x1b" not in pushed.stderr
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == TREE


def test_a_manifest_that_its_image_does_not_name(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    path = tmp_path / "layer.tar.gz"
    path.write_bytes(manifest())
    crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
    crane("mutate", tag, "--annotation", f"dev.kontext.manifest=sha256:{'1' * 64}", "-t", tag)
    pushed = docker.push(tag, source)
    assert "not the one that the image names" in pushed.stderr
    assert pushed.image


def test_layers_changed_by_another_tool(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """Its manifest tells of layers that are not the image's: it may not be believed."""
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    top = json.loads(crane("manifest", tag))
    blob = crane("blob", f"{tag}@{top['layers'][-1]['digest']}".replace(":v1@", "@"))
    path = tmp_path / "top.tar.gz"
    path.write_bytes(blob)
    annotation = next(iter(top["annotations"].items()))
    crane("append", "--oci-empty-base", "-f", str(path), "-t", tag)
    crane("mutate", tag, "--annotation", "=".join(annotation), "-t", tag)
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    pushed = docker.push(tag, source)
    assert "layers were changed by another tool" in pushed.stderr
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == TREE


def test_an_index_under_the_tag(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    repository = registry.repository()
    images = [
        docker.push(f"{repository}:{name}", source, "--platform", f"linux/{name}").image
        for name in ("amd64", "arm64")
    ]
    crane("index", "append", "-m", images[0], "-m", images[1], "-t", f"{repository}:all")
    pushed = docker.push(f"{repository}:all", source)
    assert "index of several platforms" in pushed.stderr
    assert pushed.image == images[0]


def test_layers_gone_from_the_registry(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    (source / "own").write_text(tag)  # all repositories of a registry share their blobs
    docker.push(tag, source)
    digest = json.loads(crane("manifest", tag))["layers"][-1]["digest"]
    registry.blob(digest).unlink()
    repository = tag.partition("/")[2].partition(":")[0]
    layers = registry.data / f"docker/registry/v2/repositories/{repository}/_layers"
    (layers / digest.replace(":", "/") / "link").unlink()
    (source / "new").write_text("new\n")
    pushed = docker.push(tag, source)
    assert pushed.image
    assert "gone from the registry" in pushed.stderr
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == on_disk(source)


def test_nothing_of_the_source_is_changed(docker: Docker, registry: Registry, source: Path) -> None:
    def state() -> dict[str, tuple[float, ...]]:
        found = {}
        for path in [source, *source.rglob("*")]:
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ctime_ns)
        return found

    before = state()
    docker.push(registry.repository(), source)
    docker.push(registry.repository(), source, "--dry-run")
    assert state() == before


CHANGES = {
    "entrypoint": ["--entrypoint", "/bin/false"],
    "command": ["--cmd", "/elsewhere"],
    "user": ["--user", "4711"],
    "environment": ["--env", "A=b"],
    "working directory": ["--workdir", "/nowhere"],
    "label": ["--label", "x=y"],
    "platform": ["--set-platform", "linux/arm64"],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_configuration_changed_by_another_tool(
    docker: Docker, registry: Registry, crane: Crane, source: Path, change: list[str]
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    crane("mutate", tag, *change, "-t", tag)
    pushed = docker.push(tag, source)
    assert "configuration was changed by another tool" in pushed.stderr
    assert pushed.image == first.image


def test_a_damaged_top_layer(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    (source / "own").write_text(tag)  # all repositories of a registry share their blobs
    docker.push(tag, source)
    digest = json.loads(crane("manifest", tag))["layers"][-1]["digest"]
    blob = registry.blob(digest)
    blob.write_bytes(blob.read_bytes()[:60])
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    pushed = docker.push(tag, source)
    assert "Starting afresh: a part of the image is damaged" in pushed.stderr


def test_ignore_files_that_are_no_files(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    """Nothing waits for a FIFO or reads an endless device."""
    rules = source / ".dockerignore"
    os.mkfifo(rules)
    assert "not a regular file" in docker.push(registry.repository(), source).stderr
    rules.unlink()
    rules.symlink_to("/dev/zero")
    assert "not a regular file" in docker.push(registry.repository(), source).stderr
    rules.unlink()
    with rules.open("wb") as large:
        large.truncate(1 << 30)
    assert "larger than" in docker.push(registry.repository(), source).stderr


@pytest.mark.parametrize(
    "command", ["push -t REF", "push -t REF --iidfile id /", "pull REF", "verify REF", "run REF"]
)
def test_a_current_directory_that_is_gone(
    docker: Docker, registry: Registry, tmp_path: Path, command: str
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    shim = docker.config / "cli-plugins" / "docker-kontext"
    words = command.replace("REF", registry.repository())
    script = f'cd "{gone}" && rmdir "{gone}" && exec "{shim}" kontext {words}'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ERROR: the current directory does not exist any more" in done.stderr


def test_the_cache_is_not_pushed(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    docker.environment["KONTEXT_CACHE_DIR"] = str(source / "cache")
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    assert docker.push(tag, source).image == first.image
    assert in_archive(io.BytesIO(crane("export", tag, "-"))) == TREE


def test_names_are_bytes_in_every_locale(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    (source / "gr\u00fc\u00dfe-\u65e5\u672c").write_text("x")
    subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "en_US.ISO-8859-1"], check=True
    )
    docker.environment["LOCPATH"] = str(tmp_path)
    images = set()
    for locale in ("C", "POSIX", "C.UTF-8", "en_US.ISO-8859-1", "nonsense"):
        docker.environment["LC_ALL"] = locale
        images.add(docker.push(registry.repository(), source).image.rpartition("@")[2])
    assert len(images) == 1
