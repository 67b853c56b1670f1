"""What a registry sends: documents at a layer's head, and the stream of `crane export`.

Both are read no further than their limits.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_registry import gzip_layer
from support.models import described
from support.trees import SOURCES, Directory, File, Link

from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.tree import Tree
from kontext_plugin.layer.reader import (
    Budget,
    ExportedEntry,
    ExportReader,
    max_export_bytes,
    max_unpacked_bytes,
    read_documents,
    take_manifest,
)
from kontext_plugin.manifest import MANIFEST_PATH, MAX_BYTES, MAX_DOCUMENT

BLOCK = 4 * 1024 * 1024
LAYER = Layer(Digest("sha256:" + "a" * 64), 1)
TEXT = b"".join(b"line %d\n" % number for number in range(200_000))

# The documents at a layer's head


def read_manifest(blob: IO[bytes]) -> bytes:
    return take_manifest(read_documents(blob, LAYER, Budget(MAX_BYTES)))


@pytest.mark.parametrize("json", [b"", b"{}", TEXT], ids=["empty", "short", "long"])
def test_a_manifest_is_read_from_the_head_alone(json: bytes) -> None:
    noise = b"".join(number.to_bytes(4, "big") for number in range(0, 2**32, 4999))
    stream = io.BytesIO(gzip_layer(json, ("var/run/kontext/f", noise)))
    assert read_manifest(stream) == json
    assert stream.tell() < len(json) + 200_000 < len(stream.getvalue()), "more than the head"


JSON = b'{"files":{}}'


def entry(
    name: str = MANIFEST_PATH, kind: bytes = tarfile.REGTYPE, size: int = 2, **more: Any
) -> bytes:
    """Return the tar header of one entry, as tarfile writes it."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT)


GOOD = entry() + b"{}".ljust(512, b"\0")
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no gzip": GOOD,
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
    "gzip of nothing": gzip.compress(b""),
    "header cut off": gzip.compress(GOOD[:511]),
    "no header": gzip.compress(b"x" * 512),
    "header of zeros": gzip.compress(bytes(512)),
    "wrong checksum": gzip.compress(b"x" + GOOD[1:]),
    "size no number": gzip.compress(GOOD[:124] + b"zzzzzzzzzzz\0" + GOOD[136:]),
    "content cut off": gzip.compress(GOOD[:513]),
    "stream cut off": gzip.compress(GOOD)[:30],
    "deflate broken": gzip.compress(GOOD)[:12] + b"\xff" * 50,
    "other file first": gzip.compress(entry("etc/passwd") + GOOD),
    "folder first": gzip.compress(entry("var/", tarfile.DIRTYPE, 0) + GOOD),
    "whiteout first": gzip.compress(entry("var/.wh.lib", size=0) + GOOD),
    "climbing name": gzip.compress(entry("../" + MANIFEST_PATH) + GOOD),
    "longer name": gzip.compress(entry(MANIFEST_PATH + "5") + GOOD),
    "PAX header first": gzip.compress(entry(pax_headers={"comment": "x"}) + GOOD[512:]),
    "global PAX header first": gzip.compress(entry("g", tarfile.XGLTYPE, 0) + GOOD),
    "GNU long name first": gzip.compress(entry("L", tarfile.GNUTYPE_LONGNAME) + GOOD),
    "symbolic link": gzip.compress(entry(kind=tarfile.SYMTYPE, linkname="/etc/passwd") + GOOD),
    "hard link": gzip.compress(entry(kind=tarfile.LNKTYPE, linkname="etc/passwd") + GOOD),
    "directory": gzip.compress(entry(kind=tarfile.DIRTYPE) + GOOD),
    "FIFO": gzip.compress(entry(kind=tarfile.FIFOTYPE) + GOOD),
    "device": gzip.compress(entry(kind=tarfile.CHRTYPE) + GOOD),
    "too large": gzip.compress(entry(size=MAX_DOCUMENT + 1) + bytes(512)),
    "far too large": gzip.compress(entry(size=2**62) + bytes(512)),
    "claims what is not there": gzip.compress(entry(size=MAX_DOCUMENT) + bytes(512)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_layer_that_does_not_start_with_a_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it has no manifest|its (layer|manifest) "):
        read_manifest(io.BytesIO(content))


def test_a_good_head_is_read() -> None:
    assert read_manifest(io.BytesIO(gzip.compress(GOOD))) == b"{}"


def test_a_stream_that_ends_early_gives_the_manifest_or_an_error() -> None:
    layer = gzip_layer(JSON, ("var/run/kontext/f", TEXT[:5000]))
    answers = []
    for end in range(0, len(layer), 3):
        try:
            answers.append(read_manifest(io.BytesIO(layer[:end])))
        except ValueError:
            answers.append(None)
    assert {*answers} == {None, JSON}


@pytest.mark.parametrize(
    "head",
    [
        b"",
        entry(size=MAX_DOCUMENT + 1),
        entry(size=0, kind=tarfile.DIRTYPE),
        entry("etc/x", size=9**9),
    ],
    ids=["zeros only", "too large", "directory", "other file"],
)
def test_a_gzip_bomb_is_not_unpacked(head: bytes) -> None:
    bomb = io.BytesIO(gzip.compress(head + bytes(25 * BLOCK), 1))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"it has no manifest|its (layer|manifest) "):
            read_manifest(bomb)
        assert tracemalloc.get_traced_memory()[1] < BLOCK
    finally:
        tracemalloc.stop()


