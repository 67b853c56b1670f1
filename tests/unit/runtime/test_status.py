"""The status of a file, and the signature that changes with its content."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.runtime.status import (
    SIGNATURE_BYTES,
    HashedFile,
    pack_hashed,
    signature_of,
    status_in,
    status_of,
    unpack_hashed,
)


def status(path: Path) -> os.stat_result:
    path.write_bytes(b"before")
    path.chmod(0o644)
    return path.stat()


def test_a_signature_is_the_same_while_the_file_is(tmp_path: Path) -> None:
    before = status(tmp_path / "f")
    (tmp_path / "f").read_bytes()
    signature = signature_of((tmp_path / "f").stat())
    assert signature == signature_of(before)
    assert len(signature) == SIGNATURE_BYTES


FIELDS = ["st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev"]


def fake_status(fields: dict[str, int]) -> os.stat_result:
    return cast("os.stat_result", SimpleNamespace(**fields))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("change", [1, -1])
def test_each_field_changes_the_signature(field: str, change: int) -> None:
    values = dict.fromkeys(FIELDS, 1000)
    changed = values | {field: values[field] + change}
    assert signature_of(fake_status(values)) != signature_of(fake_status(changed))


@pytest.mark.parametrize("time", [-1, -(10**18), 2**64, 2**70])
def test_any_time_has_a_signature(time: int) -> None:
    fields = dict.fromkeys(FIELDS, 1) | {"st_mtime_ns": time}
    assert len(signature_of(fake_status(fields))) == SIGNATURE_BYTES


def test_the_status_has_size_mode_and_last_change(tmp_path: Path) -> None:
    status(tmp_path / "f")
    (tmp_path / "f").chmod(0o755)
    os.utime(tmp_path / "f", (0, 0))
    now = (tmp_path / "f").stat()
    found = status_of(now)
    assert (found.size, found.executable, found.changed) == (6, True, now.st_ctime_ns)
    assert found.signature == signature_of(now)
    assert status_in(found.signature) == (now.st_mode, found)


@pytest.mark.parametrize("seconds", [-(10**9), 0, 10**9, 2**33])
def test_a_signature_tells_its_times(seconds: int) -> None:
    fields = dict.fromkeys(FIELDS, 1) | {"st_mtime_ns": seconds * 10**9, "st_ctime_ns": 7}
    _, found = status_in(signature_of(fake_status(fields)))
    assert found.changed == max(seconds * 10**9, 7)


@given(
    st.lists(
        st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**63), st.booleans()),
        max_size=20,
    )
)
def test_what_was_hashed_is_unpacked_as_it_was_packed(facts: list[tuple[bytes, int, bool]]) -> None:
    files = []
    for number, (digest, size, executable) in enumerate(facts):
        fields = dict.fromkeys(FIELDS, 7)
        fields |= {"st_size": size, "st_mode": 0o100755 if executable else 0o100644}
        files.append(HashedFile(f"{number}", status_of(fake_status(fields)), digest.hex()))
    packed = b"".join(map(pack_hashed, files))
    assert [*unpack_hashed([file.path for file in files], packed)] == files
    assert len(packed) == 80 * len(files)


def test_what_was_packed_of_other_files_is_refused() -> None:
    file = HashedFile("f", status_of(fake_status(dict.fromkeys(FIELDS, 1))), "0" * 64)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        [*unpack_hashed(["f", "g"], pack_hashed(file))]
