"""`.kontext.toml`, and `docker kontext status`, through docker's own command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.services import Docker, Registry
from support.trees import File, Tree

TREE: Tree = {"kept": File(b"1\n"), "junk": File(b"2\n")}

NAMES = (".kontext.toml", ".kontextignore")


@pytest.fixture
def name(registry: Registry, source: Path) -> str:
    """A tag that the directory's file names. The file also skips `junk`, and itself."""
    tag = registry.repository() + ":dev"
    (source / ".kontext.toml").write_text(
        f'tag = "{tag}"\nignore-file = ".kontextignore"\n[labels]\n"org.example.team" = "core"\n'
    )
    (source / ".kontextignore").write_text("junk\n.kontext*\n")
    return tag


def test_a_push_takes_its_options_from_the_file(docker: Docker, name: str, source: Path) -> None:
    pushed = docker("kontext", "push", cwd=source)
    assert pushed.image.startswith(name.rpartition(":")[0] + "@")
    line, *_ = pushed.stderr.splitlines()
    assert line == f"Using .kontext.toml: tag {name}, ignore-file, label"
    assert docker("kontext", "ls", name).stdout == "kept\n"
    shown = docker("kontext", "inspect", "--format", "json", name).json
    assert shown["labels"]["org.example.team"] == "core"
    assert docker("kontext", "diff", cwd=source).stdout == ""
    assert docker("kontext", "verify", name, str(source)).code == 0


def test_the_command_line_wins(docker: Docker, name: str, source: Path) -> None:
    other = name.replace(":dev", ":other")
    pushed = docker(
        *("kontext", "push", "-t", other, "--label", "org.example.team=mine", str(source))
    )
    assert pushed.code == 0, pushed.stderr
    shown = docker("kontext", "inspect", "--format", "json", other).json
    assert shown["labels"]["org.example.team"] == "mine"
    assert docker("kontext", "inspect", name).code == 1


def test_show_config_pushes_nothing(docker: Docker, name: str, source: Path) -> None:
    done = docker("kontext", "push", "--show-config", "--fresh", "--label", "a=1", cwd=source)
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    table = dict(rows)
    assert table["--tag"].split() == [name, ".kontext.toml"]
    assert table["--fresh"].split() == ["true", "command", "line"]
    assert table["--label"].endswith("command line and .kontext.toml")
    assert table["--base"].split() == ["-", "default"]
    assert docker("kontext", "inspect", name).code == 1


def test_status_follows_a_directory(docker: Docker, name: str, source: Path) -> None:
    before = docker("kontext", "status", str(source))
    assert before.stdout == f"{source} was never pushed from this machine\n"
    image = docker("kontext", "push", str(source)).image

    first, second = docker("kontext", "status", str(source)).stdout.splitlines()
    assert first == f"Pushed just now as {name}: {image.partition('@')[2]}"
    assert second == "Unchanged since: a push would upload no file"

    (source / "kept").write_text("3\n")
    (source / "new").write_text("4\n")
    changed = docker("kontext", "status", "--format", "json", "--remote", str(source)).json
    assert (changed["unchanged"], changed["added"], changed["changed"]) == (False, 1, 1)
    assert changed["remote"] == {name: image.partition("@")[2]}
    assert changed["image"] == image


def test_status_says_who_else_moved_the_tag(
    docker: Docker, name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert docker("kontext", "push", str(source)).code == 0
    docker.environment["KONTEXT_CACHE_DIR"] = str(tmp_path / "other-machine")
    other = docker("kontext", "push", "--label", "a=1", str(source)).image.partition("@")[2]
    docker.environment.clear()
    last = docker("kontext", "status", "--remote", str(source)).stdout.splitlines()[-1]
    assert last == f"{name} shows another image, {other}"


def test_a_push_without_a_tag_names_the_last_one(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    assert docker.push(tag, source).code == 0
    done = docker("kontext", "push", str(source))
    assert done.code == 125
    assert f"This directory was last pushed to {tag}: add '-t {tag}'." in done.stderr


def test_a_hostile_file_is_one_safe_error(docker: Docker, source: Path) -> None:
    (source / ".kontext.toml").write_text('"\\u001b[31m\\n" = 1\n')
    done = docker("kontext", "push", "-t", "localhost:1/a/b", str(source))
    done.assert_printable()
    assert (done.code, json.dumps(done.stdout)) == (1, '""')
    assert "unknown key" in done.stderr
