"""OCI layouts to publish: what is new, and nothing else."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from support.layouts import write_layout as write_whole_layout

from kontext_plugin.image import layout as layout_module
from kontext_plugin.image.layout import StagedLayer, blob_path, read_documents, write_layout
from kontext_plugin.image.oci import (
    Digest,
    Image,
    ImageConfig,
    Layer,
    digest_of,
    image_from_document,
)

CONFIG = ImageConfig("linux/arm64", ("/e",), "/w", {"k": "v"})
DOCUMENTS = {digest_of(document): document for document in (b"{}", b'{"a":1}')}
INDEX = b'{"manifests":[]}'


def stage(directory: Path, *contents: bytes) -> list[StagedLayer]:
    directory.mkdir(exist_ok=True)
    staged = []
    for number, content in enumerate(contents):
        path = directory / str(number)
        path.write_bytes(content)
        layer = Layer(digest_of(content), len(content))
        staged.append(StagedLayer(str(path), layer, Digest("sha256:" + "a" * 64)))
    return staged


def blobs(directory: Path) -> dict[str, bytes]:
    found = (directory / "blobs/sha256").iterdir()
    return {f"sha256:{path.name}": path.read_bytes() for path in found}


# Read


@pytest.fixture
def base(tmp_path: Path) -> Image:
    return write_whole_layout(tmp_path / "base", [b"lower" * 100, b"second"], CONFIG)


def test_the_documents_of_a_layout_are_those_of_its_image(base: Image, tmp_path: Path) -> None:
    index, image, config = read_documents(str(tmp_path / "base"))
    assert index["manifests"][0]["digest"] == base.digest
    assert image_from_document(base.digest, image) == base
    assert config["config"]["Entrypoint"] == ["/e"]


def test_a_missing_layout_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_documents(str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("base")
def test_a_layout_without_exactly_one_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "base" / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"manifests": index["manifests"] * 2}))
    with pytest.raises(ValueError, match="too many values"):
        read_documents(str(tmp_path / "base"))


# Write


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_layout_has_the_documents_and_the_layers_and_no_other_blob(
    count: int, tmp_path: Path
) -> None:
    contents = [b"one", b"two"][:count]
    write_layout(str(tmp_path / "new"), INDEX, DOCUMENTS, stage(tmp_path / "staged", *contents))
    assert blobs(tmp_path / "new") == {
        **DOCUMENTS,
        **{digest_of(content): content for content in contents},
    }
    assert (tmp_path / "new/index.json").read_bytes() == INDEX
    marker = json.loads((tmp_path / "new/oci-layout").read_text())
    assert marker == {"imageLayoutVersion": "1.0.0"}


def test_a_layer_stays_where_it_is_and_takes_no_room(tmp_path: Path) -> None:
    """The extractor's layer is a file of the installation, which every push links to."""
    (staged,) = stage(tmp_path / "staged", b"content")
    write_layout(str(tmp_path / "new"), INDEX, {}, [staged])
    assert os.path.samefile(staged.path, blob_path(str(tmp_path / "new"), staged.layer.digest))
    assert Path(staged.path).read_bytes() == b"content"


def test_a_layer_of_another_file_system_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(layout_module.os, "link", link)
    (staged,) = stage(tmp_path / "staged", b"content")
    write_layout(str(tmp_path / "new"), INDEX, {}, [staged])
    assert blobs(tmp_path / "new") == {staged.layer.digest: b"content"}
    assert not os.path.samefile(staged.path, blob_path(str(tmp_path / "new"), staged.layer.digest))


def test_a_layer_that_comes_twice_is_there_once(tmp_path: Path) -> None:
    """Two layers of sources may be the same, and two platforms may share an extractor."""
    one, other = stage(tmp_path / "staged", b"same", b"same")
    write_layout(str(tmp_path / "new"), INDEX, {}, [one, other, one])
    assert blobs(tmp_path / "new") == {one.layer.digest: b"same"}


def test_a_blob_lies_below_its_algorithm() -> None:
    assert blob_path("/l", "sha256:ab") == "/l/blobs/sha256/ab"


def test_a_directory_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        write_layout(str(tmp_path / "file" / "new"), INDEX, {}, [])


def test_a_layer_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    (staged,) = stage(tmp_path / "staged", b"content")
    Path(staged.path).unlink()
    with pytest.raises(OSError, match="No such file"):
        write_layout(str(tmp_path / "new"), INDEX, {}, [staged])