def test_the_bytes_read_from_all_layers_together_are_limited() -> None:
    """Empty documents count, too."""
    name = "var/lib/kontext/parts/a.json"
    layer = gzip.compress(
        entry(name, size=0) * 30 + entry(name, size=9000) + bytes(9216) + entry("end")
    )
    assert len(list(read_documents(io.BytesIO(layer), LAYER, Budget(30_000)))) == 31
    budget = Budget(40_000)
    list(itertools.islice(read_documents(io.BytesIO(layer), LAYER, budget), 31))
    with pytest.raises(ValueError, match="too large to be read"):
        list(read_documents(io.BytesIO(layer), LAYER, budget))


@settings(max_examples=50)
@given(st.binary(max_size=600), st.integers(0, 511))
def test_no_head_raises_anything_but_a_value_error(noise: bytes, at: int) -> None:
    for content in (noise, gzip.compress(GOOD[:at] + noise + GOOD[at + len(noise) :])):
        with contextlib.suppress(ValueError):
            read_manifest(io.BytesIO(content))


# The budget


def test_the_bytes_that_are_kept_are_limited() -> None:
    budget = Budget(MAX_BYTES, kept=5)
    budget.keep(b"12345")
    with pytest.raises(ValueError, match="too large to be read"):
        budget.keep(b"6")


def test_a_document_of_a_negative_size_is_too_large() -> None:
    with pytest.raises(ValueError, match="too large to be read"):
        Budget(MAX_BYTES).take_bytes(-1)


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let Python switch between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-9)
    yield
    sys.setswitchinterval(before)


class Slow(int):
    """A number whose subtraction lets another thread run in between."""

    def __sub__(self, other: int) -> Slow:
        result = Slow(int(self) - other)
        time.sleep(0)
        return result


