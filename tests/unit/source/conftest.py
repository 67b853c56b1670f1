"""What the tests of the source directory share: a directory to fill, and its scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kontext_plugin.runtime.workers import Workers
from kontext_plugin.source import scan as scans
from kontext_plugin.source.filters import Filters
from kontext_plugin.source.ignore_rules import parse_rules
from kontext_plugin.source.scan import Scan
from kontext_plugin.source.snapshot import Snapshot
from kontext_plugin.terminal.steps import Steps


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The source directory."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def scan(root: Path, workers: Workers) -> Callable[..., Scan]:
    """Scans the source directory, with these lines in its ignore file."""

    def scan(*rules: str, known: Snapshot | None = None, keep_git: bool = False) -> Scan:
        filters = Filters(parse_rules("\n".join(rules), "rules"), keep_git=keep_git)
        return scans.scan(str(root), filters, known or Snapshot(), workers, Steps())

    return scan
