"""An export is read as tarfile and Go write it, and no further than its limit."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import described
from support.trees import SOURCES, Directory, File, Link

from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.tree import Tree
from kontext_plugin.layer.reader import ExportedEntry, ExportReader, most_bytes, most_unpacked

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300
).filter(lambda name: not name.endswith("/"))


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> bytes:
    """A header as crane's: PAX."""
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname, made.mode = kind, size, target, 0o755
    return made.tobuf(tarfile.PAX_FORMAT)


def file(name: str, content: bytes) -> bytes:
    return info(name, size=len(content)) + content + bytes(-len(content) % 512)


def read(archive: bytes, limit: int = 1 << 24) -> list[tuple[ExportedEntry, bytes]]:
    export = ExportReader(io.BytesIO(archive), limit)
    return [(entry, b"".join(export.content())) for entry in export.entries()]


@given(st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=1500))))
def test_what_tarfile_writes_is_read(items: list[tuple[str, str, bytes]]) -> None:
    archive = b"".join(
        file(f"{SOURCES}/{name}", content)
        + info(f"{SOURCES}/{name}", tarfile.SYMTYPE, target=target)
        for name, target, content in items
    )
    found = read(archive + bytes(1024))
    assert [(entry.path, entry.target, content) for entry, content in found] == [
        one for name, target, content in items for one in ((name, "", content), (name, target, b""))
    ]


def test_what_is_not_wanted_is_passed_over() -> None:
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
    assert [(entry.path, entry.what) for entry in export.entries()] == [
        ("b", "a file"),
        ("c", "a file"),
    ]


KINDS = {
    "a directory": tarfile.DIRTYPE,
    "a link": tarfile.SYMTYPE,
    "a hard link": tarfile.LNKTYPE,
    "a FIFO": tarfile.FIFOTYPE,
    "a device": tarfile.CHRTYPE,
    "of an unknown kind": b"Z",
}


@pytest.mark.parametrize(("what", "kind"), KINDS.items(), ids=KINDS)
def test_what_an_entry_is(what: str, kind: bytes) -> None:
    found = read(info(f"{SOURCES}/it", kind, target="t") + file(f"{SOURCES}/f", b"") + bytes(1024))
    assert [(entry.path, entry.what) for entry, _ in found] == [("it", what), ("f", "a file")]


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
    "sources below a link": (info("var/run", tarfile.SYMTYPE, target="/etc"), "/var/run is no"),
    "sources that are a file": (file(SOURCES, b""), f"/{SOURCES} is no directory"),
}


@pytest.mark.parametrize(("archive", "why"), DAMAGED.values(), ids=DAMAGED)
def test_what_crane_would_not_send(archive: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(archive, limit=65_536)


def test_a_global_header_means_nothing() -> None:
    archive = extended(b"10 path=x\n", tarfile.XGLTYPE) + PLAIN + bytes(1024)
    assert [entry.path for entry, _ in read(archive)] == ["it"]


@pytest.mark.parametrize("after", [0, 512, 100_000])
def test_an_export_is_read_to_its_end(after: int) -> None:
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
    assert len(archive) <= most_bytes(described_tree) - most_bytes(described({}))


def test_what_an_image_says_of_its_layers_is_limited() -> None:
    digest = Digest("sha256:" + "0" * 64)
    assert most_unpacked([Layer(digest, 2**62)]) == 64 * 1024**3
    assert most_unpacked([Layer(digest, 1000), Layer(digest, 10)]) == 20_200
