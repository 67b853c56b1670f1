"""Choose the credentials of a repository among docker's and podman's, and pass them to crane.

1. `load_sources` reads what docker and podman read, in the order in which they answer.
2. `choose_source`, the only decision, picks the source that answers for a repository.
3. `crane_credentials` makes crane use that source.

crane itself reads docker's config.json, or, if there is none, one file of podman's. It looks for a
repository's whole name and for its registry, and not for what lies between.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kontext_plugin.errors import KontextError, brief, reason_of
from kontext_plugin.image.reference import DOCKER_HUB, registry_of, repository_of
from kontext_plugin.runtime.docker_config import MAX_SIZE, config_path, home_directory
from kontext_plugin.runtime.files import read_file
from kontext_plugin.runtime.schema import parse_json

VARIABLE = "DOCKER_AUTH_CONFIG"
"""docker's variable (since 28.3) with a JSON document like config.json, of which `auths` counts."""

PODMAN_VARIABLE = "REGISTRY_AUTH_FILE"
"""podman's variable with the path of an auth.json (containers-auth.json(5))."""

HELPER_PREFIX = "docker-credential-"

_HUB_KEY = "https://index.docker.io/v1/"
"""The key of Docker Hub in docker's configuration."""

_HUB_HOSTS = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")


# --- The sources ---


@dataclass(frozen=True)
class Login:
    """An entry of `auths`: what is sent to a registry."""

    auth: str = field(default="", repr=False)  # base64 of USER:PASSWORD
    has_token: bool = False  # an identity token, which only a file can pass on

    def __bool__(self) -> bool:
        return bool(self.auth) or self.has_token

    @property
    def is_plain(self) -> bool:
        """Whether a user and a password are all of it."""
        return bool(self.auth) and not self.has_token


@dataclass(frozen=True)
class CredentialDocument:
    """A document with logins: docker's config.json, podman's auth.json, or DOCKER_AUTH_CONFIG."""

    name: str  # as in messages
    path: str = ""  # of its file; "" for the variable
    is_dockers: bool = False  # crane reads it too
    logins: Mapping[str, Login] = field(default_factory=dict)  # `auths`, by key
    helpers: Mapping[str, str] = field(default_factory=dict)  # `credHelpers`, by key
    store: str = ""  # `credsStore`, the helper for all registries


@dataclass(frozen=True)
class CredentialSource:
    """Where the credentials of a repository come from."""

    document: CredentialDocument
    helper: str = ""  # its name without docker-credential-
    setting: str = "auths"  # of the document: auths, credHelpers or credsStore
    key: str = ""  # of `auths`
    login: Login = Login()  # empty if there is a helper
    lacks_store: bool = False  # `credsStore` of the document is not installed

    @property
    def is_skipped(self) -> bool:
        """Whether it is a store for all registries that is not installed.

        Then nothing has logged in to this registry, and docker asks it without credentials, too.
        """
        return self.lacks_store and self.setting == "credsStore" and not self.key

    @property
    def is_found_by_crane(self) -> bool:
        """Whether crane finds it by itself, whatever else there is."""
        if self.lacks_store and not self.key:  # crane asks the store first, for the whole name
            return False
        return self.document.is_dockers and (
            bool(self.helper)
            or self.login.has_token
            or self.key == registry_key(_canonical(self.key).partition("/")[0])
        )

    def __str__(self) -> str:
        document = self.document
        if self.helper:
            return f"{HELPER_PREFIX}{self.helper} ({self.setting} in {document.name})"
        return f"auths in {document.name}" if document.is_dockers else document.name


def load_sources(environment: Mapping[str, str]) -> tuple[CredentialDocument, ...]:
    """Return the documents that exist, the one that answers first in front.

    1. DOCKER_AUTH_CONFIG, as docker does since 28.3
    2. docker's config.json
    3. the file that REGISTRY_AUTH_FILE names
    4. podman's auth.json: of the session, then of the user

    Raises KontextError for a document that cannot be read.
    """
    documents: list[CredentialDocument | None] = []
    if variable := environment.get(VARIABLE, "").strip():
        documents.append(_variable_document(variable))
    if path := config_path():
        documents.append(_file_document(path, path, is_dockers=True))
    if path := environment.get(PODMAN_VARIABLE, ""):
        documents.append(_file_document(path, f"{path} ({PODMAN_VARIABLE})"))
    for path in _podman_paths(environment):
        documents.append(_file_document(path, f"podman's {path}"))
    return tuple(document for document in documents if document)


