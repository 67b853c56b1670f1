"""The base image: the shipped one, or the user's own."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_registry import FakeRegistry, image_document
from support.layouts import write_layout
from support.models import NOTHING, SPEC, described, plan_on, published

from kontext_plugin.crane_driver.errors import NotFound
from kontext_plugin.errors import KontextError
from kontext_plugin.image.assembly import ENTRYPOINT
from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer, digest_of
from kontext_plugin.image.platforms import PLATFORMS
from kontext_plugin.image.spec import BaseImage
from kontext_plugin.layer import tar
from kontext_plugin.registry import base_image
from kontext_plugin.registry.base_image import (
    extractor_entries,
    fetch_bases,
    has_this_extractor,
    shipped_base,
)

NAME = "host.io:5000/alpine:3"
FOUND = Digest("sha256:" + "b" * 64)
LOWER = Digest("sha256:" + "a" * 64)
ENTRIES = tar.header("kontext-extractor", tar.REGTYPE, 0o755)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """Install the extractor's layer for one platform."""
    monkeypatch.setattr(base_image, "_LAYOUTS", str(tmp_path / "base"))
    config = ImageConfig("linux/amd64")
    return write_layout(tmp_path / "base" / "linux-amd64", [ENTRIES + tar.END], config)


# The shipped base


def test_the_shipped_base_has_no_layers_but_an_extractor(layout: Image) -> None:
    base = shipped_base("linux/amd64")
    assert base.platform == "linux/amd64"
    assert base.config == ImageConfig("linux/amd64")
    assert base.document == {"os": "linux", "architecture": "amd64"}, "no time, no history"
    assert (base.layers, base.source, base.name) == ((), "", "")
    assert (base.extractor.layer,) == layout.layers
    assert base.extractor.diff_id == digest_of(ENTRIES + tar.END)
    blob = Path(base.extractor.path).read_bytes()
    assert digest_of(blob) == base.extractor.layer.digest
    assert len(blob) == base.extractor.layer.size


@pytest.mark.usefixtures("layout")
def test_a_base_that_was_never_built_is_an_error_with_a_hint() -> None:
    with pytest.raises(KontextError, match=r"linux/arm64 is not in this installation") as raised:
        shipped_base("linux/arm64")
    assert "Install Kontext again" in raised.value.hint


@pytest.mark.parametrize("platform", PLATFORMS)
def test_this_installation_has_an_extractor_for_each_platform(platform: str) -> None:
    base = shipped_base(platform)
    assert base.platform == base.config.platform == platform
    assert digest_of(Path(base.extractor.path).read_bytes()) == base.extractor.layer.digest
    assert extractor_entries(base).startswith(ENTRYPOINT[1:].encode())


@pytest.mark.usefixtures("layout")
def test_the_extractor_of_a_single_layer_is_entries_without_an_end() -> None:
    assert extractor_entries(shipped_base("linux/amd64")) == ENTRIES


@pytest.mark.usefixtures("layout")
def test_an_image_with_the_extractor_of_this_installation_is_known() -> None:
    base = shipped_base("linux/amd64")
    image = published(plan_on(NOTHING, replace(SPEC, bases=(base,)), described({})))
    assert has_this_extractor(image, "linux/amd64")
    assert not has_this_extractor(image, "linux/s390x"), "there is none for this platform"
    other = published(plan_on(NOTHING, SPEC, described({})))
    assert not has_this_extractor(other, "linux/amd64")
    old = replace(image, image=replace(image.image, extractor=None))
    assert not has_this_extractor(old, "linux/amd64")


# The user's own base


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry(tmp_path / "registry")
    registry.answer(digest=FOUND.encode(), manifest=image_document(LOWER), config=config_document())
    return registry


def config_document(*, diff_ids: int = 1, **config: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [LOWER] * diff_ids}
    document = {"os": "linux", "architecture": "amd64", "config": config, "rootfs": rootfs}
    return json.dumps(document).encode()


