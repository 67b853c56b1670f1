"""`docker kontext ls`: the files of an image."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import edits
from support.services import Docker, Registry
from support.trees import File, Link, Tree, on_disk, plant

Crane = Callable[..., bytes]

TREE = edits.BEFORE


def listed(tree: Tree) -> list[dict[str, Any]]:
    """What `ls --format json` must say of a tree."""
    items = []
    for path, node in sorted(tree.items()):
        item = {"path": path, "kind": type(node).__name__.lower()}
        item |= dict.fromkeys(("size", "executable", "target", "digest"))
        if isinstance(node, File):
            digest = hashlib.sha256(node.content).hexdigest()
            item |= {"size": len(node.content), "executable": node.executable}
            item |= {"digest": f"sha256:{digest}"}
        elif isinstance(node, Link):
            item |= {"target": node.target}
        items.append(item)
    return items


def test_ls_lists_what_was_pushed(docker: Docker, registry: Registry, source: Path) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    edits.edit(source)
    image = docker.push(tag, source).image
    tree = on_disk(source)
    for name in (tag, image):
        said = docker("kontext", "ls", "-R", "--format", "json", name)
        assert said.json == listed(tree)
        said.assert_printable()
    said = docker("kontext", "ls", tag)
    said.assert_printable()
    assert (said.code, said.stderr) == (0, "")
    shown = ["\\x1b[2J\\x1b[31mred\\nD everything", "README", "ballast", "new/", "run.sh", "src/"]
    assert said.stdout.splitlines() == shown
    top = {path: node for path, node in tree.items() if "/" not in path}
    assert docker("kontext", "ls", tag, "--format=json").json == listed(top)
    said = docker("kontext", "ls", "-lR", tag)
    said.assert_printable()
    assert said.stdout == (
        "lrwxrwxrwx     - \\x1b[2J\\x1b[31mred\\nD everything -> README\n"
        "-rw-r--r--    12 README\n"
        "-rw-r--r-- 20000 ballast\n"
        "drwxr-xr-x     - new/\n"
        "-rw-r--r--     3 new/file\n"
        "-rw-r--r--    10 run.sh\n"
        "drwxr-xr-x     - src/\n"
        "lrwxrwxrwx     - src/link.c -> elsewhere\n"
        "-rw-r--r--    29 src/main.c\n"
    )
    assert docker("kontext", "ls", "-l", tag, "new/").stdout == "-rw-r--r-- 3 new/file\n"
    assert docker("kontext", "ls", tag, "README", "--format=json").json == listed(
        {"README": tree["README"]}
    )


def test_ls_of_a_missing_path_or_image_is_an_error(
    docker: Docker, registry: Registry, source: Path
) -> None:
    tag = registry.repository() + ":v1"
    docker.push(tag, source)
    said = docker("kontext", "ls", tag, "no\x1b[2J/such")
    assert (said.code, said.stdout) == (1, "")
    assert f"'no\\x1b[2J/such' is not in {tag}" in said.stderr
    said.assert_printable()
    said = docker("kontext", "ls", tag, "src/mian.c")
    assert said.stderr == (f"ERROR: 'src/mian.c' is not in {tag}\nDid you mean 'src/main.c'?\n")
    said = docker("kontext", "ls", registry.repository())
    assert (said.code, said.stdout) == (1, "")
    assert "was not found" in said.stderr
    assert docker("kontext", "ls").code == 125
    assert docker("kontext", "ls", tag + "@sha256:beef").code == 125


def test_ls_ends_quietly_if_its_reader_does(
    docker: Docker, registry: Registry, root: Path, tmp_path: Path
) -> None:
    plant(tmp_path / "many", {f"{name:050}": File(b"") for name in range(4000)})
    tag = registry.repository()
    docker.push(tag, tmp_path / "many")
    process = subprocess.Popen(
        [root / "kontext_plugin" / "docker-kontext", "kontext", "ls", tag],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().endswith(b"0000\n")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141  # what a shell has for SIGPIPE, as after git and ls
    pipeline = f"set -o pipefail; docker kontext ls {tag} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", pipeline],
        env=os.environ | {"DOCKER_CONFIG": str(docker.config)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, f"{0:050}\n", "")
