"""The topics of scripts/any-tag: what each measures, beside an earlier version of Kontext."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import histories
from bench_tree import Edits, count
from histories import Row, Way, git, replay
from measuring import (
    CRANE,
    MANIFEST,
    ROOT,
    command_of,
    disk_registry,
    disk_registry_program,
    human,
    registry,
)
from support.proxy import ALWAYS, Exchange, Proxy, Response, Rule, passed, serve_proxy
from support.slow_line import RATE, ROUND_TRIP, line

SETTLED = 2.5  # seconds after which the stat cache trusts a file


@dataclass(frozen=True)
class Figure:
    """A line of a table."""

    what: str
    measured: str
    target: str = "–"
    former: str = "–"
    reached: bool | None = None  # None: there is no target

    def line(self) -> str:
        reached = {True: "yes", False: "**no**", None: "–"}[self.reached]
        return f"| {self.what} | {self.target} | {self.measured} | {reached} | {self.former} |"


@dataclass(frozen=True)
class Topic:
    title: str
    figures: Sequence[Figure]
    text: str


@dataclass
class Stage:
    """What all topics share."""

    work: Path
    repository: str
    commits: int
    switches: int
    runs: int
    pushes: int  # of the soak
    tags: int  # that a repository has
    other: str  # the second branch
    trees: Sequence[Path]  # put together, they make the tree that is timed
    former: Path | None  # a checkout of the earlier version
    _folders: int = 0
    _tree: Path | None = None

    def folder(self) -> Path:
        """Return a new directory."""
        self._folders += 1
        made = self.work / f"{self._folders}"
        made.mkdir()
        return made

    @property
    def checkouts(self) -> list[Path]:
        """The version that is measured, and the earlier one if there is one."""
        return [ROOT, *([self.former] if self.former else [])]

    def tree(self) -> Path:
        """Return a copy of the trees side by side, or of the repository's last commit."""
        if self._tree is None:
            self._tree = self.work / "tree"
            for number, tree in enumerate(self.trees):
                skipped = shutil.ignore_patterns("__pycache__", ".git")
                target = self._tree / f"{number}"
                shutil.copytree(tree, target, symlinks=True, ignore=skipped)
            if not self.trees:
                shutil.copytree(self.checkout(), self._tree, symlinks=True)
        return self._tree

    def checkout(self) -> Path:
        """Return a new work tree of the repository's last commit, with its history."""
        clone = histories.cloned(self.repository, self.folder() / "clone")
        git(clone, "checkout", "--quiet", "--force", "HEAD")
        return clone


