"""The policy: which secrets block a push, which cause a warning, and which are allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kontext_plugin.cli.options import SECRETS
from kontext_plugin.errors import KontextError
from kontext_plugin.secret_scan import SecretMode
from kontext_plugin.secret_scan.policy import AllowList, SecretPolicy, read_allow_list
from kontext_plugin.secret_scan.scanner import Finding
from kontext_plugin.terminal.messages import Report

LIVE = Finding("live.py", 3, "GitHub token", True, "sha256:" + "a" * 64)
DOUBTFUL = Finding("key.pem", 1, "private key", False, "sha256:" + "b" * 64)
NAME = Finding("a/.env", 0, "", False, "")
ALL = [LIVE, DOUBTFUL, NAME]


def policy(mode: SecretMode, root: Path, **options: str) -> SecretPolicy:
    return SecretPolicy(mode, str(root), Report(), **options)


def paths(text: str) -> set[str]:
    """The paths of findings that a text names."""
    return {finding.path for finding in ALL if repr(finding.path) in text}


def judge(
    act: Callable[[Sequence[Finding]], None], capsys: pytest.CaptureFixture[str]
) -> tuple[set[str], set[str]]:
    """The paths that block, and those that cause a warning."""
    blocking = ""
    try:
        act(ALL)
    except KontextError as error:
        blocking = error.message
    return paths(blocking), paths(capsys.readouterr().err)


JUDGEMENTS: dict[SecretMode, tuple[set[str], set[str]]] = {
    SecretMode.AUTO: ({"live.py"}, {"key.pem", "a/.env"}),
    SecretMode.WARN: (set(), {"live.py", "key.pem", "a/.env"}),
    SecretMode.BLOCK: ({"live.py", "key.pem", "a/.env"}, set()),
}
MODES = pytest.mark.parametrize("mode", JUDGEMENTS, ids=lambda mode: mode.value)


def test_the_values_of_the_option_are_the_modes() -> None:
    assert SECRETS == ("auto", "warn", "block", "off")
    assert SecretMode(SECRETS[0]) is SecretMode.AUTO


@pytest.mark.parametrize("mode", SecretMode)
def test_only_off_needs_no_scan(mode: SecretMode, tmp_path: Path) -> None:
    assert policy(mode, tmp_path).needs_scan is (mode is not SecretMode.OFF)


@MODES
def test_the_mode_says_what_blocks_and_what_causes_a_warning(
    mode: SecretMode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(policy(mode, tmp_path).enforce, capsys) == JUDGEMENTS[mode]


@MODES
def test_a_preview_names_the_same_paths_and_raises_nothing(
    mode: SecretMode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(mode, tmp_path).preview(ALL)
    err = capsys.readouterr().err
    blocking, doubtful = JUDGEMENTS[mode]
    assert paths(err) == blocking | doubtful
    assert ("would block the push" in err) is bool(blocking)


@MODES
def test_without_findings_nothing_happens(
    mode: SecretMode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".kontextallow").write_text("[")  # not even the allow-list is read
    policy(mode, tmp_path).enforce([])
    policy(mode, tmp_path).preview([])
    assert capsys.readouterr().err == ""


def test_a_warning_is_shown_even_with_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SecretPolicy(SecretMode.WARN, str(tmp_path), Report(quiet=True)).enforce([LIVE])
    assert capsys.readouterr().err.startswith("WARNING: 1 file may hold secrets:")


def test_a_line_that_blocks_causes_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line may have a live access key, and the ID of one."""
    both = [LIVE, LIVE._replace(rule="AWS access key ID", live=False)]
    with pytest.raises(KontextError, match="1 secret would be published"):
        policy(SecretMode.AUTO, tmp_path).enforce(both)
    assert capsys.readouterr().err == ""


def test_the_error_names_each_secret_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KontextError) as raised:
        policy(SecretMode.BLOCK, tmp_path, ignore_file="rules").enforce(ALL)
    assert "'live.py', line 3: GitHub token" in raised.value.message
    assert "'a/.env': files of this name" in raised.value.message
    assert "exclude the files with rules." in raised.value.hint
    assert ".kontextallow" in raised.value.hint
    assert "revoke" in raised.value.hint


def test_a_warning_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy(SecretMode.WARN, tmp_path, ignore_file="rules").enforce([NAME])
    assert "Exclude them with rules, or allow them in .kontextallow." in capsys.readouterr().err


def test_of_many_secrets_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    many = [LIVE._replace(line=line, fingerprint=f"sha256:{line:064x}") for line in range(1, 14)]
    with pytest.raises(KontextError, match="13 secrets") as raised:
        policy(SecretMode.AUTO, tmp_path).enforce(many)
    assert "and 3 more" in raised.value.message
    assert "and 3 more" in raised.value.hint
    assert raised.value.message.count("GitHub token") == 10
    assert len(re.findall("sha256:", raised.value.hint)) == 10


STRANGE = [
    "a*/.env",
    "!x/[y]/.env",
    "#/.env",
    "a|b^/{2}/.env",
    "back\\slash/.env",
    "two words/.env",
]


@pytest.mark.parametrize(
    "finding", [*ALL, *(NAME._replace(path=path) for path in STRANGE)], ids=lambda one: one.path
)
def test_the_lines_of_the_hint_allow_the_push(finding: Finding, tmp_path: Path) -> None:
    blocking = policy(SecretMode.BLOCK, tmp_path)
    with pytest.raises(KontextError) as raised:
        blocking.enforce([finding])
    lines = [line.strip() for line in raised.value.hint.split("\n") if line.startswith("  ")]
    (tmp_path / ".kontextallow").write_text("\n".join(lines))
    blocking.enforce([finding])
    other = LIVE if finding.path != LIVE.path else NAME
    with pytest.raises(KontextError):
        blocking.enforce([finding, other])


# --- The allow-list ---


def test_there_may_be_no_allow_list(tmp_path: Path) -> None:
    assert read_allow_list(str(tmp_path)) == AllowList()


def test_an_allow_list_has_fingerprints_patterns_and_comments(tmp_path: Path) -> None:
    (tmp_path / ".kontextallow").write_text(
        f"# a comment\n  {LIVE.fingerprint}  \r\n\n**/.env\n!b/.env\n"
    )
    allowed = read_allow_list(str(tmp_path))
    assert allowed.fingerprints == {LIVE.fingerprint}
    assert allowed.allows(LIVE._replace(path="elsewhere"))
    assert allowed.allows(NAME)
    assert not allowed.allows(NAME._replace(path="b/.env"))
    assert not allowed.allows(DOUBTFUL)


def test_a_pattern_allows_all_secrets_of_a_path(tmp_path: Path) -> None:
    (tmp_path / ".kontextallow").write_text("live.py\n")
    assert read_allow_list(str(tmp_path)).allows(LIVE)


def test_a_malformed_pattern_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / ".kontextallow").write_text(f"{LIVE.fingerprint}\na\n[\n")
    with pytest.raises(KontextError, match=r"\.kontextallow:3: malformed pattern"):
        read_allow_list(str(tmp_path))


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "directory": (Path.mkdir, "not a regular file|Is a directory"),
    "FIFO": (os.mkfifo, "not a regular file"),
    "too large": (lambda path: path.write_bytes(b"#" * (1024 * 1024 + 1)), "larger than"),
}


@pytest.mark.parametrize(("make", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_allow_list_that_cannot_be_used_is_an_error(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / ".kontextallow")
    with pytest.raises(KontextError, match=message) as raised:
        read_allow_list(str(tmp_path))
    assert "cannot use the allow-list" in raised.value.message
