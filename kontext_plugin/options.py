"""A command's options and help in docker's form: parsed by argparse, printed as docker prints."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from kontext_plugin.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace as Namespace

_DURATION = re.compile(
    r"(?P<alone>\d{1,6})|(?:(?P<h>\d{1,6})h)?(?:(?P<m>\d{1,6})m)?(?:(?P<s>\d{1,6})s)?", re.ASCII
)


@dataclass(frozen=True)
class Globals:
    """docker's global flags, as far as they matter here (docker passes them on, unexported)."""

    config: str = ""
    debug: bool = False
    host: str = ""  # the daemon's
    context: str = ""
    tls: bool = False
    tlsverify: bool | None = None  # None: it was not given
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""


@dataclass(frozen=True)
class Option:
    name: str  # without the dashes
    help: str
    short: str = ""
    kind: str = ""  # "string", "int", "duration", "list" (may be repeated), "" for a switch
    hidden: bool = False
    values: tuple[str, ...] = ()  # of which it must be one
    completes: str = ""  # as Argument has it

    @property
    def destination(self) -> str:
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class Argument:
    name: str
    completes: str = ""  # "directory", "file", "reference", "registry", "" for what nobody knows
    optional: bool = False
    many: bool = False
    values: tuple[str, ...] = ()  # of which it must be one


@dataclass(frozen=True)
class Command:
    name: str
    summary: str  # one line, for the list of commands
    usage: str  # what follows the name
    description: str
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()

    @property
    def path(self) -> str:
        return f"docker kontext {self.name}"


def usage_line(command: Command) -> str:
    return f"Usage:  {command.path} {command.usage}".rstrip()


def help_text(command: Command) -> str:
    """As `docker COMMAND --help` prints it."""
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
    """Two columns, the second wrapped to the terminal's width."""
    indent = 2 + max(len(left) for left, _ in rows) + 3
    width = max(shutil.get_terminal_size().columns - indent, 20)
    lines = []
    for left, right in rows:
        first, *rest = textwrap.wrap(right, width)
        lines.append(f"  {left}".ljust(indent) + first)
        lines += [" " * indent + line for line in rest]
    return "\n".join(lines)


def parse(command: Command, arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """The options by their destinations, and the other arguments, as many as there may be.

    Raises UsageError.
    """
    import argparse  # 8 ms that neither docker's metadata request nor --help needs

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(_as_docker_says(message))

    parser = Parser(add_help=False, allow_abbrev=False)
    for option in command.options:
        names = [f"--{option.name}"] + ([f"-{option.short}"] if option.short else [])
        if option.kind == "":
            parser.add_argument(*names, dest=option.destination, action="store_true")
        else:
            action = "append" if option.kind == "list" else "store"
            parser.add_argument(*names, dest=option.destination, action=action)
    parser.add_argument("arguments", nargs="*")
    # argparse loses its way where there are options before and behind `--`.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parsed, unknown = parser.parse_known_args(_without_values(command, arguments[:end]))
    for option in command.options:
        value = getattr(parsed, option.destination)
        if option.kind and "" in (value if isinstance(value, list) else [value]):
            raise invalid(option.name, "", "it is empty")
        if option.values and value is not None and value not in option.values:
            raise invalid(option.name, value, f"it must be {_either(option.values)}")
    for argument in unknown:
        if argument.startswith("-") and argument != "-":
            raise UsageError(f"unknown flag: {argument.partition('=')[0]}")
    positional = [*parsed.arguments, *unknown, *arguments[end + 1 :]]
    _check_arguments(command, positional)
    return parsed, positional


def _check_arguments(command: Command, given: Sequence[str]) -> None:
    least = sum(not argument.optional for argument in command.arguments)
    most = len(command.arguments)
    if len(given) < least:
        raise UsageError(f"docker: '{command.path}' requires {_arguments(least, most)}")
    if len(given) > most and not any(argument.many for argument in command.arguments):
        limits = _arguments(least if least == most else 0, most)
        raise UsageError(f"docker: '{command.path}' requires {limits}")
    for argument, value in zip(command.arguments, given, strict=False):
        if not value:
            raise UsageError(f"docker: {argument.name} is empty")
        if argument.values and value not in argument.values:
            raise UsageError(f"docker: '{command.path}' knows {_either(argument.values)} only")


def _arguments(least: int, most: int) -> str:
    """As docker says how many there may be."""
    if not most:
        return "no arguments"
    which = "" if least == most else "at least " if least else "at most "
    count = least or most
    return f"{which}{count} argument{'' if count == 1 else 's'}"


def _either(values: Sequence[str]) -> str:
    *others, last = values
    return f"{', '.join(others)} or {last}"


def invalid(option: str, given: str, why: str) -> UsageError:
    """What docker says of an option's value."""
    return UsageError(f'invalid argument "{given[:100]}" for "--{option}" flag: {why}')


def seconds(option: str, text: str) -> int:
    """docker's `1h30m`, `2m` or `90s`, and plain seconds. Raises UsageError."""
    found = _DURATION.fullmatch(text)
    if not text or not found:
        raise invalid(option, text, "it must be like 90s or 1m30s")
    alone, hours, minutes, rest = (int(part or 0) for part in found.group("alone", "h", "m", "s"))
    return alone + hours * 3600 + minutes * 60 + rest


def _without_values(command: Command, arguments: Sequence[str]) -> list[str]:
    """`--quiet=true` and `--quiet=false` as argparse knows them: given, and not given."""
    switches = {f"--{option.name}" for option in command.options if not option.kind}
    plain = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in switches or value not in ("true", "false"):
            plain.append(argument)
        elif value == "true":
            plain.append(name)
    return plain


def _as_docker_says(message: str) -> str:
    """argparse's `argument --tag/-t: expected one argument` in docker's words."""
    flag, _, problem = message.removeprefix("argument ").partition(": ")
    name = flag.partition("/")[0]
    if problem == "expected one argument":
        return f"flag needs an argument: {name}"
    if problem.startswith("ignored explicit argument"):
        return f"flag takes no argument: {name}"
    return message
