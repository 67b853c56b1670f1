"""What is asked of `docker kontext push`, and what its options must be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kontext_plugin.cli.flags import invalid, parse
from kontext_plugin.cli.options import DEFAULT_TIMEOUT, PUSH, REUSE, SECRETS, timeout_of
from kontext_plugin.errors import UsageError
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.image.spec import MAX_LAYERS, MOST_LAYERS, PLATFORMS
from kontext_plugin.image.tree import is_utf8
from kontext_plugin.terminal import progress

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace


@dataclass(frozen=True)
class PushOptions:
    tags: tuple[Reference, ...]  # at least one; the first is the one that is built upon
    directory: str = "."
    base: str = ""  # "": the one that ships with Kontext
    platform: str = PLATFORMS[0]
    labels: Mapping[str, str] = field(default_factory=dict)
    ignore_file: str = ""  # "": the first of IGNORE_FILES that the directory has
    keep_git: bool = False
    gitignore: bool = False  # leave out what git ignores as well
    git_labels: bool = True
    reuse: str = REUSE[0]
    max_layers: int = MAX_LAYERS
    single_layer: bool = False  # nothing but one layer, for consumers that read no more
    secrets: str = SECRETS[0]
    fresh: bool = False  # reuse nothing, not even what is known of the directory
    dry_run: bool = False
    insecure: bool = False
    timings: bool = False
    timeout: float = DEFAULT_TIMEOUT  # seconds without progress; 0: none
    iidfile: str = ""
    metadata_file: str = ""


_EXCLUSIVE = (
    ("single_layer", "base"),
    ("single_layer", "reuse"),
    ("single_layer", "max_layers"),
    ("fresh", "reuse"),
    ("dry_run", "iidfile"),
    ("dry_run", "metadata_file"),
)
"""Of which one would silently overrule the other, or leave it nothing to do."""


def parse_push(arguments: Sequence[str]) -> tuple[PushOptions, str]:
    """What to push, and how to tell of it, for `progress.told`. Raises UsageError."""
    parsed, positional = parse(PUSH, arguments)
    if parsed.directory is not None and positional:
        raise UsageError("give either DIR or --directory, not both")
    if not parsed.tag:
        raise UsageError("docker: 'docker kontext push' requires --tag")
    pushed = replace(
        shared_options(
            parsed, parsed.tag, positional[0] if positional else parsed.directory or "."
        ),
        reuse=parsed.reuse or REUSE[0],
        secrets=parsed.secrets or SECRETS[0],
        fresh=parsed.fresh,
        dry_run=parsed.dry_run,
        timings=parsed.timings,
        iidfile=parsed.iidfile or "",
        metadata_file=parsed.metadata_file or "",
    )
    return pushed, progress.choose_mode(parsed.progress, parsed.quiet)


def shared_options(parsed: Namespace, tags: Sequence[str], directory: str) -> PushOptions:
    """What every command says that plans a push: which image to make, of what, and where.

    Raises UsageError.
    """
    for one, other in _EXCLUSIVE:
        if getattr(parsed, one, None) and getattr(parsed, other, None):
            flags = [f"--{name.replace('_', '-')}" for name in (one, other)]
            raise UsageError(f"{flags[0]} and {flags[1]} cannot be given together")
    return PushOptions(
        tags=tuple(parse_reference(text) for text in tags),
        directory=directory,
        base=parsed.base or "",
        platform=parsed.platform or PLATFORMS[0],
        labels=dict(_label(text) for text in parsed.label or ()),
        ignore_file=parsed.ignore_file or "",
        keep_git=parsed.git,
        gitignore=parsed.gitignore,
        git_labels=not parsed.no_git_labels,
        max_layers=_layers(parsed.max_layers) if parsed.max_layers else MAX_LAYERS,
        single_layer=parsed.single_layer,
        insecure=parsed.insecure,
        timeout=timeout_of(parsed),
    )


def _layers(text: str) -> int:
    if not (re.fullmatch("[0-9]{1,3}", text) and 2 <= int(text) <= MOST_LAYERS):
        raise invalid("max-layers", text, f"docker runs 2 to {MOST_LAYERS}")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not is_utf8(text):
        raise invalid("label", text, "it is not UTF-8")
    if not key or not value or "\r" in text:
        raise invalid("label", text, "it must be KEY=VALUE, both not empty")
    return key, value
