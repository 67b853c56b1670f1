"""Command lines: how flags and arguments are read, and the help text that docker prints.

The rules and the texts of the errors are those of docker's own parser, spf13/pflag 1.0 (parseArgs
in its flag.go). One function reads docker's global flags and each command's flags. argparse
follows other rules and is slow to import. Each frozen dataclass takes 1 ms to make, so the classes
here are named tuples.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from kontext_plugin.errors import UsageError

if TYPE_CHECKING:
    from kontext_plugin.engine.config import DaemonFlags

_TRUE = ("1", "t", "T", "TRUE", "true", "True")  # as Go's strconv.ParseBool has them
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_UNITS = (("h", 3600), ("m", 60), ("s", 1))
_MAX_DIGITS = 6  # of each number in a duration
_WIDTH = 80  # columns, where no terminal has another width
_MAX_SUGGESTIONS = 3
_MAX_DISTANCE = 2  # cobra's SuggestionsMinimumDistance


class Option(NamedTuple):
    """A flag of a command."""

    name: str  # without the dashes
    help: str
    short: str = ""  # one letter
    kind: str = ""  # "string", "int", "duration", "list" (may be repeated), "" for a switch
    hidden: bool = False  # from the help text, completion and suggestions
    values: tuple[str, ...] = ()  # the only values allowed; (): any
    is_list: bool = False  # several of the values may be given, with commas between them
    completes: str = ""  # as in Argument

    @property
    def destination(self) -> str:
        """The attribute of the Namespace that holds the value."""
        return self.name.replace("-", "_")


class Argument(NamedTuple):
    """A positional argument of a command."""

    name: str
    # "directory", "file", "reference", "registry", "path" (in the image of the argument before), ""
    completes: str = ""
    optional: bool = False
    many: bool = False  # may be repeated
    values: tuple[str, ...] = ()  # the only values allowed; (): any


class Command(NamedTuple):
    """A command with its flags and arguments."""

    name: str  # "": `docker kontext` itself
    summary: str  # one line, for the list of commands
    usage: str  # the part of the usage line that follows the name
    description: str
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()

    @property
    def path(self) -> str:
        """The words that run the command."""
        return f"docker kontext {self.name}".rstrip()


class Globals(NamedTuple):
    """docker's global flags, except those that Kontext ignores."""

    config: str = ""
    debug: bool = False
    host: str = ""  # of the daemon
    context: str = ""
    tls: bool = False
    tlsverify: bool | None = None  # None: not given
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""

    @property
    def daemon(self) -> DaemonFlags:
        """The flags that choose a Docker daemon."""
        from kontext_plugin.engine.config import DaemonFlags  # only commands that need a daemon

        return DaemonFlags(
            host=self.host,
            context=self.context,
            tls=self.tls,
            tlsverify=self.tlsverify,
            tlscacert=self.tlscacert,
            tlscert=self.tlscert,
            tlskey=self.tlskey,
        )


class Namespace(SimpleNamespace):
    """A command's options, each as the attribute `Option.destination`.

    A switch is a bool. Every other value is a str, or None if it was not given; a list is a
    list[str] or None.
    """


_GLOBAL_OPTIONS = (
    Option("config", "", kind="string"),
    Option("context", "", "c", kind="string"),
    Option("debug", "", "D"),
    Option("help", "", "h"),
    Option("host", "", "H", kind="string"),
    Option("log-level", "", "l", kind="string"),
    Option("tls", ""),
    Option("tlscacert", "", kind="string"),
    Option("tlscert", "", kind="string"),
    Option("tlskey", "", kind="string"),
    Option("tlsverify", ""),
    Option("version", "", "v"),
)

_HELP = Option("help", "", "h")  # of every command


def asks_for_help(command: Command, arguments: Sequence[str]) -> bool:
    """Return whether --help or -h is among the flags, also as in `-qh` and beside wrong flags."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if {"-h", "--help"} & set(arguments[:end]):
        return True
    try:
        flags = _read((*command.options, _HELP), arguments, interspersed=True)
        return any(option is _HELP and _bool(option, text) for option, text in flags)
    except UsageError:
        return False


def parse(command: Command, arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return a command's options and its positional arguments.

    Raises UsageError for a flag that is unknown or has no value, for a value that is empty or not
    allowed, and for too many or too few arguments.
    """
    options, positional = parse_flags(command, arguments)
    check_arguments(command, positional)
    return options, positional