@pytest.mark.usefixtures("frequent_switches")
def test_no_count_of_several_threads_is_lost() -> None:
    """Threads read the layers of an image at the same time and share one budget."""
    threads, rounds = 8, 200
    budget = Budget(Slow(10**9), kept=Slow(10**9))
    start = threading.Barrier(threads)

    def spend() -> None:
        start.wait()
        for _ in range(rounds):
            budget.take_bytes(10)
            budget.keep(b"[,{")

    running = [threading.Thread(target=spend) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert 10**9 - budget.left == threads * rounds * (512 + 10)
    assert 10**9 - budget.kept == threads * rounds * 3


@pytest.mark.parametrize("room", [0, 1, 7, 100])
def test_threads_get_no_more_than_the_budget(room: int) -> None:
    budget = Budget(Slow(room * 522))
    taken: list[int] = []

    def spend() -> None:
        with contextlib.suppress(ValueError):
            while True:
                budget.take_bytes(10)
                taken.append(1)

    running = [threading.Thread(target=spend) for _ in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(taken) == room


# The media type

MEDIA_TYPES = {
    "OCI": "application/vnd.oci.image.layer.v1.tar+gzip",
    "docker": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


@pytest.mark.parametrize("media_type", MEDIA_TYPES.values(), ids=MEDIA_TYPES)
def test_the_media_type_chooses_the_compression(media_type: str) -> None:
    blob = io.BytesIO(gzip_layer(JSON))
    layer = Layer(LAYER.digest, 1, media_type)
    assert take_manifest(read_documents(blob, layer, Budget(MAX_BYTES))) == JSON


def test_a_layer_with_an_unknown_media_type_is_refused_before_it_is_read() -> None:
    blob = io.BytesIO(gzip_layer(JSON))
    layer = Layer(LAYER.digest, 1, "application/vnd.oci.image.layer.v1.tar+lz4")
    with pytest.raises(ValueError, match=r"media type .*tar\+lz4"):
        take_manifest(read_documents(blob, layer, Budget(MAX_BYTES)))
    assert blob.tell() == 0


# The archive of a layer, or of crane export

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300)
NAMES = TEXTS.filter(lambda name: not {"", ".", ".."} & {*name.split("/")})


def info(name: str, letter: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> bytes:
    """Return a header as crane writes it: PAX."""
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname, made.mode = letter, size, target, 0o755
    return made.tobuf(tarfile.PAX_FORMAT)


def file(name: str, content: bytes) -> bytes:
    return info(name, size=len(content)) + content + bytes(-len(content) % 512)


def read(archive: bytes, limit: int = 1 << 24) -> list[tuple[ExportedEntry, bytes]]:
    export = ExportReader(io.BytesIO(archive), limit)
    return [(entry, b"".join(export.content())) for entry in export.entries()]


@given(st.lists(st.tuples(NAMES, TEXTS, st.binary(max_size=1500))))
def test_entries_that_tarfile_writes_are_read(items: list[tuple[str, str, bytes]]) -> None:
    archive = b"".join(
        file(f"{SOURCES}/{name}", content)
        + info(f"{SOURCES}/{name}", tarfile.SYMTYPE, target=target)
        for name, target, content in items
    )
    found = read(archive + bytes(1024))
    assert [(entry.path, entry.target, content) for entry, content in found] == [
        one for name, target, content in items for one in ((name, "", content), (name, target, b""))
    ]


UNSAFE = ["a//b", "a/./b", "a/.", "a/..", "../a", "..", "../../../../etc/passwd"]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_may_mean_another_path_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="unsafe path"):
        read(file(f"{SOURCES}/{name}", b"x") + bytes(1024))


SPELLINGS = [f"/{SOURCES}/a", f"./{SOURCES}/a", f"{SOURCES}/a/"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_spellings_of_a_path_that_all_read_alike_are_read(name: str) -> None:
    ((entry, _),) = read(info(".", tarfile.DIRTYPE) + file(name, b"x") + bytes(1024))
    assert entry.path == "a"


HIDING = [".wh.var", "var/.wh.run", "var/run/.wh.kontext"]
HIDING += [f"{above}.wh..wh..opq" for above in ("", "var/", "var/run/")]


@pytest.mark.parametrize("name", HIDING)
def test_a_whiteout_of_the_sources_as_a_whole_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="hides the sources"):
        read(file(name, b"") + bytes(1024))


@pytest.mark.parametrize("name", [".wh.etc", "var/.wh.log", "etc/.wh.run", "etc/.wh..wh..opq"])
def test_a_whiteout_elsewhere_is_none_of_the_sources(name: str) -> None:
    assert not read(file(name, b"") + bytes(1024))


def test_entries_outside_of_the_sources_are_skipped() -> None:
    archive = (
        file("etc/passwd", b"x" * 3_000_000)
        + info(SOURCES, tarfile.DIRTYPE)
        + file(f"{SOURCES}x/a", b"a")
        + file(f"/{SOURCES}/b", b"b")
        + file(f"{SOURCES}/c", b"c" * 513)
        + file("z", b"z")
        + bytes(1024)
    )
    export = ExportReader(io.BytesIO(archive), len(archive))
    assert [(entry.path, entry.kind) for entry in export.entries()] == [
        ("b", "file"),
        ("c", "file"),
    ]


KINDS = {
    "directory": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "FIFO": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
    "unknown": b"Z",
}


@pytest.mark.parametrize(("kind", "letter"), KINDS.items(), ids=KINDS)
def test_each_entry_has_its_kind(kind: str, letter: bytes) -> None:
    found = read(
        info(f"{SOURCES}/it", letter, target="t") + file(f"{SOURCES}/f", b"") + bytes(1024)
    )
    assert [(entry.path, entry.kind) for entry, _ in found] == [("it", kind), ("f", "file")]


def extended(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    made = tarfile.TarInfo("pax")
    made.type, made.size = kind, len(records)
    return made.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def huge(kind: bytes) -> bytes:
    made = tarfile.TarInfo("pax")
    made.type, made.size = kind, 8**11 - 1
    return made.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20)


PLAIN = file(f"{SOURCES}/it", b"x")
DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "ends early"),
    "half a header": (PLAIN[:100], "ends early"),
    "half a file": (info(f"{SOURCES}/it", size=600) + bytes(512), "ends early"),
    "no end": (PLAIN, "ends early"),
    "no header": (b"x" * 512, "is damaged"),
    "a huge header": (huge(tarfile.XHDTYPE), "header that is too large"),
    "a huge global header": (huge(tarfile.XGLTYPE), "header that is too large"),
    "a record without length": (extended(b"path=x\n") + PLAIN, "damaged header"),
    "a record that is too long": (extended(b"99 path=x\n") + PLAIN, "damaged header"),
    "a record of no length": (extended(b"0 path=x\n") + PLAIN, "damaged header"),
    "a record without a value": (extended(b"7 path\n") + PLAIN, "damaged header"),
    "a negative size": (extended(b"11 size=-1\n") + PLAIN, "without a size"),
    "too much": (file("x", bytes(70_000)), "longer than 65,536 bytes"),
    "too much of the wanted": (file(f"{SOURCES}/x", bytes(70_000)), "longer than 65,536 bytes"),
    "too many headers": (extended(b"9 path=x\n") * 70, "longer than 65,536 bytes"),
    "sources below a link": (
        info("var/run", tarfile.SYMTYPE, target="/etc"),
        "/var/run is not a directory",
    ),
    "sources that are a file": (file(SOURCES, b""), f"/{SOURCES} is not a directory"),
}


