"""docs/provenance.md does what it says: a shell runs its commands, with real programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.documents import blocks
from support.program_builds import COSIGN, ORAS
from support.registry_servers import OciRegistry
from support.services import Docker, Registry, Result, built, missing
from support.trees import File, Tree

DOCUMENT = Path(__file__).parents[2] / "docs" / "provenance.md"
SCHEMA = Path(__file__).parents[1] / "data" / "provenance_schema.json"

TREE: Tree = {"ballast": File(b"b" * 10_000), "a": File(b"a")}

URL = "https://git.example.com/me/app.git"

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "application/vnd.in-toto+json"

Crane = Callable[..., bytes]


@dataclass
class Desk:
    """A directory with the work tree `app`, and a shell that runs the document's commands."""

    folder: Path
    repository: str
    docker: Docker
    environment: dict[str, str] = field(default_factory=dict)

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder / "app",
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "c")
        return self.git("rev-parse", "HEAD")

    def push(self, *options: str, tag: str = "dev") -> Result:
        pushed = self.docker.push(f"{self.repository}:{tag}", self.folder / "app", *options)
        assert pushed.code == 0, pushed.stderr
        return pushed

    def stated(self) -> dict[str, Any]:
        """Return the predicate of the last push. Its statement passes the schema."""
        document = json.loads((self.folder / "provenance.json").read_bytes())
        Draft202012Validator(json.loads(SCHEMA.read_bytes())).validate(document)
        predicate: dict[str, Any] = document["predicate"]
        return predicate

    def shell(self, script: str) -> str:
        """Return what a script prints."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=os.environ | {"DOCKER_CONFIG": str(self.docker.config)} | self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def examples(self, heading: str, then: str = "") -> list[str]:
        """Run each block of commands below a heading, and return what they print."""
        scripts = [one.text for one in blocks(DOCUMENT) if one.heading == heading]
        assert scripts, heading
        return [
            self.shell(f"{script.replace('registry.example.com/me/app', self.repository)}{then}")
            for script in scripts
        ]

    def attached(self, image: str) -> list[str]:
        """Return the types of all that is attached to an image, sorted."""
        listing = json.loads(self.shell(f"oras discover --format json {image}"))
        return sorted(one["artifactType"] for one in listing["referrers"])


@pytest.fixture(params=["docker-registry 2.8", "ociregistry"])
def repository(
    request: pytest.FixtureRequest, docker: Docker, registry: Registry, tmp_path: Path
) -> Iterator[str]:
    """A repository of a registry with a password, and of one that knows referrers.

    All programs use plain http for `localhost`.
    """
    if request.param == "ociregistry":
        with OciRegistry(tmp_path / "registry") as server:
            yield f"{server.host}/{server.repository()}".replace("127.0.0.1", "localhost")
    else:
        name = registry.repository().replace("127.0.0.1", "localhost")
        docker.log_in(name.partition("/")[0])
        yield name


@pytest.fixture
def desk(docker: Docker, repository: str, source: Path, tmp_path: Path) -> Desk:
    source.rename(tmp_path / "app")
    made = Desk(tmp_path, repository, docker)
    made.git("init", "--quiet")
    made.git("remote", "add", "origin", "https://me:s3cret@git.example.com/me/app.git")
    return made


@pytest.fixture
def programs(desk: Desk) -> None:
    """cosign and oras, without a network."""
    if not shutil.which("jq"):
        missing("jq")
    folders = [str(Path(built(build)).parent) for build in (COSIGN, ORAS)]
    desk.environment |= {
        "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
        "COSIGN_PASSWORD": "",
        "TUF_ROOT": str(desk.folder / "tuf"),
        "TUF_MIRROR": "http://127.0.0.1:9/",  # nobody is there
    }


@pytest.mark.usefixtures("programs")
def test_the_documented_commands_sign_attest_and_attach(desk: Desk) -> None:
    commit = desk.commit()
    (printed,) = desk.examples("Provenance and signatures", then='echo "$IMAGE"')
    image = desk.environment["IMAGE"] = printed.strip()
    digest = image.partition("@")[2]
    subject = {"name": desk.repository, "digest": {"sha256": digest.removeprefix("sha256:")}}
    desk.examples("A key")

    (verified,) = desk.examples("Sign")
    (signature,) = json.loads(verified)
    assert signature["critical"]["image"]["docker-manifest-digest"] == digest

    _, attested = desk.examples("Attest")
    assert attested.strip() == commit
    verified = desk.shell(
        "cosign verify-attestation --type slsaprovenance1 --key cosign.pub"
        " --insecure-ignore-tlog \"$IMAGE\" | jq -r '.payload | @base64d'"
    )
    assert json.loads(verified)["subject"] == [subject]
    assert json.loads(verified)["predicate"] == desk.stated()

    desk.examples("Attach")
    assert desk.attached(image) == [BUNDLE, BUNDLE, STATEMENT]

    (desk.folder / "app/a").write_text("2")
    pushed = desk.push("--provenance", str(desk.folder / "provenance.json"))
    source, parent = desk.stated()["buildDefinition"]["resolvedDependencies"]
    assert parent["digest"] == subject["digest"]
    assert source["annotations"] == {"dirty": True}
    assert desk.attached(pushed.image) == []
    verified = desk.shell('cosign verify --key cosign.pub --insecure-ignore-tlog "$IMAGE"')
    assert signature in json.loads(verified), "beside the attestation"


@pytest.mark.usefixtures("programs")
def test_signatures_do_not_disturb_kontext(desk: Desk, crane: Crane) -> None:
    """They are tags of the repository if that knows no referrers, and in cosign's old format."""
    (desk.folder / "app/gone").write_text("gone")
    desk.commit()
    image = desk.environment["IMAGE"] = desk.push(tag=desk.git("rev-parse", "HEAD")).image
    desk.examples("A key")
    desk.examples("Sign")
    desk.shell(
        "cosign sign --key cosign.key --new-bundle-format=false --use-signing-config=false"
        f" --tlog-upload=false {image}"
    )
    tags = crane("ls", desk.repository).decode().split()
    assert f"{image.partition('@')[2].replace(':', '-')}.sig" in tags

    (desk.folder / "app/gone").unlink()
    commit = desk.commit()
    shutil.rmtree(Path(os.environ["KONTEXT_CACHE_DIR"]))
    pushed = desk.push(tag=commit)
    assert "(the nearest commit), generation 0" in pushed.stderr
    listed = desk.docker("kontext", "ls", f"{desk.repository}:{commit}")
    assert listed.stdout.split() == ["a", "ballast"]
    purged = desk.docker("kontext", "purge", f"{desk.repository}:{commit}")
    assert purged.code == 0, purged.stderr
    assert image in purged.stdout + purged.stderr
    assert desk.docker("kontext", "verify", purged.image).code == 0


