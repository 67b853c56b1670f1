"""Pushes measured beside other tools."""

from __future__ import annotations

import itertools
import os
import random
import shlex
import shutil
import statistics
import time
from collections.abc import Callable, Sequence

import bench_tree
import peers
from bench_report import Row, Topic, at_least, at_most, not_measured
from bench_stage import (
    DOCKER_PUSH,
    FRESH,
    PUSH,
    SETTLED,
    SMALL,
    ZSTD,
    Stage,
    size_of_layers_with,
    state_size,
)
from measuring import disk_registry, human, layers_of
from processes import Failed, Run, filled, in_turn, ratio, seconds, shown, timed
from support.slow_line import RATE, line, slow_line

Runs = Sequence[Run]

# What the scan cannot do without, and what no tree changes.
SCAN = "one status of each file and one listing of each directory, compared in Python"
START = "the start of Python and of crane"


def git_status(stage: Stage, watch_memory: bool = False) -> Run:
    return timed(filled(peers.GIT_STATUS, tree=stage.tree), watch_memory)


def unchanged_runs(stage: Stage) -> tuple[Runs, Runs]:
    """Push in turn with `git status`."""
    stage.warm()
    git_status(stage)
    ours, theirs = zip(*in_turn(stage.runs, stage.push, lambda: git_status(stage)), strict=True)
    return ours, theirs


def unchanged(stage: Stage) -> Topic:
    ours, theirs = unchanged_runs(stage)
    cranes = cranes_started(stage)
    return Topic(
        "No change",
        [
            compared("no change", ours, "git status", theirs, most=1.5, bound=SCAN),
            Row("crane processes", f"{cranes}", target=at_most(cranes, 2)),
        ],
        "The cache is warm, and the image under the tag has the same files as the tree. A wrapper "
        "around crane counts the processes, in a separate push.",
        [shown(PUSH), shown(peers.GIT_STATUS)],
    )


def cranes_started(stage: Stage) -> int:
    wrapper, log = stage.work / "counting-crane", stage.work / "cranes"
    log.write_text("")
    crane = shutil.which("crane")
    wrapper.write_text(f'#!/bin/sh\necho >>{shlex.quote(str(log))}\nexec {crane} "$@"\n')
    wrapper.chmod(0o755)
    os.environ["KONTEXT_CRANE"] = str(wrapper)
    try:
        stage.push()
    finally:
        del os.environ["KONTEXT_CRANE"]
    return log.read_text().count("\n")


def edited_runs(stage: Stage) -> tuple[Runs, Runs]:
    """Push each edit in turn with `git status`."""
    stage.warm()
    git_status(stage)
    return edited_in_turn(stage, stage.runs, lambda: git_status(stage))


def edited_beside_append(stage: Stage) -> tuple[Runs, Runs]:
    append = peers.append()
    return edited_in_turn(
        stage, stage.slow_runs, lambda: append.push(stage.tree, stage.host, stage.work)
    )


def edited_in_turn(stage: Stage, runs: int, other: Callable[[], Run]) -> tuple[Runs, Runs]:
    rounds = in_turn(runs, lambda: stage.edited(stage.push), lambda: stage.edited(other))
    ours, theirs = zip(*rounds, strict=True)
    return ours, theirs


def edited(stage: Stage) -> Topic:
    ours, theirs = edited_runs(stage)
    beside, appends = edited_beside_append(stage)
    append = peers.append()
    with line(stage.host) as counting:
        stage.warm(counting.host)
        uploads = []
        for _ in range(stage.runs):
            counting.reset()
            stage.edited(lambda: stage.push(counting.host))
            uploads.append(counting.up.carried)
    return Topic(
        "One file edited",
        [
            compared("one file edited", ours, "git status", theirs, most=2, bound=SCAN),
            compared("one file edited", beside, append.name, appends, least=25, bound=SCAN),
            Row(
                "uploaded for an edit",
                human(max(uploads)),
                target=at_most(max(uploads), SMALL, f"at most {human(SMALL)}"),
            ),
        ],
        "Before each run of each tool, new bytes replace the last KB of one file. *Uploaded* is "
        "the most that any push sent through a counting proxy, requests included.",
        [shown(PUSH), shown(peers.GIT_STATUS), shown(append.template)],
    )


