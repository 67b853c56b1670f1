"""What git says about a work tree, and that asking runs no program of the repository."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.errors import KontextError
from kontext_plugin.image.spec import REVISION, SOURCE
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import git
from kontext_plugin.source.filters import Filters
from kontext_plugin.source.git import History, labels_of, source_of
from kontext_plugin.source.ignore_rules import IgnoreRules, parse_rules
from kontext_plugin.source.scan import scan
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.steps import Steps

IDENTITY = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "init.defaultBranch=main"]


def run(directory: Path, *arguments: str) -> str:
    ended = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return ended.stdout


def repository(directory: Path, files: dict[str, str] | None = None, ignore: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    run(directory, "init", "-q")
    if ignore:
        write(directory, ".gitignore", ignore)
    for name, content in (files or {}).items():
        write(directory, name, content)
    return directory


def write(directory: Path, name: str, content: str = "x") -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(content)


def commit(directory: Path) -> str:
    run(directory, "add", "-A")
    run(directory, "commit", "-qm", "c", "--allow-empty")
    return run(directory, "rev-parse", "HEAD").strip()


def scanned(root: Path, rules: IgnoreRules | None = None, *, keep_git: bool = False) -> set[str]:
    """The paths in the image of a push with --gitignore."""
    not_ignored = git.list_not_ignored(str(root), quiet)
    filters = Filters(rules or IgnoreRules(), not_ignored, keep_git)
    with Workers(1) as workers:
        return scan(str(root), filters, Snapshot(), workers, Steps()).tree.paths()


def quiet(_: str) -> None:
    pass


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return repository(
        tmp_path / "tree",
        {"a": "a", "src/b": "b", "src/b.o": "o", "out/c": "c", "src/new": "n"},
        ignore="*.o\n/out\n",
    )


# --- --gitignore: what git ignores is skipped ---


def test_ignored_files_are_skipped(tree: Path) -> None:
    assert scanned(tree) == {".gitignore", "a", "src", "src/b", "src/new"}


def test_tracked_files_are_kept_even_if_a_rule_matches(tree: Path) -> None:
    run(tree, "add", "-f", "src/b.o")
    assert "src/b.o" in scanned(tree)


def test_a_directory_of_removed_tracked_files_is_skipped(tree: Path) -> None:
    write(tree, "gone/f")
    write(tree, "gone/f.o")
    commit(tree)
    (tree / "gone/f").unlink()
    assert "gone" not in scanned(tree)


def test_empty_directories_are_skipped(tree: Path) -> None:
    (tree / "empty").mkdir()
    assert "empty" not in scanned(tree)


def test_all_ignore_files_of_git_apply(tree: Path) -> None:
    write(tree, "src/.gitignore", "b\n!b.o\n")
    write(tree, ".git/info/exclude", "a\n")
    write(Path.home(), ".config/git/ignore", "new\n")
    assert scanned(tree) == {".gitignore", "src", "src/.gitignore", "src/b.o"}


def test_a_directory_in_the_work_tree_has_the_rules_of_the_work_tree(tree: Path) -> None:
    assert scanned(tree / "src") == {"b", "new"}


def test_the_rules_of_the_ignore_file_apply_as_well(tree: Path) -> None:
    rules = parse_rules("a\nsrc\n!src/b\n!src/b.o\n!out\n", "rules")
    assert scanned(tree, rules) == {".gitignore", "src", "src/b"}


def test_a_kept_git_directory_is_complete(tree: Path) -> None:
    commit(tree)
    paths = scanned(tree, keep_git=True)
    assert {".git", ".git/HEAD", ".git/objects", ".git/refs/tags"} <= paths
    assert "out" not in paths


@pytest.mark.parametrize("name", ["n\new", 'q"', "tab\t", "é", "? x", "H 160000 ", "-x", " ", "\\"])
def test_any_name_is_kept_unchanged(tree: Path, name: str) -> None:
    write(tree, name)
    write(tree, f"src/{name}/f")
    assert {name, f"src/{name}", f"src/{name}/f"} <= scanned(tree)
    commit(tree)
    assert {name, f"src/{name}", f"src/{name}/f"} <= scanned(tree)


def test_links_are_kept_and_not_followed(tree: Path) -> None:
    (tree / "link").symlink_to("out")
    (tree / "dangling").symlink_to("nowhere")
    paths = scanned(tree)
    assert {"link", "dangling"} <= paths
    assert not any(path.startswith("link/") for path in paths)


@pytest.mark.parametrize("tracked", [True, False], ids=["submodule", "untracked repository"])
def test_a_repository_in_the_repository_has_its_own_rules(tree: Path, tracked: bool) -> None:
    inner = repository(tree / "in/ner", {"f": "f", "f.log": "l", "f.o": "o"}, ignore="*.log\n")
    deep = repository(inner / "deep", {"g": "g", "h": "h"}, ignore="h\n")
    commit(deep)
    commit(inner)
    if tracked:
        commit(tree)
    below = {path.removeprefix("in/ner/") for path in scanned(tree) if path.startswith("in/ner/")}
    assert below == {".gitignore", "f", "f.o", "deep", "deep/.gitignore", "deep/g"}


def test_a_submodule_that_is_not_checked_out_is_skipped(tree: Path) -> None:
    commit(repository(tree / "sub", {"f": "f"}))
    commit(tree)
    subprocess.run(["rm", "-r", str(tree / "sub")], check=True)
    (tree / "sub").mkdir()
    assert "sub" not in scanned(tree)


def test_submodules_that_are_links_are_not_followed(tree: Path) -> None:
    """Three links that lead back would be followed again and again, forty links deep."""
    nothing = "1" * 40
    for name in ("l", "m", "n"):
        (tree / name).symlink_to(".")
        run(tree, "update-index", "--add", "--cacheinfo", f"160000,{nothing},{name}")
        run(tree, "update-index", "--add", "--cacheinfo", f"160000,{nothing},{name}2/sub")
        (tree / f"{name}2").symlink_to(".")
    (tree / "sub").symlink_to(".")
    assert git.list_not_ignored(str(tree), quiet).files >= {"a", "src/b"}


def test_a_broken_submodule_is_an_error(tree: Path) -> None:
    commit(repository(tree / "sub", {"f": "f"}))
    commit(tree)
    (tree / "sub/.git/HEAD").unlink()
    with pytest.raises(KontextError, match=r"sub.*not a git repository"):
        scanned(tree)


NAMES = st.text("ab.", min_size=1, max_size=2).filter(lambda name: set(name) != {"."})
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
LINES = st.lists(st.sampled_from(["a", "b", "/a", "a/", "*", "!a", "!b", "a/b", "**/b", "!*/"]))


@pytest.mark.slow
@given(st.sets(PATHS, max_size=12), LINES, LINES)
def test_the_files_are_those_that_git_add_would_add(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str], top: list[str], below: list[str]
) -> None:
    root = repository(tmp_path_factory.mktemp("t"), {"keep": ""}, ignore="!keep\n" + "\n".join(top))
    for path in sorted(paths, key=len, reverse=True):
        if not (root / path).exists() and not any(p.is_file() for p in (root / path).parents):
            write(root, path)
    if (root / "a").is_dir():
        write(root, "a/.gitignore", "\n".join(below))
    write(root, ".git/info/exclude", "!keep\n!.gitignore\n")
    run(root, "add", "-f", "keep")
    seen = {path for path in scanned(root) if not (root / path).is_dir()}
    run(root, "add", "-A")
    assert seen == set(run(root, "ls-files", "-z").split("\0")) - {""}


def broken_head(root: Path, patch: pytest.MonkeyPatch) -> None:
    (root / ".git/HEAD").write_text("junk")


def broken_config(root: Path, patch: pytest.MonkeyPatch) -> None:
    (root / ".git/config").write_text("[core\n")


def broken_index(root: Path, patch: pytest.MonkeyPatch) -> None:
    (root / ".git/index").write_bytes(b"junk" * 100)


def no_repository(root: Path, patch: pytest.MonkeyPatch) -> None:
    (root / ".git").rename(root / "was-git")


def no_git(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PATH", str(root))


def of_another_user(root: Path, patch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a directory away")
    os.chown(root, 12345, 12345)
    os.chown(root / ".git", 12345, 12345)


FAILURES = {
    "broken HEAD": (broken_head, "not a git repository"),
    "broken configuration": (broken_config, "bad config line 1"),
    "broken index": (broken_index, "index"),
    "no repository": (no_repository, "not a git repository"),
    "no git": (no_git, "no git on PATH"),
    "of another user": (of_another_user, "dubious ownership"),
}


@pytest.mark.parametrize(("break_it", "message"), FAILURES.values(), ids=FAILURES)
def test_where_git_fails_gitignore_is_an_error_and_there_are_no_labels(
    tree: Path,
    break_it: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit(tree)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tree.parent))
    break_it(tree, monkeypatch)
    with pytest.raises(KontextError, match=message) as raised:
        git.list_not_ignored(str(tree), quiet)
    assert str(tree) in raised.value.message
    assert git.read_labels(str(tree), quiet, quiet) == {}


# --- A repository of another user ---

TRUST = {
    "by count": {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    },
    "by parameters": {"GIT_CONFIG_PARAMETERS": "'safe.directory'='*'"},
}


@pytest.mark.parametrize("trust", TRUST.values(), ids=TRUST)
def test_git_trusts_what_the_environment_says(
    trust: dict[str, str], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubernetes/test-infra#28721: CI systems say it in variables, for there is no home."""
    here = commit(tree)
    of_another_user(tree, monkeypatch)
    for name, value in trust.items():
        monkeypatch.setenv(name, value)
    assert "a" in git.list_not_ignored(str(tree), quiet).files
    assert git.read_labels(str(tree), quiet, quiet)[REVISION] == here
    assert git.read_history(str(tree), quiet).commits == (here,)


