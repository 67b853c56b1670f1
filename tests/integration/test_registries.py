"""Many states, pushed to many registries: each image has exactly the files of its directory.

KONTEXT_TEST_STATES is the number of states for each registry. KONTEXT_TEST_SEED repeats a run that
failed.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from support.quirks import Quirks, serve_quirks
from support.random_edits import edit_at_random, random_seed
from support.registry_servers import (
    CraneRegistry,
    DebianDistribution,
    Distribution,
    Gitea,
    ImmutableOciRegistry,
    OciRegistry,
    Server,
)
from support.services import Docker, install_plugin
from support.trees import PROGRAM, File, Tree, in_archive, on_disk, plant

STATES = int(os.environ.get("KONTEXT_TEST_STATES") or 8)

PUSHES = 200 if STATES > 8 else 30
LAYERS = 16
"""The layers of sources that an image keeps. Its base is one more."""


class Case(NamedTuple):
    server: type[Server]
    quirks: Quirks | None = None  # None: there is no proxy before it
    overwrites: bool = True  # a tag may be put on another image


REGISTRIES = {
    "docker-registry 2.8": Case(DebianDistribution),
    "distribution 3": Case(Distribution),
    "crane": Case(CraneRegistry),
    "ociregistry": Case(OciRegistry),
    "ociregistry, immutable": Case(ImmutableOciRegistry, overwrites=False),
    "gitea": Case(Gitea),
    "a manifest is there late": Case(CraneRegistry, Quirks(lag=1)),
    "a tag moves late": Case(DebianDistribution, Quirks(tag_lag=3)),
    "immutable": Case(CraneRegistry, Quirks(immutable=True), overwrites=False),
    "denied": Case(DebianDistribution, Quirks(denied=True), overwrites=False),
    # crane itself cannot put an existing tag on another image there.
    "no digests": Case(CraneRegistry, Quirks(no_digest=True), overwrites=False),
}


@dataclass
class Course:
    """A directory that is edited and pushed to one repository, again and again."""

    server: Server
    host: str  # the server, or a proxy to it
    repository: str
    docker: Docker
    crane: str
    source: Path
    folder: Path
    chance: random.Random
    tag: str = "v0"
    shown: dict[str, Tree] = field(default_factory=dict)  # of each tag that is left
    _made: int = 0

    def push(self) -> str:
        """Push the directory, and return the digest of its image, which is right."""
        pushed = self.docker.push(f"{self.host}/{self.repository}:{self.tag}", self.source)
        assert pushed.code == 0, pushed.stderr
        digest = pushed.image.rpartition("@")[2]
        tree = on_disk(self.source)
        assert self.server.digest(self.repository, self.tag) == digest
        assert self.exported(digest) == tree
        self.shown[self.tag] = tree
        return digest

    def exported(self, reference: str) -> Tree:
        """Return the tree of an image, from the registry itself."""
        name = f"@{reference}" if ":" in reference else f":{reference}"
        done = subprocess.run(
            [self.crane, "export", f"{self.server.host}/{self.repository}{name}", "-"],
            env=os.environ | {"DOCKER_CONFIG": str(self.docker.config)},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        return in_archive(io.BytesIO(done.stdout))

    def new_tag(self) -> None:
        self._made += 1
        self.tag = f"v{self._made}"

    def another_machine(self) -> None:
        """Go on with an empty cache."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def delete_a_tag(self) -> None:
        if self.server.deletes and self.shown:
            self.server.delete_tag(self.repository, self.chance.choice(sorted(self.shown)))
            left = self.server.tags(self.repository)
            self.shown = {tag: tree for tag, tree in self.shown.items() if tag in left}

    def collect(self) -> None:
        """Collect garbage, as the registry's documents say: it does not run meanwhile."""
        if self.server.collects:
            self.server.stop()
            self.server.collect(untagged=self.chance.random() < 0.5)
            self.server.start()
            self.check_all()

    def check_all(self) -> None:
        for tag, tree in self.shown.items():
            assert self.exported(tag) == tree, tag


@pytest.fixture
def course(
    request: pytest.FixtureRequest, tmp_path: Path, root: Path, crane_path: str
) -> Iterator[Course]:
    case: Case = request.param
    chance = random.Random(random_seed(request.node.name))
    source = tmp_path / "source"
    source.mkdir()
    plant(source, PROGRAM | {"ballast": File(chance.randbytes(100_000))})
    docker = Docker(tmp_path / "docker", {"KONTEXT_CACHE_DIR": str(tmp_path / "cache")})
    install_plugin(docker.config, root / "kontext_plugin" / "docker-kontext")
    with ExitStack() as stack:
        server = stack.enter_context(case.server(tmp_path / "registry"))
        host = server.host
        if case.quirks is not None:
            host = stack.enter_context(serve_quirks(host, case.quirks)).host
        server.log_in(docker, host, server.host)
        repository = server.repository()
        yield Course(server, host, repository, docker, crane_path, source, tmp_path, chance)


@pytest.mark.parametrize(
    ("course", "overwrites"),
    [(case, case.overwrites) for case in REGISTRIES.values()],
    ids=REGISTRIES,
    indirect=["course"],
)
def test_the_image_is_right_after_every_push(course: Course, overwrites: bool) -> None:
    chance = course.chance
    rare = max(1, STATES // 8)
    occasions = (
        [course.new_tag] * 2 * rare
        + [course.another_machine] * rare
        + [course.delete_a_tag] * rare
        + [course.collect] * rare
    )
    plan = occasions + [None] * (STATES - len(occasions))
    chance.shuffle(plan)
    course.push()
    for number, occasion in enumerate(plan[:STATES], 1):
        print(f"state {number}: {occasion.__name__ if occasion else 'an edit'}")
        if occasion:
            occasion()
        if chance.random() < 0.9:  # else nothing changes
            edit_at_random(course.source, chance)
        if not overwrites and on_disk(course.source) != course.shown.get(course.tag):
            course.new_tag()
        course.push()
    course.check_all()


@pytest.mark.slow
@pytest.mark.parametrize("course", [Case(CraneRegistry)], ids=["crane"], indirect=True)
def test_an_image_keeps_few_layers_over_many_pushes(course: Course) -> None:
    for number in range(PUSHES):
        digest = course.push()
        layers = course.server.layers(course.repository, digest)
        assert len(layers) <= LAYERS + 1, f"push {number}"
        edit_at_random(course.source, course.chance)
