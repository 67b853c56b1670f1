"""`docker kontext run`: an image's extractor fills a directory of this machine."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kontext_plugin.cli.flags import Globals, invalid, parse
from kontext_plugin.cli.options import RUN, timeout_of
from kontext_plugin.commands.load import load
from kontext_plugin.crane import connect
from kontext_plugin.engine import daemon
from kontext_plugin.engine.daemon import Container
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.image.tree import Tree
from kontext_plugin.registry.base_image import ENTRYPOINT, WORKDIR
from kontext_plugin.registry.fetch import KontextImage, fetch
from kontext_plugin.terminal.messages import Report, put_stdout
from kontext_plugin.terminal.text import printable
from kontext_plugin.workspace import GIT, check_mirror

_ROOT = ("DAC_OVERRIDE", "FOWNER")
"""What makes root of a user 0: it writes where others may not, and changes modes of what is not its
own. Nobody else needs any capability."""

_MIRROR = re.compile("--?mirror(?:=.*)?", re.DOTALL)
"""The extractor's option, in the spellings that Go takes."""


@dataclass(frozen=True)
class Identity:
    """Whom the extractor runs as."""

    user: str  # UID[:GID]
    groups: tuple[int, ...] = ()

    @property
    def capabilities(self) -> tuple[str, ...]:
        return _ROOT if int(self.user.partition(":")[0]) == 0 else ()


def main(arguments: Sequence[str], flags: Globals) -> int:
    try:
        parsed, (text, *extractors) = parse(RUN, arguments)
    except UsageError as error:
        raise _hinted(error, arguments) from None
    if parsed.user and not re.fullmatch(r"[0-9]{1,10}(:[0-9]{1,10})?", parsed.user):
        raise invalid("user", parsed.user, "it must be UID or UID:GID")
    report = Report(quiet=parsed.quiet, show_debug=flags.debug)
    workspace = workspace_of(parsed.workspace or ".")

    docker = daemon.connect(flags)
    if not docker.endpoint.is_local:
        report.warning(f"the workspace is {workspace!r} on the machine of {docker.endpoint.host}")
    name = parse_image_reference(text)
    link = connect(report, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with link as (crane, threads):
        found = fetch(crane, threads, name)
    check_entrypoint(name, found)
    check_removal(extractors, workspace, found.manifest.tree)
    image = load(docker, parsed, name, found, report)
    wanted = identity(parsed.user or "", docker.security())
    if docker.endpoint.is_local:
        make(workspace)
    report.info(f"Mounting {workspace!r} as {WORKDIR}, for user {wanted.user}")
    container = Container(
        image=image,
        entrypoint=ENTRYPOINT,
        arguments=extractors,
        directory=workspace,
        target=WORKDIR,
        user=wanted.user,
        groups=wanted.groups,
        capabilities=wanted.capabilities,
    )
    with docker.container(container) as running:
        _pass_on(running.output())
        code = running.exit_code()
    if code and found.settings and (platform := docker.platform()) != found.settings["platform"]:
        report.notice(
            f"The image is for {found.settings['platform']}, and the daemon runs {platform}: "
            "'docker kontext pull' does without either"
        )
    return code


def _hinted(error: UsageError, arguments: Sequence[str]) -> UsageError:
    """With what who knows `docker run` has to be told."""
    if (
        error.message.startswith(("unknown flag", "unknown shorthand flag"))
        and "--" not in arguments
    ):
        return UsageError(error.message, hint="What is the extractor's comes after '--'.")
    return error


def workspace_of(directory: str) -> str:
    """The real path of the directory to fill, which need not be there yet. Raises KontextError."""
    folder = os.path.realpath(directory)
    if folder == "/":
        raise KontextError(
            "the workspace is '/'", hint="Name a directory for the sources with --workspace."
        )
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise KontextError(f"the workspace {directory!r} is not a directory")
    if not os.path.isdir(os.path.dirname(folder)):
        raise KontextError(
            f"the workspace {directory!r} cannot be made: the directory above it does not exist",
            hint="Make that one, or name another with --workspace.",
        )
    return folder


def make(workspace: str) -> None:
    """Makes the directory if need be, as the extractor makes those below. Raises KontextError."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(workspace)
            os.chmod(workspace, 0o755)
    except OSError as error:
        raise KontextError(
            f"the workspace {workspace!r} cannot be made: {error.strerror}"
        ) from error


def check_entrypoint(name: Reference, found: KontextImage) -> None:
    """Raises KontextError unless running the image means running an extractor."""
    entrypoint = (found.settings or {}).get("Entrypoint")
    if entrypoint != [ENTRYPOINT]:
        raise KontextError(
            f"{name} has sources, but does not run Kontext's extractor",
            hint="Push it again with this version, or use 'docker run' if you know what it does.",
        )


def check_removal(extractors: Sequence[str], workspace: str, tree: Tree) -> None:
    """Raises KontextError where the extractor would remove what nobody means to lose.

    It cannot tell: it sees no more than the workspace.
    """
    if not any(map(_MIRROR.fullmatch, extractors)):
        return
    check_mirror(workspace, os.path.expanduser("~"))
    git = os.path.join(workspace, GIT)
    if os.path.lexists(git) and GIT not in tree:
        raise KontextError(
            f"refusing --mirror: it would remove {git!r}",
            hint="'docker kontext pull --mirror' keeps it.",
        )


def identity(chosen: str, security: Collection[str]) -> Identity:
    """Whoever calls, so that the files are theirs, unless another user was chosen."""
    if chosen:
        return Identity(chosen)
    if "rootless" in security:  # there the caller is root within, and any other user a stranger
        return Identity("0:0")
    return Identity(f"{os.geteuid()}:{os.getegid()}", tuple(os.getgroups()))


def _pass_on(pieces: Iterable[tuple[int, bytes]]) -> None:
    """To our own streams, with nothing in it that could command a terminal."""
    decoders = {each: codecs.getincrementaldecoder("utf-8")("replace") for each in (1, 2)}
    for each, piece in pieces:
        text = printable(decoders[each].decode(piece))
        if each == 1:
            put_stdout([text])
        else:
            with contextlib.suppress(OSError):  # as any message: it stops nothing
                sys.stderr.write(text)
