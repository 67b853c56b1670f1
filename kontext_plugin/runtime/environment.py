"""Which environment variables other programs get: crane, credential helpers, git, and workers.

A shell, and even more a CI job, holds the secrets of other programs. So only the variables that are
listed here are passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MORE = "KONTEXT_ENV"
"""The variable with more names for crane and its helpers, separated by commas, like `VAULT_*`."""

_BASIC = (
    # Where programs, libraries and temporary files are; the language and encoding of text.
    *("PATH", "LD_LIBRARY_PATH", "DYLD_*", "TMPDIR", "LANG", "LANGUAGE", "LC_*", "TZ"),
)

_CRANE = (
    *_BASIC,
    # The user: many helpers have files in the home directory; `pass` and keychains ask for a name.
    *("HOME", "USER", "LOGNAME", "SHELL", "TERM", "XDG_*"),
    # crane: docker's and podman's configuration, certificates, proxies, Go's own switches.
    *("DOCKER_*", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG", "GOMAXPROCS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    # ecr-login: keys, profiles, roles, web identities, those of the container and the instance.
    "AWS_*",
    # gcloud, gcr: the application's credentials, gcloud's configuration, its Python, and the
    # metadata server. acr-env, acr-login: service principals, workload and managed identities.
    *("GOOGLE_*", "CLOUDSDK_*", "GCLOUD_*", "GCE_METADATA_*"),
    *("AZURE_*", "ACR_*", "IDENTITY_*", "MSI_*"),
    # ghcr-login, and helpers that read a registry's credentials from the Kubernetes cluster.
    *("GITHUB_TOKEN", "GH_TOKEN", "KUBECONFIG", "KUBERNETES_*"),
    # pass: its store, gpg with its agent, and the program that asks for the passphrase.
    *("PASSWORD_STORE_*", "GNUPGHOME", "GPG_*", "PINENTRY_*"),
    # secretservice and similar ones: the desktop session. osxkeychain: the login session.
    *("DBUS_*", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "SECURITYSESSIONID"),
    # desktop.exe calls from WSL into Windows; editors' containers call the host.
    *("WSL*", "REMOTE_CONTAINERS*", "VSCODE_*"),
)

_GIT = (
    *("PATH", "HOME", "XDG_CONFIG_HOME"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
    *("GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM"),
    # What `git -c` and CI systems set in place of a file, such as safe.directory.
    *("GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_*", "GIT_CONFIG_VALUE_*", "GIT_CONFIG_PARAMETERS"),
    "SUDO_UID",  # git trusts the repositories of the user who called sudo
)
"""Not GIT_DIR and similar ones, which a push from a git hook would inherit: Kontext asks for the
repository of the pushed directory."""


def crane_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for crane and the credential helpers that it starts."""
    more = [name.strip() for name in environment.get(MORE, "").split(",")]
    return _select(environment, [*_CRANE, *more])


def git_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a git that is asked about a work tree."""
    return _select(environment, _GIT)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for Kontext's own worker processes, which need no credentials."""
    return _select(environment, _BASIC)


def _select(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    patterns = (re.escape(name).replace(r"\*", ".*") for name in names if name)
    selected = re.compile("|".join(patterns), re.DOTALL)
    return {name: value for name, value in environment.items() if selected.fullmatch(name)}
