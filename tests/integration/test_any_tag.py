"""Pushes to any tag: what they build on, from where, and what they say of it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.images import documents, exported, layers, sources, uploaded, writes
from support.proxy import ALWAYS, Exchange, Response, Rule, passed, serve_proxy
from support.services import Docker, Registry, serve_registry
from support.trees import File, Tree, on_disk, plant

from kontext_plugin.push.parent import Origin
from kontext_plugin.terminal.text import size

Crane = Callable[..., bytes]

TREE: Tree = {
    "ballast": File(random.Random(1).randbytes(100_000)),
    "a": File(b"a"),
    "b": File(b"b"),
}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, name: str = "a") -> str:
    """Change a file and commit it; return the commit."""
    with (folder / name).open("a") as file:
        file.write("more\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "c")
    return git(folder, "rev-parse", "HEAD")


def on_disk_without_git(folder: Path) -> Tree:
    return {path: node for path, node in on_disk(folder).items() if path.split("/")[0] != ".git"}


@pytest.fixture
def repository(registry: Registry) -> str:
    return registry.repository()


@pytest.fixture
def work_tree(source: Path) -> Path:
    """The source directory as the work tree of the branch `topic`."""
    git(source, "init", "-q", "-b", "topic")
    commit(source)
    return source


@pytest.fixture
def another_machine(docker: Docker, tmp_path: Path) -> Callable[[], None]:
    """Make what follows happen on a machine without a cache."""
    caches = (str(tmp_path / f"machine {number}") for number in range(9))
    return lambda: docker.environment.update(KONTEXT_CACHE_DIR=next(caches))


def metadata(docker: Docker, tag: str, source: Path, *options: str) -> dict[str, Any]:
    """Push; return Kontext's part of the metadata file."""
    path = docker.config / "metadata.json"
    pushed = docker.push(tag, source, *options, "--metadata-file", str(path))
    assert pushed.code == 0, pushed.stderr
    return dict(json.loads(path.read_text())["kontext.push"])


# A new tag


CACHES = {"with the cache": False, "without a cache": True}

