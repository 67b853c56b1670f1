"""The documents of a new image: from the base, the sources and the extractor, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import ARM, EXTRACTOR, SHIPPED, SPEC

from kontext_plugin.image.assembly import ENTRYPOINT, WORKDIR, Assembly, Sources, assemble
from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import (
    BASE_DIGEST_ANNOTATION,
    BASE_NAME_ANNOTATION,
    EXTRACTOR_ANNOTATION,
    GZIP_LAYER,
    MANIFEST_ANNOTATION,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    REPLACES_ANNOTATION,
    Digest,
    Layer,
    children_of,
    config_from_document,
    digest_of,
    image_from_document,
)
from kontext_plugin.image.spec import BaseImage, ImageSpec
from kontext_plugin.runtime.schema import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    load_document,
)


def digest(text: str) -> Digest:
    return digest_of(text.encode())


SOURCES = Sources(
    (Layer(digest("first"), 11), Layer(digest("second"), 12)),
    (digest("first archive"), digest("second archive")),
    digest("manifest.json"),
)
LOWER = (Layer(digest("base 0"), 5), Layer(digest("base 1"), 6))
BASE_HISTORY = [
    {"created": "2026-01-01T00:00:00Z", "created_by": "COPY"},
    {"created_by": "ENV A=b", "empty_layer": True},
    {"created": "2026-01-02T00:00:00Z", "created_by": "RUN"},
]


def base_document(**changes: Any) -> dict[str, Any]:
    """Return the configuration of a base of two layers, as docker makes it."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T00:00:00Z",
        "config": {"Env": ["PATH=/bin", "A=b"], "Cmd": ["/bin/sh"], "User": "1000:1000"},
        "rootfs": {"type": "layers", "diff_ids": [digest("archive 0"), digest("archive 1")]},
        "history": BASE_HISTORY,
    } | changes


def on_base(document: Mapping[str, Any] | None = None, **changes: Any) -> ImageSpec:
    base = BaseImage(
        "linux/amd64",
        base_document() if document is None else document,
        EXTRACTOR,
        layers=LOWER,
        source=f"host.io/alpine@{digest('the base')}",
        name="alpine:3",
    )
    return replace(SPEC, bases=(replace(base, **changes),))


class Documents:
    """What a client reads of an assembled image of one platform."""

    def __init__(self, assembly: Assembly, number: int = 0) -> None:
        self.image = load_document(
            assembly.documents[assembly.images[number].digest], IMAGE_MANIFEST
        )
        self.config = load_document(
            assembly.documents[self.image["config"]["digest"]], IMAGE_CONFIG
        )

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in self.image["layers"]]


def documents(spec: ImageSpec = SPEC, labels: Mapping[str, str] | None = None) -> Documents:
    return Documents(assemble(spec, SOURCES, labels or {}))


# The layers

ORDER: dict[str, tuple[ImageSpec, list[Layer], list[Digest]]] = {
    "shipped base": (
        SPEC,
        [*SOURCES.layers, EXTRACTOR.layer],
        [*SOURCES.diff_ids, EXTRACTOR.diff_id],
    ),
    "own base": (
        on_base(),
        [*LOWER, *SOURCES.layers, EXTRACTOR.layer],
        [digest("archive 0"), digest("archive 1"), *SOURCES.diff_ids, EXTRACTOR.diff_id],
    ),
    "single layer": (
        replace(SPEC, single_layer=True),
        [*SOURCES.layers],
        [*SOURCES.diff_ids],
    ),
}


