"""Early uploads: which layers go up while others are written, and what is left of failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import pytest
from support.fake_registry import FakeRegistry, push_session
from support.tokens import LIVE
from support.trees import Directory, File, Tree, plant

from kontext_plugin.crane_driver.watchdog import UploadProgress
from kontext_plugin.errors import KontextError
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import Layer, digest_of
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.push import partition as partition_module
from kontext_plugin.push.early import EarlyUpload
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.prepare import prepare
from kontext_plugin.push.session import PushSession
from kontext_plugin.push.stage import stage
from kontext_plugin.secret_scan import SecretMode
from kontext_plugin.secret_scan.policy import SecretPolicy

TAG = parse_reference("host.io/repo:t")

TOKEN = LIVE["GitHub token"].encode()

TREE: Tree = {"n": Directory()} | {
    f"n/{number:03}": File(b"%d" % number * 100) for number in range(60)
}


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry(tmp_path / "registry")
    registry.answer(manifest_error=b"Error: MANIFEST_UNKNOWN", ls=b"")
    registry.answer(push=TAG.at(digest_of(b"any")).encode())
    return registry


@pytest.fixture
def session(registry: FakeRegistry, tmp_path: Path) -> Iterator[PushSession]:
    with push_session(registry, tmp_path / "cache") as session:
        yield session


@pytest.fixture
def early(session: PushSession, tmp_path: Path) -> EarlyUpload:
    (tmp_path / "early").mkdir()
    return EarlyUpload(session, TAG, str(tmp_path / "early"))


def layer(directory: Path, number: int) -> StagedLayer:
    content = b"layer %d" % number
    path = directory / f"{number}"
    path.write_bytes(content)
    return StagedLayer(str(path), Layer(digest_of(content), len(content)), digest_of(content))


def pushes(registry: FakeRegistry) -> list[str]:
    return [request for request in registry.requests if request.startswith("push ")]


def test_layers_go_up_by_digest_and_a_few_times_only(
    registry: FakeRegistry, early: EarlyUpload, tmp_path: Path
) -> None:
    for number in range(10):
        early.add(layer(tmp_path, number))
        early.finish()
    assert len(pushes(registry)) == 3
    assert all("host.io/repo@sha256:" in request for request in pushes(registry))


@dataclass
class SlowUploads:
    """Uploads that go on when they are released."""

    begun: Queue[int] = field(default_factory=Queue)  # the numbers of their layers
    release: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def slow(early: EarlyUpload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowUploads:
    """Uploads of `early`. The one of layer 0 has begun."""
    slow, real = SlowUploads(), early._push

    def push(layers: Sequence[StagedLayer], progress: UploadProgress) -> bool:
        slow.begun.put(len(layers))
        slow.release.wait()
        return real(layers, progress)

    monkeypatch.setattr(early, "_push", push)
    early.add(layer(tmp_path, 0))
    assert slow.begun.get(timeout=60) == 1
    return slow


def test_layers_that_are_ready_during_an_upload_go_up_together_after_it(
    early: EarlyUpload, slow: SlowUploads, tmp_path: Path
) -> None:
    """Nothing else is needed for that: the other layers may take long."""
    for number in range(1, 5):
        early.add(layer(tmp_path, number))
    slow.release.set()
    assert slow.begun.get(timeout=60) == 4
    early.finish()
    first, second = sorted((tmp_path / "early").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    held = [
        sum(path.read_bytes().startswith(b"layer") for path in one.rglob("sha256/*"))
        for one in (first, second)
    ]
    assert held == [1, 4]


def test_no_upload_begins_after_the_last_layer_is_written(
    early: EarlyUpload, slow: SlowUploads, tmp_path: Path
) -> None:
    """The push itself uploads what is left, with its tag."""
    early.add(layer(tmp_path, 1))
    threading.Timer(0.2, slow.release.set).start()
    early.finish()
    assert slow.begun.empty()


def test_a_push_that_is_blocked_begins_no_other_upload(
    early: EarlyUpload, slow: SlowUploads, tmp_path: Path
) -> None:
    """Not even of layers that were ready before, and without a secret."""
    early.add(layer(tmp_path, 1))
    early.stop()
    early.add(layer(tmp_path, 2))
    slow.release.set()
    early.finish()
    early.add(layer(tmp_path, 3))
    early.finish()
    assert slow.begun.empty()


def test_nothing_is_written_once_the_directory_may_be_removed(
    registry: FakeRegistry, early: EarlyUpload, slow: SlowUploads, tmp_path: Path
) -> None:
    """The first upload has not written its layout yet."""
    with early:
        early.add(layer(tmp_path, 1))
    slow.release.set()
    early.finish()
    assert not list((tmp_path / "early").iterdir())
    assert not pushes(registry)


def test_an_upload_that_fails_is_the_last_one_and_no_error(
    registry: FakeRegistry, early: EarlyUpload, tmp_path: Path
) -> None:
    registry.answer(push_error=b"Error: DENIED: requested access to the resource is denied")
    for number in range(3):
        early.add(layer(tmp_path, number))
        early.finish()
    assert len(pushes(registry)) == 1
    assert early.uploaded == 0


@pytest.mark.parametrize("read_once", [True, False], ids=["read once", "read twice"])
@pytest.mark.parametrize(
    ("mode", "is_blocked"),
    [(SecretMode.AUTO, True), (SecretMode.WARN, False), (SecretMode.OFF, False)],
    ids=["blocks", "warns", "off"],
)
def test_a_layer_with_a_secret_that_blocks_the_push_stays_here(
    session: PushSession,
    registry: FakeRegistry,
    early: EarlyUpload,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: SecretMode,
    is_blocked: bool,
    read_once: bool,
) -> None:
    """Every layer has one here."""
    monkeypatch.setattr(partition_module, "CHUNK_BYTES", 5000)
    monkeypatch.setattr("kontext_plugin.push.prepare.READ_ONCE", 0 if read_once else 10**9)
    plant(tmp_path / "root", TREE)
    for path in (tmp_path / "root/n").iterdir():
        path.write_bytes(path.read_bytes() + b"\n" + TOKEN)
    before = prepare(session, PushOptions((TAG,), directory=str(tmp_path / "root")))
    assert before.partition is not None and len(before.partition.lower) > 2
    (tmp_path / "layers").mkdir()
    policy = SecretPolicy(mode, str(tmp_path / "root"), session.report)
    _, layers = stage(session, before, str(tmp_path / "layers"), policy=policy, early=early)
    early.finish()
    assert layers is not None
    uploads = [one for one in pushes(registry) if str(tmp_path / "early") in one]
    assert bool(uploads) is not is_blocked
    if is_blocked:
        with pytest.raises(KontextError, match="would be published, so the push has stopped"):
            policy.enforce(layers.findings)
