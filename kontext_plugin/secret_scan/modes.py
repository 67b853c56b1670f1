"""The values of --secrets. Not in `policy`, whose imports would slow down every --help."""

from __future__ import annotations

from enum import Enum


class SecretMode(Enum):
    """What a push does about the secrets that it would publish."""

    AUTO = "auto"  # block live secrets, and warn about the others
    WARN = "warn"  # warn about all
    BLOCK = "block"  # block all
    OFF = "off"  # look for none
