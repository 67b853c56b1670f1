"""Pushes that are killed, collide, or find a bad cache: slower or refused, never a wrong image."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support import proxy
from support.machine import Machine, ends_within
from support.proxy import Rule, serve_proxy
from support.services import Registry, Result, missing
from support.trees import File, plant

MOMENTS = 25  # of each kind
BALLAST = random.Random(0).randbytes(8_000_000)
"""Stays as it is, so that a later push has reason to build on the last one."""

STAYS = 2.0
"""Seconds after which the last push's image still is under the tag, whoever was killed before."""


def machine(folder: Path, registry: Registry, crane: str, host: str = "") -> Machine:
    repository = registry.repository().partition("/")[2]
    return Machine(folder, host or registry.host, registry.host, crane, repository)


def change(pushing: Machine, chance: random.Random) -> None:
    """A few MB of something new, and some of what was there before changes."""
    plant(
        pushing.source,
        {
            "large": File(chance.randbytes(3_000_000)),
            f"files/{chance.randrange(9)}": File(chance.randbytes(chance.randrange(5000))),
        },
    )


def kill_at(pushing: Machine, seconds: float) -> bool:
    """Whether the push still ran then."""
    process = pushing.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    running = process.poll() is None
    process.kill()
    # Not what it said: an orphan would have the pipe.
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    return running


def kill_and_push_again(first: bool, pushing: Machine, new_repository: Callable[[], str]) -> None:
    """Each push that is killed is followed by one that is not."""
    chance = random.Random(first)
    if not first:
        plant(pushing.source, {"ballast": File(BALLAST)})
    change(pushing, chance)
    started = time.monotonic()
    assert pushing.push().image
    seconds, killed = time.monotonic() - started, 0
    while killed < MOMENTS:
        if first:
            pushing.repository = new_repository()
        before = None if first else pushing.tree()
        change(pushing, chance)
        moment = chance.random() * seconds
        if kill_at(pushing, moment):
            killed += 1
        else:
            seconds *= 0.9  # the machine has become faster
        if killed % 2:  # else at once, while an orphan might still be at work
            assert pushing.published() in (before, pushing.tree())
        change(pushing, chance)
        pushed = pushing.push()
        assert pushed.image, moment
        assert pushing.published() == pushing.tree(), moment
        pushing.assert_clean()
    time.sleep(STAYS)
    assert pushing.published() == pushing.tree()


@pytest.fixture(scope="module")
def killings(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, crane_path: str
) -> Iterator[dict[str, Future[None]]]:
    """Both kinds at once: one waits while the other works."""

    def run(kind: str) -> None:
        pushing = machine(tmp_path_factory.mktemp("killed") / "machine", registry, crane_path)
        kill_and_push_again(
            kind == "first", pushing, lambda: registry.repository().partition("/")[2]
        )

    with ThreadPoolExecutor(2) as threads:
        yield {kind: threads.submit(run, kind) for kind in ("first", "later")}


@pytest.mark.parametrize("kind", ["first", "later"])
def test_a_push_that_is_killed(kind: str, killings: dict[str, Future[None]]) -> None:
    killings[kind].result()


STALLS = {
    "tag read": ("GET", r"/manifests/v1$", proxy.silent),
    "blob asked": ("HEAD", r"/blobs/", proxy.silent),
    "upload": ("PATCH", r"/uploads/", proxy.stops_reading),
    "upload done": ("PUT", r"/uploads/", proxy.silent_after_all),
    "tag written": ("PUT", r"/manifests/v1$", proxy.silent),
}


@pytest.mark.parametrize(("method", "path", "fault"), STALLS.values(), ids=STALLS)
def test_no_crane_stays_at_a_silent_registry(
    method: str,
    path: str,
    fault: proxy.Fault,
    registry: Registry,
    crane_path: str,
    tmp_path: Path,
) -> None:
    """It would wait there for ever, and then go on with what nobody wants any more."""
    rule = Rule(method, path, fault)
    with serve_proxy(registry.host, rule) as way:
        pushing = machine(tmp_path / "machine", registry, crane_path, way.host)
        change(pushing, random.Random(1))
        process = pushing.start()
        assert ends_within(30, lambda: bool(rule.struck))
        assert pushing.cranes()
        process.kill()
        process.communicate()
        assert ends_within(10, lambda: not pushing.cranes()), "an orphan stays"
        change(pushing, random.Random(2))
        assert pushing.push().image
        pushing.assert_clean()
    # And the proxy has let go of all that it held.
    assert pushing.published() == pushing.tree()


# Two at once


def at_once(*pushing: Machine) -> list[int]:
    """The exit codes. The registry may refuse one of two that write the same: then it is told."""
    codes = []
    for one, process in [(one, one.start()) for one in pushing]:
        output, messages = process.communicate(timeout=120)
        pushed = Result(process.returncode, output.decode(), messages.decode())
        if pushed.code:
            one.assert_failed(pushed, "ERROR: ")
        else:
            assert pushed.image
        codes.append(pushed.code)
    for one in pushing:
        one.assert_clean()
    return codes


