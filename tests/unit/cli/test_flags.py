"""Flags and arguments by pflag's rules, docker's global flags, help text, suggestions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.cli.flags import (
    Argument,
    Command,
    Globals,
    Option,
    asks_for_help,
    given_options,
    help_text,
    invalid,
    parse,
    parse_duration,
    parse_globals,
    suggest,
    table,
    usage_line,
)
from kontext_plugin.engine.config import DaemonFlags
from kontext_plugin.errors import USAGE, UsageError

COMMAND = Command(
    name="push",
    summary="Push",
    usage="[OPTIONS] [DIR]",
    description="Push a directory.",
    options=(
        Option("tag", "Where to", "t", kind="list"),
        Option("dry-run", "Change nothing"),
        Option("quiet", "Say nothing", "q"),
        Option("git", "Keep .git", "g"),
        Option("base", "Build on this", "b", kind="string"),
        Option("when", "Now or later", kind="string", values=("now", "later")),
        Option("secret", "Nobody shall see this", kind="string", hidden=True),
    ),
    arguments=(Argument("DIR", "directory", optional=True),),
)
WORDS = COMMAND._replace(arguments=(Argument("WORDS", optional=True, many=True),))
"""The same command with any number of arguments."""

NOTHING: dict[str, Any] = {
    "tag": None,
    "dry_run": False,
    "quiet": False,
    "git": False,
    "base": None,
    "when": None,
    "secret": None,
}

# pflag's rules. The outcomes in the next two tables are those of spf13/pflag 1.0.10.

FORMS: dict[str, tuple[list[str], dict[str, Any], list[str]]] = {
    "nothing": ([], {}, []),
    "argument": (["dir"], {}, ["dir"]),
    "arguments": (["a", "b", "c"], {}, ["a", "b", "c"]),
    "long": (["--tag", "a"], {"tag": ["a"]}, []),
    "long with =": (["--tag=a"], {"tag": ["a"]}, []),
    "value with =": (["--tag=a=b=c"], {"tag": ["a=b=c"]}, []),
    "value that begins with =": (["--tag==a"], {"tag": ["=a"]}, []),
    "separate value that begins with =": (["-t", "=a"], {"tag": ["=a"]}, []),
    "short": (["-t", "a"], {"tag": ["a"]}, []),
    "short joined": (["-ta"], {"tag": ["a"]}, []),
    "short with =": (["-t=a"], {"tag": ["a"]}, []),
    "short with = alone": (["-t="], {"tag": ["="]}, []),
    "short with two =": (["-t==a"], {"tag": ["=a"]}, []),
    "short joined with a value with =": (["-ta=b"], {"tag": ["a=b"]}, []),
    "list": (["-t", "a", "--tag=b", "-tc"], {"tag": ["a", "b", "c"]}, []),
    "list with commas": (["-t", "a,b"], {"tag": ["a,b"]}, []),
    "the last string counts": (["--base", "a", "--base", "b"], {"base": "b"}, []),
    "the last string counts, mixed": (["-b=a", "--base=c", "-bb"], {"base": "b"}, []),
    "switch": (["--dry-run"], {"dry_run": True}, []),
    "short switch": (["-q"], {"quiet": True}, []),
    "switch twice": (["-q", "--quiet"], {"quiet": True}, []),
    "switch=true": (["--quiet=true"], {"quiet": True}, []),
    "switch=1": (["--quiet=1"], {"quiet": True}, []),
    "switch=t": (["--quiet=t"], {"quiet": True}, []),
    "switch=T": (["--quiet=T"], {"quiet": True}, []),
    "switch=TRUE": (["--quiet=TRUE"], {"quiet": True}, []),
    "switch=True": (["--quiet=True"], {"quiet": True}, []),
    "switch=false": (["--quiet=false"], {}, []),
    "switch=0": (["--quiet=0"], {}, []),
    "switch=f": (["--quiet=f"], {}, []),
    "switch=F": (["--quiet=F"], {}, []),
    "switch=FALSE": (["--quiet=FALSE"], {}, []),
    "switch=False": (["--quiet=False"], {}, []),
    "the last switch counts": (["-q", "--quiet=false"], {}, []),
    "the last switch counts, on": (["--quiet=0", "-q"], {"quiet": True}, []),
    "short switch=true": (["-q=true"], {"quiet": True}, []),
    "short switch=false": (["-q=0"], {}, []),
    "a switch takes no separate value": (["-q", "false"], {"quiet": True}, ["false"]),
    "a long switch, either": (["--quiet", "0"], {"quiet": True}, ["0"]),
    "switches joined": (["-qg"], {"quiet": True, "git": True}, []),
    "switches joined, the last with =": (["-qg=0"], {"quiet": True}, []),
    "shorts joined": (["-qt", "a"], {"quiet": True, "tag": ["a"]}, []),
    "shorts joined with a value": (["-qgta"], {"quiet": True, "git": True, "tag": ["a"]}, []),
    "shorts joined with = and a value": (["-qt=a"], {"quiet": True, "tag": ["a"]}, []),
    "a value with the letters of flags": (["-tqg"], {"tag": ["qg"]}, []),
    "hidden": (["--secret", "x"], {"secret": "x"}, []),
    "argument first": (["dir", "-t", "a", "-q"], {"tag": ["a"], "quiet": True}, ["dir"]),
    "argument between": (["-q", "dir", "-t", "a"], {"tag": ["a"], "quiet": True}, ["dir"]),
    "argument last": (["-t", "a", "-q", "dir"], {"tag": ["a"], "quiet": True}, ["dir"]),
    "arguments apart": (["a", "-q", "b", "-g"], {"quiet": True, "git": True}, ["a", "b"]),
    "a dash": (["-"], {}, ["-"]),
    "a dash among flags": (["-q", "-", "-g"], {"quiet": True, "git": True}, ["-"]),
    "a dash as a value": (["-t", "-"], {"tag": ["-"]}, []),
    "a dash joined": (["-t-"], {"tag": ["-"]}, []),
    "behind --": (["-q", "--", "-t"], {"quiet": True}, ["-t"]),
    "arguments around --": (["a", "--", "-q", "b"], {}, ["a", "-q", "b"]),
    "-- alone": (["--"], {}, []),
    "-- twice": (["--", "--"], {}, ["--"]),
    "-- as a value": (["-t", "--", "a", "-q"], {"tag": ["--"], "quiet": True}, ["a"]),
    "a flag as a value": (["--tag", "--quiet"], {"tag": ["--quiet"]}, []),
    "a short flag as a value": (["-t", "-q", "-g"], {"tag": ["-q"], "git": True}, []),
    "spaces": (["--base", "a b", "c d"], {"base": "a b"}, ["c d"]),
    "not ASCII": (["--base=ä", "ö"], {"base": "ä"}, ["ö"]),
    "percent": (["--base=%s%(prog)s", "%d"], {"base": "%s%(prog)s"}, ["%d"]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "rest"), FORMS.values(), ids=FORMS)
def test_forms(arguments: list[str], options: dict[str, Any], rest: list[str]) -> None:
    parsed, positional = parse(WORDS, arguments)
    assert vars(parsed) == NOTHING | options
    assert positional == rest


BOOL = 'flag: strconv.ParseBool: parsing "{0}": invalid syntax'

ERRORS: dict[str, tuple[list[str], str]] = {
    "unknown": (["--nope"], "unknown flag: --nope"),
    "unknown with a value": (["--nope=x"], "unknown flag: --nope"),
    "unknown behind an argument": (["dir", "--nope"], "unknown flag: --nope"),
    "shortened": (["--ta", "a"], "unknown flag: --ta"),
    "upper case": (["--Tag", "a"], "unknown flag: --Tag"),
    "one dash": (["-dry-run"], "unknown shorthand flag: 'd' in -dry-run"),
    "unknown short": (["-z"], "unknown shorthand flag: 'z' in -z"),
    "unknown short first": (["-zqg"], "unknown shorthand flag: 'z' in -zqg"),
    "unknown short among switches": (["-qzg"], "unknown shorthand flag: 'z' in -zg"),
    "unknown short with a value": (["-z=a"], "unknown shorthand flag: 'z' in -z=a"),
    "unknown short like a quote": (["-q'"], r"unknown shorthand flag: '\'' in -'"),
    "a short switch with =": (["-q="], "unknown shorthand flag: '=' in -="),
    "no value": (["--tag"], "flag needs an argument: --tag"),
    "no value behind others": (["-q", "a", "--base"], "flag needs an argument: --base"),
    "no value for the short": (["-t"], "flag needs an argument: 't' in -t"),
    "no value for the last short": (["-qgt"], "flag needs an argument: 't' in -t"),
    "no name": (["--=x"], "bad flag syntax: --=x"),
    "no name and no value": (["--="], "bad flag syntax: --="),
    "three dashes": (["---tag"], "bad flag syntax: ---tag"),
    "a switch with a value": (
        ["--dry-run=x"],
        'invalid argument "x" for "--dry-run" ' + BOOL.format("x"),
    ),
    "a switch with a letter": (
        ["--quiet=x"],
        'invalid argument "x" for "-q, --quiet" ' + BOOL.format("x"),
    ),
    "a short switch with a value": (
        ["-q=yes"],
        'invalid argument "yes" for "-q, --quiet" ' + BOOL.format("yes"),
    ),
    "joined switches with a value": (
        ["-gq=tRUE"],
        'invalid argument "tRUE" for "-q, --quiet" ' + BOOL.format("tRUE"),
    ),
    "a switch with an empty value": (
        ["--quiet="],
        'invalid argument "" for "-q, --quiet" ' + BOOL.format(""),
    ),
    "a switch with quotes": (
        ['--quiet="\\'],
        r'invalid argument "\"\\" for "-q, --quiet" ' + BOOL.format(r"\"\\"),
    ),
    "the first error counts": (["--nope", "--tag"], "unknown flag: --nope"),
    "the first error counts, a value": (
        ["--quiet=x", "--nope"],
        'invalid argument "x" for "-q, --quiet" ' + BOOL.format("x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(WORDS, arguments)
    assert raised.value.message == message
    assert raised.value.exit_code == USAGE


# What Kontext checks beyond that

WRONG: dict[str, tuple[list[str], str]] = {
    "an empty value": (
        ["--tag", ""],
        'invalid argument "" for "-t, --tag" flag: it is empty',
    ),
    "an empty value behind =": (
        ["--base="],
        'invalid argument "" for "-b, --base" flag: it is empty',
    ),
    "an empty value of a list": (
        ["-t", "a", "-t", "", "-t", "b"],
        'invalid argument "" for "-t, --tag" flag: it is empty',
    ),
    "not one of the values": (
        ["--when", "never"],
        'invalid argument "never" for "--when" flag: it must be now or later',
    ),
    "an empty argument": ([""], "docker: DIR is empty"),
    "an empty argument behind --": (["--", ""], "docker: DIR is empty"),
    "too many": (["a", "b"], "docker: 'docker kontext push' requires at most 1 argument"),
    "too many apart": (
        ["a", "-q", "b"],
        "docker: 'docker kontext push' requires at most 1 argument",
    ),
    "too many behind --": (
        ["a", "--", "-q"],
        "docker: 'docker kontext push' requires at most 1 argument",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(COMMAND, arguments)
    assert raised.value.message == message
    assert raised.value.exit_code == USAGE


THING = Argument("THING", values=("a", "b", "c"))
ONE = Argument("ONE", values=("a",))
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
    "none, one given": ((), ["a"], "requires no arguments"),
    "many, none given": ((Argument("ARGS", many=True),), [], "requires 1 argument"),
    "not one of the values": ((THING,), ["x"], "expects a, b or c"),
    "not the only value": ((ONE,), ["x"], "expects a"),
}


@pytest.mark.parametrize(("arguments", "given", "message"), COUNTS.values(), ids=COUNTS)
def test_arguments(arguments: tuple[Argument, ...], given: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(Command("do", "", "", "", arguments=arguments), given)
    assert raised.value.message == f"docker: 'docker kontext do' {message}"


def test_many_arguments() -> None:
    command = Command("do", "", "", "", arguments=(THING, Argument("ARGS", many=True)))
    assert parse(command, ["a", "x", "y", "--", "--mirror"])[1] == ["a", "x", "y", "--mirror"]


def test_options_before_and_after_arguments_and_what_is_not_ours() -> None:
    options = (Option("user", "", "u", kind="string"), Option("quiet", "", "q"))
    command = Command("do", "", "", "", options, (THING, Argument("ARGS", many=True)))
    parsed, rest = parse(command, ["-u", "1", "a", "-q", "--", "--mirror", "-u", "2", "--"])
    assert (parsed.user, parsed.quiet) == ("1", True)
    assert rest == ["a", "--mirror", "-u", "2", "--"]


INVALID = {
    "a name": ("label", "a", 'invalid argument "a" for "--label" flag: why'),
    "an option": (COMMAND.options[0], "a", 'invalid argument "a" for "-t, --tag" flag: why'),
    "an option without a letter": (
        COMMAND.options[1],
        "a",
        'invalid argument "a" for "--dry-run" flag: why',
    ),
    "a long value": ("label", "a" * 101, f'invalid argument "{"a" * 100}" for "--label" flag: why'),
    "a value of two lines": ("label", "a\nb", r'invalid argument "a\nb" for "--label" flag: why'),
}


@pytest.mark.parametrize(("option", "value", "message"), INVALID.values(), ids=INVALID)
def test_invalid(option: Option | str, value: str, message: str) -> None:
    assert invalid(option, value, "why").message == message


# Any command line

STRANGE = ["-", "--", "-q", "-qx", "--tag", "--nope", "=", "=a"]
TEXTS = st.text(min_size=1) | st.sampled_from(STRANGE)
PLAIN = TEXTS.filter(lambda text: not text.startswith("-") or text == "-")
TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")

Piece = tuple[list[str], str, Any]
"""The words that give a value, the option's destination ("": an argument), the value."""


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    option = draw(st.sampled_from([None, *COMMAND.options]))
    if option is None:
        argument = draw(PLAIN)
        return [argument], "", argument
    if option.kind:
        value = draw(st.sampled_from(option.values) if option.values else TEXTS)
        forms = [[f"--{option.name}", value], [f"--{option.name}={value}"]]
        if option.short:
            forms += [[f"-{option.short}", value], [f"-{option.short}={value}"]]
        if option.short and not value.startswith("="):
            forms.append([f"-{option.short}{value}"])
        return draw(st.sampled_from(forms)), option.destination, value
    on = draw(st.booleans())
    forms = [[f"--{option.name}={text}"] for text in (TRUE if on else FALSE)]
    if on:
        forms.append([f"--{option.name}"])
    if option.short:
        forms += [[f"-{option.short}={text}"] for text in (TRUE if on else FALSE)]
    if on and option.short:
        forms.append([f"-{option.short}"])
    return draw(st.sampled_from(forms)), option.destination, on


