"""The cache: private, replaced as a whole, and as if absent when anything is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import unprivileged
from support.models import content_of, described
from support.trees import Directory, File, Link

from kontext_plugin import cache as cache_module
from kontext_plugin.cache import (
    Cache,
    Content,
    LayerOrigin,
    PushRecord,
    decode_image,
    decode_snapshot,
    encode_image,
    encode_snapshot,
    open_cache,
)
from kontext_plugin.errors import KontextError
from kontext_plugin.image.listing import list_tree
from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer, digest_of
from kontext_plugin.image.tree import ReverseDelta
from kontext_plugin.manifest import Ancestor, Lineage, Manifest, encode
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source.snapshot import Snapshot

A, B, C = (Digest("sha256:" + letter * 64) for letter in "abc")
STATS = Snapshot(
    list_tree(described({f"d/{number}": File(b"%d" % number) for number in range(1000)})),
    {"d/é\n": b"/\n1\0", "f": b"\xff", "": b""},
    "filters",
)
MANIFEST = Manifest(
    described({"d": Directory(), "d/f": File(b"x", executable=True), "l": Link("é\n")}),
    Lineage(
        generation=2,
        layers=(A,),
        ancestors=(
            Ancestor(C, 1, 1, 9, frozenset({"x"}), ReverseDelta(), None, "2026-01-02", "v1"),
        ),
        replaced_directories=frozenset({"l"}),
    ),
)
IMAGE = KontextImage(
    digest=A,
    image=Image(
        digest=B,
        layers=(Layer(C, 3), Layer(A, 5), Layer(B, 7, "application/x"), Layer(C, 9)),
        manifest=digest_of(encode(MANIFEST)),
        extractor=C,
        base=B,
        base_name="alpine:3",
        replaces=C,
    ),
    manifest=MANIFEST,
    config=ImageConfig(
        "linux/amd64", ("/e",), "/w", {"k": "v"}, (C, A, B, C), "2026-01-03T00:00:00Z"
    ),
    platforms=("linux/amd64", "linux/arm64"),
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def files(cache: Cache) -> list[Path]:
    assert cache.root is not None
    return [path for path in Path(cache.root).rglob("*") if path.is_file()]


def test_a_saved_record_is_there(cache: Cache) -> None:
    cache.save_snapshot("/one", STATS)
    cache.save_snapshot("/two", Snapshot())
    cache.save_published("r/r:t", IMAGE)
    assert cache.snapshot("/one") == STATS
    assert cache.snapshot("/two") == Snapshot()
    assert cache.published("r/r:t", A) == replace(IMAGE, is_cached=True)


def test_the_last_save_counts(cache: Cache) -> None:
    cache.save_snapshot("/one", STATS)
    cache.save_snapshot("/one", Snapshot(records={"f": b"7"}))
    assert cache.snapshot("/one") == Snapshot(records={"f": b"7"})
    assert len(files(cache)) == 1


# Pushes


def pushed(
    directory: str, tag: str, digest: Digest = A, time: float = 0, **facts: Any
) -> PushRecord:
    return PushRecord(directory, f"r/r:{tag}", digest, time, **facts)


def test_the_latest_push_comes_first(cache: Cache) -> None:
    assert cache.pushed() == []
    one, two = pushed("/é\n", "1"), pushed("/é\n", "2")
    cache.save_pushed([one, two])
    assert cache.pushed() == [one, two]
    three = pushed("/\udcff", "3")
    cache.save_pushed([three])
    cache.save_pushed([two])
    assert cache.pushed() == [two, three, one]


def test_a_record_of_a_push_comes_back_with_all_its_facts(cache: Cache) -> None:
    record = PushRecord("/d", "r/r:t", A, 1.5, 3, "c" * 40, "r/r:main, of a branch", 1, 2, 3, 4)
    cache.save_pushed([record])
    assert cache.pushed() == [record]


def test_an_image_keeps_the_facts_of_its_first_push(cache: Cache) -> None:
    """A second push of the same image counts no changes: they are those of the first one."""
    first = pushed("/d", "t", time=1, added=5, parent="r/r:main", uploaded=77, generation=2)
    cache.save_pushed([first])
    cache.save_pushed([pushed("/d", "other", B, time=2)])
    cache.save_pushed([pushed("/elsewhere", "t", time=3)])
    again, other = cache.pushed()
    assert again == replace(first, directory="/elsewhere", time=3)
    assert other.reference == "r/r:other"


def test_another_image_under_a_tag_is_another_push(cache: Cache) -> None:
    one, two = pushed("/d", "t", A, 1, added=1), pushed("/d", "t", B, 2, added=2)
    cache.save_pushed([one])
    cache.save_pushed([two])
    assert cache.pushed() == [two, one]


def test_the_number_of_pushes_is_limited(cache: Cache) -> None:
    for number in range(30):
        cache.save_pushed(pushed("/d", f"{number}-{tag}") for tag in range(20))
    found = cache.pushed()
    assert len(found) == 500
    assert found[0].reference == "r/r:29-0"


RECORD = {"directory": "/d", "reference": "r/r:t", "digest": A}
WRONG_PUSHES: dict[str, object] = {
    "nothing": None,
    "a number": 7,
    "of numbers": [7],
    "of texts": ["ab"],
    "an object": {"a": "b"},
    "without a digest": [{"directory": "/d", "reference": "r/r:t"}],
    "with another field": [RECORD | {"x": 1}],
}


@pytest.mark.parametrize("wrong", WRONG_PUSHES.values(), ids=WRONG_PUSHES)
def test_a_record_of_pushes_of_another_shape_is_as_if_absent(cache: Cache, wrong: object) -> None:
    version = cache_module._PUSHED_VERSION
    cache._write("pushed", "", {"version": version, "pushed": [RECORD]}, ())
    assert len(cache.pushed()) == 1
    cache._write("pushed", "", {"version": version, "pushed": wrong}, ())
    assert cache.pushed() == []
    cache._write("pushed", "", {"version": "kontext pushed 1", "pushed": [RECORD]}, ())
    assert cache.pushed() == []
    cache.save_pushed([pushed("/d", "t")])
    assert cache.pushed() == [pushed("/d", "t")]


# Layers


def test_layers_are_remembered_by_why_they_are_trusted(cache: Cache) -> None:
    assert cache.layers("written") == cache.layers("checked") == frozenset()
    cache.save_layers("written", [A])
    cache.save_layers("checked", [B])
    cache.save_layers("written", [C, A])
    assert cache.layers("written") == {A, C}
    assert cache.layers("checked") == {B}


def test_the_number_of_layers_is_limited(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_MAX_LAYERS", 2)
    for layer in (A, B, C):
        cache.save_layers("checked", [layer])
    assert cache.layers("checked") == {B, C}


WRONG_LAYERS: dict[str, dict[str, Any]] = {
    "of another version": {"version": "kontext layers 0"},
    "a number": {"written": 7, "checked": 7},
    "nothing": {"written": None, "checked": None},
}


@pytest.mark.parametrize("changes", WRONG_LAYERS.values(), ids=WRONG_LAYERS)
def test_a_record_of_layers_of_another_shape_is_as_if_absent(
    changes: dict[str, Any], cache: Cache
) -> None:
    """A layer that is not known is checked once more."""
    record = {"version": cache_module._LAYERS_VERSION, "written": [A], "checked": [B]}
    cache._write("layers", "", record | changes, ())
    origins: tuple[LayerOrigin, ...] = ("written", "checked")
    for how in origins:
        assert cache.layers(how) == frozenset()


@pytest.mark.parametrize("changes", WRONG_LAYERS.values(), ids=WRONG_LAYERS)
def test_a_record_of_layers_of_another_shape_is_replaced(
    changes: dict[str, Any], cache: Cache
) -> None:
    record = {"version": cache_module._LAYERS_VERSION, "written": [A], "checked": [B]}
    cache._write("layers", "", record | changes, ())
    cache.save_layers("written", [C])
    assert cache.layers("written") == {C}


# Images


def test_only_the_latest_images_are_remembered(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commit may have a tag of its own, and an image of a large tree takes megabytes."""
    monkeypatch.setattr(cache_module, "_MAX_PUBLISHED", 3)
    for number in range(6):
        cache.save_published(f"r/r:{number}", IMAGE)
        for path in files(cache):
            status = path.stat()
            os.utime(path, (status.st_atime, status.st_mtime - 10))
    kept = [number for number in range(6) if cache.published(f"r/r:{number}", A)]
    assert kept == [3, 4, 5]
    assert cache_module._MAX_PUBLISHED == 3


