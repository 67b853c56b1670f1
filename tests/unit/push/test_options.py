"""The options of a push: what the command line asks for, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kontext_plugin.cache import PushRecord, open_cache
from kontext_plugin.cli.options import DIFF
from kontext_plugin.errors import USAGE, UsageError
from kontext_plugin.image.oci import Digest
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import LAYER_LIMIT, MAX_LAYERS
from kontext_plugin.push.options import PushOptions, check_tagged, parse_push, read_command_line
from kontext_plugin.secret_scan import SecretMode

TAG = ["-t", "host.io/r1:t"]
DEFAULTS = PushOptions((parse_reference("host.io/r1:t"),))


def test_a_tag_is_enough() -> None:
    options, mode = parse_push(TAG)
    assert options == DEFAULTS
    assert (options.directory, options.platforms) == (".", ())
    assert (options.reuse, options.secrets) == ("auto", SecretMode.AUTO)
    assert options.max_layers == MAX_LAYERS
    assert mode == "plain", "no terminal"


BOTH = ("linux/amd64", "linux/arm64")
DIGEST = "sha256:" + "a" * 64

GIVEN: dict[str, tuple[list[str], dict[str, Any]]] = {
    "two tags": (
        ["--tag", "host.io/r2"],
        {"tags": (parse_reference("host.io/r1:t"), parse_reference("host.io/r2"))},
    ),
    "DIR": (["dir"], {"directory": "dir"}),
    "--directory": (["--directory", "dir"], {"directory": "dir"}),
    "--base": (["--base", "alpine"], {"base": "alpine"}),
    "--platform": (["--platform", "linux/arm64"], {"platforms": ("linux/arm64",)}),
    "two platforms, sorted": (["--platform", "linux/arm64,linux/amd64"], {"platforms": BOTH}),
    "a platform twice": (["--platform", "linux/arm64,linux/arm64"], {"platforms": BOTH[1:]}),
    "all platforms": (["--platform", "all"], {"platforms": BOTH}),
    "--from": (
        ["--from", "host.io/r1:main", "--from", f"other.io/r3@{DIGEST}"],
        {
            "sources": (
                parse_reference("host.io/r1:main"),
                replace(parse_reference("other.io/r3"), digest=DIGEST),
            )
        },
    ),
    "--from some generations back": (
        ["--from", "host.io/r1:main~2"],
        {"sources": (replace(parse_reference("host.io/r1:main"), back=2),)},
    ),
    "--reuse own": (["--reuse", "own"], {"reuse": "own"}),
    "--check-parent": (["--check-parent"], {"check_parent": True}),
    "--label": (["--label", "a=1", "--label", "b=c=d"], {"labels": {"a": "1", "b": "c=d"}}),
    "--label with spaces": (["--label", "a= x\n"], {"labels": {"a": " x\n"}}),
    "--ignore-file": (["--ignore-file", "f"], {"ignore_file": "f"}),
    "--git": (["--git"], {"keep_git": True}),
    "--gitignore": (["--gitignore"], {"gitignore": True}),
    "--no-git-labels": (["--no-git-labels"], {"git_labels": False}),
    "--reuse": (["--reuse", "always"], {"reuse": "always"}),
    "the fewest layers": (["--max-layers", "2"], {"max_layers": 2}),
    "the most layers": (["--max-layers", str(LAYER_LIMIT)], {"max_layers": LAYER_LIMIT}),
    "--single-layer": (["--single-layer"], {"single_layer": True}),
    "--secrets": (["--secrets", "block"], {"secrets": SecretMode.BLOCK}),
    "--fresh": (["--fresh"], {"fresh": True}),
    "--dry-run": (["--dry-run"], {"dry_run": True}),
    "--insecure": (["--insecure"], {"insecure": True}),
    "--timings": (["--timings"], {"timings": True}),
    "--timeout": (["--timeout", "1m30s"], {"timeout": 90}),
    "result files": (
        ["--iidfile", "i", "--metadata-file", "m", "--provenance", "p"],
        {"iidfile": "i", "metadata_file": "m", "provenance": "p"},
    ),
}


@pytest.mark.parametrize(("arguments", "expected"), GIVEN.values(), ids=GIVEN)
def test_an_option_changes_nothing_else(arguments: list[str], expected: dict[str, Any]) -> None:
    options, _ = parse_push([*TAG, *arguments])
    assert vars(options) == vars(DEFAULTS) | expected


@pytest.mark.parametrize(
    ("arguments", "mode"), [(["-q"], "quiet"), (["--progress", "json"], "json")]
)
def test_the_progress_mode_is_chosen(arguments: list[str], mode: str) -> None:
    assert parse_push([*TAG, *arguments])[1] == mode


WRONG: dict[str, tuple[list[str], str]] = {
    "DIR twice": (["a", "--directory", "b"], "give either DIR or --directory, not both"),
    "a bad tag": (["-t", "Upper"], "invalid reference 'Upper'"),
    "a layer too few": (["--max-layers", "1"], "docker runs 2 to 125"),
    "a layer too many": (["--max-layers", "126"], "docker runs 2 to 125"),
    "no number of layers": (["--max-layers", "many"], "docker runs 2 to 125"),
    "a negative number of layers": (["--max-layers=-5"], "docker runs 2 to 125"),
    "a number in other digits": (["--max-layers", "٣٠"], "docker runs 2 to 125"),
    "a huge number of layers": (["--max-layers", "9" * 5000], "docker runs 2 to 125"),
    "a label without a value": (["--label", "k"], "it must be KEY=VALUE, with both parts"),
    "a label with an empty value": (["--label", "k="], "it must be KEY=VALUE, with both parts"),
    "a label without a key": (["--label", "=v"], "it must be KEY=VALUE, with both parts"),
    "a label with a carriage return": (["--label", "k=a\rb"], "it must be KEY=VALUE"),
    "a label that is not UTF-8": (["--label", "k=\udcff"], "it is not UTF-8"),
    "an unknown reuse": (["--reuse", "sometimes"], "auto, always, own or never"),
    "an unknown platform": (["--platform", "linux/s390x"], '"linux/s390x" for "--platform" flag'),
    "an unknown platform beside another": (
        ["--platform", "linux/amd64,windows/amd64"],
        'for "--platform" flag',
    ),
    "an empty platform": (["--platform", "linux/amd64,"], 'for "--platform" flag'),
    "a bad image to build on": (["--from", "Upper"], "invalid reference 'Upper'"),
    "an unknown mode for secrets": (["--secrets", "x"], '"x" for "--secrets" flag'),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_a_usage_error(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_push([*TAG, *arguments])
    assert message in raised.value.message
    assert raised.value.exit_code == USAGE


def test_a_single_layer_has_one_platform() -> None:
    """Its one layer has the extractor, which is of one platform."""
    for several in ("all", "linux/amd64,linux/arm64"):
        with pytest.raises(UsageError, match="--single-layer and several platforms"):
            parse_push([*TAG, "--single-layer", "--platform", several])
    options, _ = parse_push([*TAG, "--single-layer", "--platform", "linux/arm64"])
    assert options.single_layer


EPOCHS: dict[str, tuple[str, str]] = {
    "not set": ("", ""),
    "the start": ("0", "1970-01-01T00:00:00Z"),
    "some time": ("1700000000", "2023-11-14T22:13:20Z"),
}


@pytest.mark.parametrize(("epoch", "created"), EPOCHS.values(), ids=EPOCHS)
def test_source_date_epoch_is_the_time_of_the_image(
    epoch: str, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert parse_push(TAG)[0].created == created


@pytest.mark.parametrize("epoch", ["now", "1.5", "9" * 30, "1e9"])
def test_a_wrong_source_date_epoch_is_a_usage_error(
    epoch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(UsageError, match="invalid SOURCE_DATE_EPOCH"):
        parse_push(TAG)


EXCLUSIVE = [
    (["--single-layer"], ["--base", "alpine"]),
    (["--single-layer"], ["--reuse", "always"]),
    (["--single-layer"], ["--max-layers", "9"]),
    (["--fresh"], ["--reuse", "auto"]),
    (["--fresh"], ["--from", "host.io/r1:main"]),
    (["--single-layer"], ["--from", "host.io/r1:main"]),
    (["--dry-run"], ["--iidfile", "f"]),
    (["--dry-run"], ["--metadata-file", "f"]),
    (["--dry-run"], ["--provenance", "f"]),
]


@pytest.mark.parametrize(("one", "other"), EXCLUSIVE, ids=lambda option: option[0])
def test_options_that_exclude_each_other_are_refused(one: list[str], other: list[str]) -> None:
    for arguments in ([*one, *other], [*other, *one]):
        with pytest.raises(UsageError) as raised:
            parse_push([*TAG, *arguments])
        assert raised.value.message == f"{one[0]} and {other[0]} cannot be given together"
    for alone in (one, other):
        parse_push([*TAG, *alone])


# Without -t

MISSING = "docker: 'docker kontext push' requires --tag"

HINTS: dict[str, tuple[list[str], str]] = {
    "nothing given": ([], ""),
    "a reference": (
        ["host.io/r1:t"],
        "Did you mean 'docker kontext push -t host.io/r1:t'?",
    ),
    "a reference and a directory": (
        ["host.io/r1:t", "dir"],
        "Did you mean 'docker kontext push -t host.io/r1:t dir'?",
    ),
    "a directory with a space": (
        ["host.io/r1:t", "my dir"],
        "Did you mean 'docker kontext push -t host.io/r1:t 'my dir''?",
    ),
    "a directory": (["dir"], ""),
    "a directory that reads like a reference": (["host.io/r2"], ""),
    "what is no reference": (["No Reference"], ""),
    "an empty argument": ([""], ""),
}


@pytest.mark.parametrize(("positional", "hint"), HINTS.values(), ids=HINTS)
def test_a_reference_without_a_tag_option_gets_a_hint(
    positional: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hint names a directory that exists: the user means it as DIR."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "host.io/r2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        parse_push(positional)
    assert (raised.value.message, raised.value.hint) == (MISSING, hint)


@pytest.mark.parametrize("arguments", [[], ["."], ["--gitignore", "../link"]])
def test_the_hint_names_the_tag_of_last_time(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    monkeypatch.chdir(tmp_path / "dir")
    cache = open_cache()
    for directory, tag in (("dir", "host.io/r1:old"), ("dir", "host.io/r1:new"), ("x", "r/x:1")):
        record = PushRecord(str(tmp_path / directory), tag, Digest(DIGEST))
        cache.save_pushed([record])
    with pytest.raises(UsageError) as raised:
        parse_push(arguments)
    assert raised.value.message == MISSING
    assert raised.value.hint == (
        "This directory was last pushed to host.io/r1:new: add '-t host.io/r1:new'."
    )


def test_the_hint_names_the_command() -> None:
    with pytest.raises(UsageError) as raised:
        check_tagged(read_command_line(DIFF, ["host.io/r1"]))
    error = raised.value
    assert error.message == "docker: 'docker kontext diff' requires --tag"
    assert error.hint == "Did you mean 'docker kontext diff -t host.io/r1'?"
