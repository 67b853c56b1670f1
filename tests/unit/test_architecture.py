"""The shape of the package: docs/architecture.md has every module, and none is too long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import blocks

import kontext_plugin

PACKAGE = Path(kontext_plugin.__file__).parent
PATHS = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")
}

MOST_LINES = 300
"""One that is longer asks to be two."""


def named(document: Path) -> Iterator[str]:
    """The modules in the table of layers (`commands/a · b   what they do`), and every `c.py`."""
    for line in blocks(document)[0].text.splitlines():
        folder = ""
        for name in filter(None, re.split(" {2,}", line)[0].split(" · ")):
            folder = "commands/" if name.startswith("commands/") else folder
            yield folder + name.removeprefix(folder)
    yield from re.findall(r"`(\w+)\.py`", document.read_text("utf-8"))


def test_the_document_has_every_module(root: Path) -> None:
    modules = {name for name in PATHS if not name.endswith(("__init__", "__main__"))}
    assert set(named(root / "docs" / "architecture.md")) == modules


@pytest.mark.parametrize("module", sorted(PATHS))
def test_no_module_is_too_long(module: str) -> None:
    assert len(PATHS[module].read_text("utf-8").splitlines()) <= MOST_LINES
