"""A slice of scripts/reliability: it finds nothing, and it would notice a wrong image."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.random_edits import random_seed
from support.scripts import run_script
from support.trees import File, on_disk

TRIALS = {"histories": 1, "kills": 1, "faults": 1, "images": 2}


@pytest.mark.parametrize("topic", TRIALS)
def test_a_slice_of_the_trials_finds_nothing(topic: str, tmp_path: Path) -> None:
    seed = random_seed(topic)
    options = ("--only", topic, "--trials", TRIALS[topic], "--workers", 1, "--seed", seed)
    done = run_script("reliability", *options, "--write", "it.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{topic}: {TRIALS[topic]} trials, " in done.stdout
    written = (tmp_path / "it.md").read_text()
    assert "What failed" not in written
    assert str(tmp_path) not in written


def test_a_wrong_tree_is_noticed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin pushes a file that the directory has neither before nor after."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
for directory; do :; done
case " $* " in *" push "*) ;; *) exec {sys.executable} "$@" ;; esac
echo wrong >"$directory/wrong"
{sys.executable} "$@"
code=$?
rm "$directory/wrong"
exit $code
"""
    )
    python.chmod(0o755)
    monkeypatch.setenv("KONTEXT_PYTHON", str(python))
    options = ("--only", "histories", "--trials", 1, "--workers", 1, "--seed", 7)
    done = run_script("reliability", *options, "--state", "state", "--keep", "kept", cwd=tmp_path)
    assert done.returncode == 1
    assert "scripts/reliability --only histories" in done.stderr
    assert "shows another tree: 1 paths differ, ['wrong']" in done.stderr
    kept = tmp_path / "kept" / "histories-7"
    pushed, shown = on_disk(kept / "pushed"), on_disk(kept / "shown")
    assert shown == pushed | {"wrong": File(b"wrong\n")}
    # What failed once stays in the figures.
    again = run_script(
        "reliability", "--for", "0s", "--state", "state", "--write", "it.md", cwd=tmp_path
    )
    assert (again.returncode, again.stdout) == (0, "histories: 1 trials, 1 generations, 1 failed\n")
    assert "--seed 7 --trials 1" in (tmp_path / "it.md").read_text()
