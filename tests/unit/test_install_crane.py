"""scripts/install-crane: the crane of a checkout, from PATH, from the release or from Go."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from support.mirror import archive_of, regular, sends, serve_mirror

from kontext_plugin.crane_driver.release import release_for
from kontext_plugin.errors import KontextError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install-crane"

FROM_PATH = "#!/bin/sh\n# from PATH\necho v0.21.9\n"
FROM_GO = "#!/bin/sh\n# from Go\necho v0.21.10\n"
OLD = "#!/bin/sh\n# old\necho v0.21.8\n"


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def install(tmp_path: Path, mirror: str = "http://127.0.0.1:1") -> tuple[int, str]:
    """Run the script with a PATH of its own; return the exit code and the messages."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "a folder/bin"],
        cwd=tmp_path,
        env=os.environ | {"PATH": str(tmp_path / "bin"), "KONTEXT_CRANE_RELEASES": mirror},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


def content(tmp_path: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (tmp_path / "a folder/bin").iterdir()}


def fake_go(tmp_path: Path, makes: str) -> None:
    note = f'echo "$* cgo=$CGO_ENABLED os=$GOOS" >> "{tmp_path}/go-calls"'
    build = f"cat > \"$GOBIN/crane\" <<'END'\n{makes}END"
    program(tmp_path / "bin/go", f"#!/bin/sh\n{note}\nPATH=/bin:/usr/bin\n{build}\n")


def test_a_crane_on_path_is_copied_once(tmp_path: Path) -> None:
    program(tmp_path / "bin/crane", FROM_PATH)
    assert install(tmp_path) == (0, "")
    (tmp_path / "bin/crane").unlink()
    assert content(tmp_path) == {"crane": FROM_PATH}
    assert install(tmp_path) == (0, "")
    assert not (tmp_path / "go-calls").exists()


UNUSABLE = {
    "old": (OLD, "crane v0.21.8 is too old"),
    "unknown version": ("#!/bin/sh\necho '(devel)'\n", "the version of crane is unknown"),
    "no program": ("#!/no/such/program\n", "cannot be run"),
}


@pytest.mark.parametrize(("text", "message"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("place", ["bin/crane", "a folder/bin/crane"], ids=["PATH", "folder"])
def test_go_builds_crane_if_there_is_no_other(
    text: str, message: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / place, text)
    fake_go(tmp_path, FROM_GO)
    monkeypatch.setenv("GOOS", "plan9")
    code, messages = install(tmp_path)
    assert code == 0
    assert message in messages
    assert content(tmp_path) == {"crane": FROM_GO}
    assert (tmp_path / "go-calls").read_text() == (
        "install github.com/google/go-containerregistry/cmd/crane@v0.21.9 cgo=0 os=\n"
    )


def test_a_release_with_another_digest_is_not_used(tmp_path: Path) -> None:
    try:
        path = release_for(platform.system(), platform.machine(), "http://m").url[len("http://m") :]
    except KontextError:
        pytest.skip("no release is pinned for this machine")
    fake_go(tmp_path, FROM_GO)
    with serve_mirror() as mirror:
        mirror.answers[path] = sends(archive_of(regular("crane", b"#!/bin/sh\necho v0.21.9\n")))
        code, messages = install(tmp_path, mirror.url)
    assert (code, mirror.requests) == (0, [(path, None)])
    assert "is not the pinned release of crane" in messages
    assert content(tmp_path) == {"crane": FROM_GO}


@pytest.mark.parametrize("go", [None, OLD], ids=["no Go", "old"])
def test_no_way(go: str | None, tmp_path: Path) -> None:
    if go:
        fake_go(tmp_path, go)
    code, messages = install(tmp_path)
    assert code == 1
    assert "No crane could be installed. Put crane v0.21.9 or later on PATH" in messages
    assert content(tmp_path) == {}
