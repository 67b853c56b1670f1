"""Finding the images that a push may build on: which, in which order, and with which requests."""

from __future__ import annotations

import contextlib
import io
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_registry import gzip_layer, image_document
from support.models import NOTHING as NO_IMAGE
from support.models import SPEC, TAG, described, plan_on, published
from support.trees import File

from kontext_plugin.cache import Cache, PushRecord
from kontext_plugin.crane_driver.errors import NotFound, Refused, RegistryError, Unreadable
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.reference import Reference, parse_reference
from kontext_plugin.manifest import Lineage, Manifest, encode
from kontext_plugin.push import find as find_module
from kontext_plugin.push.find import (
    Found,
    find_images,
    likely_tags,
    nearest_push,
    parent_tags,
    unsettled_tags,
)
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import Origin, StartFresh
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.fetch import KontextImage
from kontext_plugin.source.git import History
from kontext_plugin.terminal.messages import Report

REPOSITORY = TAG.repository
OPTIONS = PushOptions((TAG,))
SOURCE = parse_reference("other.io/team/app:main")
HERE, ELSEWHERE = "/here", "/elsewhere"


def tag(name: str) -> Reference:
    return Reference(REPOSITORY, name)


# --- Which tags are likely: pure ---

A, B, C = "a1" * 20, "b2" * 20, "c3" * 20
HISTORY = History((A, B, C), ("feature/x", "main"))
COMMIT, BRANCH = Origin.COMMIT, Origin.BRANCH

