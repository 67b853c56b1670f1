"""Run a command line of docker's plugin protocol, and turn errors into messages and exit codes.

`docker kontext version` is here, too.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from kontext_plugin import read_version
from kontext_plugin.cli.flags import (
    Command,
    Globals,
    asks_for_help,
    did_you_mean,
    help_text,
    parse,
    parse_globals,
    suggest,
    table,
    usage_line,
)
from kontext_plugin.cli.options import COMMANDS, VERSION
from kontext_plugin.errors import CLOSED_PIPE, FAILED, INTERRUPTED, KontextError, UsageError
from kontext_plugin.terminal.messages import put_stdout, set_format, show, write_stdout

_ROOT = Command(
    name="",
    summary="",
    usage="COMMAND",
    description="Upload source directories to a registry, only what changed",
)
"""`docker kontext` itself."""

_COMPLETE, _COMPLETE_WITHOUT_DESCRIPTIONS = "__complete", "__completeNoDesc"
"""What the shell's completion calls, through docker (cobra, "Shell completions")."""


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    _open_standard_streams()
    os.umask(0o077)  # nobody else may read the cache
    code = run(sys.argv[1:])
    os._exit(code)  # freeing a hundred thousand objects would take longer than `git status`


def _open_standard_streams() -> None:
    """Replace closed standard streams, so that no other file gets their descriptors."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)  # Python has None for a closed one
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may not fit its encoding


def run(argv: Sequence[str]) -> int:
    """Run a command line as docker passes it; return the exit code. Nothing is raised."""
    flags, command = Globals(), _ROOT
    set_format(as_json=False)
    try:
        flags, words = parse_globals(argv)
        if flags.config:
            # crane and the credential helpers read the directory from this variable only.
            os.environ["DOCKER_CONFIG"] = os.path.abspath(flags.config)
        verb, arguments = _split(words)
        if verb in (_COMPLETE, _COMPLETE_WITHOUT_DESCRIPTIONS):
            code = _complete(verb, arguments)
        else:
            command = _find_command(verb)
            code = _run_command(command, arguments, flags)
        write_stdout(())
        return code
    except KeyboardInterrupt as interrupt:
        return _show_interrupt(interrupt)
    except BrokenPipeError:  # the reader of stdout has gone, and needs no message
        return CLOSED_PIPE
    except UsageError as error:
        _show_usage_error(error, command)
        return error.exit_code
    except KontextError as error:
        if flags.debug:
            _show_traceback()
        show(error.message, "error", hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        # Python 3.11 and earlier wrap one that comes while an import makes a class.
        if isinstance(error.__cause__, KeyboardInterrupt):
            return _show_interrupt(error.__cause__)
        if flags.debug:
            _show_traceback()
        show(
            f"{type(error).__name__}: {error}",
            "error",
            hint="This is a bug in Kontext. Run 'docker -D kontext …' to see the traceback.",
            exit_code=FAILED,
        )
        return FAILED


def _show_interrupt(interrupt: KeyboardInterrupt) -> int:
    text = "; ".join(["Interrupted", *map(str, interrupt.args)])
    show(text, "interrupted", exit_code=INTERRUPTED)
    return INTERRUPTED


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command's name, "" if there is none, and its arguments.

    docker puts the plugin's name first, or after `help` and the words for completion. Without
    docker it may be missing. `help COMMAND` becomes `COMMAND --help`.
    """
    verb, *arguments = words or [""]
    if verb == "kontext":
        verb, *arguments = arguments or [""]
    elif verb in ("help", _COMPLETE, _COMPLETE_WITHOUT_DESCRIPTIONS):
        arguments = arguments[1:] if arguments[:1] == ["kontext"] else arguments
    if verb == "help":
        return (arguments or [""])[0], ["--help"]
    return ("", []) if verb in ("-h", "--help") else (verb, arguments)


def _complete(verb: str, words: Sequence[str]) -> int:
    from kontext_plugin.cli import completion  # 30 ms that only the shell needs

    _catch_interrupts()

    answer = completion.complete(words)
    write_stdout([answer if verb == _COMPLETE else completion.without_descriptions(answer)])
    return 0


def _find_command(name: str) -> Command:
    """Return a command, or _ROOT for "". Raises UsageError."""
    if not name:
        return _ROOT
    if name not in COMMANDS:
        raise UsageError(
            f"docker: unknown command: docker kontext {name}",
            hint=did_you_mean(suggest(name, list(COMMANDS))),
        )
    return COMMANDS[name]


def _run_command(command: Command, arguments: Sequence[str], flags: Globals) -> int:
    """Run a command or print its help; return the exit code. Raises KontextError."""
    if command is _ROOT:
        write_stdout([_overview()])
        return 0
    if asks_for_help(command, arguments):
        put_stdout([help_text(command)])
        return 0
    if command is VERSION:
        parse(VERSION, arguments)
        write_stdout([f"kontext {read_version()}"])
        return 0
    _catch_interrupts()
    _check_current_directory()
    code: int = import_module(f"kontext_plugin.commands.{command.name}").main(arguments, flags)
    return code


def _catch_interrupts() -> None:
    from kontext_plugin.cli import signals  # 3 ms that no help needs

    signals.catch_interrupts()


def _overview() -> str:
    commands = table([(name, command.summary) for name, command in COMMANDS.items()])
    return (
        f"{usage_line(_ROOT)}\n\n{_ROOT.description}\n\nCommands:\n{commands}\n\n"
        f"Run '{_ROOT.path} COMMAND --help' for more information on a command."
    )


def _check_current_directory() -> None:
    """Raise KontextError if it was deleted: relative paths mean nothing there, and crane fails."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise KontextError(
            "the current directory was deleted", hint="Change to another directory, and try again."
        ) from error


def _show_usage_error(error: UsageError, command: Command) -> None:
    """Show an error, and how to call the command, as docker does."""
    show(error.message)
    if error.hint:
        show(error.hint)
    show(f"\n{usage_line(command)}\n\nRun '{command.path} --help' for more information")


def _show_traceback() -> None:
    import traceback  # 1 ms that only -D needs

    show(traceback.format_exc(), "debug")
