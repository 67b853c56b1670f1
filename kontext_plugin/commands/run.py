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
from kontext_plugin.engine.daemon import ContainerSpec
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.image.oci import ImageConfig
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.manifest import Manifest
from kontext_plugin.registry.base_image import ENTRYPOINT, WORKDIR, shipped_base
from kontext_plugin.registry.fetch import fetch, fetch_config
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

    docker = daemon.connect(flags.daemon)
    if not docker.endpoint.is_local:
        report.warning(f"the workspace is {workspace!r} on the machine of {docker.endpoint.host}")
    name = parse_image_reference(text)
    link = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with link as (crane, threads):
        found = fetch(crane, threads, name)
        config = fetch_config(crane, name.at(found.image.digest))
    check_entrypoint(name, config)
    check_mirror_target(extractors, workspace, found.manifest)
    image = load(docker, parsed, name, found, report)
    wanted = identity(parsed.user or "", docker.security_options())
    if docker.endpoint.is_local:
        make(workspace)
    report.info(f"Mounting {workspace!r} as {WORKDIR}, for user {wanted.user}")
    container = ContainerSpec(
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
    if code and (platform := docker.platform()) != config.platform:
        report.notice(
            f"The image is for {config.platform}, but the daemon runs {platform}. "
            "Use 'docker kontext pull'."
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


def check_entrypoint(name: Reference, config: ImageConfig) -> None:
    """Raise KontextError unless the image runs an extractor."""
    if config.entrypoint != (ENTRYPOINT,):
        raise KontextError(
            f"the entrypoint of {name} is not Kontext's extractor",
            hint="Push it again with this version, or use 'docker run' if you know what it does.",
        )


def check_mirror_target(
    extractor_arguments: Sequence[str], workspace: str, manifest: Manifest
) -> None:
    """Raise KontextError where `--mirror` would remove the home directory or a repository.

    The extractor sees only the workspace. It keeps every .git, but extractors of earlier versions
    do not, and the one in the image may be any.
    """
    if not any(map(_MIRROR.fullmatch, extractor_arguments)):
        return
    check_mirror(workspace, os.path.expanduser("~"))
    git = os.path.join(workspace, GIT)
    if os.path.lexists(git) and GIT not in manifest.tree and not _keeps_git(manifest):
        raise KontextError(
            f"refusing --mirror: the image has the extractor of another version, which may remove "
            f"{git!r}",
            hint="Use 'docker kontext pull --mirror', which keeps it.",
        )


def _keeps_git(manifest: Manifest) -> bool:
    """Whether the image has the extractor of this installation."""
    lineage = manifest.lineage
    if lineage is None or lineage.platform not in PLATFORMS:
        return False
    return lineage.extractor == shipped_base(lineage.platform).extractor


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
