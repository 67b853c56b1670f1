"""What a secret looks like: the formats of tokens, and the names of files that often hold secrets.

A format begins with a mark: letters that its issuer chose so that scanners find the token. Entropy
does not count. The formats are published by the issuers; gitleaks and GitHub's secret scanning have
the same ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format of secrets."""

    name: str
    marks: tuple[bytes, ...]  # each secret of this format begins with one of these
    pattern: re.Pattern[bytes]  # matches a secret where its mark begins
    live: bool = True  # gives access to something; otherwise it may be harmless
    companion: re.Pattern[bytes] | None = None  # without a match nearby it is no secret


_BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
"""No letter or digit comes before a secret, unless it ends an escape (JSON, languages, URLs)."""


def _format(
    name: str, marks: str, rest: str, *, live: bool = True, companion: str | None = None
) -> Format:
    """Return a format. Spaces separate the marks; `rest` is the pattern of what follows a mark.

    The length of `rest` must be limited, so that no text takes long to match.
    """
    either = "|".join(re.escape(mark) for mark in marks.split(" "))
    return Format(
        name,
        tuple(mark.encode() for mark in marks.split(" ")),
        re.compile(f"{_BEGIN}(?:{either}){rest}".encode()),
        live,
        re.compile(companion.encode()) if companion else None,
    )


_WORD = "[A-Za-z0-9]"

_URL64 = "[A-Za-z0-9_-]"

_END = "(?![A-Za-z0-9])"

# 40 characters of base64 that are not a hexadecimal digest.
_AWS_SECRET = r"(?<![A-Za-z0-9+/])(?=[a-z0-9+/]{0,39}[A-Z])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=])"

FORMATS = (
    _format("AWS access key", "AKIA ASIA", f"[A-Z2-7]{{16}}{_END}", companion=_AWS_SECRET),
    _format("AWS access key ID", "AKIA ASIA", f"[A-Z2-7]{{16}}{_END}", live=False),
    _format("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", f"{_WORD}{{36,255}}"),
    _format("GitHub token", "github_pat_", f"{_WORD}{{22}}_{_WORD}{{59}}"),
    _format("GitLab token", "glpat- gldt- glptt- glrt- glsoat-", f"{_URL64}{{20,300}}"),
    _format("Slack token", "xoxb- xoxp- xoxa- xoxr- xoxs-", "[A-Za-z0-9.-]{24,250}"),
    _format("Slack app token", "xapp-", f"[0-9]-{_WORD}{{5,20}}-[0-9]{{5,20}}-[a-f0-9]{{32,80}}"),
    _format(
        "Slack webhook",
        "hooks.slack.com/services/",
        f"T{_WORD}{{8,12}}/B{_WORD}{{8,12}}/{_WORD}{{20,30}}",
    ),
    _format("Stripe key", "sk_live_ rk_live_", f"{_WORD}{{20,250}}"),
    _format("npm token", "npm_", f"{_WORD}{{36}}{_END}"),
    _format("PyPI token", "pypi-AgE", f"{_URL64}{{50,1000}}"),
    _format("Docker Hub token", "dckr_pat_ dckr_oat_", f"{_URL64}{{27,64}}"),
    _format("Google API key", "AIza", f"{_URL64}{{35}}(?!{_URL64})"),
    _format("Google OAuth secret", "GOCSPX-", f"{_URL64}{{28}}(?!{_URL64})"),
    _format(
        "Google service account key",
        '"private_key"',
        r"\s{0,9}:\s{0,9}\"-----BEGIN PRIVATE KEY-----\\n[A-Za-z0-9+/]{60}",
    ),
    _format("Azure storage key", "AccountKey=", "[A-Za-z0-9+/]{86}=="),
    _format("SendGrid key", "SG.", f"{_URL64}{{22}}\\.{_URL64}{{43}}(?!{_URL64})"),
    _format("Anthropic key", "sk-ant-", f"(?:api|admin|oat)[0-9]{{2}}-{_URL64}{{80,200}}"),
    _format("OpenAI key", "sk-", f"{_URL64}{{20,110}}T3BlbkFJ{_URL64}{{20,100}}"),
    _format("Hugging Face token", "hf_", f"[A-Za-z]{{34}}{_END}"),
    _format("Vault token", "hvs. hvb.", f"{_URL64}{{90,300}}"),
    _format("DigitalOcean token", "dop_v1_ doo_v1_ dor_v1_", f"[a-f0-9]{{64}}{_END}"),
    _format("Shopify token", "shpat_ shpca_ shppa_ shpss_", f"[a-fA-F0-9]{{32}}{_END}"),
    # No dashes before the base64: a certificate may follow the end of a private key.
    _format(
        "private key",
        "PRIVATE",
        r" KEY(?: BLOCK)?-----(?:[^-]|-(?!-)){1,300}?[A-Za-z0-9+/]{60}",
        live=False,
    ),
    _format("PuTTY private key", "PuTTY-User-Key-File-", r"[0-9]: ", live=False),
    _format(
        "JSON web token",
        "eyJ",
        f"{_URL64}{{10,1000}}\\.eyJ{_URL64}{{10,2000}}\\.{_URL64}{{20,1000}}",
        live=False,
    ),
)

MARKS = tuple(sorted({mark for format in FORMATS for mark in format.marks}))

COMPANION_DISTANCE = 300
"""Bytes before and after a secret in which its companion may be."""

MAX_SECRET_BYTES = 4096 + COMPANION_DISTANCE
"""Bytes that decide whether a mark begins a secret. No pattern and companion need more."""

_HARMLESS = re.compile(rb"(?i:example|xxxx|dummy|redacted|placeholder|12345678|abcdefgh)|0{8}")

_MIN_VARIETY = 10  # different bytes: with fewer it is something like "aaaaaaaa"


def is_placeholder(secret: bytes) -> bool:
    """Whether a secret is only an example."""
    return bool(_HARMLESS.search(secret)) or len(set(secret)) < _MIN_VARIETY


_SUSPICIOUS_NAMES = re.compile(
    r"(?:\A|/)(?:"
    r"\.env(?!\.(?:example|sample|template|dist|defaults?)\Z)(?:\.[^/]*)?"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?"
    r"|[^/]*\.(?:pem|key|p12|pfx|jks|keystore|kdbx|ppk|tfstate|tfvars)"
    r"|terraform\.tfstate\.backup"
    r"|\.(?:npmrc|netrc|pypirc|pgpass|my\.cnf|git-credentials|htpasswd|dockercfg|vault-token)"
    r"|_netrc|kubeconfig|service-account[^/]*\.json"
    r"|\.kube/config|\.docker/config\.json|\.aws/credentials|\.cargo/credentials(?:\.toml)?"
    r"|\.config/(?:gcloud/(?:[^/]*/)*[^/]*|gh/hosts\.yml)"
    r")\Z"
)


def is_suspicious_name(path: str) -> bool:
    """Whether files of this name often hold secrets."""
    return _SUSPICIOUS_NAMES.search(path) is not None
