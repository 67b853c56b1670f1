"""A directory too large for one layer, or for one manifest.json: what goes up is what changed."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.images import documents, exported, layers, sources, uploaded, writes
from support.services import Docker, Registry, Result
from support.tokens import LIVE
from support.trees import Directory, File, Link, Tree, on_disk, remove

from kontext_plugin.terminal.text import size

Crane = Callable[..., bytes]

MEGA = 1 << 20
FOLDERS = [f"d{number:02}" for number in range(30)]
TREE: Tree = {folder: Directory() for folder in FOLDERS}
TREE |= {
    f"{folder}/f{number:03}": File(f"{folder} {number}\n".encode(), number % 50 == 0)
    for folder in FOLDERS
    for number in range(100)
}
TREE |= {f"{folder}/large": File(folder.encode() * (4 * MEGA // 3)) for folder in FOLDERS}
TREE |= {f"{folder}/link": Link("../d00") for folder in FOLDERS}


@pytest.fixture
def tag(registry: Registry) -> str:
    return registry.repository() + ":v1"


@pytest.fixture
def elsewhere(docker: Docker, tmp_path: Path) -> Callable[[], None]:
    """Makes what follows happen on another machine, without a cache."""
    caches = (str(tmp_path / f"machine {number}") for number in range(9))
    return lambda: docker.environment.update(KONTEXT_CACHE_DIR=next(caches))


def edit(source: Path, path: str = "d07/f007") -> None:
    with (source / path).open("a") as file:
        file.write("more\n")


def head(registry: Registry, layer: str) -> Iterator[tuple[str, bytes]]:
    """The documents of a layer, by their names."""
    with tarfile.open(registry.blob(layer)) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            if file is None or not entry.name.startswith("var/lib/kontext/"):
                return
            yield entry.name, file.read()


def test_a_large_tree_is_pushed_in_several_layers(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    run_image: Callable[..., Result],
    source: Path,
    tag: str,
    tmp_path: Path,
) -> None:
    pushed = docker.push(tag, source)
    assert 5 <= len(layers(crane, tag)) <= 14
    crane("validate", "--remote", tag)
    assert exported(crane, tag) == TREE
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for path in ("d03/f003", "d29/large", "d11/link"):
        remove(source / path)
    edit(source)
    for image in (pushed.image, docker.push(tag, source).image):
        ran = run_image(image, workspace, "--mirror", "--verify")
        assert ran.code == 0, ran.stderr
    assert on_disk(workspace) == on_disk(source) == exported(crane, tag)


def test_layers_of_a_first_push_go_up_while_others_are_written(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str
) -> None:
    """Each blob once, and the tag last."""
    registry.requests()
    pushed = docker.push(tag, source)
    requests = registry.requests()
    manifests = [one for one in requests if one.method == "PUT" and "/manifests/" in one.path]
    assert 2 <= len(manifests) <= 4
    assert manifests[-1].path.endswith("/manifests/v1")
    assert all("/manifests/sha256:" in one.path for one in manifests[:-1])
    blobs = [digest for one in requests if (digest := one.uploaded)]
    assert sorted(blobs) == sorted({*blobs})
    assert {*blobs} > {*layers(crane, tag)}
    sizes = sum(map(registry.blob_size, {*layers(crane, tag), *documents(crane, tag)}))
    assert f"uploaded {size(sizes)}" in pushed.stderr


def test_a_layer_with_a_secret_stays_here(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str
) -> None:
    """The layers before it may have gone up: nothing shows them."""
    (source / "d29/f007").write_text(LIVE["GitHub token"])
    registry.requests()
    pushed = docker.push(tag, source)
    assert (pushed.code, pushed.stdout) == (1, "")
    assert "1 secret would be published, so the push has stopped" in pushed.stderr
    requests = registry.requests()
    assert not [one for one in writes(requests) if one.path.endswith("/manifests/v1")]
    for digest in uploaded(requests):
        content = registry.blob(digest).read_bytes()
        plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        assert LIVE["GitHub token"].encode() not in plain


def test_secrets_in_any_layer_are_found(
    docker: Docker, registry: Registry, source: Path, tag: str
) -> None:
    for folder in FOLDERS:
        (source / folder / "f007").write_text(LIVE["GitHub token"])
    with (source / "d29" / "large").open("a") as file:
        file.write("\n" + LIVE["Stripe key"])
    registry.requests()
    pushed = docker.push(tag, source)
    assert (pushed.code, pushed.stdout) == (1, "")
    assert "31 secrets would be published" in pushed.stderr
    # A large push asks whether it may upload, and a registry keeps only what a PUT completes.
    assert not [one for one in writes(registry.requests()) if one.method == "PUT"]
    rehearsed = docker.push(tag, source, "--dry-run")
    assert "31 secrets would block the push" in rehearsed.stderr


def test_an_edit_uploads_what_changed(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    tag: str,
    elsewhere: Callable[[], None],
) -> None:
    docker.push(tag, source)
    first = sources(crane, tag)
    everything = sum(len(text) for layer in first for _, text in head(registry, layer))
    for here in (True, False):
        edit(source)
        if not here:
            elsewhere()
        registry.requests()
        docker.push(tag, source)
        requests = registry.requests()
        *below, top = sources(crane, tag)
        assert below == first
        assert top in uploaded(requests) and len(uploaded(requests)) == 2, "and the configuration"
        manifest, part = (text for _, text in head(registry, top))
        assert len(manifest) + len(part) < everything / 5
        reads = [r for r in requests if r.method == "GET" and "/blobs/sha256:" in r.path]
        assert here == (len(reads) <= 2), "only another machine has to read the parts"
    assert exported(crane, tag) == on_disk(source)


def test_an_edit_costs_little_after_a_large_change(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    tag: str,
    elsewhere: Callable[[], None],
) -> None:
    """What the large one changed is written down once, and found again by whoever takes it back."""
    docker.push(tag, source)
    first = sources(crane, tag)
    changed = [f"{folder}/f{number:03}" for folder in FOLDERS[:15] for number in range(60)]
    for path in changed:
        edit(source, path)
    docker.push(tag, source)
    large = sources(crane, tag)[-1]
    documents = {name: len(text) for name, text in head(registry, large)}
    for _ in range(2):
        edit(source, "d29/f099")
        elsewhere()
        docker.push(tag, source)
        *below, top = sources(crane, tag)
        assert large in below
        added = {name: len(text) for name, text in head(registry, top)}
        assert sum(added.values()) < sum(documents.values()) / 4
        assert max(documents, key=lambda name: documents[name]) not in added
    for path in changed:
        (source / path).write_text(f"{path[:3]} {int(path[5:])}\n")
    elsewhere()
    assert "Building on" in (said := docker.push(tag, source, debug=True).stderr)
    assert "generation 0" in said
    assert sources(crane, tag)[:-1] == first
    assert exported(crane, tag) == on_disk(source)


def test_both_machines_write_the_same(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    elsewhere: Callable[[], None],
) -> None:
    """Whatever was in the cache, and whichever history the parts have."""
    here, there = registry.repository() + ":v1", registry.repository() + ":v1"
    cache = {"KONTEXT_CACHE_DIR": docker.environment.get("KONTEXT_CACHE_DIR", "")}
    for path in (None, "d07/f007", "d21/f050", "d07/f007", "d29/f099"):
        if path:
            edit(source, path)
        docker.environment |= cache
        docker.push(here, source)
        elsewhere()
        docker.push(there, source)
        assert layers(crane, here) == layers(crane, there)


def test_a_fresh_start_finds_its_layers_in_the_registry(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str
) -> None:
    docker.push(tag, source)
    before = layers(crane, tag)
    edit(source)
    docker.push(tag, source)
    (source / "d07" / "new").write_text("new")
    registry.requests()
    pushed = docker.push(tag, source, "--fresh", debug=True)
    assert "Starting fresh: --fresh was given" in pushed.stderr
    after = layers(crane, tag)
    new = set(after) - set(before)
    assert new <= uploaded(registry.requests())
    assert len(new) == 2, "the one with the changed files, and the manifest's"
    assert after[-1] == before[-1], "the extractor's"
    assert exported(crane, tag) == on_disk(source)
    assert ": 1 added;" in pushed.stderr, "the counts compare with the tag's image"


LIMITS = {
    "as few layers as can be": (["--max-layers", "2"], 2),
    "one layer for the files": (["--max-layers", "3"], 2),
    "a few": (["--max-layers", "5"], 5),
    "a single one": (["--single-layer"], 1),
}


@pytest.mark.parametrize(("options", "most"), LIMITS.values(), ids=LIMITS)
def test_the_image_has_no_more_layers_than_the_limit(
    docker: Docker, crane: Crane, source: Path, tag: str, options: list[str], most: int
) -> None:
    said = docker.push(tag, source, "--dry-run", *options).stderr
    pushed = docker.push(tag, source, *options)
    assert f"Would publish {pushed.image} " in said
    assert len(layers(crane, tag)) <= most
    assert exported(crane, tag) == TREE


def test_a_large_tree_on_a_users_base(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str, tmp_path: Path
) -> None:
    path, base = tmp_path / "base.tar", registry.repository() + ":base"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("of-the-base"))
    crane("append", "--oci-empty-base", "-f", str(path), "-t", base)
    crane("mutate", base, "--set-platform", "linux/amd64", "-t", base)
    docker.push(tag, source, "--base", base)
    assert len(layers(crane, tag)) > 5
    assert exported(crane, tag) == TREE
    edit(source)
    assert "Building on" in docker.push(tag, source, "--base", base, debug=True).stderr
    assert exported(crane, tag) == on_disk(source)


def test_an_unchanged_large_tree_uploads_nothing(
    docker: Docker,
    registry: Registry,
    source: Path,
    tag: str,
    elsewhere: Callable[[], None],
) -> None:
    image = docker.push(tag, source).image
    for move in (lambda: None, elsewhere):
        move()
        registry.requests()
        pushed = docker.push(tag, source)
        assert (pushed.image, "Nothing changed" in pushed.stderr) == (image, True)
        assert writes(registry.requests()) == []


@contextmanager
def instead(blob: Path, content: bytes | None) -> Iterator[None]:
    """Has the registry serve something else for a blob; None: nothing."""
    kept = blob.with_name("kept")
    blob.rename(kept)
    try:
        if content is not None:
            blob.write_bytes(content)
        yield
    finally:
        kept.rename(blob)


def test_a_missing_or_damaged_part_starts_fresh(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    tag: str,
    elsewhere: Callable[[], None],
) -> None:
    docker.push(tag, source)
    lower = registry.blob(sources(crane, tag)[-1])
    edit(source)
    docker.push(tag, source)
    real = gzip.decompress(lower.read_bytes())
    digest = b'"d00/f000":"'
    changed = real.replace(digest + real.partition(digest)[2][:4], digest + b"0000", 1)
    assert changed != real
    edit(source)
    for content, why in [
        (None, "gone from the registry"),
        (gzip.compress(changed), "damaged"),
        (gzip.compress(real[:5000]), "damaged"),
        (gzip.compress(bytes(10240)), "damaged"),
        (b"no gzip", "damaged"),
    ]:
        elsewhere()
        with instead(lower, content):
            said = docker.push(tag, source, "--dry-run").stderr
        assert "Starting fresh: " in said and why in said, said
    docker.push(tag, source)
    assert exported(crane, tag) == on_disk(source)