@pytest.mark.parametrize(("spec", "layers", "diff_ids"), ORDER.values(), ids=ORDER)
def test_the_base_lies_below_the_sources_and_the_extractor_on_top(
    spec: ImageSpec, layers: list[Layer], diff_ids: list[Digest]
) -> None:
    """No layer below can put another program in the extractor's place."""
    assembly = assemble(spec, SOURCES, {})
    (image,) = assembly.images
    made = Documents(assembly)
    assert list(image.layers) == layers
    assert made.layers == [layer.digest for layer in layers]
    assert [layer["size"] for layer in made.image["layers"]] == [layer.size for layer in layers]
    assert made.config["rootfs"] == {"type": "layers", "diff_ids": diff_ids}
    assert list(assembly.config.diff_ids) == diff_ids
    extractor = None if spec.single_layer else EXTRACTOR.layer.digest
    assert image.extractor == extractor
    assert made.image["annotations"].get(EXTRACTOR_ANNOTATION) == extractor


MEDIA_TYPES = {
    "OCI": (GZIP_LAYER, GZIP_LAYER),
    "docker": ("application/vnd.docker.image.rootfs.diff.tar.gzip", GZIP_LAYER),
    "zstd": (
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    "uncompressed": (
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar",
    ),
}


@pytest.mark.parametrize(("of_base", "written"), MEDIA_TYPES.values(), ids=MEDIA_TYPES)
def test_docker_media_types_become_those_of_oci(of_base: str, written: str) -> None:
    """An OCI manifest with a docker layer is refused by some registries; the bytes are the same."""
    made = documents(on_base(layers=(Layer(LOWER[0].digest, 5, of_base), LOWER[1])))
    kinds = [layer["mediaType"] for layer in made.image["layers"]]
    assert kinds == [written, *[GZIP_LAYER] * 4]
    assert made.image["mediaType"] == OCI_MANIFEST
    assert made.image["config"]["mediaType"] == OCI_CONFIG


# The configuration


def test_an_image_runs_the_extractor_with_the_settings_of_its_base() -> None:
    assert documents(on_base()).config["config"] == {
        "Entrypoint": [ENTRYPOINT],
        "Env": ["PATH=/bin", "A=b", f"KONTEXT_MANIFEST={SOURCES.manifest}"],
        "User": "1000:1000",
        "WorkingDir": WORKDIR,
    }


ENVIRONMENTS: dict[str, tuple[Any, list[str]]] = {
    "absent": ({}, []),
    "null": ({"Env": None}, []),
    "others": ({"Env": ["A=b"]}, ["A=b"]),
    "of an image of Kontext's": ({"Env": ["KONTEXT_MANIFEST=sha256:0", "A=b"]}, ["A=b"]),
    "twice": ({"Env": ["KONTEXT_MANIFEST=x", "KONTEXT_MANIFEST=y"]}, []),
    "without a value": ({"Env": ["KONTEXT_MANIFEST", "A"]}, ["A"]),
    "a longer name": (
        {"Env": ["KONTEXT_MANIFEST_X=1", "XKONTEXT_MANIFEST=2"]},
        ["KONTEXT_MANIFEST_X=1", "XKONTEXT_MANIFEST=2"],
    ),
    "not ASCII": ({"Env": ["Ä=ü\n"]}, ["Ä=ü\n"]),
}


@pytest.mark.parametrize(("config", "others"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_environment_names_this_manifest_and_no_other(
    config: dict[str, Any], others: list[str]
) -> None:
    """The extractor holds the sources to this digest."""
    made = documents(on_base(base_document(config=config)))
    assert made.config["config"]["Env"] == [*others, f"KONTEXT_MANIFEST={SOURCES.manifest}"]


LABELS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str] | None]] = {
    "none": ({}, {}, None),
    "the base's": ({"b": "1"}, {}, {"b": "1"}),
    "the user's": ({}, {"k": "v"}, {"k": "v"}),
    "the user's win": ({"k": "base", "b": "1"}, {"k": "v"}, {"k": "v", "b": "1"}),
}


@pytest.mark.parametrize(("of_base", "given_", "expected"), LABELS.values(), ids=LABELS)
def test_the_labels_are_the_bases_and_the_given_ones(
    of_base: dict[str, str], given_: dict[str, str], expected: dict[str, str] | None
) -> None:
    """A label that is given no more is gone: nothing of an earlier image's labels goes in."""
    assembly = assemble(on_base(base_document(config={"Labels": of_base})), SOURCES, given_)
    made = Documents(assembly)
    assert made.config["config"].get("Labels") == expected
    assert assembly.config.labels == (expected or {})


