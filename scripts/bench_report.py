"""The tables of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measuring import disk_registry_program, paragraph

COLUMNS = ("", "Kontext", "against", "that", "ratio", "target", "reached", "bound by")
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|".replace("|  |", "| |")


@dataclass(frozen=True)
class Target:
    """A limit, and the figure that has to keep it."""

    text: str
    figure: float
    limit: float
    is_least: bool = False  # or the limit is the most

    @property
    def reached(self) -> bool:
        return self.figure >= self.limit if self.is_least else self.figure <= self.limit

    def missed_by(self) -> str:
        """Say how far the figure is from its limit."""
        side = "below" if self.is_least else "above"
        return f"{abs(self.figure / self.limit - 1):.0%} {side}"


def at_most(figure: float, limit: float, text: str = "at most {:g}") -> Target:
    return Target(text.format(limit), figure, limit)


def at_least(figure: float, limit: float, text: str = "at least {:g}") -> Target:
    return Target(text.format(limit), figure, limit, is_least=True)


@dataclass(frozen=True)
class Row:
    what: str
    ours: str
    against: str = "–"
    theirs: str = "–"
    ratio: str = "–"
    target: Target | None = None
    bound: str = "–"  # what keeps the figure from being better

    @property
    def missed(self) -> bool:
        return self.target is not None and not self.target.reached

    def line(self) -> str:
        target, reached = "–", "–"
        if self.target is not None:
            target = self.target.text
            reached = "yes" if self.target.reached else f"**no**: {self.target.missed_by()}"
        cells = (self.what, self.ours, self.against, self.theirs, self.ratio)
        cells += (target, reached, self.bound)
        return "| {} |".format(" | ".join(cell.replace("|", "\\|") for cell in cells))


@dataclass
class Topic:
    title: str
    rows: list[Row] = field(default_factory=list)
    text: str = ""
    commands: list[str] = field(default_factory=list)
    extra: str = ""  # Markdown below the table
    pictures: dict[str, str] = field(default_factory=dict)  # SVG, by the file beside the document
    failed: bool = False

    def section(self) -> str:
        parts = [f"## {self.title}"]
        if self.rows:
            parts.append("\n".join([HEADER, *(row.line() for row in self.rows)]))
        if self.text:
            parts.append(paragraph(self.text))
        if self.commands:
            parts.append("\n".join(f"    {command}" for command in self.commands))
        if self.extra:
            parts.append(self.extra)
        return "\n\n".join(parts)


def not_measured(what: str, against: str, why: str) -> Row:
    """`why` may be what a program said at length."""
    return Row(what, f"not measured: {' '.join(why.split())[:300]}", against)


def document(topics: Sequence[Topic], made: str, how: str) -> str:
    missed = [_miss(row) for topic in topics for row in topic.rows if row.missed]
    verdict = f"Targets that are not reached: {'; '.join(missed) or 'none'}."
    head = ["# Benchmarks", paragraph(made), paragraph(f"The machine: {machine()}.")]
    sections = (topic.section() for topic in topics)
    return "\n\n".join([*head, paragraph(how), paragraph(verdict), *sections]) + "\n"


def _miss(row: Row) -> str:
    assert row.target is not None
    peer = "" if row.against == "–" else f" ({row.against})"
    bound = "" if row.bound == "–" else f", bound by {row.bound}"
    return f"{row.what}{peer}: {row.target.missed_by()}{bound}"


def machine() -> str:
    """What the figures depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    parts = [
        f"{len(os.sched_getaffinity(0))} processors ({cpu[1] if cpu else platform.machine()})",
        f"{memory:.0f} GiB of memory",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        f"the registry {disk_registry_program()} on loopback with a disk",
        *filter(None, map(_version, VERSIONS)),
    ]
    return ", ".join(parts)


VERSIONS = (
    ("git", "--version"),
    ("crane", "version"),
    ("docker", "--version"),
    ("dockerd", "--version"),
    ("buildah", "--version"),
    ("oras", "version"),
)


def _version(command: Sequence[str]) -> str:
    if not shutil.which(command[0]):
        return f"no {command[0]}"
    said = subprocess.run(command, capture_output=True, text=True).stdout
    found = re.search(r"\d+\.\d+[\w.+-]*", said)
    return f"{command[0]} {found[0] if found else 'of an unknown version'}"
