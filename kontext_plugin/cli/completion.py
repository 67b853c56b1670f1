"""Complete a command line, in cobra's protocol.

An answer has a line for each candidate, which is followed by a tab and a description, and ends with
a line `:DIRECTIVE` (cobra, "Shell completions").
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Argument, Command, Option
from kontext_plugin.cli.options import COMMANDS
from kontext_plugin.crane_driver.credentials import known_registries
from kontext_plugin.terminal.text import line_safe

FILES, NO_FILES, DIRECTORIES = 0, 4, 16
"""cobra's directives: what the shell adds to the candidates."""


def complete(words: Sequence[str]) -> str:
    """Return the answer for the last of `words`, which follow `docker kontext`."""
    *before, last = words or [""]
    if not before:
        commands = {name: command.summary for name, command in COMMANDS.items()}
        return _answer(commands, last, NO_FILES)
    command = COMMANDS.get(before[0])
    if command is None:
        return _answer({}, last, NO_FILES)
    name, equals, _ = last.partition("=")
    if last.startswith("-") and not equals:
        flags = {f"--{option.name}": option.help for option in command.options if not option.hidden}
        return _answer(flags, last, NO_FILES)
    if equals:
        return _answer_value(_find_option(command, name), last, f"{name}=")
    if option := _find_option(command, before[-1]):
        return _answer_value(option, last)
    return _answer_value(_find_argument(command, before[1:]), last)


def without_descriptions(answer: str) -> str:
    """Return an answer without its descriptions, for shells that cannot show them."""
    return "\n".join(line.partition("\t")[0] for line in answer.split("\n"))


def _find_option(command: Command, flag: str) -> Option | None:
    """Return the option of a flag if it takes a value."""
    for option in command.options:
        if option.kind and flag in (f"--{option.name}", f"-{option.short}"):
            return option
    return None


def _find_argument(command: Command, before: Sequence[str]) -> Argument | None:
    """Return the positional argument that comes after these words."""
    count, words = 0, iter(before)
    for word in words:
        if _find_option(command, word):
            next(words, None)
        elif not word.startswith("-"):
            count += 1
    return command.arguments[count] if count < len(command.arguments) else None


def _answer_value(target: Option | Argument | None, last: str, prefix: str = "") -> str:
    """Return the answer for the value of an option or argument; each candidate gets the prefix."""
    if target is None:
        return _answer({}, last, NO_FILES)
    values = dict.fromkeys(target.values, "")
    if target.completes == "reference":
        values = _pushed_references()
    elif target.completes == "registry":
        values = dict.fromkeys(known_registries(), "") | _pushed_references()
    candidates = {f"{prefix}{value}": description for value, description in values.items()}
    if target.completes == "directory":
        return _answer(candidates, last, DIRECTORIES)
    return _answer(candidates, last, FILES if target.completes == "file" else NO_FILES)


def _pushed_references() -> dict[str, str]:
    """Return the references that this machine has pushed to, with the pushed directories.

    Those of the current directory come first, then the latest ones.
    """
    try:
        current = os.getcwd()
    except FileNotFoundError:
        current = ""
    pushed = open_cache(read_only=True).pushed()
    pushed.sort(key=lambda record: record.directory != current)
    references: dict[str, str] = {}
    for record in pushed:
        source = f"from {record.directory}" if record.directory else ""
        references.setdefault(record.reference, source)
    return references


def _answer(candidates: Mapping[str, str], last: str, directive: int) -> str:
    lines = [
        f"{name}\t{line_safe(description)}".rstrip()
        for name, description in candidates.items()
        if name.startswith(last) and name.isprintable()
    ]
    return "\n".join([*lines, f":{directive}"])
