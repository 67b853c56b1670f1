"""The comparison of `docker kontext verify`, apart from any registry."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable

import pytest
from support.models import described
from support.trees import Directory, File, Link, Tree

from kontext_plugin.commands import verify
from kontext_plugin.commands.verify import Comparison, image_differences, lines, summarize
from kontext_plugin.delta import Difference, DifferenceKind, Place
from kontext_plugin.image.tree import SOURCES_PATH
from kontext_plugin.layer.reader import ExportReader

TREE: Tree = {
    "dir": Directory(),
    "dir/run": File(b"#!/bin/sh\n", executable=True),
    "file": File(b"content"),
    "link": Link("file"),
}

Entry = tuple[tarfile.TarInfo, bytes]


def entries(tree: Tree = TREE) -> dict[str, Entry]:
    """Return the entries of an export, by their paths."""
    result = {}
    for path, node in tree.items():
        header, content = tarfile.TarInfo(f"{SOURCES_PATH}/{path}"), b""
        if isinstance(node, Directory):
            header.type, header.mode = tarfile.DIRTYPE, 0o755
        elif isinstance(node, Link):
            header.type, header.linkname = tarfile.SYMTYPE, node.target
        else:
            header.mode, content = 0o755 if node.executable else 0o644, node.content
        header.size = len(content)
        result[path] = header, content
    return result


def export_of(*entries: Entry) -> ExportReader:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for header, content in entries:
            archive.addfile(header, io.BytesIO(content))
    stream.seek(0)
    return ExportReader(stream, 1_000_000)


def edit(path: str, **values: object) -> Callable[[dict[str, Entry]], None]:
    def apply(export: dict[str, Entry]) -> None:
        for name, value in values.items():
            setattr(export[path][0], name, value)

    return apply


def replace_content(export: dict[str, Entry]) -> None:
    export["file"] = export["file"][0], b"CONTENT"


CASES: dict[str, tuple[Callable[[dict[str, Entry]], object], str, DifferenceKind]] = {
    "missing": (lambda export: export.pop("link"), "link", DifferenceKind.MISSING),
    "only": (edit("file", name=f"{SOURCES_PATH}/new"), "new", DifferenceKind.ONLY),
    "twice": (edit("link", name=f"{SOURCES_PATH}/file"), "file", DifferenceKind.TWICE),
    "another content": (replace_content, "file", DifferenceKind.OTHER_CONTENT),
    "another target": (edit("link", linkname="dir"), "link", DifferenceKind.OTHER_CONTENT),
    "another kind": (
        edit("dir/run", type=tarfile.SYMTYPE, size=0),
        "dir/run",
        DifferenceKind.OTHER_KIND,
    ),
    "a device": (edit("link", type=tarfile.CHRTYPE), "link", DifferenceKind.OTHER_KIND),
    "a hard link": (
        edit("link", type=tarfile.LNKTYPE, linkname="x"), "link", DifferenceKind.OTHER_KIND,
    ),
    "not executable": (edit("dir/run", mode=0o644), "dir/run", DifferenceKind.OTHER_MODE),
    "executable": (edit("file", mode=0o755), "file", DifferenceKind.OTHER_MODE),
    "set-user-ID": (
        edit("dir/run", mode=0o755 | stat.S_ISUID), "dir/run", DifferenceKind.OTHER_MODE,
    ),
    "sticky": (edit("dir", mode=0o755 | stat.S_ISVTX), "dir", DifferenceKind.OTHER_MODE),
}  # fmt: skip


def test_an_image_like_its_manifest() -> None:
    assert list(image_differences(described(TREE), export_of(*entries().values()))) == []


@pytest.mark.parametrize(("change", "path", "kind"), CASES.values(), ids=CASES)
def test_an_image_unlike_its_manifest(
    change: Callable[[dict[str, Entry]], object], path: str, kind: DifferenceKind
) -> None:
    export = entries()
    change(export)
    found = list(image_differences(described(TREE), export_of(*export.values())))
    assert Difference(path, Place.IMAGE, kind) in found
    assert all(one.kind == DifferenceKind.MISSING for one in found if one.path != path)


def test_version_1_says_nothing_of_modes() -> None:
    export = entries()
    export["file"][0].mode = 0o755
    reader = export_of(*export.values())
    assert list(image_differences(described(TREE), reader, modes=False)) == []


def test_a_match() -> None:
    match, tree = Comparison((), 0), described(TREE)
    assert list(lines("", tree, match)) == ["The image and its manifest match: 3 files"]
    assert list(lines("dir", tree, match)) == ["The image, its manifest and DIR match: 3 files"]


def test_only_the_first_differences_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_MAX_SHOWN", 2)
    names = ("a", "\x1b[2J\n", *map(str, range(1200)))
    comparison = summarize(Difference(name, Place.DIRECTORY, DifferenceKind.ONLY) for name in names)
    assert (len(comparison.shown), comparison.count) == (2, 1202)
    assert list(lines("dir", described(TREE), comparison)) == [
        "only in DIR: a",
        r"only in DIR: \x1b[2J\n",
        "and 1,200 more",
    ]
