"""The tree of the benchmarks: made of wheels or copied, known to git, and edited."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

WHEELS = (
    "ansible==12.3.0",
    "ansible==10.7.0",
    "ansible==9.13.0",
    "oci==2.189.0",
    "google_ads==34.0.0",
    "django==5.2.8",
    "botocore==1.44.5",
    "kubernetes==37.0.2",
    "plotly==6.5.0",
    "sympy==1.14.0",
    "pandas==2.3.3",
)
PYTHON = "3.11"  # whose wheels are taken, whatever runs this
EDIT = 1024  # bytes


def make(source: Path | None, work: Path) -> Path:
    """A copy of `source`, or the wheels side by side, in `work`."""
    target = work / "tree"
    if source is not None:
        shutil.copytree(source, target, symlinks=True)
        return target
    for wheel in WHEELS:
        name, _, version = wheel.partition("==")
        print("fetching", wheel, file=sys.stderr)
        with zipfile.ZipFile(_downloaded(wheel, work / "wheels")) as archive:
            archive.extractall(target / f"{name}-{version}")
    shutil.rmtree(work / "wheels")
    return target


def _downloaded(wheel: str, folder: Path) -> Path:
    """One by one: pip takes no two versions of a package together."""
    for path in folder.glob("*"):
        path.unlink()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    platform = ["--python-version", PYTHON, "--platform", "manylinux_2_28_x86_64"]
    platform += ["--platform", "manylinux_2_17_x86_64"]
    subprocess.run([*pip, *platform, "--dest", folder, wheel], check=True)
    [path] = folder.iterdir()
    return path


WORDS = (
    *("account", "address", "archive", "batch", "billing", "cart", "catalog", "client", "config"),
    *("customer", "delivery", "event", "export", "filter", "handler", "import", "invoice", "item"),
    *("ledger", "mail", "message", "model", "order", "parser", "payment", "price", "product"),
    *("query", "queue", "report", "request", "schema", "search", "session", "storage", "table"),
    *("tax", "token", "user", "view"),
)
IN_A_DIRECTORY = 12  # files
POOL = 4000  # different contents


def make_small_files(tree: Path, files: int) -> Path:
    """Write small sources, 12 in a directory, three levels deep. Return the one to edit.

    Each file has an inode of its own: tar would pack a hard link without its content. Contents
    repeat, so git stores few objects.
    """
    chance = random.Random(files)
    contents = [_source(chance) for _ in range(min(files, POOL))]
    directories = math.ceil(files / IN_A_DIRECTORY)
    fan = math.ceil(directories ** (1 / 3))
    for number in range(directories):
        levels = (number // fan**2, number // fan, number)
        directory = tree.joinpath(*(_words(level) for level in levels))
        directory.mkdir(parents=True)
        for index in range(number * IN_A_DIRECTORY, min(files, (number + 1) * IN_A_DIRECTORY)):
            path = f"{directory}/{_words(7 * index)}.py"
            with open(path, "wb", buffering=0) as file:
                file.write(chance.choice(contents))
    return Path(path)


def _source(chance: random.Random) -> bytes:
    """Return a few lines of Python, 1 KB on average."""
    lines = (f"{chance.choice(WORDS)}_{chance.randrange(10**6)} = {i}" for i in range(100))
    return "\n".join(lines).encode()[: chance.randrange(100, 2000)] + b"\n"


def _words(number: int) -> str:
    """Return a name, another one for each of 1,600 neighbours."""
    first, second = divmod(number, len(WORDS))
    return f"{WORDS[first % len(WORDS)]}_{WORDS[second]}"


RULES = """\
.git
*.log
**/__pycache__
**/*.pyc
**/.cache
.venv
node_modules
dist
build/**
!build/README.md
"""
"""A usual ignore file. Its rules hit nothing but `.git`, so that all tools push the same files."""


def add_to_git(tree: Path, folder: Path) -> None:
    """Makes it a clean work tree with an ignore file, whose repository is in `folder`.

    Nobody's own settings of git count from here on.
    """
    os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    (tree / ".dockerignore").write_text(RULES)
    git(tree, "init", "--quiet", "--separate-git-dir", str(folder))
    git(tree, "config", "gc.auto", "0")  # it would go on in the background
    git(tree, "config", "core.compression", "0")
    git(tree, "add", "--all", "--force", ".")
    commit(tree)


def commit(tree: Path) -> str:
    """Commits what is added, and returns the commit's hash."""
    who = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    git(tree, *who, "commit", "--quiet", "--message", "bench")
    return git(tree, "rev-parse", "HEAD").strip()


def git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=tree, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


@dataclass
class Edits:
    """Changes files, each to what it was and 1 KB that has never been there."""

    tree: Path
    paths: list[Path] = field(default_factory=list)  # by default some sources, all over the tree
    last: float = field(default_factory=time.monotonic)  # when something was written
    _before: dict[Path, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.paths:
            return
        files = sorted(path for path in self.tree.rglob("*") if _is_small_file(path))
        sources = [path for path in files if path.suffix == ".py"] or files
        apart = len(sources) // 6 or 1
        self.paths = sources[apart // 2 :: apart]

    def one(self, number: int = 0) -> Path:
        path = self.paths[number % len(self.paths)]
        before = self._before.setdefault(path, path.read_bytes())
        self.last = time.monotonic()
        path.write_bytes(before + b"# " + os.urandom((EDIT - 3) // 2).hex().encode() + b"\n")
        return path

    def commit_another(self, share: float) -> tuple[str, str]:
        """Commit an edit of a share of all files. Returns the commits before and after it."""
        self.undo()
        before = git(self.tree, "rev-parse", "HEAD").strip()
        paths = git(self.tree, "ls-files", "-z").split("\0")[:-1]
        for path in paths[:: round(1 / share)]:
            with (self.tree / path).open("ab") as file:
                file.write(b"\n")
        git(self.tree, "add", "--all")
        return before, commit(self.tree)

    def undo(self) -> None:
        """Give all files the content that they had before the first edit."""
        for path, content in self._before.items():
            path.write_bytes(content)


def _is_small_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 20000


def count(tree: Path) -> tuple[int, int]:
    """The number of its files, and their bytes."""
    sizes = [path.lstat().st_size for path in tree.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def file_of(size: int, folder: Path) -> Path:
    """A directory with one file of so many bytes that do not compress."""
    folder.mkdir()
    block = os.urandom(1 << 20)  # deflate looks back 32 KB
    with (folder / "file").open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
    return folder
