"""The command line of each command: what docker shows in its help, and offers for completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext_plugin.cli.flags import Argument, Command, Option, parse_duration
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.secret_scan.modes import SecretMode
from kontext_plugin.terminal.progress import PROGRESS_MODES

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace


def timeout_of(parsed: Namespace) -> float:
    """What --timeout says, in seconds. Raises UsageError."""
    return parse_duration("timeout", parsed.timeout) if parsed.timeout else DEFAULT_TIMEOUT


REUSE = ("auto", "always", "never")

SECRETS = tuple(mode.value for mode in SecretMode)

FORMATS = ("table", "json")
DEFAULT_TIMEOUT = 60.0
"""Seconds without progress: what proxies commonly wait for a server."""


_INSECURE = Option("insecure", "Allow plain http and unknown certificates")

_TIMEOUT = Option(
    "timeout",
    "Give up after this time without progress (default 60s; 0 waits for ever)",
    kind="duration",
)

_FORMAT = Option("format", "table or json (default table)", kind="string", values=FORMATS)

_IGNORE_FILE = Option(
    "ignore-file",
    "File with ignore rules (default .kontextignore, else .dockerignore, in DIR)",
    kind="string",
    completes="file",
)

_GIT = Option("git", "Keep .git, which is left out by default")

_GITIGNORE = Option("gitignore", "Leave out what git ignores, too")

_NO_GIT_LABELS = Option("no-git-labels", "Do not label the image with git's commit and remote")

_SINGLE_LAYER = Option("single-layer", "Make one layer of everything, for tools that read only one")

_BASE = Option(
    "base", "Image to build on, instead of the one with the extractor alone", kind="string"
)

_LABEL = Option("label", "Set a label, KEY=VALUE, on the image", kind="list")

_MAX_LAYERS = Option("max-layers", "Have at most so many layers (default 64)", kind="int")

_PLATFORM = Option(
    "platform",
    f"{' or '.join(PLATFORMS)} (default {PLATFORMS[0]})",
    kind="string",
    values=PLATFORMS,
)

_SECRETS = Option(
    "secrets",
    "What to do about secrets in what is uploaded: auto blocks tokens and warns of what may be a "
    "secret; warn, block or off (default auto)",
    kind="string",
    values=SECRETS,
)

_PROGRESS = Option(
    "progress",
    "How to show what goes on: auto, tty, plain, json or quiet (default auto)",
    kind="string",
    values=PROGRESS_MODES,
)

_DIRECTORY = Argument("DIR", "directory", optional=True)

_REFERENCE = Argument("REF", "reference")

PUSH = Command(
    name="push",
    summary="Upload a directory, or only what changed of it",
    usage="[OPTIONS] -t REF [DIR]",
    description=(
        "Upload a directory to a registry as a self-extracting image.\n"
        "A later push to the same tag uploads one layer with only what changed.\n"
        "DIR defaults to the current directory. Prints REPOSITORY@DIGEST on stdout."
    ),
    options=(
        Option(
            "tag",
            "Where to push: REGISTRY/REPOSITORY[:TAG] (required)",
            "t",
            kind="list",
            completes="reference",
        ),
        _BASE,
        Option("directory", "The same as DIR", kind="string", hidden=True, completes="directory"),
        Option("dry-run", "Say what would be uploaded, and change nothing"),
        Option("fresh", "Reuse nothing of the image under the tag"),
        _GIT,
        _GITIGNORE,
        _IGNORE_FILE,
        Option("iidfile", "Write the image's digest to this file", kind="string", completes="file"),
        _INSECURE,
        _LABEL,
        _MAX_LAYERS,
        Option(
            "metadata-file",
            "Write what was published to this file, as JSON",
            kind="string",
            completes="file",
        ),
        _NO_GIT_LABELS,
        _PLATFORM,
        _PROGRESS,
        Option(
            "reuse",
            "Whether to build on the image under the tag: auto, always or never (default auto)",
            kind="string",
            values=REUSE,
        ),
        _SECRETS,
        _SINGLE_LAYER,
        Option("quiet", "Print the digest, errors and warnings of secrets only", "q"),
        Option("timings", "Say what each step took"),
        _TIMEOUT,
    ),
    arguments=(_DIRECTORY,),
)

DIFF = Command(
    name="diff",
    summary="Show what a push would upload",
    usage="[OPTIONS] -t REF [DIR]",
    description=(
        "Show what a push of DIR would add (A), change (C) and remove (D), and how many bytes\n"
        "it would upload, given the same options. Changes nothing. DIR defaults to the current\n"
        "directory."
    ),
    options=(
        Option(
            "tag",
            "The image to compare with: REGISTRY/REPOSITORY[:TAG] (required)",
            "t",
            kind="string",
            completes="reference",
        ),
        _BASE,
        Option("exit-code", "Exit with 1 if paths differ, 0 if none does, 128 if that failed"),
        _FORMAT,
        _GIT,
        _GITIGNORE,
        _IGNORE_FILE,
        _INSECURE,
        _LABEL,
        _MAX_LAYERS,
        _NO_GIT_LABELS,
        _PLATFORM,
        _SINGLE_LAYER,
        _TIMEOUT,
    ),
    arguments=(_DIRECTORY,),
)

INSPECT = Command(
    name="inspect",
    summary="Show how an image is made up",
    usage="[OPTIONS] REF",
    description="Show an image's base, generation, layers, files and labels.",
    options=(_FORMAT, _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE,),
)

LS = Command(
    name="ls",
    summary="List the files in an image",
    usage="[OPTIONS] REF [PATH]",
    description="List what an image has of sources, or has at PATH, from its manifest alone.",
    options=(_FORMAT, _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE, Argument("PATH", optional=True)),
)

PULL = Command(
    name="pull",
    summary="Write an image's sources into a directory",
    usage="[OPTIONS] REF [DIR]",
    description=(
        "Write an image's sources into a directory, without docker. What is right there already\n"
        "is not touched. DIR defaults to the current directory."
    ),
    options=(
        Option("mirror", "Remove what the image does not have; .git is kept"),
        Option("quiet", "Print errors only", "q"),
        _INSECURE,
        _TIMEOUT,
    ),
    arguments=(_REFERENCE, _DIRECTORY),
)

VERIFY = Command(
    name="verify",
    summary="Prove that an image, its manifest and a directory are one",
    usage="[OPTIONS] REF [DIR]",
    description=(
        "Read all of an image's sources and compare their content with its manifest, and with DIR\n"
        "as a push would see it, where DIR is given. Exits with 1 if they differ."
    ),
    options=(_FORMAT, _GIT, _GITIGNORE, _IGNORE_FILE, _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE, _DIRECTORY),
)

RUN = Command(
    name="run",
    summary="Run an image: copy its sources into a workspace",
    usage="[OPTIONS] REF [-- ARGS...]",
    description=(
        "Pull an image into the Docker daemon and run its extractor on a directory of this\n"
        "machine. ARGS are the extractor's: --mirror, --verify, --quiet. Its exit code is ours."
    ),
    options=(
        Option(
            "workspace",
            "Directory to write to (default the current one)",
            "w",
            kind="string",
            completes="directory",
        ),
        Option("user", "Run as UID[:GID] (default whoever runs docker)", "u", kind="string"),
        Option("quiet", "Print what the extractor says, and errors only", "q"),
        _INSECURE,
        _TIMEOUT,
    ),
    arguments=(_REFERENCE, Argument("ARGS", optional=True, many=True)),
)

LOAD = Command(
    name="load",
    summary="Put an image into the Docker daemon",
    usage="[OPTIONS] REF",
    description=(
        "Pull an image into the Docker daemon, under its name. Prints REPOSITORY@DIGEST on stdout."
    ),
    options=(Option("quiet", "Print the digest and errors only", "q"), _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE,),
)

PURGE = Command(
    name="purge",
    summary="Publish an image anew, without removed files in its layers",
    usage="[OPTIONS] REF",
    description=(
        "Publish the sources that an image shows as a new one of a single generation, under the\n"
        "same tag: what was pushed once and removed later is not in its layers. Says what the\n"
        "registry still has of the old ones, and how to remove it. Prints REPOSITORY@DIGEST."
    ),
    options=(
        Option("base", "The image it was built on, if that was given to push", kind="string"),
        Option("quiet", "Print the digest, errors, and what the registry still has", "q"),
        _INSECURE,
        _SECRETS,
        _TIMEOUT,
    ),
    arguments=(_REFERENCE,),
)

DOCTOR = Command(
    name="doctor",
    summary="Check what Kontext needs, and say what to do",
    usage="[OPTIONS] [REGISTRY | REF]",
    description=(
        "Check crane, docker, the daemon, the plugin's link and the cache; and, for a registry or\n"
        "an image, which source of credentials answers for it, and whether it lets us in.\n"
        "Exits with 1 if something that a push needs is broken."
    ),
    options=(_FORMAT, _INSECURE, _TIMEOUT),
    arguments=(Argument("REGISTRY", "registry", optional=True),),
)

INSTALL = Command(
    name="install",
    summary="Link Kontext into docker's plugins",
    usage="",
    description="Link this installation into docker's plugin directory, for 'docker kontext'.",
)

CACHE = Command(
    name="cache",
    summary="Show or empty the cache",
    usage="[OPTIONS] ls | prune",
    description=(
        "Show what the cache holds ('cache ls'), or empty it ('cache prune').\n"
        "It is never needed: an emptied one makes the next push read all files again."
    ),
    options=(_FORMAT,),
    arguments=(Argument("COMMAND", values=("ls", "prune")),),
)

VERSION = Command("version", "Show Kontext's version", "", "Show Kontext's version")

COMMANDS = {
    command.name: command
    for command in (
        CACHE,
        DIFF,
        DOCTOR,
        INSPECT,
        INSTALL,
        LOAD,
        LS,
        PULL,
        PURGE,
        PUSH,
        RUN,
        VERIFY,
        VERSION,
    )
}
