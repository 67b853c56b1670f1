"""What others get of the environment: crane, the helpers that it starts, git, and workers.

A shell, and more so a CI job, is full of other programs' secrets: what is named here is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MORE = "KONTEXT_ENV"
"""More names for crane and its helpers, separated by commas; `VAULT_*` are all of a kind."""

_ANY = (
    # Where programs, their libraries and temporary files are; how text is written.
    *("PATH", "LD_LIBRARY_PATH", "DYLD_*", "TMPDIR", "LANG", "LANGUAGE", "LC_*", "TZ"),
)

_HELPERS = (
    *_ANY,
    # Who the user is: many helpers look below the home, `pass` and the keychain ask for the name.
    *("HOME", "USER", "LOGNAME", "SHELL", "TERM", "XDG_*"),
    # crane: docker's configuration and podman's, certificates, proxies, Go's own switches.
    *("DOCKER_*", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG", "GOMAXPROCS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    # ecr-login: keys, profiles, roles, web identities, the container's and the instance's.
    "AWS_*",
    # gcloud and gcr: the application's credentials, gcloud's configuration and its Python, and the
    # metadata server. acr-env, acr-login: service principals, workload and managed identities.
    *("GOOGLE_*", "CLOUDSDK_*", "GCLOUD_*", "GCE_METADATA_*"),
    *("AZURE_*", "ACR_*", "IDENTITY_*", "MSI_*"),
    # ghcr-login, and who reads a registry's credentials from the cluster.
    *("GITHUB_TOKEN", "GH_TOKEN", "KUBECONFIG", "KUBERNETES_*"),
    # pass: its store, gpg with its agent, and where that asks for the passphrase.
    *("PASSWORD_STORE_*", "GNUPGHOME", "GPG_*", "PINENTRY_*"),
    # secretservice and the like talk to the desktop; osxkeychain to the login session.
    *("DBUS_*", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "SECURITYSESSIONID"),
    # The ways out of WSL (desktop.exe) and of editors' containers.
    *("WSL*", "REMOTE_CONTAINERS*", "VSCODE_*"),
)

_GIT = (
    *("PATH", "HOME", "XDG_CONFIG_HOME"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
    *("GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM"),
    "SUDO_UID",  # git trusts the repositories of whoever called sudo
)
"""Not GIT_DIR and its like, which a hook's push would have: the directory's own repository is the
one that counts."""


def of_helpers(environment: Mapping[str, str]) -> dict[str, str]:
    """What crane and credential helpers get of this environment."""
    more = [name.strip() for name in environment.get(MORE, "").split(",")]
    return _only(environment, [*_HELPERS, *more])


def of_git(environment: Mapping[str, str]) -> dict[str, str]:
    """What git gets of this environment when it is asked about a work tree."""
    return _only(environment, _GIT)


def of_workers(environment: Mapping[str, str]) -> dict[str, str]:
    """What our own processes get: they ask for nothing."""
    return _only(environment, _ANY)


def _only(environment: Mapping[str, str], names: list[str] | tuple[str, ...]) -> dict[str, str]:
    patterns = (re.escape(name).replace(r"\*", ".*") for name in names if name)
    wanted = re.compile("|".join(patterns), re.DOTALL)
    return {name: value for name, value in environment.items() if wanted.fullmatch(name)}
