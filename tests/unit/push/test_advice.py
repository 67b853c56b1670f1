"""What a large push says of its directories, and of those that git would have left out."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from support.models import described
from support.trees import File, Tree, plant

from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.spec import ImageSpec
from kontext_plugin.push.messages import Share, advise, most, to_leave_out
from kontext_plugin.push.parent import StartFresh
from kontext_plugin.push.plan import make_plan
from kontext_plugin.source import git
from kontext_plugin.source.ignore_rules import rule_file
from kontext_plugin.terminal.messages import Report

LINES: dict[str, tuple[list[str], set[str], list[str]]] = {
    "nothing ignored": (["a/b"], set(), []),
    "itself": (["a/b"], {"a/b"}, ["a/b"]),
    "the topmost": (["a/b/c"], {"a/b", "a/b/c"}, ["a/b"]),
    "two within one": (["a/b", "a/c"], {"a", "a/b", "a/c"}, ["a"]),
    "two": (["a", "b"], {"a", "b"}, ["a", "b"]),
    "a name that is a pattern": (["a*", "[b]", "!c", "#d", "e ", "f\\g"],
                                 {"a*", "[b]", "!c", "#d", "e ", "f\\g"}, []),
    "a space within": (["a b"], {"a b"}, ["a b"]),
}  # fmt: skip


@pytest.mark.parametrize(("paths", "ignored", "lines"), LINES.values(), ids=LINES)
def test_the_lines_to_add(paths: list[str], ignored: set[str], lines: list[str]) -> None:
    assert to_leave_out(paths, ignored) == lines


def test_the_shares_in_words() -> None:
    shares = [Share("a/b", 920, False), Share("a", 70, True)]
    assert most(shares, 1000) == (
        "Largest directories, uncompressed: a/b 92 % (920B), the rest of a 7 % (70B)"
    )


BASE = Digest("sha256:" + "b" * 64)
WANTED = ImageSpec(
    base=BASE,
    below=(Layer(BASE, 1),),
    extractor=BASE,
    platform="linux/amd64",
    labels={},
    settings=lambda labels: {},
)


def said_of(tree: Tree, root: Path, capsys: pytest.CaptureFixture[str], quiet: bool = False) -> str:
    """After a first push of the tree."""
    plan = make_plan(StartFresh("there is nothing"), WANTED, described(tree))
    advise(str(root), rule_file(str(root), ""), plan, Report(quiet))
    return capsys.readouterr().err


LARGE = File(bytes(10_000_000))
SIZES: dict[str, tuple[Tree, bool]] = {
    "large": ({"d/f": LARGE}, True),
    "many files": ({f"d/{number}": File(b"x") for number in range(1000)}, True),
    "little": ({"d/f": File(b"x" * 1000)}, False),
    "large, and no directory": ({"f": LARGE}, False),
    "many files without content": ({f"d/{n}": File(b"") for n in range(1000)}, False),
}


@pytest.mark.parametrize(("tree", "told"), SIZES.values(), ids=SIZES)
def test_large_pushes_alone_are_explained(
    tree: Tree, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(tree, tmp_path, capsys)
    assert ("Largest directories, uncompressed: d 100 %" in said) == told
    assert said_of(tree, tmp_path, capsys, quiet=True) == ""


# git

WORK_TREE: Tree = {
    ".gitignore": File(b"node_modules/\n/target\n:x\n"),
    "app/node_modules/p/f": LARGE,
    "src/f": File(b"x"),
    "target/f": File(b"x"),
    ":x/f": File(b"x"),
}


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    plant(root, WORK_TREE)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root


def test_git_says_what_it_ignores(work_tree: Path) -> None:
    asked = ["app", "app/node_modules", "app/node_modules/p", "src", "target", ":x"]
    expected = {"app/node_modules", "app/node_modules/p", "target", ":x"}
    assert git.find_ignored(str(work_tree), asked, print) == expected
    assert git.find_ignored(str(work_tree / "app"), ["node_modules"], print) == {"node_modules"}


@pytest.mark.parametrize("own", ["", ".dockerignore", ".kontextignore"])
def test_the_line_is_for_the_file_that_is_in_use(
    own: str, work_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new .kontextignore would put a .dockerignore out of use."""
    if own:
        (work_tree / own).touch()
    said = said_of(WORK_TREE, work_tree, capsys)
    assert said.endswith(
        "git ignores some of that, Kontext does not; to leave it out, push with --gitignore, "
        f"or add to {own or '.kontextignore'}:\n  app/node_modules\n"
    )


def test_where_there_is_no_work_tree_git_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was"))
    assert git.find_ignored(str(tmp_path), ["a"], print) == frozenset()


FAKES = {
    "slow": "exec sleep 20",
    "broken": r"printf './src\0'; exit 128",
    "babbling": r"printf 'src\0./other\0\377'",
}


@pytest.mark.parametrize("program", FAKES.values(), ids=FAKES)
def test_a_git_that_does_not_answer_costs_no_more_than_a_moment(
    program: str, work_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    started = time.monotonic()
    assert git.find_ignored(str(work_tree), ["src"], print) == frozenset()
    assert time.monotonic() - started < 10


def test_without_git_nothing_is_said(work_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git.find_ignored(str(work_tree), ["target"], print) == frozenset()


def test_a_work_trees_own_programs_are_not_run(work_tree: Path, tmp_path: Path) -> None:
    """Sources from somewhere else may come with a .git."""
    monitor, ran = tmp_path / "monitor", tmp_path / "ran"
    monitor.write_text(f"#!/bin/sh\ntouch {ran}\n")
    monitor.chmod(0o755)
    subprocess.run(["git", "-C", work_tree, "add", "src"], check=True)
    subprocess.run(["git", "-C", work_tree, "config", "core.fsmonitor", monitor], check=True)
    subprocess.run(["git", "-C", work_tree, "status"], check=True, stdout=subprocess.DEVNULL)
    assert ran.exists(), "git would"
    ran.unlink()
    assert git.find_ignored(str(work_tree), ["target"], print) == {"target"}
    assert not ran.exists()