@pytest.mark.parametrize("same_tag", [True, False], ids=["one tag", "two tags"])
def test_two_pushes_share_a_cache(
    same_tag: bool, registry: Registry, crane_path: str, tmp_path: Path
) -> None:
    chance = random.Random(3)
    two = [machine(tmp_path / name, registry, crane_path) for name in ("one", "two")]
    two[1].environment["KONTEXT_CACHE_DIR"] = str(two[0].cache)
    if same_tag:
        two[1].repository = two[0].repository
    for _ in range(4):
        for one in two:
            change(one, chance)
        codes = at_once(*two)
        assert 0 in codes if same_tag else codes == [0, 0]
        trees = [one.tree() for one in two]
        for one in two:
            assert one.published() in (trees if same_tag else [one.tree()])
    for one in two:
        assert one.push().image
        assert one.published() == one.tree()


def test_two_pushes_of_one_directory(registry: Registry, crane_path: str, tmp_path: Path) -> None:
    pushing = machine(tmp_path / "machine", registry, crane_path)
    chance = random.Random(4)
    for _ in range(3):
        change(pushing, chance)
        assert 0 in at_once(pushing, pushing)
        assert pushing.published() == pushing.tree()


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        missing("root, to mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        missing("the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room_for_the_layer(
    registry: Registry, crane_path: str, tmp_path: Path, small_disk: Path
) -> None:
    pushing = machine(tmp_path / "machine", registry, crane_path)
    pushing.environment["KONTEXT_CACHE_DIR"] = str(small_disk / "cache")
    plant(pushing.source, {"file": File(b"old")})
    assert pushing.push().image
    before = pushing.tree()
    change(pushing, random.Random(5))
    pushed = pushing.push()
    pushing.assert_failed(pushed, "No space left on device")
    assert "KONTEXT_CACHE_DIR" in pushed.stderr
    assert pushing.published() == before
    pushing.assert_clean()
    (pushing.source / "large").unlink()
    assert pushing.push().image
    assert pushing.published() == pushing.tree()


def test_a_disk_that_fills(
    registry: Registry, crane_path: str, tmp_path: Path, small_disk: Path
) -> None:
    """First what is remembered has no room, which costs time alone, then the layer has none."""
    pushing = machine(tmp_path / "machine", registry, crane_path)
    pushing.environment["KONTEXT_CACHE_DIR"] = str(small_disk / "cache")
    plant(pushing.source, {f"{number:0100}": File(b"") for number in range(1000)})
    before, codes = None, []
    for room in (400_000, 200_000, 100_000, 50_000, 20_000, 0):
        ballast = small_disk / "ballast"
        ballast.unlink(missing_ok=True)
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - room))
        plant(pushing.source, {"file": File(b"%d" % room)})
        pushed = pushing.push()
        codes.append(pushed.code)
        if pushed.code:
            pushing.assert_failed(pushed, "No space left on device")
            assert pushing.published() == before
        else:
            before = pushing.tree()
            assert pushing.published() == before
        pushing.assert_clean()
    assert codes[0] == 0
    assert codes[-1] == 1


# A bad cache


def rewritten(path: Path, new: Callable[[bytes], bytes]) -> None:
    """With a checksum that is right."""
    content = new(path.read_bytes()[64:])
    path.write_bytes(hashlib.sha256(content).hexdigest().encode() + content)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


BAD: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "emptied": lambda path: path.write_bytes(b""),
    "another byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x00"),
    "of a newer version": lambda path: rewritten(path, lambda old: old.replace(b" 1", b" 2", 1)),
    "of nonsense": lambda path: rewritten(path, lambda old: b"\xff\x00{}\n" * 5),
    "a directory": replaced(lambda path: (path / "x").mkdir(parents=True)),
    "a FIFO": replaced(os.mkfifo),
    "a link to an endless device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "without rights": lambda path: path.chmod(0),
}


def settle(*pushing: Machine) -> None:
    """What was changed in the last two seconds is not remembered."""
    for one in pushing:
        own = File(bytes(str(one.folder), "utf-8") * 100)
        plant(one.source, {"file": File(b"0"), "other": own})
    time.sleep(2.1)


@pytest.fixture(scope="module")
def settled(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, crane_path: str
) -> Machine:
    pushing = machine(tmp_path_factory.mktemp("settled") / "machine", registry, crane_path)
    settle(pushing)
    return pushing


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_a_bad_cache(spoil: Callable[[Path], object], settled: Machine) -> None:
    settled.forget()
    assert settled.push().image
    remembered = [path for path in settled.cache.rglob("*") if path.is_file()]
    assert {path.parent.name for path in remembered} == {"stats", "published", "pushed"}
    for path in remembered:
        spoil(path)
    changed = {"file": File(settled.cache.name.encode())}
    plant(settled.source, changed)
    pushed = settled.push()
    assert pushed.image
    assert "Traceback" not in pushed.stderr
    assert "Building on" in pushed.stderr, "the registry has all that is needed"
    assert settled.published() == settled.tree()
    settled.assert_clean()


def test_a_cache_of_another_directory(registry: Registry, crane_path: str, tmp_path: Path) -> None:
    """Every file is in another's place, each of them whole."""
    two = [machine(tmp_path / name, registry, crane_path) for name in ("one", "two")]
    settle(*two)
    for one in two:
        assert one.push().image
    for folder in ("stats", "published"):
        (mine,), (theirs,) = ([*(one.cache / folder).iterdir()] for one in two)
        shutil.copyfile(theirs, mine)
    assert two[0].push().image
    assert two[0].published() == two[0].tree()
