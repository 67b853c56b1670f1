"""The labels that say which commit an image's sources are of. Pure.

Both keys are the OCI image specification's (annotations.md), and `-dirty` behind the commit is what
buildx, `git describe` and Go's tools write. These labels come and go with the work tree, so they
are not held to what the user's own labels are: they never make a push start afresh.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from kontext_plugin.tree import is_utf8

REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"
KEYS = frozenset({REVISION, SOURCE})

UNKNOWN = "unknown"
"""No layer can take a label away, nor may its value be empty; an old one would not be true."""

_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_DIRTY = "-dirty"

_WEB = ("http", "https", "git", "ftp", "ftps")
_SSH = ("ssh", "git+ssh", "ssh+git")
_SCP = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?![/\\]{2}|:)[^:@?#\\]+", re.ASCII)
_MOST = 2000  # characters of a URL


def labels_of(status: str, url: str, directory: str) -> dict[str, str]:
    """The labels of a directory, from what git says.

    `status` is that of `git status --porcelain=v2 --branch --ignored=matching -z -- DIRECTORY`,
    `directory` the path in the work tree, "" for the whole. None where git ignores all of it: what
    was built from a commit is not that commit's.
    """
    commit, dirty = "", False
    for line in status.split("\0"):
        if line.startswith("# branch.oid "):
            commit = line.rpartition(" ")[2]
        elif line.startswith("! "):
            if line.endswith("/") and f"{directory}/".startswith(line[2:]):
                return {}
        elif line and not line.startswith("# "):
            dirty = True
    labels = {}
    if _COMMIT.fullmatch(commit):  # else there is none yet
        labels[REVISION] = commit + (_DIRTY if dirty else "")
    if source := source_of(url):
        labels[SOURCE] = source
    return labels


def source_of(url: str) -> str:
    """A remote's URL as the world may read it, without secrets; "" for one of this machine's.

    The user of an ssh URL is part of the address, as `git@` is. Elsewhere it may be a token.
    """
    if len(url) > _MOST or not url.isprintable() or not is_utf8(url):
        return ""
    try:
        parts = urlsplit(url)
        host, port, user = parts.hostname, parts.port, parts.username
    except ValueError:
        return ""
    if "://" not in url:
        return url if _SCP.fullmatch(url) else ""
    if not host or parts.scheme not in _WEB + _SSH or "@" in parts.path:
        return ""
    where = f"[{host}]" if ":" in host else host
    if port:
        where += f":{port}"
    if user and parts.scheme in _SSH:
        where = f"{user}@{where}"
    return f"{parts.scheme}://{where}{parts.path}"


def labels_upon(
    former: Mapping[str, str], given: Mapping[str, str], found: Mapping[str, str]
) -> dict[str, str]:
    """Those of an image that is built on one with `former`: the user's go before git's."""
    return {**dict.fromkeys(KEYS & former.keys(), UNKNOWN), **found, **given}


def worth_publishing(
    former: Mapping[str, str], given: Mapping[str, str], found: Mapping[str, str]
) -> bool:
    """Whether an image is to be made for the labels' sake, its sources being there.

    A new commit of the same sources leaves the old one's name true, so it makes none; but what is
    pushed from a clean work tree shall name a commit.
    """
    if any(former.get(key) != value for key, value in given.items()):
        return True
    if REVISION in given:
        return False
    return names_commit(found) and not names_commit(former)


def names_commit(labels: Mapping[str, str]) -> bool:
    """Whether they are those of a clean work tree."""
    return bool(_COMMIT.fullmatch(labels.get(REVISION, "")))