def test_images_with_a_purged_layer_are_forgotten(cache: Cache) -> None:
    """A later push to a new tag would publish the layer again, with the secret in it."""
    other = replace(IMAGE, image=replace(IMAGE.image, layers=(Layer(C, 3),)))
    cache.save_published("r/r:purged", IMAGE)
    cache.save_published("r/r:other", other)
    cache.save_pushed([pushed("/one", "t")])
    cache.save_snapshot("/one", STATS)
    Cache(cache.root, read_only=True).forget_layers({B})
    assert cache.published("r/r:purged", A)
    cache.forget_layers({B, digest_of(b"another")})
    assert cache.published("r/r:purged", A) is None
    assert cache.published("r/r:other", A)
    assert cache.pushed() and cache.snapshot("/one") == STATS
    cache.forget_layers(set())
    assert cache.published("r/r:other", A)
    Cache(None).forget_layers({C})


def test_a_damaged_image_stands_in_the_way_of_no_purge(cache: Cache) -> None:
    cache.save_published("r/r:t", IMAGE)
    (path,) = files(cache)
    path.write_bytes(b"damaged")
    cache.forget_layers({B})
    wrong = {"version": "kontext published 4", "layers": [7]}
    cache._write("published", "r/r:t", wrong, ())
    cache.forget_layers({B})


