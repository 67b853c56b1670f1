"""What a secret looks like: every format, what is no secret, and suspicious names."""

from __future__ import annotations

import hashlib
import sys
import time

import pytest
from support.tokens import BASE32, BASE64, DOUBTFUL, LIVE, some

from kontext_plugin.secret_scan.rules import (
    COMPANION_DISTANCE,
    FORMATS,
    MARKS,
    MAX_SECRET_BYTES,
    Format,
    is_placeholder,
    is_suspicious_name,
)
from kontext_plugin.secret_scan.scanner import Finding, Scanner

if sys.version_info >= (3, 11):
    from re import _parser as sre_parser
else:
    import sre_parse as sre_parser


def find(content: bytes) -> list[Finding]:
    scanner = Scanner(0)
    scanner.begin("file")
    scanner.add(content)
    scanner.end()
    return scanner.findings


def test_every_format_has_an_example() -> None:
    assert {rule.name for rule in FORMATS if rule.live} == {*LIVE}
    assert {rule.name for rule in FORMATS if not rule.live} == {*DOUBTFUL}


def test_every_secret_begins_with_a_mark() -> None:
    assert {mark for rule in FORMATS for mark in rule.marks} == {*MARKS}
    assert all(len(mark) >= 3 for mark in MARKS)


@pytest.mark.parametrize("rule", [*LIVE, *DOUBTFUL])
@pytest.mark.parametrize("around", ["{}", "x = '{}'\n", 'a: "{}",\n', "\n\n{} # why\n"])
def test_a_secret_is_found(rule: str, around: str) -> None:
    text = {**LIVE, **DOUBTFUL}[rule]
    findings = find(around.format(text).encode())
    assert rule in {finding.rule for finding in findings}
    finding = next(finding for finding in findings if finding.rule == rule)
    assert finding.live is (rule in LIVE)


@pytest.mark.parametrize("escape", [r"\n", r"\t", r"\u0022", "%20", "%3d"])
def test_a_secret_is_found_behind_an_escape(escape: str) -> None:
    (finding,) = find(f'{{"log": "token:{escape}{LIVE["GitHub token"]}"}}'.encode())
    assert finding.rule == "GitHub token"


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
def test_a_harmless_text_is_no_secret(text: str) -> None:
    assert not find(text.encode())


PLACEHOLDERS = [
    b"EXAMPLE",
    b"a-dummy-key",
    b"xxxx",
    b"<redacted>",
    b"12345678",
    b"0" * 8,
    b"abab" * 9,
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_an_example_is_a_placeholder(text: bytes) -> None:
    assert is_placeholder(text)


def test_random_characters_are_no_placeholder() -> None:
    assert not is_placeholder(some(40).encode())


def test_an_access_key_is_live_only_near_its_secret() -> None:
    key = DOUBTFUL["AWS access key ID"].encode()
    secret, digest = some(40).encode(), hashlib.sha1(b"x").hexdigest().encode()
    assert [finding.live for finding in find(key + b" " + digest)] == [False]
    assert [finding.live for finding in find(secret + b"\n" + key)] == [True]
    near, far = COMPANION_DISTANCE - len(secret), COMPANION_DISTANCE + 1
    assert [finding.live for finding in find(key + b"\n" * near + secret)] == [True]
    assert [finding.live for finding in find(key + b"\n" * far + secret)] == [False]


ASSIGNED = {
    "a dotenv file": "AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n",
    "with quotes": "export AWS_ACCESS_KEY_ID='{key}'\nexport AWS_SECRET_ACCESS_KEY='{secret}'\n",
    "awscli's file": "[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n",
    "that without spaces": "[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n",
    "YAML": "accessKeyId: {key}\nsecretAccessKey: {secret}\n",
    "JSON": '{{"AccessKeyId":"{key}","SecretAccessKey":"{secret}"}}',
}


@pytest.mark.parametrize("text", ASSIGNED.values(), ids=ASSIGNED)
def test_an_access_key_is_live_however_its_secret_is_assigned(text: str) -> None:
    key, secret = "AK" + "IA" + some(16, BASE32), some(40, BASE64)
    findings = find(text.format(key=key, secret=secret).encode())
    assert [finding.live for finding in findings] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("mark", MARKS, ids=[mark.decode() for mark in MARKS])
def test_no_text_takes_long_to_match(mark: bytes) -> None:
    """Endless marks, and marks that text follows which keeps the pattern going."""
    start = time.process_time()
    for filling in (b"", b" ", b"\n", b"A", b"a", b"0", b"-", b"-----", b".eyJ", b"/"):
        find((mark + filling) * (100_000 // len(mark + filling)))
        find((b" " + mark + filling * 50) * 500)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("rule", FORMATS, ids=lambda rule: rule.name)
def test_no_pattern_matches_more_bytes_than_the_scanner_keeps(rule: Format) -> None:
    _, longest = sre_parser.parse(rule.pattern.pattern).getwidth()
    assert longest <= MAX_SECRET_BYTES - COMPANION_DISTANCE


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
def test_a_name_that_often_holds_secrets_is_suspicious(path: str) -> None:
    assert is_suspicious_name(path)


@pytest.mark.parametrize("path", PLAIN)
def test_an_ordinary_name_is_not_suspicious(path: str) -> None:
    assert not is_suspicious_name(path)
