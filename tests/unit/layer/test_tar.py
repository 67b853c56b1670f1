"""Tar headers have the bytes of tarfile, and GNU tar reads them."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.layer import tar

NAMES = st.one_of(
    st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=300),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300),
    st.integers(90, 1100).map(lambda length: "x" * length),
)


@given(
    NAMES,
    st.sampled_from([(tar.REGTYPE, 0o644), (tar.REGTYPE, 0o755), (tar.DIRTYPE, 0o755)]),
    st.one_of(st.integers(0, 8**12), st.just(8**11 - 1), st.just(8**11)),
)
def test_a_header_has_the_bytes_that_tarfile_writes(
    name: str, kind: tuple[bytes, int], size: int
) -> None:
    assert tar.header(name, *kind, size=size) == tar._made_by_tarfile(name, *kind, size, "")


@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 255, 256, 984, 985, 986, 987, 9984, 9990])
def test_gnu_tar_reads_names_of_any_length(length: int, tmp_path: Path) -> None:
    name = ("d/" * length)[: length - 1] + "f"
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar.header(name, tar.REGTYPE, 0o755) + tar.END)
    listed = subprocess.run(["tar", "tf", str(archive)], capture_output=True, text=True, check=True)
    assert listed.stdout == name + "\n"


@given(st.binary(max_size=2000))
def test_content_is_padded_to_whole_blocks(content: bytes) -> None:
    padded = content + tar.padding(len(content))
    assert len(padded) % tar.BLOCKSIZE == 0
    assert padded[len(content) :].count(0) == len(padded) - len(content) < tar.BLOCKSIZE


# Headers that are read

FORMATS = {"USTAR": tarfile.USTAR_FORMAT, "GNU": tarfile.GNU_FORMAT, "PAX": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40),
    above=st.sampled_from(["", "d/", "d/" * 60]),
    kind=st.sampled_from(
        [tarfile.AREGTYPE, tar.REGTYPE, tar.DIRTYPE, tar.SYMTYPE, tarfile.LNKTYPE]
    ),
    numbers=st.tuples(st.integers(0, 0o7777), st.integers(0, 8**12)),
    target=st.text("tä/", max_size=50),
)
def test_a_header_is_read_as_tarfile_reads_it(
    form: int, name: str, above: str, kind: bytes, numbers: tuple[int, int], target: str
) -> None:
    made = tarfile.TarInfo(above + name)
    made.type, (made.mode, made.size), made.linkname = kind, numbers, target
    try:
        archive = made.tobuf(form, "utf-8", "surrogateescape")
    except ValueError:  # it does not fit into this format
        return
    for start in range(0, len(archive), tar.BLOCKSIZE):
        block = archive[start : start + tar.BLOCKSIZE]
        try:
            read = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError:  # the content of an extended header
            continue
        expected = (read.name, read.type, read.mode, read.size, read.linkname)
        assert tar.parse_header(block) == expected


NO_HEADERS = {
    "another checksum": b"y" + tar.header("x", tar.REGTYPE, 0o644)[1:],
    "zeros": tar.ZEROS,
    "letters": b"x" * tar.BLOCKSIZE,
    "a negative size": bytes(124) + b"-1".ljust(24, b"\0") + b"000536" + bytes(358),
}


@pytest.mark.parametrize("block", NO_HEADERS.values(), ids=NO_HEADERS)
def test_a_block_that_is_no_header_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError):
        tar.parse_header(block)


# PAX records

KEYS = st.sampled_from(["path", "linkpath", "size", "comment"])
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=1200)


@given(st.dictionaries(KEYS, VALUES))
def test_the_records_that_tarfile_writes_are_read(records: dict[str, str]) -> None:
    header = tarfile.TarInfo._create_pax_generic_header(  # type: ignore[attr-defined]
        records, tarfile.XHDTYPE, "utf-8"
    )
    size = tarfile.TarInfo.frombuf(header[: tar.BLOCKSIZE], "utf-8", "strict").size
    content = header[tar.BLOCKSIZE :][:size]
    expected = {key.encode(): value.encode() for key, value in records.items()}
    assert tar.parse_pax_records(content, frozenset({b"path", b"linkpath", b"size"})) == {
        key: value for key, value in expected.items() if key != b"comment"
    }


DAMAGED = {
    "no length": b"path=x\n",
    "a length that is too large": b"99 path=x\n",
    "a length of 0": b"0 path=x\n",
    "a negative length": b"-9 path=x\n",
    "no value": b"7 path\n",
    "no space": b"9\n",
    "the second record": b"9 path=x\n9path=x\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_records_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="damaged header"):
        tar.parse_pax_records(content, frozenset({b"path"}))