def test_the_document_names_the_versions() -> None:
    versions = [f"{build.name} {build.version.removeprefix('v')}" for build in (COSIGN, ORAS)]
    assert f"with {' and '.join(versions)}." in DOCUMENT.read_text("utf-8")


def test_the_statement_names_the_commit_that_was_pushed(desk: Desk) -> None:
    """Also where the image stays, and keeps the label of the former commit."""
    options = ["--provenance", str(desk.folder / "provenance.json")]
    former = desk.commit()
    first = desk.push(*options)
    (source,) = desk.stated()["buildDefinition"]["resolvedDependencies"]
    assert source == {
        "name": "source",
        "uri": f"git+{URL}@{former}",
        "digest": {"gitCommit": former},
        "annotations": {"dirty": False},
    }
    desk.git("commit", "--quiet", "--allow-empty", "--message", "nothing")
    again = desk.push(*options)
    assert again.image == first.image
    (source,) = desk.stated()["buildDefinition"]["resolvedDependencies"]
    later = desk.git("rev-parse", "HEAD")
    assert source["digest"] == {"gitCommit": later}
    assert later != former


def test_without_git_the_statement_has_no_source(desk: Desk) -> None:
    desk.commit()
    file = desk.folder / "provenance.json"
    pushed = desk.push("--provenance", str(file), "--no-git-labels")
    assert "names no commit" not in pushed.stderr
    definition = desk.stated()["buildDefinition"]
    assert definition["resolvedDependencies"] == []
    assert definition["externalParameters"]["options"] == {"no-git-labels": True}
    shutil.rmtree(desk.folder / "app/.git")
    pushed = desk.push("--provenance", str(file))
    assert f"names no commit: git knows none of '{desk.folder}/app'" in pushed.stderr
    assert "source" not in desk.stated()["buildDefinition"]["externalParameters"]


def test_a_directory_cannot_name_the_file(desk: Desk) -> None:
    (desk.folder / "app/.kontext.toml").write_text('provenance = "p"\n')
    failed = desk.docker.push(f"{desk.repository}:dev", desk.folder / "app")
    assert failed.code == 1
    assert "it must not set 'provenance': it writes a file with your rights" in failed.stderr


def test_a_failed_push_leaves_no_statement(desk: Desk) -> None:
    file = desk.folder / "provenance.json"
    file.write_text("of an earlier push")
    failed = desk.docker.push("127.0.0.1:9/no/body:v1", desk.folder / "app", f"--provenance={file}")
    assert failed.code == 1
    assert not file.exists()