def parse_flags(command: Command, arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return the same as `parse`, with any positional arguments. Raises UsageError for flags."""
    values: dict[str, Any] = {
        option.destination: None if option.kind else False for option in command.options
    }
    positional = []
    for option, text in _read(command.options, arguments, interspersed=True):
        if option is None:
            positional.append(text)
        elif option.kind == "list":
            values[option.destination] = values[option.destination] or []
            values[option.destination].append(_checked(option, text))
        elif option.kind:
            values[option.destination] = _checked(option, text)
        else:
            values[option.destination] = _bool(option, text)
    return Namespace(**values), positional


def given_options(command: Command, arguments: Sequence[str]) -> frozenset[str]:
    """Return the names of the options on a command line. Raises UsageError for flags."""
    flags = _read(command.options, arguments, interspersed=True)
    return frozenset(option.name for option, _ in flags if option)


def check_arguments(command: Command, given: Sequence[str]) -> None:
    """Raise UsageError for too many or too few arguments, and for values that are not allowed."""
    least = sum(not argument.optional for argument in command.arguments)
    most = len(command.arguments)
    if len(given) < least:
        raise UsageError(f"docker: '{command.path}' requires {_limits(least, most)}")
    if len(given) > most and not any(argument.many for argument in command.arguments):
        limits = _limits(least if least == most else 0, most)
        raise UsageError(f"docker: '{command.path}' requires {limits}")
    for argument, value in zip(command.arguments, given, strict=False):
        if not value:
            raise UsageError(f"docker: {argument.name} is empty")
        if argument.values and value not in argument.values:
            raise UsageError(f"docker: '{command.path}' expects {_either(argument.values)}")


def parse_globals(argv: Sequence[str]) -> tuple[Globals, list[str]]:
    """Return docker's global flags, which come first, and the rest of the command line.

    `--help` becomes the command `help` at the head of the rest. docker has checked the values, so
    an empty one is allowed here. Raises UsageError for an unknown flag or a missing value.
    """
    values: dict[str, Any] = {}
    rest = []
    for option, text in _read(_GLOBAL_OPTIONS, argv, interspersed=False):
        if option is None:
            rest.append(text)
        else:
            values[option.destination] = text if option.kind else _bool(option, text)
    if values.pop("help", False):
        rest = ["help", *rest]
    for ignored in ("log_level", "version"):
        values.pop(ignored, None)
    return Globals(**values), rest


def usage_line(command: Command) -> str:
    """Return the line that shows how to call a command."""
    return f"Usage:  {command.path} {command.usage}".rstrip()


def help_text(command: Command) -> str:
    """Return a command's help in the form of `docker COMMAND --help`."""
    blocks = [usage_line(command), command.description]
    shown = sorted((o for o in command.options if not o.hidden), key=lambda o: o.name)
    if shown:
        rows = [
            ((f"-{o.short}, " if o.short else "    ") + f"--{o.name} {o.kind}".rstrip(), o.help)
            for o in shown
        ]
        blocks.append("Options:\n" + table(rows))
    return "\n\n".join(blocks) + "\n"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return two columns, the second one wrapped to the terminal's width."""
    import textwrap  # 1 ms

    indent = 2 + max(len(left) for left, _ in rows) + 3
    width = max(_terminal_width() - indent, 20)
    lines = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, width) or [""]
        lines.append(f"  {left}".ljust(indent) + first)
        lines += [" " * indent + line for line in more]
    return "\n".join(lines)


def _terminal_width() -> int:
    """Return the same as shutil.get_terminal_size, whose import takes 3 ms."""
    with contextlib.suppress(KeyError, ValueError):
        if (width := int(os.environ["COLUMNS"])) > 0:
            return width
    with contextlib.suppress(OSError):
        return os.get_terminal_size(1).columns or _WIDTH
    return _WIDTH


def invalid(option: Option | str, given: str, why: str) -> UsageError:
    """Return docker's error for a value of an option, which is an Option or a long name."""
    flag = option if isinstance(option, str) else option.name
    short = "" if isinstance(option, str) or not option.short else f"-{option.short}, "
    return UsageError(f'invalid argument {_quoted(given)} for "{short}--{flag}" flag: {why}')


def parse_duration(option: Option | str, text: str) -> float:
    """Return the seconds in docker's `1h30m`, `90s` or `500ms`, or in a plain number of seconds.

    Raises UsageError.
    """
    if _is_number(text):
        return int(text)
    seconds, rest = 0.0, text
    if text.endswith("ms"):
        rest = text[:-2].rstrip("0123456789")
        number = text[len(rest) : -2]
        rest, seconds = (rest, int(number) / 1000) if _is_number(number) else (text, 0.0)
    for unit, factor in _UNITS:
        number, found, after = rest.partition(unit)
        if found and _is_number(number):
            seconds, rest = seconds + int(number) * factor, after
    if rest or not text:
        raise invalid(option, text, "it must be like 90s or 1m30s")
    return seconds


