"""The source directory: which directory it is, what is skipped in it, and where rules go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.trees import File, plant

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.directory import SourceDirectory, open_source
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.steps import Step, StepName, Steps

X = File(b"x")


def scan(source: SourceDirectory, workers: Workers, **options: Any) -> set[str]:
    return source.scan(Snapshot(), workers, Steps(), lambda text: None, **options).tree.paths()


def test_a_directory_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KontextError, match="gone' does not exist"):
        open_source(str(tmp_path / "gone"))


def test_a_file_is_not_a_source_directory(root: Path) -> None:
    plant(root, {"f": X})
    with pytest.raises(KontextError, match="f' is not a directory"):
        open_source(str(root / "f"))


def test_the_root_is_the_real_path(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert open_source(str(tmp_path / "link")).root == os.path.realpath(root)


@pytest.mark.parametrize("own", [None, ".dockerignore", ".kontextignore"])
def test_the_ignore_file_is_where_a_rule_has_an_effect(
    own: str | None, root: Path, workers: Workers
) -> None:
    plant(root, {"a": X, "b": X})
    if own:
        (root / own).write_text("a\n")
    source = open_source(str(root))
    assert source.ignore_file == (own or ".kontextignore")
    with (root / source.ignore_file).open("a") as file:
        file.write("b\n")
    assert {"a", "b"} & scan(open_source(str(root)), workers) == (set() if own else {"a"})


def test_a_chosen_ignore_file_is_where_a_rule_has_an_effect(root: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("a\n")
    (root / ".kontextignore").write_text("b\n")
    assert open_source(str(root), str(tmp_path / "rules")).ignore_file == str(tmp_path / "rules")


def test_a_cache_in_the_directory_is_skipped(root: Path, workers: Workers) -> None:
    plant(root, {"a/cache/f": X, "a/f": X, "cache/f": X})
    source = open_source(str(root))
    cache = os.path.join(source.root, "a/cache")
    assert scan(source, workers, cache=cache) == {"a", "a/f", "cache", "cache/f"}


@pytest.mark.parametrize("cache", [None, "", "/", "/elsewhere", "{root}x", "{root}"])
def test_a_cache_elsewhere_changes_nothing(cache: str | None, root: Path, workers: Workers) -> None:
    plant(root, {"a/f": X, "f": X})
    source = open_source(str(root))
    where = cache.format(root=source.root) if cache else cache
    assert scan(source, workers, cache=where) == {"a", "a/f", "f"}


def test_git_entries_are_skipped_unless_they_are_kept(root: Path, workers: Workers) -> None:
    plant(root, {".git/HEAD": X, "f": X})
    assert scan(open_source(str(root)), workers) == {"f"}
    assert scan(open_source(str(root), keep_git=True), workers) == {".git", ".git/HEAD", "f"}


def test_with_gitignore_git_is_asked_in_a_step_of_its_own(root: Path, workers: Workers) -> None:
    subprocess.run(["git", "init", "-q", root], check=True)
    plant(root, {".gitignore": File(b"*.o\n"), "f": X, "f.o": X})
    steps: list[Step] = []
    lines: list[str] = []
    source = open_source(str(root), gitignore=True)
    found = source.scan(Snapshot(), workers, Steps(steps.append), lines.append)
    assert found.tree.paths() == {".gitignore", "f"}
    names = [step.name for step in dict.fromkeys(steps)]
    assert names == [StepName.GIT_LS_FILES, StepName.SCAN, StepName.HASH]
    assert "ls-files" in lines[0]


def test_a_scan_writes_nothing_to_stderr(
    root: Path, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(root, {".git/HEAD": X, "f": X})
    os.mkfifo(root / "fifo")
    found = open_source(str(root)).scan(Snapshot(), workers, Steps(), lambda text: None)
    assert (len(found.special_files), found.git_entries) == (1, (".git",))
    assert capsys.readouterr() == ("", "")
