"""The filters: which entries of a source directory a push takes. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property

from kontext_plugin.source.ignore_rules import ROOT, IgnoreRules, Verdict

_KEY_VERSION = 1
"""Must change with what a rule means: else trees of the former meaning are taken as scanned."""


class Decision(Enum):
    """What the scan does with an entry of a directory."""

    KEEP = auto()  # put it into the tree; of a directory, look at each entry
    ENTER = auto()  # look at each entry; put the directory into the tree with the first one kept
    SKIP = auto()
    SKIP_GIT = auto()  # skip it and list it in `Scan.git_entries`


# Plain names: looking up a member of an enum takes as long as the rest of a decision.
_KEEP, _ENTER, _SKIP, _SKIP_GIT = Decision


@dataclass(frozen=True)
class NotIgnored:
    """The paths below a directory that git tracks or would track. Some may no longer exist."""

    files: frozenset[str]  # and links
    directories: frozenset[str]  # of these files


@dataclass(frozen=True)
class Filters:
    """Which entries of a source directory go into the image."""

    rules: IgnoreRules = field(default_factory=IgnoreRules)
    not_ignored: NotIgnored | None = None  # of the rest, only what git does not ignore
    keep_git: bool = False
    excluded: str = ""  # the path of a directory that is always skipped; "": none

    @cached_property
    def key(self) -> str:
        """A digest of all that the decisions depend on, apart from the entries."""
        listed = sorted(self.not_ignored.files) if self.not_ignored else None
        facts = (_KEY_VERSION, self.rules.lines, listed, self.keep_git, self.excluded)
        return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()

    def decide(
        self, path: str, name: str, is_directory: bool, parent: Verdict, in_git: bool = False
    ) -> tuple[Decision, Verdict]:
        """Decide what happens to the entry `name` at `path`.

        `parent` is the verdict of the ignore rules on the entry's directory. `in_git` says that the
        entry lies in a kept `.git`, of which git lists nothing. Also returns the verdict of the
        ignore rules on the entry: the `parent` of the entries below it.
        """
        if name == ".git" and not self.keep_git:
            return _SKIP_GIT, parent
        if is_directory and path == self.excluded:
            return _SKIP, parent
        verdict = self.rules.verdict(path, parent) if self.rules.groups else ROOT
        if verdict.excluded:
            enter = is_directory and self.rules.may_keep_below(path)
            return (_ENTER if enter else _SKIP), verdict
        if self.not_ignored and not in_git and name != ".git":
            if is_directory:
                enter = path in self.not_ignored.directories
                return (_ENTER if enter else _SKIP), verdict
            return (_KEEP if path in self.not_ignored.files else _SKIP), verdict
        return _KEEP, verdict


@dataclass(frozen=True)
class Place:
    """A directory that the scan enters, and what its entries need to know of it."""

    path: str = ""
    verdict: Verdict = ROOT
    is_kept: bool = True  # in the tree itself, not only with what is kept below it
    in_git: bool = False  # a kept `.git`, or in one

    def join(self, name: str) -> str:
        """Return the path of an entry."""
        return f"{self.path}/{name}" if self.path else name

    def below(self, name: str, decision: Decision, verdict: Verdict) -> Place:
        """Return the place of a directory in this one."""
        return Place(self.join(name), verdict, decision is _KEEP, self.in_git or name == ".git")


def place_at(filters: Filters, path: str) -> Place:
    """Return the place of a directory that a scan with these filters has entered."""
    place = Place()
    for name in path.split("/") if path else ():
        decision, verdict = filters.decide(
            place.join(name), name, True, place.verdict, place.in_git
        )
        place = place.below(name, decision, verdict)
    return place
