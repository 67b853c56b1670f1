"""Trials of scripts/reliability: histories of pushes, pushes that are killed, registries that fail.

A trial does the same each time for a seed, but for what depends on time: the moment of a kill, and
which of several requests comes first. Each raises AssertionError where something is wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from reliability_record import Record, during, expect
from reliability_stage import Stage
from support import proxy
from support.machine import Machine, ended, ends_within
from support.proxy import ALWAYS, Fault, Proxy, Rule, serve_proxy
from support.random_edits import edit_at_random, put
from support.services import Result
from support.trees import File, Tree, on_disk, plant, remove

BOTH = "linux/amd64,linux/arm64"

# --- Histories ---

GENERATIONS = 12
"""Pushes of one history."""

EVERY = 12
"""The slow programs read the image of one generation in so many."""

CROWD = 600
"""Files of some directories: more than 512, so their manifests are in parts."""


@dataclass(frozen=True)
class Tagged:
    """What a history has pushed."""

    repository: str
    tag: str
    tree: Tree


@dataclass
class History:
    """One directory, pushed again and again from several machines."""

    stage: Stage
    record: Record
    chance: random.Random
    machine: Machine = field(init=False)
    pushed: list[Tagged] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = self.stage.machine()
        self.repositories = [self.machine.repository, self.stage.server.repository()]
        self.read = self.machine.folder / "read"  # pulled into again and again
        self.metadata = self.machine.folder / "metadata.json"
        # So that most edits are a small share of the bytes: else each push starts fresh.
        ballast = {f"ballast {n}": File(self.chance.randbytes(60_000)) for n in range(10)}
        plant(self.machine.source, ballast)
        if self.chance.random() < 0.25:
            self.record.counts["histories with a manifest in parts"] += 1
            plant(
                self.machine.source,
                {f"crowd/{n % 7}/{n}": File(b"%d" % n) for n in range(CROWD)},
            )

    def run(self) -> None:
        for number in range(GENERATIONS):
            self.edit()
            self.choose_machine()
            repository, tag = self.choose_tag()
            self.push(repository, tag)
            if (number + self.record.seed) % EVERY == 0:
                self.compare_slow(self.image)
            if self.chance.random() < 0.08:
                self.purge(repository, tag)
            self.forget_some()

    # --- What happens before a push ---

    def edit(self) -> None:
        """Edit the directory, leave it as it is, or bring back an earlier tree."""
        kind = self.chance.random()
        if kind < 0.1 and self.pushed:
            self.record.counts["edit: an earlier tree again"] += 1
            become(self.machine.source, self.chance.choice(self.pushed).tree)
        elif kind < 0.2:
            self.record.counts["edit: none"] += 1
        else:
            edit_at_random(self.machine.source, self.chance)
            if (self.machine.source / "crowd").is_dir() and self.chance.random() < 0.5:
                number = self.chance.randrange(CROWD)
                put(self.machine.source, f"crowd/{number % 7}/{number}", File(b"edited"))

    def choose_machine(self) -> None:
        kind = self.chance.random()
        if kind < 0.15:
            self.record.counts["machine: without a cache"] += 1
            self.machine.forget()
        elif kind < 0.3:
            self.record.counts["machine: another one, with a cache of its own"] += 1
            other = self.machine.folder / "cache of another machine"
            self.machine.environment["KONTEXT_CACHE_DIR"] = str(other)

    def choose_tag(self) -> tuple[str, str]:
        kind = self.chance.random()
        if kind < 0.6 or not self.pushed:
            return self.repositories[0], "v1"
        if kind < 0.7:
            return self.repositories[1], "v1"
        return self.repositories[0], f"t{len(self.pushed)}"

    def options(self) -> list[str]:
        """Return the options of a push, and count them."""
        kinds: dict[str, Callable[[], list[str]]] = {
            "--fresh": lambda: ["--fresh"],
            "--reuse": lambda: ["--reuse", self.chance.choice(("always", "own", "never"))],
            "--check-parent": lambda: ["--check-parent"],
            "--max-layers": lambda: ["--max-layers", str(self.chance.randint(2, 6))],
            "--platform": lambda: ["--platform", self.chance.choice((BOTH, "linux/amd64", "all"))],
            "--single-layer": lambda: ["--single-layer", "--platform", "linux/amd64"],
            "--label": lambda: ["--label", f"number={self.chance.randrange(9)}"],
            "--tag, again": lambda: ["--tag", self.name(self.repositories[0], "again")],
        }
        if self.pushed:
            kinds["--from"] = self.from_earlier
        if self.chance.random() < 0.45:
            return []
        kind = self.chance.choice(sorted(kinds))
        self.record.counts[f"option: {kind}"] += 1
        return kinds[kind]()

    def from_earlier(self) -> list[str]:
        earlier = self.chance.choice(self.pushed)
        return ["--from", self.name(earlier.repository, earlier.tag)]

    def name(self, repository: str, tag: str) -> str:
        return f"{self.machine.host}/{repository}:{tag}"

    # --- The push, and what the image shows ---

    def push(self, repository: str, tag: str) -> None:
        self.tree = on_disk(self.machine.source)
        name = self.name(repository, tag)
        files = ("--metadata-file", self.metadata)
        result = self.machine.kontext(
            "push", "-t", name, *self.options(), *files, self.machine.source
        )
        assert result.code == 0, result.stderr
        self.image = result.image
        self.record.counts["generations"] += 1
        self.record.counts[f"push: {how(json.loads(self.metadata.read_text()))}"] += 1
        self.pushed.append(Tagged(repository, tag, self.tree))
        digest = self.image.partition("@")[2]
        assert self.stage.server.digest(repository, tag) == digest, "the tag shows another image"
        self.compare(self.image)
        self.machine.assert_clean()

    def purge(self, repository: str, tag: str) -> None:
        result = self.machine.kontext("purge", self.name(repository, tag))
        assert result.code == 0, result.stderr
        self.record.counts["purges"] += 1
        self.compare(result.image)

    def compare(self, image: str) -> None:
        for platform in self.platforms(image):
            shown = self.stage.export(image, platform)
            expect(f"crane export of {platform}", self.tree, shown)
            self.record.counts["reads: crane export"] += 1
        pulled = self.machine.kontext("pull", "--mirror", image, self.read)
        assert pulled.code == 0, pulled.stderr
        expect("docker kontext pull", self.tree, on_disk(self.read))
        self.record.counts["reads: docker kontext pull"] += 1
        verified = self.machine.kontext("verify", image, self.machine.source)
        assert verified.code == 0, verified.stdout + verified.stderr
        self.record.counts["reads: docker kontext verify"] += 1

    def platforms(self, image: str) -> list[str]:
        _, _, name = image.partition("/")
        repository, _, digest = name.partition("@")
        document = self.stage.server.manifest(repository, digest)
        if "manifests" not in document:
            return ["linux/amd64"]
        self.record.counts["indexes of several platforms"] += 1
        return [
            f"{child['platform']['os']}/{child['platform']['architecture']}"
            for child in document["manifests"]
        ]

    def compare_slow(self, image: str) -> None:
        for name, show in self.stage.consumers.items():
            expect(name, self.tree, show(image))
            self.record.counts[f"reads: {name}"] += 1

    def forget_some(self) -> None:
        """Delete an earlier image, as a registry's retention does."""
        server, former = self.stage.server, self.pushed[:-1]
        if not (server.deletes and former and self.chance.random() < 0.1):
            return
        gone = self.chance.choice(former)
        # A registry that knows no other way deletes all tags of the image: not of the newest one.
        kept = self.image.partition("@")[2]
        if server.digest(gone.repository, gone.tag) not in (None, kept):
            server.delete_tag(gone.repository, gone.tag)
            self.record.counts["earlier images deleted"] += 1


