"""The statement of --provenance: what an image was made of, in SLSA's words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.documents import blocks
from support.models import SHIPPED, SPEC, described, plan_on, published
from support.trees import File, Tree

from kontext_plugin import read_version
from kontext_plugin.image.reference import parse_reference
from kontext_plugin.image.spec import REVISION, SOURCE, ImageSpec
from kontext_plugin.push.options import PushOptions, parse_push
from kontext_plugin.push.parent import Candidate, Origin, StartFresh
from kontext_plugin.push.plan import Plan, make_plan
from kontext_plugin.push.provenance import git_uri, image_uri, statement
from kontext_plugin.push.results import Pushed
from kontext_plugin.terminal.text import json_document

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/provenance.md"
SCHEMA = Draft202012Validator(json.loads((ROOT / "tests/data/provenance_schema.json").read_bytes()))

TAG = parse_reference("host.io/me/app:t")
OPTIONS = PushOptions((TAG,))
NOTHING = StartFresh("there is no image to build on")
COMMIT = "a" * 40
URL = "https://git.example.com/me/app.git"
TREE: Tree = {"ballast": File(b"b" * 10_000), "a": File(b"a")}


def spec(**labels: str) -> ImageSpec:
    names = {"revision": REVISION, "source": SOURCE}
    return replace(SPEC, git_labels={names[name]: value for name, value in labels.items()})


def test_the_documented_statement_passes_the_schema() -> None:
    (text,) = (block.text for block in blocks(DOCUMENT) if block.language == "json")
    documented = json.loads(text)
    SCHEMA.validate(documented)
    digest = "a" * 64
    base = replace(SHIPPED, source=f"alpine@sha256:{digest}", name="alpine:3.22")
    full = replace(spec(revision=COMMIT, source=URL), bases=(base,))
    image = published(plan_on(NOTHING, full, described(TREE)))
    plan = plan_on(image, full, described({**TREE, "a": File(b"2")}))
    assert shape(stated(plan, replace(OPTIONS, base="alpine:3.22"))) == shape(documented)


def shape(value: Any) -> Any:
    """Return a document with its keys in their order, and no values."""
    if isinstance(value, dict):
        return [(key, shape(each)) for key, each in value.items()]
    return [shape(each) for each in value] if isinstance(value, list) else None


def stated(plan: Plan, options: PushOptions = OPTIONS) -> dict[str, Any]:
    """Return the statement as a reader gets it. It passes the schema."""
    pushed = Pushed(published(plan), options.tags, plan, options.tags, 7)
    found: dict[str, Any] = json.loads(json_document(statement(options, pushed)))
    SCHEMA.validate(found)
    return found


def definition(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["predicate"]["buildDefinition"]
    return found


def dependencies(document: Mapping[str, Any]) -> dict[str, Any]:
    return {one.pop("name"): one for one in definition(document)["resolvedDependencies"]}


FIRST = plan_on(NOTHING, spec(revision=COMMIT, source=URL), described(TREE))
IMAGE = published(FIRST)


def changed() -> Plan:
    """Return the plan of a push of a changed file onto the first image."""
    return plan_on(IMAGE, spec(), described({**TREE, "a": File(b"2")}))


def test_a_fresh_push_is_made_of_its_commit(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "d").mkdir()
    options = replace(OPTIONS, directory=str(tmp_path / "d"))
    assert stated(FIRST, options) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": "host.io/me/app",
                "digest": {"sha256": IMAGE.digest.removeprefix("sha256:")},
            }
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://kontext.dev/push/v1",
                "externalParameters": {
                    "tags": ["host.io/me/app:t"],
                    "source": {"repository": f"git+{URL}", "path": "d"},
                },
                "internalParameters": {"platforms": ["linux/amd64"], "generation": 0},
                "resolvedDependencies": [
                    {
                        "name": "source",
                        "uri": f"git+{URL}@{COMMIT}",
                        "digest": {"gitCommit": COMMIT},
                        "annotations": {"dirty": False},
                    }
                ],
            },
            "runDetails": {
                "builder": {"id": "https://kontext.dev/cli", "version": {"kontext": read_version()}}
            },
        },
    }


def test_uncommitted_changes_are_stated() -> None:
    plan = plan_on(NOTHING, spec(revision=f"{COMMIT}-dirty", source=URL), described(TREE))
    assert dependencies(stated(plan)) == {
        "source": {
            "uri": f"git+{URL}@{COMMIT}",
            "digest": {"gitCommit": COMMIT},
            "annotations": {"dirty": True},
        }
    }


def test_a_commit_without_a_remote_is_stated() -> None:
    document = stated(plan_on(NOTHING, spec(revision=COMMIT), described(TREE)))
    assert dependencies(document) == {
        "source": {"digest": {"gitCommit": COMMIT}, "annotations": {"dirty": False}}
    }
    assert "repository" not in definition(document)["externalParameters"]["source"]


def test_a_remote_without_a_commit_is_no_dependency() -> None:
    document = stated(plan_on(NOTHING, spec(source=URL), described(TREE)))
    assert dependencies(document) == {}
    assert definition(document)["externalParameters"]["source"]["repository"] == f"git+{URL}"


def test_without_git_there_is_no_source() -> None:
    document = stated(plan_on(NOTHING, spec(), described(TREE)))
    assert dependencies(document) == {}
    assert definition(document)["externalParameters"] == {"tags": ["host.io/me/app:t"]}


def test_a_label_of_the_user_is_not_taken_for_git() -> None:
    labels = {REVISION: "c" * 40, SOURCE: "https://elsewhere.example"}
    plan = plan_on(NOTHING, replace(spec(), labels=labels), described(TREE))
    document = stated(plan, replace(OPTIONS, labels=labels))
    assert dependencies(document) == {}
    assert definition(document)["externalParameters"]["options"] == {"label": labels}


def test_a_delta_is_also_made_of_its_parent() -> None:
    document = stated(changed())
    digest = IMAGE.digest.removeprefix("sha256:")
    assert dependencies(document) == {
        "parent": {
            "uri": f"pkg:oci/repo@sha256%3A{digest}?repository_url=host.io/repo",
            "digest": {"sha256": digest},
        }
    }
    assert definition(document)["internalParameters"]["generation"] == 1


def test_the_parent_is_the_nearest_ancestor() -> None:
    tree: Tree = {**TREE, "b": File(b"2" * 3000)}
    second = published(plan_on(IMAGE, spec(), described(tree)))
    third = plan_on(second, spec(), described({**tree, "a": File(b"3")}))
    assert len(published(third).lineage.ancestors) == 2
    digest = dependencies(stated(third))["parent"]["digest"]
    assert digest == {"sha256": second.digest.removeprefix("sha256:")}


def test_an_image_that_was_there_keeps_its_parent() -> None:
    """Where that was found is not known: an earlier push has built on it."""
    second = published(changed())
    again = plan_on(second, spec(), described({**TREE, "a": File(b"2")}))
    assert dependencies(stated(again)) == {
        "parent": {"digest": {"sha256": IMAGE.digest.removeprefix("sha256:")}}
    }


def test_a_parent_is_where_it_was_found() -> None:
    found = Candidate(IMAGE, parse_reference("other.io/app:main"), Origin.FROM)
    plan = make_plan([found], NOTHING, spec(), described({**TREE, "a": File(b"2")}))
    uri = dependencies(stated(plan))["parent"]["uri"]
    assert uri.endswith("?repository_url=other.io/app")


def test_the_base_of_each_platform_is_a_dependency() -> None:
    digests = ["1" * 64, "2" * 64]
    platforms = ["linux/amd64", "linux/arm64"]
    bases = tuple(
        replace(SHIPPED, platform=platform, source=f"alpine@sha256:{digest}", name="alpine:3")
        for platform, digest in zip(platforms, digests, strict=True)
    )
    plan = plan_on(NOTHING, replace(spec(), bases=bases), described(TREE))
    document = stated(plan, replace(OPTIONS, base="alpine:3", platforms=tuple(platforms)))
    assert definition(document)["resolvedDependencies"] == [
        {
            "name": "base",
            "uri": f"pkg:oci/alpine@sha256%3A{digest}?repository_url=docker.io/library/alpine",
            "digest": {"sha256": digest},
            "annotations": {"platform": platform},
        }
        for platform, digest in zip(platforms, digests, strict=True)
    ]
    assert definition(document)["externalParameters"]["options"] == {
        "base": "alpine:3",
        "platform": platforms,
    }


def test_each_repository_is_a_subject_once() -> None:
    names = ["host.io/me/app:t", "other.io/app:t", "host.io/me/app:u"]
    document = stated(FIRST, PushOptions(tuple(map(parse_reference, names))))
    assert [one["name"] for one in document["subject"]] == ["host.io/me/app", "other.io/app"]
    assert definition(document)["externalParameters"]["tags"] == names


def test_options_have_the_names_of_their_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    given = ["--check-parent", "--compression", "zstd", "--git", "--gitignore", "--no-git-labels"]
    given += ["--from", "host.io/r1:main~2", "--max-layers", "9", "--reuse", "own"]
    given += ["--secrets", "block", "--label", "a=1", "--ignore-file", f"{tmp_path}/d/rules"]
    private = ["--insecure", "--timeout", "9s", "--timings", "--iidfile", "i", "--provenance", "p"]
    options, _ = parse_push(["-t", str(TAG), *given, *private, str(tmp_path / "d")])
    assert definition(stated(FIRST, options))["externalParameters"]["options"] == {
        "check-parent": True,
        "compression": "zstd",
        "gitignore": True,
        "git": True,
        "label": {"a": "1"},
        "max-layers": 9,
        "reuse": "own",
        "secrets": "block",
        "from": ["host.io/r1:main~2"],
        "ignore-file": "rules",
        "no-git-labels": True,
        "created": "1970-01-01T00:00:00Z",
    }
    options, _ = parse_push(["-t", str(TAG), "--fresh", "--single-layer"])
    found = definition(stated(FIRST, options))["externalParameters"]["options"]
    assert found == {"fresh": True, "single-layer": True, "created": "1970-01-01T00:00:00Z"}


def test_a_path_that_is_not_utf8_stays_json(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    directory = tmp_path / "d\udcff"
    directory.mkdir()
    document = stated(FIRST, replace(OPTIONS, directory=str(directory)))
    assert definition(document)["externalParameters"]["source"]["path"] == "d\\xff"


GIT_URIS = {
    "https": ("https://example.com/a.git", "git+https://example.com/a.git"),
    "http with a port": ("http://example.com:8080/a", "git+http://example.com:8080/a"),
    "ssh": ("ssh://git@example.com/a", "git+ssh://git@example.com/a"),
    "ssh in git's other words": ("git+ssh://example.com/a", "git+ssh://example.com/a"),
    "ssh in git's third words": ("ssh+git://example.com/a", "git+ssh://example.com/a"),
    "git's own protocol": ("git://example.com/a", "git+git://example.com/a"),
    "as scp writes it": ("git@example.com:me/a.git", "git+ssh://git@example.com/me/a.git"),
    "as scp writes it, absolute": ("example.com:/srv/a", "git+ssh://example.com/srv/a"),
    "IPv6": ("https://[::1]:8080/a", "git+https://[::1]:8080/a"),
    "a space": ("https://example.com/a b", "git+https://example.com/a%20b"),
    "encoded already": ("https://example.com/a%20b", "git+https://example.com/a%20b"),
    "a letter with an accent": ("https://example.com/ä", "git+https://example.com/%C3%A4"),
}


@pytest.mark.parametrize(("remote", "uri"), GIT_URIS.values(), ids=GIT_URIS)
def test_a_remote_has_the_form_of_spdx(remote: str, uri: str) -> None:
    assert git_uri(remote) == uri


def test_a_push_without_the_option_does_not_import_it() -> None:
    program = "import sys, kontext_plugin.commands.push; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "kontext_plugin.push.results" in run.stdout.split()
    assert "kontext_plugin.push.provenance" not in run.stdout.split()


def test_a_registry_may_have_a_port() -> None:
    digest = "sha256:" + "f" * 64
    assert image_uri("127.0.0.1:5000/me/app", digest) == (
        f"pkg:oci/app@sha256%3A{'f' * 64}?repository_url=127.0.0.1:5000/me/app"
    )