@pytest.mark.parametrize(("archive", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_stream_that_crane_would_not_send_is_refused(archive: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(archive, limit=65_536)


def test_a_global_header_is_ignored() -> None:
    archive = extended(b"10 path=x\n", tarfile.XGLTYPE) + PLAIN + bytes(1024)
    assert [entry.path for entry, _ in read(archive)] == ["it"]


@pytest.mark.parametrize("after", [0, 512, 100_000])
def test_finishing_reads_the_export_to_its_end(after: int) -> None:
    stream = io.BytesIO(PLAIN + bytes(1024) + b"x" * after)
    export = ExportReader(stream, 200_000)
    for _ in export.entries():
        pass
    export.finish()
    assert not stream.read()


TREES: dict[str, Callable[[], Tree]] = {
    "none": lambda: described({}),
    "long names": lambda: described(
        {"ö" * 120 + str(number): File(b"x" * number) for number in range(600)}
    ),
    "links": lambda: described({str(number): Link("ö" * 2000) for number in range(600)}),
    "directories": lambda: described({"d" * 250 + str(number): Directory() for number in range(9)}),
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_the_limit_is_enough_for_every_tree(tree: Callable[[], Tree]) -> None:
    described_tree = tree()
    archive = b""
    for path in described_tree.paths():
        entry = described_tree.entry(path)
        kind = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}
        archive += info(f"{SOURCES}/{path}", kind[entry.kind], entry.size, entry.target) + bytes(
            entry.size + -entry.size % 512
        )
    assert len(archive) <= max_export_bytes(described_tree) - max_export_bytes(described({}))


def test_the_layer_sizes_of_an_image_are_believed_up_to_a_limit() -> None:
    digest = Digest("sha256:" + "0" * 64)
    assert max_unpacked_bytes([Layer(digest, 2**62)]) == 64 * 1024**3
    assert max_unpacked_bytes([Layer(digest, 1000), Layer(digest, 10)]) == 20_200
