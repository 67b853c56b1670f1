"""A command's options, in docker's forms and docker's words."""

from __future__ import annotations

import pytest

from kontext_plugin.errors import USAGE, UsageError
from kontext_plugin.options import (
    Argument,
    Command,
    Option,
    help_text,
    parse,
    seconds,
    table,
    usage_line,
)

COMMAND = Command(
    name="push",
    summary="Push",
    usage="[OPTIONS] [DIR]",
    description="Push a directory.",
    options=(
        Option("tag", "Where to", "t", kind="list"),
        Option("dry-run", "Change nothing"),
        Option("quiet", "Say nothing", "q"),
        Option("base", "Build on this", kind="string"),
        Option("when", "Now or later", kind="string", values=("now", "later")),
        Option("secret", "Nobody shall see this", kind="string", hidden=True),
    ),
    arguments=(Argument("DIR", "directory", optional=True),),
)

NOTHING = {
    "tag": None,
    "dry_run": False,
    "quiet": False,
    "base": None,
    "when": None,
    "secret": None,
}

FORMS = {
    "nothing": ([], {}, []),
    "argument": (["dir"], {}, ["dir"]),
    "long": (["--tag", "a"], {"tag": ["a"]}, []),
    "long with =": (["--tag=a"], {"tag": ["a"]}, []),
    "value with =": (["--tag=a=b=c"], {"tag": ["a=b=c"]}, []),
    "short": (["-t", "a"], {"tag": ["a"]}, []),
    "short joined": (["-ta"], {"tag": ["a"]}, []),
    "short with =": (["-t=a"], {"tag": ["a"]}, []),
    "list": (["-t", "a", "--tag=b", "-tc"], {"tag": ["a", "b", "c"]}, []),
    "the last string counts": (["--base", "a", "--base", "b"], {"base": "b"}, []),
    "switch": (["--dry-run"], {"dry_run": True}, []),
    "switch twice": (["-q", "--quiet"], {"quiet": True}, []),
    "shorts joined": (["-qt", "a"], {"quiet": True, "tag": ["a"]}, []),
    "shorts joined with a value": (["-qta"], {"quiet": True, "tag": ["a"]}, []),
    "hidden": (["--secret", "x"], {"secret": "x"}, []),
    "argument first": (["dir", "-t", "a", "-q"], {"tag": ["a"], "quiet": True}, ["dir"]),
    "argument between": (["-q", "dir", "-t", "a"], {"tag": ["a"], "quiet": True}, ["dir"]),
    "argument last": (["-t", "a", "-q", "dir"], {"tag": ["a"], "quiet": True}, ["dir"]),
    "a dash": (["-"], {}, ["-"]),
    "behind --": (["-q", "--", "-t"], {"quiet": True}, ["-t"]),
    "-- alone": (["--"], {}, []),
    "spaces": (["--base", "a b", "c d"], {"base": "a b"}, ["c d"]),
    "not ASCII": (["--base=ä", "ö"], {"base": "ä"}, ["ö"]),
    "percent": (["--base=%s%(prog)s", "%d"], {"base": "%s%(prog)s"}, ["%d"]),
}


@pytest.mark.parametrize(("arguments", "options", "rest"), FORMS.values(), ids=FORMS)
def test_forms(arguments: list[str], options: dict[str, object], rest: list[str]) -> None:
    parsed, positional = parse(COMMAND, arguments)
    assert {name: getattr(parsed, name) for name in NOTHING} == NOTHING | options
    assert positional == rest


