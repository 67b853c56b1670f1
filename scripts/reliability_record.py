"""What the trials of scripts/reliability came to: a file with a line of JSON for each trial."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from support.trees import Tree, plant


@dataclass
class Record:
    """One trial, or several. It adds to `counts` as it goes; `peaks` has the largest values."""

    topic: str
    seed: int
    registry: str
    commit: str
    counts: Counter[str] = field(default_factory=Counter)
    peaks: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    mended: str = ""  # the test that holds what failed, added by hand
    trials: int = 1  # more than one where records were added up

    def peak(self, name: str, value: float) -> None:
        self.peaks[name] = max(value, self.peaks.get(name, 0))

    @property
    def has_wrong_tree(self) -> bool:
        """Whether the trial failed since a consumer showed another tree."""
        return SHOWS_ANOTHER in self.failure

    @property
    def again(self) -> str:
        """The command that makes the same trial again."""
        return (
            f"scripts/reliability --only {self.topic} --registry {self.registry} "
            f"--seed {self.seed} --trials 1"
        )


SHOWS_ANOTHER = "shows another tree"


class WrongTree(AssertionError):
    """A program shows another tree than the one that was pushed."""

    def __init__(self, program: str, want: Tree, shown: Tree | None) -> None:
        self.want, self.shown = want, shown or {}
        paths = sorted(want.keys() | self.shown.keys())
        wrong = [path for path in paths if want.get(path) != self.shown.get(path)]
        super().__init__(f"{program} {SHOWS_ANOTHER}: {len(wrong)} paths differ, {wrong[:5]}")

    def keep(self, folder: Path) -> None:
        for name, tree in (("pushed", self.want), ("shown", self.shown)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            plant(folder / name, tree)


def expect(program: str, want: Tree, shown: Tree | None) -> None:
    """Raise WrongTree unless both are the same."""
    if shown != want:
        raise WrongTree(program, want, shown)


@contextmanager
def during(what: str) -> Iterator[None]:
    """Add to an assertion that fails in the block what was done."""
    try:
        yield
    except AssertionError as error:
        error.args = (f"{what}\n{error}",)
        raise


class State:
    """A file of records. Several processes may add to it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, record: Record) -> None:
        self._append({"record": vars(record)})

    def add_programs(self, programs: dict[str, str]) -> None:
        """Note the versions of the programs that the next records were made with."""
        self._append({"programs": programs})

    def _append(self, document: object) -> None:
        line = json.dumps(document).encode() + b"\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def sum_up(self) -> None:
        """Leave one record for all trials of a topic, registry and commit, and each failure."""
        records, programs = self.read()
        sums: dict[tuple[str, str, str], Record] = {}
        failed = [record for record in records if record.failure]
        for record in records:
            if not record.failure:
                key = record.topic, record.registry, record.commit
                found = sums.setdefault(key, Record(*key[:1], 0, *key[1:], trials=0))
                found.trials += record.trials
                found.counts += record.counts
                for name, value in record.peaks.items():
                    found.peak(name, value)
        new = State(self.path.with_name(f"{self.path.name}.new"))
        for record in (*sums.values(), *failed):
            new.add(record)
        new.add_programs(programs)
        os.replace(new.path, self.path)

    def read(self) -> tuple[list[Record], dict[str, str]]:
        """Return all records, and the newest version of each program."""
        records, programs = [], {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            document = json.loads(line)
            if "programs" in document:
                programs |= document["programs"]
            else:
                fields = document["record"]
                records.append(Record(**fields | {"counts": Counter(fields["counts"])}))
        return records, programs


def total(records: Iterable[Record]) -> Counter[str]:
    return sum((record.counts for record in records), Counter())