NAMES: dict[str, Callable[[str], str]] = {
    "the whole hash": lambda commit: commit,
    "a short hash": lambda commit: commit[:7],
    "after a word": lambda commit: f"sha-{commit[:12]}",
    "after a branch": lambda commit: f"main-{commit[:8]}",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("is_cold", CACHES.values(), ids=CACHES)
def test_a_new_tag_builds_on_that_of_the_parent_commit(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    repository: str,
    work_tree: Path,
    another_machine: Callable[[], None],
    is_cold: bool,
    name: Callable[[str], str],
) -> None:
    tags = [f"{repository}:{name(git(work_tree, 'rev-parse', 'HEAD'))}"]
    assert docker.push(tags[0], work_tree).image
    for path in ("a", "b"):
        tags.append(f"{repository}:{name(commit(work_tree, path))}")
        before = set(layers(crane, tags[-2]))
        if is_cold:
            another_machine()
        registry.requests()
        pushed = docker.push(tags[-1], work_tree)
        assert f"Building on {tags[-2]} (" in pushed.stderr
        assert not uploaded(registry.requests()) & before
        assert exported(crane, tags[-1]) == on_disk_without_git(work_tree)
    for tag in tags[:2]:
        assert crane("digest", tag) != crane("digest", tags[-1]), "the older tags stay"


def test_the_nearest_commit_is_built_on(
    docker: Docker,
    repository: str,
    work_tree: Path,
    another_machine: Callable[[], None],
) -> None:
    """Not what was pushed last, and no commit of another branch."""
    commits = [git(work_tree, "rev-parse", "HEAD"), commit(work_tree), commit(work_tree)]
    for number in (1, 0):
        git(work_tree, "checkout", "-q", commits[number])
        docker.push(f"{repository}:{commits[number]}", work_tree)
    git(work_tree, "checkout", "-q", "-b", "aside", commits[0])
    docker.push(f"{repository}:{commit(work_tree, 'aside')}", work_tree)
    git(work_tree, "checkout", "-q", commits[2])
    another_machine()
    facts = metadata(docker, f"{repository}:{commits[2]}", work_tree)
    assert facts["built_on_name"] == f"{repository}:{commits[1]}"
    assert facts["built_on_reason"] == Origin.COMMIT.value


BRANCHES = {
    "of the branch that is checked out": ("topic", ["topic", "main"]),
    "main": ("main", ["main", "latest"]),
    "latest": ("latest", ["latest", "something"]),
}


@pytest.mark.parametrize(("chosen", "tags"), BRANCHES.values(), ids=BRANCHES)
def test_a_shallow_clone_builds_on_the_tag_of_a_branch(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    repository: str,
    work_tree: Path,
    tmp_path: Path,
    another_machine: Callable[[], None],
    chosen: str,
    tags: list[str],
) -> None:
    """A runner of CI has one commit, which no tag names."""
    docker.push(f"{repository}:{tags[0]}", work_tree, *("-t", f"{repository}:{tags[1]}"))
    before = set(layers(crane, f"{repository}:{chosen}"))
    commit(work_tree, "a")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{work_tree}", str(clone))
    another_machine()
    registry.requests()
    new = f"{repository}:pr-7"
    facts = metadata(docker, new, clone)
    assert not uploaded(registry.requests()) & before
    assert facts["built_on_name"] == f"{repository}:{chosen}"
    assert facts["built_on_reason"] == Origin.BRANCH.value
    assert exported(crane, new) == on_disk_without_git(clone)


def test_no_listing_is_asked_for_where_a_tag_has_an_image(
    docker: Docker, registry: Registry, repository: str, source: Path
) -> None:
    docker.push(f"{repository}:v1", source)
    plant(source, {"a": File(b"changed")})
    registry.requests()
    docker.push(f"{repository}:v1", source)
    assert not [r for r in registry.requests() if "/tags/list" in r.path]


def test_an_image_that_is_nothing_like_it_is_not_built_on(
    docker: Docker, repository: str, source: Path, another_machine: Callable[[], None]
) -> None:
    docker.push(f"{repository}:main", source)
    plant(source, {"ballast": File(random.Random(2).randbytes(100_000))})
    another_machine()
    pushed = docker.push(f"{repository}:v2", source)
    assert "Starting fresh: a delta would be more than half of the whole" in pushed.stderr


# Several tags


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the old one first", "the new one first"])
def test_any_of_the_tags_is_built_on(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    repository: str,
    source: Path,
    another_machine: Callable[[], None],
    order: tuple[int, int],
) -> None:
    docker.push(f"{repository}:old", source)
    before = set(layers(crane, f"{repository}:old"))
    plant(source, {"a": File(b"changed")})
    another_machine()
    tags = [f"{repository}:old", f"{repository}:new"]
    first, second = (tags[number] for number in order)
    registry.requests()
    pushed = docker.push(first, source, "-t", second, debug=True)
    assert f"Building on {repository}:old, generation 0" in pushed.stderr
    assert not uploaded(registry.requests()) & before
    assert crane("digest", tags[0]) == crane("digest", tags[1])
    assert exported(crane, tags[1]) == on_disk(source)


def test_of_two_tags_the_cheaper_one_is_built_on(
    docker: Docker, repository: str, source: Path
) -> None:
    docker.push(f"{repository}:far", source)
    plant(source, {"large": File(random.Random(3).randbytes(60_000))})
    docker.push(f"{repository}:near", source)
    plant(source, {"a": File(b"changed")})
    pushed = docker.push(f"{repository}:far", source, "-t", f"{repository}:near")
    assert f"Building on {repository}:near" in pushed.stderr


def test_a_tag_that_is_refused_is_named_and_so_are_those_that_were_written(
    docker: Docker, registry: Registry, crane: Crane, repository: str, source: Path
) -> None:
    """As by a registry with immutable tags."""

    def refuse(exchange: Exchange) -> None:
        exchange.rfile.read(exchange.length)
        errors = {"errors": [{"code": "DENIED", "message": "the tag is immutable"}]}
        kind = {"Content-Type": "application/json"}
        exchange.answer(Response(403, kind, json.dumps(errors).encode()))

    name = repository.partition("/")[2]
    with serve_proxy(
        registry.host, Rule("PUT", r"/manifests/second$", refuse, last=ALWAYS)
    ) as proxy:
        docker.log_in(proxy.host)
        tags = [f"{proxy.host}/{name}:{tag}" for tag in ("first", "second", "third")]
        pushed = docker.push(tags[0], source, "-t", tags[1], "-t", tags[2])
    assert (pushed.code, pushed.stdout) == (1, "")
    docker.log_in(registry.host)
    digest = crane("digest", f"{repository}:first").decode().strip()
    published = f"{proxy.host}/{name}@{digest} is published as {tags[0]}, but not as {tags[1]}"
    assert published in pushed.stderr
    assert "the tag is immutable" in pushed.stderr
    assert "Traceback" not in pushed.stderr


def test_the_same_push_writes_no_tag_again(
    docker: Docker,
    registry: Registry,
    repository: str,
    source: Path,
    another_machine: Callable[[], None],
) -> None:
    """Where tags are immutable, a repeated job would fail."""
    tags = (f"{repository}:v1", "-t", f"{repository}:v2")
    first = docker.push(tags[0], source, *tags[1:])
    for is_cold in (False, True):
        if is_cold:
            another_machine()
        registry.requests()
        again = docker.push(tags[0], source, *tags[1:])
        assert again.image == first.image
        assert f"Nothing changed: {tags[0]}, {tags[2]} are up to date" in again.stderr
        assert writes(registry.requests()) == []
    only = docker.push(tags[0], source)
    assert f"Nothing changed: {tags[0]} is up to date, nothing uploaded" in only.stderr


# --from


@pytest.fixture
def another_registry(tmp_path: Path) -> Iterator[Registry]:
    (tmp_path / "registry").mkdir()
    with serve_registry(tmp_path / "registry") as served:
        yield served


def log_in_to_both(docker: Docker, one: Registry, other: Registry) -> None:
    docker.log_in(one.host)
    settings = json.loads((docker.config / "config.json").read_text())
    auths = settings["auths"]
    docker.configure({"auths": {one.host: auths[one.host], other.host: auths[one.host]}})


@pytest.mark.parametrize("where", ["same repository", "same registry", "another registry"])
def test_from_names_an_image_to_build_on(
    docker: Docker,
    registry: Registry,
    another_registry: Registry,
    crane: Crane,
    repository: str,
    source: Path,
    another_machine: Callable[[], None],
    where: str,
) -> None:
    log_in_to_both(docker, registry, another_registry)
    other = {
        "same repository": repository,
        "same registry": registry.repository(),
        "another registry": another_registry.repository(),
    }[where]
    docker.push(f"{other}:theirs", source)
    before = sources(crane, f"{other}:theirs")
    plant(source, {"a": File(b"changed")})
    another_machine()
    registry.requests()
    tag = f"{repository}:v1"
    facts = metadata(docker, tag, source, "--from", f"{other}:theirs")
    assert facts["built_on_name"] == f"{other}:theirs"
    assert facts["built_on_reason"] == Origin.FROM.value
    assert sources(crane, tag)[:-1] == before
    if where != "another registry":
        assert not uploaded(registry.requests()) & set(before)
    crane("validate", "--remote", tag)
    assert exported(crane, tag) == on_disk(source)
    # From now on the tag's own image is the nearest.
    plant(source, {"b": File(b"changed")})
    registry.requests()
    pushed = docker.push(tag, source, "--from", f"{other}:theirs", debug=True)
    assert f"Building on {tag}, " in pushed.stderr
    assert not uploaded(registry.requests()) & set(before)


def test_from_by_digest(docker: Docker, registry: Registry, repository: str, source: Path) -> None:
    image = docker.push(f"{registry.repository()}:v1", source).image
    plant(source, {"a": File(b"changed")})
    pushed = docker.push(f"{repository}:v1", source, "--from", image)
    assert f"Building on {image} ({Origin.FROM.value})" in pushed.stderr


def test_an_image_of_from_that_is_not_there_is_a_warning(
    docker: Docker, crane: Crane, repository: str, source: Path
) -> None:
    """The first push of a repository has none yet."""
    gone = f"{repository}:gone"
    pushed = docker.push(f"{repository}:v1", source, "--from", gone)
    assert f"WARNING: {gone} was not found" in pushed.stderr
    assert pushed.image and "Starting fresh: " in pushed.stderr
    assert exported(crane, f"{repository}:v1") == TREE


def test_an_image_of_from_that_is_not_kontexts_is_a_warning(
    docker: Docker, registry: Registry, crane: Crane, repository: str, source: Path, tmp_path: Path
) -> None:
    other = registry.repository() + ":other"
    path = tmp_path / "layer.tar"
    subprocess.run(["tar", "-cf", path, "-C", source, "a"], check=True)
    crane("append", "--oci-empty-base", "-f", str(path), "-t", other)
    pushed = docker.push(f"{repository}:v1", source, "--from", other)
    assert f"WARNING: cannot build on {other}: " in pushed.stderr
    assert pushed.image


# --reuse own


def test_reuse_own_builds_on_nothing_that_another_machine_has_pushed(
    docker: Docker,
    crane: Crane,
    repository: str,
    source: Path,
    tmp_path: Path,
    another_machine: Callable[[], None],
) -> None:
    tag = f"{repository}:v1"
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "ours")
    docker.push(tag, source)
    another_machine()
    plant(source, {"theirs": File(b"theirs")})
    docker.push(tag, source)
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "ours")
    plant(source, {"theirs": File(b"ours")})
    pushed = docker.push(tag, source, "--reuse", "own")
    assert "Starting fresh: this machine did not push the image" in pushed.stderr
    assert exported(crane, tag) == on_disk(source)
    plant(source, {"a": File(b"changed")})
    pushed = docker.push(tag, source, "--reuse", "own", debug=True)
    assert f"Building on {tag}" in pushed.stderr