WRONG = {
    "unknown": (["--nope"], "unknown flag: --nope"),
    "unknown with a value": (["--nope=x"], "unknown flag: --nope"),
    "unknown behind an argument": (["dir", "--nope"], "unknown flag: --nope"),
    "shortened": (["--ta", "a"], "unknown flag: --ta"),
    "unknown short": (["-z"], "-z"),
    "no value": (["--tag"], "flag needs an argument: --tag"),
    "no value for the short": (["-t"], "flag needs an argument: --tag"),
    "not one of the values": (
        ["--when", "never"],
        'invalid argument "never" for "--when" flag: it must be now or later',
    ),
    "an empty argument": ([""], "DIR is empty"),
    "too many": (["a", "b"], "requires at most 1 argument"),
    "too many apart": (["a", "-q", "b"], "requires at most 1 argument"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(COMMAND, arguments)
    assert message in raised.value.message
    assert raised.value.exit_code == USAGE


THING = Argument("THING", values=("a", "b", "c"))
COUNTS = {
    "one, none given": ((THING,), [], "requires 1 argument"),
    "one, two given": ((THING,), ["a", "b"], "requires 1 argument"),
    "one or two, none given": ((THING, COMMAND.arguments[0]), [], "requires at least 1 argument"),
    "one or two, three given": (
        (THING, COMMAND.arguments[0]),
        ["a", "b", "c"],
        "requires at most 2 arguments",
    ),
    "two, three given": ((THING, THING), ["a", "b", "c"], "requires 2 arguments"),
    "not one of the values": ((THING,), ["x"], "knows a, b or c only"),
}


@pytest.mark.parametrize(("arguments", "given", "message"), COUNTS.values(), ids=COUNTS)
def test_arguments(arguments: tuple[Argument, ...], given: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(Command("do", "", "", "", arguments=arguments), given)
    assert message in raised.value.message


def test_many_arguments() -> None:
    command = Command("do", "", "", "", arguments=(THING, Argument("ARGS", many=True)))
    assert parse(command, ["a", "x", "y", "--", "--mirror"])[1] == ["a", "x", "y", "--mirror"]


def test_options_before_and_after_arguments_and_what_is_not_ours() -> None:
    options = (Option("user", "", "u", kind="string"), Option("quiet", "", "q"))
    command = Command("do", "", "", "", options, (THING, Argument("ARGS", many=True)))
    parsed, rest = parse(command, ["-u", "1", "a", "-q", "--", "--mirror", "-u", "2", "--"])
    assert (parsed.user, parsed.quiet) == ("1", True)
    assert rest == ["a", "--mirror", "-u", "2", "--"]
    with pytest.raises(UsageError, match="flag needs an argument: --user"):
        parse(command, ["a", "-u", "--", "1"])


def test_no_arguments_allowed() -> None:
    with pytest.raises(UsageError, match=r"'docker kontext version' requires no arguments"):
        parse(Command("version", "", "", ""), ["x"])


HELP = """\
Usage:  docker kontext push [OPTIONS] [DIR]

Push a directory.

Options:
      --base string   Build on this
      --dry-run       Change nothing
  -q, --quiet         Say nothing
  -t, --tag list      Where to
      --when string   Now or later
"""


def test_help_looks_like_dockers() -> None:
    assert help_text(COMMAND) == HELP
    assert usage_line(Command("version", "", "", "")) == "Usage:  docker kontext version"


def test_a_narrow_terminal_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert table([("name", "word " * 8), ("x", "y")]).splitlines() == [
        "  name   word word word word word word",
        "         word word",
        "  x      y",
    ]


DURATIONS = {
    "seconds": ("90s", 90),
    "minutes": ("2m", 120),
    "both": ("1m30s", 90),
    "hours": ("1h", 3600),
    "all": ("1h2m3s", 3723),
    "a number": ("45", 45),
    "zero": ("0", 0),
    "zero seconds": ("0s", 0),
}


@pytest.mark.parametrize(("text", "value"), DURATIONS.values(), ids=DURATIONS)
def test_durations(text: str, value: int) -> None:
    assert seconds("timeout", text) == value


NO_DURATIONS = ["", "s", "-1s", "1.5s", "1s1m", "1m30", "1 s", " 1s", "1s\n", "1d", "٣s", "9" * 7]


@pytest.mark.parametrize("text", NO_DURATIONS, ids=ascii)
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match='for "--timeout" flag: it must be like 90s or 1m30s'):
        seconds("timeout", text)
