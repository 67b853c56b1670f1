"""Which environment variables other programs get."""

from __future__ import annotations

import pytest

from kontext_plugin.runtime.environment import (
    crane_environment,
    git_environment,
    worker_environment,
)

NEEDED = {
    "crane": "DOCKER_CONFIG REGISTRY_AUTH_FILE XDG_RUNTIME_DIR HOME PATH SSL_CERT_FILE "
    "SSL_CERT_DIR HTTPS_PROXY https_proxy NO_PROXY no_proxy HTTP_PROXY http_proxy TMPDIR",
    "ecr-login": "AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN "
    "AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AWS_ECR_CACHE_DIR",
    "gcloud": "CLOUDSDK_CONFIG CLOUDSDK_PYTHON GOOGLE_APPLICATION_CREDENTIALS GCE_METADATA_HOST",
    "acr-env": "AZURE_CLIENT_ID AZURE_CLIENT_SECRET AZURE_TENANT_ID AZURE_FEDERATED_TOKEN_FILE "
    "IDENTITY_ENDPOINT IDENTITY_HEADER MSI_ENDPOINT",
    "pass": "PASSWORD_STORE_DIR GNUPGHOME GPG_TTY",
    "secretservice": "DBUS_SESSION_BUS_ADDRESS DISPLAY WAYLAND_DISPLAY XAUTHORITY",
    "osxkeychain": "HOME USER SECURITYSESSIONID",
    "ghcr-login": "GITHUB_TOKEN GH_TOKEN",
    "desktop.exe": "WSL_INTEROP WSLENV WSL_DISTRO_NAME",
}
OTHERS = "DATABASE_URL NPM_TOKEN STRIPE_KEY VAULT_TOKEN MY_HOME PATHS KONTEXT_ENV HOMES A_DOCKER_X"


@pytest.mark.parametrize("names", NEEDED.values(), ids=NEEDED)
def test_helpers_get_what_they_need(names: str) -> None:
    environment = dict.fromkeys(names.split(), "value\nof two lines")
    assert crane_environment(environment) == environment


def test_no_program_gets_other_variables() -> None:
    environment = dict.fromkeys(OTHERS.split(), "secret")
    assert crane_environment(environment) == {}
    assert git_environment(environment) == {}
    assert worker_environment(environment) == {}


def test_git_gets_no_variable_that_names_another_repository() -> None:
    names = "GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_SSH_COMMAND GIT_CONFIG"
    assert git_environment(dict.fromkeys(names.split(), "x")) == {}


def test_git_gets_the_configuration_that_the_environment_has() -> None:
    names = "GIT_CONFIG_COUNT GIT_CONFIG_KEY_0 GIT_CONFIG_VALUE_0 GIT_CONFIG_KEY_12"
    environment = dict.fromkeys([*names.split(), "GIT_CONFIG_PARAMETERS"], "x")
    assert git_environment(environment) == environment


def test_kontext_env_adds_names_for_helpers() -> None:
    environment = dict.fromkeys(OTHERS.split(), "x") | {"KONTEXT_ENV": "VAULT_*, NPM_TOKEN,,P.THS"}
    assert crane_environment(environment) == {"VAULT_TOKEN": "x", "NPM_TOKEN": "x"}


def test_workers_get_no_credentials() -> None:
    names = " ".join(NEEDED.values()).split()
    assert worker_environment(dict.fromkeys(names, "x")).keys() == {"PATH", "TMPDIR"}
