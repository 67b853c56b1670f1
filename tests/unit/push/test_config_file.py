"""`.kontext.toml`: what a directory may set for its own pushes, and what it must not."""

from __future__ import annotations

import json
import os
import time
from importlib import resources
from pathlib import Path

import pytest

from kontext_plugin.cli.options import DIFF, PUSH, STATUS, VERIFY
from kontext_plugin.errors import KontextError
from kontext_plugin.push.config_file import MAX_BYTES, OPTIONS, REFUSED, read_config_file
from kontext_plugin.push.options import (
    CommandLine,
    config_rows,
    parse_push,
    push_options,
    read_command_line,
)
from kontext_plugin.secret_scan import SecretMode

TAG = "host.io/r1:t"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    inner = tmp_path / "sources"
    inner.mkdir()
    return inner


def write(directory: Path, text: str | bytes) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (directory / ".kontext.toml").write_bytes(content)


def read(directory: Path, text: str, *arguments: str) -> CommandLine:
    write(directory, text)
    return read_command_line(PUSH, [*arguments, str(directory)])


def test_every_option_of_a_push_is_allowed_or_refused() -> None:
    """A new option needs a decision: may a stranger's directory set it?"""
    options = {option.name for option in PUSH.options if not option.hidden}
    assert options == {*OPTIONS.values(), *REFUSED}
    assert not OPTIONS.keys() & REFUSED.keys()


def test_the_schema_has_the_same_keys() -> None:
    schema = resources.files("kontext_plugin").joinpath("schemas", "config-file.json").read_bytes()
    assert json.loads(schema)["properties"].keys() == OPTIONS.keys()


SETTINGS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "nothing": ("", []),
    "a comment": ("# nothing\n", []),
    "a tag": (f'tag = "{TAG}"', [("tag", TAG)]),
    "two tags": ('tag = ["r/a:1", "r/a:2"]', [("tag", "r/a:1"), ("tag", "r/a:2")]),
    "labels": ('[labels]\n"a.b" = "1"\nc = "x=y"', [("label", "a.b=1"), ("label", "c=x=y")]),
    "a platform": ('platforms = "all"', [("platform", "all")]),
    "platforms": (
        'platforms = ["linux/arm64", "linux/amd64"]',
        [("platform", "linux/arm64,linux/amd64")],
    ),
    "switches": (
        "gitignore = true\nno-git-labels = false",
        [("gitignore", "true"), ("no-git-labels", "false")],
    ),
    "numbers": ("max-layers = 9\ntimeout = 90", [("max-layers", "9"), ("timeout", "90")]),
    "a duration": ('timeout = "1m30s"', [("timeout", "1m30s")]),
    "stricter about secrets": ('secrets = "block"', [("secrets", "block")]),
    "with a byte order mark": ("\ufeffgitignore = true", [("gitignore", "true")]),
    "as large as allowed": ("#" * MAX_BYTES, []),
}


