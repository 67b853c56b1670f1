"""Fixtures: a node with containerd, and the fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.conftest import (
    busybox,
    crane,
    crane_path,
    docker,
    publish,
    registry,
    source,
    toolbox,
)
from support.kubelet import Kubelet
from support.node import Node
from support.services import Registry

__all__ = [
    "busybox",
    "crane",
    "crane_path",
    "docker",
    "publish",
    "registry",
    "source",
    "toolbox",
]


@pytest.fixture(scope="session")
def node(
    registry: Registry,
    publish: Callable[..., str],
    busybox: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:
    pause = publish({"bin/sleep": busybox}, "--entrypoint", "/bin/sleep,infinity")
    with Node(tmp_path_factory.mktemp("node"), registry.host, pause) as running:
        yield running


@pytest.fixture
def kubelet(node: Node, tmp_path: Path) -> Kubelet:
    return Kubelet(node, tmp_path / "kubelet")
