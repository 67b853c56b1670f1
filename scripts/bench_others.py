"""What else is measured: whole trees, the extractor, memory, help, and where time goes."""

from __future__ import annotations

import os
import pstats
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import peers
from bench_pushes import compared, git_status
from bench_report import Row, Topic, at_most, not_measured
from bench_stage import PUSH, Stage
from bench_tree import file_of
from measuring import ROOT, disk_registry, human
from processes import Run, filled, in_turn, shown, timed

PURGE = "docker-kontext kontext purge --quiet {image}"
VERIFY = "docker-kontext kontext verify {image}"
PULL = "docker-kontext kontext pull --quiet {image} {folder}"
EXPORT = "mkdir {folder} && crane export {image} - | tar -C {folder} -xf -"
GENERATIONS = 4  # above the first
EXTRACT = "docker run --rm --network none -v {volume}:/workspace {image} --quiet"
FOLDERS = [folder for folder in ("/usr", "/lib", "/lib64") if Path(folder).is_dir()]
COPY = " ".join(
    [
        "docker run --rm --network none -v {volume}:/workspace",
        *(f"-v {folder}:{folder}:ro" for folder in FOLDERS),
        "--entrypoint /usr/bin/cp {image} -a /var/run/kontext/. /workspace",
    ]
)
MEMORY = 200e6  # bytes
SMALL_FILE = 16  # times smaller than the large one
HELP_RUNS = 4  # times as many as of pushes
TOP = 15


def whole(stage: Stage) -> Topic:
    """Each round has an image of its own: a purged one has nothing to purge."""
    with tempfile.TemporaryDirectory(dir=stage.work) as folder:
        rounds = [_whole_tree(stage, f"{folder}/{number}") for number in range(stage.slow_runs)]
    exports, verified, pulled, purged = zip(*rounds, strict=True)
    against = "crane export, tar -x"
    return Topic(
        "All of the tree",
        [
            compared("verify", verified, against, exports, most=1.2, bound=INFLATE),
            compared("pull", pulled, against, exports, most=1.2, bound=INFLATE),
            compared("purge", purged, against, exports, most=1.2, bound=AGAIN),
        ],
        f"The image has {GENERATIONS} generations above the first, each with one edit. The "
        "registry is on loopback. FOLDER is new each time. `verify` reads and hashes every file. "
        f"`purge` also compresses every file and uploads it. {KEPT}",
        [shown(template) for template in (VERIFY, PULL, PURGE, EXPORT)],
    )


KEPT = (
    "No folder and no volume is removed between the runs: for minutes, ext4 looks at each inode "
    "that was just freed before it makes a file, which takes longer than all the rest."
)
INFLATE = "Python's work for each file: a header, a hash, perhaps a new file"
AGAIN = (
    "writing each file as a pull does (half), then reading and compressing it as a first push does"
)


def _whole_tree(stage: Stage, folder: str) -> list[Run]:
    os.mkdir(folder)
    stage.forget()
    with disk_registry() as host:
        for number in range(GENERATIONS + 1):
            stage.push(host)
            stage.edits.one(number)
        image = stage.image(host)
        runs = []
        for number, template in enumerate((EXPORT, VERIFY, PULL, PURGE)):
            os.sync()  # what earlier runs wrote is not this one's to wait for
            runs.append(timed(filled(template, image=image, folder=f"{folder}/{number}")))
        return runs


def extraction(stage: Stage) -> Topic:
    title, copying = "Extraction", "cp -a"
    names = ("extraction", "extraction, already right")
    if stage.daemon:
        return Topic(title, [not_measured(name, copying, stage.daemon) for name in names])
    image = stage.pushed()
    peers.output("docker", "pull", "--quiet", image)

    volumes: list[str] = []

    def into(volume: str, template: str) -> Run:
        os.sync()  # what earlier runs wrote is not this one's to wait for
        return timed(filled(template, volume=volume, image=image))

    def anew(template: str) -> Run:
        volumes.append(f"volume-{len(volumes)}")
        peers.output("docker", "volume", "create", volumes[-1])
        return into(volumes[-1], template)

    rounds = in_turn(
        min(stage.runs, 3),
        lambda: anew(EXTRACT),
        lambda: into(volumes[-1], EXTRACT),
        lambda: anew(COPY),
    )
    ours, again, copies = zip(*rounds, strict=True)
    reading = "reading and hashing each file of the workspace"
    for command in (("volume", "rm", *volumes), ("image", "rm", "--force", image)):
        peers.run("docker", *command)
    return Topic(
        title,
        [
            compared(names[0], ours, copying, copies, most=0.6, bound="creating each file"),
            compared(names[1], again, copying, copies, least=8, bound=reading),
            compared(names[1], again, "the first extraction", ours, least=8, bound=reading),
        ],
        "All containers run one image on one daemon. Each extraction and each copy writes into a "
        "new volume, except *already right*, which writes into the volume of the extraction before "
        "it. `cp` is the machine's own, mounted into the container. Before each run, all data is "
        f"synced to the disk. {KEPT}",
        [shown(EXTRACT), shown(COPY)],
    )


