"""Complete a command line, in cobra's protocol.

An answer has a line for each candidate, which is followed by a tab and a description, and ends with
a line `:DIRECTIVE` (cobra, "Shell completions").
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence

from kontext_plugin.cache import open_cache
from kontext_plugin.cli.flags import Argument, Command, Option
from kontext_plugin.cli.options import COMMANDS
from kontext_plugin.crane import connect
from kontext_plugin.crane_driver.credentials import known_registries
from kontext_plugin.crane_driver.process import discard
from kontext_plugin.errors import KontextError
from kontext_plugin.image.reference import Reference, parse_image_reference, repository_of
from kontext_plugin.image.tree import Tree, normal_path, paths_at
from kontext_plugin.registry.fetch import fetch
from kontext_plugin.terminal.text import line_safe

FILES, NO_SPACE, NO_FILES, DIRECTORIES = 0, 2, 4, 16
"""cobra's directives: what the shell adds to the candidates."""

_TIME_LIMIT = 2.0
"""Seconds for a registry to answer: somebody waits with a finger on the tab key."""

_UNSAFE = frozenset("$`;&|<>")
"""Characters that run a command. Some versions of docker put names unquoted on the command line."""


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
    arguments = _positional(command, before[1:])
    if len(arguments) >= len(command.arguments):
        return _answer({}, last, NO_FILES)
    argument = command.arguments[len(arguments)]
    if argument.completes == "path":
        return _answer_path(arguments[-1], last, insecure="--insecure" in before)
    return _answer_value(argument, last)


def without_descriptions(answer: str) -> str:
    """Return an answer without its descriptions, for shells that cannot show them."""
    return "\n".join(line.partition("\t")[0] for line in answer.split("\n"))


def _find_option(command: Command, flag: str) -> Option | None:
    """Return the option of a flag if it takes a value."""
    for option in command.options:
        if option.kind and flag in (f"--{option.name}", f"-{option.short}"):
            return option
    return None


def _positional(command: Command, before: Sequence[str]) -> list[str]:
    """Return the positional arguments among these words."""
    found, words = [], iter(before)
    for word in words:
        if _find_option(command, word):
            next(words, None)
        elif not word.startswith("-"):
            found.append(word)
    return found


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


def _answer_path(reference: str, last: str, *, insecure: bool) -> str:
    """Return the answer for a path within an image: what is in one of its directories."""
    try:
        tree = _tree_of(parse_image_reference(reference), insecure=insecure)
    except (KontextError, _TimeUp):
        return _answer({}, last, NO_FILES)
    above = last[: last.rfind("/") + 1]  # as it was typed
    top = normal_path(above)
    names = (
        path.rpartition("/")[2] + ("/" if tree.is_directory(path) else "")
        for path in paths_at(tree, above) or ()
        if path != top
    )
    fitting = [above + name for name in names if (above + name).startswith(last)]
    safe = [path for path in fitting if _UNSAFE.isdisjoint(path)]
    more = NO_SPACE if any(path.endswith("/") for path in safe) else 0
    return _answer(dict.fromkeys(safe, ""), last, NO_FILES | more)


def _tree_of(name: Reference, *, insecure: bool) -> Tree:
    """Return the tree of an image, from this machine's last push or from the registry.

    Raises KontextError, and _TimeUp after _TIME_LIMIT.
    """
    cache = open_cache(read_only=True)
    for record in cache.pushed():
        is_named = record.digest == name.digest if name.digest else record.reference == str(name)
        if is_named and repository_of(record.reference) == name.repository:
            if image := cache.published(record.reference, record.digest):
                return image.manifest.tree
            break
    if name.back:  # only a push's history knows that image
        return Tree()
    connection = connect(discard, insecure=insecure, timeout=_TIME_LIMIT)
    with _time_limit(_TIME_LIMIT), connection as (crane, requests):
        return fetch(crane, requests, name).manifest.tree


class _TimeUp(BaseException):
    """The time is up. No handler of errors takes it for one of its own."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TimeUp in the main thread if the block takes longer."""

    def end(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, end)
    # Again and again: Python forgets a signal that comes just before it waits for a lock.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
