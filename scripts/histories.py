"""Push commits of a git repository to throw-away registries, and compare the images with git."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measuring import (
    ROOT,
    Blobs,
    Pushed,
    exported,
    human,
    layer_size,
    manifest_of,
    push,
    registry,
)
from support.trees import SOURCES, Directory, Link, Node, Tree

# The clone's own attributes and settings, which are stronger than the commits' and the user's.
ATTRIBUTES = "* -text -ident -filter !working-tree-encoding -export-subst -export-ignore\n"
SETTINGS = (
    "core.autocrlf=false",
    "core.symlinks=true",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "submodule.recurse=false",
)
SHOWN = 10  # differences that a message names
KINDS = {"100755": "executable", "120000": "link", "160000": "directory"}
MAIN_EVERY = 10
"""Pushes from shallow clones, of which one moves the tag `main` as well."""

Listing = dict[str, str]
"""Each path with its kind and, but for directories, the id of its blob, as git has them."""


@dataclass(frozen=True)
class Row:
    """One push of a commit."""

    commit: str
    changed: int  # files and links that are not what they were one push before
    uploaded: int  # bytes of the blobs that the registry did not have
    layers: int
    size: int  # of the image
    seconds: float
    manifest: int  # bytes, packed, of manifest.json and its new parts
    archive: int = 0  # bytes of the commit's tar.gz
    nearest: int = 0  # bytes, packed, of the files that differ from the nearest earlier image

    def line(self) -> str:
        return f"| {' | '.join((self.commit, f'{self.changed:,}', *self.figures()))} |"

    def figures(self) -> tuple[str, ...]:
        uploaded, size = human(self.uploaded), human(self.size)
        return (uploaded, str(self.layers), size, f"{self.seconds:.2f} s")


HEAD = """| commit | files changed | uploaded | layers | image | time |
|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Way:
    """How commits are pushed: to which tags, and what the machine knows."""

    name: str
    tags: Callable[[int, str], tuple[str, ...]]  # of the push with this number, of a commit
    keeps_cache: bool = True
    is_shallow: bool = False
    archives: bool = False  # whether rows have `archive`, which takes long
    finds_nearest: bool = False  # whether rows have `nearest`, likewise
    checkout: Path = ROOT  # the version of Kontext


def one_tag(checkout: Path = ROOT) -> Way:
    return Way("one tag", lambda number, commit: ("main",), archives=True, checkout=checkout)


def tag_of_commit(checkout: Path = ROOT) -> Way:
    """Return a way without a cache: each push is the first of a machine."""
    return Way("commits", lambda number, commit: (commit,), keeps_cache=False, checkout=checkout)


def shallow_clones(checkout: Path = ROOT) -> Way:
    def tags(number: int, commit: str) -> tuple[str, ...]:
        return (commit, "main") if number % MAIN_EVERY == 0 else (commit,)

    return Way("shallow", tags, keeps_cache=False, is_shallow=True, checkout=checkout)


def branches(tags: str, checkout: Path = ROOT) -> Way:
    """Return a way for commits of two branches in turn. `tags`: one, branches, or commits."""
    named: dict[str, Callable[[int, str], tuple[str, ...]]] = {
        "one": lambda number, commit: ("dev",),
        "branches": lambda number, commit: (("left", "right")[number % 2],),
        "commits": lambda number, commit: (commit,),
    }
    return Way(f"branches, {tags}", named[tags], finds_nearest=True, checkout=checkout)