@dataclass
class Machine:
    """A machine that pushes with one version of Kontext."""

    checkout: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "KONTEXT_CACHE_DIR": str(self.folder / "cache"),
            "KONTEXT_CRANE": str(self._wrapper()),
        }

    def _wrapper(self) -> Path:
        """Return a crane that writes down when it starts, and its verb."""
        wrapper = self.folder / "crane"
        if not wrapper.exists():
            log = shlex.quote(str(self.folder / "cranes"))
            wrapper.write_text(
                f'#!/bin/bash\necho "$EPOCHREALTIME $1" >>{log}\nexec {CRANE} "$@"\n'
            )
            wrapper.chmod(0o755)
        return wrapper

    def forget(self) -> None:
        """Lose the cache, as a new machine has none."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def push(self, tag: str, tree: Path, *options: str) -> Push:
        (self.folder / "cranes").write_text("")
        arguments = ("kontext", "push", "--timings", "--tag", tag, *options, str(tree))
        started = time.perf_counter()
        done = subprocess.run(
            [*command_of(self.checkout), *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"the push ended with {done.returncode}:\n{done.stderr}")
        cranes = [
            (float(when), verb)
            for when, verb in map(str.split, (self.folder / "cranes").read_text().splitlines())
        ]
        return Push(seconds, steps_in(done.stderr), cranes, done.stdout.strip(), done.stderr)


@dataclass(frozen=True)
class Push:
    seconds: float
    steps: dict[str, tuple[float, float]]  # when each step began, and how long it took
    cranes: Sequence[tuple[float, str]]  # when each crane began, and its verb
    image: str
    messages: str

    @property
    def is_fresh(self) -> bool:
        return "Starting fresh" in self.messages

    @property
    def finding(self) -> float:
        """The seconds in which the images to build on were found."""
        return self.steps["ask the registry"][1]

    @property
    def cranes_after_scan(self) -> list[str]:
        """The verbs of the cranes that began after the scan."""
        if not self.cranes:
            return []
        begin, took = self.steps["hash" if "hash" in self.steps else "scan"]
        # The first crane begins with the first question to the registry.
        scanned = self.cranes[0][0] - self.steps["ask the registry"][0] + begin + took
        return [verb for when, verb in self.cranes if when > scanned]


def steps_in(messages: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r"^ *([\d.]+) s \+ *([\d.]+) s  (.+)$", messages, re.MULTILINE)
    return {name: (float(begin), float(took)) for begin, took, name in found}


# --- Histories ---


def _uploads(stage: Stage, commits: Sequence[str], way: Way) -> list[Row]:
    print("  ", way.name, "former" if way.checkout != ROOT else "", file=sys.stderr)
    folder = stage.folder()
    clone = histories.cloned(stage.repository, folder / "clone")
    return list(replay(clone, commits, way, folder / "course"))


def _sum(rows: Sequence[Row]) -> int:
    return sum(row.uploaded for row in rows)


def commits(stage: Stage) -> Topic:
    wanted = histories.last_commits(stage.repository, "HEAD", stage.commits)
    one = _sum(_uploads(stage, wanted, histories.one_tag()))
    figures = []
    for way, most, what in (
        (histories.tag_of_commit, 1.1, "each commit under its own tag"),
        (histories.shallow_clones, 1.5, "the same from clones of depth 1"),
    ):
        rows = _uploads(stage, wanted, way())
        former = "–"
        if stage.former and way is histories.tag_of_commit:  # from a shallow clone it is the same
            before = _sum(_uploads(stage, wanted, way(stage.former)))
            former = f"{human(before)}, {before / one:.2f} times"
        figures.append(
            Figure(
                what,
                f"{human(_sum(rows))}, {_sum(rows) / one:.3f} times",
                f"at most {most} times one tag: {human(most * one)}",
                former,
                _sum(rows) <= most * one,
            )
        )
        layers = max(row.layers for row in rows)
        figures.append(
            Figure(f"{what}: layers", f"at most {layers}", "at most 16", "–", layers <= 16)
        )
    return Topic(
        f"{len(wanted)} commits, each under its own tag",
        [Figure("all under one tag", human(one)), *figures],
        f"""`scripts/replay --tags one|commits|shallow` makes these figures one by one. *One tag*:
        one machine with a cache pushes all commits to `main`. *Own tag*: each push is the first of
        a machine without a cache, to a tag that is the commit's hash. *Depth 1*: git knows one
        commit. Every {histories.MAIN_EVERY}th push, from the first on, also moves the tag `main`.
        The figures are bytes of blobs that the registry did not have. After each push,
        `crane export` showed exactly the commit.""",
    )


def branches(stage: Stage) -> Topic:
    wanted = histories.two_branches(stage.repository, stage.other, "HEAD", stage.switches)
    figures = []
    for tags, what in (
        ("branches", "a tag for each branch"),
        ("one", "one tag for both"),
        ("commits", "a tag for each commit"),
    ):
        rows = _uploads(stage, wanted, histories.branches(tags))[2:]
        former = "–"
        if stage.former:
            before = _uploads(stage, wanted, histories.branches(tags, stage.former))[2:]
            former = human(_sum(before))
        nearest, manifests = (
            sum(row.nearest for row in rows),
            sum(row.manifest for row in rows),
        )
        most = nearest + manifests + CONFIGURATION * len(rows)
        figures.append(
            Figure(what, human(_sum(rows)), f"at most {human(most)}", former, _sum(rows) <= most)
        )
    return Topic(
        f"Two branches in turn, {len(wanted)} switches",
        figures,
        f"""One machine with a cache pushes commits of two branches in turn: {stage.other} and HEAD.
        The first push of each branch is not counted. *To reach* is the size of the files that
        differ from the nearest image that was pushed before, and of the manifest and its new parts,
        both packed, and {CONFIGURATION} bytes for each configuration. Some pushes upload more: they
        compact earlier layers, as docs/choice.md says.
        `scripts/replay --tags branches` shows each push.""",
    )


CONFIGURATION = 3000
"""The most bytes of a configuration and of the manifest's rest that a push may upload."""