def memory(stage: Stage) -> Topic:
    stage.warm()
    git_status(stage)
    unchanged = stage.push(watch_memory=True)
    edit = stage.edited(lambda: stage.push(watch_memory=True))
    status = git_status(stage, watch_memory=True)
    append = peers.append()
    appended = append.push(stage.tree, stage.host, stage.work, watch_memory=True)
    first = _first(stage, stage.tree)
    large = _first(stage, file_of(stage.large, stage.work / "large"))
    small = _first(stage, file_of(stage.large // SMALL_FILE, stage.work / "small"))
    return Topic(
        "Memory",
        [
            memory_row("memory: first push", first, append.name, appended, MEMORY),
            memory_row("memory: one file edited", edit, "git status", status, MEMORY),
            memory_row("memory: no change", unchanged, "git status", status, MEMORY),
            Row(
                f"memory: a file of {human(stage.large)}",
                human(large.memory),
                f"a file of {human(stage.large // SMALL_FILE)}",
                human(small.memory),
                f"{large.memory / small.memory:.2f}",
                at_most(large.memory / small.memory, 1.2, "at most {:g} times as much"),
            ),
        ],
        f"{MEMORY_TEXT} *A file of* a size is a first push of that file alone.",
        [shown(PUSH), shown(peers.GIT_STATUS), shown(append.template)],
    )


MEMORY_TEXT = (
    "Memory is the peak of all processes of a command together, Kontext's crane and git included: "
    "their proportional set sizes, read from /proc every 10 ms."
)


def memory_row(
    what: str, ours: Run, against: str, theirs: Run | None, most: float | None = None
) -> Row:
    """Return a row of peaks. A peer that ended at once is only named."""
    row = Row(
        what,
        human(ours.memory),
        target=at_most(ours.memory, most, f"at most {human(most)}") if most else None,
        bound="the list of all files, in each process that needs it, and in git's index",
    )
    if theirs is None:
        return row
    if not theirs.memory:
        return replace(row, against=against, theirs="ended before 1 sample")
    times = f"{ours.memory / theirs.memory:.2f} times as much"
    return replace(row, against=against, theirs=human(theirs.memory), ratio=times)


def _first(stage: Stage, tree: Path) -> Run:
    stage.forget()
    with disk_registry() as host:
        return replace(stage, tree=tree).push(host, watch_memory=True)


PYTHON_START = f"{ROOT}/.venv/bin/python3 -I -c pass"


def docker_help(stage: Stage) -> Topic:
    if missing := peers.lacking("docker"):
        names = ("docker --help", "docker kontext push --help")
        return Topic("Docker's help", [not_measured(name, "–", missing) for name in names])
    runs = HELP_RUNS * stage.runs
    with tempfile.TemporaryDirectory() as plain:
        own = os.environ["DOCKER_CONFIG"]
        ours = f"DOCKER_CONFIG={own} docker --help"
        push_help = f"DOCKER_CONFIG={own} docker kontext push --help"
        rounds = in_turn(
            runs,
            lambda: timed(ours),
            lambda: timed(f"DOCKER_CONFIG={plain} docker --help"),
            lambda: timed(push_help),
            lambda: timed(PYTHON_START),
        )
    with_it, without, pushes, pythons = zip(*rounds, strict=True)
    more = statistics.median(one.seconds - other.seconds for one, other, *_ in rounds) * 1e3
    shows = _milliseconds(pushes)
    return Topic(
        "Docker's help",
        [
            Row(
                "docker --help",
                f"{_milliseconds(with_it):.1f} ms",
                "without the plugin",
                f"{_milliseconds(without):.1f} ms",
                f"{more:+.1f} ms",
                at_most(more, 5, "at most {:g} ms more"),
                "the shell that answers for the plugin",
            ),
            Row(
                "docker kontext push --help",
                f"{shows:.1f} ms",
                "the start of Python",
                f"{_milliseconds(pythons):.1f} ms",
                f"{shows / _milliseconds(pythons):.2f} times as long",
                at_most(shows, 60, "at most {:g} ms"),
                "the starts of docker and of Python",
            ),
        ],
        f"The figures are medians of {runs} runs. *Without the plugin*, DOCKER_CONFIG is an empty "
        "directory.",
        ["docker --help", "docker kontext push --help", "python3 -I -c pass"],
    )


def _milliseconds(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs) * 1e3


# As kontext_plugin/docker-kontext starts it. The program ends with os._exit, which would leave no
# profile; in a process that it forks it stays what it is.
PROFILED = """
import cProfile, gc, os, sys
gc.disable()
sys.path.append(sys.argv.pop(1))
profile, target, main_process, leave = cProfile.Profile(), sys.argv.pop(1), os.getpid(), os._exit
def end(code):
    if os.getpid() == main_process:
        profile.disable()
        profile.dump_stats(target)
    leave(code)
os._exit = end
profile.enable()
from kontext_plugin.cli.main import main
main()
"""


def profile(stage: Stage) -> Topic:
    stage.warm()
    stage.edits.one()
    target = stage.work / "profile"
    python = ROOT / ".venv" / "bin" / "python3"
    command = "{python} -I -X utf8 -c {code} {root} {target} "
    command += PUSH.removeprefix("docker-kontext ")
    values = {"python": python, "code": PROFILED, "root": ROOT, "target": target}
    run = timed(filled(command, **values, image=stage.image(), tree=stage.tree))
    return Topic(
        "Where the time of an edit goes",
        text=f"A push of one edit took {run.seconds:.2f} s under cProfile, longer than without it. "
        "The profile shows only the main thread of the main process. While that waits, other "
        "threads and processes work. The first table is sorted by own time. The second table has "
        "Kontext's own functions, sorted by the time in them and in all that they call. The scan "
        "is the limit: one system call for each file, three for each directory, and Python's work "
        "on the results. Next come the start of Python, crane's requests, which are the same for "
        "any tree, and reading and writing the cache. The last two blocks are the output of "
        "`push --timings`, without the profiler, for another edit and for a first push: when each "
        "step began, and how long it took. In a first push, worker processes write the layers, and "
        "the steps around them take turns in the main process.",
        extra="\n\n".join(
            [profile_tables(target), timings_of_edit(stage), timings_of_first(stage)]
        ),
    )


def timings_of_edit(stage: Stage) -> str:
    stage.edits.one()
    return timings(stage.image(), stage.tree)


def timings_of_first(stage: Stage) -> str:
    stage.forget()
    with disk_registry() as host:
        return timings(stage.image(host), stage.tree)


def timings(image: str, tree: Path) -> str:
    command = filled(PUSH, image=image, tree=tree) + " --timings"
    said = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stderr
    return "\n".join(f"    {line}" for line in said.splitlines())


def profile_tables(path: Path) -> str:
    entries = [
        (_named(*function), calls, own, cumulative)
        for function, (_, calls, own, cumulative, _) in pstats.Stats(str(path)).stats.items()  # type: ignore[attr-defined]
    ]
    by_own = sorted(entries, key=lambda entry: -entry[2])[:TOP]
    of_ours = [entry for entry in entries if entry[0].startswith("kontext_plugin/")]
    by_cumulative = sorted(of_ours, key=lambda entry: -entry[3])[:TOP]
    tables = []
    for rows in (by_own, by_cumulative):
        lines = ["| function | calls | own time | cumulative time |", "|---|---|---|---|"]
        for name, calls, own, cumulative in rows:
            lines.append(f"| `{name}` | {calls:,} | {own:.3f} s | {cumulative:.3f} s |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _named(file: str, number: int, function: str) -> str:
    if file.startswith(f"{ROOT}/"):
        return f"{file[len(str(ROOT)) + 1 :]}:{function}"
    return function if file == "~" else f"{os.path.basename(file)}:{function}"