@given(st.lists(pieces()), st.none() | st.lists(TEXTS))
def test_a_written_command_line_gives_its_values_back(
    line: list[Piece], behind: list[str] | None
) -> None:
    words = [word for written, _, _ in line for word in written]
    expected = dict(NOTHING)
    positional = []
    for _, destination, value in line:
        if not destination:
            positional.append(value)
        elif destination == "tag":
            expected["tag"] = [*(expected["tag"] or []), value]
        else:
            expected[destination] = value
    if behind is not None:
        words += ["--", *behind]
        positional += behind
    parsed, given_back = parse(WORDS, words)
    assert vars(parsed) == expected
    assert given_back == positional


@given(st.lists(TEXTS))
def test_arguments_behind_two_dashes_are_no_flags(behind: list[str]) -> None:
    parsed, positional = parse(WORDS, ["--", *behind])
    assert vars(parsed) == NOTHING
    assert positional == behind
    assert parse_globals(["--", *behind]) == (Globals(), behind)


@given(st.lists(st.text("-=tqgbwhen x1", max_size=8) | st.text(max_size=5)))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    for read in (lambda: parse(COMMAND, words), lambda: parse_globals(words)):
        try:
            read()
        except UsageError as error:
            assert error.message


# docker's global flags

PUSH = ["kontext", "push", "-t", "r/r"]

