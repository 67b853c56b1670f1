"""What is asked of `docker kontext push`, and what its options must be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kontext_plugin import crane, options, reference
from kontext_plugin.base_choice import MAX_LAYERS, MOST_LAYERS
from kontext_plugin.commands.table import PUSH, REUSE
from kontext_plugin.errors import UsageError
from kontext_plugin.image import PLATFORMS
from kontext_plugin.reference import Reference
from kontext_plugin.tree import is_utf8


@dataclass(frozen=True)
class Options:
    tags: tuple[Reference, ...]  # at least one; the first is the one that is built upon
    directory: str = "."
    base: str = ""  # "": the one that ships with Kontext
    platform: str = PLATFORMS[0]
    labels: Mapping[str, str] = field(default_factory=dict)
    ignore_file: str = ""  # "": the first of IGNORE_FILES that the directory has
    keep_git: bool = False
    reuse: str = REUSE[0]
    max_layers: int = MAX_LAYERS
    single_layer: bool = False  # nothing but one layer, for consumers that read no more
    fresh: bool = False  # reuse nothing, not even what is known of the directory
    dry_run: bool = False
    insecure: bool = False
    timings: bool = False
    timeout: float = crane.TIMEOUT  # seconds without progress; 0: none


_EXCLUSIVE = (
    ("single_layer", "base"),
    ("single_layer", "reuse"),
    ("single_layer", "max_layers"),
    ("fresh", "reuse"),
)
"""Of which one would silently overrule the other."""


def parse(arguments: Sequence[str]) -> tuple[Options, bool]:
    """What to push, and whether to be quiet about it. Raises UsageError."""
    parsed, positional = options.parse(PUSH, arguments)
    if parsed.directory is not None and positional:
        raise UsageError("give either DIR or --directory, not both")
    if not parsed.tag:
        raise UsageError("docker: 'docker kontext push' requires --tag")
    for one, other in _EXCLUSIVE:
        if getattr(parsed, one) and getattr(parsed, other):
            flags = [f"--{name.replace('_', '-')}" for name in (one, other)]
            raise UsageError(f"{flags[0]} and {flags[1]} cannot be given together")

    pushed = Options(
        tags=tuple(reference.parse(text) for text in parsed.tag),
        directory=positional[0] if positional else parsed.directory or ".",
        base=parsed.base or "",
        platform=parsed.platform or PLATFORMS[0],
        labels=dict(_label(text) for text in parsed.label or ()),
        ignore_file=parsed.ignore_file or "",
        keep_git=parsed.git,
        reuse=parsed.reuse or REUSE[0],
        max_layers=_layers(parsed.max_layers) if parsed.max_layers else MAX_LAYERS,
        single_layer=parsed.single_layer,
        fresh=parsed.fresh,
        dry_run=parsed.dry_run,
        insecure=parsed.insecure,
        timings=parsed.timings,
        timeout=(options.seconds("timeout", parsed.timeout) if parsed.timeout else crane.TIMEOUT),
    )
    return pushed, parsed.quiet


def _layers(text: str) -> int:
    if not (re.fullmatch("[0-9]{1,3}", text) and 2 <= int(text) <= MOST_LAYERS):
        raise options.invalid("max-layers", text, f"docker runs 2 to {MOST_LAYERS}")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not is_utf8(text):
        raise options.invalid("label", text, "it is not UTF-8")
    if not key or not value or "\r" in text:
        raise options.invalid("label", text, "it must be KEY=VALUE, both not empty")
    return key, value
