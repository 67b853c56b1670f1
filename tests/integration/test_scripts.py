"""The scripts, as a newcomer and as a maintainer run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.scripts import run_script
from support.services import Docker
from support.trees import File, Link, Tree, on_disk, plant, remove

# What one commit after the other of a repository holds, with all that git can store.
HISTORY: list[Tree] = [
    {
        ".dockerignore": File(b"*\n"),
        ".gitattributes": File(
            b"*.txt text eol=crlf ident\n*.md filter=shout\nunsent export-ignore"
        ),
        "README": File(b"a file\n"),
        "keywords.txt": File(b"$Id$\none line\nanother\n"),
        "link": Link("src/a.py"),
        "pointer.md": File(b"as it is stored\n"),
        "run.sh": File(b"#!/bin/sh\n", executable=True),
        "src/a.py": File(b"a = 1\n" * 100),
        "src/b.py": File(b"b = 1\n"),
        "unsent": File(b"an archive would leave it out\n"),
        '-\u00fc "\\\n\t*': File(b"a strange name\n"),
    },
    {"README": File(b"a file\n"), "lib/deep/a.py": File(b"a = 1\n" * 100), "src": Link("lib")},
    {"README/part": File(b"was a file\n"), "lib": File(b"was a directory\n"), "src/c": File(b"")},
    {"README/part": File(b"was a file\n", executable=True), "lib/again": File(b"1\n")},
    {"README/part": Link("../lib/again"), "lib/again": File(b"1\n")},
]


def test_the_demo_runs(root: Path, docker: Docker) -> None:
    done = subprocess.run(
        [root / "scripts" / "demo"],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same") >= 1
    assert "1 changed, 1 removed" in done.stderr
    assert "Nothing changed" in done.stderr
    repository = re.search(r"127\.0\.0\.1:\d+/demo/sources", done.stderr)
    assert repository and docker("image", "ls", "--quiet", repository[0]).stdout == ""


def texts(picture: Path) -> list[str]:
    """The lines of a picture; raises where it is no XML."""
    lines: dict[str, str] = {}
    for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text"):
        place = text.get("clip-path", "")
        lines[place] = lines.get(place, "") + (text.text or "").replace("\u00a0", " ")
    return [line for line in lines.values() if line.strip()]


@pytest.mark.usefixtures("daemon")
def test_the_picture_shows_what_a_push_says_today(root: Path, tmp_path: Path) -> None:
    drawn, committed = tmp_path / "push.svg", root / "docs" / "push.svg"
    done = run_script("picture", "--write", drawn, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = "\n".join(texts(drawn))
    for line in (
        "$ IMAGE=$(docker kontext push -t registry.example.com/me/app:dev .)",
        "Pushed registry.example.com/me/app:dev: 64 added; uploaded ",
        "Pushed registry.example.com/me/app:dev: 1 changed, 1 removed; uploaded ",
        "kontext: 63 files: 63 written, 0 already right, verified in ",
    ):
        assert line in shown
    for machines in (str(tmp_path), "127.0.0.1", "/tmp"):
        assert machines not in drawn.read_text()
    sizes = re.compile(r"[\d.]+(?=[kM]?B)")
    assert sizes.sub("", shown) == sizes.sub("", "\n".join(texts(committed))), (
        "scripts/picture draws another one now"
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """HISTORY, a merge and a submodule; its user's own settings change each checkout."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*arguments: str) -> str:
        settings = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(message: str) -> None:
        git("commit", "--quiet", "--allow-empty", "--message", message)

    git("init", "--quiet", "--initial-branch=main")
    for number, tree in enumerate(HISTORY):
        for child in folder.iterdir():
            if child.name != ".git":
                remove(child)
        plant(folder, tree)
        git("add", "--all")
        commit(f"{number}")
    git("checkout", "--quiet", "-b", "side")
    plant(folder, {"side": File(b"from the side\n")})
    git("add", "--all")
    commit("side")
    git("checkout", "--quiet", "main")
    commit("nothing")
    git("merge", "--quiet", "--no-ff", "--message", "merge", "side")
    git("update-index", "--add", "--cacheinfo", f"160000,{git('rev-parse', 'HEAD')},module")
    commit("submodule")
    Path.home().joinpath(".gitconfig").write_text(
        '[core]\n\tautocrlf = true\n[filter "shout"]\n\tsmudge = tr a-z A-Z\n\trequired\n'
    )
    return folder


