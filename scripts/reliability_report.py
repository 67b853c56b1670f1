"""What scripts/reliability prints at its end, and docs/reliability.md. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from measuring import human, paragraph
from reliability_images import BYTES, SECONDS
from reliability_record import Record, total
from reliability_trials import CROWD, EVERY, GENERATIONS, OPERATIONS, TIMEOUT
from support.mutations import BOMB

UNITS = {"histories": "generations", "kills": "kills", "faults": "faults", "images": "images"}
"""What a topic counts."""

REGISTRIES = {
    "distribution-2": "distribution 2 (Debian's docker-registry)",
    "distribution-3": "distribution 3",
    "ociregistry": "CUE's ociregistry",
    "gitea": "Gitea",
    "crane": "crane's own registry",
}

CONSUMERS = {
    "crane export": ("crane", "each generation, for each platform"),
    "docker kontext pull": ("Kontext", "each generation, into one directory"),
    "docker kontext verify": ("Kontext", "each generation"),
    "docker run": ("docker run", f"one generation in {EVERY}"),
    "podman run": ("podman run", f"one generation in {EVERY}"),
    "buildah": ("buildah", f"one generation in {EVERY}"),
    "umoci": ("umoci", f"one generation in {EVERY}, from an OCI layout of crane's"),
    "skopeo": ("skopeo", f"one generation in {EVERY}: `skopeo copy` to an OCI layout, then umoci"),
}
"""By their names in the counts: the program that has the version, and what it reads."""

Rows = Iterable[Sequence[object]]


def summary(records: Sequence[Record]) -> str:
    rows = [
        (topic, _trials(mine := _of(records, topic)), total(mine)[unit], unit, _failures(mine))
        for topic, unit in UNITS.items()
    ]
    return "\n".join(
        f"{topic}: {trials} trials, {count:,} {unit}, {failed} failed"
        for topic, trials, count, unit, failed in rows
        if trials
    )


def report(records: Sequence[Record], programs: Mapping[str, str]) -> str:
    """Return the document. Raises nothing: a topic without a trial is left out."""
    parts = [_head(records, programs)]
    for topic, write in _SECTIONS.items():
        if mine := _of(records, topic):
            parts.append(write(mine, total(mine)))
    parts.append(_programs(records, programs))
    return "\n\n".join(parts) + "\n"


def _of(records: Iterable[Record], topic: str) -> list[Record]:
    return [record for record in records if record.topic == topic]


def _trials(records: Iterable[Record]) -> int:
    return sum(record.trials for record in records)


def _failures(records: Iterable[Record]) -> int:
    return sum(bool(record.failure) for record in records)


# --- Markdown ---


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _counts(counts: Counter[str], prefix: str, what: str) -> str:
    """Return the table of all counts whose names begin with `PREFIX: `, the largest first."""
    start = f"{prefix}: "
    found = {name.removeprefix(start): n for name, n in counts.items() if name.startswith(start)}
    return _table((what, "times"), Counter(found).most_common())


# --- The sections ---


def _head(records: Sequence[Record], programs: Mapping[str, str]) -> str:
    counts = total(records)
    reads = sum(count for name, count in counts.items() if name.startswith("reads: "))
    commands = sum(counts[f"{name}: exit code {code}"] for name in COMMANDS for code in (0, 1))
    failed = {topic: _failures(_of(records, topic)) for topic in UNITS}
    rows: list[tuple[str, int, int]] = [
        (
            "[Generations of random histories](#random-histories)",
            counts["generations"],
            failed["histories"],
        ),
        (
            "Images that a consumer showed, compared with the directory",
            reads,
            sum(record.has_wrong_tree for record in records),
        ),
        ("[Signals to pushes and purges](#signals)", counts["kills"], failed["kills"]),
        ("[Faults of the registry](#faults-of-the-registry)", counts["faults"], failed["faults"]),
        ("[Hostile images](#hostile-images)", counts["images"], failed["images"]),
        ("Commands that read a hostile image", commands, failed["images"]),
    ]
    commits = sorted({record.commit for record in records})
    intro = f"""`scripts/reliability` tries to make Kontext fail, and writes this page. It runs the
        plugin as docker runs it, with the real crane, on {len(_registries(records))} registries on
        loopback. What it does is random, but each trial can be repeated by its seed. This page
        counts what was tried, and what failed."""
    made = f"""Kontext at {", ".join(commits)}, on {programs.get("processors", "?")} processors,
        Linux {programs.get("kernel", "?")}, last on {programs.get("date", "?")}.
        [The versions](#programs) are those that the programs print."""
    repeat = """`scripts/reliability --for 8h --state docs/reliability.jsonl --write
        docs/reliability.md` goes on for a night, and adds to this page. A failure prints the
        command that repeats it, and keeps the pushed tree and the shown one."""
    faulty = [record for record in records if record.failure]
    failures = "\n\nWhat failed:\n" if faulty else ""
    for record in faulty:
        mended = f" It is mended, and `{record.mended}` holds it." if record.mended else ""
        failures += f"\n- At {record.commit}: `{record.again}`.{mended}"
    return f"""# Reliability

{paragraph(intro)}

{_table(("what was tried", "how often", "failed"), rows)}{failures}

{paragraph(made)}

{paragraph(repeat)}"""


def _histories(records: Sequence[Record], counts: Counter[str]) -> str:
    text = f"""A history is one directory that is edited at random and pushed {GENERATIONS} times:
        {_trials(records):,} histories. The edits use few names, so a path is often a file, then a
        directory, then a link. After each push, the consumers must show exactly the directory:
        names, contents, executable bits and links. The tag must show the digest that the push
        printed, and no temporary file and no process may be left."""
    spread = f"""In {counts["histories with a manifest in parts"]:,} histories the directory has
        {CROWD} more files, so that its manifest is in parts.
        {counts["earlier images deleted"]:,} earlier images were deleted from the registry
        between pushes. {counts["purges"]:,} pushes were followed by `docker kontext purge`.
        {counts["indexes of several platforms"]:,} images were for two platforms."""
    reads = [
        (f"`{name}`", what, counts[f"reads: {name}"])
        for name, (_, what) in CONSUMERS.items()
        if counts[f"reads: {name}"]
    ]
    return f"""## Random histories

{paragraph(text)}

{_table(("consumer", "what it read", "images"), reads)}

{paragraph(spread)}

{_counts(counts, "push", "what the pushes did")}

{_counts(counts, "option", "option of a push")}

{_counts(counts, "edit", "instead of an edit")}

{_counts(counts, "machine", "who pushed, if not the same machine")}"""


def _signals(records: Sequence[Record], counts: Counter[str]) -> str:
    text = """The signal goes to the process group of the plugin, at a random moment between the
        start and the end of the command. Then the tag must show the old image or the new one,
        complete, for each platform. After SIGINT and SIGTERM, no process may be left. The next push
        must work, and after it no temporary file and no process may be left."""
    signals = ("SIGKILL", "SIGINT", "SIGTERM")
    rows = [
        (kind.removeprefix("a ").removeprefix("an "), *(counts[f"{n}, {kind}"] for n in signals))
        for kind in OPERATIONS
    ]
    codes = [
        (f"`{name.partition(':')[0]}`", name.rpartition(" ")[2], count)
        for name, count in sorted(counts.items())
        if "exit code" in name and not name.startswith("SIGKILL")
    ]
    after = """A negative code means that the signal came before Python had started. 0 means that
        the image was published already."""
    return f"""## Signals

{paragraph(text)}

{_table(("while it ran", *signals), rows)}

{_table(("signal", "exit code", "times"), codes)}

{paragraph(after)}

{_shown(counts)}"""


def _faults(records: Sequence[Record], counts: Counter[str]) -> str:
    text = f"""A proxy between crane and the registry breaks one request of a command, chosen at
        random, or every request from that one on. The command ends with 0, or with 1, one error and
        one hint. Then the tag must show the old image or the new one, complete; the new one if the
        command succeeded. Temporary files and processes are gone, and the next push works. Stalls
        were tried with `--timeout {TIMEOUT}`."""
    groups = ("cuts", "stalls", "errors")
    rows = [
        (kind.removeprefix("a ").removeprefix("an "), *(counts[f"{g}, {kind}"] for g in groups))
        for kind in OPERATIONS
    ]
    kinds = [
        (group, what, counts[f"{group}: {what}"])
        for group in groups
        for what in sorted(
            name.partition(": ")[2] for name in counts if name.startswith(f"{group}: ")
        )
    ]
    done = f"""The command got over the fault {counts["the command succeeded"]:,} times, and failed
        {counts["the command failed"]:,} times."""
    return f"""## Faults of the registry

{paragraph(text)}

{_table(("while it ran", *groups), rows)}

{_table(("group", "fault", "times"), kinds)}

{paragraph(done)}

{_shown(counts)}"""


def _shown(counts: Counter[str]) -> str:
    old, new = (counts[f"the tag shows the {which} image"] for which in ("old", "new"))
    return f"Afterwards the tag showed the old image {old:,} times, and the new one {new:,} times."


COMMANDS = ("ls", "inspect", "log", "diff", "verify", "pull", "push")


def _images(records: Sequence[Record], counts: Counter[str]) -> str:
    text = f"""A true image is pushed and then mutated: fields are dropped, doubled or of another
        type, numbers are huge, texts are long or have escapes, lists have thousands of entries,
        brackets are nested 100,000 deep, paths lead out of the directory, layers are cut off or
        unpack to {BOMB >> 20} MiB of zeros, digests lie, an index names other children, a
        descriptor leads back to another document. Mostly the digests above the change are made to
        fit, so that the command meets it. Each image is given to each command."""
    rules = f"""A command must end with 0 or 1, within {SECONDS} seconds and
        {BYTES / 2**30} GiB, without a traceback,
        without a control character, and without "a bug in Kontext". It must change nothing but
        its target: not the directory beside, not what a link in the target leads to, not a file of
        yours that the image does not have. A pull with `--mirror` must write exactly what `ls`
        lists. A push that starts fresh, or has `--check-parent`, must publish exactly the
        directory."""
    rows = []
    for name in COMMANDS:
        seconds = max(record.peaks.get(f"seconds of {name}", 0) for record in records)
        size = max(record.peaks.get(f"bytes of {name}", 0) for record in records)
        codes = (counts[f"{name}: exit code {code}"] for code in (0, 1))
        rows.append((f"`{name}`", *codes, f"{seconds:.1f} s", human(size)))
    plain: Counter[str] = Counter()
    lies = 0
    for name, count in counts.items():
        if name.startswith("mutated: "):
            what, _, old = name.removeprefix("mutated: ").partition(", with")
            plain[what] += count
            lies += count if old else 0
    compared = f"""{lies:,} of the images kept the old digests, so that these lie.
        {counts["images pushed upon and compared"]:,} pushes built on such an image, or started
        fresh, and their images were compared with the directory."""
    head = ("command", "exit code 0", "exit code 1", "the longest", "largest process")
    return f"""## Hostile images

{paragraph(text)}

{paragraph(rules)}

{_table(head, rows)}

{_table(("what was mutated", "images"), plain.most_common())}

{paragraph(compared)}"""


_SECTIONS = {
    "histories": _histories,
    "kills": _signals,
    "faults": _faults,
    "images": _images,
}


def _registries(records: Iterable[Record]) -> list[str]:
    there = {record.registry for record in records}
    return [name for name in REGISTRIES if name in there]


def _programs(records: Sequence[Record], programs: Mapping[str, str]) -> str:
    registries = []
    for name in _registries(records):
        counts = total(record for record in records if record.registry == name)
        figures = (counts[unit] for unit in UNITS.values())
        registries.append((REGISTRIES[name], programs.get(name, "?"), *figures))
    counts = total(records)
    consumers = [
        (f"`{name}`", programs.get(program, "?"))
        for name, (program, _) in CONSUMERS.items()
        if counts[f"reads: {name}"]
    ]
    head = ("registry", "version", *UNITS.values())
    text = """The version of `docker run` is that of the daemon. Gitea and ociregistry are built
        from source (`scripts/build-programs`): the version is that of the module."""
    limits = """All of this ran on one Linux machine. Registries in the cloud, a line that loses
        packets, a disk that fails, and the loss of power were not tried."""
    return f"""## Programs

{_table(head, registries)}

{_table(("consumer", "version"), consumers)}

{paragraph(text)}

## What was not tried

{paragraph(limits)}"""
