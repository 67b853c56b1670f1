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

HEADER = "| | Kontext | against | that | ratio | target | reached |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Row:
    what: str
    ours: str
    against: str = "–"
    theirs: str = "–"
    ratio: str = "–"
    target: str = "–"
    reached: bool | None = None  # None where there is no target, or nothing was measured

    def line(self) -> str:
        reached = {True: "yes", False: "**no**", None: "–"}[self.reached]
        cells = (self.what, self.ours, self.against, self.theirs, self.ratio, self.target, reached)
        return "| {} |".format(" | ".join(cell.replace("|", "\\|") for cell in cells))


@dataclass
class Topic:
    title: str
    rows: list[Row] = field(default_factory=list)
    text: str = ""
    commands: list[str] = field(default_factory=list)
    extra: str = ""  # Markdown below the table
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
    missed = [row for topic in topics for row in topic.rows if row.reached is False]
    named = "; ".join(f"{row.what} ({row.against})" for row in missed).replace(" (–)", "")
    verdict = f"Targets that are not reached: {named or 'none'}."
    head = ["# Benchmarks", paragraph(made), paragraph(f"The machine: {machine()}.")]
    sections = (topic.section() for topic in topics)
    return "\n\n".join([*head, paragraph(how), paragraph(verdict), *sections]) + "\n"


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
