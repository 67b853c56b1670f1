"""The gate before an upload: what looks like a secret is named, and a live one goes nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.runtime.files import read_file
from kontext_plugin.secret_scan.scanner import Finding
from kontext_plugin.source import ignore_rules
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number

ALLOW_FILE = ".kontextallow"

_ALLOW_BYTES = 1024 * 1024

_SHOWN = 10

_FINGERPRINT = re.compile("sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Allowed:
    """What the directory's allow-list says is no secret, or may be published."""

    fingerprints: frozenset[str] = frozenset()
    paths: ignore_rules.IgnoreRules = field(default_factory=ignore_rules.IgnoreRules)

    def __contains__(self, finding: Finding) -> bool:
        return finding.fingerprint in self.fingerprints or ignore_rules.excludes(
            self.paths, finding.path
        )


@dataclass(frozen=True)
class SecretPolicy:
    policy: str  # one of table.SECRETS
    root: str  # the source directory
    report: Report
    ignore_file: str = "the ignore file"  # where to add a rule: another one may put it out of use

    def check(self, found: Sequence[Finding]) -> None:
        """Warns of what may be a secret. Raises KontextError for what must not be uploaded."""
        blocked, doubtful = self._judged(found)
        if doubtful:
            self.report.important(self._warning(doubtful))
        if blocked:
            raise KontextError(
                f"{number(len(blocked), 'secret')} would be published, so nothing was uploaded:\n"
                + _listed([_described(finding) for finding in blocked]),
                hint=f"Take them out, or leave the files out with {self.ignore_file}. A secret "
                "that was shared already must be revoked.\n"
                f"To publish them all the same, add to the directory's {ALLOW_FILE}:\n"
                + _listed([*dict.fromkeys(map(_allowing, blocked))]),
            )

    def tell(self, found: Sequence[Finding]) -> None:
        """What `check` would do."""
        blocked, doubtful = self._judged(found)
        if doubtful:
            self.report.important(self._warning(doubtful))
        if blocked:
            self.report.important(
                f"the push would be refused for {number(len(blocked), 'secret')}:\n"
                + _listed([_described(finding) for finding in blocked])
            )

    def _judged(self, found: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
        """Those that block, and those that are only told of."""
        allowed = read_allowed(self.root) if found else Allowed()
        found = [finding for finding in found if finding not in allowed]
        blocked = [finding for finding in found if self._blocks(finding)]
        told = {(finding.path, finding.line) for finding in blocked}
        return blocked, [finding for finding in found if (finding.path, finding.line) not in told]

    def _warning(self, findings: Sequence[Finding]) -> str:
        return (
            f"{number(len({finding.path for finding in findings}), 'file')} may hold secrets:\n"
            + _listed([_described(finding) for finding in findings])
            + f"\nLeave them out with {self.ignore_file}, or list them in {ALLOW_FILE} "
            "if that is meant."
        )

    def _blocks(self, finding: Finding) -> bool:
        return self.policy == "block" or (self.policy == "auto" and finding.live)


def read_allowed(root: str) -> Allowed:
    """The allow-list of a source directory. Raises KontextError."""
    path = os.path.join(root, ALLOW_FILE)
    try:
        text = read_file(path, _ALLOW_BYTES).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return Allowed()
    except (OSError, ValueError) as error:
        raise KontextError(f"the allow-list {path!r} cannot be used: {reason_of(error)}") from error
    lines = text.split("\n")
    fingerprints = {line.strip() for line in lines if _FINGERPRINT.fullmatch(line.strip())}
    # Empty lines in their place: an error names the line.
    patterns = ["" if line.strip() in fingerprints else line for line in lines]
    return Allowed(frozenset(fingerprints), ignore_rules.parse_rules("\n".join(patterns), path))


def _described(finding: Finding) -> str:
    if not finding.line:
        return f"{finding.path!r}: files of this name commonly hold secrets"
    return f"{finding.path!r}, line {finding.line}: {finding.rule}"


def _allowing(finding: Finding) -> str:
    """The line of an allow-list for this finding alone."""
    return finding.fingerprint or ignore_rules.pattern_for(finding.path)


def _listed(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:_SHOWN], *more])
