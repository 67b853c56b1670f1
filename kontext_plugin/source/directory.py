"""The source directory: which one it is, what its ignore file says, and what a push sees of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kontext_plugin.cache.store import Cache
from kontext_plugin.errors import KontextError
from kontext_plugin.push.messages import scanned
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import git, ignore_rules
from kontext_plugin.source.hashing import Stats
from kontext_plugin.source.ignore_rules import read_ignore_rules
from kontext_plugin.source.scan import Scan, scan
from kontext_plugin.terminal.messages import Report


@dataclass(frozen=True)
class SourceDirectory:
    """A directory, and which of its files an image is to have."""

    root: str  # its real path
    rules: ignore_rules.IgnoreRules
    keep_git: bool
    gitignore: bool  # leave out what git ignores as well

    def scan(self, known: Stats, workers: Workers, report: Report, cache: Cache) -> Scan:
        """What is there, as `scan.scan` has it; tells of it. Raises KontextError."""
        not_ignored = None
        if self.gitignore:
            with report.steps.step("git ls-files"):
                not_ignored = git.list_not_ignored(self.root, report.debug)
        found = scan(
            self.root,
            self.rules,
            known,
            workers,
            report.steps,
            keep_git=self.keep_git,
            without=_path_within(self.root, cache.root),
            not_ignored=not_ignored,
        )
        for item in found.special:
            report.warning(f"{item.path!r} is {item.what} and was left out")
        report.info(scanned(found))
        return found


def open_source(
    directory: str, ignore_file: str, *, keep_git: bool, gitignore: bool
) -> SourceDirectory:
    """The source directory by its name; `ignore_file` as in `rule_file`. Raises KontextError."""
    if not os.path.exists(directory):
        raise KontextError(f"{directory!r} does not exist", hint="Name a directory of sources.")
    if not os.path.isdir(directory):
        raise KontextError(f"{directory!r} is not a directory", hint="Name the directory it is in.")
    root = os.path.realpath(directory)
    return SourceDirectory(root, read_ignore_rules(root, ignore_file), keep_git, gitignore)


def _path_within(root: str, folder: str | None) -> str:
    """The path of `folder` within `root`, or "" if it lies elsewhere."""
    top = root.rstrip("/") + "/"
    return folder.removeprefix(top) if folder and folder.startswith(top) else ""