SHARE = 0.01  # of the files that differ between two commits


def checked_out(stage: Stage) -> Topic:
    """Each run of each tool follows a checkout of the other one of two commits."""
    commits = itertools.cycle(stage.edits.commit_another(SHARE))

    def after_checkout(action: Callable[[], Run]) -> Callable[[], Run]:
        def run() -> Run:
            bench_tree.git(stage.tree, "checkout", "--quiet", next(commits))
            time.sleep(SETTLED)
            return action()

        return run

    stage.warm()
    rounds = in_turn(
        stage.runs, after_checkout(stage.push), after_checkout(lambda: git_status(stage))
    )
    bench_tree.git(stage.tree, "checkout", "--quiet", next(commits))
    ours, theirs = zip(*rounds, strict=True)
    return Topic(
        "Another commit checked out",
        [
            compared(
                "1 % of the files changed",
                ours,
                "git status",
                theirs,
                most=4,
                bound="each changed file is read, hashed and compressed",
            )
        ],
        "Two commits differ in every hundredth file. Before each run, the other one is checked "
        f"out, and {SETTLED:g} seconds go by.",
        [f"git checkout --quiet COMMIT; {shown(PUSH)}", shown(peers.GIT_STATUS)],
    )


SMALL_FILES, SMALL_BYTES = 300, 7000
SMALL_SECONDS = 0.25


def small(stage: Stage) -> Topic:
    """docker starts the plugin, as people do."""
    tree = stage.work / "small-tree"
    for number in range(SMALL_FILES):
        path = tree / f"{number % 7}" / f"{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(SMALL_BYTES // 2).hex().encode())
    append, image = peers.append(), f"{stage.host}/bench/small:main"
    edits = bench_tree.Edits(tree)

    def push() -> Run:
        return timed(filled(DOCKER_PUSH, image=image, tree=tree))

    def edited(action: Callable[[], Run]) -> Callable[[], Run]:
        def run() -> Run:
            edits.one()
            return action()

        return run

    push()
    rounds = in_turn(
        stage.runs, edited(push), edited(lambda: append.push(tree, stage.host, stage.work))
    )
    ours, theirs = zip(*rounds, strict=True)
    return Topic(
        "One file of a small tree edited",
        [
            compared("300 files, 2 MB", ours, append.name, theirs, least=4, bound=START),
            Row(
                "300 files, 2 MB: the time",
                duration(seconds(ours)),
                target=at_most(seconds(ours), SMALL_SECONDS, "at most {:g} s"),
                bound=START,
            ),
        ],
        "The start of docker is included.",
        [shown(DOCKER_PUSH), shown(append.template)],
    )


def without_cache(stage: Stage) -> Topic:
    stage.warm()
    hash_all = filled(peers.HASH_ALL, tree=stage.tree)

    def push(host: str = "") -> Run:
        stage.edits.one()
        stage.forget()
        return stage.push(host)

    rounds = in_turn(stage.runs, push, lambda: timed(hash_all))
    manifest = state_size(stage.pushed())
    with line(stage.host) as counting:
        stage.push(counting.host)
        counting.reset()
        push(counting.host)
    down = counting.down.carried
    ours, theirs = zip(*rounds, strict=True)
    return Topic(
        "One file edited, on a machine without a cache",
        [
            compared(
                "no cache",
                ours,
                "sha256sum of all files",
                theirs,
                most=0.4,
                bound="the listing and the manifest's decoding, which take turns in one process, "
                "and then hashing",
            ),
            Row(
                "downloaded without a cache",
                human(down),
                "the manifest, compressed",
                human(manifest),
                f"{down / manifest:.2f}",
                at_most(
                    down,
                    manifest + SMALL,
                    f"at most the manifest (and {human(SMALL)} of requests)",
                ),
            ),
        ],
        "The registry has the tree as it was before the edit. *Downloaded* is what a separate push "
        "received through a counting proxy. *The manifest* is everything in `/var/lib/kontext` in "
        "the image's layers.",
        [f"rm -r ~/.cache/kontext; {shown(PUSH)}", shown(peers.HASH_ALL)],
    )


