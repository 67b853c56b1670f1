"""`docker kontext run`: run an image's extractor on a directory of this machine."""

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
from kontext_plugin.image.assembly import ENTRYPOINT, WORKDIR
from kontext_plugin.image.oci import ImageConfig
from kontext_plugin.image.reference import Reference, parse_image_reference
from kontext_plugin.push.history import resolve
from kontext_plugin.registry.base_image import has_this_extractor
from kontext_plugin.registry.fetch import KontextImage, fetch, fetch_config
from kontext_plugin.runtime.docker_config import home_directory
from kontext_plugin.terminal.messages import Report, put_stdout
from kontext_plugin.terminal.text import printable
from kontext_plugin.workspace import GIT, check_mirror

_USER = re.compile("[0-9]{1,10}(:[0-9]{1,10})?")

_MIRROR = re.compile("--?mirror(?:=.*)?", re.DOTALL)
"""The extractor's option, in all spellings that Go accepts."""

_ROOT_CAPABILITIES = ("DAC_OVERRIDE", "FOWNER")
"""With these, root writes and changes the files of others, as root expects."""


@dataclass(frozen=True)
class Identity:
    """The user that the extractor runs as."""

    user: str  # UID[:GID]
    groups: tuple[int, ...] = ()  # more of them

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The capabilities that the user gets: none, except for root."""
        return _ROOT_CAPABILITIES if int(self.user.partition(":")[0]) == 0 else ()


def main(arguments: Sequence[str], flags: Globals) -> int:
    try:
        parsed, (text, *extractor_arguments) = parse(RUN, arguments)
    except UsageError as error:
        raise _explain_separator(error, arguments) from None
    if parsed.user and not _USER.fullmatch(parsed.user):
        raise invalid("user", parsed.user, "it must be UID or UID:GID")
    name = parse_image_reference(text)
    workspace = workspace_of(parsed.workspace or ".")
    report = Report(quiet=parsed.quiet, show_debug=flags.debug)

    docker = daemon.connect(flags.daemon)
    is_local, host = docker.endpoint.is_local, docker.endpoint.host
    if not is_local:
        report.warning(f"the workspace is {workspace!r} on the machine of {host}")
    connection = connect(report.debug, insecure=parsed.insecure, timeout=timeout_of(parsed))
    with connection as (crane, requests):
        name = resolve(crane, requests, name)
        image = fetch(crane, requests, name)
        config = fetch_config(crane, name, image.image)
        check_entrypoint(name, config)
        check_mirror_target(extractor_arguments, workspace, image, config.platform)
        loaded = load(docker, crane, name, image, report)
    identity = choose_identity(parsed.user or "", docker.security_options())
    if is_local:
        make_workspace(workspace)
    report.info(f"Mounting {workspace!r} as {WORKDIR}, for user {identity.user}")
    spec = ContainerSpec(
        image=loaded,
        entrypoint=ENTRYPOINT,
        arguments=extractor_arguments,
        directory=workspace,
        target=WORKDIR,
        user=identity.user,
        groups=identity.groups,
        capabilities=identity.capabilities,
    )
    with docker.container(spec) as container:
        _print_output(container.output())
        code = container.exit_code()
    platforms = image.platforms or (config.platform,)
    if code and (platform := docker.platform()) not in platforms:
        report.notice(
            f"The image is for {' and '.join(platforms)}, but the daemon runs {platform}. "
            "Use 'docker kontext pull'."
        )
    return code


def _explain_separator(error: UsageError, arguments: Sequence[str]) -> UsageError:
    """Return the error with a hint for those who know `docker run`, which needs no `--`."""
    is_flag = error.message.startswith(("unknown flag", "unknown shorthand flag"))
    if is_flag and "--" not in arguments:
        return UsageError(error.message, hint="Put arguments of the extractor after '--'.")
    return error


def workspace_of(directory: str) -> str:
    """Return the real path of the workspace, which need not exist yet. Raises KontextError."""
    workspace = os.path.realpath(directory)
    if workspace == "/":
        raise KontextError(
            "the workspace is '/'", hint="Name a directory for the files with --workspace."
        )
    if os.path.lexists(workspace) and not os.path.isdir(workspace):
        raise KontextError(
            f"the workspace {directory!r} is not a directory",
            hint="Name another one with --workspace.",
        )
    if not os.path.isdir(os.path.dirname(workspace)):
        raise KontextError(
            f"cannot make the workspace {directory!r}: its parent directory does not exist",
            hint="Make the parent directory, or name another workspace with --workspace.",
        )
    return workspace


def check_entrypoint(name: Reference, config: ImageConfig) -> None:
    """Raise KontextError unless the image runs an extractor."""
    if config.entrypoint != (ENTRYPOINT,):
        raise KontextError(
            f"the entrypoint of {name} is not Kontext's extractor",
            hint="Push it again with this version, or use 'docker run' if you know what it does.",
        )


def check_mirror_target(
    extractor_arguments: Sequence[str], workspace: str, image: KontextImage, platform: str
) -> None:
    """Raise KontextError where `--mirror` would remove the home directory or a repository.

    The extractor in the image decides what to keep, and it sees only the workspace. Extractors of
    earlier versions do not keep .git.
    """
    if not any(map(_MIRROR.fullmatch, extractor_arguments)):
        return
    check_mirror(workspace, home_directory() or "/")
    git = os.path.join(workspace, GIT)
    is_kept = GIT in image.manifest.tree or has_this_extractor(image, platform)
    if os.path.lexists(git) and not is_kept:
        raise KontextError(
            f"refusing --mirror: the image has the extractor of another version, which may remove "
            f"{git!r}",
            hint="Use 'docker kontext pull --mirror', which keeps it.",
        )


def choose_identity(chosen: str, security_options: Collection[str]) -> Identity:
    """Return the user that was chosen, UID[:GID], or else the caller, who then owns the files."""
    if chosen:
        return Identity(chosen)
    if "rootless" in security_options:  # the daemon's root is the caller
        return Identity("0:0")
    return Identity(f"{os.geteuid()}:{os.getegid()}", tuple(os.getgroups()))


def make_workspace(workspace: str) -> None:
    """Make the directory with mode 0755, if it does not exist. Raises KontextError."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(workspace)
            os.chmod(workspace, 0o755)
    except OSError as error:
        raise KontextError(f"cannot make the workspace {workspace!r}: {error.strerror}") from error


def _print_output(pieces: Iterable[tuple[int, bytes]]) -> None:
    """Print the output of a container on the same streams, with control characters escaped."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (1, 2)}
    for stream, piece in pieces:
        text = printable(decoders[stream].decode(piece))
        if stream == 1:
            put_stdout([text])
        else:
            with contextlib.suppress(OSError):  # as for any message
                sys.stderr.write(text)
