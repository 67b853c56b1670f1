"""docker's plugin protocol: global flags, commands, help, exit codes. Imports nothing heavy."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from kontext_plugin import interrupts, output, report
from kontext_plugin.commands.table import COMMANDS
from kontext_plugin.errors import FAILED, INTERRUPTED, KontextError, UsageError
from kontext_plugin.options import Globals, help_text, table, usage_line

_DESCRIPTION = "Upload source directories to a registry, only what changed"


def main() -> NoReturn:
    """The program. Ends with docker's exit codes: 0, 1, 125 for usage, 130 when interrupted."""
    gc.disable()  # nothing here makes cycles, and looking for them takes a tenth of a push
    _fill_standard_streams()
    os.umask(0o077)  # what is written, the cache alone, is the user's
    code = run(sys.argv[1:])
    os._exit(code)  # taking a hundred thousand objects apart would take longer than a `git status`


def run(argv: Sequence[str]) -> int:
    """One place turns errors into messages and exit codes."""
    flags = Globals()
    report.speak(as_json=False)
    try:
        flags, arguments = _global_flags(argv)
        interrupts.watch()
        if flags.config:
            # crane and the credential helpers know of --config by this alone.
            os.environ["DOCKER_CONFIG"] = os.path.abspath(flags.config)
        code = _dispatch(arguments, flags)
        output.write(())
        return code
    except KeyboardInterrupt as interrupt:
        text = "; ".join(["Interrupted", *map(str, interrupt.args)])
        report.show(text, "interrupted", exit_code=INTERRUPTED)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our stdout is gone, and knows why
        return FAILED
    except KontextError as error:
        if flags.debug:
            _show_traceback()
        report.show(error.message, "error", hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        if flags.debug:
            _show_traceback()
        report.show(
            f"{type(error).__name__}: {error}",
            "error",
            hint="This is a fault of Kontext's. 'docker -D kontext …' shows where it lies.",
            exit_code=FAILED,
        )
        return FAILED


def _fill_standard_streams() -> None:
    """A stream that came closed must not become the next file that is opened, nor Python's None."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that its encoding lacks ends no listing
        sys.stdout.reconfigure(errors="backslashreplace")


def _dispatch(arguments: list[str], flags: Globals) -> int:
    # docker puts the plugin's name first, or behind `help` and `__complete`.
    verb, *rest = arguments or [""]
    if verb in ("help", "__complete", "__completeNoDesc") and rest[:1] == ["kontext"]:
        rest = rest[1:]
    elif verb == "kontext":
        verb, *rest = rest or [""]
    if verb in ("__complete", "__completeNoDesc"):
        from kontext_plugin import complete

        found = complete.answer(rest)
        print(found if verb == "__complete" else complete.plain(found))
        return 0
    if verb == "help":
        verb, rest = (rest or [""])[0], ["--help"]
    if verb in ("", "-h", "--help"):
        print(_overview())
        return 0
    if verb not in COMMANDS:
        return _usage_error(
            UsageError(f"docker: unknown command: docker kontext {verb}"),
            "Usage:  docker kontext COMMAND",
            "docker kontext",
        )
    command = COMMANDS[verb]
    options_end = rest.index("--") if "--" in rest else len(rest)
    if {"-h", "--help"} & set(rest[:options_end]):
        print(help_text(command), end="")
        return 0
    _check_current_directory()
    try:
        code: int = import_module(f"kontext_plugin.commands.{verb}").main(rest, flags)
    except UsageError as error:
        return _usage_error(error, usage_line(command), command.path)
    return code


def _check_current_directory() -> None:
    """Raises KontextError where it is gone: no path means anything there, nor can crane be run."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise KontextError(
            "the current directory does not exist any more", hint="Change to one that does."
        ) from error


def _overview() -> str:
    commands = table([(name, command.summary) for name, command in COMMANDS.items()])
    return (
        f"Usage:  docker kontext COMMAND\n\n{_DESCRIPTION}\n\nCommands:\n{commands}\n\n"
        "Run 'docker kontext COMMAND --help' for more information on a command."
    )


def _usage_error(error: UsageError, usage: str, path: str) -> int:
    report.show(error.message)
    if error.hint:
        report.show(error.hint)
    report.show(f"\n{usage}\n\nRun '{path} --help' for more information")
    return error.exit_code


_SHORT = {"D": "debug", "H": "host", "c": "context", "h": "help", "l": "log-level", "v": "version"}
_SWITCHES = {"debug", "help", "tls", "tlsverify", "version"}
_VALUED = {"config", "context", "host", "log-level", "tlscacert", "tlscert", "tlskey"}


def _global_flags(argv: Sequence[str]) -> tuple[Globals, list[str]]:
    """docker's global flags, which come first, and the rest. docker has checked them already."""
    rest = list(argv)
    found: dict[str, str] = {}
    while rest and rest[0].startswith("-"):
        flag = rest.pop(0)
        if flag == "--":
            break
        name, equals, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--"):  # switches may be joined, and a value may follow at once
            letters = flag[1:]
            while (name := _SHORT.get(letters[:1], "")) and name not in _VALUED and letters[1:]:
                found[name] = "true"
                letters = letters[1:]
            value = letters[1:].removeprefix("=")
            equals = value
        if name not in _SWITCHES | _VALUED:
            raise UsageError(f"unknown flag: {flag}")
        if name in _VALUED:
            found[name] = value if equals else rest.pop(0) if rest else ""
        else:
            found[name] = value or "true"
    if found.get("help") == "true":
        rest = ["help", *rest]
    return Globals(
        config=found.get("config", ""),
        debug=_is_true(found.get("debug")),
        host=found.get("host", ""),
        context=found.get("context", ""),
        tls=_is_true(found.get("tls")),
        tlsverify=_is_true(found["tlsverify"]) if "tlsverify" in found else None,
        tlscacert=found.get("tlscacert", ""),
        tlscert=found.get("tlscert", ""),
        tlskey=found.get("tlskey", ""),
    ), rest


def _is_true(value: str | None) -> bool:
    return value in ("true", "TRUE", "True", "t", "T", "1")  # Go's strconv.ParseBool


def _show_traceback() -> None:
    import traceback

    report.show(traceback.format_exc(), "debug")