def how(metadata: Mapping[str, Mapping[str, object]]) -> str:
    """What a push did, of its metadata file."""
    push = metadata["kontext.push"]
    if push["up_to_date"]:
        return "nothing to do"
    return "started fresh" if push["fresh"] else "built on an earlier image"


def become(root: Path, tree: Tree) -> None:
    """Make the directory hold the tree and nothing else."""
    for path in sorted(on_disk(root).keys(), reverse=True):
        remove(root / path)
    plant(root, tree)


def histories(stage: Stage, record: Record, chance: random.Random) -> None:
    History(stage, record, chance).run()


# --- Pushes and purges that something happens to ---

OPERATIONS = ("a first push", "a delta", "an index", "a purge")


@dataclass
class Operation:
    """What a machine does once. The tag shows `before` or `after` from then on."""

    kind: str
    arguments: list[str | Path]
    before: Tree | None
    after: Tree

    def assert_whole(self, machine: Machine, done: bool) -> str:
        """Assert that the tag shows the old or the new image; return which.

        `done`: whether the command said that it succeeded.
        """
        shown = machine.published()
        if shown != self.before or done:
            expect("the tag", self.after, shown)
        if self.kind == "an index" and shown == self.after != self.before:
            expect("the tag for linux/arm64", self.after, machine.published("linux/arm64"))
        return "the old image" if shown == self.before != self.after else "the new image"


