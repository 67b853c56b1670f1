"""Markdown as the tests read it: the examples below each heading, the commands, the links."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from ruamel.yaml import YAML

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_COMMAND = re.compile(r"^(?:\$ )?(?:\w+=\$\()?docker kontext (.+)$")


def documents(root: Path) -> list[Path]:
    """Return the Markdown files of the repository."""
    places = ("*.md", "docs/*.md", "integrations/*/*.md")
    return sorted(document for place in places for document in root.glob(place))


@dataclass(frozen=True)
class Block:
    """A block of code."""

    heading: str  # the nearest one above
    language: str  # "" for one that is only indented
    text: str


def blocks(document: Path) -> list[Block]:
    """Return all code: fenced, and indented."""
    found, heading = [], ""
    tokens = _tokens(document)
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[number + 1].content
        elif token.type in ("fence", "code_block"):
            found.append(Block(heading, token.info, token.content))
    return found


_IMAGE = re.compile(r"registry\.example\.com/me/app@sha256:[0-9a-f]{64}")
_TOOLBOX = "alpine:3.22"


@dataclass
class Examples:
    """The examples of a document, with other images in place of those that it names."""

    document: Path
    image: str  # in place of the image with the sources
    toolbox: str  # in place of Alpine

    def examples(self, heading: str, language: str) -> list[str]:
        found = [block for block in blocks(self.document) if block.heading == heading]
        assert {block.language for block in found} == {language}
        return [self._here(block.text) for block in found]

    def example(self, heading: str, language: str) -> str:
        """Return the only example below a heading."""
        (found,) = self.examples(heading, language)
        return found

    def file(self, path: str) -> str:
        """Return a file of the repository, with the same images replaced."""
        return self._here((self.document.parents[1] / path).read_text("utf-8"))

    def _here(self, text: str) -> str:
        return _IMAGE.sub(self.image, text).replace(_TOOLBOX, self.toolbox)


def parse_yaml(text: str) -> dict[str, Any]:
    # Through JSON: plain values, and no anchors.
    plain: dict[str, Any] = json.loads(json.dumps(YAML(typ="safe", pure=True).load(text)))
    return plain


def anchors(document: Path) -> set[str]:
    """Return what a link may name behind `#`, as GitHub makes it of the headings."""
    tokens = _tokens(document)
    seen: Counter[str] = Counter()
    found = set()
    for heading, token in pairwise(tokens):
        if heading.type == "heading_open":
            name = re.sub(r"[^\w\- ]", "", token.content.lower()).replace(" ", "-")
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return found


def links(document: Path) -> list[str]:
    """Return the targets of all links and images."""
    return [
        str(part.attrs.get("href") or part.attrs["src"])
        for token in _tokens(document)
        for part in token.children or ()
        if part.type in ("link_open", "image")
    ]


def commands(document: Path) -> list[list[str]]:
    """Return the arguments of each `docker kontext` in the document's code."""
    found = []
    for block in blocks(document):
        for line in block.text.replace("\\\n", " ").splitlines():
            if matched := _COMMAND.match(line):
                found.append(list(_words(matched[1])))
    return found


def _words(text: str) -> Iterator[str]:
    """Yield the words of one command: up to what ends it in a shell."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if word[0] in "();<>|&":
            return
        yield word


def _tokens(document: Path) -> list[Token]:
    return _MARKDOWN.parse(document.read_text("utf-8"))
