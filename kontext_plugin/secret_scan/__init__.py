"""The search for secrets in what a push writes into layers, before a layer is uploaded.

`rules` says what a secret looks like; `scanner` finds secrets in content that passes through it;
`policy` decides which of them block the push.

May import source, terminal, runtime and errors.
"""

from enum import Enum


class SecretMode(Enum):
    """What a push does about the secrets that it would publish."""

    AUTO = "auto"  # block live secrets, and warn about the others
    WARN = "warn"  # warn about all
    BLOCK = "block"  # block all
    OFF = "off"  # look for none
