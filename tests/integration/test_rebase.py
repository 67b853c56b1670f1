"""Another base, extractor or label: the sources are taken over, and not uploaded again."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import sysconfig
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import documents, exported, layers, own_base, uploaded, writes
from support.layouts import write_layout
from support.services import Docker, Registry, Result, install_plugin, serve_registry
from support.trees import SOURCES, File, Tree, in_archive, on_disk, plant

from kontext_plugin.image.oci import ImageConfig

Crane = Callable[..., bytes]

TREE: Tree = {
    "ballast": File(random.Random(1).randbytes(100_000)),
    "a": File(b"a"),
    "b": File(b"b"),
}


@pytest.fixture
def another_machine(docker: Docker, tmp_path: Path) -> Callable[[], None]:
    """Make what follows happen on a machine without a cache."""
    caches = (str(tmp_path / f"machine {number}") for number in range(9))
    return lambda: docker.environment.update(KONTEXT_CACHE_DIR=next(caches))


@pytest.fixture
def bases(registry: Registry, crane: Crane, tmp_path: Path) -> tuple[str, str]:
    """Two bases, each with a layer and a setting of its own."""
    names = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        base = own_base(crane, registry, folder)
        with tarfile.open(folder / "more.tar", "w") as archive:
            entry = tarfile.TarInfo(f"etc/of-{name}")
            archive.addfile(entry, io.BytesIO())
        settings = ["--env", f"BASE={name}", "--label", f"base={name}"]
        crane("mutate", base, "--append", str(folder / "more.tar"), *settings, "-t", base)
        names.append(base)
    return names[0], names[1]


STEPS: dict[str, tuple[int | None, int | None]] = {
    "another base": (0, 1),
    "a base is added": (None, 0),
    "the base is dropped": (0, None),
}


@pytest.mark.parametrize("is_edited", [False, True], ids=["the same sources", "an edit"])
@pytest.mark.parametrize("is_cold", [False, True], ids=["with the cache", "without a cache"])
@pytest.mark.parametrize(("old", "new"), STEPS.values(), ids=STEPS)
def test_another_base_takes_the_sources_over(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    bases: tuple[str, str],
    another_machine: Callable[[], None],
    old: int | None,
    new: int | None,
    is_cold: bool,
    is_edited: bool,
) -> None:
    tag = registry.repository() + ":v1"

    def options(base: int | None) -> list[str]:
        return [] if base is None else ["--base", bases[base]]

    def below(base: int | None) -> list[str]:
        return [] if base is None else layers(crane, bases[base])

    docker.push(tag, source, *options(old))
    plant(source, {"b": File(b"second")})
    docker.push(tag, source, *options(old))
    *before, extractor = layers(crane, tag)[len(below(old)) :]
    assert len(before) == 2
    if is_edited:
        plant(source, {"a": File(b"third")})
    if is_cold:
        another_machine()
    registry.requests()
    pushed = docker.push(tag, source, *options(new))
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr

    sent = uploaded(registry.requests())
    assert not sent & {*before, extractor}
    after = layers(crane, tag)
    assert after[: len(below(new))] == below(new)
    assert after[-1] == extractor
    kept = after[len(below(new)) : -1]
    assert kept[0] == before[0] and (is_edited or kept == before)
    # The registry mounts the layers of a base that is in another of its repositories.
    brought = documents(crane, bases[new]) if new is not None else set()
    assert sent <= {*(kept[-1:] if is_edited else ()), *documents(crane, tag), *brought}

    config = json.loads(crane("config", tag))["config"]
    name = None if new is None else ("one", "two")[new]
    assert [one for one in config["Env"] if one.startswith("BASE=")] == (
        [f"BASE={name}"] if name else []
    )
    assert config.get("Labels") == ({"base": name} if name else None)
    annotations = json.loads(crane("manifest", tag))["annotations"]
    assert annotations.get("org.opencontainers.image.base.name") == (
        bases[new] if new is not None else None
    )
    crane("validate", "--remote", tag)
    image = crane("export", tag, "-")
    assert in_archive(io.BytesIO(image)) == on_disk(source)
    etc = in_archive(io.BytesIO(image), "etc")
    assert {path for path in etc if path.startswith("of-")} == ({f"of-{name}"} if name else set())
    assert "Nothing changed" in docker.push(tag, source, *options(new)).stderr


def test_a_base_whose_tag_moves_is_taken_at_the_next_push(
    docker: Docker, registry: Registry, crane: Crane, source: Path, bases: tuple[str, str]
) -> None:
    """As with FROM in a Dockerfile. A push without an edit notices it as well."""
    tag, base = registry.repository() + ":v1", bases[0]
    docker.push(tag, source, "--base", base)
    crane("mutate", base, "--env", "BASE=newer", "-t", base)
    registry.requests()
    pushed = docker.push(tag, source, "--base", base)
    assert uploaded(registry.requests()) == documents(crane, tag)
    assert "BASE=newer" in json.loads(crane("config", tag))["config"]["Env"]
    assert "no file changed" in pushed.stderr


LABELS = {
    "dropped": (["--label", "a=b", "--label", "c=d"], ["--label", "a=b"], {"a": "b"}),
    "the last one dropped": (["--label", "a=b"], [], None),
    "changed": (["--label", "a=b"], ["--label", "a=c"], {"a": "c"}),
    "added": ([], ["--label", "a=b"], {"a": "b"}),
}


@pytest.mark.parametrize(("old", "new", "labels"), LABELS.values(), ids=LABELS)
def test_other_labels_upload_a_configuration_alone(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    old: list[str],
    new: list[str],
    labels: dict[str, str] | None,
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source, *old)
    before = layers(crane, tag)
    registry.requests()
    pushed = docker.push(tag, source, *new)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    assert layers(crane, tag) == before
    assert uploaded(registry.requests()) == documents(crane, tag)
    assert json.loads(crane("config", tag))["config"].get("Labels") == labels


# Another extractor


@pytest.fixture
def another_version(
    registry: Registry, root: Path, crane_path: str, tmp_path: Path
) -> tuple[Docker, str]:
    """An installation of Kontext with another extractor; also returns the digest of its layer."""
    package = tmp_path / "site" / "kontext_plugin"
    shutil.copytree(root / "kontext_plugin", package, ignore=shutil.ignore_patterns("base"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, kind, mode in (
            ("kontext-extractor", tarfile.REGTYPE, 0o755),
            ("workspace", tarfile.DIRTYPE, 0o1777),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, mode
            tar.addfile(entry, io.BytesIO())
    layout, config = package / "base/linux-amd64", ImageConfig("linux/amd64")
    digest = write_layout(layout, [archive.getvalue()], config).layers[0].digest
    environment = package.parent / ".venv"  # of its own: this one's Python has today's checkout
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (environment / "bin/crane").symlink_to(crane_path)
    command = Docker(tmp_path / "config of another version")
    install_plugin(command.config, package / "docker-kontext")
    command.log_in(registry.host)
    return command, digest


@pytest.mark.parametrize("is_edited", [False, True], ids=["the same sources", "an edit"])
def test_another_extractor_takes_the_sources_over(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    another_version: tuple[Docker, str],
    is_edited: bool,
) -> None:
    """As after each upgrade of Kontext. Only the extractor goes up, and the way back is free."""
    command, extractor = another_version
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    plant(source, {"b": File(b"second")})
    docker.push(tag, source)
    *before, old = layers(crane, tag)
    if is_edited:
        plant(source, {"a": File(b"third")})
    registry.requests()
    pushed = command.push(tag, source)
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    *after, top = layers(crane, tag)
    assert top == extractor != old
    new = [layer for layer in after if layer not in before]
    assert len(new) == is_edited
    assert uploaded(registry.requests()) == {extractor, *new, *documents(crane, tag)}
    assert exported(crane, tag) == on_disk(source)

    registry.requests()
    pushed = docker.push(tag, source)
    assert layers(crane, tag) == [*after, old]
    assert uploaded(registry.requests()) <= documents(crane, tag)


def test_the_program_of_a_layer_below_cannot_replace_the_extractor(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """A base may have a file of its name; the extractor lies on top of everything."""
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        entry = tarfile.TarInfo("kontext-extractor")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"evil"))
    base, tag = registry.repository() + ":base", registry.repository() + ":v1"
    crane("append", "--oci-empty-base", "-f", str(tmp_path / "evil.tar"), "-t", base)
    crane("mutate", base, "--set-platform", "linux/amd64", "-t", base)
    assert docker.push(tag, source, "--base", base).image
    with tarfile.open(fileobj=io.BytesIO(crane("export", tag, "-"))) as archive:
        file = archive.extractfile("kontext-extractor")
        assert file is not None
        assert file.read(4) == b"\x7fELF"


# --check-parent


def forge(crane: Crane, tag: str, folder: Path) -> None:
    """Replace `a` in the top layer of sources by other bytes; the manifest stays as it is."""
    name = tag.rpartition(":")[0]
    document = json.loads(crane("manifest", tag))
    paths = []
    for number, layer in enumerate(document["layers"]):
        blob = crane("blob", f"{name}@{layer['digest']}")
        if number == len(document["layers"]) - 2:
            blob = rewritten(blob)
        paths += ["-f", str(folder / f"{number}.tar.gz")]
        Path(paths[-1]).write_bytes(blob)
    config = json.loads(crane("config", tag))["config"]
    crane("append", "--oci-empty-base", *paths, "-t", tag)
    settings = ["--entrypoint", "/kontext-extractor", "--workdir", "/workspace"]
    settings += ["--set-platform", "linux/amd64", "--env", config["Env"][0]]
    settings += [f"--annotation={key}={value}" for key, value in document["annotations"].items()]
    crane("mutate", tag, *settings, "-t", tag)


def rewritten(blob: bytes) -> bytes:
    output = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(blob)) as old,
        tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for entry in old:
            file = old.extractfile(entry)
            content = file.read() if file else b""
            new.addfile(entry, io.BytesIO(b"evil" if entry.name == f"{SOURCES}/a" else content))
    return gzip.compress(output.getvalue(), mtime=0)


def test_check_parent_finds_a_forged_layer(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    tmp_path: Path,
    another_machine: Callable[[], None],
) -> None:
    """Without it, a push carries the file along: nothing of a parent is read."""
    tag = registry.repository() + ":v1"
    plant(source, {"a": File(b"good")})
    docker.push(tag, source)
    forge(crane, tag, tmp_path)
    assert exported(crane, tag)["a"] == File(b"evil")
    plant(source, {"b": File(b"an edit")})
    another_machine()
    unchecked = docker.push(tag, source)
    assert unchecked.image and "evil" not in unchecked.stderr
    assert docker("kontext", "verify", tag).code == 1
    plant(source, {"b": File(b"another edit")})
    another_machine()
    pushed = docker.push(tag, source, "--check-parent", "--quiet")
    assert pushed.image
    assert f"WARNING: {tag} is not what its manifest says: " in pushed.stderr
    assert "'a': " in pushed.stderr
    assert exported(crane, tag) == on_disk(source)
    assert docker("kontext", "verify", tag, str(source)).code == 0


def test_check_parent_reads_each_layer_once(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    another_machine: Callable[[], None],
) -> None:
    """What this machine has checked or written needs no check."""
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    plant(source, {"b": File(b"an edit")})

    def checks() -> bool:
        pushed: Result = docker.push(tag, source, "--check-parent")
        assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
        assert exported(crane, tag) == on_disk(source)
        return "Checking " in pushed.stderr

    assert not checks(), "this machine has written it"
    another_machine()
    plant(source, {"a": File(b"an edit")})
    assert checks()
    plant(source, {"a": File(b"another edit")})
    assert not checks()


def test_fresh_heals_an_image_that_has_lost_its_base(
    docker: Docker, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """crane sends nothing where it finds the manifest, so the image gets another digest."""
    (tmp_path / "registry").mkdir()
    with serve_registry(tmp_path / "registry") as registry:  # other tests need these blobs
        docker.log_in(registry.host)
        tag = registry.repository() + ":v1"
        (source / "own").write_text(tag)
        first = docker.push(tag, source).image
        for digest in layers(crane, tag):
            registry.blob(digest).unlink()
        registry.requests()
        healed = docker.push(tag, source, "--fresh")
        assert healed.image != first
        assert "has lost a blob: publishing it again with another digest" in healed.stderr
        assert writes(registry.requests())
        crane("validate", "--remote", tag)
        assert exported(crane, tag) == on_disk(source)
        assert docker.push(tag, source, "--fresh").image
