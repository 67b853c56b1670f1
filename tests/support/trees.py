"""Directory trees as values, read from a disk or a tar archive and written to a disk."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO, NamedTuple

SOURCES = "var/run/kontext"


class File(NamedTuple):
    content: bytes
    executable: bool = False


class Link(NamedTuple):
    target: str


class Directory(NamedTuple):
    pass


Node = File | Link | Directory
Tree = dict[str, Node]

EVERY_KIND: Tree = {
    "file": File(b"content\n"),
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "dir": Directory(),
    "dir/below": File(b"below\n"),
    "dir/link": Link("../file"),
    "empty": Directory(),
}
"""An entry of each kind that a manifest can list."""

PROGRAM: Tree = {
    "README": File(b"hello\n"),
    "run.sh": File(b"#!/bin/sh\n", executable=True),
    "src": Directory(),
    "src/main.c": File(b"int main(void) { return 0; }\n"),
    "src/link.c": Link("main.c"),
}
"""A small source directory."""


def on_disk(root: Path) -> Tree:
    """Return the tree of a directory. Assert that it has only files, directories and links."""
    found: Tree = {}
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            node: Node
            if stat.S_ISLNK(mode):
                node = Link(os.readlink(path))
            elif stat.S_ISDIR(mode):
                node = Directory()
            else:
                assert stat.S_ISREG(mode), path
                node = File(Path(path).read_bytes(), bool(mode & stat.S_IXUSR))
            found[os.path.relpath(path, root)] = node
    return found


def in_archive(stream: IO[bytes], below: str = SOURCES) -> Tree:
    """Return the tree below a directory of a tar archive."""
    found: Tree = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            name = entry.name.removeprefix("./")
            if not name.startswith(below + "/"):
                continue
            path = name.removeprefix(below + "/")
            assert path not in found, f"{path} is there twice"
            if entry.issym():
                found[path] = Link(entry.linkname)
            elif entry.isdir():
                found[path] = Directory()
            else:
                assert entry.isreg(), path
                content = archive.extractfile(entry)
                assert content is not None
                found[path] = File(content.read(), bool(entry.mode & stat.S_IXUSR))
    return found


def plant(root: Path, tree: Tree) -> None:
    """Write the tree below `root`. Replace what is in the way, and keep the rest."""
    for path, node in sorted(tree.items()):
        target = root / path
        if isinstance(node, Directory):
            if target.is_symlink() or target.is_file():
                target.unlink()
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            remove(target)
        if isinstance(node, Link):
            target.symlink_to(node.target)
        else:
            target.write_bytes(node.content)
            target.chmod(0o755 if node.executable else 0o644)


def remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():  # a link's target may be too long to be followed
        path.unlink()
    else:
        for child in path.iterdir():
            remove(child)
        path.rmdir()