HISTORIES: dict[str, tuple[Any, list[Any] | None]] = {
    "of docker": (BASE_HISTORY, BASE_HISTORY),
    "absent": (None, None),
    "empty": ([], None),
    "too short": (BASE_HISTORY[:1], None),
    "too long": ([*BASE_HISTORY, {"created_by": "RUN"}], None),
    "all empty layers": ([{"empty_layer": True}] * 2, None),
}


@pytest.mark.parametrize(("history", "kept"), HISTORIES.values(), ids=HISTORIES)
def test_the_history_has_one_entry_for_each_layer(history: Any, kept: list[Any] | None) -> None:
    """docker refuses to save or build on an image whose history does not fit."""
    made = documents(on_base(base_document(history=history)))
    written = made.config["history"]
    assert sum(not entry.get("empty_layer") for entry in written) == len(made.layers)
    if kept is not None:
        assert written[: len(kept)] == kept


CREATED: dict[str, tuple[str, str | None, str]] = {
    "nothing": ("", None, "0001-01-01T00:00:00Z"),
    "the base's": ("", "2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"),
    "SOURCE_DATE_EPOCH": ("2020-01-01T00:00:00Z", None, "2020-01-01T00:00:00Z"),
    "SOURCE_DATE_EPOCH wins": (
        "2020-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
        "2020-01-01T00:00:00Z",
    ),
}


@pytest.mark.parametrize(("wanted", "of_base", "expected"), CREATED.values(), ids=CREATED)
def test_the_time_of_an_image_is_never_that_of_the_push(
    wanted: str, of_base: str | None, expected: str
) -> None:
    spec = replace(on_base(base_document(created=of_base)), created=wanted)
    made = documents(spec)
    assert made.config["created"] == expected
    own = made.config["history"][len(BASE_HISTORY) :]
    assert own == [{"created": expected}] * 3


def test_what_describes_the_system_is_kept_and_nothing_else_of_the_base() -> None:
    kept = {"variant": "v2", "os.version": "10", "os.features": ["x"], "author": "me"}
    gone = {"container": "abc", "docker_version": "20", "id": "1", "parent": "2", "x": {"y": 1}}
    made = documents(on_base(base_document(**kept, **gone))).config
    assert made | kept == made
    assert not made.keys() & gone.keys()


def test_a_base_without_settings_is_no_problem() -> None:
    """As crane append makes it."""
    bare = {"architecture": "amd64", "os": "linux", "config": None, "rootfs": None}
    made = documents(on_base(bare, layers=()))
    assert made.config["rootfs"]["diff_ids"] == [*SOURCES.diff_ids, EXTRACTOR.diff_id]
    assert made.config["config"]["Entrypoint"] == [ENTRYPOINT]


# The manifest


def test_the_annotations_name_the_manifest_the_extractor_and_the_base() -> None:
    assert documents().image["annotations"] == {
        MANIFEST_ANNOTATION: SOURCES.manifest,
        EXTRACTOR_ANNOTATION: EXTRACTOR.layer.digest,
    }
    assert documents(on_base()).image["annotations"] == {
        MANIFEST_ANNOTATION: SOURCES.manifest,
        EXTRACTOR_ANNOTATION: EXTRACTOR.layer.digest,
        BASE_DIGEST_ANNOTATION: digest("the base"),
        BASE_NAME_ANNOTATION: "alpine:3",
    }


def test_an_image_that_replaces_a_damaged_one_has_another_digest() -> None:
    """crane sends nothing where the registry has the very manifest, even if it has lost a blob."""
    first = assemble(SPEC, SOURCES, {})
    second = assemble(SPEC, SOURCES, {}, first.digest)
    assert second.digest != first.digest
    assert second.images[0].replaces == first.digest
    assert Documents(second).image["annotations"][REPLACES_ANNOTATION] == first.digest
    assert second.images[0].layers == first.images[0].layers
    assert assemble(SPEC, SOURCES, {}, first.digest) == second