DEFLATE = "the work for each file (two thirds) and deflate (a third), on all processors"
READING = "the work for each file, on all processors"


def first(stage: Stage) -> Topic:
    """Each push goes to a registry of its own, which has nothing."""
    others = peers.pushers(stage.daemon)
    ours: list[Run] = []
    zstd: list[Run] = []
    sizes: list[tuple[int, int]] = []
    theirs: dict[str, list[Run]] = {peer.name: [] for peer in others}
    for _ in range(stage.slow_runs):
        stage.forget()
        with disk_registry() as host:
            ours.append(stage.push(host))
            gzip_size = size_of(_digest(stage, host))
        stage.forget()
        with disk_registry() as host:
            zstd.append(stage.push(host, ZSTD))
            sizes.append((size_of(_digest(stage, host)), gzip_size))
        for peer in others:
            try:
                if not peer.lacking:
                    with disk_registry() as host:
                        theirs[peer.name].append(peer.push(stage.tree, host, stage.work))
            except Failed as error:
                peer.lacking = str(error)
    smaller, larger = sizes[-1]
    appends = theirs["tar | crane append"]
    least = {"tar | crane append": 1.7, "docker build, docker push": 2.0}
    return Topic(
        "First push",
        [
            not_measured("first push", peer.name, peer.lacking)
            if peer.lacking
            else compared(
                "first push",
                ours,
                peer.name,
                theirs[peer.name],
                least=least.get(peer.name),
                faster=True,
                bound=DEFLATE,
            )
            for peer in others
        ]
        + [
            compared(
                "first push, zstd", zstd, "tar | crane append", appends, least=2.5, bound=READING
            ),
            Row(
                "size, zstd",
                human(smaller),
                "gzip",
                human(larger),
                f"{smaller / larger:.2f}",
                at_most(smaller / larger, 0.88),
            ),
        ],
        "There is no cache, and each push goes to a new, empty registry. The tree was read before. "
        f"DOCKERFILE is `{'; '.join(peers.DOCKERFILE.splitlines())}`. docker has its own daemon, "
        "and buildah its own storage.",
        [shown(PUSH), shown(ZSTD), *(shown(peer.template) for peer in others)],
    )


def size_of(image: str) -> int:
    return sum(layer.size for layer in layers_of(image))


def afresh(stage: Stage) -> Topic:
    edits = 5
    with disk_registry() as host, line(host) as counting:
        stage.forget()
        stage.push(counting.host)
        whole = counting.up.carried
        changed = []
        for number in range(edits):
            changed.append(str(stage.edits.one(number).relative_to(stage.tree)))
            stage.push(counting.host)
        counting.reset()
        fresh = stage.push(counting.host, FRESH)
        up = counting.up.carried
        counting.reset()
        image = _digest(stage, host)
        needed = size_of_layers_with(image, changed)
    return Topic(
        "A fresh start on a tree that the registry mostly has",
        [
            Row(
                "uploaded by a fresh start",
                human(up),
                "the first push",
                human(whole),
                f"{up / whole:.3f}",
                at_most(
                    up,
                    needed + SMALL,
                    f"at most the layers with changed files: {human(needed)} (and {human(SMALL)})",
                ),
            ),
            Row("a fresh start", f"{fresh.seconds:.2f} s"),
        ],
        f"Before the fresh start, there are a first push and {edits} pushes of one edit each, in "
        "different files.",
        [shown(FRESH)],
    )


