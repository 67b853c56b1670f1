"""`pull` and `verify` as a user types them: a directory becomes the image's, and is proven so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support.models import STRANGE_NAMES, described, trees
from support.services import Docker, Registry, install_plugin, missing
from support.trees import EVERY_KIND, Directory, File, Tree, on_disk, plant

Crane = Callable[..., bytes]

TREE = EVERY_KIND


def test_pull_makes_a_directory_match_the_image(
    docker: Docker, registry: Registry, tag: str, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    pulled = docker("kontext", "pull", tag, str(out))
    assert (pulled.code, pulled.stdout) == (0, "")
    assert pulled.stderr == (
        f'Pulling {tag}: 3 files, 24B\n4 files: 4 written, 0 already right in "{out}"\n'
    )
    assert on_disk(out) == TREE
    os.utime(out / "file", (1, 1))
    (out / "run.sh").write_text("other")
    (out / "mine").write_text("mine")
    pulled = docker("kontext", "pull", tag, cwd=out)
    assert pulled.stderr == (
        f'Pulling {tag}: 1 file, 10B\n4 files: 1 written, 3 already right in "{out}"\n'
    )
    assert on_disk(out) == TREE | {"mine": File(b"mine")}
    assert (out / "file").stat().st_mtime == 1
    pulled = docker("kontext", "pull", "--mirror", tag, str(out))
    assert pulled.stderr == f'4 files: 0 written, 4 already right, 1 removed in "{out}"\n'
    assert on_disk(out) == TREE
    assert docker("kontext", "pull", "-q", tag, str(out)).stderr == ""


def test_nothing_is_fetched_if_the_directory_matches(
    docker: Docker, registry: Registry, tag: str, source: Path
) -> None:
    docker("kontext", "pull", tag, str(source))
    registry.requests()
    pulled = docker("-D", "kontext", "pull", tag, str(source))
    assert pulled.code == 0
    assert "unpack" not in pulled.stderr
    assert pulled.stderr.count("crane blob") == 1, "the manifest"


def test_the_layers_of_the_base_are_not_read_to_their_end(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    """The stream is left as soon as the last of the sources was seen."""
    base = registry.repository() + ":base"
    noise = tmp_path / "noise"
    noise.mkdir()
    (noise / "noise").write_bytes(os.urandom(20_000_000))
    subprocess.run(["tar", "-cf", tmp_path / "noise.tar", "-C", noise, "."], check=True)
    crane("append", "--oci-empty-base", "-f", str(tmp_path / "noise.tar"), "-t", base)
    crane("mutate", base, "--set-platform", "linux/amd64", "-t", base)
    lowest = registry.blob(json.loads(crane("manifest", base))["layers"][0]["digest"])
    image = docker.push(registry.repository(), source, "--base", base).image
    whole = lowest.read_bytes()
    lowest.write_bytes(whole[:10_000_000])
    assert docker("kontext", "pull", image, str(tmp_path / "out")).code == 0
    assert on_disk(tmp_path / "out") == TREE
    lowest.write_bytes(whole)
    verified = docker("kontext", "verify", image, str(tmp_path / "out"))
    assert verified.stdout == "The image, its manifest and DIR match: 4 files\n"


def test_images_of_the_prototype_are_pulled_and_verified(
    docker: Docker, registry: Registry, crane: Crane, tmp_path: Path
) -> None:
    """Version 1 of the manifest: no sizes, all files are executable."""
    tree = {"d": Directory(), "d/f": File(b"x" * 1000, executable=True), "e": File(b"", True)}
    files = described(tree).files
    root = tmp_path / "root"
    for folder in ("var/lib/kontext", "var/run/kontext"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/kontext/manifest.json").write_text(json.dumps({"files": {".": "", **files}}))
    plant(root / "var/run/kontext", tree)
    layer = tmp_path / "layer.tar"
    names = ["var/lib/kontext/manifest.json", "var/run/kontext"]
    subprocess.run(["tar", "-cf", layer, "-C", root, *names], check=True)
    tag = registry.repository() + ":v1"
    crane("append", "--oci-empty-base", "-f", str(layer), "-t", tag)
    out = tmp_path / "out"
    for said in ("2 files: 2 written", "2 files: 0 written"):
        assert said in docker("kontext", "pull", tag, str(out)).stderr
    assert on_disk(out) == tree
    assert docker("kontext", "verify", tag, str(out)).code == 0


def test_a_full_disk_leaves_whole_files(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    """What was written is whole, and no temporary file is left."""
    (source / "large").write_bytes(os.urandom(3_000_000))
    image = docker.push(registry.repository(), source).image
    if os.geteuid():
        missing("root, to mount a small disk")
    script = (
        'mount -t tmpfs -o size=1m none "$1" && cd "$1" && echo before > file && '
        'docker kontext pull "$2"; code=$?; ls -A; cat file; exit $code'
    )
    (tmp_path / "full").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", tmp_path / "full", image],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"'{tmp_path}/full/large' cannot be written: No space left on device" in done.stderr
    assert "Free some space" in done.stderr
    assert ".kontext-" not in done.stdout
    assert "large" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_pull_leaves_each_file_as_it_was(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (source / "large").write_bytes(os.urandom(1 << 20) * 100)
    image = docker.push(registry.repository(), source).image
    out = tmp_path / "out"
    out.mkdir()
    (out / "large").write_bytes(b"before")
    pull = subprocess.Popen(
        [docker.config / "cli-plugins/docker-kontext", "kontext", "pull", image, out],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        stderr=subprocess.PIPE,
    )
    while pull.poll() is None and not list(out.glob(".kontext-*")):
        time.sleep(0.001)
    pull.send_signal(number)
    said = pull.communicate()[1].decode()
    assert pull.returncode == 130, said
    assert "Interrupted; each file is as it was before" in said
    assert not list(out.glob(".kontext-*"))
    assert (out / "large").read_bytes() == b"before"


WRONG = {
    "a file": ("file", "is not a directory"),
    "below a file": ("file/x", "is not a directory"),
    "nowhere": ("/proc/nowhere", "cannot be written to"),
}


@pytest.mark.parametrize(("name", "why"), WRONG.values(), ids=WRONG)
def test_a_target_that_is_no_directory_is_an_error(
    docker: Docker, tag: str, source: Path, name: str, why: str
) -> None:
    pulled = docker("kontext", "pull", tag, name, cwd=source)
    assert pulled.code == 1
    assert why in pulled.stderr
    assert name in pulled.stderr


def test_a_missing_image_is_an_error(docker: Docker, registry: Registry, tmp_path: Path) -> None:
    for verb in ("pull", "verify"):
        done = docker("kontext", verb, registry.repository() + ":gone", cwd=tmp_path)
        assert done.code == 1
        assert "was not found" in done.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.fixture(scope="module")
def everywhere(registry: Registry, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Docker:
    command = Docker(tmp_path_factory.mktemp("docker-config"))
    install_plugin(command.config, root / "kontext_plugin" / "docker-kontext")
    command.log_in(registry.host)
    return command


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(tree=trees(STRANGE_NAMES), garbage=trees())
def test_any_tree_is_pulled_over_any_other(
    everywhere: Docker, registry: Registry, tree: Tree, garbage: Tree
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        for directory, content in ((source, tree), (target, garbage)):
            directory.mkdir()
            plant(directory, content)
        image = everywhere.push(registry.repository(), source).image
        assert everywhere("kontext", "pull", image, str(target)).code == 0
        assert on_disk(target).items() >= tree.items()
        assert everywhere("kontext", "pull", "--mirror", image, str(target)).code == 0
        assert on_disk(target) == tree
        assert everywhere("kontext", "verify", image, str(target)).code == 0
