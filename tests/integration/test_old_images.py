"""Images that an earlier Kontext pushed: read them, and push on top of them."""

from __future__ import annotations

import json
import shutil
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from support import old_images
from support.services import Docker, Registry, install_plugin

Crane = Callable[..., bytes]

LAYERS = {"first": 2, "generations": 7, "parts": 4, "single": 1, "base": 4}


ON_THE_SHIPPED_BASE = ("first", "generations", "parts")


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


@pytest.fixture(scope="module")
def same_extractor(
    registry: Registry, root: Path, crane_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Docker:
    """An installation of today's Kontext that ships the old extractor."""
    folder = tmp_path_factory.mktemp("same-extractor")
    package = folder / "site" / "kontext_plugin"
    shutil.copytree(root / "kontext_plugin", package, ignore=shutil.ignore_patterns("base"))
    old_images.write_layout(old_images.EXTRACTOR_IMAGE, package / "base/extractor/linux-amd64")
    old_images.write_layout(old_images.EMPTY_IMAGE, package / "base/empty/linux-amd64")
    environment = package.parent / ".venv"  # of its own: this one's Python has today's checkout
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (environment / "bin/crane").symlink_to(crane_path)
    command = Docker(folder / "config")
    install_plugin(command.config, package / "docker-kontext")
    command.log_in(registry.host)
    return command


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

    entries = docker("kontext", "ls", "--format", "json", tag).json
    shown = {entry.pop("path"): entry for entry in entries}
    for entry in shown.values():
        assert (entry.pop("size") is None) == (entry["kind"] != "file")
    assert shown == listed(old_images.tree(name))

    document = docker("kontext", "inspect", "--format", "json", tag).json
    assert document["digest"] == old_images.digest(name)
    assert len(document["layers"]) == LAYERS[name]
    ancestors = {one["generation"]: one["digest"] for one in document["ancestors"]}
    assert ancestors == old_images.ancestors(name)


def test_an_unchanged_directory_uploads_nothing(
    name: str, same_extractor: Docker, tag: str, pulled: Path, crane: Crane
) -> None:
    pushed = same_extractor.push(tag, pulled, *options_of(name, tag, crane))
    assert pushed.image.endswith(old_images.digest(name)), pushed.stderr


def test_an_edit_is_a_delta_on_the_image_or_one_of_its_ancestors(
    name: str,
    same_extractor: Docker,
    docker: Docker,
    tag: str,
    pulled: Path,
    tmp_path: Path,
    crane: Crane,
) -> None:
    tree = old_images.tree(name)
    removed = next(path for path, node in sorted(tree.items()) if node["kind"] == "file")
    (pulled / removed).unlink()
    (pulled / "new file").write_text("new\n")
    expected = old_images.tree_on_disk(pulled)
    result = tmp_path / "metadata.json"

    options = options_of(name, tag, crane)
    pushed = same_extractor.push(tag, pulled, *options, "--metadata-file", str(result))
    assert pushed.code == 0, pushed.stderr
    facts = json.loads(result.read_text())["kontext.push"]
    if name == "single":
        assert "--single-layer" in facts["fresh"]
    else:
        assert facts["built_on"] in {old_images.digest(name), *old_images.ancestors(name).values()}

    again = tmp_path / "again"
    assert docker("kontext", "pull", tag, str(again)).code == 0
    assert old_images.tree_on_disk(again) == expected
    assert docker("kontext", "verify", tag, str(pulled)).code == 0


@pytest.mark.parametrize("name", ON_THE_SHIPPED_BASE, indirect=True)
def test_another_extractor_starts_fresh_and_says_so(
    name: str, docker: Docker, tag: str, pulled: Path, crane: Crane
) -> None:
    pushed = docker.push(tag, pulled, *options_of(name, tag, crane))
    assert pushed.code == 0, pushed.stderr
    assert "Starting fresh: the image was made with another version of the extractor" in (
        pushed.stderr
    )
    assert docker("kontext", "verify", tag, str(pulled)).code == 0
