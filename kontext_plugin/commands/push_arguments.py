"""The command line of `docker kontext push`: its options, their help, and what they must be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kontext_plugin import options
from kontext_plugin.errors import UsageError
from kontext_plugin.options import Command, Option

if TYPE_CHECKING:
    from kontext_plugin.commands.push import Options

PUSH = Command(
    name="push",
    summary="Upload a directory, or only what changed of it",
    usage="[OPTIONS] [DIR]",
    description=(
        "Upload a directory to a registry as a self-extracting image.\n"
        "A later push to the same tag uploads one layer with only what changed.\n"
        "DIR defaults to the current directory. Prints REPOSITORY@DIGEST on stdout."
    ),
    options=(
        Option("single-layer", "Make one layer of everything, for tools that read only one"),
        Option("tag", "Where to push: REGISTRY/REPOSITORY[:TAG] (required)", "t", kind="list"),
        Option(
            "base", "Image to build on, instead of the one with the extractor alone", kind="string"
        ),
        Option("directory", "The same as DIR", kind="string", hidden=True),
        Option("dry-run", "Say what would be uploaded, and change nothing"),
        Option("fresh", "Reuse nothing of the image under the tag"),
        Option("git", "Keep .git, which is left out by default"),
        Option(
            "ignore-file",
            "File with ignore rules (default .kontextignore, else .dockerignore, in DIR)",
            kind="string",
        ),
        Option("insecure", "Allow plain http and unknown certificates"),
        Option("label", "Set a label, KEY=VALUE, on the image", kind="list"),
        Option("max-layers", "Have at most so many layers (default 64)", kind="int"),
        Option("platform", "linux/amd64 or linux/arm64 (default linux/amd64)", kind="string"),
        Option(
            "reuse",
            "Whether to build on the image under the tag: auto, always or never (default auto)",
            kind="string",
        ),
        Option("quiet", "Print the digest and errors only", "q"),
        Option("timings", "Say what each step took"),
        Option(
            "timeout",
            "Give up after this time without progress (default 60s; 0 waits for ever)",
            kind="duration",
        ),
    ),
    max_arguments=1,
)


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

    from kontext_plugin import base, crane, reference  # neither --help nor completion needs them
    from kontext_plugin.base_choice import MAX_LAYERS
    from kontext_plugin.commands import push

    pushed = push.Options(
        tags=tuple(reference.parse(text) for text in parsed.tag),
        directory=positional[0] if positional else parsed.directory or ".",
        base=parsed.base or "",
        platform=_one_of("platform", parsed.platform, base.PLATFORMS),
        labels=dict(_label(text) for text in parsed.label or ()),
        ignore_file=parsed.ignore_file or "",
        keep_git=parsed.git,
        reuse=_one_of("reuse", parsed.reuse, push.REUSE),
        max_layers=_layers(parsed.max_layers) if parsed.max_layers else MAX_LAYERS,
        single_layer=parsed.single_layer,
        fresh=parsed.fresh,
        dry_run=parsed.dry_run,
        insecure=parsed.insecure,
        timings=parsed.timings,
        timeout=(options.seconds("timeout", parsed.timeout) if parsed.timeout else crane.TIMEOUT),
    )
    return pushed, parsed.quiet


def _one_of(name: str, given: str | None, allowed: Sequence[str]) -> str:
    if given is None:
        return allowed[0]
    if given not in allowed:
        *others, last = allowed
        raise options.invalid(name, given, f"it must be {', '.join(others)} or {last}")
    return given


def _layers(text: str) -> int:
    from kontext_plugin.base_choice import MOST_LAYERS

    if not (re.fullmatch("[0-9]{1,3}", text) and 2 <= int(text) <= MOST_LAYERS):
        raise options.invalid("max-layers", text, f"docker runs 2 to {MOST_LAYERS}")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    from kontext_plugin.tree import is_utf8

    key, _, value = text.partition("=")
    if not is_utf8(text):
        raise options.invalid("label", text, "it is not UTF-8")
    if not key or not value or "\r" in text:
        raise options.invalid("label", text, "it must be KEY=VALUE, both not empty")
    return key, value