LIKELY: dict[str, tuple[list[str], list[tuple[Origin, str]]]] = {
    "none": ([], []),
    "unlike any": (["v1", "pr-5", "nightly", "deadbeef"], []),
    "a whole hash": ([B], [(COMMIT, B)]),
    "seven digits": ([B[:7]], [(COMMIT, B[:7])]),
    "six digits are too few": ([B[:6]], []),
    "twelve digits": ([B[:12]], [(COMMIT, B[:12])]),
    "other digits after seven": ([B[:7] + "0"], []),
    "a digit too many": ([B + "b"], []),
    "after sha-": ([f"sha-{B[:7]}"], [(COMMIT, f"sha-{B[:7]}")]),
    "after a branch": ([f"main-{B[:8]}"], [(COMMIT, f"main-{B[:8]}")]),
    "after a dot": ([f"1.0.{B[:7]}"], [(COMMIT, f"1.0.{B[:7]}")]),
    "after an underscore": ([f"x_{B[:7]}"], [(COMMIT, f"x_{B[:7]}")]),
    "after a letter": ([f"g{B[:7]}"], []),
    "with something behind": ([f"{B[:7]}-arm64"], []),
    "upper case": ([B[:7].upper()], []),
    "the nearest commit first": (
        [C[:7], A[:7], B[:7]],
        [(COMMIT, A[:7]), (COMMIT, B[:7]), (COMMIT, C[:7])],
    ),
    "one tag of each commit": (
        [f"z-{A[:7]}", f"a-{A[:7]}", B], [(COMMIT, f"a-{A[:7]}"), (COMMIT, B)],
    ),
    "commits before branches": (["main", C[:7]], [(COMMIT, C[:7]), (BRANCH, "main")]),
    "the branch of the work tree before the usual ones": (
        ["master", "main", "feature-x"],
        [(BRANCH, "feature-x"), (BRANCH, "main"), (BRANCH, "master")],
    ),
    "the usual branches in their order": (
        ["edge", "dev", "latest", "trunk", "master", "main"],
        [(BRANCH, name) for name in ("main", "master", "trunk", "latest", "dev", "edge")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tags", "expected"), LIKELY.values(), ids=LIKELY)
def test_the_likeliest_tags_come_first(tags: list[str], expected: list[tuple[Origin, str]]) -> None:
    assert [*likely_tags(tags, HISTORY)] == expected


def test_without_git_the_usual_branches_are_likely() -> None:
    assert [*likely_tags([A, A[:7], "latest"], History())] == [(BRANCH, "latest")]


NAMES = st.sampled_from(["", "sha-", "main-", "v1."])
DIGITS = st.sampled_from([A, B, C, "d4" * 20]).flatmap(
    lambda commit: st.integers(4, 42).map(lambda length: (commit + "00")[:length])
)


@given(
    st.lists(st.builds("{}{}".format, NAMES, DIGITS) | st.sampled_from(["main", "x"]), max_size=8),
    st.randoms(),
)
def test_the_order_of_a_listing_does_not_matter(tags: list[str], chance: random.Random) -> None:
    found = [*likely_tags(tags, HISTORY)]
    chance.shuffle(tags)
    assert [*likely_tags(tags, HISTORY)] == found
    assert len(found) == len(set(found))
    for origin, name in found:
        assert name in tags
        if origin is COMMIT:
            digits = name.rpartition("-")[2].rpartition(".")[2]
            assert len(digits) >= 7
            assert any(commit.startswith(digits) for commit in HISTORY.commits)


# --- A registry in memory ---


@dataclass
class Registry:
    """A registry in the place of crane, which notes each request."""

    documents: dict[str, bytes] = field(default_factory=dict)  # manifests by tag or digest
    blobs: dict[str, bytes] = field(default_factory=dict)
    errors: dict[str, RegistryError] = field(default_factory=dict)  # by the name that is asked for
    listed: list[str] | RegistryError = field(default_factory=list)
    seconds: float = 0  # between two tags of a listing
    requests: list[str] = field(default_factory=list)

    def _answer(self, verb: str, name: str, known: dict[str, bytes]) -> bytes:
        self.requests.append(f"{verb} {name}")
        if name in self.errors:
            raise self.errors[name]
        key = name.rpartition("@")[2]
        if key not in known:
            raise NotFound(f"{name} was not found")
        return known[key]

    def manifest(self, name: str) -> bytes:
        return self._answer("manifest", name, self.documents)

    def config(self, name: str) -> bytes:
        self.requests.append(f"config {name}")
        return b'{"os":"linux","architecture":"amd64"}'

    def blob(self, name: str) -> Any:
        return contextlib.nullcontext(io.BytesIO(self._answer("blob", name, self.blobs)))

    def tags(self, repository: str) -> Iterator[str]:
        self.requests.append(f"ls {repository}")
        if isinstance(self.listed, RegistryError):
            raise self.listed
        for name in self.listed:
            time.sleep(self.seconds)
            yield name

    def put(self, name: str | Reference, number: int = 0) -> Digest:
        """Publish an image under a tag; another number is another image."""
        root = encode(Manifest(described({"f": File(b"%d" % number)}), Lineage(number)))
        top = gzip_layer(root)
        document = image_document(top, manifest=root, extractor=Digest("sha256:" + "e" * 64))
        self.blobs[digest_of(top)] = top
        self.documents[str(name)] = document
        return digest_of(document)

    def put_cached(self, image: KontextImage, name: Reference = TAG) -> bytes:
        """Let a tag show a document that only the cache can tell the content of."""
        document = b'{"an image": "%s"}' % image.digest.encode()
        self.documents[str(name)] = document
        return document

    def read(self) -> list[str]:
        """Return the names whose manifests were asked for."""
        return [request.partition(" ")[2] for request in self.requests if "manifest" in request]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def history(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer for git, and note each directory that git is asked about."""
    asked: list[str] = []

    def read_history(root: str, debug: object) -> History:
        asked.append(root)
        return HISTORY

    monkeypatch.setattr(find_module.git, "read_history", read_history)
    return asked


def find(
    registry: Registry, cache: Cache, options: PushOptions = OPTIONS, root: str = HERE
) -> Found:
    with ThreadPoolExecutor(4) as requests:
        session = PushSession(registry, requests, requests, requests, None, cache, Report())  # type: ignore[arg-type]
        return find_images(session, options, root)


def names(found: Found) -> list[tuple[str, Origin]]:
    return [(str(one.reference), one.origin) for one in found.candidates]


# --- The tags that are pushed to ---


def test_the_image_under_the_tag_is_the_only_candidate(registry: Registry, cache: Cache) -> None:
    digest = registry.put(TAG)
    registry.listed = ["main", A]
    found = find(registry, cache)
    assert names(found) == [(str(TAG), Origin.TAG)]
    assert found.shown == {TAG: digest}
    assert found.tag_image is found.candidates[0].image
    assert found.tag_image is not None and found.tag_image.config is not None, "with its history"
    assert not [request for request in registry.requests if request.startswith("ls")]


def test_each_tag_is_asked_for_once_and_all_images_are_candidates(
    registry: Registry, cache: Cache
) -> None:
    one, two, same, new = tag("1"), tag("2"), tag("same"), tag("new")
    shown = {one: registry.put(one, 1), two: registry.put(two, 2), same: registry.put(same, 1)}
    found = find(registry, cache, PushOptions((new, one, same, two)))
    assert names(found) == [(str(one), Origin.TAG), (str(two), Origin.TAG)]
    assert found.shown == {new: None, **shown}
    assert list(found.shown) == [new, one, same, two]
    assert found.tag_image is found.candidates[0].image
    assert sorted(registry.read()) == sorted(map(str, (new, one, same, two)))


def test_at_most_three_images_are_read(registry: Registry, cache: Cache) -> None:
    tags = [tag(str(number)) for number in range(5)]
    for number, name in enumerate(tags):
        registry.put(name, number)
    found = find(registry, cache, PushOptions(tuple(tags)))
    assert [str(one.reference) for one in found.candidates] == list(map(str, tags[:3]))
    assert len(found.shown) == 5
    assert len([one for one in registry.requests if one.startswith("blob")]) == 3


def test_an_image_that_this_machine_knows_needs_one_request(
    registry: Registry, cache: Cache
) -> None:
    image = own_image()
    document = registry.put_cached(image)
    cache.save_published(str(TAG), replace(image, digest=digest_of(document)))
    found = find(registry, cache)
    assert found.candidates[0].image.is_cached
    assert registry.requests == [f"manifest {TAG}"]


ASKED_FOR = {
    "--fresh": (replace(OPTIONS, fresh=True), "--fresh was given"),
    "--reuse never": (replace(OPTIONS, reuse="never"), "--reuse never was given"),
}


@pytest.mark.parametrize(("options", "reason"), ASKED_FOR.values(), ids=ASKED_FOR)
def test_an_option_finds_nothing_but_what_the_tag_shows(
    options: PushOptions, reason: str, registry: Registry, cache: Cache
) -> None:
    """Its platforms are kept, and a tag that shows the new image already is not written again."""
    digest = registry.put(TAG)
    registry.listed = ["main"]
    remember(cache, own_image())
    found = find(registry, cache, replace(options, sources=(SOURCE,)))
    assert (found.fresh, found.candidates) == (StartFresh(reason, is_ordinary=True), ())
    assert found.shown == {TAG: digest}
    assert found.tag_image is not None and found.tag_image.digest == digest
    assert registry.read() == [str(TAG)]
    assert not [request for request in registry.requests if request.startswith("ls")]
    registry.documents.clear()
    assert find(registry, cache, options) == Found(found.fresh, {TAG: None})


# --- Reasons ---


def test_without_any_image_the_reason_names_from(
    registry: Registry, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find(registry, cache)
    assert found.candidates == ()
    assert found.shown == {TAG: None}
    assert "there is no image to build on" in found.fresh.reason
    assert "--from" in found.fresh.reason
    assert found.refusal is None
    assert capsys.readouterr().err == "", "a first push is nothing to warn of"


ADVICE: dict[str, tuple[History, str]] = {
    "no work tree": (History(), "--from can name one"),
    "a shallow clone": (History((A,), (), True), "the clone is shallow"),
    "git fails": (History(problem="detected dubious\x1b ownership"), r"dubious\x1b ownership"),
}


@pytest.mark.parametrize(("read", "advice"), ADVICE.values(), ids=ADVICE)
def test_the_reason_says_how_to_find_more(
    read: History, advice: str, registry: Registry, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CI systems clone one commit, and git refuses directories of another user."""
    asked: list[str] = []
    monkeypatch.setattr(
        find_module.git, "read_history", lambda root, debug: asked.append(root) or read
    )
    found = find(registry, cache)
    assert advice in found.fresh.reason
    assert asked == [HERE], "once"


def test_a_registry_that_refuses_may_have_no_image_yet(registry: Registry, cache: Cache) -> None:
    registry.errors[str(TAG)] = Refused("no access")
    registry.listed = ["main"]
    found = find(registry, cache)
    assert found.fresh == StartFresh("host.io refuses to show the tag")
    assert found.refusal is registry.errors[str(TAG)]
    assert registry.requests == [f"manifest {TAG}"], "it would refuse the listing as well"


def test_a_registry_that_fails_is_not_taken_for_an_empty_one(
    registry: Registry, cache: Cache
) -> None:
    registry.errors[str(TAG)] = RegistryError("connection refused")
    with pytest.raises(RegistryError, match="connection refused"):
        find(registry, cache)


def test_an_image_that_cannot_be_read_is_the_reason_and_no_other_is_searched(
    registry: Registry, cache: Cache
) -> None:
    """A push to a tag that shows something strange tells of it."""
    registry.documents[str(TAG)] = b"<html>"
    registry.listed = ["main"]
    registry.put(tag("main"))
    found = find(registry, cache)
    assert found.candidates == ()
    assert found.fresh.reason.startswith(f"cannot build on {TAG}: it is not JSON")
    assert registry.requests == [f"manifest {TAG}"]
    assert found.shown == {TAG: digest_of(b"<html>")}


def test_a_lost_layer_is_the_reason(registry: Registry, cache: Cache) -> None:
    registry.put(TAG)
    registry.blobs.clear()
    found = find(registry, cache)
    assert found.fresh == StartFresh("a part of the image is gone from the registry")


# --- --from ---

WITH_SOURCE = replace(OPTIONS, sources=(SOURCE,))


def test_an_image_that_from_names_is_a_candidate_after_the_tags(
    registry: Registry, cache: Cache
) -> None:
    registry.put(TAG, 1)
    registry.put(SOURCE, 2)
    found = find(registry, cache, WITH_SOURCE)
    assert names(found) == [(str(TAG), Origin.TAG), (str(SOURCE), Origin.FROM)]
    assert found.shown.keys() == {TAG}
    del registry.documents[str(TAG)]
    found = find(registry, cache, WITH_SOURCE)
    assert names(found) == [(str(SOURCE), Origin.FROM)]
    assert found.tag_image is None


def test_an_image_by_its_digest_can_be_named(registry: Registry, cache: Cache) -> None:
    digest = registry.put("x")
    registry.documents[digest] = registry.documents["x"]
    by_digest = replace(SOURCE, digest=digest)
    found = find(registry, cache, replace(OPTIONS, sources=(by_digest,)))
    assert names(found) == [(f"other.io/team/app@{digest}", Origin.FROM)]


MISSING: dict[str, RegistryError | bytes] = {
    "not there": NotFound("other.io/team/app:main was not found"),
    "refused": Refused("other.io refused"),
    "not an image of Kontext's": b"<html>",
}


@pytest.mark.parametrize("answer", MISSING.values(), ids=MISSING)
def test_an_image_that_from_names_and_that_is_no_help_is_a_warning(
    answer: RegistryError | bytes,
    registry: Registry,
    cache: Cache,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A job that names the image of the main branch must work before there is one."""
    if isinstance(answer, bytes):
        registry.documents[str(SOURCE)] = answer
    else:
        registry.errors[str(SOURCE)] = answer
    found = find(registry, cache, WITH_SOURCE)
    assert found.candidates == ()
    assert "there is no image to build on" in found.fresh.reason
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("WARNING: ")
    assert SOURCE.registry in warning
    assert "build on" in warning
    assert f"ls {REPOSITORY}" in registry.requests, "then other tags may help"


def test_what_from_names_is_not_listed(registry: Registry, cache: Cache) -> None:
    registry.put(SOURCE)
    find(registry, cache, WITH_SOURCE)
    assert f"ls {REPOSITORY}" not in registry.requests


# --- The last push of this machine ---


def own_image(*earlier: bytes) -> KontextImage:
    """Return an image as this machine's cache has it, after pushes of these files."""
    image: KontextImage | StartFresh = NO_IMAGE
    for content in (*earlier, b"the last"):
        tree = described({"ballast": File(b"b" * 9000), "f": File(content)})
        image = published(plan_on(image, SPEC, tree))
    assert isinstance(image, KontextImage)
    return image


def remember(
    cache: Cache,
    image: KontextImage,
    name: Reference | None = None,
    directory: str = HERE,
    revision: str = "",
) -> Reference:
    """Let the cache know a push of an image, by default under a tag that is gone."""
    name = name or tag("deleted")
    cache.save_published(str(name), image)
    cache.save_pushed([PushRecord(directory, str(name), image.digest, revision=revision)])
    return name


def test_a_push_to_a_new_tag_builds_on_the_last_push_without_a_request(
    registry: Registry, cache: Cache
) -> None:
    """Also where its tag was deleted: its layers may still be there."""
    name = remember(cache, own_image())
    found = find(registry, cache)
    assert names(found) == [(str(name), Origin.OWN_PUSH)]
    assert found.tag_image is None
    assert registry.requests == [f"manifest {TAG}"]


def test_a_push_of_this_directory_comes_before_a_later_one_of_another(
    registry: Registry, cache: Cache
) -> None:
    mine = remember(cache, own_image(), tag("mine"))
    theirs = remember(cache, own_image(b"x"), tag("theirs"), ELSEWHERE)
    assert names(find(registry, cache)) == [(str(mine), Origin.OWN_PUSH)]
    assert names(find(registry, cache, root=ELSEWHERE)) == [(str(theirs), Origin.OWN_PUSH)]
    assert names(find(registry, cache, root="/new")) == [(str(theirs), Origin.OWN_PUSH)]


def test_a_push_to_another_repository_is_no_candidate(registry: Registry, cache: Cache) -> None:
    remember(cache, own_image(), parse_reference("host.io/other:t"))
    assert find(registry, cache).candidates == ()


def test_a_push_whose_image_is_not_in_the_cache_any_more_is_skipped(
    registry: Registry, cache: Cache
) -> None:
    kept = remember(cache, own_image(), tag("kept"))
    cache.save_pushed([PushRecord(HERE, str(tag("lost")), own_image(b"x").digest)])
    assert names(find(registry, cache)) == [(str(kept), Origin.OWN_PUSH)]


def test_the_last_push_competes_with_an_older_push_under_the_tag(
    registry: Registry, cache: Cache
) -> None:
    """The tag shows what this machine pushed there, and then it pushed elsewhere."""
    older = registry.put(TAG)
    cache.save_pushed([PushRecord(HERE, str(TAG), older)])
    name = remember(cache, own_image())
    assert names(find(registry, cache)) == [(str(TAG), Origin.TAG), (str(name), Origin.OWN_PUSH)]


def test_the_last_push_competes_with_its_own_ancestor_under_the_tag(
    registry: Registry, cache: Cache
) -> None:
    """Another machine pushed the ancestor: the last push has all that the tag shows."""
    image = own_image(b"first")
    document = registry.put_cached(image)
    (ancestor,) = image.lineage.ancestors
    shown = replace(ancestor, image=digest_of(document))
    lineage = replace(image.lineage, ancestors=(shown,))
    image = replace(image, manifest=replace(image.manifest, lineage=lineage))
    cache.save_published(str(TAG), replace(own_image(), digest=digest_of(document)))
    name = remember(cache, image)
    assert names(find(registry, cache)) == [(str(TAG), Origin.TAG), (str(name), Origin.OWN_PUSH)]


def test_a_push_to_a_new_tag_may_build_on_the_push_of_the_nearest_commit(
    registry: Registry, cache: Cache, history: list[str]
) -> None:
    """The last push may be of another branch."""
    nearest = remember(cache, own_image(b"1"), tag("nearest"), revision=B)
    remember(cache, own_image(b"2"), tag("farther"), revision=C)
    last = remember(cache, own_image(b"3"), tag("last"), revision="9" * 40)
    found = find(registry, cache)
    assert names(found) == [(str(last), Origin.OWN_PUSH), (str(nearest), Origin.OWN_PUSH)]
    assert registry.requests == [f"manifest {TAG}"]
    remember(cache, own_image(b"4"), tag("of HEAD"), revision=f"{A}-dirty")
    assert names(find(registry, cache)) == [(str(tag("of HEAD")), Origin.OWN_PUSH)]
    assert set(history) == {HERE}


def test_a_tag_that_shows_an_image_needs_no_history(
    registry: Registry, cache: Cache, history: list[str]
) -> None:
    remember(cache, own_image(b"1"), tag("nearest"), revision=B)
    remember(cache, own_image(b"3"), tag("last"), revision="9" * 40)
    registry.put(TAG)
    assert names(find(registry, cache)) == [(str(TAG), Origin.TAG)]
    assert history == []


RECORDS = [
    PushRecord(HERE, f"r/r:{number}", Digest(str(number)), revision=revision)
    for number, revision in enumerate(["", C, f"{B}-dirty", B, "9" * 40, f"{A[:7]}"])
]
NEAREST: dict[str, tuple[list[int], int | None]] = {
    "none": ([], None),
    "no commit is known": ([0, 4], None),
    "a part of a hash": ([5], None),
    "one": ([0, 1, 4], 1),
    "the nearest": ([1, 3], 3),
    "with changes": ([1, 2], 2),
    "the latest of one commit": ([2, 3], 2),
    "the latest of one commit, clean": ([3, 2], 3),
}


@pytest.mark.parametrize(("records", "nearest"), NEAREST.values(), ids=NEAREST)
def test_the_push_of_the_nearest_commit_is_found(records: list[int], nearest: int | None) -> None:
    found = nearest_push([RECORDS[number] for number in records], HISTORY)
    assert found is (None if nearest is None else RECORDS[nearest])
    assert nearest_push([RECORDS[number] for number in records], History()) is None


def test_an_image_of_another_machine_under_the_tag_wins(registry: Registry, cache: Cache) -> None:
    remember(cache, own_image(), TAG)
    registry.put(TAG)
    assert names(find(registry, cache)) == [(str(TAG), Origin.TAG)]


def test_a_purge_by_another_machine_is_never_undone_by_the_cache(
    registry: Registry, cache: Cache
) -> None:
    """The cache has the image with the secret, which has all the sources. It must not come back."""
    image = own_image(b"a secret")
    remember(cache, image, TAG)
    remember(cache, image, tag("other"))
    registry.put(TAG)  # the same sources, purged
    found = find(registry, cache)
    assert [one.image.digest for one in found.candidates] == [
        digest_of(registry.documents[str(TAG)])
    ]


def test_a_purge_by_this_machine_is_never_undone_by_the_cache(
    registry: Registry, cache: Cache
) -> None:
    """A purge counts as a push: it comes after the one that it replaces."""
    remember(cache, own_image(b"a secret"), TAG)
    purged = registry.put(TAG)
    cache.save_pushed([PushRecord(HERE, str(TAG), purged)])
    found = find(registry, cache)
    assert [one.image.digest for one in found.candidates] == [purged]


def test_an_image_that_the_tag_shows_is_no_second_candidate(
    registry: Registry, cache: Cache
) -> None:
    image = own_image()
    document = registry.put_cached(image)
    remember(cache, replace(image, digest=digest_of(document)), TAG)
    assert names(find(registry, cache)) == [(str(TAG), Origin.TAG)]


# --- A registry that answers late ---

NEW, OLD, THEIRS = (Digest("sha256:" + letter * 64) for letter in "123")

UNSETTLED: dict[str, tuple[list[tuple[str, Digest, float]], Digest | None, bool]] = {
    "no push": ([], OLD, False),
    "the last push": ([("t", NEW, 1), ("t", OLD, 90)], NEW, False),
    "the push before, at once": ([("t", NEW, 1), ("t", OLD, 90)], OLD, True),
    "an earlier push, at once": ([("t", NEW, 1), ("t", THEIRS, 5), ("t", OLD, 90)], OLD, True),
    "the push before, after a minute": ([("t", NEW, 61), ("t", OLD, 90)], OLD, False),
    "a push from the future": ([("t", NEW, -5), ("t", OLD, 90)], OLD, True),
    "an image of another machine": ([("t", NEW, 1), ("t", OLD, 90)], THEIRS, False),
    "nothing": ([("t", NEW, 1), ("t", OLD, 90)], None, False),
    "the only push": ([("t", NEW, 1)], NEW, False),
    "a push to another tag": ([("u", NEW, 1), ("t", OLD, 90)], OLD, False),
}


@pytest.mark.parametrize(("pushes", "shown", "unsettled"), UNSETTLED.values(), ids=UNSETTLED)
def test_an_answer_from_before_the_last_push_is_not_believed(
    pushes: list[tuple[str, Digest, float]], shown: Digest | None, unsettled: bool
) -> None:
    records = [PushRecord(HERE, str(tag(name)), image, 1000 - age) for name, image, age in pushes]
    assert unsettled_tags({TAG: shown}, records, 1000) == ({TAG} if unsettled else set())


def test_a_tag_of_a_moment_ago_is_told_with_what_was_found(
    registry: Registry, cache: Cache
) -> None:
    old = registry.put(TAG)
    cache.save_pushed([PushRecord(HERE, str(TAG), old, time.time() - 100)])
    assert find(registry, cache).unsettled == frozenset()
    cache.save_pushed([PushRecord(HERE, str(TAG), NEW, time.time())])
    assert find(registry, cache).unsettled == {TAG}
    assert find(registry, cache, replace(OPTIONS, fresh=True)).unsettled == {TAG}


# --- Other tags ---


def test_without_any_other_image_the_likely_tags_are_read_with_one_listing(
    registry: Registry, cache: Cache, history: list[str]
) -> None:
    registry.listed = ["v1", "main", C[:7], f"sha-{A}", "latest"]
    for number, name in enumerate(registry.listed):
        registry.put(tag(name), number)
    found = find(registry, cache)
    assert names(found) == [
        (str(tag(f"sha-{A}")), Origin.COMMIT),
        (str(tag(C[:7])), Origin.COMMIT),
        (str(tag("main")), Origin.BRANCH),
    ]
    assert found.tag_image is None
    assert history == [HERE]
    assert registry.requests.count(f"ls {REPOSITORY}") == 1
    assert len(registry.read()) == 4, "the tag, and at most three images"


def test_a_likely_tag_that_is_gone_or_strange_is_passed_over(
    registry: Registry, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.listed = [A, B, "main"]
    registry.documents[str(tag(B))] = b"<html>"
    registry.put(tag("main"))
    found = find(registry, cache)
    assert names(found) == [(str(tag("main")), Origin.BRANCH)]
    assert capsys.readouterr().err == "", "nobody has named these images"
    registry.documents[str(tag("main"))] = b"<html>"
    found = find(registry, cache)
    assert "there is no image to build on" in found.fresh.reason


def test_tags_that_cannot_be_listed_are_no_error(registry: Registry, cache: Cache) -> None:
    registry.listed = RegistryError("NAME_UNKNOWN")
    assert find(registry, cache).candidates == ()


def test_a_slow_listing_counts_as_far_as_it_came(
    registry: Registry, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "_MAX_SECONDS", 0.2)
    registry.listed = ["main", *(f"v{number}" for number in range(1000))]
    registry.seconds = 0.01
    registry.put(tag("main"))
    begun = time.monotonic()
    assert names(find(registry, cache)) == [(str(tag("main")), Origin.BRANCH)]
    assert time.monotonic() - begun < 5, "the listing alone takes ten seconds"


def test_a_listing_that_stops_in_the_middle_counts_as_far_as_it_came(
    registry: Registry, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "_MAX_SECONDS", 0.2)
    registry.put(tag("main"))
    is_read, in_time, answers = threading.Event(), list[bool](), registry.manifest

    def manifest(name: str) -> bytes:
        if name == str(tag("main")):
            is_read.set()
        return answers(name)

    def tags(repository: str) -> Iterator[str]:
        yield "main"
        in_time.append(is_read.wait(20))
        raise RegistryError("the connection was closed")

    monkeypatch.setattr(registry, "manifest", manifest)
    monkeypatch.setattr(registry, "tags", tags)
    assert names(find(registry, cache)) == [(str(tag("main")), Origin.BRANCH)]
    assert in_time == [True], "the push has waited for the next page"


def test_only_so_many_tags_are_looked_at(
    registry: Registry, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "_MAX_TAGS", 2)
    registry.listed = ["v1", "main", "latest"]
    for number, name in enumerate(registry.listed):
        registry.put(tag(name), number)
    assert names(find(registry, cache)) == [(str(tag("main")), Origin.BRANCH)]


def test_the_tags_of_the_first_repository_are_listed(registry: Registry, cache: Cache) -> None:
    other = parse_reference("host.io/other:t")
    find(registry, cache, PushOptions((TAG, other)))
    assert [one for one in registry.requests if one.startswith("ls")] == [f"ls {REPOSITORY}"]


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, fresh=True)], ids=["", "--fresh"])
def test_something_unreadable_under_the_tag_is_replaced(
    options: PushOptions, registry: Registry, cache: Cache
) -> None:
    """Whoever may write to a repository could stop all later pushes otherwise."""
    registry.errors[str(TAG)] = Unreadable("the registry's answer is larger than 8 MB")
    found = find(registry, cache, options)
    assert (found.foreign, found.candidates, found.tag_image) == ((TAG,), (), None)
    assert found.tags_to_write(digest_of(b"")) == (TAG,)


def test_something_unreadable_under_another_tag_stops_no_push(
    registry: Registry, cache: Cache
) -> None:
    registry.listed = ["main"]
    registry.errors[f"{REPOSITORY}:main"] = Unreadable("the registry's answer is empty")
    assert find(registry, cache).candidates == ()


PARENT_TAGS = {
    "the hash": ("319769e", ["6e78c6c", "aaaaaaa"]),
    "after something": ("sha-319769e047", ["sha-6e78c6c111", "sha-aaaaaaa222"]),
    "another commit": ("1234567", []),
    "no commit": ("v1.0", []),
}


@pytest.mark.parametrize(("name", "guesses"), PARENT_TAGS.values(), ids=PARENT_TAGS)
def test_a_tag_that_names_the_commit_leads_to_those_of_its_parents(
    name: str, guesses: list[str]
) -> None:
    commits = [start.ljust(40, end) for start, end in (("319769e047", "0"), ("6e78c6c111", "1"))]
    commits += ["aaaaaaa222".ljust(40, "2"), "b" * 40]
    found = parent_tags(replace(TAG, tag=name), commits)
    assert [one.tag for one in found] == guesses
