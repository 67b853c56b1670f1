"""Made-up secrets, put together when they are needed: no scanner takes this file for a leak."""

from __future__ import annotations

import random
import string

WORD = string.ascii_letters + string.digits
URL64 = WORD + "-_"
HEX = "0123456789abcdef"
BASE64 = WORD + "+/"
BASE32 = string.ascii_uppercase + "234567"


def some(count: int, of: str = WORD, seed: int = 7) -> str:
    """Random characters, the same in each run, with all kinds among the first."""
    chosen = random.Random(f"{seed} {count}")
    return "".join(chosen.choice(of) for _ in range(count))


def pem(kind: str = "RSA ") -> str:
    body = "\n".join(some(64, BASE64, seed) for seed in range(6))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----\n"


LIVE = {
    "AWS access key": f"id = {'AK' + 'IA' + some(16, BASE32)}\nsecret = {some(40, BASE64)}\n",
    "GitHub token": "gh" + "p_" + some(36),
    "GitLab token": "gl" + "pat-" + some(20, URL64),
    "Slack token": "xo" + "xb-" + some(12, "9417382605") + "-" + some(30),
    "Slack app token": "xa"
    + "pp-1-"
    + some(11)
    + "-"
    + some(13, "9417382605")
    + "-"
    + some(64, HEX),
    "Slack webhook": "https://hooks.sla" + f"ck.com/services/T{some(9)}/B{some(9)}/{some(24)}",
    "Stripe key": "sk" + "_live_" + some(24),
    "npm token": "//registry.npmjs.org/:_authToken=np" + "m_" + some(36),
    "PyPI token": "py" + "pi-AgE" + some(120, URL64),
    "Docker Hub token": "dckr" + "_pat_" + some(27, URL64),
    "Google API key": "AI" + "za" + some(35, URL64),
    "Google OAuth secret": "GOC" + "SPX-" + some(28, URL64),
    "Google service account key": '{"private_' + f'key": "{pem("")}"}}'.replace("\n", "\\n"),
    "Azure storage key": "Account" + "Key=" + some(86, BASE64) + "==",
    "SendGrid key": "S" + "G." + some(22, URL64) + "." + some(43, URL64),
    "Anthropic key": "sk-" + "ant-api03-" + some(95, URL64),
    "OpenAI key": "sk-" + "proj-" + some(60, URL64) + "T3Blbk" + "FJ" + some(60, URL64),
    "Hugging Face token": "h" + "f_" + some(34, string.ascii_letters),
    "Vault token": "hv" + "s." + some(95, URL64),
    "DigitalOcean token": "dop" + "_v1_" + some(64, HEX),
    "Shopify token": "shp" + "at_" + some(32, HEX),
}
"""A text with one secret of each format that opens something as it is."""

DOUBTFUL = {
    "AWS access key ID": "id = AK" + "IA" + some(16, BASE32),
    "private key": pem(),
    "PuTTY private key": "PuTTY-User-" + "Key-File-3: ssh-ed25519\n",
    "JSON web token": "e" + f"yJ{some(30, URL64)}.e" + f"yJ{some(60, URL64)}.{some(43, URL64)}",
}
"""The same of those that may be harmless."""


MESSAGES_WITH_SECRETS = {
    "userinfo": ("Get https://user:S3CRET@host.io/v2/: boom", "host.io/v2/: boom"),
    "user alone": ("Get https://S3CRET@host.io/v2/", "host.io/v2/"),
    "query": ("GET https://s3/blob?X-Amz-Signature=S3CRET&token=S3CRET: 500", "https://s3/blob?"),
    "encoded query": ("GET https://s3/b?sig=S3%43RET%2BS3CRET boom", "boom"),
    "query in quotes": ('Get "https://s3/b?sig=S3CRET": boom', '": boom'),
    "basic": ("Authorization: Basic dXNlcjpS3CRET== sent", "sent"),
    "bearer": ("authorization: bearer eyJ.S3CRET.x-y_z sent", "sent"),
    "upper case": ("BEARER S3CRET sent", "sent"),
    "other scheme": ("Authorization: Token S3CRET sent", "sent"),
    "header in Go": ("map[Accept:[a] Authorization:[Basic S3CRET==] Host:[b]]", "Host:[b]]"),
    "header in JSON": ('{"Authorization": ["Negotiate S3CRET"], "Host": "b"}', '"Host": "b"}'),
    "header in a string": (r'"{\"Authorization\":\"S3CRET\",\"a\":1}"', r"\"a\":1}"),
    "docker's auth": ('{"auths":{"h":{"auth": "S3CRET=="}}}', '{"auths":{"h":{"auth": "'),
    "identity token": ('{"identitytoken":"S3CRET","h":1}', '"h":1}'),
    "token answer": ('{"token": "S3.S3", "access_token":"S3.S3", "x": 1}', '"x": 1}'),
    "cut off": ('{"auth":"S3CR', '{"auth":"'),
    "helper's answer": ('{"Username":"a","Secret":"S3CRET"}', '"Username":"a"'),
    "name": ("pull S3:S3@host.io:5000/r:t@sha256:00", "host.io:5000/r:t@sha256:00"),
    "query behind a path": ("/blob?a=1?b=S3&c=S3&AWSAccessKeyId=S3 gone", " gone"),
    "two": ("https://a:S3CRET@x/ and https://b:S3CRET@y/", " and "),
}