# --- Among many tags ---


def tags(stage: Stage) -> Topic:
    """Find a parent in a repository with very many tags."""
    tree = stage.checkout()
    parent = git(tree, "rev-parse", "HEAD~1").decode().strip()
    machine = Machine(ROOT, stage.folder())
    with disk_registry() as host:
        _fill(machine, tree, host, parent, stage.tags)
        near = [_near(stage, machine, tree, host, kind) for kind in KINDS]
        far = [
            _far_away(stage, machine, tree, host, kind, pages)
            for pages in (0, 1000, 100)
            for kind in KINDS
        ]
    return Topic(
        f"A parent among {stage.tags:,} tags",
        [*near, *far],
        f"""A push has nothing under its tag, and no cache. The registry is
        {disk_registry_program()}, with a disk. *Finding* is the time of the step "ask the registry"
        of `--timings`, median of {stage.runs}. *Matching*: one tag is the hash of HEAD's parent.
        The line delays all bytes by 25 ms and passes 50 Mbit/s in each direction
        (tests/support/slow_line.py). *Pages*: a proxy cuts the listing into pages, as registries in
        the field do. The former version looks at no other tags.""",
    )


KINDS = {"matching": "with a matching tag", "foreign": "without one"}
"""The repositories: which of them has an image to build on."""


def _near(stage: Stage, machine: Machine, tree: Path, host: str, kind: str) -> Figure:
    many, few, listings = list[Push](), list[Push](), set[int]()
    with serve_proxy(host) as proxy:
        for number in range(stage.runs):
            _asked(proxy)
            many.append(_find(machine, tree, proxy.host, kind, number))
            listings.add(_listings(_asked(proxy)))
            few.append(_find(machine, tree, proxy.host, f"few-{kind}", number))
    found = statistics.median(push.finding for push in many)
    pairs = zip(many, few, strict=True)
    more = statistics.median(push.finding - other.finding for push, other in pairs)
    return Figure(
        f"finding on loopback, {KINDS[kind]}",
        f"{found:.2f} s, {more:+.2f} s beside a repository with 2 tags; "
        f"listings: {_spread(listings)}",
        "at most 1 s, one listing",
        reached=found <= 1 and listings == {1},
    )


def _fill(machine: Machine, tree: Path, host: str, parent: str, many: int) -> None:
    for kind, tag in (("matching", parent), ("foreign", "other")):
        for repository, number in ((kind, many), (f"few-{kind}", 2)):
            machine.forget()
            image = machine.push(f"{host}/tags/{repository}:{tag}", tree, "--fresh").image
            path = f"/v2/tags/{repository}/manifests/"
            with contextlib.closing(http.client.HTTPConnection(host)) as connection:
                connection.request(
                    "GET", path + image.partition("@")[2], headers={"Accept": MANIFEST}
                )
                document = connection.getresponse().read()
                for build in range(number - 1):
                    headers = {"Content-Type": MANIFEST}
                    connection.request("PUT", f"{path}build-{build:05d}", document, headers)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != http.HTTPStatus.CREATED:
                        sys.exit(f"the registry answered {answer.status} to a tag")


def _find(
    machine: Machine,
    tree: Path,
    host: str,
    repository: str,
    number: int,
    *,
    must_find: bool = True,
) -> Push:
    machine.forget()
    (tree / "edited").write_text(f"{number} {time.time()}\n")
    pushed = machine.push(f"{host}/tags/{repository}:new-{time.time_ns()}", tree)
    if must_find and pushed.is_fresh != repository.endswith("foreign"):
        sys.exit(f"the push to {repository} found the wrong parent:\n{pushed.messages}")
    return pushed


