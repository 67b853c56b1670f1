"""The Go programs that scripts/build-programs builds: their versions, and where they lie."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "KONTEXT_TEST_PROGRAMS"

# Found when this module is imported: later the tests give HOME another value.
FOLDER = Path(
    os.environ.get(VARIABLE)
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kontext-tests"
).absolute()
"""Each build has a directory in here, which its version names."""

_SOURCES = Path(__file__).with_name("programs")


@dataclass(frozen=True)
class Build:
    """A program that Go builds, and what belongs to it."""

    name: str
    version: str
    packages: tuple[str, ...] = ()  # to install at this version; (): the script knows the way

    @property
    def source(self) -> Path:
        """The module in this repository that it is built from, if it has one."""
        return _SOURCES / self.name

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.name}-{self.version}"

    @property
    def program(self) -> Path:
        return self.folder / self.name


def _built_here(name: str) -> Build:
    """Return a build whose version changes with its files: their own go.mod pins the rest."""
    found = hashlib.sha256()
    for path in sorted((_SOURCES / name).iterdir()):
        found.update(path.read_bytes())
    return Build(name, found.hexdigest()[:12])


DISTRIBUTION = Build(
    "registry", "v3.1.2", ("github.com/distribution/distribution/v3/cmd/registry",)
)
OCIREGISTRY = _built_here("ociregistry")
GITEA = Build("gitea", "v1.26.0", ("code.gitea.io/gitea",))
"""1.27 depends on modules of gitea.dev, which not every module proxy has."""

CONTAINERD = Build(
    "containerd",
    "v2.3.7",
    (
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    ),
)
CRICTL = Build("crictl", "v1.34.0", ("sigs.k8s.io/cri-tools/cmd/crictl",))
TEKTON = _built_here("tekton")
"""Tekton's controllers. Beside them are `entrypoint` and `workingdirinit`, for its pods."""
KNATIVE = _built_here("knative")
"""Knative Build's pods. Beside it are `creds-init` and `nop`, which run in them."""

ACTIONLINT = Build("actionlint", "v1.7.7", ("github.com/rhysd/actionlint/cmd/actionlint",))
"""Checks workflows of GitHub Actions, and the expressions in them."""

COSIGN = Build("cosign", "v3.1.3", ("github.com/sigstore/cosign/v3/cmd/cosign",))
"""Signs images and statements."""
ORAS = Build("oras", "v1.3.6", ("oras.land/oras/cmd/oras",))
"""Attaches files to an image. The benchmarks compare a push with one of its own."""

REGISTRIES = (DISTRIBUTION, OCIREGISTRY, GITEA)
CLUSTER = (CONTAINERD, CRICTL, TEKTON, KNATIVE)
BUILDS = (*REGISTRIES, *CLUSTER, ACTIONLINT, COSIGN, ORAS)
