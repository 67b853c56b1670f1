"""docker's plugin protocol: global flags, commands, help, exit codes. Imports nothing heavy.

`docker kontext version`.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from kontext_plugin import __version__
from kontext_plugin.cli.flags import (
    Globals,
    did_you_mean,
    help_text,
    parse,
    parse_globals,
    suggest,
    table,
    usage_line,
)
from kontext_plugin.cli.options import COMMANDS, VERSION
from kontext_plugin.cli.signals import catch_interrupts
from kontext_plugin.errors import FAILED, INTERRUPTED, KontextError, UsageError
from kontext_plugin.terminal.messages import set_format, show, write_stdout

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
    set_format(as_json=False)
    try:
        flags, arguments = parse_globals(argv)
        catch_interrupts()
        if flags.config:
            # crane and the credential helpers know of --config by this alone.
            os.environ["DOCKER_CONFIG"] = os.path.abspath(flags.config)
        code = _dispatch(arguments, flags)
        write_stdout(())
        return code
    except KeyboardInterrupt as interrupt:
        text = "; ".join(["Interrupted", *map(str, interrupt.args)])
        show(text, "interrupted", exit_code=INTERRUPTED)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our stdout is gone, and knows why
        return FAILED
    except KontextError as error:
        if flags.debug:
            _show_traceback()
        show(error.message, "error", hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        if flags.debug:
            _show_traceback()
        show(
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
        from kontext_plugin.cli import completion

        answer = completion.complete(rest)
        print(answer if verb == "__complete" else completion.without_descriptions(answer))
        return 0
    if verb == "help":
        verb, rest = (rest or [""])[0], ["--help"]
    if verb in ("", "-h", "--help"):
        print(_overview())
        return 0
    if verb not in COMMANDS:
        return _usage_error(
            UsageError(
                f"docker: unknown command: docker kontext {verb}",
                hint=did_you_mean(suggest(verb, list(COMMANDS))),
            ),
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
        if verb == VERSION.name:
            parse(VERSION, rest)
            print(f"kontext {__version__}")
            return 0
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
    show(error.message)
    if error.hint:
        show(error.hint)
    show(f"\n{usage}\n\nRun '{path} --help' for more information")
    return error.exit_code


def _show_traceback() -> None:
    import traceback

    show(traceback.format_exc(), "debug")
