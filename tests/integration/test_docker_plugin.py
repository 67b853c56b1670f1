"""What docker sees of the plugin: metadata, help, exit codes, and being told to stop."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.services import Docker, Registry
from support.trees import Directory, File, Tree, plant

import kontext_plugin

TREE: Tree = {"file": File(b"content\n")}


def test_docker_lists_it(docker: Docker) -> None:
    assert "kontext*" in docker("--help").stdout


def test_the_metadata_needs_no_other_program(root: Path) -> None:
    shim = root / "kontext_plugin" / "docker-kontext"
    done = subprocess.run(
        [shim, "docker-cli-plugin-metadata"],
        env={"PATH": "/no/programs", "KONTEXT_PYTHON": "/no/python"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == (root / "plugin.json").read_bytes(), "docker-kontext repeats plugin.json"
    metadata = json.loads(done.stdout)
    assert metadata["SchemaVersion"] == "0.1.0"
    assert metadata["Version"] == kontext_plugin.read_version()
    assert metadata.keys() == {"SchemaVersion", "Vendor", "Version", "ShortDescription"}


HELP = {
    "plugin": (["kontext"], "Usage:  docker kontext COMMAND\n"),
    "plugin, flag": (["kontext", "--help"], "Usage:  docker kontext COMMAND\n"),
    "plugin, help": (["help", "kontext"], "Usage:  docker kontext COMMAND\n"),
    "command": (
        ["kontext", "push", "--help"],
        "Usage:  docker kontext push [OPTIONS] -t REF [DIR]\n",
    ),
    "command, short": (
        ["kontext", "push", "-h"],
        "Usage:  docker kontext push [OPTIONS] -t REF [DIR]\n",
    ),
    "command, help": (
        ["help", "kontext", "push"],
        "Usage:  docker kontext push [OPTIONS] -t REF [DIR]\n",
    ),
    "command, before": (["--help", "kontext", "push"], "Usage:  docker kontext push"),
    "after flags": (["kontext", "push", "-t", "x", "--help"], "Usage:  docker kontext push"),
}


@pytest.mark.parametrize(("arguments", "start"), HELP.values(), ids=HELP)
def test_help_shows_the_usage(docker: Docker, arguments: list[str], start: str) -> None:
    said = docker(*arguments)
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout.startswith(start)
    assert said.stdout.count("Usage:") == 1


def test_every_option_is_in_the_help(docker: Docker) -> None:
    text = docker("kontext", "push", "--help").stdout
    for option in (
        "-t, --tag", "    --fresh", "    --base", "    --platform", "    --label", "    --dry-run",
        "-q, --quiet", "    --insecure", "    --ignore-file", "    --git",
    ):  # fmt: skip
        assert f"\n  {option} " in text


def test_global_flags_come_first(docker: Docker, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    tag = registry.repository()
    for flags in (["-D"], ["--debug=false"], ["--context", "default"], ["-Dc", "default"], ["--"]):
        pushed = docker(*flags, "kontext", "push", "-t", tag, str(tmp_path / "source"))
        assert pushed.image, flags
        assert ("crane manifest" in pushed.stderr) == ("D" in flags[0]), flags


def test_debug_shows_the_traceback(docker: Docker, tmp_path: Path) -> None:
    arguments = ["kontext", "push", "-t", "127.0.0.1:1/some/repository", str(tmp_path)]
    assert "Traceback" not in docker(*arguments).stderr
    debugged = docker("-D", *arguments)
    assert debugged.code == 1
    assert "Traceback" in debugged.stderr
    assert "crane manifest 127.0.0.1:1/some/repository" in debugged.stderr


def test_commands_are_completed(docker: Docker) -> None:
    said = docker("__complete", "kontext", "pus").stdout
    assert said.splitlines()[0].startswith("push\t")
    assert said.splitlines()[-1] == ":4"
    flags = docker("__complete", "kontext", "push", "--d").stdout
    assert [line.partition("\t")[0] for line in flags.splitlines()] == ["--dry-run", ":4"]
    assert docker("__complete", "kontext", "push", "").stdout == ":16\n"


CLOSED = {
    "stdin": ("<&-", 0, True),
    "stdout": (">&-", 0, False),
    "stderr": ("2>&-", 0, True),
    "all": ("<&- >&- 2>&-", 0, False),
    "full": (">/dev/full", 1, False),
}


@pytest.mark.parametrize(("redirected", "code", "printed"), CLOSED.values(), ids=CLOSED)
def test_closed_streams_do_not_mix_up_the_output(
    docker: Docker,
    registry: Registry,
    root: Path,
    tmp_path: Path,
    redirected: str,
    code: int,
    printed: bool,
) -> None:
    """Messages never end up on stdout, nor in a file that got the stream's number."""
    (tmp_path / "source").mkdir()
    shim = root / "kontext_plugin" / "docker-kontext"
    command = f'"{shim}" kontext push -t {registry.repository()} "{tmp_path}/source"'
    done = subprocess.run(
        ["sh", "-c", f"{command} {redirected}"],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.count("@sha256:") == int(printed)
    assert len(done.stdout.splitlines()) == int(printed)
    if redirected == ">/dev/full":
        assert "cannot write to standard output: No space left on device" in done.stderr


def test_paths_in_an_image_are_completed(
    docker: Docker, registry: Registry, tmp_path: Path
) -> None:
    """From the cache and from the registry, and by bash, with a name that needs quotes."""
    tag = registry.repository()
    plant(tmp_path / "source", {"pkg": Directory(), "pkg/a b": File(b"x"), "pkg/$(id)": File(b"x")})
    docker.push(tag, tmp_path / "source")
    for cache in ("", str(tmp_path / "empty")):
        docker.environment["KONTEXT_CACHE_DIR"] = cache
        assert docker("__complete", "kontext", "ls", tag, "pk").stdout == "pkg/\n:6\n"
        assert docker("__complete", "kontext", "ls", tag, "pkg/").stdout == "pkg/a b\n:4\n"
    script = docker("completion", "bash").stdout + (
        # What bash-completion has for such scripts.
        "_get_comp_words_by_ref() { words=(${COMP_WORDS[@]}) cword=$COMP_CWORD; "
        "cur=${words[cword]} prev=${words[cword-1]}; }\n"
        'COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=($1) COMP_TYPE=9 COMP_KEY=9\n'
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
        '__start_docker >&2; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", f"docker kontext ls {tag} pkg/a"],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == r"pkg/a\ b"


def test_tags_are_completed(docker: Docker, registry: Registry, source: Path) -> None:
    repository = registry.repository()
    docker.push(f"{repository}:v1", source, "-t", f"{repository}:v2")

    def offered(*words: str) -> list[str]:
        said = docker("__complete", "kontext", *words, cwd=source).stdout.splitlines()
        assert said.pop() == ":4"
        return [line.partition("\t")[0] for line in said]

    assert offered("push", "-t", "") == [f"{repository}:v1", f"{repository}:v2"]
    assert offered("push", "-t", f"{repository}:v2") == [f"{repository}:v2"]
