"""What must not leave the machine, and what the registry keeps of what did."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import content_of_layers, writes
from support.services import PASSWORD, Docker, Registry
from support.tokens import LIVE, pem, some
from support.trees import PROGRAM, File, Tree

from kontext_plugin.registry.base_image import shipped_base

Crane = Callable[..., bytes]

TOKEN = LIVE["GitHub token"]
TREE: Tree = PROGRAM | {
    "nothing": File(b""),
}


def leak(source: Path) -> None:
    (source / "settings.py").write_text(f"\n\nTOKEN = '{TOKEN}'\n")


def test_a_token_blocks_the_push(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    leak(source)
    registry.requests()
    pushed = docker.push(tag, source)
    assert (pushed.code, pushed.stdout) == (1, "")
    assert "'settings.py', line 3: GitHub token" in pushed.stderr
    assert TOKEN[:12] not in pushed.stderr
    assert writes(registry.requests()) == []

    (line,) = [row.strip() for row in pushed.stderr.splitlines() if row.startswith("  sha256:")]
    (source / ".kontextallow").write_text(f"# revoked\n{line}\n")
    assert docker.push(tag, source).image


@pytest.mark.parametrize("own", ["", ".dockerignore", ".kontextignore"])
def test_the_hint_names_the_ignore_file_in_use(
    docker: Docker, registry: Registry, source: Path, own: str
) -> None:
    """Beside a new .kontextignore nothing of a .dockerignore would count any more."""
    leak(source)
    (source / ".env").touch()
    if own:
        (source / own).write_text("other\n")
    pushed = docker.push(registry.repository(), source)
    assert pushed.code == 1
    assert f"Exclude them with {own or '.kontextignore'}, or" in pushed.stderr
    assert f"exclude the files with {own or '.kontextignore'}. " in pushed.stderr


def test_a_later_push_leaves_the_tag_as_it_was(
    docker: Docker, registry: Registry, crane: Crane, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    first = docker.push(tag, source)
    leak(source)
    assert docker.push(tag, source).code == 1
    assert first.image.endswith(crane("digest", tag).decode().strip())
    assert docker.push(tag, source, "--secrets", "off").image


def test_doubtful_secrets_are_a_warning(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    (source / "test.pem").write_text(pem())
    (source / ".env").write_text("A=b\n")
    blocked = docker.push(tag, source, "--secrets", "block")
    assert blocked.code == 1
    pushed = docker.push(tag, source, "-q")
    assert pushed.image
    assert "'test.pem', line 1: private key" in pushed.stderr
    assert "'.env'" in pushed.stderr
    (source / "README").write_text("edited\n")
    assert "secret" not in docker.push(tag, source).stderr, "unchanged files are left alone"
    lines = blocked.stderr.splitlines()
    allowed = lines[
        lines.index("To publish them anyway, add these lines to .kontextallow in the directory:") :
    ]
    (source / ".kontextallow").write_text("\n".join(line.strip() for line in allowed[1:]))
    assert docker.push(tag, source, "--secrets", "block", "--fresh").image


def test_a_dry_run_lists_secrets(docker: Docker, registry: Registry, source: Path) -> None:
    leak(source)
    run = docker.push(registry.repository(), source, "--dry-run")
    assert run.code == 0
    assert "would block the push" in run.stderr
    assert "'settings.py', line 3: GitHub token" in run.stderr


def test_ten_secrets_are_listed_with_escaped_names(
    docker: Docker, registry: Registry, source: Path
) -> None:
    for number in range(13):
        (source / f"a\x1b[31m\n{number}").write_text("gh" + "p_" + some(36, seed=number))
    pushed = docker.push(registry.repository(), source)
    assert "13 secrets" in pushed.stderr
    assert pushed.stderr.count(": GitHub token") == 10
    assert "and 3 more" in pushed.stderr
    assert "\x1b" not in pushed.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [("[\n", ".kontextallow:1: malformed"), (None, "cannot use the allow-list")],
)
def test_a_broken_allow_list_is_an_error(
    docker: Docker, registry: Registry, source: Path, content: str | None, message: str
) -> None:
    leak(source)
    if content is None:
        (source / ".kontextallow").mkdir()
    else:
        (source / ".kontextallow").write_text(content)
    pushed = docker.push(registry.repository(), source)
    assert pushed.code == 1
    assert message in pushed.stderr


@pytest.fixture
def watched(docker: Docker, crane_path: str, tmp_path: Path) -> Path:
    """Where each crane writes its arguments, its environment, and who may read the cache."""
    log, wrapper = tmp_path / "log", tmp_path / "crane-that-tells"
    cache = tmp_path / "cache"
    docker.environment["KONTEXT_CACHE_DIR"] = str(cache)
    wrapper.write_text(
        "#!/bin/sh\n"
        f"{{ printf '%s\\n' \"$@\"; env; }} >>'{log}'\n"
        f"find '{cache}' -printf 'mode %m %y %f\\n' >>'{log}'\n"
        f"exec '{crane_path}' \"$@\"\n"
    )
    wrapper.chmod(0o755)
    docker.environment["KONTEXT_CRANE"] = str(wrapper)
    return log


def test_credentials_reach_no_process_log_cache_or_layer(
    docker: Docker, registry: Registry, crane: Crane, source: Path, tmp_path: Path, watched: Path
) -> None:
    docker.environment["DATABASE_PASSWORD"] = "of-another-program"
    tag = registry.repository() + ":v1"
    said = ""
    for edit in ("one", "two"):
        (source / "README").write_text(edit)
        pushed = docker("-D", "kontext", "push", "-t", tag, "--timings", str(source))
        assert pushed.image
        said += pushed.stderr
    config = (docker.config / "config.json").read_text()
    encoded = config.rpartition('"auth": "')[2].partition('"')[0]
    log = watched.read_bytes()
    assert b"DOCKER_CONFIG=" in log
    cached = b"".join(
        file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file()
    )
    assert cached
    for secret in (PASSWORD, encoded, "of-another-program"):
        for place in (log, said.encode(), cached, content_of_layers(crane, tag)):
            assert secret.encode() not in place


def test_only_the_user_may_read_the_cache(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path, watched: Path
) -> None:
    """During a push, as each crane sees it, and afterwards."""
    assert docker.push(registry.repository(), source).image
    # A layout has a link to the extractor of the installation, which is no secret.
    extractor = shipped_base("linux/amd64").extractor.layer.digest.removeprefix("sha256:")
    lines = [line.split(" ", 3) for line in watched.read_text().splitlines()]
    modes = {(line[1], line[2]) for line in lines if line[0] == "mode" and line[3] != extractor}
    assert modes == {("700", "d"), ("600", "f")}
    for folder, _, files in os.walk(tmp_path / "cache"):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600


def test_a_credential_helper_gets_only_the_named_variables(
    docker: Docker, registry: Registry, source: Path, tmp_path: Path
) -> None:
    seen, folder = tmp_path / "seen", tmp_path / "bin"
    folder.mkdir()
    helper = folder / "docker-credential-test"
    answer = f'{{"ServerURL": "", "Username": "alice", "Secret": "{PASSWORD}"}}'
    helper.write_text(f"#!/bin/sh\nenv >'{seen}'\necho '{answer}'\n")
    helper.chmod(0o755)
    docker.configure({"credHelpers": {registry.host: "test"}})
    docker.environment |= {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "AWS_PROFILE": "p",
        "VAULT_ADDR": "v",
        "OTHER": "o",
        "KONTEXT_ENV": "VAULT_*",
    }
    assert docker.push(registry.repository(), source).image
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert {"PATH", "HOME", "AWS_PROFILE", "VAULT_ADDR"} <= names
    assert not {"OTHER", "KONTEXT_ENV"} & names
