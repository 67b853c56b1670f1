"""OCI layouts: an image with more layers on top, without reading any of them again."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from support.layouts import CONFIG_TYPE, MANIFEST_TYPE, check_layout, write_layout

from kontext_plugin.image.layout import StagedLayer, blob_path, extend, read_documents
from kontext_plugin.image.oci import Image, ImageConfig, digest_of, image_from_document
from kontext_plugin.layer.compression import GZIP

CONFIG = ImageConfig("linux/arm64", ("/e",), "/w", {"k": "v"}, {"Env": ["A=b"]})
LOWER, ADDED = [b"lower" * 100, b"second"], [b"third" * 1000, b""]


@pytest.fixture
def base(tmp_path: Path) -> Image:
    return write_layout(tmp_path / "base", LOWER, CONFIG)


def stage(directory: Path, archives: list[bytes]) -> list[StagedLayer]:
    directory.mkdir()
    staged = []
    for number, archive in enumerate(archives):
        path = directory / str(number)
        blob = io.BytesIO()
        written = GZIP.compress(blob, [archive])
        path.write_bytes(blob.getvalue())
        staged.append(StagedLayer(str(path), written.layer, written.diff_id))
    return staged


def test_the_documents_of_a_layout_are_those_of_its_image(base: Image, tmp_path: Path) -> None:
    index, image, config = read_documents(str(tmp_path / "base"))
    assert index["manifests"][0]["digest"] == base.digest
    assert image_from_document(base.digest, image) == base
    assert config["config"]["Env"] == ["A=b"]


def test_a_missing_layout_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_documents(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_extended_layout_has_the_layers_of_both(count: int, base: Image, tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged", ADDED[:count])
    digest = extend(str(tmp_path / "base"), str(tmp_path / "new"), staged)

    blobs = check_layout(tmp_path / "new")
    index, document, config = read_documents(str(tmp_path / "new"))
    (descriptor,) = index["manifests"]
    assert descriptor["digest"] == digest
    assert descriptor["size"] == len(blobs[digest])
    assert descriptor["mediaType"] == MANIFEST_TYPE
    assert document["config"]["size"] == len(blobs[document["config"]["digest"]])
    assert document["config"]["mediaType"] == CONFIG_TYPE
    image = image_from_document(digest, document)
    assert image.layers == (*base.layers, *(layer.layer for layer in staged))
    archives = [gzip.decompress(blobs[layer.digest]) for layer in image.layers]
    assert archives == [*LOWER, *ADDED[:count]]
    assert [len(blobs[layer.digest]) for layer in image.layers] == [
        layer.size for layer in image.layers
    ]
    assert config["rootfs"]["diff_ids"] == [digest_of(archive) for archive in archives]
    assert len(config["history"]) == len(archives)
    assert config["config"]["Env"] == ["A=b"]
    assert len(blobs) == len({*image.layers}) + 2, "a layout has no other blobs"


def test_extending_moves_the_staged_files_and_leaves_the_base_alone(
    base: Image, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in (tmp_path / "base").rglob("*") if path.is_file()}
    staged = stage(tmp_path / "staged", ADDED)
    extend(str(tmp_path / "base"), str(tmp_path / "new"), staged)
    assert not [*(tmp_path / "staged").iterdir()]
    after = {path: path.read_bytes() for path in (tmp_path / "base").rglob("*") if path.is_file()}
    assert after == before


def test_the_same_layers_give_the_same_image(base: Image, tmp_path: Path) -> None:
    digests = {
        extend(
            str(tmp_path / "base"), str(tmp_path / f"new{run}"), stage(tmp_path / f"{run}", ADDED)
        )
        for run in range(2)
    }
    assert len(digests) == 1


def test_the_media_type_of_a_staged_layer_is_kept(base: Image, tmp_path: Path) -> None:
    (staged,) = stage(tmp_path / "staged", ADDED[:1])
    other = StagedLayer(
        staged.path, type(staged.layer)(staged.layer.digest, 5, "x/y"), staged.diff_id
    )
    extend(str(tmp_path / "base"), str(tmp_path / "new"), [other])
    _, document, _ = read_documents(str(tmp_path / "new"))
    assert [layer["mediaType"] for layer in document["layers"]] == [GZIP.media_type] * 2 + ["x/y"]


def test_a_blob_lies_below_its_algorithm() -> None:
    assert blob_path("/l", "sha256:ab") == "/l/blobs/sha256/ab"


def test_a_full_disk_is_an_os_error(base: Image, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        extend(str(tmp_path / "base"), str(tmp_path / "file" / "new"), [])


def test_a_layout_without_exactly_one_image_is_refused(base: Image, tmp_path: Path) -> None:
    path = tmp_path / "base" / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"manifests": index["manifests"] * 2}))
    with pytest.raises(ValueError, match="too many values"):
        read_documents(str(tmp_path / "base"))