def test_reuse_own_does_not_trust_what_it_has_built_on_the_image_of_another(
    docker: Docker, repository: str, source: Path, another_machine: Callable[[], None]
) -> None:
    tag = f"{repository}:v1"
    docker.push(tag, source)
    another_machine()
    plant(source, {"a": File(b"changed")})
    assert "Starting fresh" not in docker.push(tag, source).stderr
    plant(source, {"a": File(b"again")})
    pushed = docker.push(tag, source, "--reuse", "own")
    assert "or not all that it was built on" in pushed.stderr


def test_reuse_never_asks_for_no_image(
    docker: Docker, registry: Registry, repository: str, source: Path
) -> None:
    docker.push(f"{repository}:main", source)
    plant(source, {"a": File(b"changed")})
    registry.requests()
    pushed = docker.push(f"{repository}:v2", source, "--reuse", "never", debug=True)
    assert "Starting fresh: --reuse never was given" in pushed.stderr
    assert not [r for r in registry.requests() if "/tags/list" in r.path]


# The last push of this machine


def test_the_last_push_is_built_on_after_its_tag_was_deleted(
    docker: Docker, registry: Registry, crane: Crane, repository: str, source: Path
) -> None:
    tag = f"{repository}:v1"
    image = docker.push(tag, source).image
    before = set(layers(crane, tag))
    crane("delete", image)
    plant(source, {"a": File(b"changed")})
    registry.requests()
    pushed = docker.push(f"{repository}:v2", source)
    assert f"Building on {tag} ({Origin.OWN_PUSH.value})" in pushed.stderr
    assert not uploaded(registry.requests()) & before
    assert exported(crane, f"{repository}:v2") == on_disk(source)