@pytest.mark.parametrize(("text", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_settings(directory: Path, text: str, expected: list[tuple[str, str]]) -> None:
    write(directory, text)
    assert [*read_config_file(str(directory))] == expected


@pytest.mark.parametrize("name", ["missing", "file", "file/below"])
def test_no_file_sets_nothing(directory: Path, name: str) -> None:
    (directory / "file").write_text("")
    assert read_config_file(str(directory / name)) == ()


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "no TOML": ("tag =", "it is not TOML: "),
    "no TOML, with a line end": ('a = "\\\n', "it is not TOML: "),
    "not UTF-8": (b'tag = "\xff"', "it is not UTF-8"),
    "too large": ("#" * (MAX_BYTES + 1), f"it is larger than {MAX_BYTES} bytes"),
    "nested arrays": ("a = " + "[" * 8000, "it is nested too deeply"),
    "a key of many parts": (f"labels{'.a' * 4000} = 1", ""),
    "a huge number": (f"max-layers = {'9' * 8000}", ""),
    "a mistyped key": ("gitignored = true", "unknown key 'gitignored'. Did you mean 'gitignore'?"),
    "the name of the option": ('label = "a=b"', "unknown key 'label'. Did you mean 'labels'?"),
    "a hidden option": ('directory = "/"', "unknown key 'directory'"),
    "a key with a line end": ('"a\\nb" = 1', "unknown key 'a"),
    "text for a switch": ('gitignore = "yes"', "gitignore: 'yes' is not of type 'boolean'"),
    "a date": ("tag = 1979-05-27", "tag: "),
    "no number": ("max-layers = nan", "max-layers: "),
    "a list of numbers": ("tag = [1]", "tag/0: 1 is not of type 'string'"),
    "no tag at all": ("tag = []", "tag: "),
    "a label that is no text": ("[labels]\na = 1", "labels/a: 1 is not of type 'string'"),
    "an empty label": ('[labels]\na = ""', "it must be KEY=VALUE, with both parts"),
    "a label of git's in disguise": (
        '[labels]\n"org.opencontainers.image.revision=a" = "b"',
        "labels: 'org.opencontainers.image.revision=a' does not match",
    ),
    "a label of git's": (
        '[labels]\n"org.opencontainers.image.revision" = "abc"',
        "it must not set the label 'org.opencontainers.image.revision': ",
    ),
    "no reference": ('tag = "Upper"', "invalid reference 'Upper'"),
    "no platform": ('platforms = ["plan9/mips"]', '"plan9/mips" for "--platform" flag'),
    "too many layers": ("max-layers = 126", "docker runs 2 to 125"),
    "no such compression": ('compression = "lzma"', "gzip or zstd"),
    "an empty value": ('compression = ""', "it is empty"),
    "options that exclude each other": (
        'single-layer = true\nreuse = "own"',
        "--single-layer and --reuse cannot be given together",
    ),
    "secrets that only warn": ('secrets = "warn"', "secrets: 'warn' is not one of"),
    "secrets that are not looked for": ('secrets = "off"', "secrets: 'off' is not one of"),
    "rules outside": ('ignore-file = "../rules"', "is not in the directory"),
    "rules anywhere": ('ignore-file = "/etc/passwd"', "is not in the directory"),
    "rules behind a link": ('ignore-file = "out"', "is not in the directory"),
    "the directory itself": ('ignore-file = "."', "is not in the directory"),
    "a NUL": ('ignore-file = "a\\u0000"', "is not in the directory"),
}


@pytest.mark.parametrize(("text", "why"), BROKEN.values(), ids=BROKEN)
def test_a_wrong_file_is_one_error(directory: Path, text: str | bytes, why: str) -> None:
    (directory / "out").symlink_to("../rules")
    write(directory, text)
    started = time.process_time()
    with pytest.raises(KontextError) as raised:
        parse_push(["-t", TAG, str(directory)])
    assert raised.value.message.startswith(f"cannot use '{directory}/.kontext.toml': ")
    assert why in raised.value.message
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 600
    assert (raised.value.exit_code, bool(raised.value.hint)) == (1, True)
    assert time.process_time() - started < 10, "hostile input costs a second or two"


@pytest.mark.parametrize("key", REFUSED)
def test_a_directory_must_not_set_what_spends_the_rights_of_its_pusher(
    directory: Path, key: str
) -> None:
    write(directory, f'{key} = "x"')
    with pytest.raises(KontextError) as raised:
        parse_push(["-t", TAG, str(directory)])
    assert f"it must not set {key!r}: {REFUSED[key]}" in raised.value.message


def test_only_a_regular_file_is_read(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("gitignore = true")
    file = directory / ".kontext.toml"
    file.symlink_to("../outside")
    with pytest.raises(KontextError, match="it is a link"):
        read_config_file(str(directory))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(KontextError, match="it is not a regular file"):
        read_config_file(str(directory))
    file.unlink()
    file.mkdir()
    with pytest.raises(KontextError, match="it is not a regular file"):
        read_config_file(str(directory))


def test_a_link_to_the_directory_is_followed(directory: Path, tmp_path: Path) -> None:
    """The user has typed it."""
    write(directory, 'ignore-file = "rules"')
    (tmp_path / "link").symlink_to("sources")
    link = str(tmp_path / "link")
    assert read_config_file(link) == (("ignore-file", f"{link}/rules"),)


def test_the_file_is_all_that_a_push_needs(directory: Path) -> None:
    text = f'tag = "{TAG}"\ngitignore = true\nsecrets = "block"\n[labels]\na = "1"'
    options, _ = push_options(read(directory, text))
    assert [*map(str, options.tags)] == [TAG]
    assert (options.gitignore, options.secrets) == (True, SecretMode.BLOCK)
    assert options.labels == {"a": "1"}


WINS: dict[str, tuple[str, list[str], dict[str, object]]] = {
    "a tag": ('tag = "host.io/other:y"', ["-t", TAG], {"tags": [TAG]}),
    "a switch": ("gitignore = true", ["--gitignore=false"], {"gitignore": False}),
    "a value": ('secrets = "block"', ["--secrets", "off"], {"secrets": SecretMode.OFF}),
    "a label": (
        '[labels]\na = "1"\nb = "2"',
        ["--label", "a=mine"],
        {"labels": {"a": "mine", "b": "2"}},
    ),
    "--from": (
        'from = "host.io/r1:main"',
        ["--from", "other.io/r3:1"],
        {"sources": ["other.io/r3:1"]},
    ),
    "what it excludes": (
        'from = "host.io/r1:main"\nreuse = "own"',
        ["--fresh"],
        {"sources": [], "reuse": "auto", "fresh": True},
    ),
    "what excludes it": ("single-layer = true", ["--base", "alpine"], {"single_layer": False}),
    "several platforms": (
        "single-layer = true",
        ["--platform", "all"],
        {"single_layer": False, "platforms": ["linux/amd64", "linux/arm64"]},
    ),
    "a single layer": ('platforms = "all"', ["--single-layer"], {"platforms": []}),
    "a single layer for one platform": (
        'platforms = "linux/arm64"',
        ["--single-layer"],
        {"platforms": ["linux/arm64"]},
    ),
}


@pytest.mark.parametrize(("text", "arguments", "expected"), WINS.values(), ids=WINS)
def test_the_command_line_wins(
    directory: Path, text: str, arguments: list[str], expected: dict[str, object]
) -> None:
    tag = [] if "-t" in arguments else ["-t", TAG]
    options, _ = push_options(read(directory, text, *tag, *arguments))
    shown = {
        name: [*map(str, value)] if isinstance(value, tuple) else value
        for name, value in vars(options).items()
    }
    assert {name: shown[name] for name in expected} == expected


FOREIGN: dict[str, tuple[str, bool]] = {
    "another tag of the repository": ("host.io/r1:main", True),
    "an earlier generation": ("host.io/r1:main~2", True),
    "an image of the repository": (f"host.io/r1@sha256:{'a' * 64}", True),
    "another repository": ("host.io/r2:main", False),
    "a repository below": ("host.io/r1/x:main", False),
    "another registry": ("evil.io/r1:t", False),
}


@pytest.mark.parametrize(("name", "is_taken"), FOREIGN.values(), ids=FOREIGN)
def test_a_push_builds_on_no_image_of_another_repository_that_a_directory_names(
    directory: Path, name: str, is_taken: bool
) -> None:
    """Its layers would be published, and nobody reads them."""
    line = read(directory, f'from = "{name}"', "-t", TAG)
    options, _ = push_options(line)
    assert [*map(str, options.sources)] == [name] * is_taken
    assert line.foreign == (name,) * (not is_taken)


def test_the_tag_of_the_command_line_says_what_is_foreign(directory: Path) -> None:
    text = 'tag = "evil.io/r4:1"\nfrom = "evil.io/r4:2"'
    assert read(directory, text, "-t", TAG).foreign == ("evil.io/r4:2",)
    assert read(directory, text).foreign == ()


def test_other_commands_take_what_they_know(directory: Path) -> None:
    write(directory, f'tag = ["{TAG}", "host.io/r2:2"]\ngitignore = true\nsecrets = "block"')
    taken = {
        command.name: read_command_line(command, [*before, str(directory)]).configured
        for command, before in ((DIFF, []), (STATUS, []), (VERIFY, [TAG]))
    }
    assert taken == {
        "diff": (("tag", TAG), ("gitignore", "true")),
        "status": (("gitignore", "true"),),
        "verify": (("gitignore", "true"),),
    }


def test_a_command_that_reads_no_directory_reads_no_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(directory, "broken")
    monkeypatch.chdir(directory)
    assert read_command_line(VERIFY, [TAG]).configured == ()
    with pytest.raises(KontextError, match=r"cannot use '\./\.kontext\.toml'"):
        read_command_line(PUSH, [])


def test_show_config_tells_where_each_value_is_from(directory: Path) -> None:
    text = f'tag = "{TAG}"\ncompression = "zstd"\ngitignore = true\n[labels]\na = "1"'
    line = read(directory, text, "--label", "b=2", "--gitignore=false", "--fresh")
    rows = {option: (value, place) for option, value, place in config_rows(line)}
    assert rows.keys() == {
        f"--{option.name}"
        for option in PUSH.options
        if not option.hidden and option.name != "show-config"
    }
    assert rows["--tag"] == (TAG, ".kontext.toml")
    assert rows["--compression"] == ("zstd", ".kontext.toml")
    assert rows["--gitignore"] == ("false", "command line")
    assert rows["--fresh"] == ("true", "command line")
    assert rows["--label"] == ("a=1, b=2", "command line and .kontext.toml")
    assert rows["--base"] == ("-", "default")
    assert rows["--git"] == ("false", "default")


def test_a_wrong_time_is_not_the_fault_of_the_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "now")
    line = read(directory, "gitignore = true", "-t", TAG)
    with pytest.raises(KontextError, match=r"^invalid SOURCE_DATE_EPOCH"):
        push_options(line)