def prepare(kind: str, machine: Machine, repository: str, chance: random.Random) -> Operation:
    """Make the machine ready: the tag shows the source directory, but for a first push."""
    before: Tree | None = machine.tree()
    push: list[str | Path] = ["push", "-t", machine.tag, machine.source]
    if kind == "a purge":
        return Operation(kind, ["purge", machine.tag], before, machine.tree())
    if kind == "a first push":
        machine.repository, before = repository, None
        push[2] = machine.tag
    edit_at_random(machine.source, chance)
    plant(machine.source, {"large": File(chance.randbytes(chance.randrange(400_000)))})
    if kind == "an index":
        push += ["--platform", BOTH]
    return Operation(kind, push, before, machine.tree())


def first_push(machine: Machine, chance: random.Random) -> float:
    """Return the seconds that it took."""
    plant(machine.source, {"ballast": File(chance.randbytes(1_000_000))})
    return push_an_edit(machine, chance)


def push_an_edit(machine: Machine, chance: random.Random) -> float:
    """Return the seconds that it took."""
    edit_at_random(machine.source, chance)
    started = time.monotonic()
    pushed = machine.push()
    assert pushed.code == 0, pushed.stderr
    return time.monotonic() - started


def assert_next_push_works(machine: Machine, chance: random.Random) -> float:
    """Return the seconds that it took."""
    seconds = push_an_edit(machine, chance)
    expect("the tag after the next push", machine.tree(), machine.published())
    machine.assert_clean()
    return seconds


# --- Kills ---

ROUNDS = 2
"""How often a trial kills each of OPERATIONS."""

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def kills(stage: Stage, record: Record, chance: random.Random) -> None:
    """Send a signal to the process group of a command at a random moment, and push again."""
    machine = stage.machine()
    seconds = first_push(machine, chance)  # about what each command takes
    for kind in OPERATIONS * ROUNDS:
        while True:
            operation = prepare(kind, machine, stage.server.repository(), chance)
            number = chance.choice(SIGNALS)
            result = kill(machine, operation, number, chance.random() * seconds)
            if result:
                break
            seconds = assert_next_push_works(machine, chance)
        if number == signal.SIGKILL and chance.random() < 0.5:
            # Else at once, while an orphan might still be at work.
            assert ends_within(5, lambda: not machine.processes()), machine.processes()
        with during(f"{kind}: {number.name}\n{result.stderr}"):
            # -number, or 1 from Python itself: before Python had started.
            codes = (-number,) if number == signal.SIGKILL else (0, 130, -number, 1)
            assert result.code in codes, result.code
            shown = operation.assert_whole(machine, result.code == 0)
            if number != signal.SIGKILL:
                assert ends_within(5, lambda: not machine.processes()), machine.processes()
            seconds = assert_next_push_works(machine, chance)
        record.counts["kills"] += 1
        record.counts[f"{number.name}: exit code {result.code}"] += 1
        record.counts[f"{number.name}, {kind}"] += 1
        record.counts[f"the tag shows {shown}"] += 1