@dataclass
class _Course:
    """The images of one way, in a registry of their own."""

    way: Way
    clone: Path
    work: Path
    blobs: Blobs = field(init=False)
    listings: list[Listing] = field(default_factory=list)
    parts: set[str] = field(default_factory=set)  # of all manifests so far, by their names
    contents: dict[str, bytes] = field(default_factory=dict)  # of blobs

    def __post_init__(self) -> None:
        self.blobs = Blobs(self.work / "blobs")
        self.blobs.folder.mkdir(parents=True)
        (self.work / "no-rules").touch()

    def push(self, host: str, number: int, commit: str) -> Pushed:
        first, *others = (f"{host}/replay/tree:{tag}" for tag in self.way.tags(number, commit))
        more = [word for tag in others for word in ("--tag", tag)]
        if not self.way.keeps_cache:
            shutil.rmtree(self.work / "cache", ignore_errors=True)
        os.environ["KONTEXT_CACHE_DIR"] = str(self.work / "cache")
        rules = str(self.work / "no-rules")
        with self.tree(commit) as tree:
            return push(first, tree, *more, "--ignore-file", rules, checkout=self.way.checkout)

    @contextmanager
    def tree(self, commit: str) -> Iterator[Path]:
        if not self.way.is_shallow:
            git(self.clone, "checkout", "--quiet", "--force", "--detach", commit)
            yield self.clone
            return
        target = self.work / "shallow"
        git(".", "init", "--quiet", "--template=", str(target))
        configure(target)
        git(target, "fetch", "--quiet", "--depth=1", f"file://{self.clone}", commit)
        git(target, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
        yield target
        shutil.rmtree(target)

    def row(self, pushed: Pushed, commit: str) -> Row:
        """Compare the image with the commit; end the script if they differ."""
        wanted = listed(self.clone, commit)
        if found := differences(wanted, in_git_words(exported(pushed.image), commit)):
            sys.exit(f"the image of {commit} is not the commit:\n{found}")
        state = manifest_of(self.blobs, pushed)
        new = {name: text for name, text in state.items() if name not in self.parts}
        self.parts |= {name for name in state if "/parts/" in name}
        row = Row(
            commit=commit[:10],
            changed=changed(self.listings[-1] if self.listings else {}, wanted),
            uploaded=self.blobs.uploaded(),
            layers=len(pushed.layers),
            size=pushed.size,
            seconds=pushed.seconds,
            archive=self.archive(commit) if self.way.archives else 0,
            nearest=self.nearest(wanted) if self.way.finds_nearest else 0,
            manifest=layer_size(new),
        )
        self.listings.append(wanted)
        return row

    def archive(self, commit: str) -> int:
        return len(git(self.clone, "archive", "--format=tar.gz", commit))

    def nearest(self, wanted: Listing) -> int:
        """Return the bytes of a layer with the files that differ from the nearest image."""
        return min((self.packed(former, wanted) for former in self.listings), default=0)

    def packed(self, former: Listing, wanted: Listing) -> int:
        return layer_size(
            {
                f"{SOURCES}/{path}": self.content(what.rpartition(" ")[2])
                for path, what in wanted.items()
                if what != "directory" and former.get(path) != what
            }
        )

    def content(self, blob: str) -> bytes:
        if blob not in self.contents:
            self.contents[blob] = git(self.clone, "cat-file", "blob", blob)
        return self.contents[blob]


def replay(clone: Path, commits: Sequence[str], way: Way, work: Path) -> Iterator[Row]:
    """Push the commits; end the script at the first image that is not its commit.

    `work` is a directory that does not exist yet.
    """
    course = _Course(way, clone, work)
    with registry("--disk", str(course.blobs.folder)) as host:
        for number, commit in enumerate(commits):
            yield course.row(course.push(host, number, commit), commit)


def last_commits(repository: str | Path, revision: str, count: int) -> list[str]:
    """Oldest first."""
    wanted = ("rev-list", "--first-parent", f"--max-count={count}", "--end-of-options", revision)
    commits = git(repository, *wanted).decode().split()[::-1]
    return commits or sys.exit("there are no commits to replay")


def two_branches(repository: str | Path, left: str, right: str, count: int) -> list[str]:
    """Return `count` commits: the last ones of two branches in turn, each branch oldest first."""
    return in_turn(*(last_commits(repository, branch, count // 2) for branch in (left, right)))


def in_turn(left: Sequence[str], right: Sequence[str]) -> list[str]:
    return [commit for pair in zip(left, right, strict=False) for commit in pair]


def cloned(repository: str, target: Path) -> Path:
    """A clone without a checkout that borrows the repository's objects."""
    plain = ("--quiet", "--shared", "--no-checkout", "--template=")
    git(".", "clone", *plain, "--", repository, str(target))
    configure(target)
    git(target, "config", "uploadpack.allowAnySHA1InWant", "true")
    return target


def configure(clone: Path) -> None:
    """Switch off what would make a checkout differ from its commit."""
    for setting in SETTINGS:
        git(clone, "config", *setting.split("=", 1))
    (clone / ".git/info").mkdir(exist_ok=True)
    (clone / ".git/info/attributes").write_text(ATTRIBUTES)


def git(folder: str | Path, *arguments: str) -> bytes:
    """What git prints; ends the script where it fails."""
    # A hook or an alias that runs this script has git's variables for its own repository.
    mine = ("GIT_CONFIG", "GIT_EXEC_PATH")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(mine)
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env=environment, capture_output=True
    )
    if done.returncode:
        sys.exit(f"git {arguments[0]} failed:\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def listed(clone: Path, commit: str) -> Listing:
    """What a commit holds, in git's own words, and the directories that this implies."""
    found: Listing = {}
    for record in git(clone, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
        words, _, name = record.partition(b"\t")
        mode, _, identity = words.decode().split()
        path, kind = os.fsdecode(name), KINDS.get(mode, "file")
        found[path] = kind if kind == "directory" else f"{kind} {identity}"
        while path := path.rpartition("/")[0]:
            found[path] = "directory"
    return found


def in_git_words(tree: Tree, commit: str) -> Listing:
    # A repository names its blobs by the same function as its commits.
    algorithm = "sha1" if len(commit) == 40 else "sha256"
    return {path: described(node, algorithm) for path, node in tree.items()}


def described(node: Node, algorithm: str) -> str:
    if isinstance(node, Directory):
        return "directory"
    if isinstance(node, Link):
        kind, content = "link", os.fsencode(node.target)
    else:
        kind, content = "executable" if node.executable else "file", node.content
    blob = b"blob %d\0" % len(content) + content
    return f"{kind} {hashlib.new(algorithm, blob).hexdigest()}"


def changed(before: Listing, after: Listing) -> int:
    """Files and links, renamed ones twice."""
    pairs = before.items() ^ after.items()
    return len({path for path, what in pairs if what != "directory"})


def differences(wanted: Listing, shown: Listing) -> str:
    """The first few, one a line; empty if there is none."""
    paths = sorted(path for path in wanted.keys() | shown if wanted.get(path) != shown.get(path))
    lines = [
        f"  {path!r}: {wanted.get(path, 'nothing')} in the commit, "
        f"{shown.get(path, 'nothing')} in the image"
        for path in paths[:SHOWN]
    ]
    if len(paths) > SHOWN:
        lines.append(f"  and {len(paths) - SHOWN} more")
    return "\n".join(lines)