def test_layers_that_are_gone_with_the_tag_start_fresh(
    docker: Docker, registry: Registry, crane: Crane, repository: str, source: Path
) -> None:
    """As after a garbage collection."""
    (source / "own").write_text(repository)
    image = docker.push(f"{repository}:v1", source).image
    for digest in layers(crane, f"{repository}:v1"):
        registry.blob(digest).unlink(missing_ok=True)
    crane("delete", image)
    shutil.rmtree(links_of(registry, repository))
    plant(source, {"a": File(b"changed")})
    pushed = docker.push(f"{repository}:v2", source)
    assert pushed.image
    assert "Starting fresh: layers of the image are gone from the registry" in pushed.stderr
    assert exported(crane, f"{repository}:v2") == on_disk(source)


def links_of(registry: Registry, repository: str) -> Path:
    """Return the directory of the blobs that a repository has."""
    name = repository.partition("/")[2]
    return registry.data / f"docker/registry/v2/repositories/{name}/_layers"


def test_another_directory_of_this_machine_is_built_on_if_it_is_alike(
    docker: Docker, repository: str, source: Path, tmp_path: Path
) -> None:
    """CI checks each commit out into another directory."""
    docker.push(f"{repository}:v1", source)
    other = tmp_path / "checkout"
    shutil.copytree(source, other)
    plant(other, {"a": File(b"changed")})
    pushed = docker.push(f"{repository}:v2", other)
    assert f"Building on {repository}:v1 ({Origin.OWN_PUSH.value})" in pushed.stderr


