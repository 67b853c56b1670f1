"""What reads YAML as its tool does: the schemas that tools publish, and the types of a cluster."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.documents import parse_yaml
from support.program_builds import ACTIONLINT
from support.services import missing

_PROGRAMS = Path(__file__).parents[1] / "clusters"


def assert_schema(name: str, text: str, folder: Path) -> None:
    """Hold it to the schema that its makers publish, as check-jsonschema brings it."""
    file = folder / f"{name}.yaml"
    file.write_text(text)
    tool = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [tool, "--builtin-schema", f"vendor.{name}", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def assert_actionlint(text: str, folder: Path) -> None:
    """Hold a workflow of GitHub Actions, and the expressions in it, to actionlint."""
    if not ACTIONLINT.program.exists():
        missing("actionlint (scripts/build-programs)")
    file = folder / "linted.yaml"
    file.write_text(text)
    done = subprocess.run([ACTIONLINT.program, "-no-color", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@dataclass(frozen=True)
class Cluster:
    """Reads objects as the clusters of their kinds do. The programs for that are built here."""

    folder: Path

    def read(self, text: str) -> dict[str, Any]:
        """Return an object, parsed. Raises AssertionError if a cluster refuses it."""
        spec = parse_yaml(text)
        name = {"build.knative.dev": "knative", "argoproj.io": "argo"}.get(
            spec["apiVersion"].partition("/")[0], "kubernetes"
        )
        program = self.folder / name
        if not program.exists():
            _build(program)
        done = subprocess.run([program], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return spec


def _build(program: Path) -> None:
    go = shutil.which("go")
    if not go:
        missing("Go")
    done = subprocess.run(
        [go, "build", "-o", program, "."],
        cwd=_PROGRAMS / program.name,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
