"""Images that an earlier Kontext pushed: read them, and push on top of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import old_images
from support.images import documents, layers, own_base, uploaded
from support.services import Docker, Registry

Crane = Callable[..., bytes]

LAYERS = {"first": 2, "generations": 7, "parts": 4, "single": 1, "base": 4}


BELOW = {"first": 1, "generations": 1, "parts": 1, "single": 0, "base": 2}
"""The layers below the sources: the extractor's, and that of a user's base."""


@pytest.fixture(params=old_images.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tag(name: str, docker: Docker, registry: Registry, crane_path: str) -> str:
    """A tag that shows the old image."""
    repository = registry.repository()
    old_images.push_image(
        crane_path, name, repository, "v1", environment={"DOCKER_CONFIG": str(docker.config)}
    )
    return f"{repository}:v1"


@pytest.fixture
def pulled(docker: Docker, tag: str, tmp_path: Path) -> Path:
    """The directory that `pull` makes of the old image."""
    directory = tmp_path / "pulled"
    assert docker("kontext", "pull", tag, str(directory)).code == 0
    return directory


def options_of(name: str, tag: str, crane: Crane) -> list[str]:
    """Return the options that the image was pushed with."""
    options = ["--no-git-labels"]
    if name == "single":
        options.append("--single-layer")
    if name == "base":
        repository = tag.rpartition(":")[0]
        options += ["--base", f"{repository}@{old_images.digest(old_images.BASE_IMAGE)}"]
    labels = json.loads(crane("config", tag))["config"].get("Labels") or {}
    for key in ("team", "stage", "note"):
        if key in labels:
            options += ["--label", f"{key}={labels[key]}"]
    return options


def listed(tree: dict[str, old_images.Node]) -> dict[str, old_images.Node]:
    """Return what `ls --format json` lists of a tree: kinds, digests, modes and targets."""
    return {
        path: {
            "kind": node["kind"],
            "digest": f"sha256:{node['sha256']}" if node["kind"] == "file" else None,
            "executable": node.get("executable"),
            "target": node.get("target"),
        }
        for path, node in tree.items()
    }


def test_pull_verify_ls_and_inspect_show_the_directory_that_was_pushed(
    name: str, docker: Docker, tag: str, pulled: Path
) -> None:
    assert old_images.tree_on_disk(pulled) == old_images.tree(name)
    assert docker("kontext", "verify", tag, str(pulled)).code == 0

    entries = docker("kontext", "ls", "-R", "--format", "json", tag).json
    shown = {entry.pop("path"): entry for entry in entries}
    for entry in shown.values():
        assert (entry.pop("size") is None) == (entry["kind"] != "file")
    assert shown == listed(old_images.tree(name))

    document = docker("kontext", "inspect", "--format", "json", tag).json
    assert document["digest"] == old_images.digest(name)
    assert len(document["layers"]) == LAYERS[name]
    ancestors = {one["generation"]: one["digest"] for one in document["ancestors"]}
    assert ancestors == old_images.ancestors(name)


def sources_of(name: str, tag: str, crane: Crane) -> list[str]:
    """Return the layers of sources of the image, which lie above its base and its extractor."""
    return layers(crane, tag)[BELOW[name] :]


def test_an_unchanged_directory_uploads_no_sources(
    name: str, docker: Docker, registry: Registry, tag: str, pulled: Path, crane: Crane
) -> None:
    """A small layer brings the manifest of today. The new image then stays as it is."""
    before, options = sources_of(name, tag, crane), options_of(name, tag, crane)
    said = docker("kontext", "diff", "--exit-code", "-t", tag, *options, str(pulled))
    assert said.code == 0 and "Would publish" in said.stderr

    registry.requests()
    pushed = docker.push(tag, pulled, *options)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    sent = uploaded(registry.requests())
    assert not sent & set(before)
    document = json.loads(crane("manifest", tag))
    if name == "single":
        assert layers(crane, tag) == before
        assert sent == documents(crane, tag)
    else:
        extractor = document["annotations"]["dev.kontext.extractor"]
        base = [] if name != "base" else layers(crane, tag)[:1]
        new = layers(crane, tag)[-2]
        assert layers(crane, tag) == [*base, *before, new, extractor]
        assert sent == {new, extractor, *documents(crane, tag)}
        assert registry.blob_size(new) < 10_000
    assert docker("kontext", "verify", tag, str(pulled)).code == 0

    again = docker.push(tag, pulled, *options)
    assert again.image == pushed.image
    assert "Nothing changed" in again.stderr


def change(directory: Path, name: str) -> dict[str, old_images.Node]:
    """Remove a file and add one; return what the directory has then."""
    tree = old_images.tree(name)
    removed = next(path for path, node in sorted(tree.items()) if node["kind"] == "file")
    (directory / removed).unlink()
    (directory / "new file").write_text("new\n")
    return old_images.tree_on_disk(directory)


def test_an_edit_is_a_delta_on_the_image_or_one_of_its_ancestors(
    name: str,
    docker: Docker,
    registry: Registry,
    tag: str,
    pulled: Path,
    tmp_path: Path,
    crane: Crane,
) -> None:
    before, options = sources_of(name, tag, crane), options_of(name, tag, crane)
    expected = change(pulled, name)
    result = tmp_path / "metadata.json"
    registry.requests()
    pushed = docker.push(tag, pulled, *options, "--metadata-file", str(result))
    assert pushed.code == 0, pushed.stderr
    facts = json.loads(result.read_text())["kontext.push"]
    if name == "single":
        assert "--single-layer" in facts["fresh"]
    else:
        assert facts["built_on"] in {old_images.digest(name), *old_images.ancestors(name).values()}
        base = 1 if name == "base" else 0
        *kept, new, extractor = layers(crane, tag)[base:]
        assert kept == before[: len(kept)] and kept
        sent = uploaded(registry.requests())
        assert sent == {new, extractor, *documents(crane, tag)}
        assert sum(map(registry.blob_size, sent - {extractor})) < 30_000
        document = docker("kontext", "inspect", "--format", "json", tag).json
        assert document["intact"] and document["version"] == 3
        roles = [layer["role"] for layer in document["layers"]]
        assert roles == ["base"] * base + ["sources"] + ["delta"] * len(kept) + ["extractor"]

    again = tmp_path / "again"
    assert docker("kontext", "pull", tag, str(again)).code == 0
    assert old_images.tree_on_disk(again) == expected
    assert docker("kontext", "verify", tag, str(pulled)).code == 0


def test_another_machine_goes_on_from_there(
    name: str,
    docker: Docker,
    registry: Registry,
    tag: str,
    pulled: Path,
    tmp_path: Path,
    crane: Crane,
) -> None:
    """It reads parts and reverse deltas that the earlier Kontext wrote, from a new manifest."""
    options = options_of(name, tag, crane)
    change(pulled, name)
    assert docker.push(tag, pulled, *options).image
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    for content in ("newer", "newest"):
        before = set(layers(crane, tag))
        (pulled / "new file").write_text(content)
        registry.requests()
        pushed = docker.push(tag, pulled, *options)
        assert pushed.code == 0
        if name != "single":
            assert "Starting fresh" not in pushed.stderr
            assert not uploaded(registry.requests()) & before
    again = tmp_path / "again"
    assert docker("kontext", "pull", tag, str(again)).code == 0
    assert old_images.tree_on_disk(again) == old_images.tree_on_disk(pulled)


@pytest.mark.parametrize("name", ["first", "generations", "parts"], indirect=True)
def test_a_new_tag_builds_on_the_image(
    name: str, docker: Docker, registry: Registry, tag: str, pulled: Path, crane: Crane
) -> None:
    before = sources_of(name, tag, crane)
    crane("tag", tag, "main")
    change(pulled, name)
    registry.requests()
    other = tag.removesuffix("v1") + "other"
    pushed = docker.push(other, pulled, *options_of(name, tag, crane))
    assert f"Building on {tag.removesuffix('v1')}main" in pushed.stderr
    assert not uploaded(registry.requests()) & set(before)


@pytest.mark.parametrize("name", ["first", "parts"], indirect=True)
def test_platforms_are_added_without_an_upload_of_sources(
    name: str, docker: Docker, registry: Registry, tag: str, pulled: Path, crane: Crane
) -> None:
    before = sources_of(name, tag, crane)
    registry.requests()
    pushed = docker.push(tag, pulled, *options_of(name, tag, crane), "--platform", "all")
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    assert not uploaded(registry.requests()) & set(before)
    assert docker("kontext", "verify", tag, str(pulled)).code == 0


def test_purge(name: str, docker: Docker, tag: str, tmp_path: Path, crane: Crane) -> None:
    """An old image does not name its base, so it must be given."""
    options = options_of(name, tag, crane)
    base = options[options.index("--base") :][:2] if name == "base" else []
    if base:
        purged = docker("kontext", "purge", tag)
        assert purged.code == 1
        assert "built on a base that it does not name" in purged.stderr
        assert "--base" in purged.stderr
    assert docker("kontext", "purge", tag, *base).image
    assert docker("kontext", "pull", tag, str(tmp_path / "purged")).code == 0
    assert old_images.tree_on_disk(tmp_path / "purged") == old_images.tree(name)


def test_run_extracts_the_directory_that_was_pushed(
    name: str, docker: Docker, daemon: str, tag: str, tmp_path: Path
) -> None:
    """By the extractor of that time, which the image has."""
    ran = docker("kontext", "run", "-w", str(tmp_path / "out"), tag, "--", "--verify")
    assert ran.code == 0, ran.stderr
    assert old_images.tree_on_disk(tmp_path / "out") == old_images.tree(name)


# A large tree, which a push divides into several layers, with parts of its manifest in more


@pytest.mark.parametrize("with_base", [False, True], ids=["the shipped base", "a user's base"])
@pytest.mark.parametrize("is_edited", [False, True], ids=["the same sources", "an edit"])
def test_a_large_tree_in_several_layers(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    tmp_path: Path,
    with_base: bool,
    is_edited: bool,
) -> None:
    source, tag, options = tmp_path / "source", registry.repository() + ":v1", list[str]()
    for number in range(30):
        folder = source / f"d{number:02}"
        folder.mkdir(parents=True)
        (folder / "large").write_bytes(folder.name.encode() * (4 * (1 << 20) // 3))
        for each in range(50):
            (folder / f"f{each:02}").write_text(f"{folder.name} {each}\n")
    base = ""
    if with_base:
        base = own_base(crane, registry, tmp_path)
        base = f"{base.rpartition(':')[0]}@{crane('digest', base).decode().strip()}"
        options = ["--base", base]
    docker.push(tag, source, *options)
    for each in ("d07/f07", "d21/f20"):
        (source / each).write_text("edited")
        docker.push(tag, source, *options)
    (tmp_path / "layers").mkdir()
    before = old_images.rewrite(crane, tag, tmp_path / "layers", base)
    assert len(before) >= 4
    assert docker("kontext", "verify", tag, str(source)).code == 0
    assert docker("kontext", "inspect", "--format", "json", tag).json["intact"]
    if is_edited:
        (source / "d29/f49").write_text("edited")

    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    registry.requests()
    pushed = docker.push(tag, source, *options)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    *kept, new, _ = layers(crane, tag)[with_base:]
    assert kept == before[: len(kept)] and len(kept) >= 3
    assert uploaded(registry.requests()) == {new, *documents(crane, tag)}
    assert registry.blob_size(new) < 30_000
    assert docker("kontext", "verify", tag, str(source)).code == 0
    crane("validate", "--remote", tag)