# A dry run


def first(source: Path) -> list[str]:
    return []


def edit(source: Path) -> list[str]:
    plant(source, {"a": File(b"changed")})
    return []


def large_edit(source: Path) -> list[str]:
    plant(source, {"ballast": File(random.Random(5).randbytes(90_000))})
    return []


def label(source: Path) -> list[str]:
    return ["--label", "a=b"]


def platforms(source: Path) -> list[str]:
    plant(source, {"a": File(b"changed")})
    return ["--platform", "all"]


DRY_RUNS = {
    "first push": (first, False),
    "an edit": (edit, True),
    "a fresh start": (large_edit, True),
    "a label": (label, True),
    "all platforms": (platforms, True),
}


@pytest.mark.parametrize(("change", "has_image"), DRY_RUNS.values(), ids=DRY_RUNS)
def test_a_dry_run_tells_the_digest_and_the_bytes_of_the_push(
    docker: Docker,
    registry: Registry,
    repository: str,
    source: Path,
    change: Callable[[Path], list[str]],
    has_image: bool,
) -> None:
    """The bytes are those that the registry receives, counted on the way there."""
    (source / "own").write_text(repository)
    name = repository.partition("/")[2]
    received: list[int] = []

    def count(exchange: Exchange) -> None:
        received.append(exchange.length)
        passed(exchange)

    rule = Rule("PATCH|PUT", "/blobs/uploads/", count, last=ALWAYS)
    with serve_proxy(registry.host, rule) as proxy:
        docker.log_in(proxy.host)
        tag = f"{proxy.host}/{name}:v1"
        if has_image:
            docker.push(tag, source)
        options = change(source)
        said = docker.push(tag, source, *options, "--dry-run")
        received.clear()
        pushed = docker.push(tag, source, *options)
    assert f"Would publish {pushed.image} and upload {size(sum(received))}: " in said.stderr
    assert f"uploaded {size(sum(received))}\n" in pushed.stderr


# What a push says, and warns of


def test_the_first_push_says_how_to_name_an_image(
    docker: Docker, repository: str, source: Path
) -> None:
    pushed = docker.push(f"{repository}:v1", source)
    assert "Starting fresh: there is no image to build on; --from can name one\n" in pushed.stderr


