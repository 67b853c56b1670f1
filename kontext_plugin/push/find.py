"""Find the images that a push may build on: at most three, from wherever they are.

1. The image under each tag that is pushed to.
2. The images that --from names.
3. The last push of this machine, and its push of the nearest commit, if the tags show nothing
   newer.
4. If a tag shows nothing and names HEAD: the tags that its parents would have.
5. If there is none of these: images whose tags name an ancestor of HEAD, and those of the usual
   branches. This takes one listing of the repository's tags.

A purge may have taken layers out of the image under a tag. So an image of this machine's cache
never competes with an image under the tag that this machine did not push.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from itertools import islice

from kontext_plugin.cache import PushRecord
from kontext_plugin.crane_driver.errors import Damaged, NotFound, Refused, RegistryError, Unreadable
from kontext_plugin.image.oci import Digest, digest_of
from kontext_plugin.image.reference import Reference, repository_of
from kontext_plugin.push.history import resolve
from kontext_plugin.push.options import PushOptions
from kontext_plugin.push.parent import Candidate, Origin, StartFresh
from kontext_plugin.push.session import PushSession
from kontext_plugin.registry.fetch import InvalidImage, KontextImage, fetch_by_document
from kontext_plugin.source import git
from kontext_plugin.source.git import History
from kontext_plugin.terminal.text import line_safe

_MAX_IMAGES = 3
"""The most images whose manifests are read."""

_MAX_TAGS = 20_000
"""The most tags of a listing that are looked at: some registries send 1,000 a page, others 100."""

_MAX_SECONDS = 5.0
"""The most seconds that a listing of tags may take."""

_SETTLES = 60.0
"""Seconds after which a registry's answer about a tag counts more than this machine's last push."""

_USUAL_BRANCHES = ("main", "master", "trunk", "latest", "dev", "edge")

_COMMIT_TAG = re.compile(r"(?:.*[-_.])?([0-9a-f]{7,64})")
"""A tag that names a commit: 7 digits of its hash or more, after something like `sha-`."""


@dataclass(frozen=True)
class Found:
    """What the registry and the cache have for a push."""

    fresh: StartFresh  # the reason if there is no candidate
    shown: Mapping[Reference, Digest | None]  # what each tag shows, in their order
    candidates: tuple[Candidate, ...] = ()
    tag_image: KontextImage | None = None  # the image under the first tag that shows one
    unsettled: frozenset[Reference] = frozenset()  # tags about which the answer may be outdated
    foreign: tuple[Reference, ...] = ()  # tags that show something else than an image of Kontext's
    refusal: Refused | None = None  # the registry's answer if it does not say what a tag shows

    def in_its_words(self, error: Refused) -> Refused:
        """Return the error, or an earlier one that has the registry's own words.

        crane begins a push with a HEAD request, whose answer has no body.
        """
        has_words = "status code" not in error.message
        return error if has_words or self.refusal is None else self.refusal

    def tags_to_write(self, digest: Digest) -> tuple[Reference, ...]:
        """Return the tags that do not show this image yet, or may not."""
        return tuple(
            tag for tag, shown in self.shown.items() if shown != digest or tag in self.unsettled
        )


def find_images(session: PushSession, options: PushOptions, root: str) -> Found:
    """Return the images to build on, and what each tag shows.

    `root` is the source directory. Raises RegistryError if the registry cannot be asked.
    """
    return _Finder(session, options, root).find()


class _Finder:
    def __init__(self, session: PushSession, options: PushOptions, root: str) -> None:
        self._session = session
        self._options = options
        self._root = root
        self._records = session.cache.pushed()
        self._read_history: History | None = None
        self._candidates: list[Candidate] = []
        self._foreign: list[Reference] = []  # tags that show something that cannot be read
        self._reasons: list[StartFresh] = []  # why an image cannot be built on

    def find(self) -> Found:
        options = self._options
        documents = self._look_at_tags()
        shown = {
            tag: digest_of(document) if isinstance(document, bytes) else None
            for tag, document in documents.items()
        }
        unsettled = unsettled_tags(shown, self._records, time.time())
        for tag, document in documents.items():
            if isinstance(document, Unreadable):
                self._foreign.append(tag)
                self._note(f"cannot build on {document.message}")
            if isinstance(document, bytes) and len(self._candidates) < _MAX_IMAGES:
                self._note(self._read(tag, document, Origin.TAG))
        tag_image = self._candidates[0].image if self._candidates else None
        if options.fresh or options.reuse == "never":
            option = "--fresh" if options.fresh else "--reuse never"
            fresh = StartFresh(f"{option} was given", is_ordinary=True)
            return Found(fresh, shown, (), tag_image, unsettled, tuple(self._foreign))
        for name in options.sources:
            self._read_source(name)
        self._take_own_pushes(shown)
        refusals = [one for one in documents.values() if isinstance(one, Refused)]
        absent = [tag for tag, document in documents.items() if _may_have_others(document)]
        if absent and not refusals:
            self._guess_tags(absent)
            if not self._candidates and not self._reasons:
                self._search_tags(absent[0].repository)
        if self._reasons:
            fresh = self._reasons[0]
        elif refusals:
            # Some registries refuse to read an image that does not exist yet. If this one refuses
            # to write as well, the first request of the push tells.
            fresh = StartFresh(f"{options.tags[0].registry} refuses to show the tag")
        elif self._candidates:  # if none is usable, each has a reason of its own
            fresh = StartFresh("there is no image to build on")
        else:
            fresh = StartFresh(f"there is no image to build on; {self._advice()}")
        return Found(
            fresh,
            shown,
            tuple(self._candidates),
            tag_image,
            unsettled,
            tuple(self._foreign),
            refusals[0] if refusals else None,
        )

    def _look_at_tags(self) -> dict[Reference, bytes | RegistryError]:
        """Return the manifest document under each tag, or the error where there is none."""

        def ask(tag: Reference) -> bytes | RegistryError:
            try:
                return self._session.crane.manifest(str(tag))
            except (NotFound, Refused, Unreadable) as error:
                return error

        tags = self._options.tags
        if len(tags) == 1:
            return {tags[0]: ask(tags[0])}
        return dict(zip(tags, self._session.requests.map(ask, tags), strict=True))

    def _note(self, reason: str) -> None:
        """Keep why an image under a tag cannot be built on, if there is a reason."""
        if reason:
            self._reasons.append(StartFresh(reason))

    def _read(self, name: Reference, document: bytes, origin: Origin) -> str:
        """Make the image with this manifest document a candidate; return why it cannot be one."""
        digest = digest_of(document)
        if len(self._candidates) >= _MAX_IMAGES or self._has(digest):
            return ""
        session = self._session
        try:
            image = self._cached(digest, str(name)) or fetch_by_document(
                session.crane, session.requests, name, document, with_history=True
            )
        except NotFound:
            return "a part of the image is gone from the registry"
        except Damaged:
            return "a part of the image is damaged in the registry"
        except (Unreadable, InvalidImage) as error:
            if origin is Origin.TAG:
                self._foreign.append(name)
            why = error.reason if isinstance(error, InvalidImage) else error.message
            return f"cannot build on {name}: {why}"
        self._candidates.append(Candidate(image, name, origin))
        return ""

    def _has(self, digest: Digest) -> bool:
        return any(candidate.image.digest == digest for candidate in self._candidates)

    def _read_source(self, name: Reference) -> None:
        """Read an image that --from names. One that is not there is no error: a first push."""
        try:
            name = resolve(self._session.crane, self._session.requests, name)
            document = self._session.crane.manifest(str(name))
        except (NotFound, Refused, Unreadable, InvalidImage) as error:
            self._session.report.warning(f"{error.message}; the push does not build on it")
            return
        if reason := self._read(name, document, Origin.FROM):
            self._session.report.warning(reason)

    def _take_own_pushes(self, shown: Mapping[Reference, Digest | None]) -> None:
        """Make pushes of this machine candidates, unless somebody else has moved a tag since.

        These are the last push, and the push of the nearest commit.
        """
        digests = {digest for digest in shown.values() if digest}
        is_untouched = is_as_pushed(shown, self._records)
        repositories = {tag.repository for tag in self._options.tags}
        for record in _own(self._records, self._root, repositories):
            if any(record.digest in _with_ancestors(one.image) for one in self._candidates):
                break
            image = self._cached(record.digest)
            if image is None:
                continue
            former = _with_ancestors(image)
            if abs(time.time() - record.time) < _SETTLES:  # the registry may answer late
                former |= {one.digest for one in self._records[self._records.index(record) :]}
            if digests <= former or is_untouched:
                self._candidates.append(_candidate_of(record, image))
            break
        ours = tuple(_own(self._records, self._root, repositories))
        known = {digest for one in self._candidates for digest in _with_ancestors(one.image)}
        # git takes some processes: it is asked only if it can lead to another image.
        if is_untouched and any(one.revision and one.digest not in known for one in ours):
            nearest = nearest_push(ours, self._history())
            if nearest and not self._has(nearest.digest):
                image = self._cached(nearest.digest)
                if image and len(self._candidates) < _MAX_IMAGES:
                    self._candidates.append(_candidate_of(nearest, image))

    def _guess_tags(self, absent: Sequence[Reference]) -> None:
        """Look under the tags that the parent commits have, if these tags name HEAD."""
        commits = self._history().commits
        if any(one.image.revision in commits[:2] for one in self._candidates):
            return
        guesses = [guess for tag in absent for guess in parent_tags(tag, commits)]

        def ask(tag: Reference) -> bytes | None:
            try:
                return self._session.crane.manifest(str(tag))
            except RegistryError:
                return None

        for tag, document in zip(guesses, self._session.requests.map(ask, guesses), strict=True):
            if document:
                self._read(tag, document, Origin.COMMIT)  # nobody has asked for this image

    def _history(self) -> History:
        if self._read_history is None:
            self._read_history = git.read_history(self._root, self._session.report.debug)
        return self._read_history

    def _advice(self) -> str:
        """Return how a push that finds nothing may find more."""
        if problem := self._history().problem:
            return f"git does not tell its history: {line_safe(problem)}"
        if self._history().is_shallow:
            return (
                "the clone is shallow, so git knows few earlier commits: run 'git fetch --deepen "
                "50', or name an image with --from"
            )
        return "--from can name one"

    def _cached(self, digest: Digest, reference: str = "") -> KontextImage | None:
        """Return an image that this machine has pushed, or has read under this reference."""
        references = (one.reference for one in self._records if one.digest == digest)
        images = (
            self._session.cache.published(one, digest)
            for one in dict.fromkeys(filter(None, (reference, *references)))
        )
        return next(filter(None, images), None)

    def _search_tags(self, repository: str) -> None:
        """Look for images under other tags of a repository."""
        session = self._session
        listed: list[str] = []
        listing = session.requests.submit(self._list_tags, repository, listed)
        history = self._history()
        wait((listing,), _MAX_SECONDS)  # after that, what was listed so far must do
        for origin, name in islice(likely_tags(tuple(listed), history), _MAX_IMAGES):
            reference = Reference(repository, name)
            try:
                self._read(reference, session.crane.manifest(str(reference)), origin)
            except RegistryError as error:  # nobody has asked for this image
                session.report.debug(f"cannot build on {reference}: {error.message}")

    def _list_tags(self, repository: str, listed: list[str]) -> None:
        deadline = time.monotonic() + _MAX_SECONDS
        try:
            for tag in islice(self._session.crane.tags(repository), _MAX_TAGS):
                listed.append(tag)
                if time.monotonic() > deadline:
                    return
        except RegistryError as error:  # there is no such repository, or its tags are not shown
            self._session.report.debug(f"no tags of {repository}: {error.message}")


def unsettled_tags(
    shown: Mapping[Reference, Digest | None], records: Sequence[PushRecord], now: float
) -> frozenset[Reference]:
    """Return the tags that this machine moved a moment ago, and that show a former image. Pure.

    Some registries answer for seconds as they did before. `records` are this machine's pushes, the
    latest first, and `now` is in seconds since 1970.
    """
    unsettled = set()
    for tag, digest in shown.items():
        pushes = [one for one in records if one.reference == str(tag)]
        former = {one.digest for one in pushes[1:]}
        if pushes and now - pushes[0].time < _SETTLES and digest in former:
            unsettled.add(tag)
    return frozenset(unsettled)


def is_as_pushed(shown: Mapping[Reference, Digest | None], records: Sequence[PushRecord]) -> bool:
    """Whether each tag shows nothing, or what this machine pushed to it last. Pure."""
    last: dict[str, Digest] = {}
    for record in records:
        last.setdefault(record.reference, record.digest)
    return all(digest in (None, last.get(str(tag))) for tag, digest in shown.items())


def _own(records: list[PushRecord], root: str, repositories: set[str]) -> Iterator[PushRecord]:
    """Yield the pushes to these repositories: those of this directory first, each latest first."""
    ours = [one for one in records if repository_of(one.reference) in repositories]
    yield from (one for one in ours if one.directory == root)
    yield from (one for one in ours if one.directory != root)


def _may_have_others(document: bytes | RegistryError) -> bool:
    """Whether a tag shows nothing, and its repository may have other tags."""
    return isinstance(document, NotFound) and "NAME_UNKNOWN" not in document.message


def parent_tags(tag: Reference, commits: Sequence[str]) -> list[Reference]:
    """Return what a tag that names HEAD, `commits[0]`, would be for its first parents. Pure."""
    digits = match[1] if (match := _COMMIT_TAG.fullmatch(tag.tag)) else ""
    if not (digits and commits and commits[0].startswith(digits)):
        return []
    start = tag.tag[: -len(digits)]
    return [replace(tag, tag=start + commit[: len(digits)]) for commit in commits[1:_MAX_IMAGES]]


def nearest_push(records: Sequence[PushRecord], history: History) -> PushRecord | None:
    """Return the push of the nearest commit of the history; None if there is none. Pure."""
    by_commit = {one.revision.partition("-")[0]: one for one in reversed(records)}
    found = (by_commit.get(commit) for commit in history.commits)
    return next((one for one in found if one), None)


def _candidate_of(record: PushRecord, image: KontextImage) -> Candidate:
    repository, _, tag = record.reference.rpartition(":")
    return Candidate(image, Reference(repository, tag), Origin.OWN_PUSH)


def _with_ancestors(image: KontextImage) -> set[Digest]:
    return {image.digest, *(ancestor.image for ancestor in image.lineage.ancestors)}


def likely_tags(tags: Iterable[str], history: History) -> Iterator[tuple[Origin, str]]:
    """Yield the tags of images that are probably like the work tree, the likeliest first. Pure.

    First the tags that name the nearest commits of the history, then the branches.
    """
    tags = tuple(tags)
    distance = {commit: place for place, commit in enumerate(history.commits)}
    prefixes = {commit[:7]: commit for commit in reversed(history.commits)}
    named: list[tuple[int, str]] = []
    for tag in tags:
        digits = match[1] if (match := _COMMIT_TAG.fullmatch(tag)) else ""
        commit = prefixes.get(digits[:7])
        if commit and commit.startswith(digits):
            named.append((distance[commit], tag))
    seen: set[int] = set()
    for place, tag in sorted(named):
        if place not in seen:
            seen.add(place)
            yield Origin.COMMIT, tag
    there = set(tags)
    for branch in dict.fromkeys((*history.branches, *_USUAL_BRANCHES)):
        tag = re.sub(r"[^\w.-]", "-", branch, flags=re.ASCII)
        if tag in there:
            yield Origin.BRANCH, tag