def kill(
    machine: Machine, operation: Operation, number: signal.Signals, after: float
) -> Result | None:
    """Signal a command after some seconds; return None if it had ended before."""
    process = machine.begin(*operation.arguments, apart=True)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
        result = ended(process)
        # Python shows a traceback without a file if the signal came before its first line of ours.
        assert '.py"' not in result.stderr, result
        assert "bug in Kontext" not in result.stderr, result
        # Nothing survives SIGKILL: it had ended just before.
        return None if number == signal.SIGKILL and result.code == 0 else result
    result = ended(process)
    assert result.code == 0, result
    return None


# --- Faults of the registry ---

TIMEOUT = "6s"
"""More than the 3 s that crane waits before its last try."""

MACHINES = 4
"""Machines at once in a trial of faults: most of them wait."""

FAULTS: dict[str, dict[str, Fault]] = {
    "cuts": {
        "cut at once": proxy.cut,
        "closed without an answer": proxy.closed,
        "cut in the request's body": proxy.cut_in_the_body,
        "cut before the answer": proxy.lost_answer,
        "cut in the answer's body": proxy.truncated,
    },
    "stalls": {
        "no answer": proxy.silent,
        "no answer after all is done": proxy.silent_after_all,
        "stops to read": proxy.stops_reading,
        "stops to send": proxy.stops_sending,
    },
    "errors": {str(code): proxy.status(code) for code in (429, 500, 502, 503, 504)},
}
WEIGHTS = {"cuts": 5, "stalls": 2, "errors": 3}


def faults(stage: Stage, record: Record, chance: random.Random) -> None:
    """Break one request of each operation, or all from it on, on several machines at once."""
    with ExitStack() as open_proxies, ThreadPoolExecutor(MACHINES) as threads:
        suffering = []
        for _ in range(MACHINES):
            way = open_proxies.enter_context(serve_proxy(stage.server.host))
            repositories = [stage.server.repository() for _ in range(9)]
            own = random.Random(chance.random())
            suffering.append(
                threads.submit(suffer, stage.machine(way.host), way, iter(repositories), own)
            )
        for one in suffering:
            record.counts += one.result()


def suffer(
    machine: Machine, way: Proxy, repositories: Iterator[str], chance: random.Random
) -> Counter[str]:
    """Let each operation meet a fault; return what was counted."""
    counts: Counter[str] = Counter()
    first_push(machine, chance)
    for kind in OPERATIONS:
        requests = 30  # of the operation, at most
        while True:
            operation = prepare(kind, machine, next(repositories), chance)
            (group,) = chance.choices([*WEIGHTS], [*WEIGHTS.values()])
            name = chance.choice([*FAULTS[group]])
            first = chance.randint(1, requests)
            rule = Rule(".*", "", FAULTS[group][name], first, chance.choice((first, ALWAYS)))
            way.asked.clear()
            way.rules.append(rule)
            result = machine.kontext(*operation.arguments, "--timeout", TIMEOUT)
            way.rules.clear()
            if rule.struck:
                break
            assert result.code == 0, result.stderr
            requests = len(way.asked)
        where = f"{name}, {'once' if rule.last == first else 'from then on'}, at request {first}"
        with during(f"{kind}: {where}\n{result.stderr}"):
            shown = survive(machine, operation, result)
            machine.assert_clean()
            assert_next_push_works(machine, chance)
        counts["faults"] += 1
        counts[f"{group}, {kind}"] += 1
        counts[f"{group}: {name}"] += 1
        counts[f"the command {'succeeded' if result.code == 0 else 'failed'}"] += 1
        counts[f"the tag shows {shown}"] += 1
    return counts


def survive(machine: Machine, operation: Operation, result: Result) -> str:
    """Assert that the command succeeded, or failed as it should; return what the tag shows."""
    if result.code:
        machine.assert_failed(result, "")
    else:
        assert result.image
    return operation.assert_whole(machine, result.code == 0)
