"""What a push is asked to make: its platform, and which labels are worth a new image."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.models import ARM, SHIPPED, SPEC

from kontext_plugin.image.oci import Digest, ImageConfig, Layer
from kontext_plugin.image.spec import (
    LAYER_LIMIT,
    MAX_LAYERS,
    REVISION,
    SOURCE,
    names_commit,
)

COMMIT, OTHER = "0123456789" * 4, "fedcba9876" * 4
CLEAN, DIRTY = {REVISION: COMMIT}, {REVISION: f"{COMMIT}-dirty"}


# Labels: those of the former image, the user's, git's; with the same sources, and with other ones

Labels = dict[str, str]

LABELS: dict[str, tuple[Labels, Labels, Labels, Labels, Labels]] = {
    "nothing": ({}, {}, {}, {}, {}),
    "a label of the user's": ({"k": "v"}, {"k": "w"}, {}, {"k": "w"}, {"k": "w"}),
    "a label that was dropped": ({"k": "v"}, {}, {}, {}, {}),
    "the user's own revision": (CLEAN, {REVISION: "v1"}, {}, {REVISION: "v1"}, {REVISION: "v1"}),
    "the user's own revision again": (
        {REVISION: "v1"}, {REVISION: "v1"}, CLEAN, {REVISION: "v1"}, {REVISION: "v1"},
    ),
    "another commit": ({REVISION: OTHER}, {}, CLEAN, {REVISION: OTHER}, CLEAN),
    "dirty now": (CLEAN, {}, DIRTY, CLEAN, DIRTY),
    "still dirty": ({REVISION: f"{OTHER}-dirty"}, {}, DIRTY, {REVISION: f"{OTHER}-dirty"}, DIRTY),
    "committed": (DIRTY, {}, CLEAN, CLEAN, CLEAN),
    "the first with labels": ({}, {}, CLEAN, CLEAN, CLEAN),
    "no work tree any more": (CLEAN, {}, {}, CLEAN, {}),
    "another source": (
        CLEAN | {SOURCE: "a"}, {}, CLEAN | {SOURCE: "b"}, CLEAN | {SOURCE: "a"},
        CLEAN | {SOURCE: "b"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("former", "user", "git", "same", "other"), LABELS.values(), ids=LABELS)
def test_the_labels_say_what_is_true_of_the_sources(
    former: Labels, user: Labels, git: Labels, same: Labels, other: Labels
) -> None:
    """The sources of a commit may be those of the next one: that alone makes no new image."""
    spec = replace(SPEC, labels=user, git_labels=git)
    assert spec.labels_on(former, is_same=True) == same
    assert spec.labels_on(former, is_same=False) == other


@pytest.mark.parametrize("git", [{}, CLEAN, DIRTY, CLEAN | {SOURCE: "git@h:p"}])
@pytest.mark.parametrize("user", [{}, {"k": "v"}, {REVISION: "v1"}, {SOURCE: "s"}])
@pytest.mark.parametrize("former", [{}, CLEAN, DIRTY | {SOURCE: "s"}])
def test_a_second_push_gives_the_same_labels(former: Labels, user: Labels, git: Labels) -> None:
    spec = replace(SPEC, labels=user, git_labels=git)
    for is_same in (True, False):
        labels = spec.labels_on(former, is_same=is_same)
        assert labels | user == labels, "the user's labels win"
        assert spec.labels_on(labels, is_same=True) == labels


COMMITS = {
    "SHA-1": (COMMIT, True),
    "SHA-256": ("ab" * 32, True),
    "dirty": (f"{COMMIT}-dirty", False),
    "unknown": ("unknown", False),
    "short": (COMMIT[:39], False),
    "upper case": (COMMIT.upper().replace("0", "A"), False),
    "line end": (f"{COMMIT}\n", False),
}


@pytest.mark.parametrize(("revision", "expected"), COMMITS.values(), ids=COMMITS)
def test_only_a_whole_hash_names_a_commit(revision: str, expected: bool) -> None:
    assert names_commit({REVISION: revision}) is expected
    assert not names_commit({SOURCE: revision})


# Bases


def test_a_base_has_the_settings_of_its_document() -> None:
    labels = {"config": {"Labels": {"k": "v"}}}
    base = replace(SHIPPED, document={**SHIPPED.document, **labels})
    assert base.config == ImageConfig("linux/amd64", labels={"k": "v"})


def test_the_room_for_sources_is_what_the_largest_base_and_the_extractor_leave() -> None:
    assert replace(SPEC, max_layers=5).room == 4
    layer = Layer(Digest("sha256:" + "7" * 64), 5)
    both = (replace(SHIPPED, layers=(layer,)), replace(ARM, layers=(layer,) * 3))
    assert replace(SPEC, bases=both, max_layers=9).room == 5


def test_the_default_of_max_layers_is_below_the_limit() -> None:
    assert 2 < MAX_LAYERS < LAYER_LIMIT
