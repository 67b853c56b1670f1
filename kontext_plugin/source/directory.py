"""The source directory: where it is, its ignore file, and a scan of what a push takes from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from kontext_plugin.errors import KontextError
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import git
from kontext_plugin.source.filters import Filters
from kontext_plugin.source.ignore_rules import IgnoreRules, read_ignore_file
from kontext_plugin.source.scan import Leave, Scan, Tell, scan
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.steps import StepName, Steps


@dataclass(frozen=True)
class SourceDirectory:
    """A directory, and the rules that choose which of its files go into an image."""

    root: str  # its real path
    ignore_file: str  # where to add a rule; there may be no such file yet
    rules: IgnoreRules  # those of the ignore file
    keep_git: bool = False
    gitignore: bool = False  # skip what git ignores as well

    def scan(
        self,
        known: Snapshot,
        workers: Workers,
        steps: Steps,
        debug: Callable[[str], None],
        *,
        cache: str | None = None,
        copies: str = "",
        leave: Leave | None = None,
        tell: Tell | None = None,
    ) -> Scan:
        """Scan the directory, as `scan.scan` does. Raises KontextError.

        `debug` receives git's command lines. `cache` is the path of Kontext's own cache, which is
        skipped. `copies` is a directory for copies of the files that are read; "": none are made.
        """
        not_ignored = None
        if self.gitignore:
            with steps.step(StepName.GIT_LS_FILES):
                not_ignored = git.list_not_ignored(self.root, debug)
        filters = replace(self.filters(cache), not_ignored=not_ignored)
        return scan(self.root, filters, known, workers, steps, copies, leave, tell)

    def filters(self, cache: str | None = None) -> Filters:
        """Return the filters of the scan, apart from what git ignores."""
        return Filters(self.rules, None, self.keep_git, _path_below(self.root, cache))


def open_source(
    directory: str, ignore_file: str = "", *, keep_git: bool = False, gitignore: bool = False
) -> SourceDirectory:
    """Return a source directory. `ignore_file` is the one to use in place of the directory's own.

    Raises KontextError.
    """
    if not os.path.exists(directory):
        raise KontextError(f"{directory!r} does not exist", hint="Name a directory of sources.")
    if not os.path.isdir(directory):
        raise KontextError(f"{directory!r} is not a directory", hint="Name the directory it is in.")
    root = os.path.realpath(directory)
    file, rules = read_ignore_file(root, ignore_file)
    return SourceDirectory(root, file, rules, keep_git, gitignore)


def _path_below(root: str, directory: str | None) -> str:
    """Return the path of a directory relative to `root`, "" if it is not below."""
    prefix = root.rstrip("/") + "/"
    return directory.removeprefix(prefix) if directory and directory.startswith(prefix) else ""
