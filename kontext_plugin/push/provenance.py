"""What a push made an image of: an in-toto statement with SLSA's provenance (docs/provenance.md).

It says nothing of the machine: no absolute path, no time, no user, no credentials.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kontext_plugin import read_version
from kontext_plugin.image.reference import registry_of
from kontext_plugin.image.spec import REVISION, SOURCE
from kontext_plugin.push.parent import BuildOn
from kontext_plugin.source.git import parse_revision, path_in_work_tree

if TYPE_CHECKING:
    from kontext_plugin.push.options import PushOptions
    from kontext_plugin.push.results import Pushed

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"

BUILD_TYPE = "https://kontext.dev/push/v1"
"""The meaning of the parameters and dependencies. It is a name: docs/provenance.md describes it."""

BUILDER = "https://kontext.dev/cli"
"""This program, wherever it runs. Who ran it is for the signature to say."""

_OPTIONS = {
    "base": "base",
    "check_parent": "check-parent",
    "compression": "compression",
    "fresh": "fresh",
    "gitignore": "gitignore",
    "keep_git": "git",
    "labels": "label",
    "max_layers": "max-layers",
    "platforms": "platform",
    "reuse": "reuse",
    "secrets": "secrets",
    "single_layer": "single-layer",
}
"""The options that decide what an image holds, or what may be in it, with their flags."""

_URI = "/:@%+~[]!$&'()*,;="
"""What an address may have beside letters, digits and `_.-`."""


def statement(options: PushOptions, pushed: Pushed) -> Mapping[str, Any]:
    """Return the statement on what a push has published, or found to be published already."""
    repositories = dict.fromkeys(tag.repository for tag in pushed.tags)
    image, git = pushed.image, pushed.plan.spec.git_labels
    external: dict[str, Any] = {"tags": [str(tag) for tag in pushed.tags]}
    if git:
        external["source"] = _source(git, os.path.realpath(options.directory))
    if given := dict(_options(options)):
        external["options"] = given
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": _sha256(image.digest)} for name in repositories],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": {
                    "platforms": list(image.all_platforms),
                    "generation": image.lineage.generation,
                },
                "resolvedDependencies": list(_dependencies(pushed)),
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"kontext": read_version()}}},
        },
    }


def git_uri(remote: str) -> str:
    """Return a remote, as git's labels name it, in SPDX's form: `git+https://…`. Pure."""
    scheme, found, address = remote.partition("://")
    if not found:  # user@host:path
        host, _, path = remote.partition(":")
        scheme, address = "ssh", f"{host}/{path.lstrip('/')}"
    transport = scheme.replace("git+", "").replace("+git", "")
    return f"git+{transport}://{quote(address, safe=_URI)}"


def image_uri(repository: str, digest: str) -> str:
    """Return the package URL of an image (purl specification, type `oci`). Pure."""
    registry, full = registry_of(repository), repository
    if not full.startswith(f"{registry}/"):  # Docker Hub, which nobody has to name
        full = f"{registry}/{full}" if "/" in full else f"{registry}/library/{full}"
    name = full.rpartition("/")[2]
    return f"pkg:oci/{name}@{quote(digest)}?repository_url={quote(full, safe='/:')}"


def _source(git: Mapping[str, str], root: str) -> dict[str, str]:
    """Return where the directory is: the repository, if git has its address, and the path."""
    remote, path = git.get(SOURCE), _text(path_in_work_tree(root)) or "."
    return ({"repository": git_uri(remote)} if remote else {}) | {"path": path}


def _options(options: PushOptions) -> Iterator[tuple[str, Any]]:
    """Yield the flags that were given, on the command line or in the file, with their values."""
    defaults = type(options)(tags=options.tags)
    for field, flag in _OPTIONS.items():
        if (value := getattr(options, field)) != getattr(defaults, field):
            yield flag, value.value if isinstance(value, Enum) else value
    if options.sources:
        yield "from", [str(source) for source in options.sources]
    if options.ignore_file:
        yield "ignore-file", _text(os.path.relpath(options.ignore_file, options.directory))
    if not options.git_labels:
        yield "no-git-labels", True
    if options.created:
        yield "created", options.created


def _dependencies(pushed: Pushed) -> Iterator[dict[str, Any]]:
    """Yield what the image is made of, each as a resource descriptor of in-toto."""
    plan, lineage = pushed.plan, pushed.image.lineage
    git = plan.spec.git_labels
    commit, is_dirty = parse_revision(git.get(REVISION, ""))
    if commit:
        remote = git.get(SOURCE)
        yield {
            "name": "source",
            **({"uri": f"{git_uri(remote)}@{commit}"} if remote else {}),
            "digest": {"gitCommit": commit},
            "annotations": {"dirty": is_dirty},
        }
    if lineage.ancestors:
        digest = lineage.ancestors[-1].image
        # An earlier push may have built on it, in another repository.
        is_built = isinstance(plan.parent, BuildOn) and not plan.parent.is_same
        found = plan.candidate.reference.repository if plan.candidate and is_built else ""
        yield {
            "name": "parent",
            **({"uri": image_uri(found, digest)} if found else {}),
            "digest": _sha256(digest),
        }
    for base in plan.spec.bases:
        if base.source:
            name, _, digest_text = base.source.rpartition("@")
            yield {
                "name": "base",
                "uri": image_uri(name, digest_text),
                "digest": _sha256(digest_text),
                "annotations": {"platform": base.platform},
            }


def _text(path: str) -> str:
    """Return a path as JSON can have it: bytes that are not UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _sha256(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}
