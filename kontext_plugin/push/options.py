"""The options of a push, parsed and checked."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from kontext_plugin.cache import PushRecord, open_cache
from kontext_plugin.cli.flags import check_arguments, given_options, invalid, parse_flags
from kontext_plugin.cli.options import ALL_PLATFORMS, DEFAULT_TIMEOUT, PUSH, REUSE, timeout_of
from kontext_plugin.errors import UsageError
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.reference import (
    Reference,
    parse_image_reference,
    parse_reference,
    repository_of,
)
from kontext_plugin.image.spec import LAYER_LIMIT, MAX_LAYERS
from kontext_plugin.image.tree import is_utf8
from kontext_plugin.push.config_file import (
    CONFIG_FILE_NAME,
    Setting,
    read_config_file,
    unusable,
)
from kontext_plugin.secret_scan import SecretMode
from kontext_plugin.terminal import progress

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Command, Namespace


@dataclass(frozen=True)
class PushOptions:
    """What the command line asks of a push."""

    tags: tuple[Reference, ...]  # at least one
    sources: tuple[Reference, ...] = ()  # more images to build on
    directory: str = "."
    base: str = ""  # an image; "": the base that ships with Kontext
    platforms: tuple[str, ...] = ()  # (): those of the image under the tag, or the default one
    labels: Mapping[str, str] = field(default_factory=dict)
    ignore_file: str = ""  # "": the first of IGNORE_FILES that the directory has
    keep_git: bool = False
    gitignore: bool = False  # also exclude what git ignores
    git_labels: bool = True
    reuse: str = REUSE[0]
    max_layers: int = MAX_LAYERS
    compression: str = ""  # of the new layers; "": that of the image that they are put on
    single_layer: bool = False  # for consumers that read only one layer
    secrets: SecretMode = SecretMode.AUTO
    fresh: bool = False  # build on no image, and read all files again
    check_parent: bool = False  # read the parent's layers, and compare them with its manifest
    created: str = ""  # for the configurations (RFC 3339); "": none
    dry_run: bool = False
    insecure: bool = False
    timings: bool = False
    timeout: float = DEFAULT_TIMEOUT  # seconds without progress; 0: no limit
    iidfile: str = ""
    metadata_file: str = ""
    provenance: str = ""  # the file for an in-toto statement


_EXCLUSIVE = (
    ("single_layer", "base"),
    ("single_layer", "reuse"),
    ("single_layer", "max_layers"),
    ("fresh", "reuse"),
    ("fresh", "from"),
    ("single_layer", "from"),
    ("dry_run", "iidfile"),
    ("dry_run", "metadata_file"),
    ("dry_run", "provenance"),
)
"""Pairs of options of which one would silently overrule the other."""


@dataclass(frozen=True)
class CommandLine:
    """The flags and arguments of a command that reads a directory, with its configuration file."""

    command: Command
    parsed: Namespace  # with the values of the file where the command line has none
    positional: tuple[str, ...]
    directory: str  # that has the file; "": the command reads none
    given: frozenset[str]  # the names of the options on the command line
    configured: tuple[Setting, ...] = ()  # what the file sets here
    foreign: tuple[str, ...] = ()  # images of its `from` that are not taken: `foreign_sources`


def read_command_line(command: Command, arguments: Sequence[str]) -> CommandLine:
    """Return a command line, with what the directory's `.kontext.toml` adds to it.

    Its arguments are not checked yet. Raises UsageError, and KontextError for the file.
    """
    parsed, positional = parse_flags(command, arguments)
    directory = _directory_of(command, parsed, positional)
    given = given_options(command, arguments)
    line = CommandLine(command, parsed, tuple(positional), directory, given)
    settings = read_config_file(directory) if directory else ()
    if not settings:
        return line
    _check_settings(directory, settings)
    chosen = list(choose_settings(command, settings, parsed, given))
    tags = [value for name, value in chosen if name == "tag"]
    foreign = foreign_sources(chosen, tags or _tags_of(parsed))
    configured = tuple(one for one in chosen if one[0] != "from" or one[1] not in foreign)
    words = [f"--{option}={value}" for option, value in configured]
    parsed, _ = parse_flags(command, [*words, *arguments])
    return replace(line, parsed=parsed, configured=configured, foreign=foreign)


def choose_settings(
    command: Command, settings: Iterable[Setting], parsed: Namespace, given: Collection[str]
) -> Iterator[Setting]:
    """Yield the settings of the file that a command takes over. Pure.

    The command line wins: it replaces `tag` and `from`, and overrules what it excludes. Of labels,
    it replaces those with the same key. `parsed` and `given` are those of the command line.
    """
    kinds = {option.name: option.kind for option in command.options}
    excluded = {name for name in ("tag", "from") if name in given}
    for pair in _EXCLUSIVE:
        for one, other in (pair, pair[::-1]):
            if getattr(parsed, one, None):
                excluded.add(other.replace("_", "-"))
    if _is_several(getattr(parsed, "platform", None)):
        excluded.add("single-layer")
    seen: set[str] = set()
    for name, value in settings:
        is_more = name in seen and kinds.get(name) != "list"  # `diff` takes one tag
        seen.add(name)
        if name == "platform" and getattr(parsed, "single_layer", False) and _is_several(value):
            continue
        if name in kinds and name not in excluded and not is_more:
            yield name, value


def foreign_sources(settings: Iterable[Setting], tags: Collection[str]) -> tuple[str, ...]:
    """Return the images of `from` that are in another repository than each tag. Pure.

    A directory must not choose them: a push publishes layers of the image that it builds on, and
    does not read them.
    """
    repositories = {repository_of(tag) for tag in tags}
    sources = (value for name, value in settings if name == "from")
    return tuple(
        text for text in sources if repository_of(text.partition("~")[0]) not in repositories
    )


def parse_push(arguments: Sequence[str]) -> tuple[PushOptions, str]:
    """Return the options of a push, and its progress mode. Raises KontextError."""
    return push_options(read_command_line(PUSH, arguments))


def push_options(line: CommandLine) -> tuple[PushOptions, str]:
    """Return the options of a push, and its progress mode. Raises KontextError."""
    parsed, positional = line.parsed, line.positional
    check_tagged(line)
    if parsed.directory is not None and positional:
        raise UsageError("give either DIR or --directory, not both")
    options = replace(
        shared_options(parsed, parsed.tag, line.directory),
        check_parent=parsed.check_parent,
        secrets=SecretMode(parsed.secrets or SecretMode.AUTO),
        fresh=getattr(parsed, "fresh", False),  # a watch has no options for a single push
        dry_run=getattr(parsed, "dry_run", False),
        timings=parsed.timings,
        iidfile=getattr(parsed, "iidfile", None) or "",
        metadata_file=getattr(parsed, "metadata_file", None) or "",
        provenance=getattr(parsed, "provenance", None) or "",
    )
    return options, progress.choose_mode(parsed.progress, parsed.quiet)


def shared_options(parsed: Namespace, tags: Sequence[str], directory: str) -> PushOptions:
    """Return the options that every command has that plans a push. Raises UsageError."""
    created = _created(os.environ.get("SOURCE_DATE_EPOCH", ""))
    return replace(_options_of(parsed, tags, directory), created=created)


def _options_of(parsed: Namespace, tags: Sequence[str], directory: str) -> PushOptions:
    if parsed.single_layer and _is_several(parsed.platform):
        raise UsageError("--single-layer and several platforms cannot be given together")
    for one, other in _EXCLUSIVE:
        if getattr(parsed, one, None) and getattr(parsed, other, None):
            flags = [f"--{name.replace('_', '-')}" for name in (one, other)]
            raise UsageError(f"{flags[0]} and {flags[1]} cannot be given together")
    return PushOptions(
        tags=tuple(dict.fromkeys(parse_reference(text) for text in tags)),
        sources=tuple(parse_image_reference(text) for text in getattr(parsed, "from") or ()),
        directory=directory,
        base=parsed.base or "",
        platforms=_platforms(parsed.platform or ""),
        labels=dict(_label(text) for text in parsed.label or ()),
        ignore_file=parsed.ignore_file or "",
        keep_git=parsed.git,
        gitignore=parsed.gitignore,
        git_labels=not parsed.no_git_labels,
        max_layers=_layers(parsed.max_layers) if parsed.max_layers else MAX_LAYERS,
        single_layer=parsed.single_layer,
        compression=parsed.compression or "",
        reuse=parsed.reuse or REUSE[0],
        insecure=parsed.insecure,
        timeout=timeout_of(parsed),
    )


def check_tagged(line: CommandLine) -> None:
    """Raise UsageError for wrong arguments of a command that needs --tag."""
    if not line.parsed.tag:  # before the arguments are counted: one of them may be the tag
        raise _missing_tag(line)
    check_arguments(line.command, line.positional)


def _missing_tag(line: CommandLine) -> UsageError:
    """Return the error for a missing -t.

    The hint has a reference that was given without it, or the tag that was pushed last.
    """
    command, positional, hint = line.command.name, line.positional, ""
    if positional and not os.path.exists(positional[0]):
        with contextlib.suppress(UsageError):
            parse_reference(positional[0])
            hint = f"Did you mean 'docker kontext {command} -t {shlex.join(positional)}'?"
    elif last := last_push(open_cache(read_only=True).pushed(), line.directory):
        hint = f"This directory was last pushed to {last.reference}: add '-t {last.reference}'."
    return UsageError(f"docker: 'docker kontext {command}' requires --tag", hint=hint)


def last_push(pushed: Iterable[PushRecord], directory: str) -> PushRecord | None:
    """Return the latest push of a directory; None if there is none. `pushed` has the latest first.

    A link to a directory is that directory.
    """
    root = os.path.realpath(directory)
    return next((record for record in pushed if record.directory == root), None)


# --- The directory's configuration file ---


def config_rows(line: CommandLine) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each option, its value and where that is from: the rows of --show-config.

    `-` is the default that the help names.
    """
    configured = {name for name, _ in line.configured}
    for option in line.command.options:
        if option.hidden or option.name == "show-config":
            continue
        value, name = getattr(line.parsed, option.destination), option.name
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, list):
            value = ", ".join(value)
        places = []
        if name in line.given:
            places.append("command line")
        if name in configured and (name not in line.given or name == "label"):
            places.append(CONFIG_FILE_NAME)
        yield f"--{name}", value or "-", " and ".join(places) or "default"