# Platforms

BOTH = replace(SPEC, bases=(SHIPPED, ARM))


def test_one_platform_is_an_image_and_no_index() -> None:
    assembly = assemble(SPEC, SOURCES, {})
    assert not assembly.is_index
    assert assembly.digest == assembly.images[0].digest
    index = json.loads(assembly.index)
    assert [entry["digest"] for entry in index["manifests"]] == [assembly.digest]


def test_two_platforms_are_an_index_whose_images_share_all_layers_of_sources() -> None:
    bases = (on_base().bases[0], replace(ARM, layers=(Layer(digest("arm"), 7),)))
    assembly = assemble(replace(SPEC, bases=bases), SOURCES, {"k": "v"})
    assert assembly.is_index
    assert assembly.digest == digest_of(assembly.index)
    index = load_document(assembly.index, IMAGE_INDEX)
    assert index["mediaType"] == OCI_INDEX
    assert children_of(index) == {
        "linux/amd64": assembly.images[0].digest,
        "linux/arm64": assembly.images[1].digest,
    }
    amd, arm = Documents(assembly), Documents(assembly, 1)
    sources = [layer.digest for layer in SOURCES.layers]
    assert amd.layers == [*(layer.digest for layer in LOWER), *sources, EXTRACTOR.layer.digest]
    assert arm.layers == [digest("arm"), *sources, EXTRACTOR.layer.digest]
    assert (amd.config["architecture"], arm.config["architecture"]) == ("amd64", "arm64")
    assert amd.config["config"]["Labels"] == arm.config["config"]["Labels"] == {"k": "v"}
    for entry in index["manifests"]:
        assert entry["size"] == len(assembly.documents[entry["digest"]])
    assert assembly.config == config_from_document(amd.config)


def test_the_image_of_a_platform_does_not_depend_on_the_other_platforms() -> None:
    """Adding a platform uploads its base and two documents."""
    one, both = assemble(SPEC, SOURCES, {}), assemble(BOTH, SOURCES, {})
    assert both.images[0] == one.images[0]
    assert one.documents.items() <= both.documents.items()


def test_a_variant_is_named_in_the_index() -> None:
    arm = replace(ARM, document={**ARM.document, "variant": "v8"})
    index = json.loads(assemble(replace(SPEC, bases=(SHIPPED, arm)), SOURCES, {}).index)
    assert [entry["platform"] for entry in index["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux", "variant": "v8"},
    ]


# All of it

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NAMES,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES, below, max_size=3),
    max_leaves=4,
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "Env": st.none() | st.lists(NAMES, max_size=3),
        "Entrypoint": st.none() | st.lists(NAMES, max_size=2),
        "Labels": st.none() | st.dictionaries(NAMES, NAMES, max_size=3),
        "WorkingDir": st.none() | NAMES,
        "Cmd": VALUES,
        "ExposedPorts": VALUES,
        "Healthcheck": VALUES,
    },
)
BASES = st.fixed_dictionaries(
    {"os": st.just("linux"), "architecture": st.sampled_from(["amd64", "arm64"])},
    optional={
        "config": st.none() | SETTINGS,
        "history": st.none()
        | st.lists(st.dictionaries(st.sampled_from(["empty_layer", "created"]), VALUES)),
        "rootfs": st.none() | st.just({"type": "layers", "diff_ids": None}),
        "created": st.none() | NAMES,
        "variant": VALUES,
        "os.features": VALUES,
        "author": VALUES,
    },
)


