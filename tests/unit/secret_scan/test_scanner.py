"""What is found in files, and what is not: each format, each name, wherever it lies."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokens import BASE32, BASE64, DOUBTFUL, LIVE, pem, some

from kontext_plugin.secret_scan.rules import FORMATS, LONGEST, MARKS, is_suspicious
from kontext_plugin.secret_scan.scanner import Finding, Scanner, search_little, search_much

Search = Callable[[bytes], object]


def found(content: bytes, cut: int = 1 << 22, path: str = "file") -> list[Finding]:
    """What a watch finds in a file; that the content passes as it is."""
    pieces = [content[start : start + cut] for start in range(0, len(content), cut)]
    watch = Scanner(0)
    assert b"".join(watch.passing(path, pieces)) == content
    return watch.found


def test_every_format_has_an_example() -> None:
    assert {rule.name for rule in FORMATS if rule.live} == {*LIVE}
    assert {rule.name for rule in FORMATS if not rule.live} == {*DOUBTFUL}


@pytest.mark.parametrize("rule", [*LIVE, *DOUBTFUL])
@pytest.mark.parametrize("around", ["{}", "x = '{}'\n", 'a: "{}",\n', "\n\n{} # why\n"])
def test_a_secret_is_found(rule: str, around: str) -> None:
    text = {**LIVE, **DOUBTFUL}[rule]
    hits = found(around.format(text).encode())
    assert rule in {hit.rule for hit in hits}
    hit = next(hit for hit in hits if hit.rule == rule)
    assert hit.live is (rule in LIVE)
    assert text not in repr(hit)


@pytest.mark.parametrize("escape", [r"\n", r"\t", r"\u0022", "%20", "%3d"])
def test_a_secret_is_found_behind_an_escape(escape: str) -> None:
    (hit,) = found(f'{{"log": "token:{escape}{LIVE["GitHub token"]}"}}'.encode())
    assert hit.rule == "GitHub token"


@pytest.mark.parametrize("rule", [*LIVE, *DOUBTFUL])
def test_it_is_found_wherever_a_piece_ends(rule: str) -> None:
    content = b"\n" * LONGEST + {**LIVE, **DOUBTFUL}[rule].encode() + b"\n" * LONGEST
    whole = found(content)
    assert whole
    for cut in (97, 1000, LONGEST, LONGEST + 1, 2 * LONGEST):
        assert found(content, cut) == whole


HARMLESS = {
    "an example of AWS": "AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "nothing but x": "gh" + "p_" + "x" * 36,
    "too few characters": "gh" + "p_" + "ab" * 18,
    "too short": "gh" + "p_" + some(20),
    "a test key": "sk" + "_test_" + some(24),
    "in the midst of a word": "a" + LIVE["GitHub token"],
    "a public key": "-----BEGIN PUBLIC KEY-----\n" + some(64) + "\n-----END PUBLIC KEY-----",
    "the name of a private key": 'raise ValueError("no -----BEGIN RSA PRIVATE KEY----- here")',
    "a certificate behind an empty key": (
        "-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\n" + some(64)
    ),
    "a digest": hashlib.sha256(b"x").hexdigest(),
    "a function of npm": "npm_config_registry_and_some_more_letters_of_it",
}


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_no_secret(text: str) -> None:
    assert not found(text.encode())


def test_an_access_key_needs_its_secret_near_it() -> None:
    key = DOUBTFUL["AWS access key ID"].encode()
    digest = hashlib.sha1(b"x").hexdigest().encode()
    assert [hit.live for hit in found(key + b" " + digest)] == [False]
    assert [hit.live for hit in found(key + b"\n" * 1000 + some(40).encode())] == [False]
    assert [hit.live for hit in found(some(40).encode() + b"\n" + key)] == [True]


ASSIGNED = {
    "a dotenv file": "AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n",
    "with quotes": "export AWS_ACCESS_KEY_ID='{key}'\nexport AWS_SECRET_ACCESS_KEY='{secret}'\n",
    "awscli's file": "[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n",
    "that without spaces": "[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n",
    "YAML": "accessKeyId: {key}\nsecretAccessKey: {secret}\n",
    "JSON": '{{"AccessKeyId":"{key}","SecretAccessKey":"{secret}"}}',
}


@pytest.mark.parametrize("text", ASSIGNED.values(), ids=ASSIGNED)
def test_an_access_key_is_found_however_its_secret_is_assigned(text: str) -> None:
    key, secret = "AK" + "IA" + some(16, BASE32), some(40, BASE64)
    assert [hit.live for hit in found(text.format(key=key, secret=secret).encode())] == [True]


def test_a_finding_says_where() -> None:
    token = LIVE["GitHub token"]
    (hit,) = found(f"one\ntwo\n  {token}\n".encode())
    fingerprint = "sha256:" + hashlib.sha256(token.encode()).hexdigest()
    assert hit == Finding("file", 3, "GitHub token", True, fingerprint)


@given(
    pieces=st.lists(
        st.sampled_from([*MARKS, b"\n", b"x", b"-", *(mark[:-1] for mark in MARKS)]), max_size=40
    )
)
def test_both_searches_find_the_same(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert sorted(search_little(data)) == sorted(search_much(data))


@pytest.mark.parametrize("mark", MARKS, ids=[mark.decode() for mark in MARKS])
def test_no_text_takes_long(mark: bytes) -> None:
    """Marks without end, and each followed by what keeps the pattern going."""
    begun = time.process_time()
    for filling in (b"", b" ", b"\n", b"A", b"a", b"0", b"-", b"-----", b".eyJ", b"/"):
        found((mark + filling) * (100_000 // len(mark + filling)))
        found((b" " + mark + filling * 50) * 500)
    assert time.process_time() - begun < 5


SUSPICIOUS = [
    *(".env", "a/.env", ".env.local", ".env.production", "id_rsa", ".ssh/id_ed25519"),
    *("server.key", "a/b.pem", "x.p12", "x.pfx", "x.jks", ".npmrc", ".netrc", "_netrc", ".pypirc"),
    *("kubeconfig", "home/.kube/config", ".aws/credentials", ".config/gcloud/a/b.json"),
    *("service-account-prod.json", ".docker/config.json", ".git-credentials", ".htpasswd"),
    *("terraform.tfstate", "a/terraform.tfstate.backup"),
]
PLAIN = [
    *(".env.example", ".env.sample", ".env.template", ".environment", "env", "a.env.py"),
    *("id_rsa.pub", "keys.py", "key", "pem", "config.json", "docker/config.json", "config"),
    *("credentials", "aws/credentials.py", "service.json", "npmrc", ".npmrc.md", "x.keys"),
]


@pytest.mark.parametrize("path", SUSPICIOUS)
def test_a_suspicious_name(path: str) -> None:
    assert is_suspicious(path)


@pytest.mark.parametrize("path", PLAIN)
def test_a_plain_name(path: str) -> None:
    assert not is_suspicious(path)


@pytest.mark.parametrize("size", [0, 1 << 30], ids=["little", "much"])
def test_several_files(size: int) -> None:
    watch = Scanner(size)
    token = LIVE["GitHub token"].encode()
    contents = {
        "harmless": b"harmless\n" * 2000,
        "a/b.py": b"\n" + token,
        "test.key": pem().encode(),
        ".env": b"A=b",
        "a/.env": b"",
        "b/.env": token,
    }
    for path, content in contents.items():
        assert b"".join(watch.passing(path, [content] if content else [])) == content
    assert [(hit.path, hit.line, hit.rule) for hit in watch.found] == [
        ("a/b.py", 2, "GitHub token"),
        ("test.key", 1, "private key"),
        (".env", 0, ""),
        ("a/.env", 0, ""),
        ("b/.env", 1, "GitHub token"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_that_say_what_they_are(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("-be") else ""
    content = f"{mark}a: é\r\nTOKEN={LIVE['GitHub token']}\r\n".encode(encoding)
    for whole in (content, content + b"\0\xd8\xff"):
        for cut in (3, 1 << 20):
            assert [(hit.line, hit.rule) for hit in found(whole, cut)] == [(2, "GitHub token")]
