"""Decide which secrets block a push, and tell of them. A directory's allow-list has exceptions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kontext_plugin.errors import KontextError, reason_of
from kontext_plugin.runtime.files import read_file
from kontext_plugin.secret_scan import SecretMode
from kontext_plugin.secret_scan.scanner import Finding
from kontext_plugin.source import ignore_rules
from kontext_plugin.terminal.messages import Report
from kontext_plugin.terminal.text import number

ALLOW_FILE = ".kontextallow"

_ALLOW_FILE_BYTES = 1024 * 1024

_MAX_SHOWN = 10

_FINGERPRINT = re.compile("sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class AllowList:
    """The secrets and paths that a directory's allow-list permits."""

    fingerprints: frozenset[str] = frozenset()
    paths: ignore_rules.IgnoreRules = field(default_factory=ignore_rules.IgnoreRules)

    def allows(self, finding: Finding) -> bool:
        return finding.fingerprint in self.fingerprints or ignore_rules.excludes(
            self.paths, finding.path
        )


@dataclass(frozen=True)
class SecretPolicy:
    """What happens to secrets in the layers of a source directory."""

    mode: SecretMode
    root: str  # the source directory
    report: Report
    ignore_file: str = "the ignore file"  # where to add a rule

    @property
    def needs_scan(self) -> bool:
        """Whether to look for secrets at all."""
        return self.mode is not SecretMode.OFF

    def blocks(self, findings: Sequence[Finding]) -> bool:
        """Whether these findings block the push. Raises KontextError."""
        blocking, _ = self._judge(findings)
        return bool(blocking)

    def enforce(self, findings: Sequence[Finding]) -> None:
        """Warn about possible secrets. Raises KontextError for those that block the push."""
        blocking, doubtful = self._judge(findings)
        self._warn(doubtful)
        if blocking:
            raise KontextError(
                f"{number(len(blocking), 'secret')} would be published, so the push has stopped:\n"
                + _list(map(_describe, blocking)),
                hint=f"Remove them, or exclude the files with {self.ignore_file}. If you have "
                "shared a secret before, revoke it.\n"
                f"To publish them anyway, add these lines to {ALLOW_FILE} in the directory:\n"
                + _list(dict.fromkeys(map(_allow_line, blocking))),
            )

    def preview(self, findings: Sequence[Finding]) -> None:
        """Tell what `enforce` would do."""
        blocking, doubtful = self._judge(findings)
        self._warn(doubtful)
        if blocking:
            self.report.important(
                f"{number(len(blocking), 'secret')} would block the push:\n"
                + _list(map(_describe, blocking))
            )

    def _judge(self, findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
        """Return the findings that block the push, and those that deserve a warning."""
        allowed = read_allow_list(self.root) if findings else AllowList()
        findings = [finding for finding in findings if not allowed.allows(finding)]
        blocking = [finding for finding in findings if self._blocks(finding)]
        lines = {(finding.path, finding.line) for finding in blocking}
        return blocking, [one for one in findings if (one.path, one.line) not in lines]

    def _blocks(self, finding: Finding) -> bool:
        if self.mode is SecretMode.AUTO:
            return finding.live
        return self.mode is SecretMode.BLOCK

    def _warn(self, findings: Sequence[Finding]) -> None:
        if findings:
            self.report.important(
                f"{number(len({finding.path for finding in findings}), 'file')} may hold secrets:\n"
                + _list(map(_describe, findings))
                + f"\nExclude them with {self.ignore_file}, or allow them in {ALLOW_FILE}."
            )


def read_allow_list(root: str) -> AllowList:
    """Return the allow-list of a source directory. Raises KontextError.

    Each line is a fingerprint, or a line of an ignore file.
    """
    path = os.path.join(root, ALLOW_FILE)
    try:
        text = read_file(path, _ALLOW_FILE_BYTES).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return AllowList()
    except (OSError, ValueError) as error:
        raise KontextError(f"cannot use the allow-list {path!r}: {reason_of(error)}") from error
    lines = text.split("\n")
    fingerprints = {line.strip() for line in lines if _FINGERPRINT.fullmatch(line.strip())}
    # Fingerprints become empty lines, so that an error names the right line.
    patterns = ["" if line.strip() in fingerprints else line for line in lines]
    return AllowList(frozenset(fingerprints), ignore_rules.parse_rules("\n".join(patterns), path))


def _describe(finding: Finding) -> str:
    if not finding.line:
        return f"{finding.path!r}: files of this name often hold secrets"
    return f"{finding.path!r}, line {finding.line}: {finding.rule}"


def _allow_line(finding: Finding) -> str:
    """Return the line of an allow-list that allows this finding alone."""
    return finding.fingerprint or ignore_rules.pattern_for(finding.path)


def _list(items: Iterable[str]) -> str:
    lines = list(items)
    more = [f"and {len(lines) - _MAX_SHOWN:,} more"] if len(lines) > _MAX_SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:_MAX_SHOWN], *more])
