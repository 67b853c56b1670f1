"""The lines of a terminal that show what a push is at: the only import of rich, 60 ms."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kontext_plugin.terminal.progress import StepLine

_BAR = 24  # columns

_WIDE = 80  # columns: below that there is no room for a bar

_USUAL = (80, 25)  # where a terminal does not tell

_SPINNER = "|/-\\"


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        return False  # never hidden: a push that is stopped or killed would leave it so


class Display:
    """From the first `draw` to `close`. Raises OSError where the terminal is gone."""

    def __init__(self) -> None:
        # Plain text throughout: neither a name's [red] nor its :smile: means anything.
        self._console = _Console(
            file=sys.stderr, force_terminal=True, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._turn = 0

    def draw(self, current: Sequence[StepLine]) -> None:
        """Replaces what is shown."""
        # By itself rich believes COLUMNS, which stays as it was when the terminal changes.
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
        self._console.size = (columns or _USUAL[0], lines or _USUAL[1])
        self._live.start()  # once
        self._turn += 1
        spinner, width = _SPINNER[self._turn % len(_SPINNER)], self._console.width
        texts = [Text(line(doing, spinner, width)) for doing in current]
        whole = Text("\n", no_wrap=True, overflow="ellipsis").join(texts)
        self._live.update(whole, refresh=True)

    def say(self, text: str) -> None:
        """Puts a message above, in full: the terminal breaks its lines, so it can be copied."""
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Nothing is left of what was drawn."""
        self._live.stop()


def line(doing: StepLine, spinner: str, width: int) -> str:
    """The most important first, since a narrow terminal cuts the rest off."""
    parts = [spinner, doing.what]
    if doing.percent is not None:
        parts.append(f"{doing.percent:3} %")
        if width >= _WIDE:
            done = "=" * (doing.percent * _BAR // 100)
            parts.append(f"[{done + '>':{_BAR}.{_BAR}}]")
    return " ".join([*parts, doing.counts])
