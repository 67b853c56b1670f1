"""The table of commands: their flags and arguments, as help and completion show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext_plugin.cli.flags import Argument, Command, Option, parse_duration
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.secret_scan import SecretMode
from kontext_plugin.terminal import PROGRESS_MODES

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace

REUSE = ("auto", "always", "own", "never")

ALL_PLATFORMS = "all"

SECRETS = tuple(mode.value for mode in SecretMode)

FORMATS = ("table", "json")

DEFAULT_TIMEOUT = 60.0
"""Seconds without progress: the time that proxies commonly wait for a server."""

# --- Options of several commands ---

_INSECURE = Option("insecure", "Allow plain http and unknown certificates")

_TIMEOUT = Option(
    "timeout",
    "Give up after this time without progress (default 60s; 0 waits for ever)",
    kind="duration",
)

_FORMAT = Option(
    "format", "Format of the output: table or json (default table)", kind="string", values=FORMATS
)

_IGNORE_FILE = Option(
    "ignore-file",
    "File with ignore rules (default DIR/.kontextignore, else DIR/.dockerignore)",
    kind="string",
    completes="file",
)

_GIT = Option("git", "Keep every .git (skipped by default)")

_GITIGNORE = Option("gitignore", "Also skip what git ignores")

_NO_GIT_LABELS = Option("no-git-labels", "Do not label the image with git's commit and remote")

_SINGLE_LAYER = Option(
    "single-layer", "Put everything into one layer, for tools that read only one"
)

_BASE = Option("base", "Base image (default: none)", kind="string")

_LABEL = Option("label", "Set a label on the image: KEY=VALUE", kind="list")

_COMPRESSION = Option(
    "compression",
    "Compression of the new layers: gzip, or zstd for docker 23, containerd and podman (default "
    "that of the image to build on, or gzip)",
    kind="string",
    values=("gzip", "zstd"),
)

_MAX_LAYERS = Option("max-layers", "Maximum number of layers (default 64)", kind="int")

_PLATFORM = Option(
    "platform",
    f"Platforms of the image: a list of {' and '.join(PLATFORMS)}, or all (default: those of the "
    f"image under the tag, or {PLATFORMS[0]})",
    kind="string",
    values=(*PLATFORMS, ALL_PLATFORMS),
    is_list=True,
)

_FROM = Option(
    "from", "Also build on this image, if that uploads less", kind="list", completes="reference"
)

_REUSE = Option(
    "reuse",
    "Which images to build on: auto, always (also if starting fresh is better), own (only those "
    "that this machine pushed) or never (default auto)",
    kind="string",
    values=REUSE,
)

_SECRETS = Option(
    "secrets",
    "How to treat secrets: auto blocks tokens and warns about the rest; or warn, block, off "
    "(default auto)",
    kind="string",
    values=SECRETS,
)

_PROGRESS = Option(
    "progress",
    "How to show progress: auto, tty, plain, json or quiet (default auto)",
    kind="string",
    values=PROGRESS_MODES,
)

_DIRECTORY = Argument("DIR", "directory", optional=True)

_REFERENCE = Argument("REF", "reference")

# --- The commands. Lines of a description have at most 80 columns. ---

PUSH = Command(
    name="push",
    summary="Upload a directory, or only what changed in it",
    usage="[OPTIONS] -t REF [DIR]",
    description=(
        "Upload a directory to a registry as a self-extracting image.\n"
        "A later push uploads one layer with only what changed, under any tag.\n"
        "DIR defaults to the current directory. Prints REPOSITORY@DIGEST on stdout."
    ),
    options=(
        Option(
            "tag",
            "Where to push: REGISTRY/REPOSITORY[:TAG] (required, here or in .kontext.toml)",
            "t",
            kind="list",
            completes="reference",
        ),
        _BASE,
        Option("check-parent", "Check the files in the layers of the image to build on"),
        _COMPRESSION,
        Option("directory", "The same as DIR", kind="string", hidden=True, completes="directory"),
        Option("dry-run", "Show what a push would upload, and change nothing"),
        Option("fresh", "Build on no earlier image, and read all files again"),
        _FROM,
        _GIT,
        _GITIGNORE,
        _IGNORE_FILE,
        Option("iidfile", "Write the image's digest to this file", kind="string", completes="file"),
        _INSECURE,
        _LABEL,
        _MAX_LAYERS,
        Option(
            "metadata-file",
            "Write a description of the push to this file, as JSON",
            kind="string",
            completes="file",
        ),
        _NO_GIT_LABELS,
        _PLATFORM,
        _PROGRESS,
        Option(
            "provenance",
            "Write what the image was made of to this file, as an in-toto statement (SLSA v1)",
            kind="string",
            completes="file",
        ),
        _REUSE,
        _SECRETS,
        Option(
            "show-config", "Show the value of each option and where it is from, and push nothing"
        ),
        _SINGLE_LAYER,
        Option("quiet", "Print only the digest, errors and important warnings", "q"),
        Option("timings", "Show how long each step took"),
        _TIMEOUT,
    ),
    arguments=(_DIRECTORY,),
)

_ONE_PUSH = ("dry-run", "fresh", "iidfile", "metadata-file", "provenance", "show-config")
"""Options that make sense for a single push only."""

WATCH = Command(
    name="watch",
    summary="Push a directory each time it changes",
    usage="[OPTIONS] -t REF [DIR]",
    description=(
        "Push a directory, and push it again each time something in it changes.\n"
        "Prints REPOSITORY@DIGEST on stdout, a line for each new image. Errors do not end\n"
        "it: it tries again. Ctrl-C does. DIR defaults to the current directory."
    ),
    options=(
        *(option for option in PUSH.options if option.name not in _ONE_PUSH),
        Option("debounce", "Gather changes for this time (default 100ms)", kind="duration"),
        Option(
            "exec",
            "Run this shell command after each push, with the image in KONTEXT_IMAGE",
            kind="string",
        ),
        Option(
            "poll",
            "Read the directory at this interval (default: only where the system tells of no "
            "changes, every 2s)",
            kind="duration",
        ),
    ),
    arguments=(_DIRECTORY,),
)

DIFF = Command(
    name="diff",
    summary="Show what a push would upload, or how two images differ",
    usage="[OPTIONS] -t REF [DIR] | REF REF",
    description=(
        "Show what a push of DIR would add (A), change (C), remove (D) and rename (R),\n"
        "and how many bytes it would upload. Give the same options as for the push.\n"
        "Changes nothing.\n"
        "DIR defaults to the current directory. With two images and without --tag, show\n"
        "how the second one differs from the first one."
    ),
    options=(
        Option(
            "tag",
            "Image to compare DIR with: REGISTRY/REPOSITORY[:TAG]",
            "t",
            kind="string",
            completes="reference",
        ),
        _BASE,
        _COMPRESSION,
        _FROM,
        Option("exit-code", "Exit with 0 if no path differs, 1 if one does, 128 for a failure"),
        _FORMAT,
        _GIT,
        _GITIGNORE,
        _IGNORE_FILE,
        _INSECURE,
        _LABEL,
        _MAX_LAYERS,
        _NO_GIT_LABELS,
        _PLATFORM,
        _REUSE,
        _SINGLE_LAYER,
        Option("stat", "Show how the size of each file changes, as git diff --stat does"),
        _TIMEOUT,
    ),
    arguments=(_DIRECTORY, Argument("REF", "reference", optional=True)),
)

INSPECT = Command(
    name="inspect",
    summary="Show the structure of an image",
    usage="[OPTIONS] REF",
    description="Show the base, generation, layers, files and labels of an image.",
    options=(_FORMAT, _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE,),
)

LOG = Command(
    name="log",
    summary="List the generations of an image",
    usage="[OPTIONS] REF",
    description=(
        "List the generations of an image that its manifest and this machine know: when\n"
        "each was pushed, of which commit, and how many files it added (+), changed (~)\n"
        "and removed (-). Other commands take REF~N for the image N generations back."
    ),
    options=(_FORMAT, _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE,),
)

LS = Command(
    name="ls",
    summary="List the files in an image",
    usage="[OPTIONS] REF [PATH]",
    description=(
        "List the top directory of an image's sources, or the directory or file PATH.\n"
        "Reads only the manifest."
    ),
    options=(
        _FORMAT,
        _INSECURE,
        Option("long", "Also show the mode, the size, and the target of a link", "l"),
        Option("recursive", "Also list everything in directories below", "R"),
        _TIMEOUT,
    ),
    arguments=(_REFERENCE, Argument("PATH", "path", optional=True)),
)

PULL = Command(
    name="pull",
    summary="Write an image's files into a directory, without docker",
    usage="[OPTIONS] REF [DIR]",
    description=(
        "Write an image's files into a directory, without docker. Files that are already\n"
        "right stay untouched. DIR defaults to the current directory."
    ),
    options=(
        Option("mirror", "Then delete everything in DIR that the image does not have, except .git"),
        Option("quiet", "Print only errors", "q"),
        _INSECURE,
        _TIMEOUT,
    ),
    arguments=(_REFERENCE, _DIRECTORY),
)

VERIFY = Command(
    name="verify",
    summary="Check that an image, its manifest and a directory match",
    usage="[OPTIONS] REF [DIR]",
    description=(
        "Read all files in an image, and compare them with its manifest. With DIR, also\n"
        "compare the manifest with DIR, as a push would see it. Exits with 1 if\n"
        "something differs."
    ),
    options=(_FORMAT, _GIT, _GITIGNORE, _IGNORE_FILE, _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE, _DIRECTORY),
)

RUN = Command(
    name="run",
    summary="Run an image's extractor on a directory",
    usage="[OPTIONS] REF [-- ARGS...]",
    description=(
        "Pull an image into the Docker daemon, and run its extractor on a directory of\n"
        "this machine. ARGS are arguments of the extractor: --mirror, --verify, --quiet.\n"
        "The exit code is that of the extractor."
    ),
    options=(
        Option(
            "workspace",
            "Directory to write to (default: the current one)",
            "w",
            kind="string",
            completes="directory",
        ),
        Option("user", "Run as UID[:GID] (default: you)", "u", kind="string"),
        Option("quiet", "Print only the extractor's output, and errors", "q"),
        _INSECURE,
        _TIMEOUT,
    ),
    arguments=(_REFERENCE, Argument("ARGS", optional=True, many=True)),
)

LOAD = Command(
    name="load",
    summary="Pull an image into the Docker daemon",
    usage="[OPTIONS] REF",
    description=(
        "Pull an image into the Docker daemon, under its name.\nPrints REPOSITORY@DIGEST on stdout."
    ),
    options=(Option("quiet", "Print only the digest, and errors", "q"), _INSECURE, _TIMEOUT),
    arguments=(_REFERENCE,),
)

PURGE = Command(
    name="purge",
    summary="Publish an image again, without the removed files in its layers",
    usage="[OPTIONS] REF",
    description=(
        "Publish the image's current files again, as a new image of generation 0, under\n"
        "the same tag. Files that were pushed once and removed later are not in its\n"
        "layers. Shows what the registry still has of the old image, and how to delete\n"
        "it. Prints REPOSITORY@DIGEST on stdout."
    ),
    options=(
        Option("base", "Base image of REF, if the push had --base", kind="string"),
        Option("quiet", "Print only the digest, errors, and what the registry still has", "q"),
        _INSECURE,
        _SECRETS,
        _TIMEOUT,
    ),
    arguments=(_REFERENCE,),
)

STATUS = Command(
    name="status",
    summary="Show what a directory was last pushed as, and whether it has changed",
    usage="[OPTIONS] [DIR]",
    description=(
        "Show what this machine last pushed DIR as, and what has changed in DIR since.\n"
        "Asks no registry, except with --remote. Changes nothing.\n"
        "DIR defaults to the current directory."
    ),
    options=(
        _FORMAT,
        _GIT,
        _GITIGNORE,
        _IGNORE_FILE,
        _INSECURE,
        Option("remote", "Also ask the registry whether the tags still show the image"),
        _TIMEOUT,
    ),
    arguments=(_DIRECTORY,),
)

DOCTOR = Command(
    name="doctor",
    summary="Check everything that Kontext needs, and say how to repair it",
    usage="[OPTIONS] [REGISTRY | REF]",
    description=(
        "Check crane, docker, the daemon, the plugin's link and the cache. With a\n"
        "registry or an image, also check the credentials for it and whether it answers.\n"
        "Exits with 1 if something that a push needs is broken."
    ),
    options=(_FORMAT, _INSECURE, _TIMEOUT),
    arguments=(Argument("REGISTRY", "registry", optional=True),),
)

INSTALL = Command(
    name="install",
    summary="Link Kontext into docker's plugins, and get crane",
    usage="[OPTIONS]",
    description=(
        "Link this installation into docker's plugin directory, so that docker finds\n"
        "'docker kontext'. If crane is missing or too old, download its pinned release\n"
        "and check it. Replaces nothing that is not Kontext's."
    ),
    options=(
        Option(
            "crane",
            "The crane to use: release, none, or the path of yours (default: the one that is "
            "found, else release)",
            kind="string",
            completes="file",
        ),
    ),
)

UNINSTALL = Command(
    name="uninstall",
    summary="Remove what 'install' has made",
    usage="",
    description=(
        "Remove the link in docker's plugin directory, and the crane that 'install' has\n"
        "put into Kontext's data directory. Then show how to remove the package."
    ),
)

CACHE = Command(
    name="cache",
    summary="Show or empty the cache",
    usage="[OPTIONS] ls | prune",
    description=(
        "Show what the cache holds ('cache ls'), or empty it ('cache prune').\n"
        "Emptying it is safe: the next push reads all files again."
    ),
    options=(_FORMAT,),
    arguments=(Argument("COMMAND", values=("ls", "prune")),),
)

VERSION = Command("version", "Show the version of Kontext", "", "Show the version of Kontext")

COMMANDS = {
    command.name: command
    for command in (
        CACHE,
        DIFF,
        DOCTOR,
        INSPECT,
        INSTALL,
        LOAD,
        LOG,
        LS,
        PULL,
        PURGE,
        PUSH,
        RUN,
        STATUS,
        UNINSTALL,
        VERIFY,
        VERSION,
        WATCH,
    )
}


def timeout_of(parsed: Namespace) -> float:
    """Return the seconds of --timeout, or the default. Raises UsageError."""
    return parse_duration("timeout", parsed.timeout) if parsed.timeout else DEFAULT_TIMEOUT
