"""The registries that scripts/build-registries builds: their versions, and where they lie."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "KONTEXT_TEST_REGISTRIES"

# Found when this module is imported: later the tests give HOME another value.
FOLDER = Path(
    os.environ.get(VARIABLE)
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kontext-tests"
).absolute()
"""Each registry has a directory in here, which its version names."""

OCIREGISTRY_SOURCE = Path(__file__).with_name("registries") / "ociregistry"


@dataclass(frozen=True)
class Build:
    """A program that Go builds."""

    name: str
    version: str
    package: str = ""  # to install at this version; "": the script knows the way

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.name}-{self.version}"

    @property
    def program(self) -> Path:
        return self.folder / self.name


def _version_of(source: Path) -> str:
    """Return a version that changes with the files: their own go.mod pins the rest."""
    found = hashlib.sha256()
    for path in sorted(source.iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


DISTRIBUTION = Build("registry", "v3.1.2", "github.com/distribution/distribution/v3/cmd/registry")
OCIREGISTRY = Build("ociregistry", _version_of(OCIREGISTRY_SOURCE))
GITEA = Build("gitea", "v1.26.0", "code.gitea.io/gitea")
"""1.27 depends on modules of gitea.dev, which not every module proxy has."""

BUILDS = (DISTRIBUTION, OCIREGISTRY, GITEA)
