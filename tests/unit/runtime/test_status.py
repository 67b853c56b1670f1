"""The status of a file, and the signature that changes with its content."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kontext_plugin.runtime.status import SIGNATURE_BYTES, signature_of, status_in, status_of


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
