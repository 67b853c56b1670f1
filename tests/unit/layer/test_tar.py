"""Headers: the same bytes as tarfile's, read back alike by tarfile and GNU tar."""

from __future__ import annotations

import subprocess
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
def test_a_header_is_what_tarfile_writes(name: str, kind: tuple[bytes, int], size: int) -> None:
    assert tar.header(name, *kind, size=size) == tar._made_by_tarfile(name, *kind, size, "")


@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 255, 256, 984, 985, 986, 987, 9984, 9990])
def test_gnu_tar_reads_names_of_any_length(length: int, tmp_path: Path) -> None:
    name = ("d/" * length)[: length - 1] + "f"
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar.header(name, tar.REGTYPE, 0o755) + tar.END)
    listed = subprocess.run(["tar", "tf", str(archive)], capture_output=True, text=True, check=True)
    assert listed.stdout == name + "\n"