def test_a_repository_of_another_user_is_told_in_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = repository(tmp_path / "a tree", {"src/a": "a"})
    commit(tree)
    of_another_user(tree, monkeypatch)
    command = f"'git config --global --add safe.directory '{tree}''"
    lines: list[str] = []
    assert git.read_labels(str(tree / "src"), quiet, lines.append) == {}
    (line,) = lines
    assert command in line
    assert "\n" not in line
    with pytest.raises(KontextError, match="dubious ownership") as raised:
        git.list_not_ignored(str(tree / "src"), quiet)
    assert command in raised.value.hint
    assert raised.value.message.isprintable(), "git's own tab and line ends are spaces"
    assert git.read_history(str(tree), quiet).problem.isprintable()


def test_other_failures_of_git_are_details(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_index(tree, monkeypatch)
    lines: list[str] = []
    assert git.read_labels(str(tree), quiet, lines.append) == {}
    assert lines == []


def test_the_filters_in_the_users_environment_run(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the repository itself do not (see below), and the environment does not help."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "filter.lower.clean")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "tr A-Z a-z")
    (tree / ".gitattributes").write_text("a filter=lower\n")
    here = commit(tree)
    write(tree, "a", "A")
    assert git.read_labels(str(tree), quiet, quiet) == {REVISION: here}
    assert git.read_labels(str(tree), quiet, quiet, ["a"]) == {REVISION: here}


def test_a_completely_ignored_directory_is_an_error(tree: Path) -> None:
    with pytest.raises(KontextError, match="leaves nothing"):
        git.list_not_ignored(str(tree / "out"), quiet)
    assert git.read_labels(str(tree / "out"), quiet, quiet) == {}


def test_the_environment_of_a_hook_does_not_change_the_repository(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = commit(tree)
    other = repository(tmp_path / "other", {"f": "f"})
    commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert "a" in git.list_not_ignored(str(tree), quiet).files
    assert git.read_labels(str(tree), quiet, quiet)[REVISION] == here


# --- The labels ---

COMMIT = "0123456789abcdef" * 2 + "01234567"
OTHER = COMMIT[::-1]
HEAD = f"# branch.oid {COMMIT}\0# branch.head main\0"

URLS = {
    "https": ("https://example.com/me/app.git", "https://example.com/me/app.git"),
    "password": ("https://me:s3cret@example.com/app", "https://example.com/app"),
    "token": ("https://ghp_s3cret@example.com/app", "https://example.com/app"),
    "query": ("https://example.com/app?private_token=s3cret#f", "https://example.com/app"),
    "port": ("https://x:y@example.com:8443/app", "https://example.com:8443/app"),
    "IPv6": ("http://[::1]:80/app", "http://[::1]:80/app"),
    "ssh": ("ssh://git@example.com:22/me/app", "ssh://git@example.com:22/me/app"),
    "ssh with a password": ("ssh://git:s3cret@example.com/app", "ssh://git@example.com/app"),
    "scp-like": ("git@example.com:me/app.git", "git@example.com:me/app.git"),
    "scp-like without a user": ("example.com:me/app.git", "example.com:me/app.git"),
    "scp-like with a password": ("me:s3cret@example.com:me/app", ""),
    "a proxy's": ("https://proxy.example.com/https://me:s3cret@example.com/app", ""),
    "path": ("/srv/git/app.git", ""),
    "relative path": ("../app.git", ""),
    "file": ("file:///srv/git/app.git", ""),
    "a helper's": ("ext::sh -c s3cret", ""),
    "a helper's with slashes": ("foo::https://example.com/app", ""),
    "no host": ("https:///app", ""),
    "bad port": ("https://example.com:port/app", ""),
    "control character": ("https://example.com/\x1b[2J", ""),
    "line end": ("https://example.com/a\nb", ""),
    "not UTF-8": ("https://example.com/\udcff", ""),
    "long": ("https://example.com/" + "x" * 5000, ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("url", "source"), URLS.values(), ids=URLS)
def test_the_source_has_no_secrets(url: str, source: str) -> None:
    assert source_of(url) == source


STATUSES = {
    "clean": (HEAD, "", COMMIT),
    "changed": (HEAD + f"1 .M N... 100644 100644 100644 {COMMIT} {COMMIT} f\0", "", "dirty"),
    "untracked": (HEAD + "? f\0", "", "dirty"),
    "ignored files only": (HEAD + "! out/\0! f\0", "", COMMIT),
    "ignored files in a directory": (HEAD + "! src/out/\0", "src", COMMIT),
    "a directory with a longer name is not ignored": (HEAD + "! src/\0", "src2", COMMIT),
    "no commit yet": ("# branch.oid (initial)\0# branch.head main\0? f\0", "", None),
    "ignored directory": (HEAD + "! out/\0", "out", None),
    "within an ignored directory": (HEAD + "! out/\0", "out/deep", None),
    "a file with a name like a header": (HEAD + "? # branch.oid (initial)\0", "", "dirty"),
    "no output": ("", "", None),
}


@pytest.mark.parametrize(("status", "directory", "revision"), STATUSES.values(), ids=STATUSES)
def test_the_revision_names_the_commit_and_says_if_it_is_dirty(
    status: str, directory: str, revision: str | None
) -> None:
    expected = f"{COMMIT}-dirty" if revision == "dirty" else revision
    assert labels_of(status, "", directory).get(REVISION) == expected


def test_an_ignored_directory_has_no_labels() -> None:
    assert labels_of(HEAD + "! out/\0", "https://example.com/a", "out") == {}


def test_a_repository_without_commits_has_a_source() -> None:
    status = "# branch.oid (initial)\0"
    assert labels_of(status, "https://example.com/a", "") == {SOURCE: "https://example.com/a"}


def test_the_labels_follow_the_work_tree(tree: Path) -> None:
    assert git.read_labels(str(tree), quiet, quiet) == {}
    here = commit(tree)
    assert git.read_labels(str(tree), quiet, quiet) == {REVISION: here}
    run(tree, "remote", "add", "origin", "https://me:s3cret@example.com/app.git")
    source = {SOURCE: "https://example.com/app.git"}
    assert git.read_labels(str(tree), quiet, quiet) == {REVISION: here} | source
    write(tree, "src/b", "changed")
    assert git.read_labels(str(tree), quiet, quiet) == {REVISION: f"{here}-dirty"} | source
    assert git.read_labels(str(tree / "src"), quiet, quiet)[REVISION] == f"{here}-dirty"


# The path, its content, and how often `git status` is asked, which takes long.
CHANGED: dict[str, tuple[str, str | None, int]] = {
    "an edited file": ("src/b", "changed", 0),
    "a name with wildcards": ("src/[b*?", "changed", 0),
    "other line ends, and more": ("src/lf", "one\r\ntwo\r\n", 0),
    "more than is read": ("src/a", "large" * 300_000, 1),
    "a new file": ("src/newer", "changed", 1),
    "a name of two lines": ("two\nlines", "changed", 1),
    "a quoted name": ('"quoted"', "changed", 1),
    "a removed file": ("src/gone", None, 1),
    "an ignored file": ("x.log", "changed", 2),
    "a file as it was committed": ("src/a", "x", 1),
    "other line ends": ("src/lf", "one\r\n", 1),  # git says so until it is added
    "the line ends of the commit": ("src/crlf", "one\r\n", 1),
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("other", [False, True], ids=["alone", "beside another change"])
@pytest.mark.parametrize("below", ["", "src"], ids=["all of the work tree", "a part"])
@pytest.mark.parametrize("format", ["sha1", "sha256"])
def test_what_has_changed_is_asked_for_first(
    name: str, other: bool, below: str, format: str, tmp_path: Path
) -> None:
    """The answer is that about all, which follows only if that may make a difference."""
    path, content, questions = CHANGED[name]
    if below and not path.startswith(below):
        path = f"{below}/{path}"
    tree = tmp_path / "tree"
    tree.mkdir()
    run(tree, "init", "-q", f"--object-format={format}")
    for file in ("src/a", "src/b", "src/gone", "src/[b*?", "src/other"):
        write(tree, file)
    (tree / "src/lf").write_bytes(b"one\n")
    (tree / "src/crlf").write_bytes(b"one\r\n")
    write(tree, ".gitignore", "*.log\n")
    here = commit(tree)
    run(tree, "config", "core.autocrlf", "true")
    if content is None:
        (tree / path).unlink()
    else:
        (tree / path).write_bytes(content.encode())
    if other:
        write(tree, "src/other", "changed")
    lines: list[str] = []
    root = str(tree / below)
    labels = git.read_labels(root, lines.append, quiet, [path.removeprefix(f"{below}/")])
    assert labels == git.read_labels(root, quiet, quiet)
    is_clean = name in (
        "an ignored file",
        "a file as it was committed",
        "the line ends of the commit",
    )
    assert labels == {REVISION: here + ("" if is_clean and not other else "-dirty")}
    assert sum(" status " in line for line in lines) == questions


def test_a_filter_that_is_switched_off_makes_no_file_dirty(tree: Path) -> None:
    """Without its filter a file is not what git has of it: git's index tells that nothing changed.

    The filters of git-crypt, and of a local git-lfs, are the repository's own.
    """
    write(tree, ".gitattributes", "a filter=upper\n")
    run(tree, "config", "filter.upper.clean", "tr a-z A-Z")
    os.utime(tree / "a", (1, 1))  # so that git trusts its status
    here = commit(tree)
    assert run(tree, "show", "HEAD:a") == "A"
    assert git.read_labels(str(tree), quiet, quiet) == {REVISION: here}
    assert git.read_labels(str(tree), quiet, quiet, ["a"]) == {REVISION: here}


def test_a_name_that_git_takes_for_a_commit_is_no_file_of_it(tree: Path) -> None:
    """NAME-gCOMMIT is what `git describe` makes, and builds name their output so."""
    here = commit(tree)
    name = f"tool-v1.2-4-g{here[:8]}"
    write(tree, ".git/info/exclude", "tool-*\n")
    write(tree, name, "built")
    assert git.read_labels(str(tree), quiet, quiet, [name]) == {REVISION: here}


def test_a_work_tree_may_have_a_directory_with_a_line_end(tree: Path) -> None:
    write(tree, "x\nb/a", "x")
    write(tree, "x", "x")
    write(tree, "b/a", "x")
    here = commit(tree)
    write(tree, "x\nb/a", "changed")
    labels = git.read_labels(str(tree / "x\nb"), quiet, quiet, ["a"])
    assert labels == {REVISION: f"{here}-dirty"}


def test_no_link_is_compared_with_the_commit(tree: Path) -> None:
    """What it leads to is not what git has of it."""
    (tree / "link").symlink_to("a")
    here = commit(tree)
    assert git.read_labels(str(tree), quiet, quiet, ["link"]) == {REVISION: here}


def test_a_fifo_in_place_of_a_changed_file_holds_nobody(tree: Path) -> None:
    here = commit(tree)
    (tree / "a").unlink()
    os.mkfifo(tree / "a")
    assert git.read_labels(str(tree), quiet, quiet, ["a"]) == {REVISION: f"{here}-dirty"}


def test_changes_outside_of_the_directory_do_not_make_it_dirty(tree: Path) -> None:
    here = commit(tree)
    write(tree, "a", "changed")
    write(tree, "new")
    assert git.read_labels(str(tree / "src"), quiet, quiet) == {REVISION: here}


def test_an_untracked_file_makes_a_linked_work_tree_dirty_even_if_hidden(
    tree: Path, tmp_path: Path
) -> None:
    here = commit(tree)
    run(tree, "config", "status.showUntrackedFiles", "no")
    run(tree, "worktree", "add", "-q", str(tmp_path / "linked"))
    linked = tmp_path / "linked"
    assert git.read_labels(str(linked), quiet, quiet) == {REVISION: here}
    write(linked, "new")
    assert git.read_labels(str(linked), quiet, quiet) == {REVISION: f"{here}-dirty"}
    assert "new" in scanned(linked)


def test_outside_of_a_work_tree_git_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "_run", pytest.fail)
    assert git.read_labels(str(tmp_path), quiet, quiet) == {}


def test_git_writes_nothing(tree: Path) -> None:
    commit(tree)
    os.utime(tree / "a", (1, 1))  # `git status` would update the index

    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (tree / ".git").rglob("*")}

    before = state()
    git.read_labels(str(tree), quiet, quiet)
    git.list_not_ignored(str(tree), quiet)
    assert state() == before


# --- The history of a work tree ---

CI_VARIABLES = [
    "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_BRANCH", "GITHUB_BASE_REF",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CI_DEFAULT_BRANCH",
]  # fmt: skip


@pytest.fixture
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of a person, also where the tests run in CI."""
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def work_tree(tmp_path: Path, no_ci: None) -> Path:
    return repository(tmp_path / "work", {"a": "a"})


def history(root: Path) -> History:
    return git.read_history(str(root), quiet)


def test_the_history_has_the_commits_from_head_and_the_branch(work_tree: Path) -> None:
    commits = [commit(work_tree) for _ in range(3)]
    assert history(work_tree) == History(tuple(reversed(commits)), ("main",))
    (work_tree / "sub").mkdir()
    assert history(work_tree / "sub") == history(work_tree)
    run(work_tree, "checkout", "-qb", "feature/x")
    commits.append(commit(work_tree))
    assert history(work_tree) == History(tuple(reversed(commits)), ("feature/x",))


def test_only_first_parents_are_in_the_history(work_tree: Path) -> None:
    """The commits of a merged branch were never those of an image of this branch."""
    first = commit(work_tree)
    run(work_tree, "checkout", "-qb", "side")
    write(work_tree, "side")
    side = commit(work_tree)
    run(work_tree, "checkout", "-q", "main")
    second = commit(work_tree)
    run(work_tree, "merge", "-q", "--no-ff", "-m", "m", "side")
    merge = run(work_tree, "rev-parse", "HEAD").strip()
    assert history(work_tree).commits == (merge, second, first)
    assert side not in history(work_tree).commits


def test_the_history_is_bounded(work_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [commit(work_tree) for _ in range(5)]
    assert git._DEPTH == 50
    monkeypatch.setattr(git, "_DEPTH", 2)
    assert history(work_tree).commits == tuple(reversed(commits[-3:])), "HEAD and two ancestors"


def test_a_detached_head_has_a_history_and_no_branch(work_tree: Path) -> None:
    commits = [commit(work_tree) for _ in range(2)]
    run(work_tree, "checkout", "-q", "--detach", "HEAD")
    assert history(work_tree) == History(tuple(reversed(commits)))


def test_the_upstream_of_a_branch_comes_after_it(work_tree: Path, tmp_path: Path) -> None:
    commit(work_tree)
    run(tmp_path, "clone", "-q", str(work_tree), "clone")
    clone = tmp_path / "clone"
    assert history(clone).branches == ("main",), "named as the branch itself"
    run(clone, "checkout", "-q", "-b", "mine", "--track", "origin/main")
    assert history(clone).branches == ("mine", "main")
    run(work_tree, "branch", "team/dev")
    run(clone, "fetch", "-q")
    run(clone, "branch", "-q", "--set-upstream-to", "origin/team/dev")
    assert history(clone).branches == ("mine", "team/dev")


def test_a_shallow_clone_says_so(work_tree: Path, tmp_path: Path) -> None:
    commits = [commit(work_tree) for _ in range(3)]
    run(tmp_path, "clone", "-q", "--depth", "1", f"file://{work_tree}", "shallow")
    named = (commits[-1], commits[-2])  # the commit itself names its parent
    assert history(tmp_path / "shallow") == History(named, ("main",), is_shallow=True)
    run(tmp_path / "shallow", "fetch", "-q", "--unshallow")
    assert history(tmp_path / "shallow").commits == tuple(reversed(commits))
    assert not history(tmp_path / "shallow").is_shallow


def test_a_repository_without_commits_has_no_history(work_tree: Path) -> None:
    assert history(work_tree) == History()


CI: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "GitHub, a branch": ({"GITHUB_REF_NAME": "feature"}, ("feature",)),
    "GitHub, a pull request": (
        {"GITHUB_HEAD_REF": "feature", "GITHUB_REF_NAME": "7/merge", "GITHUB_BASE_REF": "main"},
        ("feature", "7/merge", "main"),
    ),
    "GitLab, a branch": (
        {"CI_COMMIT_BRANCH": "feature", "CI_DEFAULT_BRANCH": "trunk"},
        ("feature", "trunk"),
    ),
    "GitLab, a merge request": (
        {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main", "CI_DEFAULT_BRANCH": "main"},
        ("main",),
    ),
    "empty variables": ({"GITHUB_HEAD_REF": "", "GITHUB_BASE_REF": ""}, ()),
}


@pytest.mark.parametrize(("variables", "branches"), CI.values(), ids=CI)
def test_ci_systems_name_the_branch(
    variables: dict[str, str],
    branches: tuple[str, ...],
    work_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They check out a commit."""
    head = commit(work_tree)
    run(work_tree, "checkout", "-q", "--detach", "HEAD")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert history(work_tree) == History((head,), branches)
    run(work_tree, "checkout", "-qb", "local")
    assert history(work_tree).branches == ("local", *branches)


def test_without_a_work_tree_there_is_no_history_and_no_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of CI are about another directory then."""
    monkeypatch.setattr(git, "_run", pytest.fail)
    monkeypatch.setenv("GITHUB_REF_NAME", "feature")
    assert git.read_history(str(tmp_path), quiet) == History()


@pytest.mark.usefixtures("no_ci")
def test_a_git_that_fails_is_told_and_the_branches_of_ci_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_COMMIT_BRANCH", "feature")
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    lines: list[str] = []
    read = git.read_history(str(tmp_path), lines.append)
    assert (read.commits, read.branches) == ((), ("feature",))
    assert "/nowhere" in read.problem
    assert any("no history from git" in line for line in lines)
    monkeypatch.setenv("PATH", "")
    assert git.read_history(str(tmp_path), quiet).problem == "there is no git on PATH"


# --- Programs of the repository ---


def fsmonitor(root: Path, program: str) -> None:
    run(root, "config", "core.fsmonitor", program)


def clean_filter(root: Path, program: str) -> None:
    run(root, "config", "filter.e.v.il.clean", program)
    run(root, "config", "filter.e.v.il.required", "true")
    (root / ".gitattributes").write_text("* filter=e.v.il\n")


def process_filter(root: Path, program: str) -> None:
    run(root, "config", "filter.evil.process", program)
    (root / ".gitattributes").write_text("* filter=evil\n")


def included_filter(root: Path, program: str) -> None:
    clean_filter(root, program)
    (root / ".git/config").rename(root / ".git/more")
    (root / ".git/config").write_text("[include]\n\tpath = more\n")


def hook(root: Path, program: str) -> None:
    (root / "hooks").mkdir()
    (root / "hooks/post-index-change").symlink_to(program)
    run(root, "config", "core.hooksPath", str(root / "hooks"))


def missing_objects(root: Path, program: str) -> None:
    """A partial clone that would have to fetch HEAD to compare with it."""
    run(root, "config", "extensions.partialClone", "origin")
    run(root, "config", "remote.origin.url", "ssh://example.com/app")
    run(root, "config", "remote.origin.promisor", "true")
    run(root, "config", "core.repositoryFormatVersion", "1")
    run(root, "config", "core.sshCommand", program)
    top = run(root, "rev-parse", "HEAD^{tree}").strip()
    (root / ".git/objects" / top[:2] / top[2:]).unlink()


def in_a_submodule(root: Path, program: str) -> None:
    inner = repository(root / "sub", {"f": "f"})
    commit(inner)
    run(root, "add", "sub")
    run(root, "commit", "-qm", "sub")
    clean_filter(inner, program)
    os.utime(inner / "f", (1, 1))


HOSTILE = {
    "fsmonitor": fsmonitor,
    "clean filter": clean_filter,
    "process filter": process_filter,
    "included filter": included_filter,
    "hook": hook,
    "missing objects": missing_objects,
    "in a submodule": in_a_submodule,
}


@pytest.mark.parametrize("plant", HOSTILE.values(), ids=HOSTILE)
def test_no_program_of_the_repository_runs(
    tree: Path, tmp_path: Path, plant: Callable[[Path, str], None]
) -> None:
    commit(tree)
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n: > {ran}\nexit 1\n")
    program.chmod(0o755)
    plant(tree, str(program))
    ran.unlink(missing_ok=True)
    os.utime(tree / "a", (1, 1))  # so that git reads its content

    git.list_not_ignored(str(tree), quiet)
    git.read_labels(str(tree), quiet, quiet)
    git.read_labels(str(tree), quiet, quiet, ["a", "src/b"])
    git.read_history(str(tree), quiet)
    assert not ran.exists()

    subprocess.run(["git", "status"], cwd=tree, capture_output=True)
    assert ran.exists(), "git alone runs it, so the test is wrong if it does not"


def test_the_filters_of_the_user_run(tree: Path) -> None:
    run(tree, "config", "--global", "filter.lower.clean", "tr A-Z a-z")
    (tree / ".gitattributes").write_text("a filter=lower\n")
    here = commit(tree)
    write(tree, "a", "A")
    assert git.read_labels(str(tree), quiet, quiet) == {REVISION: here}
    assert git.read_labels(str(tree), quiet, quiet, ["a"]) == {REVISION: here}


def test_a_filter_that_cannot_be_switched_off_means_no_labels(tree: Path) -> None:
    commit(tree)
    run(tree, "config", "filter.a=b.clean", "false")
    messages: list[str] = []
    assert git.read_labels(str(tree), messages.append, quiet) == {}
    assert "cannot be switched off" in messages[-1]


def test_git_is_stopped_at_its_time_limit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tree)
    (tree / ".git/info/exclude").unlink()
    os.mkfifo(tree / ".git/info/exclude")
    monkeypatch.setattr(git, "_LABELS_TIMEOUT", 0.3)
    monkeypatch.setattr(git, "_FILES_TIMEOUT", 0.3)
    assert git.read_labels(str(tree), quiet, quiet) == {}
    with pytest.raises(KontextError, match="has not answered"):
        git.list_not_ignored(str(tree), quiet)


# --- The advice: which of some paths git ignores ---


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return repository(
        tmp_path / "packages",
        {"app/node_modules/p/f": "x", "src/f": "x", "target/f": "x", ":x/f": "x"},
        ignore="node_modules/\n/target\n:x\n",
    )


def test_git_says_which_paths_it_ignores(packages: Path) -> None:
    paths = ["app", "app/node_modules", "app/node_modules/p", "src", "target", ":x"]
    ignored = {"app/node_modules", "app/node_modules/p", "target", ":x"}
    assert git.find_ignored(str(packages), paths, quiet) == ignored
    assert git.find_ignored(str(packages / "app"), ["node_modules"], quiet) == {"node_modules"}


def test_git_is_not_asked_about_paths_outside_of_a_work_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("git was asked"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("git was asked"))
    assert git.find_ignored(str(tmp_path), ["a"], quiet) == frozenset()


FAILING_GITS = {
    "slow": "exec sleep 20",
    "failing": r"printf './src\0'; exit 128",
    "not UTF-8": r"printf 'src\0./other\0\377'",
}


@pytest.mark.parametrize("program", FAILING_GITS.values(), ids=FAILING_GITS)
def test_a_git_that_does_not_answer_ends_the_advice_after_a_moment(
    program: str, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    started = time.monotonic()
    assert git.find_ignored(str(packages), ["src"], quiet) == frozenset()
    assert time.monotonic() - started < 10


def test_without_git_no_path_is_ignored(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git.find_ignored(str(packages), ["target"], quiet) == frozenset()


def test_the_advice_runs_no_program_of_the_repository(packages: Path, tmp_path: Path) -> None:
    """Sources from somewhere else may come with a .git."""
    monitor, ran = tmp_path / "monitor", tmp_path / "ran"
    monitor.write_text(f"#!/bin/sh\ntouch {ran}\n")
    monitor.chmod(0o755)
    run(packages, "add", "src")
    run(packages, "config", "core.fsmonitor", str(monitor))
    run(packages, "status")
    assert ran.exists(), "git would run it"
    ran.unlink()
    assert git.find_ignored(str(packages), ["target"], quiet) == {"target"}
    assert not ran.exists()
