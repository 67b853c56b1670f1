"""The source directory: which one it is, what its ignore file says, and what a push sees of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kontext_plugin import git, ignore
from kontext_plugin.cache import Cache
from kontext_plugin.commands.push_messages import scanned
from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.memories import Stats
from kontext_plugin.report import Report
from kontext_plugin.scan import Scan, scan
from kontext_plugin.sources import read_file
from kontext_plugin.workers import Workers

IGNORE_FILES = (".kontextignore", ".dockerignore")
IGNORE_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Source:
    """A directory, and which of its files an image is to have."""

    root: str  # its real path
    rules: ignore.IgnoreRules
    keep_git: bool
    gitignore: bool  # leave out what git ignores as well

    def scan(self, known: Stats, workers: Workers, report: Report, cache: Cache) -> Scan:
        """What is there, as `scan.scan` has it; tells of it. Raises KontextError."""
        not_ignored = None
        if self.gitignore:
            with report.steps.step("git ls-files"):
                not_ignored = git.not_ignored(self.root, report.trace)
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
            report.warn(f"{item.path!r} is {item.what} and was left out")
        report.say(scanned(found))
        return found


def source(directory: str, ignore_file: str, *, keep_git: bool, gitignore: bool) -> Source:
    """The source directory by its name; `ignore_file` as in `rule_file`. Raises KontextError."""
    if not os.path.exists(directory):
        raise KontextError(f"{directory!r} does not exist", hint="Name a directory of sources.")
    if not os.path.isdir(directory):
        raise KontextError(f"{directory!r} is not a directory", hint="Name the directory it is in.")
    root = os.path.realpath(directory)
    return Source(root, _ignore_rules(root, ignore_file), keep_git, gitignore)


def rule_file(root: str, chosen: str) -> str:
    """Where to add a rule: the chosen ignore file, or the one that a directory has or should."""
    own = (name for name in IGNORE_FILES if os.path.exists(os.path.join(root, name)))
    return chosen or next(own, IGNORE_FILES[0])


def _ignore_rules(root: str, chosen: str) -> ignore.IgnoreRules:
    """The rules of the chosen ignore file, or of the directory's own. Raises KontextError."""
    candidates = [chosen] if chosen else [os.path.join(root, name) for name in IGNORE_FILES]
    for path in candidates:
        try:
            content = read_file(path, IGNORE_FILE_BYTES)
            return ignore.parse(content.decode("utf-8", "surrogateescape"), path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise KontextError(
                f"the ignore file {path!r} cannot be used: {reason_of(error)}"
            ) from error
    if chosen:
        raise KontextError(f"the ignore file {chosen!r} does not exist")
    return ignore.IgnoreRules()


def _path_within(root: str, folder: str | None) -> str:
    """The path of `folder` within `root`, or "" if it lies elsewhere."""
    top = root.rstrip("/") + "/"
    return folder.removeprefix(top) if folder and folder.startswith(top) else ""
