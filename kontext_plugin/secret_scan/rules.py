"""What a secret looks like: formats that are somebody's token, and names that promise one.

A format begins with letters that its issuer chose to be found by, so nothing is guessed from
entropy. The formats are the issuers' own; gitleaks and GitHub's secret scanning list the same ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    name: str
    marks: tuple[bytes, ...]  # every secret of this format begins with one of these
    pattern: re.Pattern[bytes]  # matched where a mark begins; it is the secret
    live: bool = True  # opens something as it is; otherwise it may well be harmless
    beside: re.Pattern[bytes] | None = None  # to be found near it, for it to count


_BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
"""No letter or digit before it, but what ends an escape: of JSON and most languages, of URLs."""


def _format(
    name: str, marks: str, rest: str, *, live: bool = True, beside: str | None = None
) -> Format:
    """`marks` are separated by spaces; what follows them is `rest`, bounded in length: there must
    be no text on which matching takes long."""
    either = "|".join(re.escape(mark) for mark in marks.split(" "))
    return Format(
        name,
        tuple(mark.encode() for mark in marks.split(" ")),
        re.compile(f"{_BEGIN}(?:{either}){rest}".encode()),
        live,
        re.compile(beside.encode()) if beside else None,
    )


_WORD = "[A-Za-z0-9]"

_URL64 = "[A-Za-z0-9_-]"

_END = "(?![A-Za-z0-9])"

# 40 characters of base64 that are no hexadecimal digest.
_AWS_SECRET = r"(?<![A-Za-z0-9+/])(?=[a-z0-9+/]{0,39}[A-Z])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=])"

FORMATS = (
    _format("AWS access key", "AKIA ASIA", f"[A-Z2-7]{{16}}{_END}", beside=_AWS_SECRET),
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
    # A certificate may follow where a private key ends, so there are no dashes before the base64.
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

BESIDE = 300
"""Bytes before and after a secret that are looked through for what belongs to it."""

LONGEST = 4096 + BESIDE
"""Bytes: no pattern needs more, with what lies behind the secret."""

_HARMLESS = re.compile(rb"(?i:example|xxxx|dummy|redacted|placeholder|12345678|abcdefgh)|0{8}")

_VARIETY = 10  # different bytes, at least: with fewer it is somebody's "aaaaaaaa"


def is_placeholder(secret: bytes) -> bool:
    """Whether somebody wrote it to be read."""
    return bool(_HARMLESS.search(secret)) or len(set(secret)) < _VARIETY


_NAMES = re.compile(
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


def is_suspicious(path: str) -> bool:
    """Whether a file of this name commonly holds secrets."""
    return _NAMES.search(path) is not None