def test_a_push_that_removes_more_than_half_warns(
    docker: Docker, repository: str, source: Path
) -> None:
    tag = f"{repository}:v1"
    plant(source, {"c": File(b"c")})
    docker.push(tag, source)
    (source / "a").unlink()
    (source / "b").unlink()
    assert "WARNING" not in docker.push(tag, source).stderr, "half of the files"
    plant(source, TREE)
    docker.push(tag, source)
    for name in ("a", "b", "c"):
        (source / name).unlink()
    pushed = docker.push(tag, source, "--quiet")
    assert pushed.image
    assert f"WARNING: this push removes 3 of the 4 files in {tag}" in pushed.stderr


def test_a_push_of_another_directory_warns(
    docker: Docker, repository: str, source: Path, tmp_path: Path
) -> None:
    tag, other = f"{repository}:v1", tmp_path / "other"
    shutil.copytree(source, other)
    plant(other, {"a": File(b"changed")})
    docker.push(tag, source)
    pushed = docker.push(tag, other)
    assert pushed.image
    warning = f"WARNING: the last push to {tag} was of another directory, {str(source)!r}"
    assert warning in pushed.stderr
    plant(other, {"a": File(b"again")})
    assert "WARNING" not in docker.push(tag, other).stderr


def test_a_push_of_nothing_warns(docker: Docker, repository: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    pushed = docker.push(f"{repository}:v1", empty)
    assert pushed.image
    assert f"WARNING: {str(empty)!r} has no file to push: the image is empty" in pushed.stderr


# Purge


def test_no_push_brings_purged_layers_back(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    repository: str,
    source: Path,
    tmp_path: Path,
    another_machine: Callable[[], None],
) -> None:
    """Neither the cache of the machine that pushed the file, nor a new tag."""
    tag, secret = f"{repository}:v1", "the file that must go\n" * 20
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "ours")
    (source / "secret").write_text(secret)
    docker.push(tag, source)
    (source / "secret").unlink()
    docker.push(tag, source)
    removed = set(sources(crane, tag))

    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "of the purge")
    assert docker("kontext", "purge", tag).image
    assert not set(layers(crane, tag)) & removed

    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "ours")
    for number, new in enumerate((tag, f"{repository}:v2", f"{repository}:v3")):
        plant(source, {"a": File(b"%d" % number)})
        assert docker.push(new, source, "-t", tag).image
        assert not set(layers(crane, new)) & removed
    another_machine()
    assert docker.push(f"{repository}:v4", source).image
    assert not set(layers(crane, f"{repository}:v4")) & removed
    assert exported(crane, tag) == on_disk(source)


def test_a_new_tag_after_a_purge_on_this_machine(
    docker: Docker, crane: Crane, repository: str, source: Path
) -> None:
    tag = f"{repository}:v1"
    (source / "secret").write_text("the file that must go\n" * 20)
    docker.push(tag, source)
    (source / "secret").unlink()
    docker.push(tag, source)
    removed = set(sources(crane, tag))
    assert docker("kontext", "purge", tag).image
    plant(source, {"a": File(b"changed")})
    assert docker.push(f"{repository}:v2", source).image
    assert not set(layers(crane, f"{repository}:v2")) & removed


# The configuration is all that is new


def test_a_new_tag_of_the_same_sources_uploads_nothing(
    docker: Docker, registry: Registry, crane: Crane, repository: str, source: Path
) -> None:
    docker.push(f"{repository}:main", source)
    registry.requests()
    pushed = docker.push(f"{repository}:v2", source)
    assert uploaded(registry.requests()) == set()
    assert crane("digest", f"{repository}:v2") == crane("digest", f"{repository}:main")
    assert f"Pushed {repository}:v2: no file changed; uploaded 0B" in pushed.stderr
    assert documents(crane, f"{repository}:v2")
