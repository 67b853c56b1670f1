"""The options of a push, parsed and checked."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from kontext_plugin.cli.flags import check_arguments, invalid, parse_flags
from kontext_plugin.cli.options import ALL_PLATFORMS, DEFAULT_TIMEOUT, PUSH, REUSE, timeout_of
from kontext_plugin.errors import UsageError
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.reference import Reference, parse_image_reference, parse_reference
from kontext_plugin.image.spec import LAYER_LIMIT, MAX_LAYERS
from kontext_plugin.image.tree import is_utf8
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


_EXCLUSIVE = (
    ("single_layer", "base"),
    ("single_layer", "reuse"),
    ("single_layer", "max_layers"),
    ("fresh", "reuse"),
    ("fresh", "from"),
    ("single_layer", "from"),
    ("dry_run", "iidfile"),
    ("dry_run", "metadata_file"),
)
"""Pairs of options of which one would silently overrule the other."""


def parse_push(arguments: Sequence[str]) -> tuple[PushOptions, str]:
    """Return the options of a push, and its progress mode. Raises UsageError."""
    parsed, positional = parse_tagged(PUSH, arguments)
    if parsed.directory is not None and positional:
        raise UsageError("give either DIR or --directory, not both")
    options = replace(
        shared_options(
            parsed, parsed.tag, positional[0] if positional else parsed.directory or "."
        ),
        check_parent=parsed.check_parent,
        secrets=SecretMode(parsed.secrets or SecretMode.AUTO),
        fresh=parsed.fresh,
        dry_run=parsed.dry_run,
        timings=parsed.timings,
        iidfile=parsed.iidfile or "",
        metadata_file=parsed.metadata_file or "",
    )
    return options, progress.choose_mode(parsed.progress, parsed.quiet)


def shared_options(parsed: Namespace, tags: Sequence[str], directory: str) -> PushOptions:
    """Return the options that every command has that plans a push. Raises UsageError."""
    if parsed.single_layer and len(_platforms(parsed.platform or "")) > 1:
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
        created=_created(os.environ.get("SOURCE_DATE_EPOCH", "")),
        insecure=parsed.insecure,
        timeout=timeout_of(parsed),
    )


def parse_tagged(command: Command, arguments: Sequence[str]) -> tuple[Namespace, Sequence[str]]:
    """Return the flags and arguments of a command that needs --tag. Raises UsageError."""
    parsed, positional = parse_flags(command, arguments)
    if not parsed.tag:  # before the arguments are counted: one of them may be the tag
        raise _missing_tag(command.name, positional)
    check_arguments(command, positional)
    return parsed, positional


def _missing_tag(command: str, positional: Sequence[str]) -> UsageError:
    """Return the error for a missing -t, with a hint where a reference was given without it."""
    hint = ""
    if positional and not os.path.exists(positional[0]):
        with contextlib.suppress(UsageError):
            parse_reference(positional[0])
            hint = f"Did you mean 'docker kontext {command} -t {shlex.join(positional)}'?"
    return UsageError(f"docker: 'docker kontext {command}' requires --tag", hint=hint)


def _platforms(text: str) -> tuple[str, ...]:
    """Return the platforms of a list with commas, in the order of PLATFORMS."""
    names = text.split(",")
    if ALL_PLATFORMS in names:
        return PLATFORMS
    return tuple(platform for platform in PLATFORMS if platform in names)


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