def _directory_of(command: Command, parsed: Namespace, positional: Sequence[str]) -> str:
    """Return the directory that a command reads; "" for none.

    It is the current one by default, unless it comes after another argument.
    """
    place = next(i for i, one in enumerate(command.arguments) if one.completes == "directory")
    if len(positional) > place:
        return positional[place]
    return getattr(parsed, "directory", None) or ("" if place else ".")


def _check_settings(directory: str, settings: Sequence[Setting]) -> None:
    """Check the values of the file as those of a command line. Raises KontextError."""
    try:
        parsed, _ = parse_flags(PUSH, [f"--{option}={value}" for option, value in settings])
        _options_of(parsed, parsed.tag or (), directory)
    except UsageError as error:
        raise unusable(directory, error.message) from error


def _tags_of(parsed: Namespace) -> Sequence[str]:
    """Return the tags on a command line, of which some commands take one."""
    tags = getattr(parsed, "tag", None) or ()
    return (tags,) if isinstance(tags, str) else tags


# --- Values ---


def _platforms(text: str) -> tuple[str, ...]:
    """Return the platforms of a list with commas, in the order of PLATFORMS."""
    names = text.split(",")
    if ALL_PLATFORMS in names:
        return PLATFORMS
    return tuple(platform for platform in PLATFORMS if platform in names)


def _is_several(platforms: str | None) -> bool:
    return len(_platforms(platforms or "")) > 1


def _created(epoch: str) -> str:
    """Return SOURCE_DATE_EPOCH as RFC 3339 has it (reproducible-builds.org)."""
    if not epoch:
        return ""
    try:
        moment = datetime.fromtimestamp(int(epoch), timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"invalid SOURCE_DATE_EPOCH {epoch!r}: it must be seconds since 1970"
        ) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _layers(text: str) -> int:
    if not (re.fullmatch("[0-9]{1,3}", text) and 2 <= int(text) <= LAYER_LIMIT):
        raise invalid("max-layers", text, f"docker runs 2 to {LAYER_LIMIT}")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not is_utf8(text):
        raise invalid("label", text, "it is not UTF-8")
    if not key or not value or "\r" in text:
        raise invalid("label", text, "it must be KEY=VALUE, with both parts")
    return key, value