GLOBALS: dict[str, tuple[list[str], Globals]] = {
    "none": ([], Globals()),
    "config": (["--config", "/c"], Globals(config="/c")),
    "config with =": (["--config=/c"], Globals(config="/c")),
    "the last config": (["--config=/b", "--config", "/c"], Globals(config="/c")),
    "config with a space": (["--config", "/c d"], Globals(config="/c d")),
    "an empty config": (["--config="], Globals()),
    "debug": (["--debug"], Globals(debug=True)),
    "short debug": (["-D"], Globals(debug=True)),
    "debug said": (["--debug=true"], Globals(debug=True)),
    "debug denied": (["--debug=false"], Globals()),
    "debug denied, short": (["-D=0"], Globals()),
    "context": (["--context", "c"], Globals(context="c")),
    "context with =": (["--context=c"], Globals(context="c")),
    "short context": (["-c", "c"], Globals(context="c")),
    "debug and context": (["-Dc", "c"], Globals(debug=True, context="c")),
    "debug and context joined": (["-Dcc"], Globals(debug=True, context="c")),
    "host": (["-H", "tcp://a"], Globals(host="tcp://a")),
    "socket": (["-H", "unix:///x"], Globals(host="unix:///x")),
    "hosts": (["-Htcp://a", "--host=tcp://b"], Globals(host="tcp://b")),
    "log level": (["-l", "debug", "--log-level=info"], Globals()),
    "version denied": (["--version=false", "-v=0"], Globals()),
    "tls": (
        ["--tls", "--tlsverify=false", "--tlscacert", "a", "--tlskey=c"],
        Globals(tls=True, tlsverify=False, tlscacert="a", tlskey="c"),
    ),
    "tls alone": (["--tls"], Globals(tls=True)),
    "tls denied": (["--tls=false", "--tlsverify"], Globals(tlsverify=True)),
    "tls, as Go says it": (["--tls=1", "--tlsverify=F"], Globals(tls=True, tlsverify=False)),
    "verify": (["--tlsverify"], Globals(tlsverify=True)),
    "files": (
        ["--tlscacert=a", "--tlscert", "b", "--tlskey", "c"],
        Globals(tlscacert="a", tlscert="b", tlskey="c"),
    ),
    "separator": (["-D", "--"], Globals(debug=True)),
    "help denied": (["--help=false"], Globals()),
    "a value like the name": (
        ["--context", "kontext", "--config", "push"],
        Globals(context="kontext", config="push"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "expected"), GLOBALS.values(), ids=GLOBALS)
def test_global_flags(flags: list[str], expected: Globals) -> None:
    assert parse_globals([*flags, *PUSH]) == (expected, PUSH)


def test_the_flags_that_choose_a_daemon() -> None:
    chosen: dict[str, Any] = {
        "host": "tcp://a", "context": "c", "tls": True, "tlsverify": False,
        "tlscacert": "ca", "tlscert": "cert", "tlskey": "key",
    }  # fmt: skip
    assert asdict(Globals(config="/c", debug=True, **chosen).daemon) == chosen
    assert Globals().daemon == DaemonFlags()


RESTS: dict[str, tuple[list[str], list[str]]] = {
    "nothing": ([], []),
    "flags alone": (["-D"], []),
    "a dash": (["-D", "-", "-D"], ["-", "-D"]),
    "a command's flags": (["-D", "ps", "-D", "--help", "--"], ["ps", "-D", "--help", "--"]),
    "a command's unknown flags": (["ps", "--nope"], ["ps", "--nope"]),
    "behind --": (["--", "-D", "--", "x"], ["-D", "--", "x"]),
    "help": (["--help", "kontext", "push"], ["help", "kontext", "push"]),
    "short help": (["-h", "kontext"], ["help", "kontext"]),
    "help among others": (["-Dh", "--tls", "kontext"], ["help", "kontext"]),
    "help before --": (["--help", "--", "kontext"], ["help", "kontext"]),
    "help alone": (["--help"], ["help"]),
    "completion": (["__complete", "kontext", "--"], ["__complete", "kontext", "--"]),
}  # fmt: skip


@pytest.mark.parametrize(("argv", "expected"), RESTS.values(), ids=RESTS)
def test_what_follows_the_global_flags(argv: list[str], expected: list[str]) -> None:
    assert parse_globals(argv)[1] == expected


WRONG_GLOBALS: dict[str, tuple[list[str], str]] = {
    "unknown": (["--nope", *PUSH], "unknown flag: --nope"),
    "unknown short": (["-Dx", *PUSH], "unknown shorthand flag: 'x' in -x"),
    "no value": (["--config"], "flag needs an argument: --config"),
    "no value for the short": (["-DH"], "flag needs an argument: 'H' in -H"),
    "not a bool": (["-D=x"], 'invalid argument "x" for "-D, --debug" ' + BOOL.format("x")),
    "bad syntax": (["--=x"], "bad flag syntax: --=x"),
}


@pytest.mark.parametrize(("argv", "message"), WRONG_GLOBALS.values(), ids=WRONG_GLOBALS)
def test_wrong_global_flags(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_globals(argv)
    assert raised.value.message == message


# Suggestions

NAMES = ["cache", "diff", "doctor", "load", "ls", "pull", "purge", "push", "run", "version"]

# But for their order and number, these are the suggestions of spf13/cobra 1.10.2.
SUGGESTIONS: dict[str, tuple[str, list[str]]] = {
    "one letter wrong": ("pish", ["push"]),
    "one letter missing": ("dotor", ["doctor"]),
    "one letter too many": ("cachee", ["cache"]),
    "two letters swapped": ("laod", ["load"]),
    "upper case": ("PRUGE", ["purge"]),
    "the beginning": ("doc", ["doctor"]),
    "the beginning of a long name": ("do", ["doctor", "ls"]),
    "the beginning of two": ("l", ["ls", "load"]),
    "the nearest first": ("pul", ["pull", "push", "run"]),
    "the name": ("diff", ["diff"]),
    "at most three": ("pu", ["pull", "push", "purge"]),
    "far away": ("nonsense", []),
    "longer than any name": ("x" * 100_000, []),
    "nothing": ("", []),
}  # fmt: skip


@pytest.mark.parametrize(("word", "expected"), SUGGESTIONS.values(), ids=SUGGESTIONS)
def test_suggestions(word: str, expected: list[str]) -> None:
    assert suggest(word, NAMES) == expected


HINTS: dict[str, tuple[list[str], str]] = {
    "a letter is wrong": (["--tug", "a"], "Did you mean --tag?"),
    "with a value": (["--bse=a"], "Did you mean --base?"),
    "a dash is missing": (["--dryrun"], "Did you mean --dry-run?"),
    "the beginning": (["--dry"], "Did you mean --dry-run?"),
    "two are near": (["--gat"], "Did you mean --git or --tag?"),
    "a hidden one": (["--secre", "x"], ""),
    "none is near": (["--nonsense"], ""),
    "a letter is unknown": (["-x"], ""),
}


@pytest.mark.parametrize(("arguments", "hint"), HINTS.values(), ids=HINTS)
def test_an_unknown_flag_suggests_known_ones(arguments: list[str], hint: str) -> None:
    with pytest.raises(UsageError, match="unknown") as raised:
        parse(COMMAND, arguments)
    assert raised.value.hint == hint


# Help

ASKING: dict[str, tuple[list[str], bool]] = {
    "--help": (["--help"], True),
    "-h": (["-h"], True),
    "after arguments": (["dir", "--help"], True),
    "with =": (["--help=true"], True),
    "after another letter": (["-qh"], True),
    "before another letter": (["-hq"], True),
    "between letters": (["-qhg"], True),
    "beside a wrong flag": (["--nope", "--help"], True),
    "before a wrong letter": (["-hx"], True),
    "denied": (["--help=false"], False),
    "no flags": (["dir"], False),
    "within a value": (["-bh"], False),
    "after two dashes": (["--", "--help"], False),
    "a wrong flag": (["--nope", "-qh"], False),
    "another long flag": (["--helpful"], False),
}


@pytest.mark.parametrize(("arguments", "asks"), ASKING.values(), ids=ASKING)
def test_asking_for_help(arguments: list[str], asks: bool) -> None:
    assert asks_for_help(COMMAND, arguments) == asks


GIVEN: dict[str, tuple[list[str], set[str]]] = {
    "nothing": ([], set()),
    "short and long": (["-t", "x", "dir", "--base=y"], {"tag", "base"}),
    "a switch that is off": (["--git=false"], {"git"}),
    "twice": (["-qq", "--quiet"], {"quiet"}),
    "behind two dashes": (["--", "--git"], set()),
    "a value that looks like a flag": (["--base", "--git"], {"base"}),
}


@pytest.mark.parametrize(("arguments", "names"), GIVEN.values(), ids=GIVEN)
def test_given_options(arguments: list[str], names: set[str]) -> None:
    assert given_options(COMMAND, arguments) == names


HELP = """\
Usage:  docker kontext push [OPTIONS] [DIR]

Push a directory.

Options:
  -b, --base string   Build on this
      --dry-run       Change nothing
  -g, --git           Keep .git
  -q, --quiet         Say nothing
  -t, --tag list      Where to
      --when string   Now or later
"""


def test_help_looks_like_dockers() -> None:
    assert help_text(COMMAND) == HELP
    assert usage_line(Command("version", "", "", "")) == "Usage:  docker kontext version"
    assert help_text(Command("version", "", "", "Show it")) == (
        "Usage:  docker kontext version\n\nShow it\n"
    )


def test_a_narrow_terminal_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert table([("name", "word " * 8), ("x", "y"), ("empty", "")]).splitlines() == [
        "  name    word word word word word word",
        "          word word",
        "  x       y",
        "  empty   ",
    ]


@pytest.mark.parametrize("columns", ["", "0", "-5", "x", "50", "120"])
def test_a_table_is_as_wide_as_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    first, *_ = table([("name", "a " * 100)]).splitlines()
    assert shutil.get_terminal_size().columns - len(first) in (0, 1)


# Durations

DURATIONS = {
    "seconds": ("90s", 90),
    "minutes": ("2m", 120),
    "both": ("1m30s", 90),
    "hours": ("1h", 3600),
    "hours and minutes": ("1h30m", 5400),
    "hours and seconds": ("1h5s", 3605),
    "all": ("1h2m3s", 3723),
    "a number": ("45", 45),
    "a number with zeros": ("007", 7),
    "zero": ("0", 0),
    "zero seconds": ("0s", 0),
}


@pytest.mark.parametrize(("text", "value"), DURATIONS.values(), ids=DURATIONS)
def test_durations(text: str, value: int) -> None:
    assert parse_duration("timeout", text) == value


NO_DURATIONS = [
    "", "s", "-1s", "1.5s", "1s1m", "1m30", "1 s", " 1s", "1s\n", "1d", "٣s", "²", "9" * 7,
    "9" * 7 + "s", "hms", "1hm", "1h1h", "1_0", "+1",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_DURATIONS, ids=ascii)
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match='for "--timeout" flag: it must be like 90s or 1m30s'):
        parse_duration("timeout", text)


# What it costs

PROGRAM = """
import sys
before = set(sys.modules)
from kontext_plugin.cli.flags import Command, parse, parse_globals
parse_globals(["-D", "kontext"])
parse(Command("do", "", "", ""), [])
print(*sorted({"argparse", "difflib", "gettext", "shutil", "textwrap"} & set(sys.modules) - before))
"""


def test_reading_a_command_line_imports_nothing_heavy() -> None:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "\n"