def test_a_replay_pushes_every_commit(repository: Path, tmp_path: Path) -> None:
    before = on_disk(repository)
    done = run_script("replay", "--write", "replay.md", repository, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    changed = [line.split(" | ")[1] for line in done.stdout.splitlines() if line.endswith(" s |")]
    assert changed == ["11", "12", "6", "4", "1", "0", "1", "0"]
    assert "| pushes | 8 |" in done.stdout
    written = (tmp_path / "replay.md").read_text()
    assert "`scripts/replay --write replay.md REPOSITORY`: 8 commits of repository" in written
    assert str(tmp_path) not in written
    assert on_disk(repository) == before


def test_a_replay_under_other_tags_uploads_no_more(repository: Path, tmp_path: Path) -> None:
    totals = []
    for tags in ("one", "commits", "shallow"):
        done = run_script("replay", "--tags", tags, repository, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        [total] = re.findall(r"uploaded by all pushes \| (\S+) [kM]B", done.stdout)
        totals.append(float(total))
    assert totals[1] == totals[0]
    assert totals[2] <= totals[0] * 1.5


def test_a_replay_of_two_branches_pushes_them_in_turn(repository: Path, tmp_path: Path) -> None:
    """Under one tag, under a tag for each branch, and under a tag for each commit."""
    done = run_script(
        *("replay", "--tags", "branches", "--other", "HEAD~2", "--commits", 4, repository),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| pushes | 4 |") == 3
    assert done.stdout.count("differ from the nearest image | ") == 3


def test_any_tag_measures_what_it_is_told(repository: Path, tmp_path: Path, root: Path) -> None:
    topics = ("--topics", "commits,tags,platforms,line", "--name", "somewhere/tree")
    few = ("--commits", 2, "--runs", 1, "--many", 3, "--former", root)
    done = run_script("any-tag", *topics, *few, "--write", "any-tag.md", repository, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "any-tag.md").read_text()
    assert written.count("\n## ") == 4
    assert "| crane processes after the scan | at most 1 | " in written
    assert "REPOSITORY is a clone of somewhere/tree at " in " ".join(written.split())
    assert str(tmp_path) not in written


def test_a_soak_holds_its_bounds_without_the_ancestors_manifests(tmp_path: Path) -> None:
    done = run_script("soak", "--pushes", 20, "--files", 50, "--forget", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_soak_holds_its_bounds(tmp_path: Path) -> None:
    done = run_script("soak", "--pushes", 20, "--write", "soak.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "`scripts/soak --pushes 20 --write soak.md`" in (tmp_path / "soak.md").read_text()


def test_a_soak_tells_a_broken_bound(tmp_path: Path) -> None:
    """No image has one layer: the extractor's is apart."""
    done = run_script("soak", "--pushes", 3, "--files", 30, "--bound-layers", 1, cwd=tmp_path)
    assert done.returncode == 1
    assert "hot: the image came to " in done.stderr
    assert " layers; above 1 first at push 2" in done.stderr


@pytest.fixture
def wrong_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Kontext push another README than the directory has before and after the push."""
    python, kept = tmp_path / "python", tmp_path / "kept"
    python.write_text(
        f"""#!/bin/sh
for directory; do :; done
[ ! -e "$directory/README" ] || mv "$directory/README" {kept}
echo wrong >"$directory/README"
{sys.executable} "$@"
code=$?
rm "$directory/README"
[ ! -e {kept} ] || mv {kept} "$directory/README"
exit $code
"""
    )
    python.chmod(0o755)
    monkeypatch.setenv("KONTEXT_PYTHON", str(python))


@pytest.mark.usefixtures("wrong_tree")
def test_a_replay_notices_a_wrong_image(repository: Path, tmp_path: Path) -> None:
    done = run_script("replay", repository, cwd=tmp_path)
    assert done.returncode == 1
    assert "is not the commit:\n  'README': file " in done.stderr
    assert done.stderr.count("\n") == 2, done.stderr


@pytest.mark.usefixtures("wrong_tree")
def test_a_soak_notices_a_wrong_image(tmp_path: Path) -> None:
    done = run_script("soak", "--pushes", 2, "--files", 30, cwd=tmp_path)
    assert done.returncode == 1
    assert "does not have the sources: 1 differ, ['README']" in done.stderr
