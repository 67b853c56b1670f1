"""Images for several platforms: one index whose images share all layers of sources."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.images import documents, exported, own_base, put_manifest, uploaded, writes
from support.services import Docker, Registry
from support.trees import File, Tree, on_disk, plant

from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.registry.base_image import shipped_base

Crane = Callable[..., bytes]

TREE: Tree = {
    "ballast": File(random.Random(1).randbytes(100_000)),
    "a": File(b"a"),
    "b": File(b"b"),
}
AMD64, ARM64 = PLATFORMS
EXTRACTORS = {
    platform: str(shipped_base(platform).extractor.layer.digest) for platform in PLATFORMS
}


def children(crane: Crane, tag: str) -> dict[str, dict[str, Any]]:
    """Return the manifest of each image in the index under a tag, by its platform."""
    index = json.loads(crane("manifest", tag))
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    repository = tag.rpartition(":")[0]
    return {
        f"{entry['platform']['os']}/{entry['platform']['architecture']}": json.loads(
            crane("manifest", f"{repository}@{entry['digest']}")
        )
        for entry in index["manifests"]
    }


def shared_sources(crane: Crane, tag: str, *, below: int = 0) -> list[str]:
    """Return the layers of sources of all images, after checking that they are the same.

    `below` is the number of layers of a base.
    """
    found = []
    for platform, image in children(crane, tag).items():
        *others, top = [layer["digest"] for layer in image["layers"]]
        assert top == image["annotations"]["dev.kontext.extractor"] == EXTRACTORS[platform]
        found.append(others[below:])
    assert all(one == found[0] for one in found)
    return found[0]


@pytest.fixture
def tag(docker: Docker, registry: Registry, source: Path) -> str:
    """A tag that shows an index with an edit, of all platforms."""
    name = registry.repository() + ":v1"
    assert docker.push(name, source, "--platform", "all").image
    plant(source, {"a": File(b"edited")})
    assert docker.push(name, source).image
    return name


@pytest.fixture
def another_machine(docker: Docker, tmp_path: Path) -> Callable[[], None]:
    """Make what follows happen on a machine without a cache."""
    caches = (str(tmp_path / f"machine {number}") for number in range(9))
    return lambda: docker.environment.update(KONTEXT_CACHE_DIR=next(caches))


def lose(registry: Registry, tag: str, platform: str, crane: Crane) -> None:
    """Remove the image of a platform from the registry; the index stays."""
    name = crane("digest", "--platform", platform, tag).decode().strip().removeprefix("sha256:")
    repository = tag.partition("/")[2].rpartition(":")[0]
    revisions = registry.data / "docker/registry/v2/repositories" / repository / "_manifests"
    shutil.rmtree(revisions / "revisions/sha256" / name)


# Pushes


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_index_that_has_lost_an_image_is_published_again(
    platform: str,
    docker: Docker,
    registry: Registry,
    source: Path,
    tag: str,
    crane: Crane,
) -> None:
    """Cleaners of untagged images take those of an index, too (actions/delete-package-versions#90).

    Nothing has changed, and the tag shows what it should. Nobody could pull it.
    """
    before = docker.push(tag, source).image
    lose(registry, tag, platform, crane)
    pushed = docker.push(tag, source)
    assert "has lost the image of a platform" in pushed.stderr
    assert pushed.image != before
    for each in PLATFORMS:
        image = crane("digest", "--full-ref", "--platform", each, tag).decode().strip()
        assert exported(crane, image) == on_disk(source)
    assert docker.push(tag, source).image == pushed.image


LISTS = {
    "all": ("all", [AMD64, ARM64]),
    "a list": (f"{AMD64},{ARM64}", [AMD64, ARM64]),
    "in another order": (f"{ARM64},{AMD64}", [AMD64, ARM64]),
    "one twice": (f"{ARM64},{ARM64}", None),
}


@pytest.mark.parametrize(("platforms", "expected"), LISTS.values(), ids=LISTS)
def test_platforms_make_an_index(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    platforms: str,
    expected: list[str] | None,
) -> None:
    tag = registry.repository() + ":v1"
    registry.requests()
    pushed = docker.push(tag, source, "--platform", platforms)
    requests = registry.requests()
    assert pushed.image.endswith(crane("digest", tag).decode().strip())
    assert writes(requests)[-1].path.endswith("/manifests/v1"), "the tag is written last"
    if expected is None:
        assert "layers" in json.loads(crane("manifest", tag)), "one platform: a plain image"
        return
    assert [*children(crane, tag)] == expected
    (sources,) = shared_sources(crane, tag)
    assert uploaded(requests) == {sources, *EXTRACTORS.values(), *documents(crane, tag)}
    for platform in expected:
        config = json.loads(crane("config", "--platform", platform, tag))
        assert f"{config['os']}/{config['architecture']}" == platform
        assert config["config"]["Entrypoint"] == ["/kontext-extractor"]
        crane("validate", "--remote", tag, "--platform", platform)
    assert exported(crane, tag) == TREE


@pytest.mark.parametrize("is_cold", [False, True], ids=["with the cache", "without a cache"])
def test_a_push_upon_an_index_keeps_its_platforms(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    tag: str,
    another_machine: Callable[[], None],
    is_cold: bool,
) -> None:
    before = shared_sources(crane, tag)
    plant(source, {"b": File(b"edited")})
    if is_cold:
        another_machine()
    registry.requests()
    pushed = docker.push(tag, source)
    assert "1 changed" in pushed.stderr
    requests = registry.requests()
    after = shared_sources(crane, tag)
    assert after[:-1] == before[: len(after) - 1] and len(after) > 1
    assert uploaded(requests) == {after[-1], *documents(crane, tag)}
    assert exported(crane, tag) == on_disk(source)

    registry.requests()
    again = docker.push(tag, source)
    assert again.image == pushed.image and "Nothing changed" in again.stderr
    assert writes(registry.requests()) == []


CHANGES = {
    "one is added": ([], ["--platform", "all"], [AMD64, ARM64]),
    "one is dropped": (["--platform", "all"], ["--platform", AMD64], [AMD64]),
    "the first one is dropped": (["--platform", "all"], ["--platform", ARM64], [ARM64]),
    "another one": (["--platform", AMD64], ["--platform", ARM64], [ARM64]),
    "the default is another one": (["--platform", ARM64], [], [ARM64]),
}


@pytest.mark.parametrize(("old", "new", "expected"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_cold", [False, True], ids=["with the cache", "without a cache"])
def test_other_platforms_upload_no_sources(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    another_machine: Callable[[], None],
    is_cold: bool,
    old: list[str],
    new: list[str],
    expected: list[str],
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source, *old)
    if is_cold:
        another_machine()
    registry.requests()
    pushed = docker.push(tag, source, *new)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    sent = uploaded(registry.requests())
    assert sent <= {*EXTRACTORS.values(), *documents(crane, tag)}
    small = sent - {*EXTRACTORS.values()}
    assert sum(map(registry.blob_size, small)) < 4000
    shown = docker("kontext", "inspect", "--format", "json", tag).json["platforms"]
    assert shown == sorted(expected)
    assert exported(crane, tag) == TREE


def test_the_platform_that_is_dropped_comes_back_without_an_upload(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tag: str
) -> None:
    """The image that the tag shows is not part of the index: some registries delete it then."""
    docker.push(tag, source)
    alone = docker.push(tag, source, "--platform", ARM64).image
    registry.requests()
    index = docker.push(tag, source, "--platform", "all").image
    assert uploaded(registry.requests()) == set()
    assert alone.partition("@")[2] not in crane("manifest", index).decode()
    assert docker.push(tag, source).image == index


def test_an_index_that_another_tool_made_is_built_on(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    """As from two builds of the same sources, one for each platform."""
    repository = registry.repository()
    images = [
        docker.push(f"{repository}:{platform[6:]}", source, "--platform", platform).image
        for platform in PLATFORMS
    ]
    crane("index", "append", "-m", images[0], "-m", images[1], "-t", f"{repository}:all")
    plant(source, {"a": File(b"edited")})
    registry.requests()
    pushed = docker.push(f"{repository}:all", source)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    sources = shared_sources(crane, f"{repository}:all")
    assert uploaded(registry.requests()) == {sources[-1], *documents(crane, f"{repository}:all")}
    assert exported(crane, f"{repository}:all") == on_disk(source)


def test_entries_of_an_index_that_cannot_run_are_passed_over(
    docker: Docker, crane: Crane, source: Path, tag: str
) -> None:
    """As buildx's attestations, which are for the platform unknown/unknown."""
    index = json.loads(crane("manifest", tag))
    attestation = {
        **index["manifests"][0],
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    index["manifests"].insert(0, attestation)
    put_manifest(tag, json.dumps(index).encode(), index["mediaType"])
    assert docker("kontext", "inspect", "--format", "json", tag).json["platforms"] == [
        AMD64,
        ARM64,
    ]
    pushed = docker.push(tag, source)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    assert [*children(crane, tag)] == [AMD64, ARM64]


def test_the_metadata_names_the_platforms(docker: Docker, source: Path, tag: str) -> None:
    path = docker.config / "metadata.json"
    pushed = docker.push(tag, source, "--metadata-file", str(path))
    document = json.loads(path.read_text())
    assert document["kontext.push"]["platforms"] == [AMD64, ARM64]
    assert document["containerimage.digest"] == pushed.image.partition("@")[2]


# A base for two platforms


@pytest.fixture
def base(registry: Registry, crane: Crane, tmp_path: Path) -> str:
    """A base image for both platforms, each with another layer."""
    repository = registry.repository()
    images = []
    for platform in PLATFORMS:
        folder = tmp_path / platform[6:]
        folder.mkdir()
        name = own_base(crane, registry, folder)
        settings = ["--set-platform", platform, "--env", f"FOR={platform}"]
        if platform == ARM64:
            (folder / "more").write_text("of this platform alone")
            with tarfile.open(folder / "more.tar", "w") as archive:
                archive.add(folder / "more", "etc/more")
            settings += ["--append", str(folder / "more.tar")]
        crane("mutate", name, *settings, "-t", f"{repository}:{platform[6:]}")
        images.append(f"{repository}:{platform[6:]}")
    crane("index", "append", "-m", images[0], "-m", images[1], "-t", f"{repository}:both")
    return f"{repository}:both"


def test_a_base_for_two_platforms(
    docker: Docker, registry: Registry, crane: Crane, source: Path, base: str
) -> None:
    """Each image has the layers and the settings of the base for its platform."""
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source, "--base", base, "--platform", "all")
    assert first.image
    plant(source, {"a": File(b"edited")})
    registry.requests()
    pushed = docker.push(tag, source, "--base", base)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    found = children(crane, tag)
    counts = {platform: len(image["layers"]) for platform, image in found.items()}
    assert counts == {AMD64: 4, ARM64: 5}
    new = found[AMD64]["layers"][-2]["digest"]
    assert new == found[ARM64]["layers"][-2]["digest"], "the layers of sources are shared"
    assert uploaded(registry.requests()) == {new, *documents(crane, tag)}
    for platform, image in found.items():
        config = json.loads(crane("config", "--platform", platform, tag))["config"]
        assert f"FOR={platform}" in config["Env"]
        annotations = image["annotations"]
        assert annotations["org.opencontainers.image.base.name"] == base
        digest = crane("digest", "--platform", platform, base).decode().strip()
        assert annotations["org.opencontainers.image.base.digest"] == digest
        crane("validate", "--remote", tag, "--platform", platform)
    assert exported(crane, tag) == on_disk(source)
    again = docker.push(tag, source, "--base", base)
    assert "Nothing changed" in again.stderr


def test_a_base_that_lacks_a_platform_is_an_error(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    base, tag = own_base(crane, registry, tmp_path), registry.repository() + ":v1"
    registry.requests()
    pushed = docker.push(tag, source, "--base", base, "--platform", "all")
    assert (pushed.code, pushed.stdout) == (1, "")
    assert f"{base} is for {AMD64}, not {ARM64}" in pushed.stderr
    assert not [r for r in writes(registry.requests()) if r.path.endswith("/manifests/v1")]


# Each command on an index


def test_ls_lists_the_sources(docker: Docker, tag: str) -> None:
    said = docker("kontext", "ls", tag)
    assert (said.code, said.stdout.split()) == (0, ["a", "b", "ballast"])


def test_pull_and_verify(docker: Docker, source: Path, tag: str, tmp_path: Path) -> None:
    assert docker("kontext", "pull", tag, str(tmp_path / "out")).code == 0
    assert on_disk(tmp_path / "out") == on_disk(source)
    assert docker("kontext", "verify", tag).code == 0
    assert docker("kontext", "verify", tag, str(source)).code == 0
    plant(source, {"a": File(b"different")})
    assert docker("kontext", "verify", tag, str(source)).code == 1


def test_commands_on_one_image_of_the_index(
    docker: Docker, crane: Crane, source: Path, tag: str, tmp_path: Path
) -> None:
    """By its digest."""
    repository = tag.rpartition(":")[0]
    for entry in json.loads(crane("manifest", tag))["manifests"]:
        name = f"{repository}@{entry['digest']}"
        folder = tmp_path / entry["platform"]["architecture"]
        assert docker("kontext", "pull", name, str(folder)).code == 0
        assert on_disk(folder) == on_disk(source)
        assert docker("kontext", "verify", name, str(source)).code == 0


def test_inspect_shows_the_platforms(docker: Docker, crane: Crane, tag: str) -> None:
    document = docker("kontext", "inspect", "--format", "json", tag).json
    assert document["digest"] == crane("digest", tag).decode().strip()
    assert document["platforms"] == [AMD64, ARM64]
    assert document["intact"] is True
    assert [layer["role"] for layer in document["layers"]] == ["sources", "delta", "extractor"]
    said = docker("kontext", "inspect", tag)
    assert AMD64 in said.stdout and ARM64 in said.stdout


def test_diff(docker: Docker, source: Path, tag: str) -> None:
    assert "Nothing changed" in docker("kontext", "diff", "-t", tag, str(source)).stderr
    plant(source, {"a": File(b"different")})
    said = docker("kontext", "diff", "-t", tag, str(source))
    assert said.stdout == "C a\n"
    pushed = docker.push(tag, source)
    assert f"Would publish {pushed.image} " in said.stderr


@pytest.mark.parametrize("with_base", [False, True], ids=["the shipped base", "a user's base"])
def test_purge_keeps_the_platforms(
    docker: Docker, registry: Registry, crane: Crane, source: Path, base: str, with_base: bool
) -> None:
    tag = registry.repository() + ":v1"
    options = ["--base", base] if with_base else []
    docker.push(tag, source, *options, "--platform", "all", "--label", "k=v")
    (source / "b").unlink()
    docker.push(tag, source, *options, "--label", "k=v")
    before = children(crane, tag)
    purged = docker("kontext", "purge", tag)
    assert purged.image.endswith(crane("digest", tag).decode().strip())
    after = children(crane, tag)
    assert [*after] == [AMD64, ARM64]
    for platform, image in after.items():
        kept = {key: value for key, value in image["annotations"].items() if "base" in key}
        assert kept == {
            key: value for key, value in before[platform]["annotations"].items() if "base" in key
        }
        assert len(image["layers"]) == len(before[platform]["layers"]) - 1
        config = json.loads(crane("config", "--platform", platform, tag))["config"]
        assert config["Labels"]["k"] == "v"
    assert exported(crane, tag) == on_disk(source)
    assert "Nothing changed" in docker.push(tag, source, *options, "--label", "k=v").stderr


def test_load_and_run_take_the_image_for_the_daemon(
    docker: Docker, daemon: str, source: Path, tag: str, tmp_path: Path
) -> None:
    loaded = docker("kontext", "load", tag)
    assert loaded.code == 0, loaded.stderr
    (tmp_path / "out").mkdir()
    ran = docker("kontext", "run", "-w", str(tmp_path / "out"), tag, "--", "--verify")
    assert ran.code == 0, ran.stderr
    assert on_disk(tmp_path / "out") == on_disk(source)
    docker("image", "rm", "--force", tag)
