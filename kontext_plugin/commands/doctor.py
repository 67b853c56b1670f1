"""`docker kontext doctor`: check everything that Kontext needs, and say how to repair it.

Each check is a function that returns one line and raises nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from kontext_plugin import installation, read_version
from kontext_plugin.cache import Cache, open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import DOCTOR, timeout_of
from kontext_plugin.crane import Crane, find_crane
from kontext_plugin.crane_driver.credentials import credential_source, full_name
from kontext_plugin.crane_driver.errors import NotFound, Refused
from kontext_plugin.crane_driver.process import check_version
from kontext_plugin.engine import daemon
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.image.reference import (
    DOCKER_HUB,
    Reference,
    parse_image_reference,
    parse_reference,
)
from kontext_plugin.terminal.messages import Report, stdout_room, write_stdout
from kontext_plugin.terminal.table import UNLIMITED, Room, indented
from kontext_plugin.terminal.text import json_array, line_safe, redact, shows_utf8, size

if TYPE_CHECKING:
    from kontext_plugin.cli.flags import Namespace


class State(Enum):
    """How something is. The values are public (docs/commands.md)."""

    OK = "ok"
    NOTE = "note"  # not as it could be, but a push works
    BROKEN = "broken"


_SIGNS = {State.OK: "✓", State.NOTE: "!", State.BROKEN: "✗"}

_ASCII_SIGNS = {State.OK: "+", State.NOTE: "!", State.BROKEN: "x"}

_HINT_INDENT = " " * 15  # below the message

_DOCKER_TIMEOUT = 20
"""Seconds for docker to answer."""


_HELPER_TIMEOUT = 20
"""Seconds for a credential helper to answer."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    state: State
    message: str
    hint: str = ""


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(DOCTOR, arguments)
    registry, image = parse_target(positional[0]) if positional else ("", None)
    report = Report(show_debug=flags.debug)
    signs = _SIGNS if shows_utf8(os.environ) else _ASCII_SIGNS

    checks = []
    for check in _run_checks(flags, parsed, registry, image, report):
        checks.append(check)
        if parsed.format != "json":
            write_stdout(lines(check, signs, stdout_room()))  # at once: some checks take seconds
    if parsed.format == "json":
        write_stdout(json_array(_document(check) for check in checks))
    return int(any(check.state == State.BROKEN for check in checks))


def parse_target(text: str) -> tuple[str, Reference | None]:
    """Return a registry, and the image if the text names one. Raises UsageError."""
    if "/" in text:
        image = parse_image_reference(text)
        return image.registry, image
    if text == DOCKER_HUB:
        return text, None
    try:
        is_registry = parse_reference(f"{text}/name").registry == text
    except UsageError:
        is_registry = False
    if not is_registry:
        raise UsageError(
            f"{text!r} is not a registry", hint="Give HOST[:PORT], or an image with its registry."
        )
    return text, None


def _run_checks(
    flags: Globals, parsed: Namespace, registry: str, image: Reference | None, report: Report
) -> Iterator[Check]:
    yield check_python()
    try:
        crane = find_crane(insecure=parsed.insecure, debug=report.debug, timeout=timeout_of(parsed))
    except KontextError as error:
        yield _broken("crane", error)
        crane = None
    if crane:
        yield check_crane(crane)
    yield check_docker()
    yield check_daemon(flags)
    yield check_plugin()
    yield check_cache(open_cache(read_only=True))
    if crane and registry:
        with crane:
            yield check_credentials(crane, full_name(str(image)) if image else registry)
            yield check_registry(crane, registry, image)


def _broken(name: str, error: KontextError) -> Check:
    return Check(name, State.BROKEN, error.message, error.hint)


def check_python() -> Check:
    """Name the Python that runs Kontext."""
    return Check("python", State.OK, f"{platform.python_version()}, {sys.executable}")


def check_crane(crane: Crane) -> Check:
    """Check crane's version."""
    try:
        version = crane.version()
    except KontextError as error:
        return _broken("crane", error)
    if problem := check_version(version, crane.program):
        state = State.BROKEN if problem.is_fatal else State.NOTE
        return Check("crane", state, problem.message, problem.hint)
    return Check("crane", State.OK, f"{version}, {crane.program}")


def check_docker() -> Check:
    """Check that docker's command line works, if there is one."""
    program = shutil.which("docker")
    if program is None:
        hint = f"Kontext also works without it: {installation.own_command()} push …"
        return Check("docker", State.NOTE, "docker is not on PATH", hint)
    code, answer = _ask(program, "--version")
    version = re.search(r"\d+\.\d+\.\d+\S*(?=,)", answer)
    if code or not version:
        message = f"{program} does not work: {answer}"
        return Check("docker", State.BROKEN, message, "Install docker again.")
    return Check("docker", State.OK, f"{version[0]}, {program}")


def _ask(*command: str) -> tuple[int, str]:
    """Run a program; return its exit code and the last line of its output."""
    # docker starts plugins for its answer. They must not take these variables for their own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_CLI_PLUGIN_")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_DOCKER_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer in {_DOCKER_TIMEOUT} s"
    except OSError as error:
        return 1, error.strerror or ""
    return done.returncode, done.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]


