"""What registries in the field do, and what people do with them: a push is right, or says why not.

Every push goes through a proxy with quirks, and through a line that counts bytes. The images are
read from the registry itself.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from support.proxy import ALWAYS, Exchange, Fault, Response, Rule
from support.quirks import DENIED, IMMUTABLE, Quirks, QuirkyRegistry, serve_quirks
from support.registry_servers import (
    CraneRegistry,
    DebianDistribution,
    Distribution,
    Gitea,
    ImmutableOciRegistry,
    OciRegistry,
    Server,
)
from support.services import Docker, Result, install_plugin
from support.slow_line import Line, line
from support.trees import File, Tree, in_archive, on_disk, plant

from kontext_plugin.push.preflight import LARGE

TREE: Tree = {
    "a": File(b"".join(b"%d\n" % number for number in range(2000))),
    "b": File(b"1\n"),
    "bin": File(os.urandom(2_000_000)),
}
DELTA = 100_000
"""Bytes that go to the registry for a small edit, at most. All of TREE is far more."""

_UPLOADED = re.compile(r"/blobs/uploads/.*digest=(sha256(?::|%3A)[0-9a-f]{64})")


class Stage(NamedTuple):
    server: type[Server] = CraneRegistry
    quirks: Quirks = Quirks()


def on(**stages: Stage) -> pytest.MarkDecorator:
    """Run the test on these registries."""
    return pytest.mark.parametrize("field", stages.values(), ids=stages, indirect=True)


def registries(*servers: type[Server]) -> pytest.MarkDecorator:
    return on(**{server.__name__: Stage(server) for server in servers})


IN_MEMORY = (CraneRegistry, OciRegistry)
ON_DISK = (DebianDistribution, Distribution)


@dataclass
class Field:
    """A directory, a machine that pushes it, and a registry."""

    server: Server
    way: QuirkyRegistry
    line: Line
    docker: Docker
    crane: str
    repository: str
    folder: Path
    now: float = 0.0  # the time of the registry's quirks: it stands still
    requests: Sequence[str] = ()  # of the last push, as METHOD PATH
    sent: int = 0  # bytes of the last push, to the registry
    _machines: int = 0

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def name(self, tag: str) -> str:
        return f"{self.line.host}/{self.repository}:{tag}"

    def push(self, *tags: str, options: Sequence[str] = (), source: Path | None = None) -> Result:
        first, *others = map(self.name, tags)
        more = [argument for tag in others for argument in ("-t", tag)]
        self.line.reset()
        self.way.reset()
        pushed = self.docker.push(first, source or self.source, *more, *options)
        self.requests, self.sent = self.way.requests(), self.line.up.carried
        return pushed

    def push_well(self, *tags: str, options: Sequence[str] = ()) -> str:
        """Push, and return the digest of the image: all tags show it, and it has the directory."""
        pushed = self.push(*tags, options=options)
        digest = pushed.image.rpartition("@")[2]
        assert "WARNING" not in pushed.stderr
        for tag in tags:
            assert self.server.digest(self.repository, tag) == digest
            assert self.shown(tag) == self.tree()
        return digest

    def edit(self) -> None:
        """Add a line to a small file."""
        with (self.source / "b").open("a") as file:
            file.write("another line\n")

    def another_machine(self) -> None:
        """Go on with an empty cache."""
        self._machines += 1
        self.docker.environment["KONTEXT_CACHE_DIR"] = str(self.folder / f"cache {self._machines}")

    def tree(self) -> Tree:
        """Return what a push takes: git's own files are none of it."""
        whole = on_disk(self.source)
        return {path: whole[path] for path in whole if path.partition("/")[0] != ".git"}

    def shown(self, tag: str) -> Tree:
        done = subprocess.run(
            [self.crane, "export", f"{self.server.host}/{self.repository}:{tag}", "-"],
            env=os.environ | {"DOCKER_CONFIG": str(self.docker.config)},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        return in_archive(io.BytesIO(done.stdout))

    def layers(self, reference: str) -> list[str]:
        return self.server.layers(self.repository, reference)

    def shared_layer(self) -> str:
        """Return the layer that unrelated images of the repository share: the extractor's."""
        other = self.folder / "other"
        plant(other, {"other": File(b"other\n")})
        self.another_machine()
        assert self.push("other", source=other).image
        self.another_machine()
        assert self.push("one").image
        (shared,) = {*self.layers("other")} & {*self.layers("one")}
        return shared

    def manifest_writes(self) -> list[str]:
        """Return the tags and digests whose manifests the last push wrote."""
        puts = [asked for asked in self.requests if asked.startswith("PUT ")]
        return [asked.rpartition("/")[2] for asked in puts if "/manifests/" in asked]

    def read_back(self, digest: str) -> list[str]:
        """Return the requests of the last push that ask for what it had just written."""
        written: set[str] = set()
        found = []
        for asked in self.requests:
            method, _, path = asked.partition(" ")
            last = path.rpartition("/")[2]
            if method == "PUT" and "/manifests/" in path:
                written |= {last, digest}
            elif upload := _UPLOADED.search(path):
                written.add(upload[1].replace("%3A", ":"))
            elif method in ("GET", "HEAD") and last in written:
                found.append(asked)
        return found


@pytest.fixture
def field(
    request: pytest.FixtureRequest, tmp_path: Path, root: Path, crane_path: str
) -> Iterator[Field]:
    stage: Stage = getattr(request, "param", Stage())
    docker = Docker(tmp_path / "docker")
    install_plugin(docker.config, root / "kontext_plugin" / "docker-kontext")
    with ExitStack() as stack:
        server = stack.enter_context(stage.server(tmp_path / "registry"))
        way = stack.enter_context(serve_quirks(server.host, stage.quirks, lambda: made.now))
        way_line = stack.enter_context(line(way.host))
        server.log_in(docker, server.host, way_line.host)
        made = Field(server, way, way_line, docker, crane_path, server.repository(), tmp_path)
        made.another_machine()
        plant(made.source, TREE)
        yield made


# --- 1: a tag for each commit, branch or pull request ---


@pytest.mark.parametrize("change", ["an edit", "no change"])
def test_another_tag_costs_its_delta(field: Field, change: str) -> None:
    first = field.push_well("c1")
    if change == "an edit":
        field.edit()
    second = field.push_well("c2")
    assert field.sent < DELTA
    assert (second == first) == (change == "no change")


@pytest.mark.parametrize("change", ["an edit", "no change"])
def test_on_another_machine_another_tag_costs_its_delta_with_from(
    field: Field, change: str
) -> None:
    first = field.push_well("c1")
    field.another_machine()
    if change == "an edit":
        field.edit()
    second = field.push_well("c2", options=["--from", field.name("c1")])
    assert field.sent < DELTA
    assert (second == first) == (change == "no change")


def test_on_another_machine_the_same_tree_is_not_uploaded_again(field: Field) -> None:
    first = field.push_well("c1")
    field.another_machine()
    assert field.push_well("c2") == first
    assert field.sent < DELTA


@pytest.mark.parametrize("naming", ["{}", "{:.7}", "sha-{:.7}", "main-{:.7}"])
def test_on_another_machine_git_names_the_parent(field: Field, naming: str) -> None:
    git(field.source, "init", "-q")
    for _ in range(2):
        field.another_machine()
        field.edit()
        git(field.source, "add", "-A")
        git(field.source, "commit", "-q", "-m", "c")
        field.push_well(naming.format(git(field.source, "rev-parse", "HEAD")))
    assert field.sent < DELTA


@pytest.mark.parametrize("branch", ["main", "master", "trunk", "latest", "dev", "edge"])
def test_on_another_machine_a_new_tag_builds_on_a_usual_one(field: Field, branch: str) -> None:
    field.push_well(branch)
    field.another_machine()
    field.edit()
    field.push_well("pr-12")
    assert field.sent < DELTA


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


# --- 2: what was just written is not there yet ---


@on(lag=Stage(quirks=Quirks(lag=1)))
def test_nothing_that_was_just_written_is_read_back(field: Field) -> None:
    digest = field.push_well("v1")
    assert field.read_back(digest) == []
    for _ in range(2):  # the tag is not there yet, but this machine knows what it pushed
        field.edit()
        digest = field.push_well("v1")
        assert field.read_back(digest) == []
        assert field.sent < DELTA
    field.now = 1
    assert field.push_well("v1") == digest
    assert field.manifest_writes() == []


@on(lag=Stage(quirks=Quirks(lag=1)))
def test_a_push_of_nothing_is_right_while_the_tag_is_not_there_yet(field: Field) -> None:
    digest = field.push_well("v1")
    assert field.push_well("v1") == digest
    assert field.sent < DELTA


@on(lag=Stage(quirks=Quirks(lag=1)), tag_lag=Stage(quirks=Quirks(tag_lag=3)))
def test_another_machine_is_right_before_the_tag_is(field: Field) -> None:
    field.push_well("v1")
    for _ in range(2):
        field.another_machine()
        field.edit()
        # It may tell of an image that it does not know: there is one.
        assert field.push("v1").image
        assert field.shown("v1") == field.tree()


# --- 13: a registry that asks to wait ---


@on(busy=Stage(quirks=Quirks(busy=12)))
def test_a_push_waits_for_a_registry_that_is_busy(field: Field) -> None:
    """crane gives up after four seconds, whatever Retry-After says."""
    pushed = field.push("v1")
    assert pushed.image
    assert "accepts no more requests for now" in pushed.stderr
    assert pushed.stderr.count("tries again") == 1
    assert field.shown("v1") == field.tree()


# --- 2b: a tag shows its former image for a while ---


@on(crane=Stage(quirks=Quirks(tag_lag=3)), debian=Stage(DebianDistribution, Quirks(tag_lag=3)))
def test_an_edit_builds_on_what_this_machine_pushed_last(field: Field) -> None:
    field.push_well("v1")
    plant(field.source, {"new": File(os.urandom(5 * DELTA))})
    before = field.push_well("v1")
    field.edit()
    after = field.push_well("v1")
    assert field.sent < DELTA, "the former image does not have the new file"
    assert {*field.layers(before)} < {*field.layers(after)}
    field.now = 3
    assert field.push_well("v1") == after
    assert field.manifest_writes() == []


@on(crane=Stage(quirks=Quirks(tag_lag=3)))
def test_a_former_image_under_the_tag_does_not_count_as_pushed(field: Field) -> None:
    """A tree that comes back at once: the tag still shows its image, and will show another."""
    field.push_well("v1")
    content = (field.source / "b").read_bytes()
    field.edit()
    field.push_well("v1")
    (field.source / "b").write_bytes(content)
    assert field.push("v1").image
    assert field.shown("v1") == field.tree()
    field.now = 3
    field.push_well("v1")


# --- 3: tags that are written once ---

WRITTEN_ONCE = {
    "immutable": Stage(quirks=Quirks(immutable=True)),
    "denied": Stage(quirks=Quirks(denied=True)),
    "denied_409": Stage(quirks=Quirks(denied=True, denied_status=409)),
    "ociregistry": Stage(ImmutableOciRegistry),
}


@on(**WRITTEN_ONCE)
@pytest.mark.parametrize("machine", ["the same machine", "another machine"])
def test_a_job_that_runs_again_succeeds(field: Field, machine: str) -> None:
    digest = field.push_well("sha1", "v1")
    if machine == "another machine":
        field.another_machine()
    assert field.push_well("sha1", "v1") == digest
    assert field.manifest_writes() == []


@on(**WRITTEN_ONCE)
def test_only_the_tags_that_are_missing_are_written(field: Field) -> None:
    digest = field.push_well("sha1")
    assert field.push_well("sha1", "v1") == digest
    assert field.manifest_writes() == ["v1"]
    assert field.push_well("v2", "sha1") == digest
    assert field.manifest_writes() == ["v2"]


# --- 3b: a tag that is written once, and another tree ---


@on(**WRITTEN_ONCE)
def test_a_refused_tag_is_told_in_the_words_of_the_registry(field: Field) -> None:
    field.push_well("v1")
    before = field.tree()
    field.edit()
    pushed = field.push("v1")
    assert (pushed.code, pushed.stdout) == (1, "")
    words = [IMMUTABLE, DENIED, "cannot overwrite tag"]
    assert any(said in pushed.stderr for said in words)
    assert "another tag" in pushed.stderr
    assert "docker login" not in pushed.stderr
    assert field.shown("v1") == before
    field.push_well("v2")
    assert field.sent < DELTA


# --- 4: no Docker-Content-Digest ---


@on(no_digest=Stage(quirks=Quirks(no_digest=True)))
def test_a_new_tag_needs_no_digest_of_the_registry(field: Field) -> None:
    field.push_well("c1")
    field.edit()
    field.push_well("c2")
    assert field.sent < DELTA


@on(no_digest=Stage(quirks=Quirks(no_digest=True)))
@pytest.mark.parametrize("change", ["an edit", "no change"])
def test_an_old_tag_without_a_digest_is_written_or_the_fault_is_named(
    field: Field, change: str
) -> None:
    field.push_well("v1")
    before = field.tree()
    if change == "an edit":
        field.edit()
    pushed = field.push("v1")
    if pushed.code == 0:
        assert field.shown("v1") == field.tree()
    else:
        assert change == "an edit"
        assert pushed.code == 1
        assert "Docker-Content-Digest" in pushed.stderr
        assert "crane mutate failed" not in pushed.stderr
        assert "crane push failed" not in pushed.stderr
        assert field.shown("v1") == before


# --- F1: a blob is lost ---


@registries(*IN_MEMORY, *ON_DISK, Gitea)
@pytest.mark.parametrize(
    ("machine", "tag"), [("the same machine", "one"), ("another machine", "two")]
)
def test_a_lost_base_is_uploaded_again(field: Field, machine: str, tag: str) -> None:
    shared = field.shared_layer()
    field.server.delete_blob(field.repository, shared)
    field.edit()
    if machine == "another machine":
        field.another_machine()
    field.push_well(tag)
    assert field.server.has_blob(field.repository, shared)


@registries(DebianDistribution)
@pytest.mark.parametrize("machine", ["the same machine", "another machine"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_each_lost_layer_heals_with_the_next_edit(field: Field, layer: int, machine: str) -> None:
    field.push_well("v1")
    field.edit()
    field.push_well("v1")
    field.server.delete_blob(field.repository, field.layers("v1")[layer])
    field.edit()
    if machine == "another machine":
        field.another_machine()
    field.push_well("v1")
    field.edit()
    field.push_well("v1")


@registries(*IN_MEMORY, *ON_DISK, Gitea)
@pytest.mark.parametrize("lost", ["the base", "the sources"])
def test_fresh_heals_an_image_that_did_not_change(field: Field, lost: str) -> None:
    shared = field.shared_layer()
    (sources,) = {*field.layers("one")} - {shared}
    field.server.delete_blob(field.repository, shared if lost == "the base" else sources)
    field.push_well("one", options=["--fresh"])


# --- F2: garbage is collected while the registry runs ---


@registries(*ON_DISK)
@pytest.mark.parametrize("options", [[], ["--fresh"]], ids=["an edit", "--fresh"])
def test_a_collection_without_a_restart_heals_after_one(
    field: Field, options: Sequence[str]
) -> None:
    server = field.server
    assert isinstance(server, Distribution)
    shared = field.shared_layer()
    for tag in ("one", "other"):
        server.delete_tag(field.repository, tag)
    server.collect(untagged=True)
    assert not server.file(shared).exists()
    # The registry still says that it has the blobs. What this push makes may be broken.
    field.another_machine()
    field.push("one")
    server.restart()
    if not options:
        field.edit()
    field.push_well("one", options=options)
    field.another_machine()
    field.edit()
    field.push_well("two")


# --- F3: a tag is deleted ---


@registries(*IN_MEMORY, *ON_DISK)
@pytest.mark.parametrize("change", ["an edit", "no change"])
def test_a_push_builds_on_an_image_whose_tag_was_deleted(field: Field, change: str) -> None:
    digest = field.push_well("v1")
    field.server.delete_tag(field.repository, "v1")
    if change == "an edit":
        field.edit()
    again = field.push_well("v1")
    assert field.sent < DELTA
    assert (again == digest) == (change == "no change")


@registries(Gitea)
@pytest.mark.parametrize("change", ["an edit", "no change"])
def test_a_push_is_whole_where_the_layers_went_with_the_tag(field: Field, change: str) -> None:
    field.push_well("v1")
    field.server.delete_tag(field.repository, "v1")
    if change == "an edit":
        field.edit()
    field.push_well("v1")


@registries(*IN_MEMORY, *ON_DISK, Gitea)
@pytest.mark.parametrize("machine", ["the same machine", "another machine", "--fresh"])
def test_a_platform_is_added_to_an_image_that_goes_with_its_tag(field: Field, machine: str) -> None:
    """Gitea deletes what a tag has shown, also if it is an image of the index that replaces it."""
    field.push_well("v1")
    if machine == "another machine":
        field.another_machine()
    more = ["--fresh"] if machine == "--fresh" else []
    index = field.push_well("v1", options=["--platform", "linux/amd64,linux/arm64", *more])
    assert field.push_well("v1") == index


@registries(*IN_MEMORY, *ON_DISK, Gitea)
def test_one_push_moves_the_tag_of_the_parent_and_writes_another_repository(field: Field) -> None:
    """Gitea deletes the parent as soon as its tag is moved."""
    field.push_well("v1")
    field.edit()
    other = f"{field.line.host}/{field.repository}-other:v1"
    assert field.push("v1", options=["-t", other]).code == 0
    field.edit()
    pushed = field.push("v1", options=["-t", other])
    assert (pushed.code, "not as" in pushed.stderr) == (0, False), pushed.stderr
    assert field.shown("v1") == field.tree()


# --- F4: what the registry says when it refuses ---


def refused(status: int, message: str) -> Fault:
    body = json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()

    def answer(exchange: Exchange) -> None:
        exchange.rfile.read(exchange.length)
        exchange.answer(Response(status, {"Content-Type": "application/json"}, body))

    return answer


REFUSALS = {
    "quota": ("POST", r"/blobs/uploads/", "the project's storage quota of 10 GiB is used up"),
    "immutability": ("PUT", r"/manifests/", "tag v1 matches the immutability rule of the project"),
    "retention": ("PUT", r"/manifests/", "the image is under retention until 2027-01-01"),
}


@pytest.mark.parametrize("status", [403, 409])
@pytest.mark.parametrize(("method", "path", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_shows_the_words_of_the_registry(
    field: Field, method: str, path: str, words: str, status: int
) -> None:
    field.push_well("v1")
    before = field.tree()
    rule = Rule(method, path, refused(status, words), last=ALWAYS)
    field.way.proxy.rules.insert(0, rule)
    field.edit()
    pushed = field.push("v1")
    assert rule.struck
    assert (pushed.code, pushed.stdout) == (1, "")
    assert words in pushed.stderr
    assert field.shown("v1") == before


# --- How many requests a push makes ---


def test_an_edit_needs_few_requests(field: Field) -> None:
    field.push_well("v1")
    field.edit()
    field.push_well("v1")
    assert len(field.requests) <= 16, field.requests
    field.push_well("v1")
    assert len(field.requests) <= 3, field.requests


# A large push asks first


@registries(*IN_MEMORY, *ON_DISK, Gitea)
def test_a_large_push_asks_first_and_leaves_nothing_behind_by_that(field: Field) -> None:
    """It begins an upload that it never sends, and writes the tag again as it is."""
    (field.source / "large").write_bytes(os.urandom(LARGE))
    field.push_well("v1")
    first = field.server.digest(field.repository, "v1")
    (field.source / "large").write_bytes(os.urandom(LARGE))
    field.push_well("v1")
    written = [line for line in field.requests if re.match("PUT .*/manifests/", line)]
    assert len(written) == 2
    assert all(line.endswith("/v1") for line in written)
    assert field.server.digest(field.repository, "v1") != first
    field.edit()
    field.push_well("v1")
    assert sum(line.startswith("PUT") and "/manifests/" in line for line in field.requests) == 1


@registries(ImmutableOciRegistry)
def test_a_large_push_that_is_refused_at_its_end_is_not_uploaded_again(field: Field) -> None:
    """This registry accepts the same image under an immutable tag, so asking does not help."""
    field.push_well("v1")
    (field.source / "large").write_bytes(os.urandom(LARGE))
    pushed = field.push("v1")
    assert pushed.code == 1
    assert f"refuses to change {field.name('v1')}: " in pushed.stderr
    assert "Push to another tag." in pushed.stderr
    field.push_well("v2")
    assert field.sent < DELTA
