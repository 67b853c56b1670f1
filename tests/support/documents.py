"""Markdown as the tests read it: the examples below each heading, the commands, the links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)$")
_HEADING = re.compile(r"^#+ (.+)$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"^(?:\$ )?(?:\w+=\$\()?docker kontext (.+)$")


def documents(root: Path) -> list[Path]:
    return sorted([*root.glob("*.md"), *root.glob("docs/*.md")])


@dataclass(frozen=True)
class Block:
    heading: str  # the nearest one above
    language: str  # "" for one that is only indented
    text: str


def blocks(document: Path) -> list[Block]:
    """The fenced code, and each run of indented lines."""
    return [block for block in _parts(document) if isinstance(block, Block)]


def anchors(document: Path) -> set[str]:
    """What a link may name behind `#`, as GitHub makes it of the headings."""
    headings = {part for part in _parts(document) if isinstance(part, str)}
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def links(document: Path) -> list[str]:
    return _LINK.findall(document.read_text("utf-8"))


def commands(document: Path) -> list[list[str]]:
    """The arguments of each `docker kontext` in the document's code."""
    found = []
    for block in blocks(document):
        for line in block.text.replace("\\\n", " ").splitlines():
            if matched := _COMMAND.match(line):
                found.append(list(_words(matched[1])))
    return found


def _words(text: str) -> Iterator[str]:
    """The words of one command: up to what ends it in a shell."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if word[0] in "();<>|&":
            return
        yield word


def _parts(document: Path) -> Iterator[Block | str]:
    """Headings and blocks, in their order."""
    heading, fence, lines = "", None, list[str]()
    for line in [*document.read_text("utf-8").splitlines(), ""]:
        if fence is not None:
            if line == "```":
                yield Block(heading, fence, "\n".join(lines) + "\n")
                fence, lines = None, []
            else:
                lines.append(line)
        elif line.startswith("    "):
            lines.append(line[4:])
        else:
            if lines:
                yield Block(heading, "", "\n".join(lines) + "\n")
                lines = []
            if matched := _FENCE.match(line):
                fence = matched[1]
            elif matched := _HEADING.match(line):
                heading = matched[1]
                yield heading
    assert fence is None, f"{document}: a fence is not closed"
