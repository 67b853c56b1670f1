"""What later pushes build on: ancestors, limits, what a registry has lost, several at once."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from support.images import exported, layers, uploaded, writes
from support.services import Docker, Registry, Result
from support.trees import Directory, File, Tree, on_disk, plant, remove

from kontext_plugin.image.spec import LAYER_LIMIT, MAX_LAYERS

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
    first = layers(crane, tag)
    edit(source, "a")
    docker.push(tag, source)
    second = layers(crane, tag)
    edit(source, "b")
    registry.requests()
    pushed = docker.push(tag, source, debug=True)
    third = layers(crane, tag)
    assert "generation 0: 2 layers" in pushed.stderr
    assert "the new layer replaces the layer above" in pushed.stderr
    assert "1 changed" in pushed.stderr, "what was changed since the last push"
    assert second[:-1] == third[:-1] == first
    config = json.loads(crane("manifest", tag))["config"]["digest"]
    requests = registry.requests()
    assert uploaded(requests) == {third[-1], config}
    # This machine knows the ancestor: nothing of it is read but by crane.
    assert len([r for r in requests if r.method == "GET" and "/blobs/" in r.path]) == 1
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
        # The head of one, and configurations: the image's, an ancestor's, and once more by crane.
        assert len(reads) <= 4
    assert exported(crane, there) == on_disk(source)


def test_a_tree_that_comes_back_is_built_on_its_old_image(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    first = layers(crane, tag)
    (source / "large").write_bytes(NOISE[:50_000])
    docker.push(tag, source)
    remove(source / "large")
    docker.push(tag, source)
    assert layers(crane, tag)[:-1] == first
    assert exported(crane, tag) == TREE


def test_a_directory_that_comes_back_shows_no_old_files(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    """Where an ancestor had it, the push builds on that, and afresh where none had."""
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
    crane("delete", f"{file.partition('@')[0]}@{first_ancestor(crane, file)}")
    pushed = docker.push(tag, source)
    assert "Cannot build on generation 0: the registry does not have it" in pushed.stderr
    assert "Starting fresh: d was a directory once and is a directory again" in pushed.stderr
    assert exported(crane, tag) == on_disk(source)


def first_ancestor(crane: Crane, image: str) -> str:
    top = layers(crane, image)[-1]
    blob = crane("blob", f"{image.partition('@')[0]}@{top}")
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        manifest = archive.extractfile("var/lib/kontext/manifest.json")
        assert manifest is not None
        digest: str = json.load(manifest)["ancestors"][0]["image"]
    return digest


def test_without_ancestors_the_image_grows_to_the_limit(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """The next candidate is the one under the tag; the image grows to the limit."""
    tag = registry.repository() + ":v1"
    image = docker.push(tag, source).image
    for count in (3, 4, 5, 6):
        edit(source, "a")
        pushed = docker.push(tag, source, "--max-layers", "6")
        assert ("the registry does not have it" in pushed.stderr) == (count > 3)
        assert len(layers(crane, tag)) == count
        crane("delete", image)
        image = pushed.image
    edit(source, "a")
    pushed = docker.push(tag, source, "--max-layers", "6")
    assert "Starting fresh: the image has reached 6 layers" in pushed.stderr
    assert len(layers(crane, tag)) == 2
    assert exported(crane, tag) == on_disk(source)


def test_an_ancestor_that_the_manifest_misdescribes_is_not_built_on(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """Whoever may write the tag may say anything of ancestors: their content is looked at."""
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    edit(source, "a")
    image = docker.push(tag, source).image
    other = own_image(crane, image, first_ancestor(crane, image))
    lie(crane, tag, image, other, tmp_path)
    edit(source, "b")
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    pushed = docker.push(tag, source)
    assert (
        "Cannot build on generation 0: it does not match what the image under the tag"
        in pushed.stderr
    )
    assert "Env" not in json.loads(crane("config", tag))["config"]
    assert exported(crane, tag) == on_disk(source)


def own_image(crane: Crane, image: str, digest: str) -> str:
    """An image of the same layers that sets more than Kontext would."""
    name = image.partition("@")[0]
    changed = crane("mutate", f"{name}@{digest}", "--env", "LD_PRELOAD=/x", "-t", f"{name}:other")
    return changed.decode().strip().rpartition("@")[2]


def lie(crane: Crane, tag: str, image: str, ancestor: str, folder: Path) -> None:
    """Puts an image under the tag that is right but for what it says of its first ancestor."""
    name = image.partition("@")[0]
    old = crane("blob", f"{name}@{layers(crane, image)[-1]}")
    path, manifest = folder / "lie.tar.gz", b""
    with tarfile.open(fileobj=io.BytesIO(old)) as source, tarfile.open(path, "w:gz") as target:
        for entry in source:
            content = source.extractfile(entry)
            data = content.read() if content else b""
            if entry.name.endswith("manifest.json"):
                document = json.loads(data)
                below = document["ancestors"][0]["image"]
                document["ancestors"][0]["image"] = ancestor
                data = manifest = json.dumps(document, separators=(",", ":")).encode()
                entry.size = len(data)
            target.addfile(entry, io.BytesIO(data))
    annotation = f"dev.kontext.manifest=sha256:{hashlib.sha256(manifest).hexdigest()}"
    options = ["--entrypoint", "/kontext-extractor", "--workdir", "/workspace"]
    options += ["--append", str(path), "--annotation", annotation, "--tag", tag]
    crane("mutate", f"{name}@{below}", *options)


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
    for size in (0, 30_000, 1000):  # each so much smaller that it gets a layer of its own
        (source / f"of {size}").write_bytes(NOISE[:size])
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
    first = layers(crane, tag)
    (source / "ballast").write_bytes(NOISE[::-1])
    always = docker.push(tag, source, "--reuse", "always", debug=True)
    assert "Building on" in always.stderr
    assert layers(crane, tag)[:-1] == first
    (source / "ballast").write_bytes(NOISE[1:])
    auto = docker.push(tag, source, "--reuse", "auto")
    assert "Starting fresh: more than half of the bytes changed" in auto.stderr
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
        "* generation 1, 3 layers: 518B in 1 path, 0 whiteouts\n"
        "  generation 0, 2 layers: 31kB in 2 paths, 0 whiteouts\n"
        "  the base alone: 233kB in 5 paths\n"
    ) in said.stderr
    docker.push(tag, source)
    size = registry.blob_size(layers(crane, tag)[-1])
    assert f"Would upload {size}B in one layer: 1 changed" in said.stderr


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
