"""cobra's protocol for completion: a candidate and what it is on each line, then a directive."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from kontext_plugin.cache.store import open_cache
from kontext_plugin.cli.flags import Argument, Command, Option
from kontext_plugin.cli.options import COMMANDS
from kontext_plugin.engine.config import registries
from kontext_plugin.terminal.text import line_safe

FILES, NO_FILES, DIRECTORIES = 0, 4, 16


def answer(words: Sequence[str]) -> str:
    """What may stand in the place of the last word."""
    *before, last = words or [""]
    if not before:
        commands = {name: command.summary for name, command in COMMANDS.items()}
        return _lines(commands, last, NO_FILES)
    command = COMMANDS.get(before[0])
    if command is None:
        return _lines({}, last, NO_FILES)
    name, equals, _ = last.partition("=")
    if last.startswith("-") and not equals:
        flags = {f"--{option.name}": option.help for option in command.options if not option.hidden}
        return _lines(flags, last, NO_FILES)
    if equals:
        return _of(_option(command, name), last, f"{name}=")
    if option := _option(command, before[-1]):
        return _of(option, last)
    return _of(_argument(command, before[1:]), last)


def plain(found: str) -> str:
    """An answer without what its candidates are, for shells that show no more."""
    return "\n".join(line.partition("\t")[0] for line in found.split("\n"))


def _option(command: Command, flag: str) -> Option | None:
    """The option that a flag names, if it takes a value."""
    for option in command.options:
        if option.kind and flag in (f"--{option.name}", f"-{option.short}"):
            return option
    return None


def _argument(command: Command, before: Sequence[str]) -> Argument | None:
    """Which argument comes after these words."""
    place, words = 0, iter(before)
    for word in words:
        if _option(command, word):
            next(words, None)
        elif not word.startswith("-"):
            place += 1
    return command.arguments[place] if place < len(command.arguments) else None


def _of(wanted: Option | Argument | None, last: str, prefix: str = "") -> str:
    if wanted is None:
        return _lines({}, last, NO_FILES)
    values = dict.fromkeys(wanted.values, "")
    if wanted.completes == "reference":
        values = _pushed()
    elif wanted.completes == "registry":
        values = dict.fromkeys(registries(), "") | _pushed()
    candidates = {f"{prefix}{value}": text for value, text in values.items()}
    if wanted.completes == "directory":
        return _lines(candidates, last, DIRECTORIES)
    return _lines(candidates, last, FILES if wanted.completes == "file" else NO_FILES)


def _pushed() -> dict[str, str]:
    """What was pushed from this machine, first from the current directory, the latest first."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    pushed = open_cache(read_only=True).pushed()
    pushed.sort(key=lambda pair: pair[0] != here)
    found: dict[str, str] = {}
    for directory, reference in pushed:
        found.setdefault(reference, f"from {directory}")
    return found


def _lines(candidates: Mapping[str, str], last: str, directive: int) -> str:
    lines = [
        f"{name}\t{line_safe(text)}".rstrip()
        for name, text in candidates.items()
        if name.startswith(last) and name.isprintable()
    ]
    return "\n".join([*lines, f":{directive}"])