@given(BASES, st.dictionaries(NAMES, NAMES, max_size=3), st.booleans())
def test_any_base_that_its_schema_accepts_gives_an_image_that_can_be_read(
    document: dict[str, Any], labels: dict[str, str], is_index: bool
) -> None:
    """A base is from a registry. What is strange in it stays the base's own."""
    document = load_document(json.dumps(document).encode(), IMAGE_CONFIG)
    base = BaseImage("linux/amd64", document, EXTRACTOR)
    spec = replace(SPEC, bases=(base, ARM) if is_index else (base,))
    assembly = assemble(spec, SOURCES, labels)
    made = Documents(assembly)
    assert image_from_document(assembly.images[0].digest, made.image) == assembly.images[0]
    assert config_from_document(made.config) == assembly.config
    assert assembly.config.entrypoint == (ENTRYPOINT,)
    assert assembly.config.labels == {**base.config.labels, **labels}
    assert len(assembly.config.diff_ids) == len(assembly.images[0].layers)
    assert made.config["config"]["Env"].count(f"KONTEXT_MANIFEST={SOURCES.manifest}") == 1
    for name, content in assembly.documents.items():
        assert digest_of(content) == name


@given(BASES, st.dictionaries(NAMES, NAMES, max_size=4))
def test_the_same_input_gives_the_same_bytes(
    document: dict[str, Any], labels: dict[str, str]
) -> None:
    """The order of keys is no part of it: another machine reads them in another one."""
    document = json.loads(json.dumps(document))
    again = dict(reversed(document.items()))
    reordered = dict(reversed(labels.items()))
    one, other = (
        assemble(replace(SPEC, bases=(BaseImage("linux/amd64", each, EXTRACTOR),)), SOURCES, given_)
        for each, given_ in ((document, labels), (again, reordered))
    )
    assert one == other


def test_the_bytes_of_an_image_do_not_change() -> None:
    """Another version of Kontext finds the images of this one up to date."""
    assembly = assemble(SPEC, SOURCES, {"k": "v"})
    assert assembly.digest == (
        "sha256:5b39b148b7570df8347af24770031287342e7ce7e42f75fd41ad433a88dab420"
    )


def test_the_blobs_are_the_layers_and_the_configurations() -> None:
    assembly = assemble(BOTH, SOURCES, {})
    manifests = {image.digest for image in assembly.images}
    configs = assembly.documents.keys() - manifests
    assert len(configs) == 2
    layers = {layer.digest: layer.size for layer in (*SOURCES.layers, EXTRACTOR.layer)}
    sizes = {config: len(assembly.documents[config]) for config in configs}
    assert assembly.blobs == layers | sizes


CHANGES: dict[str, ImageSpec] = {
    "another base": on_base(),
    "another extractor": replace(
        SPEC,
        bases=(
            replace(SHIPPED, extractor=StagedLayer("/e", Layer(digest("e"), 9), digest("e a"))),
        ),
    ),
    "another time": replace(SPEC, created="2020-01-01T00:00:00Z"),
    "another platform": replace(SPEC, bases=(ARM,)),
}


@pytest.mark.parametrize("spec", CHANGES.values(), ids=CHANGES)
def test_what_is_asked_for_is_in_the_digest(spec: ImageSpec) -> None:
    """A tag that shows the digest shows what was asked for: nothing has to be written."""
    assert assemble(spec, SOURCES, {}).digest != assemble(SPEC, SOURCES, {}).digest


def test_settings_of_a_base_that_no_tool_could_read_are_left_out() -> None:
    odd = {"User": 5, "StopTimeout": float("nan"), "Env": ["A=b"], "Volumes": ["/v"]}
    history = [{"created": 5, "created_by": "COPY"}, {"created_by": ["RUN"], "x": 1}]
    document = base_document(config=odd, created="garbage", history=history)
    assembly = assemble(on_base(document), SOURCES, {})
    made = json.loads(assembly.documents[_config_digest(assembly)])
    assert made["created"] == "0001-01-01T00:00:00Z"
    assert made["history"][:2] == [{"created_by": "COPY"}, {}]
    assert not made["config"].keys() & {"User", "StopTimeout", "Volumes"}
    assert made["config"]["Env"][0] == "A=b"


def _config_digest(assembly: Assembly) -> Digest:
    return Digest(json.loads(assembly.documents[assembly.images[0].digest])["config"]["digest"])
