"""What later pushes build on: ancestors, limits, what a registry has lost, several at once."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from support.images import documents, exported, layers, sources, uploaded, writes
from support.services import Docker, Registry, Result
from support.trees import Directory, File, Tree, on_disk, plant, remove

from kontext_plugin.image.spec import LAYER_LIMIT, MAX_LAYERS
from kontext_plugin.terminal.text import size

Crane = Callable[..., bytes]

NOISE = random.Random(1).randbytes(200_000)
TREE: Tree = {"ballast": File(NOISE), "a": File(b"a"), "b": File(b"b"), "d": Directory()}


def edit(source: Path, name: str) -> None:
    with (source / name).open("a") as file:
        file.write("more\n")


def test_a_push_builds_on_an_ancestor(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    first = sources(crane, tag)
    edit(source, "a")
    docker.push(tag, source)
    second = sources(crane, tag)
    edit(source, "b")
    registry.requests()
    pushed = docker.push(tag, source, debug=True)
    third = sources(crane, tag)
    assert "generation 0: 1 layer" in pushed.stderr
    assert "the new layer replaces the layer above" in pushed.stderr
    assert "1 changed" in pushed.stderr, "what was changed since the last push"
    assert second[:-1] == third[:-1] == first
    requests = registry.requests()
    assert uploaded(requests) == {third[-1], *documents(crane, tag)}
    # This machine knows the ancestor: nothing of it is read.
    assert not [r for r in requests if r.method == "GET" and "/blobs/" in r.path]
    assert exported(crane, tag) == on_disk(source)


def test_the_parent_is_the_same_with_and_without_a_cache(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """And costs one head of a blob, whatever is built on: the manifest tells of the ancestors."""
    here, there = registry.repository() + ":v1", registry.repository() + ":v1"
    for number, name in enumerate(["", "a", "b", "a", "c", "b", "e"]):
        if name:
            edit(source, name)
        docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "cache")
        docker.push(here, source)
        docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / f"machine {number}")
        registry.requests()
        docker.push(there, source)
        reads = [r for r in registry.requests() if r.method == "GET" and "/blobs/" in r.path]
        assert layers(crane, here) == layers(crane, there)
        assert len(reads) == (2 if number else 0), "the head of one layer, and the configuration"
    assert exported(crane, there) == on_disk(source)


def test_a_tree_that_comes_back_is_built_on_its_old_image(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    first = sources(crane, tag)
    (source / "large").write_bytes(NOISE[:50_000])
    docker.push(tag, source)
    remove(source / "large")
    docker.push(tag, source)
    assert sources(crane, tag)[:-1] == first
    assert exported(crane, tag) == TREE


def test_a_directory_that_comes_back_shows_no_old_files(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    """The push builds on the ancestor that had it, or afresh if that is too much to upload."""
    tag = registry.repository() + ":v1"
    plant(source, {"d/old": File(b"old")})
    docker.push(tag, source)
    remove(source / "d")
    plant(source, {"d": File(b"file")})
    file = docker.push(tag, source).image
    remove(source / "d")
    plant(source, {"d": Directory(), "d/new": File(b"new")})
    pushed = docker.push(tag, source, debug=True)
    assert "generation 0" in pushed.stderr
    assert exported(crane, tag) == on_disk(source)
    crane("tag", file, "v1")
    plant(source, {"d/large": File(NOISE[::-1] + NOISE)})
    pushed = docker.push(tag, source)
    assert "Starting fresh: a delta would be more than half of the whole" in pushed.stderr
    assert exported(crane, tag) == on_disk(source)


def test_ancestors_that_are_gone_from_the_registry_are_built_on(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    """Some registries remove an image once its tag shows another. Its layers are enough."""
    tag = registry.repository() + ":v1"
    image = docker.push(tag, source).image
    first = sources(crane, tag)
    for _ in range(4):
        edit(source, "a")
        pushed = docker.push(tag, source)
        assert sources(crane, tag)[:-1] == first
        crane("delete", image)
        image = pushed.image
    assert exported(crane, tag) == on_disk(source)


def test_no_image_has_more_layers_than_the_limit(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    counts = []
    for step in range(8):
        (source / f"of step {step}").write_bytes(NOISE[: 60_000 >> 2 * step])
        docker.push(tag, source, "--max-layers", "4")
        counts.append(len(layers(crane, tag)))
        assert exported(crane, tag) == on_disk(source)
    assert counts[:3] == [2, 3, 4], "each so much smaller that it gets a layer of its own"
    assert max(counts) == 4


def test_docker_runs_as_many_layers_as_are_allowed(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    run_image: Callable[..., Result],
    source: Path,
    tmp_path: Path,
) -> None:
    base = base_of_many_layers(crane, registry.repository() + ":base", LAYER_LIMIT - 4, tmp_path)
    tag = registry.repository() + ":v1"
    options = ["--base", base, "--max-layers", str(LAYER_LIMIT)]
    for count in (0, 30_000, 1000):  # each so much smaller that it gets a layer of its own
        (source / f"of {count}").write_bytes(NOISE[:count])
        image = docker.push(tag, source, *options).image
    assert len(layers(crane, tag)) == LAYER_LIMIT
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    ran = run_image(image, workspace, "--verify")
    assert ran.code == 0, ran.stderr
    assert on_disk(workspace) == on_disk(source) == exported(crane, tag)
    (source / "one more").write_text("x")
    docker.push(tag, source, *options)
    assert len(layers(crane, tag)) <= LAYER_LIMIT
    assert exported(crane, tag) == on_disk(source)


def base_of_many_layers(crane: Crane, tag: str, count: int, folder: Path) -> str:
    paths = []
    for number in range(count):
        path = folder / f"base{number}.tar"
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo(f"of-the-base-{number}"))
        paths += ["-f", str(path)]
    crane("append", "--oci-empty-base", *paths, "-t", tag)
    crane("mutate", tag, "--set-platform", "linux/amd64", "-t", tag)
    return tag


def test_reuse_decides_whether_to_build_on_the_image(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    first = sources(crane, tag)
    (source / "ballast").write_bytes(NOISE[::-1])
    always = docker.push(tag, source, "--reuse", "always", debug=True)
    assert "Building on" in always.stderr
    assert sources(crane, tag)[:-1] == first
    (source / "ballast").write_bytes(NOISE[1:])
    auto = docker.push(tag, source, "--reuse", "auto")
    assert "Starting fresh: a delta would be more than half of the whole" in auto.stderr
    assert len(layers(crane, tag)) == 2
    edit(source, "a")
    never = docker.push(tag, source, "--reuse=never", debug=True)
    assert "Starting fresh: --reuse never was given" in never.stderr
    assert len(layers(crane, tag)) == 2
    assert exported(crane, tag) == on_disk(source)


def test_a_dry_run_lists_the_candidates(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    (source / "some").write_bytes(NOISE[:30_000])
    docker.push(tag, source)
    edit(source, "a")
    registry.requests()
    said = docker.push(tag, source, "--dry-run")
    assert writes(registry.requests()) == []
    assert (
        "* generation 1, 2 layers: 518B in 1 path, 0 whiteouts\n"
        "  generation 0, 1 layer: 31kB in 2 paths, 0 whiteouts\n"
        "  a fresh start: 233kB in 5 paths\n"
    ) in said.stderr
    registry.requests()
    pushed = docker.push(tag, source)
    sent = sum(map(registry.blob_size, uploaded(registry.requests())))
    assert f"Would publish {pushed.image} and upload {size(sent)}: 1 changed" in said.stderr


def test_a_single_layer_holds_everything(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    run_image: Callable[..., Result],
    source: Path,
    tmp_path: Path,
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source, "--single-layer")
    assert len(layers(crane, tag)) == 1
    registry.requests()
    assert docker.push(tag, source, "--single-layer").image == first.image
    assert writes(registry.requests()) == []
    edit(source, "a")
    pushed = docker.push(tag, source, "--single-layer")
    assert "Starting fresh: --single-layer was given" in pushed.stderr
    assert len(layers(crane, tag)) == 1
    crane("validate", "--remote", tag)
    assert exported(crane, tag) == on_disk(source)
    # All there is for a consumer that reads one layer and knows nothing of images.
    blob = crane("blob", f"{tag.rpartition(':')[0]}@{layers(crane, tag)[0]}")
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        names = archive.getnames()
    assert names[0] == "var/lib/kontext/manifest.json"
    assert {"kontext-extractor", "workspace", "var/run/kontext/a"} <= set(names)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    ran = run_image(pushed.image, workspace, "--verify", options=["--user", "1000:1000"])
    assert ran.code == 1, "a workspace of root's"
    ran = run_image(pushed.image, workspace, "--verify")
    assert ran.code == 0, ran.stderr
    assert on_disk(workspace) == on_disk(source)
    # And back to deltas.
    docker.push(tag, source)
    assert len(layers(crane, tag)) == 2
    assert exported(crane, tag) == on_disk(source)


def test_the_default_limit() -> None:
    assert MAX_LAYERS == 64, "README and --help say so"
