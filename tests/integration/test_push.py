"""The main job: push a directory, change it, push it again."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import documents, exported, layers, sources, uploaded, writes
from support.services import Docker, Registry, Result
from support.trees import PROGRAM, Directory, File, Link, Tree, in_archive, on_disk, plant, remove

from kontext_plugin.push.parent import Origin
from kontext_plugin.terminal.text import size

Crane = Callable[..., bytes]

TREE: Tree = PROGRAM | {
    "src/dangling": Link("no/such/file"),
    "src/absolute": Link("/etc/hostname"),
    "empty": Directory(),
    "nothing": File(b""),
    "big": File(os.urandom(300_000)),
}


def test_the_first_push_publishes_the_directory(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    pushed = docker.push(tag, source, debug=True)
    assert pushed.image.rpartition("@")[0] == tag.rpartition(":")[0]
    assert pushed.image.endswith(crane("digest", tag).decode().strip())
    assert exported(crane, tag) == TREE
    assert "Starting fresh: there is no image to build on" in pushed.stderr
    assert len(layers(crane, tag)) == 2


def test_the_tag_is_written_once_and_last(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    registry.requests()
    assert docker.push(tag, source).code == 0
    requests = registry.requests()
    tagged = [r for r in requests if r.method == "PUT" and r.path.endswith("/manifests/v1")]
    assert [r.status for r in tagged] == [201]
    assert writes(requests)[-1] == tagged[0]


def test_an_edit_uploads_its_layer_the_config_and_the_manifest(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    before = sources(crane, tag)
    extractor = layers(crane, tag)[-1]
    (source / "README").write_text("changed\n")
    registry.requests()
    pushed = docker.push(tag, source)
    requests = registry.requests()

    after = sources(crane, tag)
    assert after[:-1] == before
    assert layers(crane, tag)[-1] == extractor
    assert uploaded(requests) == {after[-1], *documents(crane, tag)}
    assert sum(r.method == "PUT" and "/manifests/" in r.path for r in requests) == 1
    assert sum(registry.blob_size(digest) for digest in uploaded(requests)) < 3000
    assert f"uploaded {size(sum(map(registry.blob_size, uploaded(requests))))}" in pushed.stderr
    assert "1 changed" in pushed.stderr
    assert exported(crane, tag) == TREE | {"README": File(b"changed\n")}


def test_no_change_uploads_nothing(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    registry.requests()
    second = docker.push(tag, source)
    requests = registry.requests()
    assert second.image == first.image
    assert "Nothing changed" in second.stderr
    assert writes(requests) == []
    assert [r.path for r in requests if "/blobs/" in r.path] == []


def test_without_a_cache_the_head_of_one_blob_is_read(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    registry.requests()
    assert docker.push(tag, source).image == first.image
    requests = registry.requests()
    assert writes(requests) == []
    assert len([r for r in requests if "/blobs/" in r.path]) == 2, "the configuration, one head"


HISTORY: list[tuple[str, Tree, list[str]]] = [
    ("added", {"new": File(b"new"), "deep": Directory(), "deep/er": File(b"x")}, []),
    ("removed", {}, ["big", "src/link.c"]),
    ("a whole tree removed", {}, ["deep"]),
    ("removed and added again", {"deep": Directory(), "deep/other": File(b"y")}, []),
    ("executable", {"README": File(b"hello\n", executable=True)}, []),
    ("file to directory", {"README": Directory(), "README/a": File(b"a")}, ["README"]),
    ("directory to file", {"src": File(b"src")}, ["src"]),
    ("file to directory again", {"src": Directory(), "src/new": File(b"n")}, ["src"]),
    ("directory to link", {"deep": Link("README")}, ["deep"]),
    ("link to directory", {"deep": Directory(), "deep/last": File(b"l")}, ["deep"]),
    ("link to elsewhere", {"loop": Link("loop"), "up": Link("../up")}, []),
    ("emptied", {}, ["README", "deep", "src", "run.sh", "new", "nothing", "empty", "loop", "up"]),
]


def test_a_history_is_right_after_every_push(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    source: Path,
    run_image: Callable[..., Result],
    tmp_path: Path,
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    used = tmp_path / "used workspace"
    used.mkdir()
    for step, planted, removed in HISTORY:
        for path in removed:
            remove(source / path)
        plant(source, planted)
        image = docker.push(tag, source).image
        want = on_disk(source)
        assert exported(crane, tag) == want, step
        new = tmp_path / f"workspace after {step}"
        new.mkdir()
        for workspace, options in ((new, ["--verify"]), (used, ["--mirror", "--verify"])):
            ran = run_image(image, workspace, *options)
            assert ran.code == 0, (step, ran.stderr)
            assert on_disk(workspace) == want, step


def test_a_deleted_tag_is_noticed(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    crane("delete", first.image)
    second = docker.push(tag, source, debug=True)
    assert second.image == first.image
    assert f"Building on {tag} ({Origin.OWN_PUSH.value})" in second.stderr
    assert exported(crane, tag) == TREE


def test_a_tag_moved_elsewhere_is_noticed(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    other = tmp_path / "other"
    other.mkdir()
    (other / "theirs").write_text("theirs")
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    docker.push(tag, other)
    del docker.environment["KONTEXT_CACHE_DIR"]
    docker.push(tag, source)
    assert exported(crane, tag) == TREE


def test_several_tags_show_one_image(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    repository, elsewhere = registry.repository(), registry.repository()
    tags = [f"{repository}:one", f"{repository}:two", f"{elsewhere}:three"]
    options = [option for tag in tags[1:] for option in ("--tag", tag)]
    pushed = docker.push(tags[0], source, *options)
    assert {crane("digest", tag).decode().strip() for tag in tags} == {
        pushed.image.rpartition("@")[2]
    }
    # A tag that was missing is added although nothing changed.
    again = docker.push(tags[0], source, "-t", f"{repository}:four")
    assert again.image == pushed.image
    assert crane("digest", f"{repository}:four").decode().strip() in pushed.image


def test_fresh_builds_on_nothing(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    (source / "README").write_text("changed\n")
    docker.push(tag, source)
    assert len(layers(crane, tag)) == 3
    plant(source, TREE)
    fresh = docker.push(tag, source, "--fresh")
    assert fresh.image == first.image, "the same tree is the same image"
    assert len(layers(crane, tag)) == 2


def test_dry_run_touches_nothing(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path
) -> None:
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "cache")
    tag = registry.repository() + ":v1"
    said = docker.push(tag, source, "--dry-run")
    assert (said.code, said.stdout) == (0, "")
    assert "8 added" in said.stderr
    assert not (tmp_path / "cache").exists()
    pushed = docker.push(tag, source)
    assert f"Would publish {pushed.image} and upload" in said.stderr
    (source / "README").write_text("changed\n")
    registry.requests()
    said = docker.push(tag, source, "--dry-run")
    assert writes(registry.requests()) == []
    registry.requests()
    pushed = docker.push(tag, source)
    sent = sum(map(registry.blob_size, uploaded(registry.requests())))
    assert f"Would publish {pushed.image} and upload {size(sent)}: 1 changed" in said.stderr
    # Nor does what had to be read from the registry leave a trace.
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other machine")
    said = docker.push(tag, source, "--dry-run")
    assert "Nothing changed" in said.stderr
    assert not (tmp_path / "other machine").exists()


def test_timings_show_each_step(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source, "--timings", "-q")
    lines = first.stderr.splitlines()
    assert first.image and lines[0] == "It took"
    steps = {line.partition("s  ")[2]: line.split()[3] for line in lines[1:-1]}
    assert {"scan", "ask the registry", "plan", "write layers", "crane push"} <= steps.keys()
    whole = float(lines[-1].split()[0])
    assert lines[-1].endswith(" s in total")
    assert all(0 <= float(seconds) <= whole for seconds in steps.values())
    again = docker.push(tag, source, "--timings").stderr
    assert "scan" in again and "crane push" not in again
    assert "It took" not in docker.push(tag, source).stderr


def test_quiet_prints_only_the_digest(docker: Docker, registry: Registry, source: Path) -> None:
    pushed = docker.push(registry.repository(), source, "-q")
    assert pushed.image
    assert pushed.stderr == ""


def test_the_options_of_the_prototype_work(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    assert docker("kontext", "push", f"--directory={source}", "--tag", tag).image


def test_the_directory_defaults_to_the_current_one(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    assert docker("kontext", "push", "-t", tag, cwd=source).image
    assert exported(crane, tag) == TREE


def test_code_in_the_directory_is_not_run(docker: Docker, registry: Registry, source: Path) -> None:
    for name in ("json.py", "argparse.py", "sitecustomize.py"):
        (source / name).write_text("raise SystemExit('ran the code of the pushed directory')")
    (source / "kontext_plugin").mkdir()
    (source / "kontext_plugin" / "__init__.py").write_text("raise SystemExit('ran it')")
    docker.environment["PYTHONPATH"] = str(source)
    assert docker("kontext", "push", "-t", registry.repository(), cwd=source).image


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64"])
def test_the_image_is_for_the_given_platform(
    docker: Docker, registry: Registry, crane: Crane, source: Path, platform: str
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source, "--platform", platform)
    config = json.loads(crane("config", tag))
    assert f"{config['os']}/{config['architecture']}" == platform
    assert config["config"]["Entrypoint"] == ["/kontext-extractor"]
    assert config["config"]["WorkingDir"] == "/workspace"


def test_another_platform_uploads_no_sources(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    before = sources(crane, tag)
    registry.requests()
    pushed = docker.push(tag, source, "--platform", "linux/arm64")
    assert pushed.code == 0 and "Starting fresh" not in pushed.stderr
    assert uploaded(registry.requests()) <= {layers(crane, tag)[-1], *documents(crane, tag)}
    assert sources(crane, tag) == before
    assert json.loads(crane("config", tag))["architecture"] == "arm64"


LABELS = {"a": "1", "with.comma": "x,y=z", "quotes": 'say "hi"', "line": "one\ntwo"}


def test_the_image_has_the_given_labels(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"

    def labels() -> object:
        return json.loads(crane("config", tag))["config"].get("Labels")

    for key, value in LABELS.items():
        docker.push(tag, source, "--fresh", "--label", f"{key}={value}")
        assert labels() == {key: value}
    options = [option for key, value in LABELS.items() for option in ("--label", f"{key}={value}")]
    docker.push(tag, source, *options)
    assert labels() == LABELS
    # The labels alone changed, or were dropped: only a configuration.
    before = layers(crane, tag)
    registry.requests()
    docker.push(tag, source, *options, "--label", "a=2")
    assert labels() == LABELS | {"a": "2"}
    docker.push(tag, source, "--label", "line=x")
    assert labels() == {"line": "x"}
    assert layers(crane, tag) == before
    assert not uploaded(registry.requests()) & set(before)


def test_files_that_no_image_can_hold_are_skipped_with_a_warning(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(source)  # a socket's path has 108 bytes at most
        listener.bind("socket")
        os.chdir(here)
    tag = registry.repository() + ":v1"
    pushed = docker.push(tag, source)
    assert "WARNING: skipped 'fifo': it is a FIFO" in pushed.stderr
    assert "WARNING: skipped 'socket': it is a socket" in pushed.stderr
    assert exported(crane, tag) == TREE


STRANGE: Tree = {
    name: File(name.encode())
    for name in (
        "space in it",
        " lead and trail ",
        "new\nline",
        "tab\tbell\aescape\x1b[31m",
        "quote'\"`$(id)",
        "back\\slash\\",
        "-rf",
        "--",
        "~",
        "%2e%2e",
        "ünïcödé",
        "日本語",
        "e\u0301 is not \u00e9",
        "\U0001f40b",
        "a:b",
        "C:",
        "*?[x]",
        "x" * 255,
        "ü" * 127,
        ".wh",
        "a.wh.b",
    )
} | {
    "d" * 200: Directory(),
    "d" * 200 + "/" + "e" * 200: Directory(),
    "d" * 200 + "/" + "e" * 200 + "/" + "f" * 200: File(b"deep", executable=True),
    "l" * 255: Link("t" * 300),
    "link ü\n": Link("target \\ ü\n"),
    "outside": Link("../elsewhere/file"),
    "to the root": Link("../../../etc/hostname"),
}


def test_strange_names_reach_every_consumer(
    docker: Docker,
    registry: Registry,
    crane: Crane,
    run_image: Callable[..., Result],
    tmp_path: Path,
) -> None:
    source = tmp_path / "strange"
    source.mkdir()
    plant(source, STRANGE)
    tag = registry.repository() + ":v1"
    pushed = docker.push(tag, source)
    assert exported(crane, tag) == STRANGE
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    ran = run_image(pushed.image, workspace, "--verify", "--mirror")
    assert ran.code == 0, ran.stderr
    assert on_disk(workspace) == STRANGE
    # And in a delta.
    for path in ("new\nline", "x" * 255, "d" * 200):
        remove(source / path)
    (source / "日本語").write_text("changed")
    pushed = docker.push(tag, source)
    assert exported(crane, tag) == on_disk(source)
    ran = run_image(pushed.image, workspace, "--verify", "--mirror")
    assert on_disk(workspace) == on_disk(source), ran.stderr


REFUSED = {
    "whiteout": (b".wh.gone", None, "begins with .wh."),
    "opaque whiteout": (b".wh..wh..opq", None, "begins with .wh."),
    "not UTF-8": (b"caf\xe9", None, "is not UTF-8"),
    "link out of the image": (b"link", b"../../../../../etc/passwd", "leads out of the image"),
    "link that is not UTF-8": (b"link", b"caf\xe9", "is not UTF-8"),
    "backslashes that lead out": (b"a\\..\\..\\..\\..\\..\\..\\x", None, "backslashes"),
}


@pytest.mark.parametrize(("name", "target", "why"), REFUSED.values(), ids=REFUSED)
def test_paths_that_consumers_treat_differently_are_rejected(
    docker: Docker,
    registry: Registry,
    source: Path,
    name: bytes,
    target: bytes | None,
    why: str,
) -> None:
    path = os.path.join(os.fsencode(source / "src"), name)
    if target is None:
        with open(path, "wb"):
            pass
    else:
        os.symlink(target, path)
    registry.requests()
    pushed = docker.push(registry.repository(), source)
    assert (pushed.code, pushed.stdout) == (1, "")
    assert repr(os.fsdecode(b"src/" + name)) in pushed.stderr
    assert why in pushed.stderr
    assert "Traceback" not in pushed.stderr
    assert writes(registry.requests()) == []


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