def check_daemon(flags: Globals) -> Check:
    """Check that the Docker daemon answers. A push does not need it."""
    try:
        docker = daemon.connect(flags.daemon)
        return Check("daemon", State.OK, f"{docker.version()} at {docker.endpoint.host}")
    except KontextError as error:
        return Check("daemon", State.NOTE, error.message, error.hint)


def check_plugin() -> Check:
    """Check that docker finds the plugin, and that it is this installation."""
    docker = shutil.which("docker")
    command = f"'{installation.own_command()} install'"
    try:
        first = installation.first_candidate()
    except KontextError as error:
        return _broken("plugin", error)
    if first is None:
        state = State.BROKEN if docker else State.NOTE
        return Check("plugin", state, "docker does not find Kontext", f"Run {command}.")
    target = os.path.realpath(first)
    place = first if first == target else f"{first} -> {target}"
    if not os.access(first, os.X_OK):
        hint = f"Remove it: docker takes the first plugin that it finds. Then run {command}."
        return Check("plugin", State.BROKEN, f"{place} cannot be run", hint)
    if docker:
        code, answer = _ask(docker, "kontext", "version")
        if code or not answer.startswith("kontext "):
            message = f"{place} does not answer 'docker kontext version': {answer}"
            return Check("plugin", State.BROKEN, message, f"Run {command}.")
    if not installation.is_ours(first):
        own = f"This one is {read_version()}, {installation.plugin_file()}."
        hint = f"{own} To use this one, run {command}."
        return Check("plugin", State.NOTE, f"{place} is another installation", hint)
    return Check("plugin", State.OK, place)


def check_cache(cache: Cache) -> Check:
    """Check that the cache can be written, and that only the user can read it."""
    root = cache.root
    elsewhere = "Pushes are slower without it. Name another directory in KONTEXT_CACHE_DIR."
    if root is None:
        return Check("cache", State.NOTE, f"there is none: {cache.problem}", elsewhere)
    if not os.path.lexists(root):
        if not os.access(_existing_parent(root), os.W_OK | os.X_OK):
            return Check("cache", State.NOTE, f"{root} cannot be made", elsewhere)
        return Check("cache", State.OK, f"{root} does not exist yet")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        return Check("cache", State.NOTE, f"{root} cannot be written", elsewhere)
    try:
        total = sum(entry.size for entry in cache.entries())
    except KontextError as error:
        return Check("cache", State.NOTE, error.message, elsewhere)
    if exposed := next(filter(_is_exposed, _paths(root)), None):
        hint = f"Make it private: chmod -R go= '{root}'"
        return Check("cache", State.NOTE, f"{exposed} can be read by others", hint)
    return Check("cache", State.OK, f"{root}, {size(total)}, private")


def _existing_parent(path: str) -> str:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _paths(root: str) -> Iterator[str]:
    """Yield a directory and all paths in it."""
    for directory, _, names in os.walk(root):
        yield directory
        yield from (os.path.join(directory, name) for name in names)


def _is_exposed(path: str) -> bool:
    """Return whether others have any right to a file or directory."""
    try:
        status = os.lstat(path)
    except OSError:  # a push has just replaced it
        return False
    return bool(status.st_mode & 0o077) and not os.path.islink(path)


def check_credentials(crane: Crane, name: str) -> Check:
    """Name the source of the credentials for `HOST/PATH` or `HOST`, and ask it as a push does."""
    registry = name.partition("/")[0]
    hint = f"Run 'docker login {registry}' if it needs credentials."
    try:
        source = credential_source(name)
        if source is None:
            message = f"docker and podman have no credentials for {registry}"
            return Check("credentials", State.NOTE, message, hint)
        if crane.credentials(name, limit=_HELPER_TIMEOUT) is None:
            message = f"{source} has no credentials for {registry}"
            return Check("credentials", State.NOTE, message, hint)
    except KontextError as error:
        return _broken("credentials", error)
    return Check("credentials", State.OK, f"{source} has credentials for {registry}")


def check_registry(crane: Crane, registry: str, image: Reference | None) -> Check:
    """Check that a registry answers for an image or, without one, for its catalog."""
    try:
        if image:
            crane.manifest(str(image))
            return Check("registry", State.OK, f"{registry} answered for {image}")
        crane.check_catalog(registry)
        return Check("registry", State.OK, f"{registry} answered for its catalog")
    except NotFound:
        if not image:
            return _hidden_catalog(registry)
        return Check("registry", State.OK, f"{registry} answered; {image} does not exist yet")
    except Refused as error:
        return _broken("registry", error) if image else _hidden_catalog(registry)
    except KontextError as error:
        return _broken("registry", error)


def _hidden_catalog(registry: str) -> Check:
    hint = (
        "Many registries show their catalog to nobody. Name an image: "
        f"docker kontext doctor {registry}/REPOSITORY:TAG"
    )
    return Check("registry", State.NOTE, f"{registry} does not show its catalog", hint)


def lines(check: Check, signs: Mapping[State, str], room: Room = UNLIMITED) -> Iterator[str]:
    """Yield a check's lines, and those of its hint, without secrets."""
    label = f"{signs[check.state]} {check.name:<12} "
    yield from indented(label, line_safe(redact(check.message)), room)
    if check.hint:
        yield from indented(_HINT_INDENT, line_safe(redact(check.hint)), room)


def _document(check: Check) -> dict[str, str]:
    return {
        "name": check.name,
        "state": check.state.value,
        "message": redact(check.message),
        "hint": redact(check.hint),
    }