def _asked(proxy: Proxy) -> list[str]:
    """Return the requests since the last call."""
    with proxy.lock:
        asked = [*proxy.asked]
        proxy.asked.clear()
    return asked


def _listings(asked: Sequence[str]) -> int:
    return sum("/tags/list" in request for request in asked)


def _spread(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _far_away(
    stage: Stage, machine: Machine, tree: Path, host: str, kind: str, size: int
) -> Figure:
    rule = Rule("GET", "/tags/list", paged(size) if size else passed, last=ALWAYS)
    listings, times, built_on = set[int](), list[float](), 0
    with serve_proxy(host, rule) as proxy, line(proxy.host, ROUND_TRIP, RATE) as far:
        for number in range(stage.runs):
            _asked(proxy)
            push = _find(machine, tree, far.host, kind, number, must_find=not size)
            times.append(push.finding)
            listings.add(_listings(_asked(proxy)))
            built_on += not push.is_fresh
    pages = f"pages of {size:,}" if size else "one page"
    found = f"; found in {built_on} of {stage.runs}" if kind == "matching" else ""
    return Figure(
        f"finding through the line, {pages}, {KINDS[kind]}",
        f"{statistics.median(times):.2f} s, at most {max(times):.2f} s; "
        f"listings: {_spread(listings)}{found}",
        f"bounded: at most {BOUND} s",
        reached=max(times) <= BOUND,
    )


BOUND = 7
"""Seconds: 5 for the listing, and a few requests for the images."""


def paged(size: int) -> Callable[[Exchange], None]:
    """Return a fault that cuts the listing of tags into pages."""
    listings: dict[str, list[str]] = {}

    def answer(exchange: Exchange) -> None:
        address = urlsplit(exchange.path)
        if address.path not in listings:
            whole = exchange.forward(path=address.path)
            if whole.status != http.HTTPStatus.OK:
                exchange.answer(whole)
                return
            listings[address.path] = sorted(json.loads(whole.body)["tags"])
        last = parse_qs(address.query).get("last", [""])[0]
        rest = [tag for tag in listings[address.path] if tag > last]
        headers = {"Content-Type": "application/json"}
        if len(rest) > size:
            following = f"{address.path}?n={size}&last={rest[size - 1]}"
            headers["Link"] = f'<{following}>; rel="next"'
        body = json.dumps({"name": "tags", "tags": rest[:size]}).encode()
        exchange.answer(Response(200, headers, body))

    return answer


# --- Several platforms ---


def platforms(stage: Stage) -> Topic:
    tree = stage.checkout()
    edits = Edits(tree)
    one = _first_and_edits(stage, tree, edits)
    edits.undo()
    every = _first_and_edits(stage, tree, edits, "--platform", "all")
    figures = []
    for index, (what, most) in enumerate((("a first push", 1_400_000), ("an edit", 4_000))):
        (bytes_one, asked_one), (bytes_all, asked_all) = one[index], every[index]
        more = bytes_all - bytes_one
        figures += [
            Figure(
                f"{what}: uploaded",
                f"{human(bytes_all)}, {human(more)} more than one platform",
                f"at most {human(most)} more",
                reached=more <= most,
            ),
            Figure(
                f"{what}: requests",
                f"{asked_all} (one platform: {asked_one})",
                "at most 30",
                reached=asked_all <= 30,
            ),
        ]
    return Topic(
        "Two platforms",
        figures,
        f"""A work tree of the repository's last commit is pushed with `--platform all` and, to
        another registry, without it. *Uploaded* is the size of all blobs and manifests in the
        requests. An edit changes 1 KB of one file; the figures are the most of {stage.runs}. The
        requests are counted in a proxy. The former version has no `--platform all`.""",
    )


def _first_and_edits(
    stage: Stage, tree: Path, edits: Edits, *options: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return bytes and requests of a first push, and the most of an edit."""
    bodies: list[int] = []

    def measured(exchange: Exchange) -> None:
        bodies.append(exchange.length)
        passed(exchange)

    def push() -> tuple[int, int]:
        bodies.clear()
        machine.push(f"{proxy.host}/platforms/tree:main", tree, *options)
        return sum(bodies), len(bodies)

    machine = Machine(ROOT, stage.folder())
    with registry() as host, serve_proxy(host, Rule(".*", "", measured, last=ALWAYS)) as proxy:
        first = push()
        pushes = []
        for number in range(stage.runs):
            edits.one(number)
            pushes.append(push())
    return first, (max(size for size, _ in pushes), max(asked for _, asked in pushes))


# --- Through a slow line ---


def slow_line(stage: Stage) -> Topic:
    """Time and count an edit through a line, with a registry that wants tokens."""
    tree = stage.tree()
    edits = Edits(tree)
    rows: list[dict[str, list[Push]]] = []
    requests: list[list[int]] = []
    with contextlib.ExitStack() as stack:
        sites = []
        for checkout in stage.checkouts:
            host = stack.enter_context(registry())
            rule = Rule(".*", "", with_token, last=ALWAYS)
            proxy = stack.enter_context(serve_proxy(host, rule))
            far = stack.enter_context(line(proxy.host, ROUND_TRIP, RATE))
            sites.append((Machine(checkout, stage.folder()), proxy, far.host))
            rows.append({"near": [], "far": []})
            requests.append([])
        for _ in range(2):
            for machine, proxy, far_host in sites:
                machine.push(f"{proxy.host}/line/tree:near", tree)
                machine.push(f"{far_host}/line/tree:far", tree)
            time.sleep(SETTLED)
        for _ in range(stage.runs):
            for number, (machine, proxy, far_host) in enumerate(sites):
                edits.one()
                _asked(proxy)
                rows[number]["far"].append(machine.push(f"{far_host}/line/tree:far", tree))
                requests[number].append(len(_asked(proxy)))
                edits.one()
                rows[number]["near"].append(machine.push(f"{proxy.host}/line/tree:near", tree))

    def longer(number: int) -> float:
        pairs = zip(rows[number]["far"], rows[number]["near"], strict=True)
        return statistics.median(far.seconds - near.seconds for far, near in pairs)

    def seconds(number: int, where: str) -> float:
        return statistics.median(push.seconds for push in rows[number][where])

    def verbs(number: int) -> str:
        pushes = rows[number]["far"]
        most = max(pushes, key=lambda push: len(push.cranes_after_scan))
        return f"{len(most.cranes_after_scan)} ({', '.join(most.cranes_after_scan)})"

    def total(number: int) -> str:
        return _spread({len(push.cranes) for push in rows[number]["far"]})

    def beside(text: Callable[[int], str]) -> str:
        return text(1) if stage.former else "–"

    cranes = max(len(push.cranes_after_scan) for push in rows[0]["far"])
    return Topic(
        "An edit through a line of 50 ms and 50 Mbit/s, with tokens",
        [
            Figure(
                "crane processes after the scan",
                verbs(0),
                "at most 1",
                beside(verbs),
                cranes <= 1,
            ),
            Figure("crane processes in all", total(0), "–", beside(total)),
            Figure(
                "requests",
                _spread(set(requests[0])),
                "–",
                beside(lambda number: _spread(set(requests[number]))),
            ),
            Figure(
                "longer than on loopback",
                f"{longer(0):+.2f} s",
                "at most 1.5 s",
                beside(lambda number: f"{longer(number):+.2f} s"),
                longer(0) <= 1.5,
            ),
            Figure(
                "through the line",
                f"{seconds(0, 'far'):.2f} s",
                "–",
                beside(lambda number: f"{seconds(number, 'far'):.2f} s"),
            ),
            Figure(
                "on loopback",
                f"{seconds(0, 'near'):.2f} s",
                "–",
                beside(lambda number: f"{seconds(number, 'near'):.2f} s"),
            ),
        ],
        f"""The tree: {_size(tree)}. Each push changes 1 KB of one file. The registry answers 401
        to a request without a token and says where tokens are; each crane process fetches one for
        itself. The token requests go through the line and are counted. The versions push in turn,
        {stage.runs} times, each through the line and on loopback. A wrapper around crane counts the
        processes. *Longer* is the median of the differences of neighbouring pushes.""",
    )


def with_token(exchange: Exchange) -> None:
    """Pass a request that has a token; give one to who asks for it, and refuse others."""
    address = urlsplit(exchange.path)
    if address.path == "/token":
        body = json.dumps({"token": "made-up", "expires_in": 300}).encode()
        exchange.answer(Response(200, {"Content-Type": "application/json"}, body))
    elif exchange.headers.get("Authorization"):
        passed(exchange)
    else:
        exchange.rfile.read(exchange.length)
        realm = f'Bearer realm="http://{exchange.headers["Host"]}/token",service="registry"'
        exchange.answer(Response(401, {"WWW-Authenticate": realm}, b""))


def _size(tree: Path) -> str:
    files, size = count(tree)
    return f"{files:,} files, {human(size)}"


# --- Times on loopback ---


def times(stage: Stage) -> Topic:
    tree = stage.tree()
    edits = Edits(tree)
    versions = [Machine(checkout, stage.folder()) for checkout in stage.checkouts]
    first: list[list[float]] = [[] for _ in versions]
    for _ in range(stage.runs):
        for number, machine in enumerate(versions):
            machine.forget()
            with registry() as host:
                first[number].append(machine.push(f"{host}/times/tree:main", tree).seconds)
    nothing: list[list[float]] = [[] for _ in versions]
    edit: list[list[float]] = [[] for _ in versions]
    with registry() as host:
        names = [f"{host}/times/{number}:main" for number, _ in enumerate(versions)]
        for name, machine in zip(names, versions, strict=True):
            machine.push(name, tree)
        time.sleep(SETTLED)
        for name, machine in zip(names, versions, strict=True):
            machine.push(name, tree)
        for _ in range(stage.runs):
            for number, machine in enumerate(versions):
                nothing[number].append(machine.push(names[number], tree).seconds)
        for _ in range(stage.runs):
            edits.one()
            for number, machine in enumerate(versions):
                edit[number].append(machine.push(names[number], tree).seconds)
    figures = []
    for what, found in (("nothing", nothing), ("an edit", edit), ("a first push", first)):
        measured, former = f"{statistics.median(found[0]):.2f} s", "–"
        if stage.former:
            ratio = statistics.median(ours / theirs for ours, theirs in zip(*found, strict=True))
            measured += f", {ratio:.2f} times as long"
            former = f"{statistics.median(found[1]):.2f} s"
        figures.append(Figure(f"a push: {what}", measured, former=former))
    return Topic(
        "Times on loopback",
        figures,
        f"""The tree: {_size(tree)}. The versions push in turn, {stage.runs} times. Times are
        medians; a ratio is the median of the ratios of neighbouring pushes. Other work ran on the
        machine, so compare the ratios.""",
    )


# --- Many pushes to a registry that forgets ---


def layers(stage: Stage) -> Topic:
    script = [sys.executable, str(ROOT / "scripts/soak"), "--forget", "--files", "500"]
    done = subprocess.run([*script, "--pushes", str(stage.pushes)], capture_output=True, text=True)
    found = re.search(r"^\| layers, at most \| 16 \| (\d+) \|$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"scripts/soak ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    ratio = re.search(
        r"^\| uploaded / single deltas \| 4 \| ([\d.]+) \|$", done.stdout, re.MULTILINE
    )
    assert ratio
    return Topic(
        f"{stage.pushes} pushes, and the ancestors' manifests are gone",
        [
            Figure("layers", f"at most {found[1]}", "at most 16", reached=int(found[1]) <= 16),
            Figure(
                "uploaded, beside what the single deltas come to",
                f"{ratio[1]} times",
                "at most 4 times",
                reached=float(ratio[1]) <= 4,
            ),
        ],
        f"""Made by `scripts/soak --forget --files 500 --pushes {stage.pushes}`. After each push,
        the registry deletes the manifest that the tag showed before.""",
    )


TOPICS: dict[str, Callable[[Stage], Topic]] = {
    "commits": commits,
    "branches": branches,
    "tags": tags,
    "platforms": platforms,
    "line": slow_line,
    "times": times,
    "layers": layers,
}
