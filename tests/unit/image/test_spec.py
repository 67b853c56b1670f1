"""What a push is asked to make: its platform, and which labels are worth a new image."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.models import SPEC

from kontext_plugin.image.oci import Digest, Layer
from kontext_plugin.image.spec import (
    LAYER_LIMIT,
    MAX_LAYERS,
    REVISION,
    SOURCE,
    UNKNOWN,
    names_commit,
)

COMMIT, OTHER = "0123456789" * 4, "fedcba9876" * 4
CLEAN, DIRTY = {REVISION: COMMIT}, {REVISION: f"{COMMIT}-dirty"}


# Platforms


def test_a_spec_with_one_platform_has_that_platform() -> None:
    assert replace(SPEC, platforms=frozenset({"linux/arm64"})).platform == "linux/arm64"


@pytest.mark.parametrize("platforms", [(), ("linux/amd64", "linux/arm64")], ids=["none", "two"])
def test_a_spec_without_exactly_one_platform_is_refused(platforms: tuple[str, ...]) -> None:
    """An index of several platforms is not made yet: no code may take one of them at random."""
    spec = replace(SPEC, platforms=frozenset(platforms))
    with pytest.raises(ValueError, match="values to unpack"):
        _ = spec.platform


# Labels

WORTH: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str], bool]] = {
    "nothing new": ({}, {}, {}, False),
    "a label of the user's": ({"k": "v"}, {"k": "w"}, {}, True),
    "the user's own revision": (CLEAN, {REVISION: "v1"}, {}, True),
    "the user's own revision again": ({REVISION: "v1"}, {REVISION: "v1"}, CLEAN, False),
    "another commit": ({REVISION: OTHER}, {}, CLEAN, False),
    "dirty now": (CLEAN, {}, DIRTY, False),
    "still dirty": ({REVISION: f"{OTHER}-dirty"}, {}, DIRTY, False),
    "committed": (DIRTY, {}, CLEAN, True),
    "a commit that was unknown": ({REVISION: UNKNOWN}, {}, CLEAN, True),
    "the first with labels": ({}, {}, CLEAN, True),
    "no work tree any more": (CLEAN, {}, {}, False),
    "another source": (CLEAN | {SOURCE: "a"}, {}, CLEAN | {SOURCE: "b"}, False),
}


@pytest.mark.parametrize(("former", "user", "git", "worth"), WORTH.values(), ids=WORTH)
def test_labels_alone_are_pushed_if_they_say_something_new(
    former: dict[str, str], user: dict[str, str], git: dict[str, str], worth: bool
) -> None:
    assert replace(SPEC, labels=user, git_labels=git).changes_labels(former) is worth


@pytest.mark.parametrize("git", [{}, CLEAN, DIRTY, CLEAN | {SOURCE: "git@h:p"}])
@pytest.mark.parametrize("user", [{}, {"k": "v"}, {REVISION: "v1"}, {SOURCE: "s"}])
@pytest.mark.parametrize("former", [{}, CLEAN, DIRTY | {SOURCE: "s"}])
def test_pushed_labels_are_not_pushed_again(
    former: dict[str, str], user: dict[str, str], git: dict[str, str]
) -> None:
    spec = replace(SPEC, labels=user, git_labels=git)
    labels = spec.labels_on(former)
    assert former.keys() <= labels.keys()
    assert labels | user == labels, "the user's labels win"
    assert not spec.changes_labels(labels)


def test_a_git_label_that_is_not_known_any_more_becomes_unknown() -> None:
    assert SPEC.labels_on(DIRTY | {SOURCE: "s"}) == {REVISION: UNKNOWN, SOURCE: UNKNOWN}
    assert SPEC.labels_on({}) == {}


COMMITS = {
    "SHA-1": (COMMIT, True),
    "SHA-256": ("ab" * 32, True),
    "dirty": (f"{COMMIT}-dirty", False),
    "unknown": (UNKNOWN, False),
    "short": (COMMIT[:39], False),
    "upper case": (COMMIT.upper().replace("0", "A"), False),
    "line end": (f"{COMMIT}\n", False),
}


@pytest.mark.parametrize(("revision", "expected"), COMMITS.values(), ids=COMMITS)
def test_only_a_whole_hash_names_a_commit(revision: str, expected: bool) -> None:
    assert names_commit({REVISION: revision}) is expected
    assert not names_commit({SOURCE: revision})


# Bases


def test_the_layers_of_a_base_end_with_the_extractor() -> None:
    extractor = Layer(Digest("sha256:" + "e" * 64), 5)
    assert SPEC.base.layers == SPEC.base.image.layers
    assert replace(SPEC.base, extractor_layer=extractor).layers == (
        *SPEC.base.image.layers,
        extractor,
    )


def test_the_default_of_max_layers_is_below_the_limit() -> None:
    assert 2 < MAX_LAYERS < LAYER_LIMIT