def _digest(stage: Stage, host: str) -> str:
    repository = stage.image(host).rpartition(":")[0]
    done = peers.output("crane", "digest", stage.image(host))
    return f"{repository}@{done.strip()}"


def slow(stage: Stage) -> Topic:
    """A line in both directions, and beside it the registry itself."""
    append = peers.append()
    stage.warm()
    with slow_line(stage.host) as far:
        stage.warm(far.host)
        rounds = in_turn(stage.runs, lambda: stage.push(far.host), stage.push)
        longer = statistics.median(one.seconds - other.seconds for one, other in rounds)
        unchanged, near = zip(*rounds, strict=True)
        far.reset()
        stage.push(far.host)
        unchanged_bytes = traffic(far.up.carried, far.down.carried)
        rounds = in_turn(
            stage.runs,
            lambda: stage.edited(lambda: stage.push(far.host)),
            lambda: stage.edited(stage.push),
        )
        edits, near_edits = zip(*rounds, strict=True)
        stage.edits.one()
        far.reset()
        stage.push(far.host)
        edit_bytes = traffic(far.up.carried, far.down.carried)
    with disk_registry() as host, slow_line(host) as far:
        stage.forget()
        whole = stage.push(far.host)
        first_bytes = traffic(far.up.carried, far.down.carried)
        alone = Run(size_of(_digest(stage, far.host)) / RATE)
        far.reset()
        appended = append.push(stage.tree, far.host, stage.work)
        append_bytes = traffic(far.up.carried, far.down.carried)
    return Topic(
        "Through a slow line",
        [
            Row(
                "slow line: no change",
                f"{seconds(unchanged):.2f} s",
                "the same on loopback",
                f"{seconds(near):.2f} s",
                f"{longer:+.2f} s",
                at_most(longer, 0.3, "at most {:g} s more"),
            ),
            compared("slow line: edit", edits, "the same on loopback", near_edits),
            compared("slow line: first push", [whole], append.name, [appended], faster=True),
            compared(
                "slow line: first push",
                [whole],
                "its layers at 50 Mbit/s",
                [alone],
                most=1.05,
                bound="the scan and the first layer, before anything is sent",
            ),
            Row("slow line: bytes, no change", unchanged_bytes),
            Row("slow line: bytes, edit", edit_bytes),
            Row("slow line: bytes, first push", first_bytes, append.name, append_bytes),
        ],
        "A proxy (tests/support/slow_line.py) delays all bytes by 25 ms and passes 50 Mbit/s in "
        "each direction. A connection takes one round trip to open. The first push runs once. The "
        "difference is the median of neighbouring runs. *Its layers at 50 Mbit/s* is computed from "
        "the sizes that the registry lists.",
        [shown(PUSH), shown(append.template)],
    )


def traffic(up: int, down: int) -> str:
    return f"{human(up)} up, {human(down)} down"


def compared(
    what: str,
    ours: Runs,
    against: str,
    theirs: Runs,
    *,
    most: float | None = None,
    least: float | None = None,
    faster: bool = False,
    bound: str = "–",
) -> Row:
    """A row of times: at most `most` times as long, or at least `least` times as fast."""
    fast = faster or least is not None
    factor = ratio(theirs, ours) if fast else ratio(ours, theirs)
    target = None
    if most is not None:
        target = at_most(factor, most, "at most {:g} times as long")
    if least is not None:
        target = at_least(factor, least, "at least {:g} times as fast")
    word = "times as fast" if fast else "times as long"
    mine, other = duration(seconds(ours)), duration(seconds(theirs))
    return Row(what, mine, against, other, f"{factor:.2f} {word}", target, bound)


def duration(time: float) -> str:
    """Seconds as the documents show them."""
    return f"{time:.2f} s" if time >= 0.1 else f"{time * 1e3:.1f} ms"
