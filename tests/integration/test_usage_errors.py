"""Wrong command lines: a message that says what is wrong, and the usage."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.services import Docker, Registry
from support.trees import File, Tree

from kontext_plugin.image.spec import LAYER_LIMIT

TREE: Tree = {"file": File(b"content\n")}


WRONG_DIRECTORY = {
    "missing": ("nowhere", "does not exist"),
    "a file": ("source/file", "is not a directory"),
    "a link to nothing": ("dangling", "does not exist"),
}


@pytest.mark.parametrize(("name", "why"), WRONG_DIRECTORY.values(), ids=WRONG_DIRECTORY)
def test_a_wrong_directory_is_an_error(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    pushed = docker.push(registry.repository(), tmp_path / name)
    assert (pushed.code, pushed.stdout) == (1, "")
    assert why in pushed.stderr
    assert name in pushed.stderr


WRONG_USAGE = {
    "no tag": ([], "requires --tag"),
    "upper case": (["-t", "localhost/Upper"], "lower case"),
    "empty tag": (["-t", ""], 'invalid argument "" for "-t, --tag" flag'),
    "empty directory": (["-t", "localhost/r/r", "--directory", ""], "it is empty"),
    "no such port": (["-t", "localhost:99999/r/r"], "99999 is not a port"),
    "label that is no text": (["-t", "localhost/r/r", "--label", "k=\udcff"], "not UTF-8"),
    "spaces": (["-t", "a b"], "invalid reference"),
    "a digest": (["-t", "localhost/r/r@sha256:" + "0" * 64], "digest"),
    "tag too long": (["-t", "localhost/r/r:" + "x" * 129], "128"),
    "platform": (["-t", "localhost/r/r", "--platform", "linux/s390x"], "linux/arm64"),
    "label": (["-t", "localhost/r/r", "--label", "novalue"], "KEY=VALUE"),
    "unknown flag": (["-t", "localhost/r/r", "--nonsense"], "unknown flag: --nonsense"),
    "two directories": (["-t", "localhost/r/r", ".", "."], "at most 1 argument"),
    "DIR and --directory": (["-t", "localhost/r/r", "--directory", ".", "."], "not both"),
}


@pytest.mark.parametrize(("arguments", "why"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_options_are_usage_errors(docker: Docker, arguments: list[str], why: str) -> None:
    pushed = docker("kontext", "push", *arguments)
    assert (pushed.code, pushed.stdout) == (125, "")
    assert why in pushed.stderr
    assert "Usage:  docker kontext push [OPTIONS] -t REF [DIR]" in pushed.stderr
    assert "Run 'docker kontext push --help' for more information" in pushed.stderr


@pytest.mark.parametrize(
    "command", ["push -t REF", "push -t REF --iidfile id /", "pull REF", "verify REF", "run REF"]
)
def test_a_deleted_current_directory_is_an_error(
    docker: Docker, registry: Registry, tmp_path: Path, command: str
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    shim = docker.config / "cli-plugins" / "docker-kontext"
    words = command.replace("REF", registry.repository())
    script = f'cd "{gone}" && rmdir "{gone}" && exec "{shim}" kontext {words}'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ERROR: the current directory was deleted" in done.stderr


LIMITS = {
    "none": "",
    "one": "1",
    "more than docker runs": str(LAYER_LIMIT + 1),
    "huge": "9" * 5000,
    "negative": "-5",
    "no number": "many",
    "other digits": "٣٠",
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_limits_out_of_range_are_usage_errors(docker: Docker, source: Path, limit: str) -> None:
    pushed = docker.push("localhost:1/r/r", source, f"--max-layers={limit}")
    assert (pushed.code, pushed.stdout) == (125, "")
    assert 'for "--max-layers" flag' in pushed.stderr
    assert "Traceback" not in pushed.stderr


CONTRADICTIONS = {
    "unknown": (["--reuse", "sometimes"], "it must be auto, always, own or never"),
    "single layer upon others": (["--single-layer", "--base", "x/y"], "--base cannot be given"),
    "single layer of several": (["--single-layer", "--max-layers", "9"], "--max-layers cannot be"),
    "single layer, reused": (["--single-layer", "--reuse", "always"], "--reuse cannot be given"),
    "single layer on others": (["--single-layer", "--from", "x/y/z"], "--from cannot be given"),
    "single layer for all": (["--single-layer", "--platform", "all"], "several platforms cannot"),
    "fresh and from": (["--fresh", "--from", "x/y/z"], "--fresh and --from cannot be given"),
    "another platform": (["--platform", "linux/amd64,linux/s390x"], 'for "--platform" flag'),
    "no platform": (["--platform", ""], 'for "--platform" flag'),
    "fresh and reused": (["--fresh", "--reuse", "always"], "--fresh and --reuse cannot be given"),
}


@pytest.mark.parametrize(("options", "why"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictory_options_are_usage_errors(
    docker: Docker, source: Path, options: list[str], why: str
) -> None:
    pushed = docker.push("localhost:1/r/r", source, *options)
    assert (pushed.code, pushed.stdout) == (125, "")
    assert why in pushed.stderr