def suggest(word: str, names: Sequence[str]) -> list[str]:
    """Return up to three names that a mistyped word may stand for, the likeliest first.

    As in cobra, these are the names that begin with the word, and those at a Levenshtein distance
    of at most two, both without regard to case. The former come first, then the nearest ones.
    """
    word = word.lower()
    ranks: dict[str, tuple[bool, int]] = {}
    for name in names if word else ():
        extra = len(name) - len(word)
        if name.lower().startswith(word):
            ranks[name] = False, extra
        elif abs(extra) <= _MAX_DISTANCE:  # the distance is at least that
            distance = _distance(word, name.lower())
            if distance <= _MAX_DISTANCE:
                ranks[name] = True, distance
    return sorted(ranks, key=ranks.__getitem__)[:_MAX_SUGGESTIONS]


def did_you_mean(names: Sequence[str]) -> str:
    """Return the hint that offers what `suggest` found; "" where it found nothing."""
    return f"Did you mean {_either(names)}?" if names else ""


def _read(
    options: Sequence[Option], arguments: Sequence[str], *, interspersed: bool
) -> Iterator[tuple[Option | None, str]]:
    """Yield each flag with its value as text, and each argument with None.

    `--` ends the flags; so does the first argument, unless flags and arguments are interspersed.
    """
    by_name = {option.name: option for option in options}
    by_letter = {option.short: option for option in options if option.short}
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word.startswith("--"):
            yield _read_long(word, words, by_name)
        elif word.startswith("-") and word != "-":
            yield from _read_short(word[1:], words, by_letter)
        else:
            yield None, word
            if not interspersed:
                break
    for word in words:
        yield None, word


def _read_long(
    word: str, words: Iterator[str], by_name: Mapping[str, Option]
) -> tuple[Option, str]:
    """Return the option of `--name`, `--name=value` or `--name value`, and its value."""
    name, equals, value = word[2:].partition("=")
    if not name or name.startswith("-"):
        raise UsageError(f"bad flag syntax: {word}")
    option = by_name.get(name)
    if option is None:
        visible = [option.name for option in by_name.values() if not option.hidden]
        near = [f"--{other}" for other in suggest(name, visible)]
        raise UsageError(f"unknown flag: --{name}", hint=did_you_mean(near))
    if equals:
        return option, value
    return option, _next_word(words, f"--{name}") if option.kind else _TRUE[0]


def _read_short(
    letters: str, words: Iterator[str], by_letter: Mapping[str, Option]
) -> Iterator[tuple[Option, str]]:
    """Yield the options of `-abc`, `-tvalue`, `-t=value` or `-t value`, with their values."""
    while letters:
        letter, rest = letters[0], letters[1:]
        place = _quoted(letter, "'") + f" in -{letters}"
        option = by_letter.get(letter)
        if option is None:
            raise UsageError(f"unknown shorthand flag: {place}")
        if len(rest) > 1 and rest.startswith("="):  # pflag reads `-t=` as the value "="
            value, rest = rest[1:], ""
        elif not option.kind:
            value = _TRUE[0]
        elif rest:
            value, rest = rest, ""
        else:
            value = _next_word(words, place)
        yield option, value
        letters = rest


def _next_word(words: Iterator[str], flag: str) -> str:
    for word in words:
        return word
    raise UsageError(f"flag needs an argument: {flag}")


def _bool(option: Option, text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    why = f"strconv.ParseBool: parsing {_quoted(text)}: invalid syntax"
    raise invalid(option, text, why)


def _checked(option: Option, text: str) -> str:
    if not text:
        raise invalid(option, text, "it is empty")
    for value in text.split(",") if option.is_list else (text,):
        if option.values and value not in option.values:
            raise invalid(option, value, f"it must be {_either(option.values)}")
    return text


def _limits(least: int, most: int) -> str:
    """Return docker's words for the number of arguments allowed."""
    if not most:
        return "no arguments"
    which = "" if least == most else "at least " if least else "at most "
    count = least or most
    return f"{which}{count} argument{'' if count == 1 else 's'}"


def _either(values: Sequence[str]) -> str:
    *others, last = values
    return f"{', '.join(others)} or {last}" if others else last


def _quoted(text: str, mark: str = '"') -> str:
    """Return the beginning of a text as Go's %q prints it."""
    start = text[:100].replace("\\", "\\\\").replace(mark, f"\\{mark}").replace("\n", "\\n")
    return f"{mark}{start}{mark}"


def _is_number(text: str) -> bool:
    return len(text) <= _MAX_DIGITS and text.isascii() and text.isdigit()


def _distance(one: str, other: str) -> int:
    """Return the Levenshtein distance of two words."""
    row = list(range(len(other) + 1))
    for count, letter in enumerate(one, 1):
        above, row = row, [count]
        for place, candidate in enumerate(other):
            replaced = above[place] + (letter != candidate)
            row.append(min(replaced, above[place + 1] + 1, row[place] + 1))
    return row[-1]
