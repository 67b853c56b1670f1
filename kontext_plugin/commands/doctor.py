"""What `docker kontext doctor` looks at: a function a line, none of which fails by itself.

`docker kontext doctor`: what Kontext needs, a line each, and what to do where it is missing.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from kontext_plugin import __version__
from kontext_plugin.cache.store import Cache, open_cache
from kontext_plugin.cli.flags import Globals, parse
from kontext_plugin.cli.options import DOCTOR, timeout_of
from kontext_plugin.commands import install as cli_plugins
from kontext_plugin.crane import Crane, find_crane
from kontext_plugin.crane_driver.errors import NotFound, Refused
from kontext_plugin.crane_driver.process import MINIMUM_VERSION, REQUIRED_VERSION
from kontext_plugin.engine import daemon
from kontext_plugin.engine.config import config_path, load_docker_config
from kontext_plugin.errors import KontextError, UsageError
from kontext_plugin.image.reference import (
    DOCKER_HUB,
    Reference,
    parse_image_reference,
    parse_reference,
)
from kontext_plugin.terminal.messages import Report, write_stdout
from kontext_plugin.terminal.text import json_array, line_safe, redact, shows_utf8, size

OK, NOTE, BROKEN = "ok", "note", "broken"

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(-\S+)?")

_PATIENCE = 20
"""Seconds for docker to answer."""


@dataclass(frozen=True)
class Check:
    name: str
    state: str  # OK; NOTE: a push works all the same; BROKEN
    message: str
    hint: str = ""


def python() -> Check:
    return Check("python", OK, f"{platform.python_version()}, {sys.executable}")


def crane_version(crane: Crane) -> Check:
    try:
        version = crane.version()
    except KontextError as error:
        return _broken("crane", error)
    message = f"{version}, {crane.program}"
    found = _VERSION.fullmatch(version)
    if not found:
        hint = f"Its version cannot be told: {REQUIRED_VERSION} is needed."
        return Check("crane", NOTE, message, hint)
    numbers = tuple(map(int, found.group(1, 2, 3)))
    # v0.21.9-rc.1 comes before v0.21.9.
    if numbers < MINIMUM_VERSION or (numbers == MINIMUM_VERSION and found[4]):
        return Check(
            "crane",
            BROKEN,
            message,
            f"Kontext needs {REQUIRED_VERSION}: scripts/install-crane gets it.",
        )
    return Check("crane", OK, message)


def docker_cli() -> Check:
    program = shutil.which("docker")
    if program is None:
        hint = f"Kontext works without it, too: {cli_plugins.shim()} push …"
        return Check("docker", NOTE, "docker is not on PATH", hint)
    code, said = _answer(program, "--version")
    version = re.search(r"\d+\.\d+\.\d+\S*(?=,)", said)
    if code or not version:
        return Check("docker", BROKEN, f"{program} does not work: {said}", "Install it anew.")
    return Check("docker", OK, f"{version[0]}, {program}")


def docker_daemon(flags: Globals) -> Check:
    try:
        found = daemon.connect(flags.daemon)
        return Check("daemon", OK, f"{found.version()} at {found.endpoint.host}")
    except KontextError as error:
        return Check("daemon", NOTE, error.message, error.hint)


def plugin() -> Check:
    docker = shutil.which("docker")
    install = f"Run '{sys.executable} -m kontext_plugin install'."
    try:
        taken = cli_plugins.first_candidate()
    except KontextError as error:
        return _broken("plugin", error)
    if taken is None:
        return Check("plugin", BROKEN if docker else NOTE, "docker does not find Kontext", install)
    target = os.path.realpath(taken)
    where = taken if taken == target else f"{taken} -> {target}"
    if not os.access(taken, os.X_OK):
        hint = f"docker looks no further: remove it. {install}"
        return Check("plugin", BROKEN, f"{where} cannot be run", hint)
    if docker:
        code, said = _answer(docker, "kontext", "version")
        if code or not said.startswith("kontext "):
            message = f"{where} does not answer 'docker kontext version': {said}"
            return Check("plugin", BROKEN, message, install)
    if not cli_plugins.is_ours(taken):
        hint = f"This one is {__version__}, {cli_plugins.shim()}. To have it taken: {install}"
        return Check("plugin", NOTE, f"{where} is another installation", hint)
    return Check("plugin", OK, where)


def cache(found: Cache) -> Check:
    root = found.root
    elsewhere = "Pushes are slower without; name another folder with KONTEXT_CACHE_DIR."
    if root is None:
        return Check("cache", NOTE, "there is no place for one: HOME is not set", elsewhere)
    if not os.path.isdir(root):
        return Check("cache", OK, f"{root}, not made yet")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        return Check("cache", NOTE, f"{root} cannot be written", elsewhere)
    try:
        held = sum(entry.size for entry in found.entries())
    except KontextError as error:
        return Check("cache", NOTE, error.message, elsewhere)
    if exposed := next(filter(_is_exposed, _all_below(root)), None):
        hint = f"Keep it to yourself: chmod -R go= '{root}'"
        return Check("cache", NOTE, f"{exposed} can be read by others", hint)
    return Check("cache", OK, f"{root}, {size(held)}, private")


def _all_below(root: str) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        yield folder
        yield from (os.path.join(folder, name) for name in names)


def _is_exposed(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:  # a push has just replaced it
        return False
    return bool(status.st_mode & 0o077) and not os.path.islink(path)


def credentials(crane: Crane, registry: str) -> Check:
    """Who answers for a registry, asked by the way that a push takes."""
    try:
        settings = load_docker_config()
        helper, setting = settings.credential_helper(registry)
        found = crane.credentials(registry)
    except KontextError as error:
        return _broken("credentials", error)
    login = f"Run 'docker login {registry}' if it wants any."
    file = config_path()
    if helper:
        source = f"docker-credential-{helper} ({setting} in {file})"
        if not found:
            return Check("credentials", NOTE, f"{source} has none for {registry}", login)
        return Check("credentials", OK, f"{source} has some for {registry}")
    if found:
        source = f"auths in {file}" if settings.has_login(registry) else "podman's auth.json"
        return Check("credentials", OK, f"{source} has some for {registry}")
    return Check("credentials", NOTE, f"{file} has none for {registry}", login)


def access(crane: Crane, registry: str, name: Reference | None) -> Check:
    """Whether a registry lets us read: an image that is named, or else its catalog."""
    try:
        if name:
            crane.manifest(str(name))
            return Check("registry", OK, f"{registry} has shown {name}")
        crane.check_catalog(registry)
        return Check("registry", OK, f"{registry} has shown its catalog")
    except (NotFound, Refused) as error:
        if name and isinstance(error, NotFound):
            return Check(
                "registry", OK, f"{registry} has looked for {name}, which is not there yet"
            )
        if name:
            return _broken("registry", error)
        hint = (
            "Many registries show it to nobody. Name an image: "
            f"docker kontext doctor {registry}/REPOSITORY:TAG"
        )
        return Check("registry", NOTE, f"{registry} does not show its catalog", hint)
    except KontextError as error:
        return _broken("registry", error)


def _broken(name: str, error: KontextError) -> Check:
    return Check(name, BROKEN, error.message, error.hint)


def _answer(*command: str) -> tuple[int, str]:
    """An exit code, and the last line of what was said."""
    # Ours must not be taken for those of a plugin that docker starts for the question.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_CLI_PLUGIN_")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return 1, f"nothing in {_PATIENCE} s"
    except OSError as error:
        return 1, error.strerror or ""
    return done.returncode, done.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]


_SIGNS = {OK: "✓", NOTE: "!", BROKEN: "✗"}

_ASCII_SIGNS = {OK: "+", NOTE: "!", BROKEN: "x"}

_INDENT = " " * 15


def main(arguments: Sequence[str], flags: Globals) -> int:
    parsed, positional = parse(DOCTOR, arguments)
    registry, name = subject(positional[0]) if positional else ("", None)
    report = Report(show_debug=flags.debug)
    signs = _SIGNS if shows_utf8(os.environ) else _ASCII_SIGNS

    made = []
    for check in _checks(flags, registry, name, parsed.insecure, report, timeout_of(parsed)):
        made.append(check)
        if parsed.format != "json":
            write_stdout(_lines(check, signs))
    if parsed.format == "json":
        write_stdout(json_array(_redacted(check) for check in made))
    return int(any(check.state == BROKEN for check in made))


def _checks(
    flags: Globals,
    registry: str,
    name: Reference | None,
    insecure: bool,
    report: Report,
    patience: float,
) -> Iterator[Check]:
    yield python()
    try:
        found = find_crane(insecure=insecure, debug=report.debug, timeout=patience)
    except KontextError as error:
        yield Check("crane", BROKEN, error.message, error.hint)
        found = None
    if found:
        yield crane_version(found)
    yield docker_cli()
    yield docker_daemon(flags)
    yield plugin()
    yield cache(open_cache(read_only=True))
    if found and registry:
        with found:
            yield credentials(found, registry)
            yield access(found, registry, name)


def subject(text: str) -> tuple[str, Reference | None]:
    """The registry that is meant, and the image if it is one. Raises UsageError."""
    if "/" in text:
        name = parse_image_reference(text)
        return name.registry, name
    if text == DOCKER_HUB:
        return text, None
    try:
        is_host = parse_reference(f"{text}/name").registry == text
    except UsageError:
        is_host = False
    if not is_host:
        raise UsageError(
            f"{text!r} is not a registry", hint="Name it HOST[:PORT], or an image with it."
        )
    return text, None


def _lines(check: Check, signs: Mapping[str, str]) -> Iterator[str]:
    yield line_safe(redact(f"{signs[check.state]} {check.name:<12} {check.message}"))
    if check.hint:
        yield line_safe(redact(_INDENT + check.hint))


def _redacted(check: Check) -> dict[str, str]:
    return {key: redact(value) for key, value in asdict(check).items()}
