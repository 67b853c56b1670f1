"""The base image: the shipped one, one without layers, or the user's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_registry import FakeRegistry, image_document
from support.layouts import write_layout

from kontext_plugin.crane_driver.errors import NotFound
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.spec import BaseImage
from kontext_plugin.layer import tar
from kontext_plugin.registry import base_image
from kontext_plugin.registry.base_image import (
    ENTRYPOINT,
    WORKDIR,
    config_on,
    extractor_entries,
    fetch_base,
    shipped_base,
    single_layer_base,
)

NAME = "host.io:5000/alpine:3"
FOUND = Digest("sha256:" + "b" * 64)
LOWER = Digest("sha256:" + "a" * 64)
ENTRIES = tar.header("kontext-extractor", tar.REGTYPE, 0o755)
SHIPPED = ImageConfig("linux/amd64", (ENTRYPOINT,), WORKDIR)


@pytest.fixture
def layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Image]:
    """Install a base for one platform."""
    monkeypatch.setattr(base_image, "_LAYOUTS", str(tmp_path / "base"))
    archives = {"extractor": [ENTRIES + tar.END], "empty": []}
    return {
        kind: write_layout(tmp_path / "base" / kind / "linux-amd64", layers, SHIPPED)
        for kind, layers in archives.items()
    }


# The shipped base


def test_the_shipped_base_is_its_own_extractor(layouts: dict[str, Image], tmp_path: Path) -> None:
    base = shipped_base("linux/amd64")
    assert base.image == layouts["extractor"]
    assert base.extractor == base.image.digest
    assert base.config == SHIPPED
    assert base.layout == str(tmp_path / "base/extractor/linux-amd64")
    assert base.layers == base.image.layers
    assert not base.single_layer and not base.source
    assert extractor_entries(base) == b""


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize("load", [shipped_base, single_layer_base])
def test_a_base_that_was_never_built_is_an_error_with_a_hint(load: Any) -> None:
    with pytest.raises(KontextError, match=r"linux/arm64 is not in this installation") as raised:
        load("linux/arm64")
    assert "scripts/build-base" in raised.value.hint


@pytest.mark.parametrize("platform", PLATFORMS)
def test_this_installation_has_a_base_for_each_platform(platform: str) -> None:
    base, single = shipped_base(platform), single_layer_base(platform)
    assert base.config.platform == single.config.platform == platform
    assert base.config.entrypoint == (ENTRYPOINT,)
    assert len(base.image.layers) == 1 and not single.image.layers
    assert extractor_entries(single).startswith(ENTRYPOINT[1:].encode())


# A single layer


def test_a_base_for_a_single_layer_has_the_extractor_as_entries(
    layouts: dict[str, Image],
) -> None:
    base = single_layer_base("linux/amd64")
    assert base.image == layouts["empty"]
    assert base.extractor == layouts["extractor"].digest
    assert base.layers == ()
    assert base.single_layer and not base.layout.endswith("extractor/linux-amd64")
    assert extractor_entries(base) == ENTRIES, "without the end of the archive"


# The user's own base


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry(tmp_path / "registry")
    registry.answer(digest=FOUND.encode(), manifest=image_document(LOWER), config=config_document())
    return registry


def config_document(**config: Any) -> bytes:
    return json.dumps({"os": "linux", "architecture": "amd64", "config": config}).encode()


def fetched(registry: FakeRegistry, max_layers: int = 64) -> BaseImage:
    with registry.crane as crane:
        return fetch_base(crane, NAME, "linux/amd64", max_layers)


def test_the_users_base_gets_the_extractor_as_a_layer(
    layouts: dict[str, Image], registry: FakeRegistry
) -> None:
    registry.answer(config=config_document(Cmd=["sh"], Env=["A=b"], Labels={"k": "v"}))
    base = fetched(registry)
    extractor = layouts["extractor"]
    assert base.source == f"host.io:5000/alpine@{FOUND}"
    assert base.image.layers == (Layer(LOWER, 1),)
    assert base.layers == (Layer(LOWER, 1), *extractor.layers)
    assert base.extractor == extractor.digest
    assert base.config == ImageConfig(
        "linux/amd64", labels={"k": "v"}, other={"Cmd": ["sh"], "Env": ["A=b"]}
    )
    assert Path(base.extractor_path).is_file()
    assert not base.layout and not base.single_layer
    assert extractor_entries(base) == b""


@pytest.mark.usefixtures("layouts")
def test_the_users_base_is_read_by_the_digest_that_was_found(registry: FakeRegistry) -> None:
    """The tag may move between two requests."""
    fetched(registry)
    assert registry.requests == [
        f"digest --platform linux/amd64 {NAME}",
        f"manifest host.io:5000/alpine@{FOUND}",
        f"config host.io:5000/alpine@{FOUND}",
    ]


BAD_BASES: dict[str, tuple[dict[str, bytes], str]] = {
    "an index in an index": ({"manifest": b'{"manifests":[]}'}, "several platforms"),
    "no JSON": ({"manifest": b"x"}, f"{NAME} cannot be a base: it is not JSON"),
    "no configuration": ({"config": b"{}"}, f"{NAME} cannot be a base: it: 'os'"),
    "an entrypoint that is no list": (
        {"config": config_document(Entrypoint="sh")},
        f"{NAME} cannot be a base: config/Entrypoint",
    ),
    "no platform": (
        {"config": b'{"os":"","architecture":""}'},
        f"{NAME} cannot be a base: it does not name its platform",
    ),
    "another platform": (
        {"config": config_document().replace(b"amd64", b"s390x")},
        f"{NAME} is for linux/s390x, not linux/amd64",
    ),
    "an image of Kontext's": (
        {"manifest": image_document(LOWER, manifest=b"x")},
        f"{NAME} cannot be a base: it has sources of its own",
    ),
    "an image built on one of Kontext's": (
        {"config": config_document(Entrypoint=[ENTRYPOINT])},
        f"{NAME} cannot be a base: it has sources of its own",
    ),
}


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize(("answers", "message"), BAD_BASES.values(), ids=BAD_BASES)
def test_an_image_that_cannot_be_a_base_is_refused(
    answers: dict[str, bytes], message: str, registry: FakeRegistry
) -> None:
    registry.answer(**answers)
    with pytest.raises(KontextError) as raised:
        fetched(registry)
    assert message in raised.value.message
    assert NAME in raised.value.message


@pytest.mark.usefixtures("layouts")
def test_a_base_leaves_room_for_the_extractor_and_the_sources(registry: FakeRegistry) -> None:
    registry.answer(manifest=image_document(*[LOWER] * 3))
    assert len(fetched(registry, max_layers=5).layers) == 4
    with pytest.raises(KontextError, match=r"has 3 layers; .* more than 4") as raised:
        fetched(registry, max_layers=4)
    assert "at most 2 layers" in raised.value.hint


@pytest.mark.usefixtures("layouts")
def test_a_base_that_is_not_there_is_not_found(registry: FakeRegistry) -> None:
    registry.answer(digest_error=b"Error: MANIFEST_UNKNOWN")
    with pytest.raises(NotFound):
        fetched(registry)


# The configuration of an image on a base


def test_an_image_runs_the_extractor_with_the_settings_of_its_base() -> None:
    config = ImageConfig(
        "linux/arm64", ("/sh",), "/home", {"k": "v"}, {"Cmd": ["-c"], "Env": ["A=b"], "User": "1"}
    )
    base = BaseImage(Image(FOUND, (), None), config, LOWER)
    assert config_on(base) == ImageConfig(
        "linux/arm64", (ENTRYPOINT,), WORKDIR, {"k": "v"}, {"Env": ["A=b"], "User": "1"}
    )
    assert base.config == config
    same = replace(base, config=config_on(base))
    assert config_on(same) == config_on(base)
