"""Image references: valid ones with their parts, and invalid ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_plugin.errors import USAGE, UsageError
from kontext_plugin.image.reference import (
    DOCKER_HUB,
    Reference,
    parse_image_reference,
    parse_reference,
    registry_of,
    repository_of,
)

DIGEST = "sha256:" + "a" * 64
LONG = "a" * 255

# text: repository, tag, registry
GOOD = {
    "ubuntu": ("ubuntu", "latest", DOCKER_HUB),
    "ubuntu:22.04": ("ubuntu", "22.04", DOCKER_HUB),
    "user/repo": ("user/repo", "latest", DOCKER_HUB),
    "docker.io/user/repo:t": ("docker.io/user/repo", "t", "docker.io"),
    "localhost/repo": ("localhost/repo", "latest", "localhost"),
    "localhost:5000/repo": ("localhost:5000/repo", "latest", "localhost:5000"),
    "localhost:5000/repo:5000": ("localhost:5000/repo", "5000", "localhost:5000"),
    "host:5000/a/b/c:t": ("host:5000/a/b/c", "t", "host:5000"),
    "127.0.0.1:5000/r1:t": ("127.0.0.1:5000/r1", "t", "127.0.0.1:5000"),
    "[::1]:5000/r1:t": ("[::1]:5000/r1", "t", "[::1]:5000"),
    "[fe80::1]/r1": ("[fe80::1]/r1", "latest", "[fe80::1]"),
    "gcr.io/project/image:v1": ("gcr.io/project/image", "v1", "gcr.io"),
    "Registry.Example/repo": ("Registry.Example/repo", "latest", "Registry.Example"),
    "a.b-c.d/x--y__z.w_v/0": ("a.b-c.d/x--y__z.w_v/0", "latest", "a.b-c.d"),
    "user/repo:_T.a-G_": ("user/repo", "_T.a-G_", DOCKER_HUB),
    f"h.io/{LONG}:{'t' * 128}": (f"h.io/{LONG}", "t" * 128, "h.io"),
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items(), ids=lambda text: str(text)[:30])
def test_a_valid_reference_has_its_parts(text: str, expected: tuple[str, str, str]) -> None:
    repository, tag, registry = expected
    reference = parse_reference(text)
    assert reference == Reference(repository, tag)
    assert reference.registry == registry
    assert str(reference) == f"{repository}:{tag}"
    assert reference.at(DIGEST) == f"{repository}@{DIGEST}"
    assert parse_reference(str(reference)) == reference


BAD = {
    "empty": "",
    "space": " ",
    "space before": " repo",
    "new line after": "repo\n",
    "new line after the tag": "repo:t\n",
    "one letter": "a",
    "only a tag": ":tag",
    "no tag after the colon": "repo:",
    "no repository": "localhost:5000/",
    "no repository but a tag": "host.io/:t",
    "slash first": "/repo",
    "slash last": "repo/",
    "two slashes": "a//b",
    "URL": "https://host.io/repo:t",
    "userinfo": "user:password@host.io/repo",
    "digest": f"repo@{DIGEST}",
    "tag and digest": f"repo:t@{DIGEST}",
    "upper case": "Repo",
    "upper case below": "host.io/user/Repo:t",
    "upper case user": "User/repo",
    "climbs": "host.io/../repo",
    "dot": "host.io/./repo",
    "dash first": "-repo",
    "flag": "--insecure",
    "dot last": "repo.",
    "two dots": "re..po",
    "three underscores": "re___po",
    "tag with a dash first": "repo:-t",
    "tag with a dot first": "repo:.t",
    "tag too long": "repo:" + "t" * 129,
    "tag with a plus": "repo:1+2",
    "tag with a comma": "repo:a,b",
    "two tags": "repo:a:b",
    "not ASCII": "rüpo",
    "not ASCII digits": "repo٣",
    "tag not ASCII": "repo:ü",
    "repository too long": "host.io/" + LONG + "a",
    "port no number": "host:port/repo",
    "port too long": "host.io:123456/repo",
    "no port": "host.io:/repo",
    "host with a dash first": "-host.io/repo",
    "host with an underscore": "ho_st.io/repo",
    "IPv6 without brackets": "::1/repo",
    "bracket open": "[::1/repo",
    "NUL": "repo\0",
    "escape": "repo\x1b[2J",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_an_invalid_reference_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_reference(text)
    assert raised.value.message.startswith(f"invalid reference {text!r}: ")
    assert "REGISTRY/REPOSITORY" in raised.value.hint
    assert raised.value.exit_code == USAGE


@given(st.text("aB0.:/@-_[]\n ", max_size=20))
def test_an_accepted_reference_is_written_as_it_was_typed(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert str(reference) in (text, f"{text}:latest")
    assert not {"\n", " ", "@"} & {*text}


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        (f"localhost:1/r@{DIGEST}", "localhost:1"),
        (f"repo@{DIGEST}", DOCKER_HUB),
        ("user/repo:t", DOCKER_HUB),
        ("host.io/a/b", "host.io"),
    ],
)
def test_the_registry_of_an_image_name_is_its_first_component_or_docker_hub(
    name: str, registry: str
) -> None:
    assert registry_of(name) == registry


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        (f"localhost:1/r@{DIGEST}", "localhost:1/r"),
        (f"localhost:1/r:t@{DIGEST}", "localhost:1/r"),
        ("localhost:1/r", "localhost:1/r"),
        ("user/repo:t", "user/repo"),
        ("repo:t", "repo"),
        ("repo", "repo"),
    ],
)
def test_the_repository_of_an_image_name_has_no_tag_and_no_digest(
    name: str, repository: str
) -> None:
    assert repository_of(name) == repository


IMAGES = {
    "a tag": ("h.io/r1:t", Reference("h.io/r1", "t"), "h.io/r1:t"),
    "a digest": (f"h.io/r1@{DIGEST}", Reference("h.io/r1", "latest", DIGEST), f"h.io/r1@{DIGEST}"),
    "both": (f"h.io/r1:t@{DIGEST}", Reference("h.io/r1", "t", DIGEST), f"h.io/r1@{DIGEST}"),
}


@pytest.mark.parametrize(("text", "expected", "shown"), IMAGES.values(), ids=IMAGES)
def test_a_reference_to_read_may_have_a_digest(text: str, expected: Reference, shown: str) -> None:
    assert parse_image_reference(text) == expected
    assert str(parse_image_reference(text)) == shown


@pytest.mark.parametrize("text", ["h.io/r1@sha256:abc", "h.io/r1@", f"R@{DIGEST}", f"@{DIGEST}"])
def test_an_invalid_digest_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_image_reference(text)
