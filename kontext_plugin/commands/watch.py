"""`docker kontext watch`: push a directory, and push it again each time it changes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import lru_cache, partial
from typing import NoReturn

from kontext_plugin.cache import Cache, open_cache
from kontext_plugin.cli.flags import Globals, invalid, parse_duration
from kontext_plugin.cli.options import WATCH
from kontext_plugin.cli.signals import on_interrupt
from kontext_plugin.commands.push import push
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.crane_driver.process import terminate_group
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest
from kontext_plugin.push import messages
from kontext_plugin.push.config_file import CONFIG_FILE_NAME
from kontext_plugin.push.options import (
    CommandLine,
    PushOptions,
    push_options,
    read_command_line,
)
from kontext_plugin.push.prepare import open_pushed
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source.directory import SourceDirectory
from kontext_plugin.source.filters import Decision, Place, place_at
from kontext_plugin.source.ignore_rules import IGNORE_FILES
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.source.watcher import (
    NOTHING,
    POLL_INTERVAL,
    CannotWatch,
    IsSkipped,
    PollingWatcher,
    Touched,
    Watcher,
    tells_changes,
    watch_directory,
)
from kontext_plugin.terminal.messages import Report, show, write_stdout
from kontext_plugin.terminal.progress import reporting
from kontext_plugin.terminal.steps import Steps

_DEBOUNCE = 0.1
"""Seconds. An editor saves a file by several changes, some milliseconds apart."""

# Seconds between two attempts while the registry fails.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

_RESTS = 2.0
"""Seconds without a change, after which the cache is written."""

_ALWAYS = (CONFIG_FILE_NAME, *IGNORE_FILES, ".gitignore")
"""Files that decide what a push takes, even if it does not take them."""


def main(arguments: Sequence[str], flags: Globals) -> int:
    line = read_command_line(WATCH, arguments)
    options, _ = push_options(line)
    debounce, poll = line.parsed.debounce, line.parsed.poll
    open_pushed(options)  # what is missing at the start is a mistake
    watch = _Watch(
        arguments,
        flags,
        debounce=parse_duration("debounce", debounce) if debounce else _DEBOUNCE,
        interval=_interval(poll) if poll else 0,
        command=line.parsed.exec or "",
    )
    with on_interrupt(watch.describe):
        watch.run()
    return 0


def _interval(text: str) -> float:
    seconds = parse_duration("poll", text)
    if seconds <= 0:
        raise invalid("poll", text, "it must be longer than nothing")
    return seconds


class _Outcome(Enum):
    """How a push of a watch ended."""

    PUSHED = auto()
    FAILED = auto()  # until something changes
    REGISTRY_FAILED = auto()  # maybe for a moment


class _Watch:
    """Pushes of one directory, and what is known from one to the next."""

    def __init__(
        self,
        arguments: Sequence[str],
        flags: Globals,
        *,
        debounce: float,
        interval: float,
        command: str,
    ) -> None:
        self._arguments = arguments
        self._flags = flags
        self._debounce = debounce
        self._interval = interval  # of polling, in seconds; 0: poll only where that is needed
        self._command = command
        self._cache = _WatchCache(**vars(open_cache()))
        self._image = ""  # the last push
        self._told: frozenset[str] = frozenset()  # what was said in the last round
        self._line: CommandLine | None = None
        self._options: PushOptions | None = None
        self._source: SourceDirectory | None = None  # what the watcher knows of it
        self._watcher: Watcher | None = None

    def describe(self) -> str:
        """Return what an interruption between two pushes leaves behind."""
        return f"{self._image} is the last push" if self._image else messages.NOTHING_PUBLISHED

    def run(self) -> NoReturn:
        """Push, wait for a change, and begin again, until an interruption."""
        pause = 0.0
        try:
            while True:
                outcome = self._push()
                gc.collect()  # a push leaves a few cycles, and open files in them
                if outcome is _Outcome.PUSHED and self._is_outdated():
                    continue
                is_away = outcome is _Outcome.REGISTRY_FAILED
                pause = min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE) if is_away else 0.0
                self._wait(pause or None)
        finally:
            self._cache.write()
            if self._watcher:
                self._watcher.close()

    def _push(self) -> _Outcome:
        """Push once, as if the command were typed again."""
        told: set[str] = set()
        try:
            self._line = line = read_command_line(WATCH, self._arguments)
            self._options, mode = push_options(line)
            with reporting(mode, self._flags.debug) as report:
                report = _News(**vars(report), before=self._told, told=told)
                messages.report_config(line, report)
                self._watch(self._options, report)
                pushed = push(self._options, report, self._cache)
            assert pushed is not None
        except KontextError as error:
            if error.message not in self._told:
                show(error.message, "error", hint=error.hint)
            told.add(error.message)
            is_away = isinstance(error, RegistryError)
            return _Outcome.REGISTRY_FAILED if is_away else _Outcome.FAILED
        finally:
            self._told = frozenset(told)
        self._cache.memory.touched = NOTHING
        if str(pushed) != self._image:
            self._image = str(pushed)
            write_stdout([self._image])
            if self._command:
                _run(self._command, self._image)
        return _Outcome.PUSHED

    def _is_outdated(self) -> bool:
        """Whether the last push had other rules or options than the directory has now.

        It reads them before the last changes are gathered.
        """
        assert self._options is not None
        try:
            line = read_command_line(WATCH, self._arguments)
            return line != self._line or open_pushed(self._options) != self._source
        except KontextError:  # the next push tells it
            return True

    def _watch(self, options: PushOptions, report: Report) -> None:
        """Watch the directory; anew, if its rules have changed. Raises KontextError."""
        source = open_pushed(options)
        if source == self._source:
            return
        if self._watcher:
            self._watcher.close()
        self._source, self._watcher = None, None
        self._watcher = self._make_watcher(options, source, report)
        self._source = source
        report.info(f"Watching {source.root!r}. Ctrl-C ends it")
        self._cache.memory.touched = None  # it may have changed since the former watcher ended

    def _make_watcher(
        self, options: PushOptions, source: SourceDirectory, report: Report
    ) -> Watcher:
        interval = self._interval
        if not interval and not tells_changes(source.root):
            reason = "its file system does not tell of all changes"
        elif not interval:
            outside = [options.ignore_file] if options.ignore_file else []
            try:
                return watch_directory(options.directory, outside, self._skips(source))
            except CannotWatch as error:
                reason = str(error)
        if not interval:
            interval = POLL_INTERVAL
            report.important(f"{options.directory!r} is read every {interval:g} s: {reason}")
        return PollingWatcher(self._has_changed, interval)

    def _skips(self, source: SourceDirectory) -> IsSkipped:
        """Return what tells entries that no push takes, apart from what git ignores."""
        filters = source.filters(self._cache.root)

        @lru_cache(maxsize=10_000)
        def place(directory: str) -> Place:
            return place_at(filters, directory)

        def is_skipped(directory: str, name: str, is_directory: bool) -> bool:
            if name in _ALWAYS:
                return False
            parent = place(directory)
            path = parent.join(name)
            decision, _ = filters.decide(path, name, is_directory, parent.verdict, parent.in_git)
            return decision in (Decision.SKIP, Decision.SKIP_GIT)

        return is_skipped

    def _has_changed(self) -> bool:
        """Whether the directory is not as the last push has found it."""
        assert self._options is not None
        try:
            source = open_pushed(self._options)
            known = replace(self._cache.snapshot(source.root), touched=None)
            with Workers() as workers:
                scan = source.scan(known, workers, Steps(), lambda _: None, cache=self._cache.root)
        except KontextError:  # the push says it
            return True
        return scan.tree != known.tree

    def _wait(self, timeout: float | None) -> None:
        """Wait for a change, or until it is time to try again."""
        if self._watcher is None:
            time.sleep(timeout or POLL_INTERVAL)
            return
        try:
            touched = self._watcher.wait(timeout or _RESTS)
            if touched == NOTHING and timeout is None:
                self._cache.write()
                touched = self._watcher.wait(None)
        except CannotWatch:  # the next round makes another watcher
            self._source, touched = None, None
        self._cache.touch(touched)
        self._cache.memory.gather = partial(self._gather, time.monotonic() + self._debounce)

    def _gather(self, deadline: float) -> Touched:
        """Return what changes until then. The push calls it while the registry answers."""
        gathered: Touched = NOTHING
        while self._watcher and (left := deadline - time.monotonic()) > 0:
            try:
                touched = self._watcher.wait(left)
            except CannotWatch:
                self._source, touched = None, None
            gathered = _union(gathered, touched)
            if self._source is None:
                return gathered
        return gathered


def _union(one: Touched, other: Touched) -> Touched:
    return None if one is None or other is None else one | other


def _run(command: str, image: str) -> None:
    """Run the command of --exec. Its output goes to stderr: stdout has only images."""
    environment = os.environ | {"KONTEXT_IMAGE": image}
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        code = process.wait()
    finally:
        terminate_group(process)
    if code:
        show(f"--exec failed with exit code {code}: {command}", "warning")


@dataclass(frozen=True)
class _News(Report):
    """A report that does not repeat what it has said in the last round, apart from results."""

    before: frozenset[str] = frozenset()
    told: set[str] = field(default_factory=set)

    def say(self, text: str, kind: str = "message") -> None:
        self.told.add(text)
        if text not in self.before:
            super().say(text, kind)


@dataclass
class _Memory:
    """What a watch knows of the directory and of the image that it has pushed."""

    directory: str = ""
    snapshot: Snapshot = field(default_factory=Snapshot)
    touched: Touched = None  # since the last push that went well
    gather: Callable[[], Touched] = lambda: NOTHING  # waits for the changes that belong together
    reference: str = ""
    image: KontextImage | None = None
    is_new: bool = False  # not in the cache yet


@dataclass(frozen=True)
class _WatchCache(Cache):
    """The cache of a watch. It writes large records at rest: 100,000 files make 20 MB of them."""

    memory: _Memory = field(default_factory=_Memory, compare=False)

    def snapshot(self, directory: str) -> Snapshot:
        memory = self.memory
        self.touch(memory.gather())
        if directory != memory.directory:
            memory.directory, memory.touched = directory, None
            memory.snapshot = super().snapshot(directory)
        return replace(memory.snapshot, touched=memory.touched)

    def save_snapshot(self, directory: str, snapshot: Snapshot) -> None:
        assert directory == self.memory.directory
        self.memory.snapshot, self.memory.is_new = snapshot, True

    def published(self, reference: str, digest: Digest) -> KontextImage | None:
        image = self.memory.image
        if image and (reference, digest) == (self.memory.reference, image.digest):
            return image
        return super().published(reference, digest)

    def save_published(self, reference: str, image: KontextImage) -> None:
        self.memory.reference, self.memory.image, self.memory.is_new = reference, image, True

    def touch(self, touched: Touched) -> None:
        """Note directories that may have changed."""
        self.memory.touched = _union(self.memory.touched, touched)

    def write(self) -> None:
        """Write what later pushes and other commands need, if it is new."""
        memory = self.memory
        if memory.is_new:
            super().save_snapshot(memory.directory, memory.snapshot)
            if memory.image:
                super().save_published(memory.reference, memory.image)
        memory.is_new = False
