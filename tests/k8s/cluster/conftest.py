"""A control plane as a fixture, on the lab's network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.k8s.cluster.build import kubernetes
from tests.k8s.cluster.control_plane import ControlPlane
from tests.k8s.tools import require
from tests.lab.cache import FetchError
from tests.lab.fetch_containerd import NEWEST, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.lab import Lab


@pytest.fixture(scope="session")
def kubernetes_programs() -> Iterator[Path]:
    """The programs of Kubernetes, and on PATH a containerd that its kubelet accepts; built when they are not there."""
    require(etcd="apt-get install etcd-server", kubectl="apt-get install kubernetes-client", go="Go, https://go.dev/dl")
    try:
        programs, containerd = kubernetes(), fetch(NEWEST)
    except FetchError as error:
        pytest.fail(str(error), pytrace=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(containerd), prepend=os.pathsep)
        yield programs


@pytest.fixture
async def control_plane(lab: Lab, kubernetes_programs: Path, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """A running API server at the address of the lab's machine."""
    async with ControlPlane(tmp_path / "control-plane", lab.gateway, kubernetes_programs) as plane:
        yield plane