def fetched(registry: FakeRegistry, max_layers: int = 64) -> BaseImage:
    with registry.crane as crane, ThreadPoolExecutor(2) as requests:
        return fetch_bases(crane, requests, NAME, ("linux/amd64",), max_layers)[0]


def test_the_users_base_has_its_layers_and_the_shipped_extractor(
    layout: Image, registry: FakeRegistry
) -> None:
    document = config_document(Cmd=["sh"], Env=["A=b"], Labels={"k": "v"})
    registry.answer(config=document)
    base = fetched(registry)
    assert (base.source, base.name) == (f"host.io:5000/alpine@{FOUND}", NAME)
    assert base.layers == (Layer(LOWER, 1),)
    assert (base.extractor.layer,) == layout.layers
    assert base.config == ImageConfig("linux/amd64", labels={"k": "v"}, diff_ids=(LOWER,))
    assert base.document == json.loads(document)


@pytest.mark.usefixtures("layout")
def test_the_users_base_is_read_by_the_digest_that_was_found(registry: FakeRegistry) -> None:
    """The tag may move between two requests."""
    fetched(registry)
    assert registry.requests == [
        f"digest --platform linux/amd64 {NAME}",
        f"manifest host.io:5000/alpine@{FOUND}",
        f"config host.io:5000/alpine@{FOUND}",
    ]


def test_there_is_a_base_for_each_platform_in_their_order(registry: FakeRegistry) -> None:
    with registry.crane as crane, ThreadPoolExecutor(2) as requests:
        with pytest.raises(KontextError, match="is for linux/amd64, not linux/arm64"):
            fetch_bases(crane, requests, NAME, PLATFORMS, 64)
        (base,) = fetch_bases(crane, requests, NAME, ("linux/amd64",), 64)
    assert base.platform == "linux/amd64"
    assert {line for line in registry.requests if line.startswith("digest")} == {
        f"digest --platform {platform} {NAME}" for platform in PLATFORMS
    }


BAD_BASES: dict[str, tuple[dict[str, bytes], str]] = {
    "an index in an index": ({"manifest": b'{"manifests":[]}'}, "several platforms"),
    "no JSON": ({"manifest": b"x"}, f"{NAME} cannot be a base: it is not JSON"),
    "no configuration": ({"config": b"{}"}, f"{NAME} cannot be a base: 'os' is a required"),
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
    "fewer diff IDs than layers": (
        {"config": config_document(diff_ids=0)},
        f"{NAME} cannot be a base: its configuration does not list its layers",
    ),
    "more diff IDs than layers": (
        {"config": config_document(diff_ids=2)},
        f"{NAME} cannot be a base: its configuration does not list its layers",
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


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize(("answers", "message"), BAD_BASES.values(), ids=BAD_BASES)
def test_an_image_that_cannot_be_a_base_is_refused(
    answers: dict[str, bytes], message: str, registry: FakeRegistry
) -> None:
    registry.answer(**answers)
    with pytest.raises(KontextError) as raised:
        fetched(registry)
    assert message in raised.value.message
    assert NAME in raised.value.message


@pytest.mark.usefixtures("layout")
def test_a_base_leaves_room_for_the_extractor_and_the_sources(registry: FakeRegistry) -> None:
    registry.answer(manifest=image_document(*[LOWER] * 3), config=config_document(diff_ids=3))
    base = fetched(registry, 5)
    assert replace(SPEC, bases=(base,), max_layers=5).room == 1
    with pytest.raises(KontextError, match=r"has 3 layers; .* more than 4") as raised:
        fetched(registry, 4)
    assert "at most 2 layers" in raised.value.hint


@pytest.mark.usefixtures("layout")
def test_a_base_that_is_not_there_is_not_found(registry: FakeRegistry) -> None:
    registry.answer(digest_error=b"Error: MANIFEST_UNKNOWN")
    with pytest.raises(NotFound):
        fetched(registry)
