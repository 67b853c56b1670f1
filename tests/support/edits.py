"""A tree, and an edit of each kind."""

from __future__ import annotations

import os
from pathlib import Path

from support.trees import PROGRAM, Directory, File, Link, Tree, plant, remove

HOSTILE_NAME = "\x1b[2J\x1b[31mred\nD everything"
"""A file name that would command a terminal, and that looks like two lines of a list."""

BEFORE: Tree = PROGRAM | {
    "old": Directory(),
    "old/file": File(b"old"),
    HOSTILE_NAME: File(b""),
    "ballast": File(os.urandom(20_000)),
}


def edit(source: Path) -> None:
    """Change a content, a mode, a link's target and a kind; add a file, and remove a directory."""
    plant(
        source,
        {
            "README": File(b"hello again\n"),
            "run.sh": File(b"#!/bin/sh\n"),
            "src/link.c": Link("elsewhere"),
            "new/file": File(b"new"),
            HOSTILE_NAME: Link("README"),
        },
    )
    remove(source / "old")