def _podman_paths(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield where podman keeps auth.json (containers-auth.json(5))."""
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield os.path.join(runtime, "containers/auth.json")
    elif sys.platform == "linux":
        yield f"/run/containers/{os.getuid()}/auth.json"
    home = home_directory()
    config = environment.get("XDG_CONFIG_HOME")
    if config:
        yield os.path.join(config, "containers/auth.json")
    elif home:
        yield os.path.join(home, ".config/containers/auth.json")


def _variable_document(text: str) -> CredentialDocument:
    try:
        document = parse_json(text.encode("utf-8", "surrogateescape"))
        return CredentialDocument(VARIABLE, logins=_logins(document))
    except ValueError as error:
        raise KontextError(
            f"{VARIABLE} cannot be read: {_without_content(error)}",
            hint='It must hold JSON: {"auths": {"HOST": {"auth": "base64 of USER:PASSWORD"}}}. '
            "Correct it, or unset it.",
        ) from None


def _file_document(path: str, name: str, *, is_dockers: bool = False) -> CredentialDocument | None:
    try:
        document = parse_json(read_file(path, MAX_SIZE))
        return CredentialDocument(
            name,
            os.path.abspath(path),
            is_dockers,
            _logins(document),
            {key: _text(helper, "credHelpers") for key, helper in _items(document, "credHelpers")},
            _text(document.get("credsStore") or "", "credsStore"),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError) and name.startswith("podman's "):
            return None  # a file of root's is nothing that this user has logged in with
        kind = "docker's configuration " if is_dockers else ""
        reason = _without_content(error) if isinstance(error, ValueError) else reason_of(error)
        raise KontextError(
            f"{kind}{name} cannot be read: {reason}",
            hint="It must be valid JSON. Correct the file, or move it away.",
        ) from None


def _without_content(error: ValueError) -> str:
    """Return what is wrong with a document. A decoder quotes bytes, which may be a secret."""
    return "it is not UTF-8" if isinstance(error.__cause__, UnicodeDecodeError) else str(error)


def _logins(document: Mapping[str, object]) -> dict[str, Login]:
    return {key: _login(entry, key) for key, entry in _items(document, "auths")}


def _login(entry: object, key: str) -> Login:
    if not isinstance(entry, dict):
        raise ValueError(f"auths/{brief(key)} is no JSON object")
    auth = entry.get("auth") or ""
    if not auth and entry.get("username"):
        user, password = (_text(entry.get(name) or "", name) for name in ("username", "password"))
        auth = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    has_token = any(entry.get(name) for name in ("identitytoken", "registrytoken"))
    return Login(_text(auth, f"auths/{brief(key)}/auth"), has_token)


def _items(document: Mapping[str, object], section: str) -> Iterable[tuple[str, object]]:
    value = document.get(section)
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise ValueError(f"{section} is no JSON object")
    return value.items()


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place} is no text")
    return value


# --- The choice ---


def choose_source(
    documents: Sequence[CredentialDocument], repository: str
) -> CredentialSource | None:
    """Return the source that answers for `HOST/PATH`, or for a `HOST` alone; None without one.

    The first document that names the repository, a namespace above it, or the host answers. Within
    a document the longest of these names does. If none names it, the first credential store does.
    """
    for document in documents:
        helper = document.helpers.get(registry_key(_canonical(repository).partition("/")[0]))
        if helper:
            return CredentialSource(document, helper, "credHelpers")
        for key in _keys(document, repository):
            if document.store:  # docker login leaves an empty entry
                return CredentialSource(document, document.store, "credsStore", key)
            if login := document.logins[key]:
                return CredentialSource(document, key=key, login=login)
    for document in documents:
        if document.store:
            return CredentialSource(document, document.store, "credsStore")
    return None


def _keys(document: CredentialDocument, repository: str) -> list[str]:
    """Return the keys of `auths` that name the repository, the longest name first."""
    wanted = _canonical(repository)
    names = {key: _canonical(key) for key in document.logins}
    keys = [key for key, name in names.items() if name and f"{wanted}/".startswith(f"{name}/")]
    if document.is_dockers:  # docker ignores the path in a key like https://HOST/api/
        host = wanted.partition("/")[0]
        keys += [key for key, name in names.items() if name.partition("/")[0] == host]
    return sorted(dict.fromkeys(keys), key=lambda key: (key not in keys, -len(names[key])))


def _canonical(key: str) -> str:
    """Return the `HOST[/PATH]` that a key, a registry or a repository stands for."""
    name = key.partition("://")[2] if "://" in key else key
    name = name.rstrip("/")
    for version in ("/v1", "/v2"):
        name = name.removesuffix(version)
    host, slash, path = name.partition("/")
    return (DOCKER_HUB if host in _HUB_HOSTS else host) + slash + path


def credential_source(name: str) -> CredentialSource | None:
    """Return where this machine's credentials for `HOST/PATH`, or for a `HOST`, come from.

    Nothing is asked for, so a helper may turn out to have none. Raises KontextError.
    """
    return choose_source(load_sources(os.environ), name)


def helpers_of(sources: Mapping[str, CredentialSource]) -> tuple[str, ...]:
    """Return the programs that are asked for credentials, without duplicates."""
    programs = (
        HELPER_PREFIX + source.helper
        for source in sources.values()
        if source.helper and not source.is_skipped
    )
    return tuple(dict.fromkeys(programs))


def full_name(image: str) -> str:
    """Return the `HOST/PATH` of an image's repository."""
    repository, registry = repository_of(image), registry_of(image)
    path = repository.removeprefix(f"{registry}/")
    if registry in _HUB_HOSTS and "/" not in path:
        path = f"library/{path}"
    return f"{registry}/{path}"


def registry_key(registry: str) -> str:
    """Return the key of a registry in docker's configuration and in credential helpers."""
    return _HUB_KEY if registry in _HUB_HOSTS else registry


def known_registries() -> list[str]:
    """Return the hosts that have credentials, sorted. For completion: no error stops it."""
    try:
        documents = load_sources(os.environ)
    except KontextError:
        return []
    keys = {key for document in documents for key in (*document.logins, *document.helpers)}
    return sorted({_canonical(key).partition("/")[0] for key in keys} - {""})


# --- What crane gets ---


@contextlib.contextmanager
def crane_credentials(
    environment: Mapping[str, str], names: Iterable[str], *, by_registry: bool = False
) -> Iterator[tuple[dict[str, str], Mapping[str, CredentialSource]]]:
    """Yield the environment for a crane that works with these `HOST/PATH` or `HOST`.

    Also yields the source of each name that has one.

    What crane finds in docker's config.json is left to it. Other logins go into the variable that
    crane looks into first, under the repository's whole name: no secret is written to a file. Only
    for another credential helper or an identity token crane gets a configuration of its own.
    `by_registry` is for a verb that is given only the registries of the names.

    Raises KontextError.
    """
    passed = {**environment, PODMAN_VARIABLE: os.devnull}  # without it crane takes nothing at all
    passed.pop(VARIABLE, None)
    documents = load_sources(os.environ) if names else ()
    by_name = {
        name: _with_store(source, environment)
        for name in names
        if (source := choose_source(documents, name))
    }
    if all(source.is_found_by_crane for source in by_name.values()):
        yield passed, by_name
        return
    sources = {
        _crane_key(name.partition("/")[0] if by_registry else name): source
        for name, source in by_name.items()
        if not source.is_skipped
    }
    logins = {key: source.login for key, source in sources.items() if source.login.is_plain}
    auths = {key: {"auth": login.auth} for key, login in logins.items()}
    passed[VARIABLE] = json.dumps({"auths": auths})
    others = {key: source for key, source in sources.items() if key not in logins}
    if not others and all(not source.lacks_store for source in by_name.values()):
        yield passed, by_name
        return
    with tempfile.TemporaryDirectory(prefix="kontext-docker-config-") as directory:
        _write_config(os.path.join(directory, "config.json"), others)
        yield passed | {"DOCKER_CONFIG": directory}, by_name


def _with_store(source: CredentialSource, environment: Mapping[str, str]) -> CredentialSource:
    """Return a source that knows whether its document's store is installed.

    A config.json of Docker Desktop's often comes to machines that lack its store.
    """
    store = source.document.store
    path = environment.get("PATH")
    return replace(
        source, lacks_store=bool(store) and shutil.which(HELPER_PREFIX + store, path=path) is None
    )


def _write_config(path: str, sources: Mapping[str, CredentialSource]) -> None:
    """Write a config.json with credential helpers, or a link to a file with an identity token."""
    helpers = {
        registry_key(_canonical(key).partition("/")[0]): source.helper
        for key, source in sources.items()
        if source.helper
    }
    files = {source.document.path for source in sources.values() if not source.helper}
    if len(files) + bool(helpers) > 1:
        names = " and ".join(sorted(map(str, sources.values())))
        raise KontextError(
            f"crane cannot use the credentials of {names} at the same time",
            hint="Run 'docker login' for one of the registries.",
        )
    for file in files:
        os.symlink(file, path)
    if helpers:
        with open(path, "x", encoding="ascii") as config:
            json.dump({"credHelpers": helpers}, config)


def _crane_key(name: str) -> str:
    """Return the key that crane looks for first."""
    host, slash, path = name.partition("/")
    if not slash:
        return registry_key(host)
    return f"{'index.docker.io' if host in _HUB_HOSTS else host}/{path}"