def test_the_limit_of_images_is_twenty() -> None:
    assert cache_module._MAX_PUBLISHED == 20


def test_files_that_are_no_records_are_not_counted_as_images(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_MAX_PUBLISHED", 1)
    (tmp_path / "cache/published").mkdir(parents=True)
    mine = tmp_path / "cache/published/mine"
    mine.touch()
    os.utime(mine, (1, 1))
    cache.save_published("r/r:1", IMAGE)
    assert mine.exists()
    assert cache.published("r/r:1", A)


# Records


def test_another_key_or_digest_has_no_record(cache: Cache) -> None:
    cache.save_snapshot("/one", STATS)
    cache.save_published("r/r:t", IMAGE)
    assert cache.snapshot("/one/") == Snapshot()
    assert cache.published("r/r:t", B) is None
    assert cache.published("r/r:other", A) is None


def test_only_the_user_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_CACHE_DIR", str(tmp_path / "cache"))
    before = os.umask(0)
    try:
        cache = open_cache()
        cache.save_snapshot("/one", STATS)
        with cache.scratch() as folder:
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    finally:
        os.umask(before)
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def with_checksum(content: bytes) -> bytes:
    """Return the content of a file of the cache, with the right checksum."""
    return hashlib.sha256(content).hexdigest().encode() + content


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut in the checksum": lambda content: content[:30],
    "cut behind the checksum": lambda content: content[:64],
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "zeros": lambda content: bytes(len(content)),
    "no checksum": lambda content: content[64:],
    "only a checksum": lambda content: with_checksum(b""),
    "another version": lambda content: with_checksum(
        content[64:].replace(b"kontext ", b"kontekst ", 1)
    ),
    "not an object": lambda content: with_checksum(b"[]\n"),
    "an empty object": lambda content: with_checksum(b"{}\n"),
    "other content": lambda content: with_checksum(b"\xff\0[]\n{}"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_as_if_absent(damage: Callable[[bytes], bytes], cache: Cache) -> None:
    cache.save_snapshot("/one", STATS)
    cache.save_published("r/r:t", IMAGE)
    cache.save_pushed([pushed("/one", "t")])
    cache.save_layers("written", [A])
    assert len(files(cache)) == 4
    for path in files(cache):
        path.write_bytes(damage(path.read_bytes()))
    assert cache.snapshot("/one") == Snapshot()
    assert cache.published("r/r:t", A) is None
    assert cache.pushed() == []
    assert cache.layers("written") == frozenset()
    cache.save_snapshot("/one", STATS)
    assert cache.snapshot("/one") == STATS


def test_a_directory_in_the_place_of_a_file_is_as_if_absent(cache: Cache) -> None:
    cache.save_snapshot("/one", STATS)
    (path,) = files(cache)
    path.unlink()
    (path / "x").mkdir(parents=True)
    assert cache.snapshot("/one") == Snapshot()
    cache.save_snapshot("/one", STATS)
    assert cache.snapshot("/one") == Snapshot()


def test_without_a_cache_nothing_fails() -> None:
    cache = Cache(None)
    cache.save_snapshot("/one", STATS)
    cache.save_published("r/r:t", IMAGE)
    cache.save_pushed([pushed("/one", "t")])
    cache.save_layers("written", [A])
    assert cache.snapshot("/one") == Snapshot()
    assert cache.published("r/r:t", A) is None
    assert cache.pushed() == []
    assert cache.layers("written") == frozenset()


def test_scratch_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "kontext-of-somebody-else"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Cache(None).scratch() as folder:
        assert Path(folder).parent == tmp_path
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert [*tmp_path.iterdir()] == [other]


@pytest.mark.parametrize("error", [KontextError("x"), KeyboardInterrupt(), OSError()], ids=repr)
def test_a_scratch_directory_is_removed_after_an_exception(
    error: BaseException, cache: Cache
) -> None:
    with pytest.raises(type(error)), cache.scratch() as folder:
        (Path(folder) / "d").mkdir()
        (Path(folder) / "d/layer").write_bytes(b"x")
        raise error
    assert not os.path.exists(folder)


def test_a_save_leaves_no_scratch_directory(cache: Cache, tmp_path: Path) -> None:
    cache.save_snapshot("/one", STATS)
    assert os.listdir(tmp_path / "cache") == ["stats"]


def test_a_failed_save_leaves_the_old_file(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache.save_snapshot("/one", STATS)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.save_snapshot("/one", Snapshot())
    assert cache.snapshot("/one") == STATS
    assert os.listdir(tmp_path / "cache") == ["stats"]


HOLD = """
import sys
from kontext_plugin.cache import Cache
with Cache(sys.argv[1]).scratch() as folder:
    open(folder + "/layer", "w").close()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_sweep_removes_only_the_directory_of_a_killed_push(cache: Cache) -> None:
    assert cache.root is not None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, cache.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdin and process.stdout
        layer = Path(process.stdout.readline().decode().strip()) / "layer"
        with cache.scratch():
            assert layer.exists(), "a running push has lost its layer"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert layer.exists()
        with cache.scratch() as own:
            assert os.listdir(cache.root) == [os.path.basename(own)]


def test_a_sweep_follows_no_link(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (tmp_path / "cache").mkdir(parents=True)
    (tmp_path / "cache/kontext-scratch-aaaaaaaa").symlink_to(tmp_path / "precious")
    with cache.scratch():
        pass
    assert (tmp_path / "precious/file").exists()


def test_two_scratch_directories_at_once(cache: Cache) -> None:
    with cache.scratch() as one, cache.scratch() as two:
        assert one != two
        assert os.path.isdir(one)


def test_a_scratch_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(KontextError, match="no temporary directory can be made in") as raised,
        Cache(str(tmp_path / "file")).scratch(),
    ):
        pass
    assert "KONTEXT_CACHE_DIR" in raised.value.hint


# --- Where the cache is ---

PLACES = {
    "own variable": ({"KONTEXT_CACHE_DIR": "own/deep", "XDG_CACHE_HOME": "xdg"}, "own/deep"),
    "XDG": ({"XDG_CACHE_HOME": "xdg"}, "xdg/kontext"),
    "home": ({}, "home/.cache/kontext"),
    "empty variables": ({"KONTEXT_CACHE_DIR": "", "XDG_CACHE_HOME": ""}, "home/.cache/kontext"),
}


@pytest.mark.parametrize(("variables", "place"), PLACES.values(), ids=PLACES)
def test_the_users_cache(
    variables: dict[str, str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KONTEXT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value else "")
    assert open_cache() == Cache(str(tmp_path / place))
    assert stat.S_IMODE((tmp_path / place).stat().st_mode) == 0o700


def test_a_read_only_cache_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_CACHE_DIR", str(tmp_path / "cache"))
    open_cache(read_only=True).save_snapshot("/one", STATS)
    assert [*tmp_path.iterdir()] == []
    open_cache().save_snapshot("/one", STATS)
    before = files(Cache(str(tmp_path)))
    cache = open_cache(read_only=True)
    cache.save_snapshot("/one", Snapshot())
    cache.save_published("r/r:t", IMAGE)
    cache.save_pushed([pushed("/one", "t")])
    cache.save_layers("written", [A])
    assert cache.snapshot("/one") == STATS
    assert files(Cache(str(tmp_path))) == before


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KONTEXT_CACHE_DIR", "here")
    assert open_cache() == Cache(str(tmp_path / "here"))


def test_a_file_in_the_place_of_the_cache_means_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KONTEXT_CACHE_DIR", str(tmp_path / "file"))
    assert open_cache() == Cache(None)


CLOSED = """
os.environ["KONTEXT_CACHE_DIR"] = sys.argv[1]
print(store.open_cache().root)
cache = store.Cache(sys.argv[1])
cache.save_snapshot("/one", snapshot.Snapshot())
print(cache.snapshot("/one") == snapshot.Snapshot())
cache.save_snapshot("/two", snapshot.Snapshot())
"""


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o555], ids=oct)
def test_a_cache_without_permission_is_as_if_absent(mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "cache"
        Cache(str(root)).save_snapshot("/one", STATS)
        root.chmod(mode)
        before = sorted(root.rglob("*"))
        assert unprivileged.run(CLOSED, str(root)).splitlines() == ["None", "True"]
        assert sorted(root.rglob("*")) == before
        root.chmod(0o700)


def test_a_sweep_leaves_files_of_others(cache: Cache) -> None:
    """KONTEXT_CACHE_DIR may name a directory that the user has for other things too."""
    assert cache.root is not None
    theirs = [Path(cache.root) / name for name in ("tmp/uploads", "kontext-mine", "scratch")]
    for folder in theirs:
        folder.mkdir(parents=True)
        (folder / "precious").touch()
    with cache.scratch():
        pass
    assert all((folder / "precious").exists() for folder in theirs)


def test_a_sweep_before_the_new_directory_is_locked(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another push."""
    make, swept = tempfile.mkdtemp, []

    def made_and_swept(*arguments: Any, **options: Any) -> str:
        folder = make(*arguments, **options)
        if not swept:
            swept.append(folder)
            os.rmdir(folder)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_swept)
    with cache.scratch() as folder:
        assert os.path.isdir(folder)
    assert swept


@pytest.mark.parametrize("kind", ["fifo", "directory", "link to an endless device"])
def test_a_file_of_another_type_is_as_if_absent(cache: Cache, kind: str) -> None:
    cache.save_snapshot("/d", Snapshot(records={"f": b"1"}))
    (path,) = [path for path in Path(cache.root or "").rglob("*") if path.is_file()]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert cache.snapshot("/d") == Snapshot()


@pytest.mark.parametrize("kind", ["fifo", "link", "link to nothing", "readable by all"])
def test_a_file_of_another_type_is_replaced(cache: Cache, tmp_path: Path, kind: str) -> None:
    """The target of a link stays as it is."""
    cache.save_snapshot("/d", Snapshot(records={"f": b"1"}))
    (path,) = files(cache)
    precious = tmp_path / "precious"
    if kind == "readable by all":
        path.chmod(0o644)
        assert cache.snapshot("/d") == Snapshot(records={"f": b"1"})
    else:
        path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        precious.write_text("precious")
        path.symlink_to(precious)
    elif kind == "link to nothing":
        path.symlink_to(precious)
    cache.save_snapshot("/d", Snapshot(records={"f": b"2"}))
    assert cache.snapshot("/d") == Snapshot(records={"f": b"2"})
    status = path.lstat()
    assert stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600
    assert precious.exists() == (kind == "link")
    assert kind != "link" or precious.read_text() == "precious"


def test_a_file_of_another_user_is_as_if_absent(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shared directory another user could fake that nothing has changed."""
    cache.save_snapshot("/d", STATS)
    cache.save_published("r/r:t", IMAGE)
    if os.geteuid() == 0:
        for path in files(cache):
            os.chown(path, 65534, -1)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    assert cache.snapshot("/d") == Snapshot()
    assert cache.published("r/r:t", A) is None


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KONTEXT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache_module, "home_directory", lambda: None)
    monkeypatch.chdir(tmp_path)
    cache = open_cache()
    assert (cache.root, cache.problem[:15]) == (None, "HOME is not set")
    monkeypatch.setenv("KONTEXT_CACHE_DIR", "~/cache")  # as a quoted path in a CI file
    assert open_cache().root is None
    assert os.listdir(tmp_path) == []


# --- Entries, and prune ---


def test_an_entry_has_its_kind_key_size_and_time(cache: Cache) -> None:
    cache.save_snapshot("/a\udcff\n", STATS)
    cache.save_published("r/r:t", IMAGE)
    with cache.scratch() as folder:
        Path(folder, "layer").write_bytes(b"x" * 1000)
        found = {entry.kind: entry for entry in cache.entries()}
    assert found["stats"].key == "/a\udcff\n"
    assert found["published"].key == f"r/r:t@{IMAGE.digest}"
    assert (found["scratch"].size, found["scratch"].key) == (1000, "")
    on_disk = {path.parent.name: path.stat() for path in files(cache)}
    for kind, status in on_disk.items():
        assert (found[kind].size, found[kind].saved) == (status.st_size, status.st_mtime)


def test_a_damaged_file_is_an_entry_without_a_key(cache: Cache) -> None:
    """As is one that an earlier version has written."""
    cache.save_snapshot("/one", STATS)
    (file,) = files(cache)
    file.write_bytes(b"damaged")
    (entry,) = cache.entries()
    assert (entry.kind, entry.size, entry.key) == ("stats", 7, "")


def test_prune_leaves_files_of_others(cache: Cache, tmp_path: Path) -> None:
    cache.save_snapshot("/one", STATS)
    cache.save_published("r/r:t", IMAGE)
    size = sum(path.stat().st_size for path in files(cache))
    root, name = tmp_path / "cache", "a" * 64
    theirs = [
        root / "mine",
        root / "stats" / "mine",
        root / "other" / name,
        root / "stats" / ("b" * 65),
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (root / "stats" / name).mkdir()
    (tmp_path / "precious").touch()
    (root / "published" / name).symlink_to(tmp_path / "precious")
    assert cache.prune() == size
    assert cache.snapshot("/one") == Snapshot()
    assert cache.published("r/r:t", A) is None
    assert all(path.exists() for path in (*theirs, root / "stats" / name, tmp_path / "precious"))
    assert (root / "published" / name).is_symlink()
    assert cache.prune() == 0


def test_prune_follows_no_link(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    precious = tmp_path / "elsewhere" / ("a" * 64)
    precious.touch()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/stats").symlink_to(tmp_path / "elsewhere")
    assert (cache.entries(), cache.prune()) == ([], 0)
    assert precious.exists()


def test_prune_during_a_push(cache: Cache) -> None:
    """The scratch directory stays, and a later save works."""
    with cache.scratch() as folder:
        layer = Path(folder, "layer")
        layer.write_bytes(b"x" * 1000)
        cache.save_snapshot("/one", STATS)
        cache.prune()
        assert layer.exists()
        cache.save_snapshot("/one", STATS)
        assert cache.snapshot("/one") == STATS


def test_prune_removes_the_directory_of_a_killed_push(cache: Cache, tmp_path: Path) -> None:
    left = tmp_path / "cache/kontext-scratch-aaaaaaaa"
    left.mkdir(parents=True)
    (left / "layer").write_bytes(b"x" * 1000)
    assert cache.prune() == 1000
    assert not left.exists()


@pytest.mark.parametrize("root", [None, "/no/where"])
def test_without_a_cache_there_are_no_entries(root: str | None) -> None:
    assert (Cache(root).entries(), Cache(root).prune()) == ([], 0)


def test_a_cache_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KontextError, match="cannot be used: Not a directory"):
        Cache(str(tmp_path / "file")).entries()


# --- How records are encoded ---


def encoded_image() -> tuple[dict[str, Any], Content]:
    """Return the record and the listing of IMAGE, as they come back from a file."""
    record, listing = encode_image(IMAGE)
    return json.loads(json.dumps(record)), content_of(listing)


def test_an_image_comes_back() -> None:
    assert decode_image(*encoded_image(), A) == replace(IMAGE, is_cached=True)


def test_an_image_of_another_digest_is_as_if_absent() -> None:
    assert decode_image(*encoded_image(), B) is None


WRONG_IMAGES: dict[str, dict[str, Any]] = {
    "of another version": {"version": "kontext published 3"},
    "layers of another shape": {"layers": [1]},
    "no layers": {"layers": None},
    "no document": {"document": None},
    "a document of another shape": {"document": []},
    "no configuration": {"config": None},
    "a configuration of another shape": {"config": {"os": "linux"}},
    "a base of another shape": {"base": ["x"]},
    "no platforms": {"platforms": None},
    "parts of another shape": {"starts": 7, "chunks": []},
}


@pytest.mark.parametrize("changes", WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_an_image_of_another_shape_is_as_if_absent(changes: dict[str, Any]) -> None:
    record, listing = encoded_image()
    assert decode_image(record | changes, listing, A) is None


@pytest.mark.parametrize("key", sorted(encoded_image()[0].keys()))
def test_an_image_without_a_key_is_as_if_absent(key: str) -> None:
    record, listing = encoded_image()
    del record[key]
    assert decode_image(record, listing, A) is None


def test_no_image() -> None:
    assert decode_image({}, Content(), A) is None


@pytest.mark.parametrize("stats", [STATS, Snapshot()], ids=["some", "none"])
def test_a_stat_cache_comes_back(stats: Snapshot) -> None:
    index, pieces = encode_snapshot(stats)
    found = decode_snapshot(json.loads(json.dumps(index)), content_of(pieces))
    assert found == stats
    assert found.tree.digests == stats.tree.digests


WRONG_STATS: dict[str, dict[str, Any]] = {
    "of another version": {"version": "kontext stats 1"},
    "fewer lengths": {"lengths": [4, 1]},
    "lengths of another shape": {"lengths": ["4", "1", "0"]},
    "folders of another shape": {"folders": 7},
    "no folders": {"folders": []},
    "chunks of another shape": {"chunks": [7]},
    "fewer chunks": {"chunks": []},
    "more content than it says": {"folders": [], "lengths": []},
}


@pytest.mark.parametrize("changes", WRONG_STATS.values(), ids=WRONG_STATS)
def test_a_stat_cache_of_another_shape_is_as_if_absent(changes: dict[str, Any]) -> None:
    index, records = encode_snapshot(STATS)
    assert decode_snapshot(index | changes, content_of(records)) == Snapshot()


def test_no_stat_cache() -> None:
    assert decode_snapshot({}, Content()) == Snapshot()
